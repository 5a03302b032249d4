# SPDX-License-Identifier: Apache-2.0
"""Reports the progress of a transcription, and stops it when asked to."""

import time
from collections.abc import Callable

from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.transcriber.types import Progress


INTERVAL_SECONDS = 0.5
"""Time between reports of the same phase."""

DECODING_SHARE = 0.1
"""Share of decoding and voice detection in the work on a second of audio."""


class Meter:
    """Counts work in track seconds, and reports it in call seconds."""

    def __init__(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._began = time.monotonic()
        self._phase = "loading"
        self._last_report = 0.0
        self._call_seconds = 0.0
        self._work_seconds = 0.0
        self._finished_seconds = 0.0
        self._decoded_seconds = 0.0
        self._round_speech_seconds = 0.0
        self._recognised_seconds = 0.0

    def set_total(self, *, call_seconds: float, work_seconds: float) -> None:
        """Set the length of the call, and the sum over its tracks."""
        self._call_seconds = call_seconds
        self._work_seconds = work_seconds

    def enter(self, phase: str) -> None:
        self._phase = phase
        self._last_report = 0.0
        self.check()

    def add_decoded(self, track_seconds: float) -> None:
        self._decoded_seconds += track_seconds
        self.check()

    def begin_round(self, speech_seconds: float) -> None:
        self._round_speech_seconds = speech_seconds
        self._recognised_seconds = 0.0
        self.enter("recognising")

    def add_recognised(self, speech_seconds: float) -> None:
        self._recognised_seconds += speech_seconds
        self.check()

    def end_round(self) -> None:
        self._finished_seconds += self._decoded_seconds
        self._decoded_seconds = 0.0
        self.enter("decoding")

    def finish(self, *, call_seconds: float) -> None:
        """Report the end. The call is as long as it was found to be, whatever its files say."""
        self._call_seconds = call_seconds
        self._finished_seconds = self._work_seconds
        self._decoded_seconds = 0.0
        self.enter("writing")

    def check(self) -> None:
        """Report if it is time to. Raises SpeechError CANCELLED if asked to stop."""
        if self._should_stop():
            raise SpeechError(SpeechReason.CANCELLED, "stopped before the transcript was complete")
        now = time.monotonic()
        if now - self._last_report < INTERVAL_SECONDS:
            return
        self._last_report = now
        processed_seconds = self._fraction() * self._call_seconds
        self._on_progress(
            Progress(
                phase=self._phase,
                processed_seconds=processed_seconds,
                total_seconds=self._call_seconds,
                real_time_factor=processed_seconds / max(now - self._began, 1e-3),
            )
        )

    def _fraction(self) -> float:
        if not self._work_seconds:
            return 0.0
        share = DECODING_SHARE
        if self._phase == "recognising" and self._round_speech_seconds:
            share_recognised = self._recognised_seconds / self._round_speech_seconds
            share += (1.0 - DECODING_SHARE) * share_recognised
        return min((self._finished_seconds + share * self._decoded_seconds) / self._work_seconds, 1)
