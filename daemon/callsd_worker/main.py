# SPDX-License-Identifier: Apache-2.0
"""A worker's life: read the bootstrap, dial the daemon, do the work, leave the outcome, end.

A captioner is another shape of worker: see `callsd_worker.session.captions`.

Exit codes: 0 = there is an outcome; 2 = no bootstrap; 3 = the daemon gave no work.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import sys

from callsd_worker.session.bootstrap import is_captioner, read_bootstrap
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.outcome import write_outcome


log = logging.getLogger(__name__)

EXIT_NO_BOOTSTRAP = 2
EXIT_NO_WORK = 3

ASSIGNMENT_TIMEOUT_SECONDS = 60.0
BATCH_NICENESS = 10
"""Batch work gives way to live work and to everything else on the machine."""


def main() -> int:
    """Run one job, or a captioner; returns the exit code."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    bootstrap = read_bootstrap(sys.stdin.buffer.read())
    if bootstrap is None:
        log.error("started without a bootstrap; only the daemon starts workers")
        return EXIT_NO_BOOTSTRAP
    if is_captioner(bootstrap):
        # Imported late: a worker for one job shall not load what only a captioner needs.
        from callsd_worker.session.captions import serve

        return serve(bootstrap)
    if bootstrap.HasField("salvage"):
        from callsd_worker.session.recording import salvage

        salvage(bootstrap)
        return 0
    session = Session(bootstrap)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: session.request_stop())
    if session.start(ASSIGNMENT_TIMEOUT_SECONDS):
        failure = _work(session)
    elif session.should_stop():
        failure = ("CANCELLED", "stopped before it began")
    else:
        log.error("the daemon gave no work")
        return EXIT_NO_WORK
    if failure is not None:
        log.error("%s: %s", *failure)
        write_outcome(session.directory, session.generation, failure=failure)
    return 0


def _work(session: Session) -> tuple[str, str] | None:
    """Do the work; the reason and message of its failure, or None when it is done."""
    assert session.assignment is not None
    try:
        match session.assignment.WhichOneof("work"):
            case "transcription":
                from callsd_worker.session.transcription import transcribe

                with contextlib.suppress(PermissionError):  # its unit has seen to it
                    os.nice(BATCH_NICENESS)
                transcribe(session)
            case "recording":
                from callsd_worker.session.recording import record

                record(session)
            case unknown:
                return "KIND_UNAVAILABLE", f"this worker does not know the work {unknown}"
    except Exception as error:  # noqa: BLE001 - the root of the work; what is unknown is logged
        return failure_of(error)
    return None
