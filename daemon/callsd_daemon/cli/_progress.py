# SPDX-License-Identifier: Apache-2.0
"""Live views: bars on a terminal, a line for each change elsewhere, JSON lines for programs.

All of them write to stderr, except JSON lines: what a command yields goes to stdout.
"""

import time
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

from callsd.v1.job_pb2 import Job, JobState
from callsd.v1.model_pb2 import PullModelResponse
from callsd_daemon.cli._job_text import is_live, progress, reason, recording_health, waiting
from callsd_daemon.cli._output import STATE_STYLES, as_dict, json_line, size, span, times, word


# Off a terminal a running job is reported this often.
LINE_INTERVAL_SECONDS = 10.0


class _Display:
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


class TransferDisplay(_Display):
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


class PullDisplay(_Display):
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


class JobDisplay(_Display):
    """Jobs on their way: a bar for each that runs, a line for each change of state."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[part]:>5}"),
            TextColumn("{task.fields[detail]}", style="dim"),
        )
        self._as_json = as_json
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}
        self._said_at: dict[str, float] = {}

    def update(self, job: Job) -> None:
        """Take note of a job as it is now."""
        if self._as_json:
            click.echo(json_line({"job_changed": as_dict(job)}))
            return
        state = word(JobState.Name(job.state), prefix="JOB_STATE_")
        label = job.name.removeprefix("jobs/")
        now = time.monotonic()
        if state != self._states.get(job.name):
            self._states[job.name] = state
            self._said_at[job.name] = now
            self.say(f"{label}  {state}{_why(job)}", style=STATE_STYLES.get(state, ""))
        elif not self.is_live and now - self._said_at[job.name] > LINE_INTERVAL_SECONDS:
            self._said_at[job.name] = now
            self.say(f"{label}  {progress(job)} {_detail(job)}")
        if self.is_live:
            self._show_bar(job, label, is_running=state in {"starting", "running", "stopping"})

    def remove(self, name: str) -> None:
        """A job has gone."""
        if self._as_json:
            click.echo(json_line({"job_deleted": name}))
            return
        self._drop_bar(name)
        self.say(f"{name.removeprefix('jobs/')}  deleted", style="dim")

    def interrupted(self, message: str, retry_seconds: float) -> None:
        """The connection broke and will be taken up again."""
        if not self._as_json:
            self.say(f"connection lost, trying again in {retry_seconds:.1f} s: {message}")

    def _show_bar(self, job: Job, label: str, *, is_running: bool) -> None:
        if not is_running:
            self._drop_bar(job.name)
            return
        if job.name not in self._tasks:
            # Live work has no end that is known: its bar only moves.
            total = None if is_live(job) else 1.0
            self._tasks[job.name] = self.bars.add_task(label, total=total, part="", detail="")
        self.bars.update(
            self._tasks[job.name],
            completed=job.progress.fraction,
            part=progress(job),
            detail=_detail(job),
        )

    def _drop_bar(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            self.bars.remove_task(task)


def _detail(job: Job) -> str:
    """What a running job does, how far and how fast it is."""
    now = job.progress
    parts = [now.phase]
    if now.total.ToNanoseconds():
        done = span(now.processed.ToNanoseconds() / 1e9)
        parts.append(f"{done} of {span(now.total.ToNanoseconds() / 1e9)}")
    if now.HasField("recording"):
        parts += recording_health(now.recording)
    if now.real_time_factor:
        parts.append(times(now.real_time_factor))
    return ", ".join(part for part in parts if part)


def _why(job: Job) -> str:
    """What belongs beside the state: what it waits for, or why it failed."""
    if waits := waiting(job):
        return f" ({waits})"
    if job.HasField("failure"):
        return f" ({reason(job.failure.reason)}: {job.failure.message})"
    return ""
