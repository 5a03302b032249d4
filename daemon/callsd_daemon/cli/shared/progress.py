# SPDX-License-Identifier: Apache-2.0
"""Live views: bars on a terminal, a line for each change elsewhere, JSON lines for programs.

All of them write to stderr, except JSON lines: what a command yields goes to stdout.
"""

from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from callsd.v1.model_pb2 import PullModelResponse
from callsd_daemon.cli.shared.output import as_dict, json_line, size


class Display:
    """Bars if stderr is a terminal; a context manager."""

    def __init__(
        self, *columns: TextColumn | BarColumn | DownloadColumn | TransferSpeedColumn
    ) -> None:
        console = Console(stderr=True, highlight=False)
        self.bars = Progress(*columns, console=console, transient=True)
        self.is_live = console.is_terminal

    def __enter__(self) -> Self:
        if self.is_live:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_live:
            self.bars.stop()

    def say(self, line: str, *, style: str = "") -> None:
        """A line that stays, above the bars."""
        if self.is_live:
            self.bars.console.print(Text(line, style=style))
        else:
            click.echo(line, err=True)


class TransferDisplay(Display):
    """Bytes on their way, one bar a file."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, label: str, done_bytes: int, total_bytes: int) -> None:
        """Take note of progress."""
        if not self.is_live:
            return
        if label not in self._tasks:
            self._tasks[label] = self.bars.add_task(label, total=total_bytes)
        self.bars.update(self._tasks[label], completed=done_bytes, total=total_bytes)


class PullDisplay(Display):
    """A model on its way."""

    def __init__(self, name: str, *, as_json: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        )
        self._name = name
        self._as_json = as_json
        self._task: TaskID | None = None
        self._said = ""

    def update(self, response: PullModelResponse) -> None:
        """Take note of progress."""
        if self._as_json:
            if not response.HasField("model"):
                click.echo(json_line(as_dict(response)))
            return
        text = f"{self._name}, {response.phase}: {response.message}".removesuffix(": ")
        if self.is_live:
            total = response.total_bytes or None
            if self._task is None:
                self._task = self.bars.add_task(text, total=total)
            self.bars.update(
                self._task, description=text, completed=response.done_bytes, total=total
            )
        elif text != self._said:
            self._said = text
            whole = f" ({size(response.total_bytes)})" if response.total_bytes else ""
            self.say(text + whole)
