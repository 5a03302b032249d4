# SPDX-License-Identifier: Apache-2.0
"""Captions as they come: a picture on a terminal, lines elsewhere, JSON lines for programs."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from callsd.v1.caption_pb2 import Caption, WatchCaptionsResponse
from callsd_daemon.cli.captions.state import CaptionState, line, notice, prefix, stamp
from callsd_daemon.cli.shared.output import as_dict, json_line, printable, times


COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "white")
"""Of the speakers, in the order in which they appear."""

REFRESHES_PER_SECOND = 8
MAX_INTERIM_LINES = 8
"""More people do not talk at once, and the finals above must stay in sight."""

# Lag that a viewer notices, and lag that hurts.
NOTICED_SECONDS = 2.0
HURTING_SECONDS = 4.0

QUIET_SECONDS = 8.0
"""The server sends something every 5 s: after this the connection is probably broken."""

# Off a terminal the state is told this often.
LINE_INTERVAL_SECONDS = 10.0

Status = Callable[[], str]
"""More to say in the status line."""


def _no_status() -> str:
    return ""


class CaptionView:
    """Shows captions; a context manager.

    On a terminal finals scroll up, and below them are what is being said and one line of figures.
    Elsewhere there are finals only, one a line. stdout holds captions and nothing else.
    """

    def __init__(
        self, *, as_json: bool, is_quiet: bool = False, status: Status = _no_status
    ) -> None:
        self.state = CaptionState()
        self.lags_seconds: list[float] = []
        """One for each final caption."""
        self._as_json = as_json
        self._is_quiet = is_quiet
        self._status = status
        self._console = Console(highlight=False, stderr=is_quiet)
        self._is_live = self._console.is_terminal and not as_json
        self._heard_at = self._told_at = time.monotonic()
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_live:
            self._live.stop()

    def show(self, response: WatchCaptionsResponse) -> None:
        """Take note of a message."""
        self._heard_at = time.monotonic()
        self.state.learn(response)
        caption = response.caption
        if caption.is_final:
            self.lags_seconds.append(self.state.lag_seconds)
        if self._as_json:
            click.echo(json_line(as_dict(response)))
        elif caption.is_final and not self._is_quiet:
            self._print(caption)
        elif response.HasField("event") and (text := notice(response.event, self.state)):
            self.say(text, style="yellow")

    def tell(self) -> None:
        """Tell the state, off a terminal, if it was not told lately."""
        now = time.monotonic()
        text = self._status()
        if text and not self._is_live and now - self._told_at > LINE_INTERVAL_SECONDS:
            self._told_at = now
            click.echo(text, err=True)

    def say(self, text: str, *, style: str = "") -> None:
        """A line that stays."""
        if self._is_live:
            self._console.print(Text(text, style=style))
        else:
            click.echo(text, err=True)

    def _print(self, caption: Caption) -> None:
        if not self._is_live:
            click.echo(line(caption, self.state))
            return
        # Two columns, so that long captions do not run under the names.
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(no_wrap=True, max_width=self._console.width // 3)
        row.add_column(overflow="fold")
        row.add_row(
            Text(prefix(caption, self.state), style=f"bold {self._colour(caption.speaker)}"),
            Text(printable(caption.text)),
        )
        self._console.print(row)

    def _picture(self) -> Group:
        width = self._console.width
        interims = [] if self._is_quiet else list(self.state.interims.values())
        lines = [self._interim(one, width) for one in interims[-MAX_INTERIM_LINES:]]
        return Group(*lines, self._figures(width))

    def _interim(self, caption: Caption, width: int) -> Text:
        name = f"{self.state.name(caption.speaker)}: "
        text = tail(printable(caption.text) or "…", width - cell_len(name) - 1)
        return Text.assemble(
            (name, f"dim {self._colour(caption.speaker)}"), (text, "dim italic"), no_wrap=True
        )

    def _figures(self, width: int) -> Text:
        state = self.state
        lag = state.lag_seconds
        colour = "green"
        if lag >= NOTICED_SECONDS:
            colour = "yellow" if lag < HURTING_SECONDS else "red"
        parts = [
            (self._status(), "dim"),
            (f"captioned to {stamp(state.processed_seconds)}", "dim"),
            (f"lag {lag:.1f} s", colour),
            (f"{times(state.real_time_factor)} real time" if state.real_time_factor else "", "dim"),
            (state.degraded, "yellow"),
        ]
        if (silent := time.monotonic() - self._heard_at) > QUIET_SECONDS:
            parts.append((f"no answer for {silent:.0f} s", "red"))
        figures = Text("  ", no_wrap=True, overflow="ellipsis")
        for text, style in parts:
            if text:
                figures.append(" · " if len(figures) > 2 else "", "dim")  # noqa: PLR2004 - indented
                figures.append(text, style)
        figures.truncate(width, overflow="ellipsis")
        return figures

    def _colour(self, speaker: str) -> str:
        return COLOURS[self.state.index(speaker) % len(COLOURS)]


def tail(text: str, width: int) -> str:
    """The end of a text that fits in a line, from a word on."""
    if cell_len(text) <= width:
        return text
    words = text.split(" ")
    while len(words) > 1 and cell_len(" ".join(words)) + 1 > width:
        words.pop(0)
    return "…" + " ".join(words)
