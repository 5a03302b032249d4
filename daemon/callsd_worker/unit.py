# SPDX-License-Identifier: Apache-2.0
"""`python -m callsd_worker.unit NAME`: how systemd starts a worker.

Becomes the worker as any launcher starts it: what it is told on its standard input, its log as its
output. This is done here, as the user whom the worker runs as: systemd itself would open these
files as root, in directories that others can write to.
"""

import os
import sys
from pathlib import Path


BOOTSTRAPS = Path("/run/callsd/bootstrap")
BOOTSTRAP_FILE, LOG_FILE = "bootstrap", "log.txt"


def redirect(bootstrap: Path, directory: Path) -> None:
    """Have the bootstrap as standard input, which nobody can read again, and the log as output."""
    log_file = os.open(directory / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o660)
    told = os.open(bootstrap / BOOTSTRAP_FILE, os.O_RDONLY)
    (bootstrap / BOOTSTRAP_FILE).unlink()
    for source, *targets in ((told, 0), (log_file, 1, 2)):
        for target in targets:
            os.dup2(source, target)
        os.close(source)


def main() -> int:
    """Run the worker whose directory this is; returns the exit code."""
    redirect(BOOTSTRAPS / sys.argv[1], Path.cwd())
    # Imported late: what keeps it from being imported belongs into its log.
    from callsd_worker.main import main as work

    return work()


if __name__ == "__main__":
    sys.exit(main())
