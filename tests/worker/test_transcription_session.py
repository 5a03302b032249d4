# SPDX-License-Identifier: Apache-2.0
"""A transcription as it is assigned, with tracks whose files are there and others."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from callsd_ipc.names import ARTIFACTS, OUTCOME
from callsd_ipc.v1 import worker_pb2
from callsd_worker.session.client import Session
from callsd_worker.session.inputs import InputError, Inputs, RefusedInputError
from callsd_worker.session.outcome import read_outcome
from callsd_worker.session.transcription import transcribe
from callsd_worker.speech.errors import SpeechError

from .conftest import SAMPLE_CALL


class Worker:
    """What the work asks of its session, and of its inputs."""

    def __init__(self, directory: Path, model: Path, files: Sequence[Path | Exception]) -> None:
        """Instead of a file may stand why there is none."""
        self.directory, self.generation = directory, 1
        self.assignment = worker_pb2.Assignment(
            transcription=worker_pb2.TranscriptionWork(
                tracks=[
                    worker_pb2.TrackWork(speaker=f"speaker {number}", language="en")
                    for number, _ in enumerate(files)
                ],
                model_name="tiny.en",
                engine="ctranslate2",
                threads=1,
                task="transcribe",
                formats=["json"],
            )
        )
        self._model, self._files = model, files
        self._descriptors: list[int] = []

    def report(self, status: worker_pb2.Status) -> None:
        """Nobody looks."""

    def should_stop(self) -> bool:
        """Never."""
        return False

    def model(self, folder: str, pins: object) -> Path:
        """Where the model lies."""
        return self._model

    def open(self, name: str) -> int:
        """A file of the assignment."""
        file = self._files[int(name.removeprefix("media/"))]
        if isinstance(file, Exception):
            raise file
        self._descriptors.append(os.open(file, os.O_RDONLY))
        return self._descriptors[-1]

    def transcribe(self) -> worker_pb2.Outcome:
        """Do the work; what it has left."""
        try:
            transcribe(cast(Session, self), cast(Inputs, self))
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)
        outcome = read_outcome(self.directory, 1)
        assert outcome is not None
        return outcome


Make = Callable[..., Worker]


@pytest.fixture
def worker(tmp_path: Path, model_dir: Callable[[str], Path]) -> Make:
    """Makes workers with these files."""
    (tmp_path / "worker").mkdir()
    return lambda *files: Worker(tmp_path / "worker", model_dir("tiny.en"), files)


def test_a_file_that_is_gone(worker: Make, tmp_path: Path) -> None:
    """One track without its file, and one that is no media, lose nobody else's words."""
    (tmp_path / "bad.ogg").write_bytes(b"no sound" * 100)
    gone = RefusedInputError("[Errno 2] No such file or directory: 'track-000.ogg'")
    outcome = worker(gone, SAMPLE_CALL / "maya.ogg", tmp_path / "bad.ogg").transcribe()

    found = outcome.transcription.tracks
    assert outcome.failure_reason == ""
    assert [track.speaker for track in found] == ["speaker 0", "speaker 1", "speaker 2"]
    assert [track.failure_reason for track in found] == ["MEDIA_NOT_FOUND", "", "INPUT_INVALID"]
    assert "No such file" in found[0].failure_message
    assert [track.speech_seconds > 0 for track in found] == [False, True, False]
    assert outcome.transcription.word_count > 30
    written = json.loads((tmp_path / "worker" / ARTIFACTS / "transcript.json").read_text())
    assert [track["failure_reason"] for track in written["tracks"]] == [
        track.failure_reason for track in found
    ]
    assert {segment["speaker"] for segment in written["segments"]} == {"speaker 1"}


def test_no_file_at_all(worker: Make, tmp_path: Path) -> None:
    """Without a single file the job fails, by what became of it."""
    with pytest.raises(RefusedInputError, match="the second"):
        worker(RefusedInputError("the first"), RefusedInputError("the second")).transcribe()
    assert not (tmp_path / "worker" / OUTCOME).exists()


def test_no_file_of_use(worker: Make, tmp_path: Path) -> None:
    """Nor can one be made of files that are no media."""
    (tmp_path / "bad.ogg").write_bytes(b"no sound" * 100)
    with pytest.raises(SpeechError, match="not a media file"):
        worker(RefusedInputError("gone"), tmp_path / "bad.ogg").transcribe()


def test_a_daemon_that_is_away(worker: Make) -> None:
    """A track is not given up because nobody could be asked for its file."""
    with pytest.raises(InputError, match="away"):
        worker(InputError("the daemon is away"), SAMPLE_CALL / "maya.ogg").transcribe()
