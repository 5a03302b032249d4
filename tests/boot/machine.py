# SPDX-License-Identifier: Apache-2.0
"""A throw-away machine with a real systemd: this one's own root under an overlay, booted by nspawn.

Nothing that happens in it reaches this machine. It has its own processes, network and clock of
boots, but this machine's kernel: limits of control groups hold only where that lets them.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, Self

import psutil

from tests.helpers.waiting import eventually


BOOT_SECONDS = 30.0
COMMAND_SECONDS = 60.0

TARGET = """\
[Unit]
Description=A system that is up, without the services of the machine that it was made from
Requires=basic.target
Wants=dbus.service polkit.service
After=basic.target dbus.service
"""

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "cat",
}


class Machine:
    """Use as a context: made on entering, gone on leaving. Takes root and overlayfs."""

    _booted: ClassVar["Machine | None"] = None

    def __init__(self, *layers: Path) -> None:
        """`layers` are directories that lie over this machine's root, the uppermost one first."""
        self._layers = (*layers, Path("/"))
        self._stack = contextlib.ExitStack()
        self._leader = 0
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _make(self) -> None:
        base = Path(tempfile.mkdtemp(prefix="callsd-boot-", dir="/var/tmp"))
        self.layer = base / "upper"
        """What differs from the layers below; to be used when this one is not booted."""
        self._stack.callback(shutil.rmtree, base, ignore_errors=True)
        self._mount("tmpfs", base, type_="tmpfs", options="size=16g,mode=755")
        for name in ("upper", "work", "root"):
            (base / name).mkdir()
        self.root = base / "root"
        lower = ":".join(map(str, self._layers))
        layers = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work"
        self._mount("overlay", self.root, type_="overlay", options=layers)
        for name in ("etc/fstab", ".dockerenv"):
            (self.root / name).unlink(missing_ok=True)
        if len(self._layers) == 1:
            for name in ("etc/callsd", "opt/callsd", "var/lib/callsd"):
                # This machine may have a callsd of its own.
                shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "etc/machine-id").unlink(missing_ok=True)
        (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (self.root / "etc/systemd/system/test.target").write_text(TARGET)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _mount(self, source: str, target: Path, *, type_: str, options: str) -> None:
        command = ["mount", "-t", type_, "-o", options, source, str(target)]
        subprocess.run(command, check=True, timeout=COMMAND_SECONDS)
        self._stack.callback(
            subprocess.run, ["umount", "--lazy", str(target)], check=True, timeout=COMMAND_SECONDS
        )

    # Before it is booted

    def chroot(self, *command: str, seconds: float = 300.0) -> None:
        """Run a command in its root, with this machine's network."""
        done = subprocess.run(
            ["/usr/sbin/chroot", str(self.root), *command],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    # While it runs

    def boot(self) -> None:
        """Boot, and wait until everything is up.

        The machine that was booted before is powered off: two would meet in their control groups.
        """
        if Machine._booted is not None:
            Machine._booted.power_off()
        Machine._booted = self
        self._stack.callback(self.power_off)
        name = f"callsd-{os.getpid()}"
        with (self.root.parent / "console.log").open("wb") as console:
            self._supervisor = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit"),
                    *(f"--machine={name}", "--private-network", "--console=pipe", "--boot"),
                    *("--directory", str(self.root), "--", "systemd.unit=test.target"),
                ],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        supervisor = self._supervisor
        self._leader = eventually(
            lambda: _child(supervisor), "it has a first process", seconds=BOOT_SECONDS
        )
        eventually(self._is_up, "it is up", seconds=BOOT_SECONDS)

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", may_fail=True).strip() == "running"

    def power_off(self) -> None:
        """Shut down, if it is up."""
        if self._supervisor is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._leader:
                os.kill(self._leader, signal.SIGRTMIN + 4)  # poweroff.target: systemd(1)
        try:
            self._supervisor.wait(BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait(BOOT_SECONDS)
        self._supervisor = None
        Machine._booted = None

    def path(self, path: str) -> Path:
        """A file of the running machine, as it is seen from here."""
        return Path(f"/proc/{self._leader}/root{path}")

    def command(self, *command: str) -> list[str]:
        """A command as it is run inside, by root."""
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        inside = ["nsenter", "--all", "--target", str(self._leader), "env", "--ignore-environment"]
        return [*inside, *environment, *command]

    def run(self, *command: str, seconds: float = COMMAND_SECONDS, may_fail: bool = False) -> str:
        """Run a command inside; its output."""
        done = self.attempt(*command, seconds=seconds)
        if not may_fail:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(
        self, *command: str, seconds: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside that may fail."""
        return subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, may_fail=True)


def _child(supervisor: "subprocess.Popen[bytes]") -> int:
    assert supervisor.poll() is None, "systemd-nspawn has ended"
    children = psutil.Process(supervisor.pid).children()
    if children and Path(f"/proc/{children[0].pid}/root/run/systemd/private").exists():
        return children[0].pid
    return 0
