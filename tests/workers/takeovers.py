# SPDX-License-Identifier: Apache-2.0
"""What a worker has made, and what of it lies in its job's directory."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from pathlib import Path

import pytest

from callsd_daemon.domain.jobs import Artifact, Outcome
from callsd_daemon.workers import takeover as module
from callsd_daemon.workers.takeover import UnusableError


RAW = b"the outcome as it came"
VIDEO = b"moving pictures " * 4096
TEXT = b"what was said"
PART = 10_000


def artifact(name: str, content: bytes) -> Artifact:
    """A file as its worker describes it."""
    return Artifact(
        file_name=name,
        media_type="video/mp4",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


VIDEO_FILE, TEXT_FILE = artifact("recording.mp4", VIDEO), artifact("words.txt", TEXT)
OUTCOME = Outcome(artifacts=(VIDEO_FILE, TEXT_FILE))


async def nothing(file_name: str, offset: int) -> None:
    """Nobody is asked for anything."""
    raise AssertionError(f"{file_name} was asked for")


def from_afar(file: str, target: Path) -> bool:
    """It does not lie on this disk."""
    return False


def kept(directory: Path) -> dict[str, bytes]:
    """All that lies in the job's directory, under final names."""
    return {
        path.name: path.read_bytes()
        for path in directory.rglob("*")
        if not path.is_dir() and not path.name.startswith(".")
    }


WHOLE = {"recording.mp4": VIDEO, "words.txt": TEXT, "outcome.binpb": RAW}


async def refusal(work: Awaitable[object]) -> str:
    """Why it cannot be used."""
    with pytest.raises(UnusableError) as problem:
        await asyncio.wait_for(work, 5.0)
    return str(problem.value)


def fill(monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, times: int = 3) -> None:
    """Let a function fail so many times."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    real, left = getattr(module, name), iter(range(times))

    def fail(*arguments: object) -> object:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(module, name, fail)
