# SPDX-License-Identifier: Apache-2.0
"""What `callsd install` puts where. Everything it does is a step that can be shown beforehand."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import callsd_daemon
from callsd_daemon.cli.shared.exit import Problem
from callsd_daemon.config import DEFAULT_PATH, UNIT_DIRECTORIES, sample
from callsd_daemon.files import make_readable_directory


UNITS = {
    "callsd.service": "systemd/system",
    "callsd-transcriber@.service": "systemd/system",
    "callsd-captioner@.service": "systemd/system",
    "callsd-recorder@.service": "systemd/system",
    "callsd-capturer@.service": "systemd/system",
    "callsd-workers.slice": "systemd/system",
    "callsd.sysusers.conf": "sysusers.d",
    "callsd.tmpfiles.conf": "tmpfiles.d",
    "callsd.rules": "polkit-1/rules.d",
}
"""Files of systemd/, and the directories that they belong into."""

FORMER_UNITS = ("callsd-worker@.service",)
"""What earlier versions had instead."""

UNTIL_REBOOT = Path("run/systemd/system")
"""Where a former unit goes while instances of it may run: without the file they would lose their
limits, their place in the slice and what is to be done when they end."""

PACKAGED = Path("/usr/lib")
"""Programs that lie in there came with a package, which brings the units as well."""

SETTINGS = {
    "state": UNIT_DIRECTORIES,
    "workers": {"launcher": "systemd"},
}
"""How the units have it; the rest of the configuration stays at its defaults."""

COMMAND = Path("usr/local/bin/callsd")

HIDDEN = (
    *("/home", "/root", "/run", UNIT_DIRECTORIES["directory"]),
    *("/tmp", "/var/tmp", "/dev/shm"),  # noqa: S108 - nothing is put there
)
"""What the units cannot see."""

EVERYBODY_READS = 0o444

COMMAND_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, which does nothing when it is done already."""

    text: str
    """What is done, as a command or as "write PATH"."""
    do: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    path: Path
    content: str

    @property
    def is_done(self) -> bool:
        return (
            self.path.exists()
            and self.path.stat().st_mode & EVERYBODY_READS == EVERYBODY_READS
            and self.path.read_text() == self.content
        )

    def do(self) -> None:
        make_readable_directory(self.path.parent)
        draft = self.path.with_name(f".{self.path.name}.new")
        draft.write_text(self.content)
        draft.chmod(0o644)
        draft.replace(self.path)


