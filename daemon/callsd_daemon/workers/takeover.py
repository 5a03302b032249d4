# SPDX-License-Identifier: Apache-2.0
"""Takes over what one attempt has made: its files first, its outcome last.

All of it lies in the job's own directory afterwards, where no worker can write. An outcome that is
there counts, whatever becomes of its worker and of this daemon.
"""

import asyncio
import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from callsd_daemon.domain.jobs import Artifact, Outcome
from callsd_daemon.files import (
    PASSING_ERRNOS,
    FilePool,
    naming,
    open_regular,
    sync,
    write_whole,
)
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.workers.waits import until


log = structlog.get_logger(__name__)

MAX_FILES = 300
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

IDLE_SECONDS = 30.0
"""When nothing of a file arrives for so long, it is asked for once more."""

MAX_REQUESTS = 5
"""So often in a row without a byte: then it will not come."""

RETRY_SECONDS = 1.0

HASH_BYTES = 1024 * 1024
"""So much of a file is read in one go, in a millisecond or two, and is in memory meanwhile."""

Take = Callable[[str, Path], bool]
"""Moves a finished file of the worker's to a path, if it lies on this disk; see `Launcher.take`."""

Ask = Callable[[str, int], Awaitable[None]]
"""Asks the worker to send a file from a byte on."""


class UnusableError(Exception):
    """What the worker has made cannot be used; the message says why, for a person."""


class Takeover:
    """Into one job's directory, from the workers of one attempt."""

    def __init__(
        self, directory: Path, pool: FilePool, take: Take, *, artifacts: str, outcome: str
    ) -> None:
        """`artifacts` and `outcome` are the names of what is kept in `directory`."""
        self._folder = directory / artifacts
        self._outcome_file = directory / outcome
        self._pool = pool
        self._take = take
        self._arriving: _Arriving | None = None

    async def collect(self, outcome: Outcome, raw: bytes, ask: Ask) -> None:
        """Take all files that the outcome names, then keep the outcome itself, `raw`.

        Waits while the disk is full or fails, or descriptors are scarce. Raises UnusableError.
        """
        if len(outcome.artifacts) > MAX_FILES:
            raise UnusableError(f"it names {len(outcome.artifacts)} files: {MAX_FILES} are allowed")
        for artifact in outcome.artifacts:
            if not FILE_NAME.fullmatch(artifact.file_name) or artifact.size_bytes < 0:
                raise UnusableError("it names a file that cannot be one")
            failpoint("takeover.before_file")
            await self._patiently(functools.partial(self._collect, artifact, ask))
        failpoint("takeover.before_outcome")
        await self._patiently(lambda: self._pool.run(write_whole, self._outcome_file, raw))
        failpoint("takeover.after_outcome")

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except OSError as problem:
                if problem.errno not in PASSING_ERRNOS:
                    raise UnusableError(f"its files cannot be taken: {problem}") from problem
                log.error("takeover_blocked", problem=str(problem))  # noqa: TRY400 - no bug of ours
                await asyncio.sleep(RETRY_SECONDS)

    async def _collect(self, artifact: Artifact, ask: Ask) -> None:
        if artifact.size_bytes > await self._pool.run(_disk_bytes, self._folder):
            raise UnusableError(f"{artifact.file_name} is longer than the disk")
        if await self._is_taken(artifact):
            return
        draft = self._folder / f".{artifact.file_name}.part"
        try:
            if await self._pool.run(self._fetch, artifact.file_name, draft):
                failpoint("takeover.after_take")
                await self._keep(artifact, draft)
                return
        except FileNotFoundError:
            # A thread of an earlier session has brought it to its end in this moment.
            if not await self._is_taken(artifact):
                raise
            return
        was_begun = await self._pool.run(_size, draft) > 0
        await self._receive(artifact, draft, ask)
        try:
            await self._keep(artifact, draft)
        except UnusableError:
            if not was_begun:
                raise
            # The beginning was of another file of this name.
            await self._receive(artifact, draft, ask)
            await self._keep(artifact, draft)

    async def _is_taken(self, artifact: Artifact) -> bool:
        """Whether it was taken before this session, or by an earlier daemon."""
        path = self._folder / artifact.file_name
        is_there = await self._pool.run(os.path.lexists, path)
        is_long_enough = await self._pool.run(_size, path) == artifact.size_bytes
        return is_there and is_long_enough and await self._sha256(artifact, path) == artifact.sha256

    def _fetch(self, file_name: str, draft: Path) -> bool:
        """Have a file of the worker's as a draft, if it lies on this disk."""
        try:
            return self._take(file_name, draft)
        except FileNotFoundError:
            # It was taken already, by a daemon that died, or a disk was full, before it was kept.
            if not os.path.lexists(draft):
                raise
            return True

    async def _keep(self, artifact: Artifact, draft: Path) -> None:
        """Look at a file that has come, and give it its name when it is what it should be."""
        try:
            await self._check(artifact, draft)
        except (OSError, UnusableError) as problem:
            if getattr(problem, "errno", None) not in PASSING_ERRNOS:
                await self._pool.run(_remove, draft)
            raise
        await self._pool.run(self._publish, artifact, draft)

    async def _check(self, artifact: Artifact, draft: Path) -> None:
        size = await self._pool.run(_prepare, draft)
        if size != artifact.size_bytes:
            raise UnusableError(f"{artifact.file_name} has {size} bytes, not {artifact.size_bytes}")
        if await self._sha256(artifact, draft) != artifact.sha256:
            raise UnusableError(f"{artifact.file_name} is not what its hash says")

    def _publish(self, artifact: Artifact, draft: Path) -> None:
        descriptor = open_regular(draft)
        try:
            with naming(draft):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(self._folder / artifact.file_name)
        sync(self._folder)

    async def _sha256(self, artifact: Artifact, path: Path) -> str:
        """The hash of a file. Part by part: others have their turn, and it ends when we do."""
        digest, offset = hashlib.sha256(), 0
        while offset < artifact.size_bytes:
            size = await self._pool.run(_feed, path, offset, digest)
            if not size:
                break
            offset += size
        return digest.hexdigest()

    # Files that come through the session

    async def _receive(self, artifact: Artifact, draft: Path, ask: Ask) -> None:
        requests = 0
        if not artifact.size_bytes:
            await self._pool.run(_append, draft, 0, b"")
        while (offset := await self._pool.run(_size, draft)) < artifact.size_bytes:
            requests += 1
            if requests > MAX_REQUESTS:
                raise UnusableError(f"{artifact.file_name} does not arrive")
            arriving = self._arriving = _Arriving(artifact, draft, offset, self._pool)
            try:
                await ask(artifact.file_name, offset)
                while time.monotonic() - arriving.last_heard < IDLE_SECONDS:
                    if await until(arriving.ended, IDLE_SECONDS):
                        break
            finally:
                self._arriving = None
            if arriving.offset > offset:
                requests = 0
            if arriving.problem is not None:
                raise arriving.problem

    async def write(self, file_name: str, offset: int, data: bytes) -> int:
        """Take a part of the file that was asked for; returns where the next one begins.

        Raises UnusableError when this is not what is missing, OSError when it cannot be written.
        """
        arriving = self._arriving
        if arriving is None or arriving.artifact.file_name != file_name:
            raise UnusableError(f"{file_name} was not asked for")
        await arriving.write(offset, data)
        return arriving.offset

    def end_file(self, file_name: str) -> None:
        """No more of this file comes for now."""
        if self._arriving is not None and self._arriving.artifact.file_name == file_name:
            self._arriving.ended.set()


