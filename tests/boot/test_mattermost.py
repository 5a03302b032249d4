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
from tests.boot.service import CALL, CAPTIONER, PROGRAMS, WORK_SECONDS, Service, capturer
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(300)

TESTS = Path(__file__).parents[1]
PLACE = "/opt/mattermost"
FIRST_SPEAKER, SPOKEN_SECONDS = "nina", 8.0
LISTEN = "127.0.0.1:4545"
KEY = "k" * 32
NETWORK = "192.0.2.1/32"
TRANSCRIPT = "custom_calls_transcription"


class Mattermost:
    """The test server, run inside the machine, by hand."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
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

    def speak(self, name: str) -> None:
        """Have a speaker of the sample call join, and say what is said there."""
        self(f"speak {name} {CALL}/{name}.ogg")

    def captions(self) -> list[dict[str, Any]]:
        """What was shown in the call so far."""
        return list(self("captions")["captions"])

    def captioned(self) -> set[str]:
        """Whose words were shown, by their sessions."""
        return {caption["session_id"] for caption in self.captions()}

    def posts(self, kind: str) -> list[dict[str, Any]]:
        """Posts of this kind in the call's thread."""
        return [post for post in self("thread")["thread"] if post["type"] == kind]

    def transcript(self) -> str:
        """The text of the one transcript in the thread, once it is there."""
        eventually(lambda: self.posts(TRANSCRIPT), TRANSCRIPT, seconds=WORK_SECONDS)
        (post,) = self.posts(TRANSCRIPT)
        (text,) = [
            one["path"]
            for one in self("files")["files"]
            if one["id"] in post["file_ids"] and one["name"].endswith(".txt")
        ]
        return self._machine.path(text).read_text()


@pytest.fixture
def mattermost(service: Service, machine: Machine) -> Iterator[Mattermost]:
    """A Mattermost with a call, whose plugin has been told of the service."""
    # Other sections have settings of this name, too: the one that comes next tells which.
    following = "\n\n# Other machines may use the gateway"
    listening = f'listen = "{LISTEN}"{following}'
    if listening not in service.configuration():
        service.configure(f'# listen = ""{following}', listening)
        service.configure("# self_registration = false", "self_registration = true")
        service.restart()
    if NETWORK not in machine.run("ip", "address", "show", "dev", "lo"):
        # Media takes an address that is no loopback, as every machine in a call has one.
        machine.run("ip", "address", "add", NETWORK, "dev", "lo")
    site = Mattermost(machine)
    yield site
    site.close()


class TestMattermost:
    """From the host's click to the thread."""

    def test_a_call_gets_into_its_thread(self, service: Service, mattermost: Mattermost) -> None:
        """[J8] It ends when the host stops it, though the daemon is killed twice meanwhile.

        The recording is in the thread once, byte by byte as it was made, with the transcript of
        what each speaker said, before and after the daemon was killed; captions go on. The bot's
        token is in no log and no longer on the disk.
        """
        token = mattermost.site["bot_token"]
        mattermost("start")
        eventually(mattermost.has_started, "the host sees that it records", seconds=55)
        mattermost.speak(FIRST_SPEAKER)
        mattermost.speak("joe")
        eventually(mattermost.captions, "captions in the call", seconds=WORK_SECONDS)
        service.kill()
        eventually(lambda: len(mattermost.captioned()) == 2, "captions go on", seconds=60)
        recording, capture = service.live_job(), service.live_job("capture")
        eventually(lambda: service.recorded_seconds(recording) > SPOKEN_SECONDS, "they speak")
        mattermost("stop")
        service.kill()
        for kind in ("custom_calls_recording", TRANSCRIPT):
            eventually(lambda: mattermost.posts(kind), kind, seconds=WORK_SECONDS)  # noqa: B023 - now
            assert len(mattermost.posts(kind)) == 1
        (video,) = [one for one in mattermost("files")["files"] if one["name"].endswith(".mp4")]
        kept = service.artifact(recording, "recording.mp4").read_bytes()
        assert sha256(kept).hexdigest() == video["sha256"]
        text = mattermost.transcript()
        assert "notes" in text, text
        assert all(name in text for name in (FIRST_SPEAKER, "joe")), text
        assert "delivered" in service.callsd("jobs", "deliveries", "--all")
        assert token not in service.machine.journal("callsd")
        for job in (recording, capture):
            assert token not in service.callsd("jobs", "logs", job)
        database = service.machine.root / "var/lib/callsd"
        assert not [
            path for path in database.glob("callsd.db*") if token.encode() in path.read_bytes()
        ]

    def test_what_a_killed_bot_has_heard(self, service: Service, mattermost: Mattermost) -> None:
        """The bot is killed: nobody may join again for it. What it has heard is transcribed.

        The captioner is killed before: there is another one, and captions go on.
        """
        mattermost("start")
        eventually(mattermost.has_started, "the host sees that it records", seconds=55)
        mattermost.speak(FIRST_SPEAKER)
        eventually(mattermost.captions, "captions in the call", seconds=WORK_SECONDS)
        shown = len(mattermost.captions())
        service.machine.run("systemctl", "kill", "--signal=KILL", CAPTIONER)
        eventually(lambda: len(mattermost.captions()) > shown, "captions go on", seconds=60)
        unit = capturer(service.live_job("capture"))
        service.machine.run("systemctl", "kill", "--signal=KILL", unit)
        eventually(lambda: not service.process(unit), "the bot is gone")
        mattermost("stop")
        assert "notes" in mattermost.transcript()
