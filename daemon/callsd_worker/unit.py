# SPDX-License-Identifier: Apache-2.0
"""`python -m callsd_worker.unit NAME`: how systemd starts a worker.

Opens the bootstrap as standard input and the log as output, and then runs the worker. It does so as
the worker's user: systemd itself would open these files as root, in directories that others can
write to.
"""

import os
import sys
from pathlib import Path

from callsd_ipc.names import WORKER_LOG


BOOTSTRAPS = Path("/run/callsd/bootstrap")
BOOTSTRAP_FILE = "bootstrap"


def redirect(bootstrap: Path, directory: Path) -> None:
    """Make the bootstrap standard input, and remove it; make the log the output."""
    log_file = os.open(directory / WORKER_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o660)
    told = os.open(bootstrap / BOOTSTRAP_FILE, os.O_RDONLY)
    (bootstrap / BOOTSTRAP_FILE).unlink()
    for source, *targets in ((told, 0), (log_file, 1, 2)):
        for target in targets:
            os.dup2(source, target)
        os.close(source)


def main() -> int:
    """Run the worker whose directory this is; returns the exit code."""
    redirect(BOOTSTRAPS / sys.argv[1], Path.cwd())
    # Imported late, so that errors of the import go into the worker's log.
    from callsd_worker.main import main as work

    return work()


if __name__ == "__main__":
    sys.exit(main())
