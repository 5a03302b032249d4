# SPDX-License-Identifier: Apache-2.0
"""A Mattermost whose plugin uses the installed service as its job service."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.boot.machine import Machine
from tests.boot.service import CALL, PROGRAMS, WORK_SECONDS, Service
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(300)

TESTS = Path(__file__).parents[1]
PLACE = "/opt/mattermost"
FIRST_SPEAKER, SPOKEN_SECONDS = "nina", 8.0
LISTEN = "127.0.0.1:4545"
KEY = "k" * 32


class Mattermost:
    """The test server, run inside the machine, by hand."""

    def __init__(self, machine: Machine) -> None:
        place = machine.root / PLACE.removeprefix("/") / "tests"
        for name in ("mattermost", "helpers"):
            shutil.copytree(TESTS / name, place / name, dirs_exist_ok=True)
        self._process = subprocess.Popen(
            machine.command(
                *("env", f"PYTHONPATH={PLACE}", f"{PROGRAMS}/python"),
                *("-m", "tests.mattermost.server", "--port", "8065"),
                *("--job-service", f"http://boot:{KEY}@{LISTEN}"),
                *("--sample", f"{CALL}/{FIRST_SPEAKER}.ogg"),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.site = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return dict(answer)

    def __call__(self, command: str) -> dict[str, Any]:
        """Do something; the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def has_started(self) -> bool:
        """Whether the host sees that it records; fails when it does not start."""
        jobs = self("jobs")["jobs"]
        assert not any(job.get("err") for job in jobs), jobs
        return all(job["start_at"] for job in jobs)

    def posts(self, kind: str) -> list[dict[str, Any]]:
        """Posts of this kind in the call's thread."""
        return [post for post in self("thread")["thread"] if post["type"] == kind]


@pytest.fixture
def mattermost(service: Service, machine: Machine) -> Iterator[Mattermost]:
    """A Mattermost with a call, whose plugin has been told of the service."""
    # Other sections have settings of this name, too: the one that comes next tells which.
    following = "\n\n# Other machines may use the gateway"
    service.configure(f'# listen = ""{following}', f'listen = "{LISTEN}"{following}')
    service.configure("# self_registration = false", "self_registration = true")
    service.restart()
    site = Mattermost(machine)
    yield site
    site.close()


class TestMattermost:
    """From the host's click to the thread."""

    def test_a_recording_gets_into_its_thread(
        self, service: Service, mattermost: Mattermost
    ) -> None:
        """[J8] It ends when the host stops it, though the daemon is killed twice meanwhile.

        The recording is in the thread once, byte by byte as it was made, with its transcript; the
        bot's token is in no log and no longer on the disk.
        """
        token = mattermost.site["bot_token"]
        mattermost("start")
        eventually(mattermost.has_started, "the host sees that it records", seconds=55)
        service.kill()
        recording = service.live_job()
        eventually(lambda: service.recorded_seconds(recording) > SPOKEN_SECONDS, "somebody speaks")
        mattermost("stop")
        service.kill()
        for kind in ("custom_calls_recording", "custom_calls_transcription"):
            eventually(lambda: mattermost.posts(kind), kind, seconds=WORK_SECONDS)  # noqa: B023 - now
            assert len(mattermost.posts(kind)) == 1
        (video,) = [one for one in mattermost("files")["files"] if one["name"].endswith(".mp4")]
        kept = service.artifact(recording, "recording.mp4").read_bytes()
        assert sha256(kept).hexdigest() == video["sha256"]
        assert "delivered" in service.callsd("jobs", "deliveries", "--all")
        assert token not in service.machine.journal("callsd")
        assert token not in service.callsd("jobs", "logs", recording)
        database = service.machine.root / "var/lib/callsd"
        assert not [
            path for path in database.glob("callsd.db*") if token.encode() in path.read_bytes()
        ]