class Installation:
    """One callsd below one root directory."""

    def __init__(
        self, root: Path, *, programs: Path | None = None, is_live: bool | None = None
    ) -> None:
        """`programs` is where the command and its interpreter are, by default this one's.

        `is_live` says whether that system is running, by default whether it is this one.
        """
        self._root = root
        self._is_live = root == Path("/") if is_live is None else is_live
        self._programs = programs or Path(sys.executable).parent
        self.is_packaged = self._programs.is_relative_to(PACKAGED)
        """Whether a package brings the units as well."""

    def check(self) -> None:
        """Raise Problem when what is installed could not run, or is not ours to install."""
        if self.is_packaged:
            raise Problem(
                "this callsd came with a package, which has set it up",
                to_do="systemctl status callsd; apt installs, upgrades and removes it",
            )
        for directory in HIDDEN:
            if self._programs.is_relative_to(directory):
                raise Problem(
                    f"callsd lies in {self._programs}, which services cannot see",
                    to_do="install it elsewhere: python3 -m venv /opt/callsd && "
                    "/opt/callsd/bin/pip install 'callsd[daemon]'",
                )
        for program, package in (("systemctl", "systemd"), ("polkitd", "polkitd")):
            if not self._has(program):
                raise Problem(
                    f"{program} is not installed; callsd has systemd run its workers, and polkit "
                    "allow it to",
                    to_do=f"apt install {package}",
                )

    def _has(self, program: str) -> bool:
        places = ("usr/bin", "usr/sbin", "usr/lib/polkit-1", "usr/libexec", "bin")
        return any((self._root / place / program).exists() for place in places)

    def outdated(self) -> list[Path]:
        """Files that are not there, or not as this version has them, as far as one may look."""
        found = []
        for write in map(self._unit, UNITS):
            with contextlib.suppress(PermissionError):
                found += [] if write.is_done else [write.path]
        return found + self._former_units()

    def _former_units(self) -> list[Path]:
        paths = (self._path(name, "systemd/system") for name in FORMER_UNITS)
        return [path for path in paths if path.exists()]

    # What is done

    def files(self) -> Iterator[Step]:
        """Units and configuration."""
        for name in UNITS:
            write = self._unit(name)
            yield Step(text=f"{'keep' if write.is_done else 'write'} {write.path}", do=write.do)
        yield from map(self._retire if self._is_live else self._remove, self._former_units())
        configuration = self._root / str(DEFAULT_PATH).lstrip("/")
        if _is_shut(configuration.parent):
            text = f"chmod 0755 {configuration.parent}"
            yield Step(text=text, do=functools.partial(configuration.parent.chmod, 0o755))
        if not configuration.exists():
            write = _Write(path=configuration, content=sample(SETTINGS))
            yield Step(text=f"write {configuration}", do=write.do)

    def install(self, *, is_started: bool) -> Iterator[Step]:
        """From the first file to the running service."""
        yield from self.files()
        yield self._link()
        yield self._run("systemd-sysusers", *self._at_root(), "callsd.conf")
        if not self._is_live:
            yield self._run("systemctl", *self._at_root(), "enable", "callsd.service")
            return
        yield self._run("systemd-tmpfiles", "--create", "callsd.conf")
        yield self._run("systemctl", "daemon-reload")
        yield self._run("systemctl", "enable", "callsd.service")
        if is_started:
            yield self._run("systemctl", "restart", "callsd.service")

    def uninstall(self, *, is_purged: bool) -> Iterator[Step]:
        """From the running service to nothing; what was recorded stays unless it is purged."""
        if self._is_live:
            yield self._run("systemctl", "disable", "--now", "callsd.service", may_fail=True)
            yield self._run("systemctl", "stop", "callsd.slice", may_fail=True)
        else:
            yield self._run("systemctl", *self._at_root(), "disable", "callsd.service")
        former = (*self._former_units(), *(self._root / UNTIL_REBOOT / one for one in FORMER_UNITS))
        for unit in (*(self._unit(name).path for name in UNITS), *filter(Path.exists, former)):
            yield self._remove(unit)
        yield self._remove(self._root / COMMAND)
        if self._is_live:
            yield self._run("systemctl", "daemon-reload")
        if is_purged:
            for path in ("etc/callsd", "var/lib/callsd", "run/callsd"):
                yield self._remove(self._root / path)

    # Steps

    def _unit(self, name: str) -> "_Write":
        content = (_units() / name).read_text().replace("@BIN@", str(self._programs))
        return _Write(path=self._path(name, UNITS[name]), content=content)

    def _path(self, name: str, directory: str) -> Path:
        top = "usr/lib" if self.is_packaged else "etc"
        if self.is_packaged and name == "callsd.rules":
            top = "usr/share"
        return self._root / top / directory / _installed_name(name)

    def _link(self) -> Step:
        path, target = self._root / COMMAND, self._programs / "callsd"

        def do() -> None:
            make_readable_directory(path.parent)
            path.unlink(missing_ok=True)
            path.symlink_to(target)

        return Step(text=f"link {path} to {target}", do=do)

    def _retire(self, path: Path) -> Step:
        target = self._root / UNTIL_REBOOT / path.name

        def do() -> None:
            make_readable_directory(target.parent)
            shutil.move(path, target)

        return Step(text=f"move {path} to {target}, where it is until the next boot", do=do)

    @staticmethod
    def _remove(path: Path) -> Step:
        def do() -> None:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

        return Step(text=f"remove {path}", do=do)

    @staticmethod
    def _run(*command: str, may_fail: bool = False) -> Step:
        text = " ".join(command)

        def do() -> None:
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as problem:
                raise Problem(f"{text}: {problem}") from None
            if done.returncode and not may_fail:
                raise Problem(
                    f"{text}: {(done.stderr or done.stdout).strip()}",
                    to_do="put it right, and do the same again: what is done already stays as it is"
                    "; journalctl --unit callsd tells more about a service that does not start",
                )

        return Step(text=text, do=do)

    def _at_root(self) -> tuple[str, ...]:
        return () if self._is_live else (f"--root={self._root}",)


def _is_shut(directory: Path) -> bool:
    """Whether only root comes into a directory of root's: so an umask of 077 has left it."""
    if not directory.is_dir():
        return False
    status = directory.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _installed_name(name: str) -> str:
    if name == "callsd.rules":
        return "50-callsd.rules"
    return "callsd.conf" if name.endswith(".conf") else name


def _units() -> Path:
    """The files as they were shipped: in the wheel, or beside the sources."""
    package = Path(callsd_daemon.__file__).parent
    shipped = package / "systemd"
    return shipped if shipped.is_dir() else package.parents[1] / "systemd"
