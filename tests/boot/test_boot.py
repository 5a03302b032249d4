# SPDX-License-Identifier: Apache-2.0
"""The life of callsd as a service, on a real systemd: the tests follow each other."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from callsd_bench.recording_measure import measure
from tests.boot.conftest import MODEL, PROGRAMS
from tests.boot.machine import Machine
from tests.helpers.daemon import SAMPLE_CALL
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

PAGE_SERVER = """\
import time
from callsd_bench.recording_pages import PageServer
with PageServer() as server:
    print(server.url("typical"), flush=True)
    time.sleep(600)
"""

RECORDED_SECONDS = 8

ROUNDS = 2
"""So often each speaker's sound is given, so that there is something to interrupt."""

CALL = "/opt/callsd/lib/python3.11/site-packages/callsd_bench/sample_call"


class Service:
    """The service and its command line, as the user callsd has it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def callsd(self, *arguments: str, seconds: float = 60.0, may_fail: bool = False) -> str:
        """Run `callsd` as the service's own user."""
        command = ("runuser", "-u", "callsd", "--", "callsd", *arguments)
        return self.machine.run(*command, seconds=seconds, may_fail=may_fail)

    def json(self, *arguments: str, seconds: float = 60.0) -> Any:
        """Run `callsd --json`."""
        return json.loads(self.callsd("--json", *arguments, seconds=seconds))

    def transcribe(self) -> str:
        """Begin a transcription of the sample call; returns the job's id once it runs."""
        tracks = [
            f"--track={path.stem}{number}={CALL}/{path.name}"
            for number in range(ROUNDS)
            for path in sorted(SAMPLE_CALL.glob("*.ogg"))
        ]
        job = self.json("jobs", "create", *tracks, "--model", MODEL)["job"]["name"].removeprefix(
            "jobs/"
        )
        self.wait(job, "RUNNING")
        return str(job)

    def job(self, job: str) -> Any:
        """A job as it is."""
        return self.json("jobs", "get", job)

    def wait(self, job: str, state: str, seconds: float = 60.0) -> Any:
        """A job, once it is in this state."""

        def look() -> Any:
            found = self.job(job)
            assert found["state"] not in {"JOB_STATE_FAILED", "JOB_STATE_CANCELLED"}, found
            return found if found["state"] == f"JOB_STATE_{state}" else None

        return eventually(look, f"{job} is {state}", seconds=seconds)

    def unit(self, job: str) -> str:
        """The unit of a job's worker."""
        return f"callsd-worker@jobs-{job}.service"

    def worker(self, job: str) -> int:
        """The process of a job's worker, as systemd has it; 0 = none."""
        return int(self.machine.show(self.unit(job), "MainPID"))

    def transcript(self, job: str) -> str:
        """SHA-256 of a transcript."""
        path = self.machine.root / f"var/lib/callsd/jobs/{job}/artifacts/transcript.vtt"
        return sha256(path.read_bytes()).hexdigest()

    def disturb(self, job: str) -> None:
        """Restart the daemon, and kill it, while a job runs: its worker stays the same."""
        worker = self.worker(job)
        assert worker
        self.machine.run("systemctl", "restart", "callsd.service")
        assert self.worker(job) == worker
        killed = self.machine.show("callsd.service", "MainPID")
        self.machine.run("kill", "-KILL", killed)
        eventually(
            lambda: (
                self.machine.show("callsd.service", "MainPID") not in {"0", killed}
                and self.callsd("capacity", may_fail=True)
            ),
            "the daemon is back",
        )
        assert self.worker(job) == worker


@pytest.fixture(scope="module")
def service(machine: Machine) -> Service:
    """callsd, installed and running."""
    machine.run(f"{PROGRAMS}/callsd", "install", "--no-start")
    path = machine.root / "etc/callsd/callsd.toml"
    text = path.read_text().replace('# model = "base"', f'model = "{MODEL}"')
    # What else this machine does, such as other tests, shall not hold the jobs back.
    path.write_text(text.replace("# queue_patience_seconds = 30.0", "queue_patience_seconds = 0"))
    machine.run("install", "-d", "-o", "callsd", "-g", "callsd", "/var/lib/callsd/models")
    machine.run("cp", "-r", f"/opt/models/{MODEL}", "/var/lib/callsd/models")
    machine.run("chown", "-R", "callsd:", "/var/lib/callsd")
    machine.run("systemctl", "start", "callsd.service")
    return Service(machine)


