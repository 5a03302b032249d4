# SPDX-License-Identifier: Apache-2.0
"""`python -m callsd_worker.unit BOOTSTRAP DIRECTORY`: how systemd starts a worker.

Becomes the worker as any launcher starts it: what it is told on its standard input, its log as its
output, its mark as its argument and in its environment. All this is done here, as the user whom the
worker runs as: systemd itself would open these files as root.
"""

import os
import sys
from pathlib import Path


def main(bootstrap: Path, directory: Path) -> None:
    """Take the files `mark` and `bootstrap` away, and become the worker."""
    log_file = os.open(directory / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o660)
    os.dup2(log_file, sys.stdout.fileno())
    os.dup2(log_file, sys.stderr.fileno())
    os.dup2(os.open(bootstrap / "bootstrap", os.O_RDONLY), sys.stdin.fileno())
    mark = (bootstrap / "mark").read_text()
    for path in bootstrap.iterdir():
        path.unlink()
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable,
        [sys.executable, "-m", "callsd_worker", mark],
        {**os.environ, "CALLSD_JOB": mark},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
