# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs` and `callsd capacity` with a real daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from callsd_daemon.cli.shared.exit import Exit
from tests.cli.conftest import Command
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.waiting import eventually


@pytest.fixture
def track(running: Daemon) -> str:
    """A track that the daemon sees."""
    return f"Ada={running.track}"


class TestCreate:
    """Asking for a job."""

    def test_name_alone_on_stdout(self, callsd_up: Command, track: str) -> None:
        """A script reads the job's name from stdout; the rest goes to stderr."""
        result = callsd_up("jobs", "create", "--track", track, "--prompt", "succeed")

        assert result.stdout.startswith("jobs/")
        assert len(result.stdout.split()) == 1
        assert "callsd jobs watch" in result.stderr

    def test_wait_and_fetch(self, callsd_up: Command, track: str, tmp_path: Path) -> None:
        """-o waits for the end, stores the results, and lists them once: where they are."""
        out = tmp_path / "out"
        said = callsd_up("jobs", "create", "--track", track, "--prompt", "succeed", "-o", out)

        assert said.stdout.count("transcript.vtt") == 1
        assert f"{out / 'transcript.vtt'}  7 B" in said.stdout
        assert (out / "transcript.vtt").read_bytes() == b"WEBVTT\n"

    def test_failed_job_is_exit_code_1(self, callsd_up: Command, track: str) -> None:
        """A job that fails is told with its reason."""
        result = callsd_up(
            *("jobs", "create", "--track", track, "--prompt", "fail INPUT_INVALID", "--follow"),
            exit_code=Exit.FAILED,
        )

        assert "INPUT_INVALID" in result.stdout

    def test_file_the_server_cannot_see_is_sent(self, callsd_up: Command, tmp_path: Path) -> None:
        """A file outside the media roots is uploaded, without being asked for."""
        (tmp_path / "b.wav").write_bytes(b"RIFF" * 1000)
        job = callsd_up.json(
            *("jobs", "create", "--track", f"Bob={tmp_path / 'b.wav'}@1:30"),
            *("--prompt", "succeed", "--wait"),
        )
        sent = job["transcription"]["tracks"][0]

        assert job["state"] == "JOB_STATE_SUCCEEDED"
        assert sent["upload"].startswith("uploads/")
        assert sent["start_offset"] == "90s"

    def test_all_settings_arrive(self, callsd_up: Command, track: str) -> None:
        """Every option reaches its field."""
        created = callsd_up.json(
            *("jobs", "create", "--validate-only", "--track", track, "--model", "tiny.test"),
            *("--engine", "whispercpp", "--threads", "1", "--language", "en"),
            *("--task", "translate", "--prompt", "Hello.", "--vocabulary", "callsd"),
            *("--format", "vtt", "--format", "json", "--label", "call=one", "--max-duration", "2h"),
        )
        job = created["job"]

        assert job["labels"] == {"call": "one"}
        assert job["max_duration"] == "7200s"
        assert job["name"] == ""
        assert {
            key: job["transcription"][key]
            for key in ("model", "engine", "threads", "language", "task", "vocabulary", "formats")
        } == {
            "model": "tiny.test",
            "engine": "SPEECH_ENGINE_WHISPERCPP",
            "threads": 1,
            "language": "en",
            "task": "TRANSCRIPTION_TASK_TRANSLATE",
            "vocabulary": ["callsd"],
            "formats": ["TRANSCRIPT_FORMAT_VTT", "TRANSCRIPT_FORMAT_JSON"],
        }
        assert job["transcription"]["initial_prompt"] == "Hello."

    def test_validate_only_says_the_verdict(self, callsd_up: Command, track: str) -> None:
        """For a person, one line."""
        result = callsd_up("jobs", "create", "--track", track, "--validate-only")

        assert result.stdout.startswith("valid: it would start now (1 cores,")

    def test_validate_only_of_files_that_are_sent(
        self, callsd_up: Command, running: Daemon, tmp_path: Path
    ) -> None:
        """What would be uploaded is looked at here; nothing is sent, and the verdict is whole."""
        uploads = running.state / "uploads"
        before = sorted(uploads.iterdir())
        path = tmp_path / "a.ogg"
        shutil.copyfile(SAMPLE_CALL / "maya.ogg", path)
        ask = ("jobs", "create", "--track", f"Ada={path}", "--validate-only")

        assert callsd_up(*ask).stdout.startswith("valid: it would start now (1 cores,")
        assert "MODEL_UNKNOWN" in callsd_up(*ask, "--model", "none", exit_code=4).stderr
        assert sorted(uploads.iterdir()) == before

    def test_validate_only_of_what_cannot_be_sent(self, callsd_up: Command, tmp_path: Path) -> None:
        """A file without sound, and one that is too large, are told before anything is sent."""
        noise, large = tmp_path / "noise.wav", tmp_path / "large.wav"
        noise.write_bytes(b"no sound")
        large.touch()
        os.truncate(large, 5 << 30)
        ask = ("jobs", "create", "--validate-only", "--track")

        assert "INPUT_INVALID" in callsd_up(*ask, f"Ada={noise}", exit_code=Exit.FAILED).stderr
        said = callsd_up(*ask, f"Ada={large}", exit_code=Exit.REFUSED).stderr
        assert "5.37 GB, and media.max_upload_bytes allows 4.29 GB" in said

    def test_invalid_request(self, callsd_up: Command, track: str) -> None:
        """The server's refusal of a field names the field."""
        result = callsd_up(
            *("jobs", "create", "--track", track, "--label", f"k={'v' * 300}"), exit_code=Exit.USAGE
        )

        assert "labels" in result.stderr
        assert "FIELD_INVALID" in result.stderr

    def test_unknown_model(self, callsd_up: Command, track: str) -> None:
        """A refusal says the reason and what to do."""
        result = callsd_up(
            *("jobs", "create", "--track", track, "--model", "nothing"), exit_code=Exit.NOT_FOUND
        )

        assert "MODEL_UNKNOWN" in result.stderr


