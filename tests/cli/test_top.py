# SPDX-License-Identifier: Apache-2.0
"""`callsd top` with a real daemon, on a real terminal and without one."""

import contextlib
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.top.state import JobLine
from callsd_daemon.cli.top.view import COLUMNS
from tests.cli.conftest import Command, StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.waiting import eventually


ESCAPE = "\x1b"
HOME = "\x1b[H"
LEAVES_SCREEN = "\x1b[?1049l"
SHOWS_CURSOR = "\x1b[?25h"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

END_SECONDS = 20.0


class Terminal:
    """`callsd top` on a terminal of its own; a context manager."""

    def __init__(self, address: str, *arguments: str, columns: int = 120, lines: int = 24) -> None:
        self._address = address
        self._arguments = arguments
        self.ours, self.theirs = os.openpty()
        os.set_blocking(self.ours, False)
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.theirs)
        self._text = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from callsd_daemon.cli.main import main; main()"),
                *("top", *self._arguments),
            ],
            env={
                **{k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}},
                "CALLSD_ADDRESS": self._address,
                "TERM": "xterm-256color",
            },
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.ours, keys)

    @property
    def text(self) -> str:
        """Everything that was written so far."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.ours, 65536):
                self._text += piece.decode(errors="replace")
        return self._text

    @property
    def picture(self) -> str:
        """The last picture, without colours."""
        return SEQUENCE.sub("", self.text.rpartition(HOME)[2])

    def shows(self, what: str) -> str:
        """Wait until the picture has this in it; returns the picture."""
        return eventually(
            lambda: picture if what in (picture := self.picture) else "",
            f"{what!r} is shown",
            seconds=END_SECONDS,
        )

    def end(self) -> int:
        """Wait for the command's end; its exit code."""

        def ended() -> bool:
            # What it writes must be read, or it waits for room.
            return bool(self.text) and self.process.poll() is not None

        eventually(ended, "the command ends", seconds=END_SECONDS)
        return int(self.process.returncode)


@pytest.fixture(scope="module")
def jobs(running: Daemon) -> list[str]:
    """Three jobs that run, in a phase that is told, and two that wait."""
    api = running.api()
    running.wait(api, running.create(api, "fail INPUT_INVALID").job.name)
    names = [running.create(api, "say recognising 0.42; sleep").job.name for _ in range(5)]
    for name in names[:3]:
        running.wait(api, name, JOB_STATE_RUNNING)
    eventually(
        lambda: all(running.job(api, name).progress.fraction > 0.4 for name in names[:3]),
        "the workers tell how far they are",
    )
    assert running.job(api, names[4]).state == JOB_STATE_QUEUED
    return names


@pytest.fixture
def terminal(running: Daemon, jobs: list[str]) -> Iterator[Terminal]:
    """The live view."""
    with Terminal(running.address, "--interval", "0.1") as shown:
        yield shown


class TestOnce:
    """One picture."""

    def test_for_programs(self, callsd_up: Command, jobs: list[str]) -> None:
        """Off a terminal: no escape codes, a table by tabs, each job that has not ended, whole."""
        out = callsd_up("top").stdout
        header, _, table = out.partition("\t".join(COLUMNS) + "\n")
        rows = [row.split("\t") for row in table.splitlines()]

        assert ESCAPE not in out
        assert header.startswith("callsd SERVING  3 running, 2 waiting")
        assert [row[0] for row in rows] == [name.removeprefix("jobs/") for name in jobs]
        assert [row[2] for row in rows] == [*("running",) * 3, "queued 1", "queued 2"]
        assert rows[0][4:6] == ["1.00 cores, 367 MB", "recognising 42%"]
        assert rows[4][6] == "waits for cores"

    def test_on_a_terminal(self, running: Daemon, jobs: list[str]) -> None:
        """--once on a terminal prints no escape codes either, and returns."""
        with Terminal(running.address, "--once", columns=100) as shown:
            code, text = shown.end(), shown.text

        assert code == 0
        assert ESCAPE not in text
        assert all(name.removeprefix("jobs/")[:8] in text for name in jobs)
        assert max(map(len, text.splitlines())) <= 100

    def test_json(self, callsd_up: Command, jobs: list[str]) -> None:
        """One object; its keys are those that scripts rely on."""
        found: dict[str, Any] = json.loads(callsd_up("top", "--json").stdout)

        assert list(found) == [
            *("address", "version", "health", "running_jobs", "queued_jobs", "cpu_pressure"),
            *("cores", "memory_bytes", "disk_bytes", "jobs"),
        ]
        assert list(found["cores"]) == ["total", "headroom", "reserved", "external", "available"]
        assert all(list(job) == [key.name for key in fields(JobLine)] for job in found["jobs"])
        assert found["health"] == "SERVING"
        assert found["cores"]["reserved"] == 3.0
        assert [job["name"] for job in found["jobs"]] == jobs
        assert [job["queue_position"] for job in found["jobs"]] == [0, 0, 0, 1, 2]
        assert found["jobs"][0]["fraction"] == pytest.approx(0.42)
        assert 0 <= found["jobs"][0]["seconds"] < 60

    def test_nobody_answers(self, callsd: Command) -> None:
        """Without a daemon it says so at once, as every command."""
        result = callsd("top", exit_code=Exit.UNREACHABLE)

        assert "no daemon answers" in result.stderr

    def test_interval_is_bounded(self, callsd: Command) -> None:
        """An interval that would keep the machine busy is refused."""
        callsd("top", "--interval", "0.01", exit_code=Exit.USAGE)


