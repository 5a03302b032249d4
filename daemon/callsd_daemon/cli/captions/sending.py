# SPDX-License-Identifier: Apache-2.0
"""A call's sound on its way to the daemon, and its captions on their way back."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from types import TracebackType
from typing import Self

from callsd import CallsdError, CaptionSender, Client, Sound
from callsd.v1.job_pb2 import Job
from callsd_daemon.cli.captions.state import seconds, stamp
from callsd_daemon.cli.captions.view import CaptionView
from callsd_daemon.cli.shared.sound import BYTES_PER_SECOND, Source


LIVE_STEP_SECONDS = 0.1
"""Sound of one message at the speed of speech, as a live client sends it."""

STEP_SECONDS = 1.0
"""The same as fast as it can be captioned: as much as fits in a chunk."""

# The server says something every 5 s.
_LAST_WORD_SECONDS = 10.0


class Sending:
    """Sends all speakers side by side, on one clock."""

    def __init__(self, sources: Sequence[Source], *, is_paced: bool) -> None:
        self._open = list(sources)
        self._is_paced = is_paced
        self._total_seconds = max(source.seconds for source in sources)
        self._sent_seconds = 0.0

    def status(self) -> str:
        """How much of the call is sent."""
        whole = f" of {stamp(self._total_seconds)}" if self._total_seconds else ""
        return f"sent {stamp(self._sent_seconds)}{whole}"

    def run(self, sender: CaptionSender, view: CaptionView) -> None:
        """Send to the end; in a call that has sound already, behind that."""
        is_live = self._is_paced or any(source.is_live for source in self._open)
        step_seconds = LIVE_STEP_SECONDS if is_live else STEP_SECONDS
        size_bytes = int(step_seconds * BYTES_PER_SECOND)
        base_seconds = max(
            (seconds(ack.received_offset) for ack in sender.acks.values()), default=0
        )
        for source in self._open:
            sender.joined(source.speaker)
        began = time.monotonic()
        step = 0
        while self._open:
            at_seconds = step * step_seconds
            read = [(source, source.read(size_bytes)) for source in self._open]
            sender.send_batch(
                Sound(
                    speaker=source.speaker,
                    data=data,
                    start_offset_seconds=base_seconds + at_seconds,
                )
                for source, data in read
            )
            for source, data in read:
                if len(data) < size_bytes:
                    self._open.remove(source)
                    sender.left(source.speaker)
            self._sent_seconds = at_seconds + max(len(data) for _, data in read) / BYTES_PER_SECOND
            view.tell()
            step += 1
            if self._is_paced:
                # By the clock from the beginning: what one step takes too long, the next ones lack.
                time.sleep(max(0.0, began + step * step_seconds - time.monotonic()))


class Reading:
    """Shows captions from a thread of its own, while another one sends; a context manager."""

    def __init__(self, client: Client, job: Job, view: CaptionView, *, is_new: bool) -> None:
        self._messages = client.watch_captions(job, resume_sequence=0 if is_new else None)
        self._view = view
        self._is_leaving = threading.Event()
        self._error: CallsdError | None = None
        # Not waited for by the interpreter: Ctrl-C must not have to.
        self._thread = threading.Thread(target=self._run, name="callsd-reading", daemon=True)

    def finish(self) -> None:
        """Show what is left of the captions; raises what ended them, if not their end."""
        self._is_leaving.set()
        self._thread.join(_LAST_WORD_SECONDS)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_leaving.set()

    def _run(self) -> None:
        try:
            with closing(self._messages) as messages:
                for message in messages:
                    self._view.show(message)
                    # Between captions: those that are there come without a pause.
                    if self._is_leaving.is_set() and not message.HasField("caption"):
                        return
        except CallsdError as error:
            self._error = error
