# SPDX-License-Identifier: Apache-2.0

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models.catalogue import CATALOGUE
from callsd_daemon.models.errors import ModelError, PullInterrupted
from callsd_daemon.models.manifest import MANIFEST, FileRecord, Manifest, Trial, write_manifest
from callsd_daemon.models.store import ModelState, ModelStore


TRIAL = Trial(engine="ctranslate2", file="ctranslate2/model.bin", words_right=1.0, cpu_seconds=0.2)

NEVER_TRIED = msgspec.json.encode(
    Manifest(
        name="own", source="", is_multilingual=True, files=(), trials=(), verified_unix_seconds=0
    )
)


def manifest_of(name: str, directory: Path) -> Manifest:
    """A manifest that is true of all files in a directory."""
    files = tuple(
        FileRecord(
            path=path.relative_to(directory).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    )
    return Manifest(
        name=name,
        source="file: /a/place",
        is_multilingual=True,
        files=files,
        trials=(TRIAL,),
        verified_unix_seconds=1.7e9,
    )


def install(store: ModelStore, name: str, *, weights: bytes = b"weights") -> Path:
    """Install a model whose files are only bytes; returns where its weights lie."""
    with store.staging(name, should_stop=lambda: False) as staging:
        build = staging / "model"
        (build / "ctranslate2").mkdir(parents=True)
        (build / "ctranslate2" / "model.bin").write_bytes(weights)
        store.install(build, manifest_of(name, build))
    return store.directory / name / "ctranslate2" / "model.bin"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty models directory."""
    return ModelStore(tmp_path / "models")


def cut(path: Path) -> None:
    """Lose the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def swap_one_byte(path: Path) -> None:
    """Change the content, neither the length nor the time of change."""
    before = path.stat()
    path.write_bytes(b"x" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def empty(path: Path) -> None:
    """Lose all content."""
    path.write_bytes(b"")


class TestStates:
    """Which models count as usable."""

    def test_catalogue_is_absent_at_first(self, store: ModelStore) -> None:
        """Every model of the catalogue is listed before anything is there."""
        statuses = store.list()

        assert [status.name for status in statuses] == sorted(CATALOGUE)
        assert {status.state for status in statuses} == {ModelState.ABSENT}

    def test_installed_model_is_present(self, store: ModelStore) -> None:
        """What was installed whole is present, with the engines it was tried with."""
        install(store, "own")

        status = store.get("own")

        assert status.state is ModelState.PRESENT
        assert status.engines == ("ctranslate2",)
        assert status == store.require("own")
        assert "own" in [listed.name for listed in store.list()]

    @pytest.mark.parametrize("damage", [cut, swap_one_byte, empty, Path.unlink])
    def test_damaged_file(self, store: ModelStore, damage: Callable[[Path], None]) -> None:
        """A file cut, changed, emptied or gone makes the model invalid at the next look."""
        weights = install(store, "own")
        assert store.get("own").state is ModelState.PRESENT

        damage(weights)

        status = store.get("own")
        assert (status.state, status.engines) == (ModelState.INVALID, ())
        assert "model.bin" in status.problem
        with pytest.raises(ModelError, match="pull own") as caught:
            store.require("own")
        assert caught.value.reason is Reason.MODEL_INVALID

    @pytest.mark.parametrize(
        "content",
        [b"", b"{}", b"\xff\xfe", b'{"name": "own"', NEVER_TRIED],
        ids=["empty", "no fields", "no text", "cut short", "never tried"],
    )
    def test_damaged_manifest(self, store: ModelStore, content: bytes) -> None:
        """A model whose manifest says nothing reliable is invalid, not present."""
        install(store, "own")
        (store.directory / "own" / MANIFEST).write_bytes(content)

        assert store.get("own").state is ModelState.INVALID

    def test_manifest_pointing_outside(self, store: ModelStore) -> None:
        """A manifest cannot vouch for files outside of its model."""
        weights = install(store, "own")
        directory = store.directory / "own"
        shutil.copy(weights, store.directory / "elsewhere.bin")
        record = FileRecord(path="../elsewhere.bin", size_bytes=7, sha256="")
        manifest = msgspec.structs.replace(manifest_of("own", directory), files=(record,))
        write_manifest(directory, manifest)

        assert "outside" in store.get("own").problem

    def test_files_without_manifest(self, store: ModelStore) -> None:
        """Files that somebody copied into place are not a model until they were tried."""
        (store.directory / "own" / "ctranslate2").mkdir(parents=True)
        (store.directory / "own" / "ctranslate2" / "model.bin").write_bytes(b"weights")

        assert store.get("own").state is ModelState.INVALID

    def test_renamed_model(self, store: ModelStore) -> None:
        """A model under a name that is not its own is invalid."""
        install(store, "own")
        (store.directory / "own").rename(store.directory / "other")

        assert "'own'" in store.get("other").problem

    def test_catalogue_pins_outrank_the_manifest(self, store: ModelStore) -> None:
        """A consistent forgery under a name of the catalogue is invalid."""
        install(store, "tiny.en", weights=b"not those weights")

        assert "not the catalogue's" in store.get("tiny.en").problem

    def test_recorded_problem(self, store: ModelStore) -> None:
        """A model that failed its last trial stays invalid though its files are whole."""
        install(store, "own")
        directory = store.directory / "own"
        manifest = store.get("own").manifest
        assert manifest is not None
        problem = msgspec.structs.replace(manifest, problem="heard nothing")
        write_manifest(directory, problem)

        status = store.get("own")

        assert (status.state, status.problem) == (ModelState.INVALID, "heard nothing")

    def test_missing_model(self, store: ModelStore) -> None:
        """A model that is known but not here is MISSING, and the message says how to get it."""
        with pytest.raises(ModelError, match="callsd models pull base") as caught:
            store.require("base")

        assert caught.value.reason is Reason.MODEL_MISSING

    @pytest.mark.parametrize(
        "name", ["", "no-such", "../own", "/etc", ".staging-x", "a\0b", "A", "x" * 65]
    )
    def test_unknown_name(self, store: ModelStore, name: str) -> None:
        """A name that is unknown, or is no name, is UNKNOWN and never a path."""
        with pytest.raises(ModelError) as caught:
            store.get(name)

        assert caught.value.reason is Reason.MODEL_UNKNOWN


class TestInstalling:
    """Models come into being whole or not at all."""

    def test_replaces_the_old_one(self, store: ModelStore) -> None:
        """A second install replaces the first and leaves nothing else behind."""
        install(store, "own", weights=b"old")
        weights = install(store, "own", weights=b"new")

        assert weights.read_bytes() == b"new"
        assert store.get("own").state is ModelState.PRESENT
        assert sorted(path.name for path in store.directory.iterdir()) == [".lock", "own"]

    def test_failed_build_leaves_no_trace(self, store: ModelStore) -> None:
        """A build that fails takes its files with it and touches no model."""
        install(store, "own")

        def fail_halfway() -> None:
            with store.staging("own", should_stop=lambda: False) as staging:
                (staging / "half").write_bytes(b"weights")
                raise RuntimeError("halfway")

        with pytest.raises(RuntimeError, match="halfway"):
            fail_halfway()

        assert store.get("own").state is ModelState.PRESENT
        assert sorted(path.name for path in store.directory.iterdir()) == [".lock", "own"]

    def test_leftovers_of_a_killed_build_are_swept(self, store: ModelStore) -> None:
        """What a killed build left is no model, and the next build removes it."""
        (store.directory / ".staging-own-killed" / "model").mkdir(parents=True)

        assert ".staging-own-killed" not in [status.name for status in store.list()]
        install(store, "own")
        assert sorted(path.name for path in store.directory.iterdir()) == [".lock", "own"]

    def test_one_build_at_a_time(self, store: ModelStore) -> None:
        """A second build waits for the first, and can be stopped while it waits."""
        waiting = threading.Event()

        def should_stop() -> bool:
            waiting.set()
            return True

        with (
            store.staging("own", should_stop=lambda: False),
            pytest.raises(PullInterrupted),
            store.staging("own", should_stop=should_stop),
        ):
            pass

        assert waiting.is_set()

    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_readable_by_the_workers_user(self, tmp_path: Path, mask: int) -> None:
        """An installed model may be read by others than its owner, whatever the umask.

        So may the directories above it that were made for it, and no other ones.
        """
        (tmp_path / "private").mkdir(mode=0o700)
        store = ModelStore(tmp_path / "private" / "new" / "models")
        before = os.umask(mask)
        try:
            weights = install(store, "own")
        finally:
            os.umask(before)

        made = (*weights.relative_to(tmp_path / "private").parents,)[:-1]
        modes = [stat.S_IMODE((tmp_path / "private" / path).stat().st_mode) for path in made]
        assert modes == [0o755] * 4
        assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
        assert stat.S_IMODE(weights.stat().st_mode) == 0o644
