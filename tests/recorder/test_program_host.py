# SPDX-License-Identifier: Apache-2.0

import os
import pwd
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd_worker.recorder import program_host as module
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.program_host import PACKAGES, ProgramHost, program, remove_leftovers
from tests.helpers.waiting import eventually


SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "from signal import *; signal(SIGTERM, SIG_IGN); print('up', flush=True); pause()",
]


@pytest.fixture
def host() -> Iterator[ProgramHost]:
    """A host without a name."""
    host = ProgramHost()
    try:
        yield host
    finally:
        host.close()


def start(host: ProgramHost, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program that says when it is up."""
    with log.open("wb") as file:
        process = host.start(command, log=file)
    eventually(lambda: log.read_text() == "up\n", "the program is up")
    return process


def said_by(
    host: ProgramHost, command: list[str], log: Path, *, is_browser: bool = False
) -> list[str]:
    """What a program says that ends by itself."""
    with log.open("wb") as file:
        process = host.start(command, log=file, is_browser=is_browser)
    assert process.wait(10) == 0, log.read_text()
    return log.read_text().splitlines()


class TestPrograms:
    """Programs that must be there."""

    @pytest.mark.parametrize(("name", "package"), sorted(PACKAGES.items()))
    def test_a_missing_one_is_named_with_its_package(
        self, name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who lacks a program reads what to install."""
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RecordingError) as caught:
            program(name)
        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
        assert caught.value.message == f"{name} is not installed: apt install {package}"

    def test_any_of_several_names_will_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first name that is there is taken."""
        for name in ("second", "third"):
            (tmp_path / name).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert program("first", "second", "third") == str(tmp_path / "second")

    def test_one_that_cannot_be_started(self, host: ProgramHost, tmp_path: Path) -> None:
        """A program that does not run is an error which names it."""
        path = tmp_path / "broken"
        path.touch(mode=0o644)
        with pytest.raises(RecordingError, match=f"{path} cannot be started: Permission") as caught:
            host.start([str(path)])
        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE


class TestEnd:
    """What is left when a host is closed: nothing."""

    def test_directory_and_programs_go(self, tmp_path: Path) -> None:
        """Closing ends each program and removes the directory with all that is in it."""
        host = ProgramHost()
        (host.private_directory("profile") / "file").write_text("a page's cookie")
        processes = [start(host, SLEEP, tmp_path / f"{number}") for number in range(2)]
        host.close()
        assert [process.returncode for process in processes] == [-15, -15]
        assert not host.directory.exists()

    def test_a_program_that_ignores_the_order_to_end_is_made_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What does not end when asked is killed after a while."""
        monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
        host = ProgramHost()
        process = start(host, STUBBORN, tmp_path / "log")
        began = time.monotonic()
        host.close()
        assert process.returncode == -9
        assert 0.3 <= time.monotonic() - began < 5
        assert not host.directory.exists()

    def test_the_last_one_is_ended_first(
        self, host: ProgramHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A browser goes before its display."""
        ended: list[object] = []
        end = module.end

        def watched_end(process: "subprocess.Popen[bytes]") -> None:
            ended.append(process)
            end(process)

        monkeypatch.setattr(module, "end", watched_end)
        started = [host.start(SLEEP) for _ in range(3)]
        host.close()
        assert ended == started[::-1]

    def test_one_program_can_be_ended_before_the_others(
        self, host: ProgramHost, tmp_path: Path
    ) -> None:
        """Ending one leaves the others alone; ending one that is gone does no harm."""
        first, second = (start(host, SLEEP, tmp_path / name) for name in ("1", "2"))
        host.end(first)
        host.end(first)
        assert first.returncode == -15
        assert second.poll() is None

    def test_closing_twice_does_no_harm(self) -> None:
        """A second close finds nothing to do."""
        host = ProgramHost()
        host.start(SLEEP)
        host.close()
        host.close()
        assert not host.directory.exists()


def test_a_browser_has_room_for_the_path_of_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever TMPDIR is, a socket in a job's profile has a path that Chromium does not refuse."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    host = ProgramHost(secrets.token_hex(10))
    profile = host.private_directory("profile")
    assert len(f"{profile}/org.chromium.Chromium.XXXXXX/SingletonSocket") <= 107
    host.close()


class TestLeftovers:
    """Directories of workshops whose worker was killed."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other recordings on this machine are left alone by these tests."""
        monkeypatch.setattr(module, "_place", lambda: tmp_path)

    def test_those_of_the_same_name_go_and_others_stay(self, tmp_path: Path) -> None:
        """A job that is tried again removes what was left of it, and of no other job."""
        left = [ProgramHost(name).directory for name in ("0a1b", "0a1b2c", "ff", "")]
        (left[0] / "profile").mkdir()
        (left[0] / "profile" / "cookies").write_text("secret")
        found = ProgramHost("0a1b").directory
        assert sorted(tmp_path.iterdir()) == sorted([found, *left[1:]])

    def test_removal_without_a_workshop(self, tmp_path: Path) -> None:
        """What was left can be removed when nothing is recorded any more."""
        left = [ProgramHost(name).directory for name in ("0a1b", "ff")]
        remove_leftovers("0a1b")
        assert list(tmp_path.iterdir()) == left[1:]

    def test_no_name_removes_nothing(self, tmp_path: Path) -> None:
        """A host without a name takes no other one for its own."""
        left = [ProgramHost(name).directory for name in ("", "ff")]
        remove_leftovers("")
        assert sorted(tmp_path.iterdir()) == sorted(left)


class TestSecrecy:
    """What programs get to know, and as whom they run."""

    def test_only_what_is_needed_of_the_environment(
        self, host: ProgramHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Programs see path, language and job, and nothing else that the worker was given."""
        monkeypatch.setenv("CALLSD_TOKEN", "top-secret")
        monkeypatch.setenv("CALLSD_JOB", "0a1b")
        monkeypatch.setenv("LD_PRELOAD", "")
        monkeypatch.setenv("LANG", "C.UTF-8")
        monkeypatch.delenv("LC_ALL", raising=False)
        said = said_by(host, [program("env")], tmp_path / "log")
        assert sorted(said) == [
            "CALLSD_JOB=0a1b",
            f"HOME={host.directory}",
            "LANG=C.UTF-8",
            f"PATH={os.environ['PATH']}",
        ]

    def test_only_the_descriptors_that_are_passed(self, host: ProgramHost, tmp_path: Path) -> None:
        """Neither the worker's files nor its sockets are open in a program."""
        with (tmp_path / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - positional only
            said = said_by(host, [program("ls"), "-l", "/proc/self/fd"], tmp_path / "log")
        assert "/dev/null" in said[1]
        assert not [line for line in said if "secret" in line]

    def test_descriptors_come_by_the_numbers_that_are_expected(
        self, host: ProgramHost, tmp_path: Path
    ) -> None:
        """What is passed `as_fds` has these numbers, also when they are taken crosswise."""
        files = [(tmp_path / name).open("wb") for name in ("a", "b")]
        numbers = [file.fileno() for file in files]
        process = host.start(
            [program("sh"), "-c", "echo A >&3; echo B >&4"], pass_fds=numbers, as_fds=(3, 4)
        )
        for file in files:
            file.close()
        assert process.wait(10) == 0
        assert (tmp_path / "a").read_text() == "A\n"
        assert (tmp_path / "b").read_text() == "B\n"

    def test_a_browser_is_not_root(self, host: ProgramHost, tmp_path: Path) -> None:
        """What shows strangers' pages runs as an ordinary user without groups."""
        said = said_by(host, [program("id"), "-u"], tmp_path / "log", is_browser=True)
        assert said != ["0"]
        user = host._user or pwd.getpwuid(os.getuid())
        assert said == [str(user.pw_uid)]

    def test_a_browser_has_no_groups_of_the_worker(self, host: ProgramHost, tmp_path: Path) -> None:
        """None of root's groups is left to the browser."""
        said = said_by(host, [program("id"), "-G"], tmp_path / "log", is_browser=True)
        assert "0" not in said[0].split()

    def test_the_browser_can_use_what_is_its_own_only(
        self, host: ProgramHost, tmp_path: Path
    ) -> None:
        """The browser writes to its directory and reads what is shared, and lists nothing."""
        private = host.private_directory("profile")
        shared = host.directory / "xauthority"
        shared.touch(mode=0o600)
        host.share(shared)
        said_by(
            host,
            [program("sh"), "-c", f"touch {private}/file && cat {shared}"],
            tmp_path / "log",
            is_browser=True,
        )
        assert (private / "file").exists()
        assert (private.stat().st_mode & 0o777, shared.stat().st_mode & 0o777) == (0o700, 0o600)
        assert host.directory.stat().st_mode & 0o066 == 0

    def test_root_without_anybody_else_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rather than run a browser as root nothing is recorded, and it is said what to do."""
        monkeypatch.setattr(module, "UNPRIVILEGED_USERS", ("nobody-of-that-name",))
        with pytest.raises(RecordingError, match="create the user callsd") as caught:
            module._unprivileged_user()
        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
