# SPDX-License-Identifier: Apache-2.0
"""How much of the daemon is measured, with which daemons and which jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from callsd_bench.shared.call import Call
from callsd_bench.shared.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure, and with what."""

    call: Call
    models: Path
    model: str
    jobs: int
    calls: int
    watchers: int
    changes_per_second: float
    seconds: float
    history_jobs: int

    def subject(self, directory: Path, settings: Mapping[str, str] | None = None) -> Subject:
        """A daemon that can do `spec`."""
        roots = {str(track.path.resolve().parent) for track in self.call.tracks}
        return Subject(
            directory,
            models=self.models,
            settings={
                "media.roots": ",".join(sorted(roots)),
                "transcription.model": self.model,
                "captions.model": self.model,
                # Other programs disturb the figures, but shall not hold back the jobs.
                "jobs.queue_patience_seconds": "0",
                **(settings or {}),
            },
        )

    def spec(self, *, repeats: int = 1) -> TranscriptionSpec:
        """A transcription of the call, so many times one after the other."""
        spec = TranscriptionSpec()
        for number in range(repeats):
            for track in self.call.tracks:
                message = Track(speaker=track.speaker, path=str(track.path.resolve()))
                message.start_offset.FromSeconds(round(number * self.call.duration_seconds))
                spec.tracks.append(message)
        return spec
