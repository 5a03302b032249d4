# SPDX-License-Identifier: Apache-2.0
"""A real `callsd serve` in a directory of its own."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import grpc
import msgspec
import tomlkit
from grpc_health.v1 import health_pb2

from callsd import FINAL_STATES, Client, Endpoint, duration
from callsd.v1.job_pb2 import CreateJobRequest, CreateJobResponse, GetJobRequest, Job, JobState
from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from callsd_daemon.domain.admission import Host
from callsd_daemon.host import processes
from callsd_ipc.names import JOB_VARIABLE
from tests.helpers import models
from tests.helpers.api import Api, health
from tests.helpers.waiting import eventually
from tests.weights import MODELS_DIRECTORY


ROOT = Path(__file__).parents[2]
SAMPLE_CALL = ROOT / "daemon" / "callsd_bench" / "sample_call"
FAKE_WORKER = ROOT / "tests" / "faults" / "fake_worker.py"
SERVE = ROOT / "tests" / "helpers" / "serve.py"

START_SECONDS = 30.0
END_SECONDS = 30.0
GIB = 1024**3

CALM = Host(
    cores_total=4.0,
    cores_external=0.0,
    memory_total_bytes=16 * GIB,
    memory_external_bytes=0,
    disk_total_bytes=100 * GIB,
    disk_free_bytes=100 * GIB,
)
"""A machine on which three jobs of one thread fit at once."""

BUG_EVENTS = frozenset(
    {
        "rpc_failed",
        "attempt_failed",
        "job_task_failed",
        "tick_failed",
        "processes_left",
        "store_failed",
    }
)


class Daemon:
    """One daemon, through all its restarts. `machine=None` is the machine as it is."""

    def __init__(
        self,
        *,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
        machine: Host | None = CALM,
        is_real: bool = False,
    ) -> None:
        """`is_real`: with the real worker and real weights, else with the scripted worker."""
        # Not under pytest's own directory: a socket's path has at most 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="callsd-", dir="/tmp"))
        self.state, self.runtime = self.root / "state", self.root / "run"
        self.media, self.models = self.root / "media", self.root / "models"
        self.media.mkdir()
        self.log_file = self.root / "daemon.log"
        self.stderr_file = self.log_file
        """Where it writes its log; only to be changed where nothing in it is looked at."""
        self.config_file = self.root / "callsd.toml"
        self._machine_file = self.root / "machine.json"
        # Workers inherit TMPDIR: by it we know ours.
        self._temporary = self.root / "tmp"
        self._temporary.mkdir()
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CALLSD_")},
            "TMPDIR": str(self._temporary),
            "CALLSD_TEST_CONSTANTS": json.dumps(dict(constants or {})),
            **({} if is_real else {"CALLSD_WORKER_PROGRAM": str(FAKE_WORKER)}),
            **({} if machine is None else {"CALLSD_TEST_MACHINE": str(self._machine_file)}),
            **(env or {}),
        }
        if machine is not None:
            self.set_machine(machine)
        if is_real:
            self.models = MODELS_DIRECTORY
        else:
            models.install(self.models)
        self.settings: dict[str, dict[str, Any]] = {
            "state": {"directory": str(self.state), "runtime_directory": str(self.runtime)},
            "models": {"directory": str(self.models)},
            "media": {"roots": [str(self.media), str(SAMPLE_CALL)]},
            "transcription": {"model": "tiny.en" if is_real else models.NAME},
            "captions": {"model": "tiny.en" if is_real else models.NAME},
            "jobs": {"stop_grace_seconds": 5.0 if is_real else 1.0},
            "log": {"level": "debug", "format": "json"},
        }
        for section, values in (config or {}).items():
            self.settings.setdefault(section, {}).update(values)
        self.track = self.media / "silence.wav"
        self.track.write_bytes(b"RIFF")
        self.acknowledged: set[str] = set()
        """Names of all jobs that a CreateJob made by `create` has answered with."""
        self.expects_bugs = False
        self.process: subprocess.Popen[bytes] | None = None
        self._resources = ExitStack()
        self._flags = itertools.count(1)

    # Life

    def set_machine(self, machine: Host) -> None:
        """What the daemon finds at its next look."""
        draft = self._machine_file.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(machine))
        draft.replace(self._machine_file)

    def command(self, *arguments: str) -> list[str]:
        """The command `callsd` as this daemon is run."""
        return [sys.executable, str(SERVE), *arguments]

    def write_config(self) -> None:
        """Write `settings` to the configuration file."""
        self.config_file.write_text(tomlkit.dumps(self.settings))

    def start(self) -> Self:
        """Start, and wait until it says that it is well."""
        self.launch()
        eventually(self._is_serving, "the daemon is healthy", seconds=START_SECONDS)
        return self

    def launch(self) -> None:
        """Start without waiting."""
        assert self.process is None
        self.write_config()
        with self.stderr_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve", "--config", str(self.config_file)),
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def fail_to_start(self) -> tuple[int, str]:
        """Start a daemon that is expected to give up; its exit code and what it says."""
        self.write_config()
        done = subprocess.run(
            self.command("serve", "--config", str(self.config_file)),
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_SECONDS,
            check=False,
        )
        return done.returncode, done.stderr.decode()

    def wait_dead(self, *, seconds: float = END_SECONDS) -> int:
        """Wait for its end; returns the exit code (negative: the signal)."""
        assert self.process is not None
        code = self.process.wait(seconds)
        self.process = None
        return code

    def stop(self) -> int:
        """Ask it to end and wait for it; workers go on. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_dead()

    def kill(self) -> None:
        """End it as a power cut would; workers go on."""
        self.signal(signal.SIGKILL)
        self.wait_dead()

    def restart(self) -> Self:
        """Start again what has been stopped or killed, with everything as it was left."""
        if self.process is not None:
            self.stop()
        return self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        assert self.process is not None
        self.process.send_signal(number)

    def _is_serving(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon has ended:\n{self.log[-3000:]}"
        # While nobody listens a channel, dozens of times, costs as much as a part of the start.
        with socket.socket(socket.AF_UNIX) as knock:
            if knock.connect_ex(self.address.removeprefix("unix:")) != 0:
                return False
        with self.channel() as channel:
            try:
                answer = health(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """End the daemon and everything it started, and remove its directory."""
        self._resources.close()
        if self.process is not None:
            self.kill()
        eventually(self._end_workers, "no process of any job is left")
        shutil.rmtree(self.root)

    def _end_workers(self) -> bool:
        """Whether no process of any job is left: a daemon may have started one as it was killed."""
        pids = self.worker_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    # What it says

    @property
    def log(self) -> str:
        """Everything that it has written so far, through all restarts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def events(self, event: str) -> list[dict[str, Any]]:
        """Entries of one kind in the log."""
        entries = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event]

    def bugs(self) -> list[str]:
        """Lines of the log that tell of a bug."""
        return [line for line in self.log.splitlines() if _tells_of_bug(line)]

    # Ways to it

    @property
    def address(self) -> str:
        """Where it listens, as clients are told."""
        return f"unix:{self.runtime}/callsd.sock"

    @property
    def token_file(self) -> Path:
        """The owner's token."""
        return self.runtime / "owner.token"

    @property
    def token(self) -> str:
        """The owner's secret."""
        return self.token_file.read_text()

    def channel(self) -> grpc.Channel:
        """A connection of its own; the caller closes it."""
        # Without a pool of its own, a channel shares its connection, and its backoff, with others.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        return grpc.insecure_channel(Endpoint(address=self.address).target, options)

    def api(self, token: str | None = None) -> Api:
        """The bare API on a new connection; closed with the daemon."""
        channel = self._resources.enter_context(self.channel())
        return Api(channel, self.token if token is None else token)

    def client(self) -> Client:
        """The client library on a new connection; closed with the daemon."""
        return self._resources.enter_context(Client(self.address, token_file=self.token_file))

    # Jobs

    def request(
        self, script: str = "succeed", *, max_seconds: float | None = None, **fields: Any
    ) -> CreateJobRequest:
        """A request whose scripted worker does `script`; `fields` are those of the request."""
        spec = TranscriptionSpec(
            tracks=[Track(path=str(self.track), speaker="Ada")], initial_prompt=script
        )
        job = Job(transcription=spec, labels=fields.pop("labels", None))
        if max_seconds is not None:
            job.max_duration.CopyFrom(duration(max_seconds))
        return CreateJobRequest(job=job, **fields)

    def create(self, api: Api, script: str = "succeed", **options: Any) -> CreateJobResponse:
        """Ask for a job as `request` describes it; notes that it was acknowledged."""
        answer = api(api.jobs.CreateJob, self.request(script, **options))
        if answer.job.name:  # else it was only asked about
            self.acknowledged.add(answer.job.name)
        return answer

    @contextlib.contextmanager
    def before_hello(self, script: str) -> Iterator[None]:
        """Have scripted workers do this before they report, within the block."""
        file = self._temporary / "before-hello"
        file.write_text(script)
        try:
            yield
        finally:
            file.unlink()

    def new_flag(self) -> Path:
        """A file that is not there yet, for scripts to `touch`, or to wait for with `until`."""
        return self._temporary / f"flag-{next(self._flags)}"

    def job(self, api: Api, name: str) -> Job:
        """One job as it is now."""
        return api(api.jobs.GetJob, GetJobRequest(name=name)).job

    def wait(self, api: Api, name: str, *states: "JobState.ValueType", seconds: float = 30) -> Job:
        """Wait until a job is in one of the states, by default in a final one."""
        wanted = states or tuple(FINAL_STATES)

        def look() -> Job | None:
            job = self.job(api, name)
            return job if job.state in wanted else None

        names = ", ".join(JobState.Name(state) for state in wanted)
        found = eventually(look, f"{name} becomes {names}", seconds=seconds)
        assert found is not None
        return found

    # Files

    def job_directory(self, name: str) -> Path:
        """What the daemon keeps of a job."""
        return self.state / "jobs" / name.removeprefix("jobs/")

    def worker_directory(self, name: str) -> Path:
        """What the workers of a job write into, until the job has ended."""
        return self.state / "workers" / name.removeprefix("jobs/")

    # Processes

    def worker_pids(self, name: str = "") -> list[int]:
        """All processes of one job, or of all jobs, wherever they have moved to."""
        mark = f"{JOB_VARIABLE}={name.removeprefix('jobs/')}".encode()
        ours = f"TMPDIR={self._temporary}".encode()
        found = []
        for pid in processes.pids():
            try:
                environ = (processes.PROC / str(pid) / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours in environ and any(entry.startswith(mark) for entry in environ):
                found.append(pid)
        return found

    def leaders(self, name: str) -> list[int]:
        """The workers proper of a job: those of its processes that lead a session."""
        stats = {pid: processes.stat(pid) for pid in self.worker_pids(name)}
        return [pid for pid, stat in stats.items() if stat is not None and stat.session == pid]

    def worker(self, name: str) -> int:
        """The one worker of a job, once it has been started."""
        return eventually(lambda: self.leaders(name), f"{name} has a worker")[0]


def _tells_of_bug(line: str) -> bool:
    if not line.startswith("{"):
        return "Traceback" in line or "Error" in line
    entry = json.loads(line)
    return entry["event"] in BUG_EVENTS or "INTERNAL" in (entry.get("code"), entry.get("reason"))
