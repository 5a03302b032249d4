# SPDX-License-Identifier: Apache-2.0
"""Checks the files of a model before an engine opens them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from callsd_ipc.v1 import worker_pb2
from callsd_worker.speech.errors import SpeechError, SpeechReason


def check_files(directory: Path, pins: Iterable[worker_pb2.FilePin]) -> None:
    """Refuse a model that has changed since it was verified: damaged files can crash engines."""
    for pin in pins:
        path = directory / pin.path
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"{path} cannot be read ({problem.strerror}): pull the model again",
            ) from None
        if found != pin.sha256:
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"{path} has changed since it was verified: pull it again",
            )
