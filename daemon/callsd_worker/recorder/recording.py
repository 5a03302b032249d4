# SPDX-License-Identifier: Apache-2.0
"""Records one page into pieces, whatever crashes on the way.

When display, sound server, browser or page are lost, all of them are started again; so is the
encoder. The same happens when an error is shown in the page's place. Each time a new piece begins.
The pieces are joined at the end, elsewhere.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from callsd_worker.recorder.encoder import Encoder
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.health import Health, Tally
from callsd_worker.recorder.pieces import find_pieces, keep, next_piece
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource, pause_until_stopped


log = logging.getLogger(__name__)

CHECK_SECONDS = 0.2
"""How often all processes are checked: a crash is noticed within this time."""

REPORT_SECONDS = 1.0
"""How often the page is asked whether it is over, and the piece is synced to the disk."""

SHORT_PIECE_SECONDS = 10.0
MAX_SHORT_PIECES = 5
"""After so many short pieces in a row the recording is given up. Before that, the page is shown
again after a pause that is twice as long each time."""


class End(StrEnum):
    """Why a recording has ended."""

    STOPPED = "stopped"
    OVER = "over"
    DISK_LOW = "disk_low"
    PAGE_LOST = "page_lost"
    CAPTURE_LOST = "capture_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a recording has ended, with a message for people."""

    end: End
    message: str = ""
    unreachable_seconds: float = 0.0
    """How long the page reached nobody."""

    @property
    def is_cut_short(self) -> bool:
        """Whether it ended before anybody wanted it to."""
        return self.end not in (End.STOPPED, End.OVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is reported of a recording."""

    phase: str
    health: Health | None = None
    segment: int = 0
    disk_free_bytes: int = 0


class Recorder:
    """Records one page into pieces below `directory`."""

    def __init__(
        self,
        page: Page,
        quality: Quality,
        directory: Path,
        *,
        min_free_bytes: int,
        max_seconds: float,
        report: Callable[[Status], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Prepare; nothing is started before `run`.

        The recording ends after `max_seconds`, counted from the start of its first piece, and when
        less than `min_free_bytes` are left on the disk.
        """
        self._page = page
        self._quality = quality
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._max_seconds = max_seconds
        self._report = report
        self._should_stop = should_stop
        self._tally = Tally()
        self._short_pieces = 0
        self._unreachable_seconds = 0.0

    def run(self) -> Ending:
        """Record until there is a reason to end.

        Raises RecordingError when nothing could be recorded at all.
        """
        return replace(self._run(), unreachable_seconds=self._unreachable_seconds)

    def _run(self) -> Ending:
        while True:
            try:
                pause_until_stopped(self._pause_seconds(), self._should_stop)
                ending = self._show_and_record()
            except RecordingError as problem:
                if not find_pieces(self._directory):
                    raise
                if problem.reason is Reason.CANCELLED:
                    return Ending(end=End.STOPPED)
                return Ending(end=End.PAGE_LOST, message=problem.message)
            if ending is not None:
                return ending

    def _show_and_record(self) -> Ending | None:
        """Show the page and record it; None when it must be shown again."""
        self._report(Status(phase="starting"))
        with WebSource(self._page, self._quality, name=self._directory.name) as source:
            try:
                return self._record(source)
            finally:
                self._unreachable_seconds += source.unreachable_seconds

    def _record(self, source: WebSource) -> Ending | None:
        self._report(Status(phase="loading"))
        try:
            source.open(should_stop=self._should_stop)
        except RecordingError:
            if not source.problem() or not find_pieces(self._directory):
                raise
            self._short_pieces += 1
            return self._show_again(source.problem())
        while True:
            ending = self._record_piece(source)
            if ending is not None:
                source.leave()
                return ending
            if problem := source.loss():
                return self._show_again(problem)
            log.warning("the encoder has ended; a new piece begins")
            if (ending := self._give_up("the encoder ends again and again")) is not None:
                return ending

    def _show_again(self, problem: str) -> Ending | None:
        log.warning("%s; the page is shown again", problem)
        return self._give_up(problem)

    def _pause_seconds(self) -> float:
        """How long to wait before the page is shown: not at all when it had been there a while."""
        return 2.0 ** (self._short_pieces - 1) if self._short_pieces else 0.0

    def _give_up(self, problem: str) -> Ending | None:
        """The end, if too many pieces in a row were short."""
        if self._short_pieces < MAX_SHORT_PIECES:
            return None
        return Ending(end=End.CAPTURE_LOST, message=problem)

    def _record_piece(self, source: WebSource) -> Ending | None:
        """Record until the end, or until something has crashed (None)."""
        piece = next_piece(self._directory)
        first = find_pieces(self._directory)[:1] or [piece]
        # Wall-clock time is read once, as the clock may be set during the recording.
        left_seconds = first[0].start_seconds + self._max_seconds - time.time()
        self._tally.begin_piece()
        began = time.monotonic()
        with (self._directory / "log.txt").open("ab") as output:
            encoder = Encoder(
                source.host,
                self._quality,
                piece.path,
                framebuffer=source.framebuffer,
                environment=source.environment,
                on_health=self._tally.take,
                log=output.fileno(),
            )
        log.info("piece %d begins", piece.number)
        try:
            ending = self._watch(source, encoder, number=piece.number, ends_at=began + left_seconds)
        finally:
            encoder.stop()
            is_short = time.monotonic() - began < SHORT_PIECE_SECONDS
            self._short_pieces = self._short_pieces + 1 if is_short else 0
        if encoder.problem:
            log.warning("piece %d has ended: %s", piece.number, encoder.problem)
            if not piece.path.exists() and not source.loss():
                raise RecordingError(Reason.CAPTURE_UNAVAILABLE, encoder.problem)
        return ending

    def _watch(
        self, source: WebSource, encoder: Encoder, *, number: int, ends_at: float
    ) -> Ending | None:
        reported = 0.0
        while not self._should_stop() and time.monotonic() < ends_at:
            if not encoder.is_running or source.loss():
                return None
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS:
                reported = now
                free_bytes = self._save_and_report(encoder, number)
                if free_bytes < self._min_free_bytes:
                    return Ending(
                        end=End.DISK_LOW,
                        message=f"only {free_bytes // 1024**2} MiB of disk are left",
                    )
                source.measure_disk()
                if source.is_over():
                    return Ending(end=End.OVER)
            time.sleep(CHECK_SECONDS)
        return Ending(end=End.STOPPED)

    def _save_and_report(self, encoder: Encoder, number: int) -> int:
        """Sync the piece to the disk, and report; returns the disk space left."""
        if encoder.target.exists():
            keep(encoder.target)
        health = self._tally.health()
        # Joining needs as much space again.
        free_bytes = shutil.disk_usage(self._directory).free - health.size_bytes
        self._report(
            Status(phase="recording", health=health, segment=number, disk_free_bytes=free_bytes)
        )
        return free_bytes