class TestLive:
    """The live view."""

    def test_q_leaves_the_terminal_as_it_was(self, terminal: Terminal, jobs: list[str]) -> None:
        """The key q ends it, and the terminal has its screen, cursor and echo again."""
        terminal.shows("queued 2")
        busy = termios.tcgetattr(terminal.theirs)
        terminal.press(b"q")

        assert terminal.end() == 0
        assert busy != terminal.modes
        assert termios.tcgetattr(terminal.theirs) == terminal.modes
        assert LEAVES_SCREEN in terminal.text
        assert terminal.text.rfind(SHOWS_CURSOR) > terminal.text.rfind("\x1b[?25l")

    def test_ctrl_c(self, terminal: Terminal) -> None:
        """Ctrl-C ends it, too, and restores the terminal."""
        terminal.shows("queued 2")
        terminal.process.send_signal(signal.SIGINT)

        assert terminal.end() == Exit.INTERRUPTED
        assert termios.tcgetattr(terminal.theirs) == terminal.modes
        assert "Traceback" not in terminal.text

    def test_another_size(self, terminal: Terminal, jobs: list[str]) -> None:
        """A window that is made smaller gets a picture that fits, with what matters in it."""
        whole = jobs[4].removeprefix("jobs/")
        assert whole in terminal.shows("queued 2")
        terminal.resize(50, 9)
        terminal.process.send_signal(signal.SIGWINCH)
        picture = terminal.shows("and 3 more: callsd jobs list")

        assert whole not in picture
        assert jobs[0].removeprefix("jobs/")[:8] in picture
        assert len(picture.splitlines()) <= 9
        assert max(map(len, picture.splitlines())) <= 50

    def test_what_happens_is_shown(self, running: Daemon, jobs: list[str]) -> None:
        """A job that is created appears, and when it has ended, how."""
        api = running.api()
        with Terminal(running.address, "--interval", "0.1") as shown:
            shown.shows("queued 2")
            late = running.create(api, "sleep").job.name
            shown.shows("queued 3")
            running.client().stop_job(late)
            picture = shown.shows("last ended:")

        assert f"last ended: {late.removeprefix('jobs/')} cancelled" in picture
        assert "queued 3" not in picture


class TestRestart:
    """A daemon that goes away."""

    def test_goes_on(self, daemon: StartDaemon) -> None:
        """A lost daemon is told; when it is back, so are the jobs, without a key pressed."""
        one = daemon()
        api = one.api()
        name = one.create(api, "sleep").job.name
        one.wait(api, name, JOB_STATE_RUNNING)
        with Terminal(one.address, "--interval", "0.1") as shown:
            shown.shows("SERVING  1 running")
            # The machine and its jobs are told by two streams.
            shown.shows(name.removeprefix("jobs/"))
            one.kill()
            lost = shown.shows("connection lost, trying again")
            one.start()
            back = shown.shows("SERVING")
            shown.press(b"q")
            code = shown.end()

        assert "callsd LOST" in lost
        assert name.removeprefix("jobs/") in lost
        assert "connection lost" not in back
        assert name.removeprefix("jobs/") in back
        assert code == 0


class TestCalls:
    """Calls that are captioned."""

    def test_lag(self, daemon: StartDaemon, models_directory: Path) -> None:
        """The lag of a call is shown, which its job does not tell."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        callsd = Command(one.address)
        name = callsd("captions", "create").stdout.strip()
        one.wait(one.api(), name, JOB_STATE_RUNNING)

        (job,) = callsd.json("top")["jobs"]
        with Terminal(one.address, "--interval", "0.1") as shown:
            shown.shows("lag 0.0 s")

        assert (job["kind"], job["state"], job["lag_seconds"]) == ("captions", "running", 0.0)
