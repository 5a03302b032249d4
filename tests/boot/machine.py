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
from typing import Self

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

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._leader = 0

    def __enter__(self) -> Self:
        base = Path(tempfile.mkdtemp(prefix="callsd-boot-", dir="/var/tmp"))
        self._stack.callback(shutil.rmtree, base, ignore_errors=True)
        self._mount("tmpfs", base, type_="tmpfs", options="size=16g,mode=755")
        for name in ("upper", "work", "root"):
            (base / name).mkdir()
        self.root = base / "root"
        layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
        self._mount("overlay", self.root, type_="overlay", options=layers)
        for name in ("etc/fstab", ".dockerenv"):
            (self.root / name).unlink(missing_ok=True)
        (self.root / "etc/machine-id").unlink(missing_ok=True)
        (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (self.root / "etc/systemd/system/test.target").write_text(TARGET)
        return self

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
        """Boot, and wait until everything is up."""
        name = f"callsd-{os.getpid()}"
        with (self.root.parent / "console.log").open("wb") as console:
            supervisor = subprocess.Popen(
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
        self._stack.callback(self._power_off, supervisor)
        self._leader = eventually(lambda: _child(supervisor), "it has a first process")
        eventually(self._is_up, "it is up", seconds=BOOT_SECONDS)

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", may_fail=True).strip() == "running"

    def _power_off(self, supervisor: "subprocess.Popen[bytes]") -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._leader:
                os.kill(self._leader, signal.SIGRTMIN + 4)  # poweroff.target: systemd(1)
        try:
            supervisor.wait(BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait(BOOT_SECONDS)

    def command(self, *command: str) -> list[str]:
        """A command as it is run inside, by root."""
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        inside = ["nsenter", "--all", "--target", str(self._leader), "env", "--ignore-environment"]
        return [*inside, *environment, *command]

    def run(self, *command: str, seconds: float = COMMAND_SECONDS, may_fail: bool = False) -> str:
        """Run a command inside; its output."""
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if not may_fail:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

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
