# SPDX-License-Identifier: Apache-2.0
"""Models that are damaged, with real engines: never an empty success."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from callsd.v1.transcription_pb2 import SPEECH_ENGINE_CTRANSLATE2, SPEECH_ENGINE_WHISPERCPP
from callsd_daemon.models.manifest import FileRecord, read_manifest, write_manifest
from callsd_ipc.v1 import worker_pb2
from callsd_worker.session.files import check_files
from callsd_worker.speech.errors import SpeechError, SpeechReason
from tests.conftest import StartDaemon
from tests.e2e.media import GOOD
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.transcripts import transcribe


OWN = "tiny.own"
"""A copy under a name that is not in the catalogue, which pins the hashes of its models."""

WEIGHTS = {
    SPEECH_ENGINE_CTRANSLATE2: ("ctranslate2/model.bin",),
    SPEECH_ENGINE_WHISPERCPP: ("ggml/f16.bin", "ggml/q8_0.bin"),
}


@pytest.fixture(scope="module")
def one(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with a copy of tiny.en, made of links, under a name of its own."""
    one = shared_daemon(is_started=False, is_real=True)
    one.models = one.root / "models"
    one.settings["models"]["directory"] = str(one.models)
    source = models_directory / "tiny.en"
    for file in filter(Path.is_file, source.rglob("*")):
        copy = one.models / OWN / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(file.resolve())
    manifest = read_manifest(one.models / OWN)
    write_manifest(one.models / OWN, msgspec.structs.replace(manifest, name=OWN))
    return one.start()


def cut(path: Path) -> None:
    """Replace the link by the first half of what it leads to."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def believe(directory: Path) -> None:
    """Have the manifest vouch for whatever lies there now."""
    manifest = read_manifest(directory)
    files = tuple(
        FileRecord(
            path=record.path,
            size_bytes=(directory / record.path).stat().st_size,
            sha256=hashlib.sha256((directory / record.path).read_bytes()).hexdigest(),
        )
        for record in manifest.files
    )
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))


@pytest.mark.reason("MODEL_INVALID")
@pytest.mark.parametrize("engine", WEIGHTS)
def test_engine_is_not_deceived(one: Daemon, engine: int) -> None:
    """Even if the manifest vouches for a model cut short, the job fails by the model's fault."""
    api = one.api()
    for name in WEIGHTS[engine]:  # type: ignore[index]
        cut(one.models / OWN / name)
    believe(one.models / OWN)
    job = transcribe(one, api, GOOD, model=OWN, engine=engine)

    assert failure(job) == "MODEL_INVALID"
    assert not job.artifacts
    assert_invariants(one)


def test_changed_after_the_check(tmp_path: Path) -> None:
    """The worker looks again, at the very files that it is about to load."""
    shutil.copy(GOOD, tmp_path / "model.bin")
    content = GOOD.read_bytes()
    pin = worker_pb2.FilePin(
        path="model.bin", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    check_files(tmp_path, [pin])
    (tmp_path / "model.bin").write_bytes(content[:-1])
    with pytest.raises(SpeechError) as changed:
        check_files(tmp_path, [pin])
    (tmp_path / "model.bin").unlink()
    with pytest.raises(SpeechError) as missing:
        check_files(tmp_path, [pin])

    assert changed.value.reason is missing.value.reason is SpeechReason.MODEL_INVALID
