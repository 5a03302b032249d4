# SPDX-License-Identifier: Apache-2.0
"""`callsd captions` with a real daemon, a real captioner and real speech."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_daemon.cli.root import root
from callsd_daemon.cli.shared.exit import Exit
from tests.cli.conftest import Command
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.speech import speech
from tests.helpers.waiting import eventually


StartDaemon = Callable[..., Daemon]


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real worker and tiny.en."""
    return shared_daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})


@pytest.fixture(scope="module")
def streamed(running: Daemon) -> str:
    """A call that was streamed and has ended; the job's name."""
    out = Command(running.address)(
        *("captions", "stream", "--call", SAMPLE_CALL, "--language", "en", "--json")
    )
    name: str = json.loads(out.stdout.splitlines()[-1])["job"]["name"]
    return name


def piped(running: Daemon, data: bytes, *arguments: str) -> str:
    """Stream from stdin; what was printed on stdout."""
    result = CliRunner(env={"CALLSD_ADDRESS": running.address}).invoke(
        root, ["captions", "stream", "--call", "-", *arguments], input=data
    )
    assert result.exit_code == 0, result.output
    return result.stdout


class TestStream:
    """From files to captions."""

    def test_whole_call(self, callsd_up: Command, streamed: str, tmp_path: Path) -> None:
        """The call is captioned, stopped, counted, and its files can be fetched."""
        job = callsd_up.json("jobs", "get", streamed)
        callsd_up("jobs", "fetch", streamed, "-o", tmp_path)

        assert job["state"] == "JOB_STATE_SUCCEEDED"
        assert job["captions_result"]["speaker_count"] == 4
        assert job["captions_result"]["word_count"] > 150
        assert "skipped_duration" not in job["captions_result"] or (
            job["captions_result"]["skipped_duration"] == "0s"
        )
        assert (tmp_path / "captions.vtt").read_text().startswith("WEBVTT")

    def test_stdin_and_a_job_that_is_kept(self, callsd_up: Command, running: Daemon) -> None:
        """Sound from a pipe; --keep leaves the job open, and --job goes on behind its sound."""
        name = callsd_up("captions", "create", "--language", "en").stdout.strip()
        piece = speech("kenji", 26.0, 32.0).tobytes()
        first = piped(running, piece, "--job", name, "--keep", "--speaker", "Kenji")
        state = running.client().get_job(name).state
        piped(running, piece, "--job", name, "--speaker", "Kenji")
        lines = callsd_up("captions", "watch", name).stdout.splitlines()

        assert state == JOB_STATE_RUNNING
        assert first.startswith("[00:00] Kenji: ")
        assert running.client().get_job(name).state == JOB_STATE_SUCCEEDED
        assert lines[0] == first.splitlines()[0]
        assert len(lines) >= 2
        assert lines[-1] > "[00:06] Kenji: "

    def test_bad_sound_makes_no_job(
        self, callsd_up: Command, running: Daemon, tmp_path: Path
    ) -> None:
        """What cannot be decoded is told before a job is asked for."""
        before = len(list(running.client().list_jobs()))
        (tmp_path / "a.ogg").write_bytes(b"text")
        result = callsd_up("captions", "stream", "--call", tmp_path, exit_code=Exit.FAILED)

        assert "a.ogg: not a media file" in result.stderr
        assert len(list(running.client().list_jobs())) == before

    def test_interrupt_ends_in_order(self, running: Daemon) -> None:
        """Ctrl-C captions what was sent, stops the job and tells what there is."""
        command = [
            *(sys.executable, "-c", "from callsd_daemon.cli.main import main; main()"),
            *("captions", "stream", "--call", str(SAMPLE_CALL), "--realtime"),
        ]
        process = subprocess.Popen(
            command,
            env={**os.environ, "CALLSD_ADDRESS": running.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        name = next(text.split()[1] for text in said.splitlines() if text.startswith("job:"))

        assert process.returncode == Exit.INTERRUPTED
        assert first.startswith("[00:0")
        assert "Traceback" not in said
        assert "file:       captions.vtt" in said
        assert running.client().get_job(name).state == JOB_STATE_SUCCEEDED


class TestWatch:
    """Reading along."""

    def test_ended_call(self, callsd_up: Command, streamed: str) -> None:
        """All captions of a call that has ended, or those from a number on."""
        lines = callsd_up("captions", "watch", streamed).stdout.splitlines()
        some = callsd_up("captions", "watch", streamed, "--from", "3").stdout.splitlines()

        assert min(lines).startswith("[00:0")  # by number, and so by when they were settled
        assert some == lines[2:]

    def test_json(self, callsd_up: Command, streamed: str) -> None:
        """Final captions are numbered without gap."""
        out = callsd_up("captions", "watch", streamed, "--json").stdout
        numbers = [int(json.loads(text)["caption"]["sequence"]) for text in out.splitlines()]

        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 10

    def test_live(self, running: Daemon) -> None:
        """A viewer of a call that goes on ends with it."""
        client = running.client()
        name = Command(running.address)("captions", "create").stdout.strip()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from callsd_daemon.cli.main import main; main()"),
                *("captions", "watch", name),
            ],
            env={**os.environ, "CALLSD_ADDRESS": running.address},
            stdout=subprocess.PIPE,
            text=True,
        )
        shown = piped(
            running, speech("kenji", 26.0, 32.0).tobytes(), "--job", name, "--speaker", "K"
        )
        out, _ = process.communicate(timeout=30)

        assert out == shown
        assert process.returncode == 0
        eventually(lambda: client.get_job(name).HasField("end_time"), "it has ended")

    def test_no_captions(self, callsd_up: Command) -> None:
        """A job that is not there is told."""
        callsd_up("captions", "watch", "a" * 20, exit_code=Exit.NOT_FOUND)


class TestCreate:
    """The job alone."""

    def test_all_settings_arrive(self, callsd_up: Command) -> None:
        """Every option reaches its field; nothing is created."""
        job = callsd_up.json(
            *("captions", "create", "--validate-only", "--model", "tiny.en", "--language", "en"),
            *("--active-speakers", "3", "--label", "call=one", "--max-duration", "2h"),
        )["job"]

        assert job["captions"] == {
            "model": "tiny.en",
            "language": "en",
            "max_active_speakers": 3,
        }
        assert (job["labels"], job["max_duration"], job["name"]) == ({"call": "one"}, "7200s", "")