class TestLook:
    """Looking at jobs."""

    def test_get_list_logs_delete(self, callsd_up: Command, track: str) -> None:
        """A job is found by its bare identifier in all places, until it is deleted."""
        name = callsd_up.json(
            *("jobs", "create", "--track", track, "--prompt", "succeed"),
            *("--label", "look=1", "--wait"),
        )["name"]
        bare = name.removeprefix("jobs/")
        rows = callsd_up("jobs", "list", "--label", "look=1").stdout.splitlines()

        assert [row.split("\t")[:2] for row in rows] == [["JOB", "STATE"], [bare, "succeeded"]]
        assert [job["name"] for job in callsd_up.json("jobs", "list", "--label", "look=1")] == [
            name
        ]
        assert callsd_up.json("jobs", "list", "--label", "look=1", "--state", "failed") == []
        assert callsd_up.json("jobs", "get", bare)["name"] == name
        assert "transcript.vtt  7 B" in callsd_up("jobs", "get", bare).stdout
        callsd_up("jobs", "logs", bare)
        callsd_up("jobs", "delete", bare)
        callsd_up("jobs", "get", bare, exit_code=Exit.NOT_FOUND)

    def test_fetch(self, callsd_up: Command, track: str, tmp_path: Path) -> None:
        """All results or the one named; one that is not there is an error."""
        name = callsd_up.json("jobs", "create", "--track", track, "--prompt", "succeed", "--wait")[
            "name"
        ]
        callsd_up("jobs", "fetch", name, "-o", tmp_path / "all")
        fetched = callsd_up.json("jobs", "fetch", name, "transcript.vtt", "-o", tmp_path / "one")
        callsd_up("jobs", "fetch", name, "nothing.vtt", "-o", tmp_path, exit_code=Exit.NOT_FOUND)

        assert [path.name for path in (tmp_path / "all").iterdir()] == ["transcript.vtt"]
        assert fetched[0]["path"] == str(tmp_path / "one" / "transcript.vtt")

    def test_stop(self, callsd_up: Command, track: str) -> None:
        """A running job is stopped; its follower ends with 1."""
        name = callsd_up("jobs", "create", "--track", track, "--prompt", "sleep").stdout.strip()
        stopped = callsd_up.json("jobs", "stop", name, "--wait")

        assert stopped["state"] == "JOB_STATE_CANCELLED"
        callsd_up("jobs", "watch", name, exit_code=Exit.FAILED)

    def test_capacity(self, callsd_up: Command) -> None:
        """The account of the machine, for people and for programs."""
        assert callsd_up("capacity").stdout.splitlines()[1].startswith("cores\t4.00\t")
        assert callsd_up.json("capacity")["cores"]["total"] == 4.0


class TestWatch:
    """Following."""

    def test_json_lines(self, callsd_up: Command, track: str) -> None:
        """With --json each change is one object on a line, the last one final."""
        name = callsd_up("jobs", "create", "--track", track, "--prompt", "sleep 0.3").stdout.strip()
        lines = callsd_up("jobs", "watch", name, "--json").stdout.splitlines()
        jobs = [json.loads(line)["job_changed"] for line in lines]

        assert {job["name"] for job in jobs} == {name}
        assert jobs[-1]["state"] == "JOB_STATE_SUCCEEDED"

    def test_interrupt_leaves_the_job(self, running: Daemon, track: str) -> None:
        """Ctrl-C says that the job goes on and how to come back."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from callsd_daemon.cli.main import main; main()"),
                *("jobs", "create", "--track", track, "--prompt", "sleep", "--follow"),
            ],
            env={**os.environ, "CALLSD_ADDRESS": running.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        bare = first.split()[0]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        client = running.client()

        assert process.returncode == Exit.INTERRUPTED
        assert f"callsd jobs watch {bare}" in said
        assert "Traceback" not in said
        client.stop_job(bare)
        eventually(lambda: client.get_job(bare).HasField("end_time"), "it ends")
