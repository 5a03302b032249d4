# SPDX-License-Identifier: Apache-2.0
"""Where a worker's session and its supervisor meet."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.domain.jobs import Progress
from callsd_daemon.domain.recording import PageSecrets, RecordingSpec
from callsd_daemon.domain.transcription import TranscriptionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model and what it must be; `path` is relative to the model's directory."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionAssignment:
    """All that a worker must know to do a transcription; it looks nothing up."""

    spec: TranscriptionSpec
    media: tuple[Path, ...]
    """A file for each track, in the order of the job's tracks."""
    model_directory: Path
    model_files: tuple[ModelFile, ...]
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingAssignment:
    """All that a worker must know to record a page."""

    spec: RecordingSpec
    secrets: PageSecrets
    max_seconds: float
    min_free_bytes: int
    """Disk space that is not its own."""


Assignment = TranscriptionAssignment | RecordingAssignment


class Seat:
    """One attempt at one job, kept for the one worker that holds its token."""

    def __init__(self, assignment: Assignment, *, generation: int, token_sha256: str) -> None:
        self.assignment = assignment
        self.generation = generation
        self.token_sha256 = token_sha256
        self.progress: Progress | None = None
        self.last_heard = time.monotonic()
        self.arrived = asyncio.Event()
        """Set once the worker has proved itself."""
        self.stop = asyncio.Event()
        """Set when the worker shall be told to end, now or when it next connects."""
        self.stop_grace_seconds = 0.0

    def greet(self) -> None:
        """The worker has proved itself."""
        self.last_heard = time.monotonic()
        self.arrived.set()

    def report(self, progress: Progress) -> None:
        """The worker says how far it is."""
        self.last_heard = time.monotonic()
        self.progress = progress

    def request_stop(self, grace_seconds: float) -> None:
        """Have the worker told to put its work in order and end."""
        self.stop_grace_seconds = grace_seconds
        self.stop.set()