class _Arriving:
    """A file that is on its way."""

    def __init__(self, artifact: Artifact, draft: Path, offset: int, pool: FilePool) -> None:
        self.artifact = artifact
        self.offset = offset
        self.last_heard = time.monotonic()
        self.ended = asyncio.Event()
        self.problem: OSError | None = None
        self._draft = draft
        self._pool = pool

    async def write(self, offset: int, data: bytes) -> None:
        if offset != self.offset or offset + len(data) > self.artifact.size_bytes:
            raise UnusableError(f"these bytes of {self.artifact.file_name} were not asked for")
        try:
            await self._pool.run(_append, self._draft, offset, data)
        except OSError as problem:
            self.problem = problem
            self.ended.set()
            raise
        self.offset = offset + len(data)
        self.last_heard = time.monotonic()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _append(path: Path, offset: int, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with naming(path), os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        file.seek(offset)
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "half written", str(path))


def remove_drafts(folder: Path) -> None:
    """Remove what did not become a file of a job that has ended. Blocks."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name.startswith("."):
                _remove(path)


def _disk_bytes(path: Path) -> int:
    return shutil.disk_usage(path).total


def _prepare(draft: Path) -> int:
    """The length of a file that has come, if it is a plain one, which is ours alone now."""
    descriptor = open_regular(draft)
    try:
        with contextlib.suppress(PermissionError):  # it may stay its worker's user's
            os.fchmod(descriptor, 0o600)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _feed(path: Path, offset: int, digest: "hashlib._Hash") -> int:
    descriptor = open_regular(path)
    try:
        with naming(path):
            part = os.pread(descriptor, HASH_BYTES, offset)
    finally:
        os.close(descriptor)
    digest.update(part)
    return len(part)


def _remove(path: Path) -> None:
    """Whatever it is."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)
