# SPDX-License-Identifier: Apache-2.0
"""What a worker does to have the daemon know: its log, its outcome, and what it holds on to."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import callsd_ipc
import callsd_worker
from callsd_ipc.names import ARTIFACTS, MAX_OUTCOME_BYTES, OUTCOME
from callsd_ipc.v1 import worker_pb2
from callsd_worker.capture.call import JoinError
from callsd_worker.main import _work
from callsd_worker.session import inputs
from callsd_worker.session.bootstrap import (
    hello,
    is_captioner,
    is_capturer,
    is_recorder,
    read_bootstrap,
)
from callsd_worker.session.client import (
    LOG_CHUNK_BYTES,
    MAX_LOG_BACKLOG_BYTES,
    LogTail,
    Session,
)
from callsd_worker.session.failures import failure_of
from callsd_worker.session.inputs import InputError, Inputs, RefusedInputError
from callsd_worker.session.outcome import (
    artifact_of,
    has_outcome,
    read_outcome,
    write_artifact,
    write_outcome,
)
from callsd_worker.session.transcription import transcribe
from tests.helpers.syncs import watch_syncs


class TestBootstrap:
    """What a worker is started with."""

    def test_whole(self) -> None:
        """A bootstrap is read, and the worker presents itself by it."""
        told = worker_pb2.Bootstrap(
            job_id="job",
            generation=3,
            token="secret",
            role=worker_pb2.ROLE_RECORDER,
            endpoint="unix:/run/door.sock",
        )
        found = read_bootstrap(told.SerializeToString())

        assert found == told
        assert (is_recorder(found), is_captioner(found)) == (True, False)
        assert hello(found, is_assigned=True) == worker_pb2.Hello(
            job_id="job", generation=3, token="secret", protocol_version=2, is_assigned=True
        )

    def test_capturer(self) -> None:
        """Who is to capture a call is no recorder."""
        told = worker_pb2.Bootstrap(role=worker_pb2.ROLE_CAPTURER)

        assert (is_capturer(told), is_recorder(told), is_captioner(told)) == (True, False, False)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff" * 10,
            worker_pb2.Bootstrap(token="secret").SerializeToString(),
            worker_pb2.Bootstrap(endpoint="unix:/run/door.sock").SerializeToString(),
        ],
        ids=["nothing", "garbage", "of the release before", "without a token"],
    )
    def test_none(self, data: bytes) -> None:
        """What is no bootstrap of this release is none."""
        assert read_bootstrap(data) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (JoinError("the call was not joined within 45 s"), "CALL_UNAVAILABLE"),
        (RefusedInputError("it is gone"), "MEDIA_NOT_FOUND"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (ValueError("a bug"), "INTERNAL"),
    ],
    ids=repr,
)
def test_failures(error: Exception, reason: str) -> None:
    """What ended the work is told by a reason of the list, and in words."""
    found, message = failure_of(error)

    assert found == reason
    assert message


def test_no_file_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that gives no file for now says nothing about the job: another worker may do it."""
    monkeypatch.setattr(inputs, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(os, "nice", lambda _more: 0)
    bootstrap = worker_pb2.Bootstrap(file_socket=str(tmp_path / "files.sock"))
    work = worker_pb2.TranscriptionWork(model_files=[worker_pb2.FilePin(path="model.bin")])
    session = SimpleNamespace(
        assignment=worker_pb2.Assignment(transcription=work),
        directory=tmp_path,
        generation=1,
        report=lambda _status: None,
    )

    with pytest.raises(InputError):
        _work(cast(Session, session), bootstrap)
    assert not has_outcome(tmp_path, 1)


class TestLogTail:
    """What of the log the daemon does not have."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The log."""
        return tmp_path / "log.txt"

    @pytest.fixture
    def tail(self, path: Path) -> LogTail:
        """Its end, for a daemon that has nothing of it."""
        tail = LogTail(path)
        tail.offset = 0
        return tail

    def rest(self, tail: LogTail) -> list[worker_pb2.LogData]:
        """All that there is to tell."""
        parts = []
        while (part := tail.next()) is not None:
            parts.append(part)
        return parts

    def test_not_known_yet(self, path: Path) -> None:
        """Nothing is told before the daemon has said what it has."""
        path.write_bytes(b"words")

        assert LogTail(path).next() is None

    def test_no_log(self, tail: LogTail) -> None:
        """Without a log there is nothing to tell."""
        assert tail.next() is None

    def test_goes_on(self, path: Path, tail: LogTail) -> None:
        """What is written is told once."""
        path.write_bytes(b"one\n")
        assert self.rest(tail) == [worker_pb2.LogData(offset=0, data=b"one\n")]
        with path.open("ab") as file:
            file.write(b"two\n")

        assert self.rest(tail) == [worker_pb2.LogData(offset=4, data=b"two\n")]
        assert self.rest(tail) == []

    def test_from_where_it_is_kept(self, path: Path, tail: LogTail) -> None:
        """What the daemon has is not told again."""
        path.write_bytes(b"one\ntwo\n")
        tail.offset = 4

        assert self.rest(tail) == [worker_pb2.LogData(offset=4, data=b"two\n")]

    def test_chunks(self, path: Path, tail: LogTail) -> None:
        """A long log is told in parts that a message holds."""
        content = os.urandom(3 * LOG_CHUNK_BYTES + 5)
        path.write_bytes(content)
        parts = self.rest(tail)

        assert [len(part.data) for part in parts] == [LOG_CHUNK_BYTES] * 3 + [5]
        assert [part.offset for part in parts] == [n * LOG_CHUNK_BYTES for n in range(4)]
        assert b"".join(part.data for part in parts) == content

    @pytest.mark.parametrize("left", [b"", b"new\n"])
    def test_cut(self, path: Path, tail: LogTail, left: bytes) -> None:
        """A log that was cut is told from its new beginning."""
        path.write_bytes(b"one\ntwo\n")
        self.rest(tail)
        path.write_bytes(left)
        parts = self.rest(tail)

        assert parts == ([worker_pb2.LogData(offset=0, data=left)] if left else [])
        assert tail.offset == len(left)

    def test_backlog(self, path: Path, tail: LogTail) -> None:
        """Of a log that grows faster than it is told, the end is told, and what is lost shows."""
        path.write_bytes(b"one\n")
        self.rest(tail)
        content = os.urandom(10 * MAX_LOG_BACKLOG_BYTES)
        with path.open("ab") as file:
            file.write(content)
        parts = self.rest(tail)

        assert parts[0].offset == 4 + len(content) - MAX_LOG_BACKLOG_BYTES
        assert b"".join(part.data for part in parts) == content[-MAX_LOG_BACKLOG_BYTES:]


class TestOutcome:
    """What lies in the worker's directory until it is taken over."""

    def test_left(self, tmp_path: Path) -> None:
        """An outcome is read by who has the same generation."""
        write_outcome(tmp_path, 2, failure=("INTERNAL", "a bug"), metadata={"a": "b"})
        found = read_outcome(tmp_path, 2)

        assert has_outcome(tmp_path, 2)
        assert found is not None
        assert (found.failure_reason, found.failure_message) == ("INTERNAL", "a bug")
        assert dict(found.failure_metadata) == {"a": "b"}
        assert [path.name for path in tmp_path.iterdir()] == [OUTCOME]

    def test_of_another_generation(self, tmp_path: Path) -> None:
        """What another worker has left is none of ours, and is removed."""
        write_outcome(tmp_path, 1)
        assert read_outcome(tmp_path, 2) is None
        assert not has_outcome(tmp_path, 2)

        assert list(tmp_path.iterdir()) == []

    def test_disk_has_the_names_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever a result names is on the disk under its name before the outcome says so."""
        (tmp_path / ARTIFACTS).mkdir()
        (tmp_path / ARTIFACTS / "joined").write_bytes(b"film")
        artifact = artifact_of(tmp_path, "joined", "video/mp4")
        order = watch_syncs(monkeypatch)
        write_outcome(tmp_path, 1, artifacts=[artifact])

        assert order == [ARTIFACTS, f".{OUTCOME}.part", tmp_path.name]

    def test_none(self, tmp_path: Path) -> None:
        """Where nothing lies, there is none."""
        assert read_outcome(tmp_path, 1) is None
        assert not has_outcome(tmp_path, 1)

    @pytest.mark.parametrize("form", ["garbage", "link", "pipe", "too long"])
    def test_no_outcome(self, tmp_path: Path, form: str) -> None:
        """What is no outcome is not followed nor waited for, and is removed."""
        place, other = tmp_path / OUTCOME, tmp_path / "other"
        whole = worker_pb2.Outcome(generation=1).SerializeToString()
        if form == "garbage":
            place.write_bytes(b"\xff" * 100)
        elif form == "link":
            other.write_bytes(whole)
            place.symlink_to(other)
        elif form == "pipe":
            os.mkfifo(place)
        else:
            text = "m" * MAX_OUTCOME_BYTES
            place.write_bytes(
                worker_pb2.Outcome(generation=1, failure_message=text).SerializeToString()
            )
        assert read_outcome(tmp_path, 1) is None
        assert not has_outcome(tmp_path, 1)

        assert not os.path.lexists(place)
        assert form != "link" or other.read_bytes() == whole

    def test_artifacts(self, tmp_path: Path) -> None:
        """A file that was made is described as it is, however it was made."""
        written = write_artifact(tmp_path, "words.txt", "text/plain", b"words")

        assert (tmp_path / ARTIFACTS / "words.txt").read_bytes() == b"words"
        assert written == artifact_of(tmp_path, "words.txt", "text/plain")
        assert written.size_bytes == 5
        assert [path.name for path in (tmp_path / ARTIFACTS).iterdir()] == ["words.txt"]


HOLD = """
import subprocess, sys
from pathlib import Path
from callsd_worker.session.code import hold_code

directory, installed = Path(sys.argv[1]), Path(sys.argv[2])
is_loaded = "callsd_worker.recorder.pieces" in sys.modules
hold_code(directory)
installed.rename(installed.with_name("replaced"))
from callsd_worker.recorder import pieces, quality
child = "import callsd_worker.recorder.pieces as one; print(one.__file__)"
told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
print(is_loaded, pieces.__file__, quality.__file__, told.stdout.strip(), sep="\\n")
"""
"""A worker whose installation is replaced under it."""


class TestHoldCode:
    """A worker goes on with the code that it began with."""

    @pytest.fixture
    def installed(self, tmp_path: Path) -> Path:
        """An installation of its own."""
        installed = tmp_path / "installed"
        for package in (callsd_worker, callsd_ipc):
            source = Path(package.__path__[0])
            shutil.copytree(
                source, installed / source.name, ignore=shutil.ignore_patterns("__pycache__")
            )
        return installed

    def hold(self, directory: Path, installed: Path) -> list[str]:
        """Run that worker; returns whether it had loaded a module, and where modules come from."""
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run(
            [sys.executable, "-c", HOLD, str(directory), str(installed)],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @pytest.mark.parametrize("has_old_copy", [False, True])
    def test_replaced(self, tmp_path: Path, installed: Path, *, has_old_copy: bool) -> None:
        """What was not loaded before the installation went away comes from the copy.

        In the worker and in the programs that it starts, and never from an older copy.
        """
        directory = tmp_path / "worker"
        pieces = directory / "code" / "callsd_worker" / "recorder" / "pieces.py"
        directory.mkdir()
        if has_old_copy:
            pieces.parent.mkdir(parents=True)
            pieces.write_text("raise RuntimeError('this is the code of an earlier worker')")
        is_loaded, *places = self.hold(directory, installed)

        quality = pieces.with_name("quality.py")
        assert is_loaded == "False"
        assert places == [str(pieces), str(quality), str(pieces)]


class TestNobodyHasSpoken:
    """A transcription of a call that was heard to its end, and of which there are no tracks."""

    def test_is_empty(self, tmp_path: Path) -> None:
        """It succeeds as that of a silent track does, with empty files, and loads no engine."""
        work = worker_pb2.TranscriptionWork(
            model_name="tiny", engine="ctranslate2", formats=["vtt", "txt", "srt", "json"]
        )
        session = SimpleNamespace(
            assignment=worker_pb2.Assignment(transcription=work),
            directory=tmp_path,
            generation=2,
            report=lambda status: None,
            should_stop=lambda: False,
        )
        inputs = SimpleNamespace(model=lambda folder, pins: tmp_path / "there is none")
        transcribe(cast(Session, session), cast(Inputs, inputs))
        outcome = worker_pb2.Outcome.FromString((tmp_path / OUTCOME).read_bytes())

        assert outcome.failure_reason == ""
        assert outcome.transcription == worker_pb2.TranscriptionOutcome()
        names = [artifact.file_name for artifact in outcome.artifacts]
        assert names == [f"transcript.{suffix}" for suffix in work.formats]
        assert (tmp_path / ARTIFACTS / "transcript.vtt").read_text() == "WEBVTT\n"
