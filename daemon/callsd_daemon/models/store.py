# SPDX-License-Identifier: Apache-2.0
"""The models directory, and which of its models may be used.

    <models directory>/<name>/ctranslate2/{model.bin,config.json,tokenizer.json,vocabulary.*}
    <models directory>/<name>/ggml/{f16,q8_0}.bin
    <models directory>/<name>/onnx/{encoder.onnx,decoder.onnx,tokenizer.bin}
    <models directory>/<name>/onnx/{encoder-model,decoder_joint-model}.int8.onnx, vocab.txt, …
    <models directory>/<name>/manifest.json

A model is PRESENT only if its manifest is readable, every file has the size and SHA-256 written
there (and, for a model of the catalogue, pinned there), and it has transcribed the sample. It is
installed by renaming a finished directory.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from callsd_daemon.domain.errors import Reason
from callsd_daemon.files import make_readable_directory, sync
from callsd_daemon.models.catalogue import CATALOGUE
from callsd_daemon.models.errors import ModelError, PullInterrupted
from callsd_daemon.models.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    read_manifest,
    write_manifest,
)


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Two pulls at once would fetch the same twice; the second waits, at most as long as a slow
# connection needs for a large model.
_LOCK_WAIT_SECONDS = 3600.0
_LOCK_POLL_SECONDS = 0.2
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


class ModelState(StrEnum):
    """Whether a model can be used."""

    ABSENT = "ABSENT"
    PRESENT = "PRESENT"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """The state of one model; `manifest` is None unless there is a readable one."""

    name: str
    state: ModelState
    directory: Path
    is_multilingual: bool
    manifest: Manifest | None = None
    problem: str = ""

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines for which the model has files."""
        if self.state is not ModelState.PRESENT or self.manifest is None:
            return ()
        return tuple(dict.fromkeys(trial.engine for trial in self.manifest.trials))


