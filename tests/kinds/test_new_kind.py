# SPDX-License-Identifier: Apache-2.0
"""A kind of job in one file: it tells the digest of a file.

What is here is what a new kind needs; docs/extending.md goes through it. Only its messages are
borrowed from transcriptions, as those are generated from the proto files. This file is the kind's
worker program, too.
"""

import asyncio
import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from callsd_daemon.config import Config, settings
from callsd_daemon.core import Core
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, Notice, Reservation, State, Usage
from callsd_daemon.domain.work import Result, Secrets, Spec
from callsd_daemon.kinds import Bounds, JobKind, Kinds, Opener, Role
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStore
from callsd_daemon.store.read_transaction import Change, JobFilter
from callsd_daemon.usecases.jobs import JobRequest
from callsd_daemon.workers.launchers import process
from callsd_daemon.workers.session import messages
from callsd_ipc.v1 import worker_pb2
from callsd_worker.session.client import Session
from callsd_worker.session.inputs import Inputs
from callsd_worker.session.outcome import write_artifact, write_outcome


SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestSpec(Spec):
    """Which file, and by which algorithm."""

    path: str
    algorithm: str = "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestAssignment:
    """All that a worker must know."""

    algorithm: str
    file: Opener

    @property
    def files(self) -> Mapping[str, Opener]:
        """The file itself."""
        return {"media/0": self.file}


@dataclass(frozen=True, kw_only=True)
class Digest(JobKind[DigestSpec]):
    """Tells the digest of a file."""

    name = "digest"
    is_batch = True
    spec_type = DigestSpec
    result_type = Result
    role = Role.TRANSCRIBER

    roots: MediaRoots
    bounds: Bounds
    max_duration_seconds: float = 60.0

    def check(self, spec: DigestSpec, creator: str) -> tuple[Notice, ...]:
        """The algorithm must be known, and the file be there."""
        if spec.algorithm not in hashlib.algorithms_guaranteed:
            raise CallsdError(Reason.FIELD_INVALID, f"there is no algorithm {spec.algorithm}")
        self.roots.check(spec.path)
        return ()

    def cost_key(self, spec: DigestSpec) -> str:
        """One file is like another."""
        return "digest"

    def cost(
        self, spec: DigestSpec, max_duration_seconds: float, observed: Sequence[Usage]
    ) -> Reservation:
        """A core, for a moment."""
        return Reservation(cores=1.0, memory_bytes=64 * 1024**2)

    def assignment(
        self, job: Job, spec: DigestSpec, secrets: Secrets, after: Mapping[str, Job]
    ) -> DigestAssignment:
        """The file is opened when the worker asks for it."""
        return DigestAssignment(
            algorithm=spec.algorithm, file=functools.partial(self.roots.open, spec.path)
        )


def work(assignment: DigestAssignment) -> worker_pb2.Assignment:
    """The work, as the worker is told it."""
    message = worker_pb2.TranscriptionWork(model_name=assignment.algorithm)
    return worker_pb2.Assignment(transcription=message)


def main() -> None:
    """The worker program."""
    bootstrap = worker_pb2.Bootstrap.FromString(sys.stdin.buffer.read())
    session = Session(bootstrap)
    assert session.start(SECONDS)
    assert session.assignment is not None
    algorithm = session.assignment.transcription.model_name
    with os.fdopen(Inputs(bootstrap, Path.cwd()).open("media/0"), "rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    artifact = write_artifact(Path.cwd(), "digest.txt", "text/plain", digest.encode())
    write_outcome(Path.cwd(), bootstrap.generation, artifacts=[artifact])
    session.deliver()


# The test


def make_kinds(config: Config, models: ModelStore, uploads: Uploads) -> Kinds:
    """This kind alone is served."""
    bounds = Bounds(
        start_timeout_seconds=SECONDS,
        silence_timeout_seconds=SECONDS,
        stop_grace_seconds=1.0,
        max_log_bytes=1024**2,
    )
    digest = Digest(roots=MediaRoots(config.media.roots), bounds=bounds)
    return {digest.name: digest}


def render(change: Change) -> tuple[Change, int]:
    """Watchers are told of changes as they are."""
    return change, 1


@pytest.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """A daemon that serves this kind, but for its servers for clients."""
    for name in ("jobs", "uploads", "trash", "workers", "run/workers", "media"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(process, "PROGRAM", __file__)
    monkeypatch.setitem(messages.WORK, DigestAssignment, work)
    config = Config(
        state=settings.State(directory=str(tmp_path), runtime_directory=str(tmp_path / "run")),
        media=settings.Media(roots=(str(tmp_path / "media"),)),
        models=settings.Models(directory=str(tmp_path / "models")),
        admission=settings.Admission(enforced=False),
    )
    one = Core(config, render, now=lambda: datetime.now(UTC), make_kinds=make_kinds)
    await one.open()
    yield one
    one.drain()
    one.end_streams()
    await one.close()


async def ended(core: Core, job: Job) -> Job:
    """The job at its end, as somebody sees it who watches."""
    batches = core.changes.watch(
        JobFilter(ids={job.id}), lambda batch: batch, database_id="", resume_revision=None
    )
    async with asyncio.timeout(SECONDS), contextlib.aclosing(batches):
        async for batch in batches:
            for change in batch.messages:
                assert isinstance(change.job, Job)
                if change.job.is_final:
                    return change.job
    raise AssertionError


async def test_from_request_to_artifact(core: Core, tmp_path: Path) -> None:
    """A kind that is one object is checked, admitted, run by a worker, stored, watched, fetched."""
    (tmp_path / "media" / "file").write_bytes(b"all that is said")
    spec = DigestSpec(path=str(tmp_path / "media" / "file"), algorithm="sha1")
    created = await core.jobs.create("somebody", JobRequest(kind="digest", spec=spec))
    job = await ended(core, created.job)

    assert (job.state, job.kind, job.spec) == (State.SUCCEEDED, "digest", spec), job.failure
    parts = core.jobs.artifact(job.id, "digest.txt", offset=0)
    found = b"".join([data async for _, _, data in parts])
    assert found.decode() == hashlib.sha1(b"all that is said").hexdigest()  # noqa: S324 - no secret
    assert (await core.jobs.get(job.id))[0] == job


async def test_what_cannot_be_done(core: Core, tmp_path: Path) -> None:
    """The kind says why a job cannot be done, and nothing is kept of it."""
    for spec, reason in (
        (DigestSpec(path=str(tmp_path / "media" / "file"), algorithm="none"), "FIELD_INVALID"),
        (DigestSpec(path=str(tmp_path / "media" / "none")), "MEDIA_NOT_FOUND"),
        (DigestSpec(path="/etc/hostname"), "PATH_FORBIDDEN"),
    ):
        with pytest.raises(CallsdError) as caught:
            await core.jobs.create("somebody", JobRequest(kind="digest", spec=spec))
        assert caught.value.reason == reason
    assert await core.database.read(lambda tx: tx.ids()) == set()


if __name__ == "__main__":
    main()
