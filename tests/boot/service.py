# SPDX-License-Identifier: Apache-2.0
"""callsd on a machine: its command line as people there use it, and what systemd has of it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest

from callsd import FINAL_STATES, Client, job_filter
from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
    JobState,
)
from callsd_daemon.workers.slot import captioner_name
from tests.boot.machine import Machine
from tests.helpers.daemon import SAMPLE_CALL
from tests.helpers.waiting import eventually


PROGRAMS = "/opt/callsd/bin"
MODEL = "tiny.en"
CALL = "/opt/callsd/lib/python3.11/site-packages/callsd_bench/sample_call"
STATE = "/var/lib/callsd"
RUNTIME = "/run/callsd"

WORK_SECONDS = 120.0
"""How long a job may take on a machine that is busy otherwise."""

CAPTIONER = f"callsd-captioner@{captioner_name(MODEL)}.service"

PAGE_SERVER = """\
import pathlib, shutil, sys, tempfile
from importlib.util import find_spec
# Of a copy: what is installed may be upgraded meanwhile.
place = pathlib.Path(tempfile.mkdtemp())
shutil.copytree(pathlib.Path(find_spec("callsd_bench").origin).parent, place / "callsd_bench")
sys.path.insert(0, str(place))
try:
    from callsd_bench.recording.pages import PageServer
except ImportError:  # as the release had it that is upgraded from
    from callsd_bench.recording_pages import PageServer
import signal
with PageServer() as server:
    print(server.url("typical"), flush=True)
    signal.pause()
