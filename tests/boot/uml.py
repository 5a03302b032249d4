# SPDX-License-Identifier: Apache-2.0
"""A machine with a kernel of its own, for what this machine's kernel may not have.

User-Mode Linux is a program, and needs nothing of the processor. Its control groups account for
memory, so that limits of it hold. It is slow: it is used for that alone.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tests.boot.machine import Machine


PROGRAM = Path("/usr/bin/linux.uml")
MEMORY_MIB = 2048

MASKED = (
    *("systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("systemd-udev-trigger.service", "modprobe@.service", "systemd-timesyncd.service"),
    *("systemd-pstore.service", "apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer"),
    *("e2scrub_all.timer", "fstrim.timer", "dpkg-db-backup.timer"),
)
"""What has nothing to do there, and takes time."""

SERVICE = """\
[Unit]
Requires=basic.target
Wants=dbus.service
After=basic.target dbus.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c '/bin/sh -ex /test.sh >/said.txt 2>&1; echo $? >/status.txt'
ExecStopPost=/bin/systemctl --no-block poweroff -f
"""

TARGET = """\
[Unit]
Requires=basic.target
Wants=test.service
After=basic.target
"""


def run(machine: Machine, script: str, *, seconds: float) -> str:
    """Boot a machine that is not booted otherwise, and run a script of sh there; what it says."""
    root, units = machine.root, machine.root / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "test.service").write_text(SERVICE)
    (units / "test.target").write_text(TARGET)
    (root / "test.sh").write_text(script)
    console = root.parent / "console.log"
    with console.open("wb") as file:
        kernel = subprocess.Popen(
            [
                *(str(PROGRAM), f"mem={MEMORY_MIB}M", "root=/dev/root", "rw"),
                *("rootfstype=hostfs", f"rootflags={root}", "init=/lib/systemd/systemd"),
                *("systemd.unit=test.target", "systemd.unified_cgroup_hierarchy=1"),
                *("con=null", "con0=null,fd:1", "con1=null", "ssl=null", "quiet"),
            ],
            # Its memory is a file that has no name.
            env={**os.environ, "TMPDIR": "/dev/shm"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                kernel.wait(seconds)
        finally:
            # It is several processes, which belong together.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(kernel.pid, signal.SIGKILL)
            kernel.wait()
    said = _text(root / "said.txt")
    assert _text(root / "status.txt") == "0\n", said + _text(console)[-4000:]
    return said


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