class TestService:
    """What systemd makes of callsd."""

    def test_it_is_up(self, service: Service) -> None:
        """The service is active once it serves, and finds nothing wrong with the machine."""
        assert service.machine.show("callsd.service", "ActiveState") == "active"
        assert "listening on unix:/run/callsd/callsd.sock" in service.machine.show(
            "callsd.service", "StatusText"
        )
        assert "✗" not in service.callsd("doctor")

    def test_units_are_without_fault(self, service: Service) -> None:
        """There is nothing that systemd has to say about the units."""
        for unit in ("callsd.service", "callsd-worker@jobs-x.service", "callsd-workers.slice"):
            done = subprocess.run(
                service.machine.command("systemd-analyze", "verify", unit),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize(
        ("unit", "most"), [("callsd.service", 1.6), ("callsd-worker@jobs-x.service", 2.4)]
    )
    def test_units_are_shut_in(self, service: Service, unit: str, most: float) -> None:
        """By systemd's own measure there is little that the units are exposed to."""
        said = service.machine.run("systemd-analyze", "security", unit, "--no-pager")
        exposure = float(re.findall(r"exposure level for .*: ([0-9.]+)", said)[0])
        assert exposure <= most, said

    def test_the_daemon_may_do_nothing_else(self, service: Service) -> None:
        """The daemon's user may start workers, and no other unit, and stop none."""
        for arguments in (
            ("start", "systemd-ask-password-console.service"),
            ("stop", "callsd.service"),
            ("stop", "callsd-worker@jobs-x.service"),
            ("set-property", "--runtime", "callsd.service", "MemoryMax=1G"),
            ("daemon-reload",),
        ):
            command = ("runuser", "-u", "callsd", "--", "systemctl", "--no-ask-password")
            done = subprocess.run(
                service.machine.command(*command, *arguments),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode != 0, arguments
            assert "authentication" in done.stderr or "denied" in done.stderr, done.stderr


class TestTranscription:
    """A job whose worker is a unit."""

    def test_it_survives_the_daemon(self, service: Service) -> None:
        """Restart and kill -9 change neither worker nor transcript."""
        undisturbed = service.transcribe()
        service.wait(undisturbed, "SUCCEEDED")
        job = service.transcribe()
        service.disturb(job)
        found = service.wait(job, "SUCCEEDED")
        assert found.get("notices", []) == []
        assert service.transcript(job) == service.transcript(undisturbed)

    def test_it_is_held_to_what_it_is_charged(self, service: Service) -> None:
        """Cores and memory are bounded by the reservation; batch work has little weight."""
        job = service.transcribe()
        reservation = service.job(job)["reservation"]
        show = service.machine.show
        unit = service.unit(job)
        assert show(unit, "CPUQuotaPerSecUSec") == f"{reservation['cores']:g}s"
        assert show(unit, "CPUWeight") == "20"
        assert int(show(unit, "MemoryMax")) == 2 * int(reservation["memory_bytes"])
        assert show(unit, "Slice") == "callsd-workers.slice"
        service.callsd("jobs", "stop", job)

    def test_it_sees_its_own_only(self, service: Service) -> None:
        """A worker sees its own job, models and uploads: no store, no tokens, no other job."""
        job = service.transcribe()
        root = f"/proc/{service.worker(job)}/root"
        listed = {
            path: service.machine.run("ls", f"{root}{path}").split()
            for path in ("/var/lib/callsd", "/var/lib/callsd/jobs", "/run/callsd")
        }
        assert listed == {
            "/var/lib/callsd": ["jobs", "models", "uploads"],
            "/var/lib/callsd/jobs": [job],
            "/run/callsd": ["bootstrap", "workers"],
        }
        assert service.machine.run("ls", f"{root}/run/callsd/bootstrap/jobs-{job}") == ""
        service.callsd("jobs", "stop", job)

    def test_the_death_of_a_worker_is_told(self, service: Service) -> None:
        """What killed a worker is known to a daemon that did not start it; the job goes on."""
        job = service.transcribe()
        service.machine.run("systemctl", "restart", "callsd.service")
        service.machine.run("kill", "-KILL", str(service.worker(job)))
        found = service.wait(job, "SUCCEEDED")
        assert "killed by SIGKILL" in found["notices"][0]["message"]


@pytest.fixture(scope="module")
def page(machine: Machine) -> Iterator[str]:
    """A page to record, served inside the machine."""
    with subprocess.Popen(
        machine.command(f"{PROGRAMS}/python", "-c", PAGE_SERVER), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


class TestRecording:
    """A recorder that is a unit."""

    def test_it_survives_the_daemon(self, service: Service, page: str) -> None:
        """Restart and kill -9 of the daemon leave no gap in a recording, nor another worker."""
        ready = "--ready=window.callsClient && window.callsClient.connected"
        job = service.json("record", page, ready, "--detach")["job"]["name"].removeprefix("jobs/")
        service.wait(job, "RUNNING")
        began = time.monotonic()
        service.disturb(job)
        eventually(lambda: time.monotonic() - began > RECORDED_SECONDS, "there is something")
        service.callsd("jobs", "stop", job)
        found = service.wait(job, "SUCCEEDED")["recording_result"]
        assert found.get("gap", "0s") == "0s"
        path = service.machine.root / f"var/lib/callsd/jobs/{job}/artifacts/recording.mp4"
        measured = measure(path, fps=20)
        assert measured.duration_seconds > RECORDED_SECONDS - 2
        assert measured.missing_seconds < 1


class TestOperation:
    """What an administrator does to the service."""

    def test_a_wrong_configuration_changes_nothing(self, service: Service) -> None:
        """Reload reports the mistake and goes on as before; put right, it takes effect."""
        path = service.machine.root / "etc/callsd/callsd.toml"
        text = path.read_text()
        path.write_text(text + "\n[jobs]\nmax_concurrent_jobs = 'many'\n")
        service.machine.run("systemctl", "reload", "callsd.service")
        assert "reload_failed" in service.machine.journal("callsd.service")
        assert service.json("capacity").get("max_concurrent_jobs", 0) == 0
        path.write_text(text.replace("# max_concurrent_jobs = 0", "max_concurrent_jobs = 7"))
        service.machine.run("systemctl", "reload", "callsd.service")
        assert service.json("capacity")["max_concurrent_jobs"] == 7
        path.write_text(text)

    def test_a_stalled_event_loop_is_noticed(self, service: Service) -> None:
        """A daemon that hangs is killed by the watchdog and started again; its jobs go on."""
        service.machine.run("mkdir", "-p", "/run/systemd/system/callsd.service.d")
        service.machine.run(
            *("sh", "-c"),
            "printf '[Service]\\nWatchdogSec=2\\n' >/run/systemd/system/callsd.service.d/w.conf",
        )
        service.machine.run("systemctl", "daemon-reload")
        service.machine.run("systemctl", "restart", "callsd.service")
        job = service.transcribe()
        hung = service.machine.show("callsd.service", "MainPID")
        service.machine.run("kill", "-STOP", hung)
        eventually(
            lambda: service.machine.show("callsd.service", "MainPID") not in {"0", hung},
            "it is started again",
            seconds=20,
        )
        service.wait(job, "SUCCEEDED")

    def test_stopping_lets_go_of_jobs(self, service: Service) -> None:
        """`systemctl stop` is quick; what runs goes on, and is taken up at the next start."""
        job = service.transcribe()
        worker = service.worker(job)
        began = time.monotonic()
        service.machine.run("systemctl", "stop", "callsd.service")
        assert time.monotonic() - began < 30
        assert service.worker(job) == worker
        service.machine.run("systemctl", "start", "callsd.service")
        service.wait(job, "SUCCEEDED")

    def test_uninstalled_it_is_gone(self, service: Service) -> None:
        """Nothing runs, and no file is left but what was recorded and configured."""
        service.transcribe()
        service.machine.run("callsd", "uninstall")
        listed = service.machine.run("systemctl", "list-units", "--plain", "--no-legend", "callsd*")
        assert listed == ""
        left = service.machine.run("sh", "-c", "find /etc /usr/local -name '*callsd*'").split()
        assert left == ["/etc/callsd", "/etc/callsd/callsd.toml"]
        assert service.machine.run("ls", "/var/lib/callsd/jobs")
