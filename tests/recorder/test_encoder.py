# SPDX-License-Identifier: Apache-2.0

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from callsd_worker.recorder import encoder as encoder_module
from callsd_worker.recorder.encoder import Encoder
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.health import Health, Picture
from callsd_worker.recorder.piece_request import PieceRequest
from callsd_worker.recorder.program_host import ProgramHost
from callsd_worker.recorder.quality import Quality
from tests.helpers.waiting import eventually


QUALITY = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)


@pytest.fixture
def host() -> Iterator[ProgramHost]:
    """Where it runs."""
    host = ProgramHost()
    yield host
    host.close()


def encoder_in(host: ProgramHost, target: Path, told: list[Health]) -> Encoder:
    """An encoder without a display."""
    with (target.parent / "log").open("wb") as log, target.open("w+b") as framebuffer:
        return Encoder(
            host,
            QUALITY,
            target,
            framebuffer=framebuffer.fileno(),
            environment={"DISPLAY": ":65000"},
            on_health=told.append,
            log=log.fileno(),
        )


def test_an_order_arrives_as_it_was_given() -> None:
    """What is told to the process is what it reads."""
    order = PieceRequest(quality=QUALITY, target=Path("/job/ä b.mkv"), report=7, framebuffer=9)
    assert PieceRequest.parse(order.text()) == order


def test_one_that_cannot_be_started_leaves_nothing_open(
    host: ProgramHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no program the error says so, and no pipe made for it stays."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    before = psutil.Process().num_fds()
    with pytest.raises(RecordingError, match="cannot be started") as caught:
        encoder_in(host, tmp_path / "piece.mkv", [])
    assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
    assert psutil.Process().num_fds() == before


def test_one_that_fails_says_why(host: ProgramHost, tmp_path: Path) -> None:
    """A capture without a display ends, and what it said is there to be told."""
    told: list[Health] = []
    encoder = encoder_in(host, tmp_path / "piece.mkv", told)
    eventually(lambda: not encoder.is_running, "it has ended", seconds=20)
    encoder.stop()
    assert encoder.problem == "the display does not answer"
    assert encoder.process.returncode == 1
    assert told == []


FAKE = """
import json, os, signal, sys
order = json.loads(sys.argv[-1])
report = os.fdopen(order["report"], "w")
print(json.dumps({"frame_count": 7, "picture": "moving"}), file=report, flush=True)
signal.signal(signal.SIGTERM, %s)
while True:
    signal.pause()
"""


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, on_stop: str) -> None:
    """Have a program be started that tells something once and then says nothing more."""
    program = tmp_path / "fake"
    program.write_text(f"#!{sys.executable}\n{FAKE % on_stop}", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_what_it_tells_is_passed_on_until_it_is_stopped(
    host: ProgramHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the piece arrives; told to stop, it ends."""
    fake(tmp_path, monkeypatch, on_stop="lambda *_: sys.exit(0)")
    told: list[Health] = []
    encoder = encoder_in(host, tmp_path / "piece.mkv", told)
    eventually(lambda: told, "something is told", seconds=10)
    assert told == [Health(frame_count=7, picture=Picture.MOVING)]
    assert encoder.is_running
    encoder.stop()
    assert not encoder.is_running
    assert encoder.process.returncode == 0


def test_one_that_has_come_to_a_stop_is_not_taken_for_one_that_records(
    host: ProgramHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who says nothing any more counts as ended, and is killed when it does not listen."""
    monkeypatch.setattr(encoder_module, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(encoder_module, "STOP_SECONDS", 0.5)
    fake(tmp_path, monkeypatch, on_stop="signal.SIG_IGN")
    told: list[Health] = []
    encoder = encoder_in(host, tmp_path / "piece.mkv", told)
    eventually(lambda: told and not encoder.is_running, "its silence is noticed", seconds=10)
    assert encoder.process.poll() is None
    encoder.stop()
    assert encoder.process.returncode == -9
