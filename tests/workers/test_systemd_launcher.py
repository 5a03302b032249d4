# SPDX-License-Identifier: Apache-2.0
"""What the launcher makes of names and files; tests/boot has it start real units."""

import grp
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from callsd_daemon.domain.jobs import Reservation
from callsd_daemon.kinds import Role
from callsd_daemon.workers.launchers import systemd as module
from callsd_daemon.workers.launchers.launcher import (
    End,
    Limits,
    WorkerId,
    limits,
)
from callsd_daemon.workers.launchers.systemd import EXIT_FILE, SystemdLauncher


WORKER = WorkerId(name="a1b2", tag="a1b2:1:0123", role=Role.RECORDER)
LIMITS = Limits(cpu_weight=20, cores=1.5, memory_bytes=1000)


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemctl is asked for; it does nothing."""
    asked: list[tuple[str, ...]] = []

    def ask(*arguments: str) -> str:
        asked.append(arguments)
        return ""

    monkeypatch.setattr(module, "_systemctl", ask)
    return asked


def made(root: Path) -> SystemdLauncher:
    """A launcher whose directories are there."""
    for name in ("workers", "trash", "run/bootstrap", "run/workers"):
        (root / name).mkdir(parents=True)
    return SystemdLauncher(root / "workers", root / "trash", root / "run")


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemdLauncher:
    """A launcher whose group is the tests' own."""
    monkeypatch.setattr(grp, "getgrgid", lambda _gid: SimpleNamespace(gr_name=module.GROUP))
    monkeypatch.setattr(module, "EXIT_FILE_SECONDS", 0.1)
    return made(tmp_path)


def mode(path: Path) -> int:
    """Who may do what with a path."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("role", list(Role))
async def test_units_are_named_by_role(
    launcher: SystemdLauncher, systemctl: list[tuple[str, ...]], role: Role
) -> None:
    """A worker's unit is its role's, of the worker's name: what it may do stands in the unit."""
    with pytest.raises(OSError, match="ended at once"):
        await launcher.launch(WorkerId(name="a1b2", tag="tag", role=role), b"", LIMITS)

    assert ("start", f"callsd-{role}@a1b2.service") in systemctl


async def test_a_worker_is_told_in_its_own_directory(
    launcher: SystemdLauncher, systemctl: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """Before it starts, its bootstrap lies where only it can see it, and its limits are set.

    How an earlier worker ended is forgotten; a bootstrap that was not taken is removed.
    """
    directory = launcher.make(WORKER.name)
    (directory / EXIT_FILE).write_text("signal killed KILL")

    with pytest.raises(OSError, match="ended at once"):
        await launcher.launch(WORKER, b"secret", LIMITS)

    told = tmp_path / "run" / "bootstrap" / WORKER.name / "bootstrap"
    assert told.read_bytes() == b"secret"
    assert mode(told) == 0o640
    assert mode(told.parent) == 0o770
    assert mode(directory) == 0o770
    assert not (directory / EXIT_FILE).exists()
    verbs = [arguments[0] for arguments in systemctl]
    assert verbs.index("set-property") < verbs.index("start")
    limits = next(arguments for arguments in systemctl if arguments[0] == "set-property")
    assert limits[3:] == ("CPUWeight=20", "CPUQuota=150%", "MemoryMax=1000")

    assert await launcher.sweep(WORKER)
    assert not told.parent.exists()


async def test_a_unit_that_ends_at_once(
    launcher: SystemdLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a worker ended that was gone before it could be looked at is told all the same."""

    def ask(*arguments: str) -> str:
        if arguments[0] == "start":
            (launcher.path(WORKER.name) / EXIT_FILE).write_text("oom-kill killed KILL")
        return ""

    monkeypatch.setattr(module, "_systemctl", ask)
    process = await launcher.launch(WORKER, b"secret", LIMITS)

    assert process.exited.is_set()
    assert process.end == End(is_out_of_memory=True)


async def test_a_unit_of_the_release_before(launcher: SystemdLauncher, tmp_path: Path) -> None:
    """Its end is read where its unit wrote it, in the job's directory."""
    directory = tmp_path / "jobs" / WORKER.name
    directory.mkdir(parents=True)
    (directory / EXIT_FILE).write_text("signal killed KILL")

    assert await launcher.last_end(WORKER) == End(signal="SIGKILL")


async def test_what_lies_where_a_worker_is_told(
    launcher: SystemdLauncher, systemctl: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """A link that an earlier worker has left there is replaced, and what it leads to stays."""
    told = tmp_path / "run" / "bootstrap" / WORKER.name
    told.mkdir()
    (tmp_path / "other").write_text("precious")
    for name in ("bootstrap", ".bootstrap.part"):
        (told / name).symlink_to(tmp_path / "other")

    with pytest.raises(OSError, match="ended at once"):
        await launcher.launch(WORKER, b"secret", LIMITS)

    assert (tmp_path / "other").read_text() == "precious"
    assert not (told / "bootstrap").is_symlink()
    assert (told / "bootstrap").read_bytes() == b"secret"


@pytest.mark.parametrize("has_group", [True, False])
def test_directories_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_group: bool
) -> None:
    """Where the workers' group has no share in the directories, it is said what to do."""

    def group(gid: int) -> SimpleNamespace:
        if not has_group:
            raise KeyError(gid)
        return SimpleNamespace(gr_name="others")

    monkeypatch.setattr(grp, "getgrgid", group)
    with pytest.raises(OSError, match="run `callsd install` again"):
        made(tmp_path)


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
async def test_ends_are_read(launcher: SystemdLauncher, written: str, end: End) -> None:
    """What a unit writes about its end is told: exit code, signal, or too much memory."""
    (launcher.make(WORKER.name) / EXIT_FILE).write_text(written)
    assert await launcher.last_end(WORKER) == end


@pytest.mark.parametrize("written", [None, "", "strange", "success exited ²", "x" * 1000])
async def test_an_end_that_is_not_told(
    launcher: SystemdLauncher, written: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that wrote nothing, or nothing that can be read, is waited for, but not for ever."""
    monkeypatch.setattr(module, "EXIT_FILE_SECONDS", 0.05)
    directory = launcher.make(WORKER.name)
    if written is not None:
        (directory / EXIT_FILE).write_text(written)
    assert await launcher.last_end(WORKER) == End()


@pytest.mark.parametrize("form", ["a pipe", "a link"])
async def test_an_end_that_is_no_file(
    launcher: SystemdLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A worker that puts something else in that file's place holds nobody up, and leads nowhere."""
    monkeypatch.setattr(module, "EXIT_FILE_SECONDS", 0.05)
    place = launcher.make(WORKER.name) / EXIT_FILE
    if form == "a pipe":
        os.mkfifo(place)
    else:
        (tmp_path / "other").write_text("success exited 0")
        place.symlink_to(tmp_path / "other")
    assert await launcher.last_end(WORKER) == End()


def test_live_work_is_never_cut_off() -> None:
    """Batch work gets the cores it is charged for, live work as many as there are, and first."""
    reservation = Reservation(cores=1.5, memory_bytes=1000)
    batch = limits(reservation, is_batch=True)
    live = limits(reservation, is_batch=False)
    assert (batch.cores, live.cores) == (1.5, None)
    assert batch.cpu_weight < 100 < live.cpu_weight
    assert batch.memory_bytes == live.memory_bytes == 2000
