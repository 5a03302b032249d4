# SPDX-License-Identifier: Apache-2.0
"""The manifest of an installed model, against which its files are checked later."""

import errno
from pathlib import Path, PurePosixPath

import msgspec

from callsd_daemon.files import sync


MANIFEST = "manifest.json"
# A manifest lists a dozen files; anything larger was not written by us.
_MAX_MANIFEST_BYTES = 64 * 1024


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was installed; `path` is relative to the model's directory."""

    path: str
    size_bytes: int
    sha256: str


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one engine transcribed the sample with the model."""

    engine: str
    file: str
    words_right: float
    """Share of the sample's words, 0 to 1."""
    cpu_seconds: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's files, its source, and the results of its trials."""

    name: str
    source: str
    is_multilingual: bool
    files: tuple[FileRecord, ...]
    trials: tuple[Trial, ...]
    verified_unix_seconds: float
    """When it last transcribed the sample."""
    problem: str = ""
    """What the last verification found wrong, if anything."""
    version: int = 1


def read_manifest(directory: Path) -> Manifest:
    """The manifest in a model's directory; raises ValueError when there is no valid one."""
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=Manifest)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no fault of the file
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a manifest: {error}") from error
    if not manifest.files or not manifest.trials:
        raise ValueError(f"{path} is of a model that was never tried")
    paths = [PurePosixPath(record.path) for record in manifest.files]
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ValueError(f"{path} points outside of its directory")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write or replace a model's manifest in one step."""
    partial = directory / f".{MANIFEST}.part"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    sync(partial)
    partial.replace(directory / MANIFEST)
    sync(directory)