"""


class Service:
    """The service and its command line, as the user callsd has it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    # Setting it up

    @property
    def _configuration(self) -> Path:
        return self.machine.root / "etc/callsd/callsd.toml"

    def configuration(self) -> str:
        """All of it."""
        return self._configuration.read_text()

    def configure(self, text: str, replacement: str) -> None:
        """Replace a line of the configuration, wherever it is in there."""
        path, content = self._configuration, self.configuration()
        assert text in content, text
        path.write_text(content.replace(text, replacement))

    def begin(self) -> None:
        """Start it for the first time, with weights; it takes every job at once."""
        self.configure('# model = "base"', f'model = "{MODEL}"')
        # What else this machine does, such as other tests, shall not hold the jobs back.
        self.configure("# enforced = true", "enforced = false")
        ours = ("install", "-d", "-m", "0700", "-o", "callsd", "-g", "callsd")
        self.machine.run(*ours, STATE, f"{STATE}/models")
        self.machine.run("cp", "-r", f"/opt/models/{MODEL}", f"{STATE}/models")
        self.machine.run("chmod", "-R", "u+rwX,go=", f"{STATE}/models")
        self.machine.run("chown", "-R", "callsd:callsd", f"{STATE}/models")
        done = self.machine.attempt("systemctl", "start", "callsd.service")
        assert done.returncode == 0, done.stderr + self.machine.journal("callsd")

    # The command line

    def callsd(self, *arguments: str, user: str = "callsd", seconds: float = 60.0) -> str:
        """Run `callsd`; its output."""
        return self.machine.run("runuser", "-u", user, "--", "callsd", *arguments, seconds=seconds)

    def attempt(
        self, *arguments: str, user: str = "callsd", seconds: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run `callsd` where it may fail."""
        return self.machine.attempt(
            *("runuser", "-u", user, "--", "callsd", *arguments), seconds=seconds
        )

    def json(self, *arguments: str) -> Any:
        """Run `callsd --json`."""
        return json.loads(self.callsd("--json", *arguments))

    @contextmanager
    def running(
        self, output: Path, *arguments: str, user: str = "callsd"
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run `callsd` beside what the block does; its standard input is a pipe."""
        command = self.machine.command("runuser", "-u", user, "--", "callsd", *arguments)
        with (
            output.open("wb") as file,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    # Jobs

    def client(self) -> Client:
        """A connection from outside of the machine, with the owner's token."""
        socket = self.machine.path(f"{RUNTIME}/callsd.sock")
        with pytest.MonkeyPatch.context() as patch:
            # The user callsd of that machine, who has no name here.
            patch.setenv("CALLSD_SOCKET_OWNER", str(socket.stat().st_uid))
            return Client(f"unix:{socket}", token_file=self.machine.path(f"{RUNTIME}/owner.token"))

    def job(self, job: str) -> Job:
        """A job as it is."""
        with self.client() as client:
            return client.get_job(job)

    def wait(self, job: str, state: JobState.ValueType = JOB_STATE_SUCCEEDED) -> Job:
        """A job, once it is in this state."""

        def look() -> Job | None:
            found = client.get_job(job)
            is_over = found.state in FINAL_STATES
            assert found.state == state or not is_over, f"{found}{self.machine.journal('callsd')}"
            return found if found.state == state else None

        with self.client() as client:
            found = eventually(look, f"{job}: {JobState.Name(state)}", seconds=WORK_SECONDS)
        assert found is not None
        return found

    def transcribe(self, *, rounds: int = 1, tracks: tuple[str, ...] = ()) -> str:
        """Begin a transcription of the sample call; returns the job's id once it runs.

        Each speaker's sound is given so often as `rounds` says: there is more to interrupt.
        """
        given = tracks or [
            f"{path.stem}{number}={CALL}/{path.name}"
            for number in range(rounds)
            for path in sorted(SAMPLE_CALL.glob("*.ogg"))
        ]
        options = [f"--track={track}" for track in given]
        job = _id(self.json("jobs", "create", *options)["job"])
        self.wait(job, JOB_STATE_RUNNING)
        return job

    def record(self, page: str, *options: str) -> str:
        """Begin a recording of a call's page; returns the job's id once it runs."""
        ready = "--ready=window.callsClient && window.callsClient.connected"
        job = _id(self.json("record", page, ready, "--detach", *options)["job"])
        self.wait(job, JOB_STATE_RUNNING)
        return job

    def caption(self) -> str:
        """Begin to caption a call; returns the job's id once it runs."""
        job = _id(self.json("captions", "create")["job"])
        self.wait(job, JOB_STATE_RUNNING)
        return job

    def live_job(self, kind: Literal["recording", "capture"] = "recording") -> str:
        """The id of the one such job that runs."""
        with self.client() as client:
            running = client.list_jobs(job_filter(states=[JOB_STATE_RUNNING]))
            (found,) = [job for job in running if job.HasField(kind)]
        return found.name.removeprefix("jobs/")

    def recorded_seconds(self, job: str) -> float:
        """How much a recording has so far."""
        return self.job(job).progress.processed.ToNanoseconds() / 1e9

    def stop(self, job: str) -> Job:
        """Stop a job, and wait for its end."""
        with self.client() as client:
            client.stop_job(job)
            return client.wait_job(job)

    def artifact(self, job: str, name: str) -> Path:
        """A file that a job has made."""
        return self.machine.root / f"var/lib/callsd/jobs/{job}/artifacts/{name}"

    def transcript(self, job: str) -> str:
        """SHA-256 of a transcript."""
        return sha256(self.artifact(job, "transcript.vtt").read_bytes()).hexdigest()

    @contextmanager
    def page(self) -> Iterator[str]:
        """The address of a call's page, served inside the machine."""
        command = self.machine.command(f"{PROGRAMS}/python", "-c", PAGE_SERVER)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                yield server.stdout.readline().strip()
            finally:
                server.kill()

    # What systemd has

    def process(self, unit: str = "callsd.service") -> int:
        """The first process of a unit; 0 = none."""
        return int(self.machine.show(unit, "MainPID"))

    def systemctl_as_daemon(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Have the daemon's user ask systemd for something."""
        return self.machine.attempt(
            "runuser", "-u", "callsd", "--", "systemctl", "--no-ask-password", *arguments
        )

    def restart(self) -> None:
        """Restart the daemon."""
        self.machine.run("systemctl", "restart", "callsd.service")

    def kill(self) -> None:
        """Kill the daemon, and wait until it is back."""
        killed = self.process()
        self.machine.run("systemctl", "kill", "--signal=KILL", "callsd.service")
        self.wait_for_another(killed)

    def wait_for_another(self, former: int) -> None:
        """Wait until another daemon serves than the one that had this process."""

        def look() -> bool:
            is_active = self.machine.show("callsd.service", "ActiveState") == "active"
            return is_active and self.process() not in (0, former)

        eventually(look, "the daemon is back", seconds=WORK_SECONDS)


def transcriber(job: str) -> str:
    """The unit of a transcription's worker."""
    return f"callsd-transcriber@{job}.service"


def recorder(job: str) -> str:
    """The unit of a recording's worker."""
    return f"callsd-recorder@{job}.service"


def capturer(job: str) -> str:
    """The unit of a capture's worker."""
    return f"callsd-capturer@{job}.service"


def _id(job: dict[str, Any]) -> str:
    return str(job["name"]).removeprefix("jobs/")
