# SPDX-License-Identifier: Apache-2.0
"""Workers that have nothing in common with the daemon but the network.

Each is of another user, in a directory of its own outside the daemon's state, in a mount namespace
in which neither the daemon's state nor its sockets nor its media exist, and dials by TLS. That is
as near as one machine comes to another one. Takes root.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from callsd_daemon.workers.launchers.launcher import WorkerId
from callsd_daemon.workers.launchers.process import ProcessLauncher
from callsd_ipc.names import WORKER_LOG


USER = 48_771
"""Nobody else's."""

REPOSITORY = Path(__file__).parents[2]

WITHOUT_THE_DAEMON = """
set -e
umask 022
hold=$(mktemp --directory --tmpdir=/dev/shm)
mount -t tmpfs -o mode=755 tmpfs "$hold"
n=0
for needed in $NEEDED; do
    mkdir "$hold/$n"; mount --bind "$needed" "$hold/$n"; n=$((n + 1))
done
for hidden in $HIDDEN; do
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
done
n=0
for needed in $NEEDED; do
    mkdir -p "$needed"; mount --bind "$hold/$n" "$needed"; n=$((n + 1))
done
umount --lazy "$hold"
rmdir "$hold"
cd "$DIRECTORY"
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs -- "$@"
"""
"""Hides directories, but for what is needed to run Python, and becomes somebody else."""


class DetachedLauncher(ProcessLauncher):
    """Starts workers that share no disk with the daemon."""

    is_local = False

    def __init__(self, top: Path, hidden: Path) -> None:
        """`top` holds the workers' directories; `hidden` is all that the daemon has."""
        top.mkdir(mode=0o755, exist_ok=True)
        top.chmod(0o755)
        trash = top.with_name(f"{top.name}.trash")
        trash.mkdir(mode=0o700, exist_ok=True)
        super().__init__(top, trash)
        self._hidden = hidden

    def make(self, name: str) -> Path:
        """The directory of a worker, which is the other user's, as is its log."""
        path = super().make(name)
        (path / WORKER_LOG).touch()
        for one in (path, path / WORKER_LOG):
            os.chown(one, USER, USER)
        return path

    def command(self, worker: WorkerId, directory: Path) -> list[str]:
        """The worker's command line, behind what takes everything away from it."""
        needed = [sys.base_prefix, str(REPOSITORY)]
        # Somebody's home may let nobody else in.
        tops = {f"/{Path(path).parts[1]}" for path in needed} & {"/root", "/home"}
        shut = [path for path in needed if f"/{Path(path).parts[1]}" in tops]
        settings = {
            "NEEDED": " ".join(shut),
            "HIDDEN": " ".join([*sorted(tops), str(self._hidden)]),
            "DIRECTORY": str(directory),
            "USER_ID": str(USER),
            "HOME": str(directory),
            "TMPDIR": "/tmp",
        }
        prelude = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        script = f"{prelude}export HOME TMPDIR\n{WITHOUT_THE_DAEMON}"
        inner = super().command(worker, directory)
        return ["unshare", "--mount", "--", "sh", "-c", script, "sh", *inner]

    # The daemon sees nothing of what lies there.

    def leftovers(self, name: str) -> frozenset[str] | None:
        """Nobody can look."""
        return None

    def take(self, name: str, file: str, target: Path) -> bool:
        """Nothing can be moved from there."""
        return False

    def read_log(self, name: str, offset: int, size: int) -> bytes:
        """Nothing can be read there."""
        return b""

    def bound_log(self, name: str, max_bytes: int) -> None:
        """Nothing can be cut there."""

    def discard(self, name: str) -> None:
        """The machine of the worker would do it."""
        shutil.rmtree(self.path(name), ignore_errors=True)
