# SPDX-License-Identifier: Apache-2.0
"""A worker that was taken over: what it tries is in hostile.py."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd.v1.error_pb2 import ERROR_REASON_CRASH_LOOP
from callsd.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.boot.service import CALL, CAPTIONER, PROGRAMS, RUNTIME, STATE, Service, transcriber
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

SCRIPT = Path(__file__).with_name("hostile.py")
DROP_IN = "/run/systemd/system/callsd-transcriber@.service.d/hostile.conf"
INSTEAD = f"""\
[Service]
ExecStart=
ExecStart={PROGRAMS}/python -u /opt/hostile/hostile.py %i
"""

ATTEMPTS = 3
"""The job is given to so many workers."""

TRIED = 100
"""More than this it has tried."""

TRACK = (f"nina={CALL}/nina.ogg",)


@pytest.fixture
def taken_over(service: Service) -> Iterator[None]:
    """Whatever worker of a transcription is started is a hostile one."""
    machine = service.machine
    machine.run("install", "-D", "-m", "0644", "/dev/null", DROP_IN)
    machine.path(DROP_IN).write_text(INSTEAD)
    machine.run("systemctl", "daemon-reload")
    yield
    machine.path(DROP_IN).unlink()
    machine.run("systemctl", "daemon-reload")


class TestHostile:
    """What a worker makes of what it decodes is not the daemon's to trust."""

    def test_it_reaches_nothing(self, service: Service, taken_over: None) -> None:
        """Nothing that it tries succeeds; its job fails, and says so; all else goes on.

        It tries the daemon's process and another worker's, files of both, models, uploads, tokens,
        sockets, systemd, its own limits and rights; it leaves pipes, links and closed
        directories where the daemon looks, and brings an outcome that names them.
        """
        machine = service.machine
        daemon, call = service.process(), service.caption()
        victim = service.process(CAPTIONER)
        earlier = machine.run("ls", f"{STATE}/jobs").split()
        known = machine.run("find", STATE, RUNTIME, "-type", "f").splitlines()
        targets = {
            "daemon": daemon,
            "victim": victim,
            "victim_unit": CAPTIONER,
            "victim_name": CAPTIONER.partition("@")[2].removesuffix(".service"),
            "other_unit": transcriber("0" * 20),
            "files": [name for name in known if "/workers/" not in name],
        }
        assert f"{RUNTIME}/owner.token" in known
        (machine.root / "opt/hostile").mkdir()
        (machine.root / "opt/hostile/targets.json").write_text(json.dumps(targets))
        shutil.copy(SCRIPT, machine.root / "opt/hostile")
        options = [f"--track={track}" for track in TRACK]
        name = service.json("jobs", "create", *options)["job"]["name"]
        job = name.removeprefix("jobs/")
        found = service.wait(job, JOB_STATE_FAILED)
        logs = service.callsd("jobs", "logs", job)
        assert job not in earlier
        said = eventually(
            lambda: _said(service, transcriber(job)), "all attempts have told", seconds=20
        )
        assert "SUCCEEDED" not in said, said
        assert said.count("refused ") > TRIED, said
        # Nor has it been refused by its own mistakes.
        assert not re.search("(Name|Type|Attribute|Index|Key|Value)Error", said), said
        # What became of its job.
        assert found.failure.reason == ERROR_REASON_CRASH_LOOP, found
        assert found.failure.message
        assert found.attempt == ATTEMPTS
        assert machine.path(f"{RUNTIME}/owner.token").read_text().strip() not in logs
        find = ("find", f"{STATE}/jobs/{job}", "-not", "-type", "d")
        assert machine.run(*find, "-not", "-type", "f") == ""
        # What became of everybody else.
        assert service.process() == daemon
        assert service.process(CAPTIONER) == victim
        assert service.job(call).state == JOB_STATE_RUNNING
        assert service.stop(call).state == JOB_STATE_SUCCEEDED

    def test_it_leaves_nothing(self, service: Service) -> None:
        """The next job works; of what it left only what systemd must remove is there, in trash."""
        job = service.transcribe(tracks=TRACK)
        assert service.wait(job).attempt == 1
        machine = service.machine
        names = machine.run("ls", f"{STATE}/workers").split()
        assert set(names) <= {CAPTIONER.partition("@")[2].removesuffix(".service")}
        machine.run("systemd-tmpfiles", "--clean", "callsd.conf")
        assert machine.run("ls", "-A", f"{STATE}/trash") == ""


def _said(service: Service, unit: str) -> str:
    said = service.machine.journal(unit)
    return said if f"ended {ATTEMPTS}" in said else ""