class ModelStore:
    """The models directory. Methods block on the disk, and are thread-safe.

    A file is hashed when it is first checked, and again whenever its inode, size or change time
    differs, as after any write: 0.3 s for `base`, once.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._hashes: dict[tuple[int, ...], str] = {}
        self._hashes_lock = threading.Lock()

    def list(self) -> tuple[ModelStatus, ...]:
        """All models of the catalogue and of the directory, by name."""
        with contextlib.suppress(FileNotFoundError):
            found = {
                path.name
                for path in self.directory.iterdir()
                if path.is_dir() and _NAME.fullmatch(path.name)
            }
            return tuple(self.get(name) for name in sorted(found | set(CATALOGUE)))
        return tuple(self.get(name) for name in sorted(CATALOGUE))

    def get(self, name: str) -> ModelStatus:
        """The state of a model. ModelError MODEL_UNKNOWN: neither in the catalogue nor here."""
        directory = self.directory / check_name(name)
        entry = CATALOGUE.get(name)
        is_multilingual = entry is not None and entry.is_multilingual
        if not directory.is_dir():
            if entry is None:
                raise ModelError(
                    Reason.MODEL_UNKNOWN,
                    f"no model {name!r}, neither here nor in the catalogue: {', '.join(CATALOGUE)}",
                    metadata={"model": name},
                )
            return ModelStatus(
                name=name,
                state=ModelState.ABSENT,
                directory=directory,
                is_multilingual=is_multilingual,
            )
        try:
            manifest = self._checked_manifest(name, directory)
        except ModelError as error:
            return ModelStatus(
                name=name,
                state=ModelState.INVALID,
                directory=directory,
                is_multilingual=is_multilingual,
                problem=error.message,
            )
        return ModelStatus(
            name=name,
            state=ModelState.INVALID if manifest.problem else ModelState.PRESENT,
            directory=directory,
            is_multilingual=manifest.is_multilingual,
            manifest=manifest,
            problem=manifest.problem,
        )

    def require(self, name: str) -> ModelStatus:
        """A PRESENT model, or ModelError MODEL_UNKNOWN, MODEL_MISSING or MODEL_INVALID."""
        status = self.get(name)
        match status.state:
            case ModelState.PRESENT:
                return status
            case ModelState.ABSENT:
                raise ModelError(
                    Reason.MODEL_MISSING,
                    f"model {name!r} is not on this machine; "
                    f"fetch it with: callsd models pull {name}",
                    metadata={"model": name},
                )
            case ModelState.INVALID:
                raise ModelError(
                    Reason.MODEL_INVALID,
                    f"model {name!r} is damaged ({status.problem}); "
                    f"replace it with: callsd models pull {name}",
                    metadata={"model": name},
                )

    def forget_hashes(self) -> None:
        """Have the next check of each file read all of it again."""
        with self._hashes_lock:
            self._hashes.clear()

    def record(self, path: Path, *, relative_to: Path) -> FileRecord:
        """Size and SHA-256 of a file, for a manifest."""
        return FileRecord(
            path=path.relative_to(relative_to).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=self._sha256(path),
        )

    @contextlib.contextmanager
    def staging(self, name: str, *, should_stop: Callable[[], bool]) -> Iterator[Path]:
        """A fresh directory on the same disk to build a model in; removed at the end.

        Holds the one lock on changes to the models directory. PullInterrupted: `should_stop`
        became true while waiting for it.
        """
        make_readable_directory(self.directory)
        with (self.directory / ".lock").open("wb") as lock:
            _acquire(lock.fileno(), should_stop=should_stop)
            for leftover in self.directory.glob(".staging-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f".staging-{name}-", dir=self.directory))
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def install(self, staging: Path, manifest: Manifest) -> ModelStatus:
        """Move a finished directory into place, instead of an older one of its name.

        Whatever the umask of who brings a model, workers of another user can read it.
        """
        write_manifest(staging, manifest)
        for path in (staging, *staging.rglob("*")):
            path.chmod(_DIRECTORY_MODE if path.is_dir() else _FILE_MODE)
            sync(path)
        destination = self.directory / manifest.name
        # Between the two renames the model is absent, but never incomplete.
        retired = Path(tempfile.mkdtemp(prefix=".staging-retired-", dir=self.directory))
        with contextlib.suppress(FileNotFoundError):
            destination.rename(retired / manifest.name)
        staging.rename(destination)
        sync(self.directory)
        shutil.rmtree(retired, ignore_errors=True)
        return self.get(manifest.name)

    def _checked_manifest(self, name: str, directory: Path) -> Manifest:
        try:
            manifest = read_manifest(directory)
        except ValueError as error:
            raise _invalid(name, str(error)) from error
        if manifest.name != name:
            raise _invalid(name, f"{directory / MANIFEST} is that of {manifest.name!r}")
        for record in manifest.files:
            self._check(name, directory / record.path, record)
        if name in CATALOGUE:
            recorded = {record.path: record.sha256 for record in manifest.files}
            entry = CATALOGUE[name]
            for pinned in entry.files:
                path = f"{entry.directory}/{pinned.name}"
                if recorded.get(path, pinned.sha256) != pinned.sha256:
                    raise _invalid(name, f"{path} is not the catalogue's")
        return manifest

    def _check(self, name: str, path: Path, record: FileRecord) -> None:
        try:
            size_bytes = path.stat().st_size
            sha256 = self._sha256(path) if size_bytes == record.size_bytes else ""
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # no fault of the file
            raise _invalid(name, f"{path} cannot be read: {error.strerror}") from error
        if size_bytes != record.size_bytes:
            raise _invalid(name, f"{path} has {size_bytes} bytes instead of {record.size_bytes}")
        if sha256 != record.sha256:
            raise _invalid(name, f"{path} has another content than when it was installed")

    def _sha256(self, path: Path) -> str:
        # Not opened when it is known: each job asks for each file of its model.
        with self._hashes_lock:
            known = self._hashes.get(_identity(path.stat()))
        if known is not None:
            return known
        with path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._hashes_lock:
            self._hashes[identity] = digest
        return digest


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    """What no write to a file leaves as it is."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def check_name(name: str) -> str:
    """The name itself if it is valid, or ModelError MODEL_UNKNOWN."""
    if not _NAME.fullmatch(name):
        raise ModelError(
            Reason.MODEL_UNKNOWN,
            f"{name[:64]!r} cannot be a model's name: 1 to 64 of a-z, 0-9, '.', '_' and '-'",
        )
    return name


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn OSError into ModelError DISK_FULL or INTERNAL."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ModelError(
                Reason.DISK_FULL, f"the disk of {directory} is full; nothing was changed"
            ) from error
        raise ModelError(
            Reason.INTERNAL,
            f"the models directory {directory} cannot be used: {error}; "
            "check that it exists and belongs to this user",
        ) from error


def _invalid(name: str, problem: str) -> ModelError:
    return ModelError(Reason.MODEL_INVALID, problem, metadata={"model": name})


def _acquire(descriptor: int, *, should_stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if should_stop():
                raise PullInterrupted from None
            if time.monotonic() > deadline:
                raise ModelError(
                    Reason.SOURCE_UNAVAILABLE,
                    "another pull has held the models directory for an hour; end it first",
                ) from None
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return
