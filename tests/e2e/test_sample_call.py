# SPDX-License-Identifier: Apache-2.0
"""The sample call, from the command line to the transcript."""

import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_bench.shared.accuracy import HeardSegment, word_error_rate
from callsd_bench.shared.call import load_call
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.transcripts import JOB_SECONDS, submit, transcript
from tests.helpers.waiting import eventually


MAX_WER = 0.10

TRACKS = [SAMPLE_CALL / f"{speaker}.ogg" for speaker in ("joe", "kenji", "maya", "nina")]
NINA = SAMPLE_CALL / "nina.ogg"


def wer(document: str, *speakers: str) -> float:
    """Word error rate of a transcript in JSON against what was said, by these or by all."""
    heard = [
        HeardSegment(
            speaker=segment["speaker"],
            start_seconds=segment["start_seconds"],
            text=segment["text"],
        )
        for segment in json.loads(document)["segments"]
    ]
    call = load_call(SAMPLE_CALL)
    turns = tuple(turn for turn in call.turns if not speakers or turn.speaker in speakers)
    return word_error_rate([replace(call, turns=turns)], [heard])


def callsd(server: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line against a daemon."""
    return subprocess.run(
        server.command(*arguments),
        env={
            **server.env,
            "CALLSD_ADDRESS": server.address,
            "CALLSD_TOKEN_FILE": str(server.token_file),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture(scope="module")
def transcribed(server: Daemon, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `callsd jobs create --wait` prints about the sample call, and where its files are."""
    target = tmp_path_factory.mktemp("call")
    done = callsd(server, "jobs", "create", "--call", str(SAMPLE_CALL), "--wait", "-o", str(target))
    assert done.returncode == 0, done.stderr
    return done.stdout, target


def test_by_the_command_line(server: Daemon, transcribed: tuple[str, Path]) -> None:
    """`callsd jobs create --wait` transcribes rightly, and says how fast it was."""
    printed, target = transcribed

    speed = re.search(r"([\d.]+) ?× real time", printed)
    assert speed is not None, printed
    assert float(speed[1]) > 1
    (document,) = target.rglob("transcript.json")
    assert wer(document.read_text()) <= MAX_WER
    assert_invariants(server)


def test_worker_killed(server: Daemon, api: Api, transcribed: tuple[str, Path]) -> None:
    """A transcription whose worker is killed in the middle is done again, with the same result."""
    with Recorder(server) as recorder:
        name = submit(server, api, *TRACKS)
        server.wait(api, name, JOB_STATE_RUNNING)
        eventually(
            lambda: server.job(api, name).progress.phase == "recognising",
            "the worker is at work",
            seconds=30,
        )
        os.kill(server.worker(name), signal.SIGKILL)
        again = server.wait(api, name, seconds=JOB_SECONDS)

        assert (again.state, again.attempt) == (JOB_STATE_SUCCEEDED, 2)
        assert [notice.code for notice in again.notices] == ["WORKER_RESTARTED"]
        (whole,) = transcribed[1].rglob("transcript.vtt")
        assert transcript(server, again, "vtt") == whole.read_text()
        assert_invariants(server, recorder)


def test_daemon_killed(daemon: StartDaemon, models_directory: Path) -> None:
    """A transcription goes on while the daemon is away, and the next one hands out its result."""
    one = daemon(is_real=True)
    api = one.api()
    name = submit(one, api, NINA)
    one.wait(api, name, JOB_STATE_RUNNING)
    worker = one.worker(name)
    one.kill()
    api = one.start().api()
    job = one.wait(api, name, seconds=JOB_SECONDS)

    assert worker not in one.worker_pids()
    assert (job.state, job.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert wer(transcript(one, job, "json"), "nina") <= MAX_WER
    assert_invariants(one)
