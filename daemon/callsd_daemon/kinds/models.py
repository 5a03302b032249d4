# SPDX-License-Identifier: Apache-2.0
"""What kinds need of the models on this machine."""

import contextlib
import functools
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import PASSING_ERRNOS
from callsd_daemon.kinds.kind import ModelFile
from callsd_daemon.models.store import ModelStatus, ModelStore


EVERYBODY_READS = 0o444


def require(models: ModelStore, name: str, languages: AbstractSet[str]) -> ModelStatus:
    """The model, which must know these languages, or whatever else is not English.

    Raises CallsdError. Blocks, for up to a second when a model is looked at for the first time.
    """
    model = models.require(name)
    foreign = ", ".join(sorted(languages - {"", "en"}))
    if foreign and not model.is_multilingual:
        raise CallsdError(
            Reason.LANGUAGE_UNSUPPORTED,
            f"the model {name} only knows English, not {foreign}: take a multilingual model, "
            "such as base",
            metadata={"model": name, "language": foreign},
        )
    return model


def model_files(model: ModelStatus) -> tuple[ModelFile, ...]:
    """The files of a model that is there."""
    assert model.manifest is not None
    return tuple(
        ModelFile(
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            open=functools.partial(_open, model.directory / file.path),
        )
        for file in model.manifest.files
    )


def _open(path: Path) -> int:
    """Open it so that others can: a worker may be of another user, and engines open by name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in PASSING_ERRNOS:
            raise
        raise CallsdError(
            Reason.MODEL_INVALID,
            f"{path} cannot be read ({problem.strerror}): pull the model again",
        ) from problem
    mode = os.fstat(descriptor).st_mode
    # Only if it has to be: each change of a mode, even to what it is, is a reason to hash the file
    # anew, and the job that comes next would wait for that.
    if mode & EVERYBODY_READS != EVERYBODY_READS:
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, mode | EVERYBODY_READS)
    return descriptor
