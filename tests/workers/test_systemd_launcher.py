# SPDX-License-Identifier: Apache-2.0
"""What the launcher makes of names and files; tests/boot has it start real units."""

import shutil
import subprocess
from pathlib import Path

import pytest

from callsd_daemon.domain.jobs import Kind, Reservation
from callsd_daemon.workers.launchers.launcher import limits_of, limits_of_service
from callsd_daemon.workers.launchers.systemd import SystemdLauncher, unit_of
from callsd_daemon.workers.process import End
from tests.helpers.jobs import make_job


@pytest.mark.parametrize("name", ["tiny.en", "large-v3", "häßlich name", "a_b:c"])
def test_units_have_their_directory(name: str) -> None:
    """A unit is named as systemd itself escapes its directory's path."""
    escape = shutil.which("systemd-escape")
    assert escape, "systemd is installed wherever these tests run"
    path = f"captioners/{name}"
    said = subprocess.run(
        [escape, "--path", path], capture_output=True, text=True, timeout=10, check=True
    )
    assert unit_of(Path(path)) == f"callsd-worker@{said.stdout.strip()}.service"


@pytest.mark.parametrize(
    ("written", "end"),
    [
        ("success exited 0\n", End(exit_code=0)),
        ("exit-code exited 3\n", End(exit_code=3)),
        ("signal killed KILL\n", End(signal="SIGKILL")),
        ("core-dump dumped SEGV\n", End(signal="SIGSEGV")),
        ("oom-kill killed KILL\n", End(is_out_of_memory=True)),
    ],
)
async def test_ends_are_read(tmp_path: Path, written: str, end: End) -> None:
    """What a unit writes about its end is told: exit code, signal, or too much memory."""
    launcher = SystemdLauncher(tmp_path, tmp_path)
    (tmp_path / "exit").write_text(written)
    assert await launcher.last_end(tmp_path) == end


@pytest.mark.parametrize("written", [None, "", "strange"])
async def test_an_end_that_is_not_told(
    tmp_path: Path, written: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that wrote nothing, or nothing that can be read, is waited for, but not for ever."""
    monkeypatch.setattr("callsd_daemon.workers.launchers.systemd.EXIT_FILE_SECONDS", 0.05)
    launcher = SystemdLauncher(tmp_path, tmp_path)
    if written is not None:
        (tmp_path / "exit").write_text(written)
    assert await launcher.last_end(tmp_path) == End()


def test_live_work_is_never_cut_off() -> None:
    """Batch work gets the cores it is charged for, live work as many as there are, and first."""
    reservation = Reservation(cores=1.5, memory_bytes=1000)
    batch = limits_of(make_job(kind=Kind.TRANSCRIPTION, reservation=reservation))
    live = limits_of(make_job(kind=Kind.RECORDING, reservation=reservation))
    assert (batch.cores, live.cores) == (1.5, None)
    assert batch.cpu_weight < 100 < live.cpu_weight
    assert batch.memory_bytes == live.memory_bytes == 2000
    assert limits_of_service(reservation) == live
