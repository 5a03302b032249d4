# SPDX-License-Identifier: Apache-2.0
"""What a worker does: read the bootstrap, connect, do the work, deliver the outcome, exit.

A captioner works differently: see `callsd_worker.session.captions`.

Exit codes: 0 = the outcome is delivered, or left for the daemon to find; 2 = no bootstrap; 3 = the
daemon gave no work, or no file of it, in time.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import sys

from callsd_worker.session.bootstrap import (
    Bootstrap,
    is_captioner,
    is_capturer,
    is_recorder,
    read_bootstrap,
)
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.inputs import InputError, Inputs
from callsd_worker.session.outcome import has_outcome, write_outcome


log = logging.getLogger(__name__)

EXIT_NO_BOOTSTRAP = 2
EXIT_NO_WORK = 3

ASSIGNMENT_TIMEOUT_SECONDS = 60.0
BATCH_NICENESS = 10
"""Batch work yields the processor to live work and to everything else on the machine."""


def main() -> int:
    """Be the worker that the bootstrap asks for; returns the exit code."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    bootstrap = read_bootstrap(sys.stdin.buffer.read())
    if bootstrap is None:
        log.error("started without a bootstrap of this release; only the daemon starts workers")
        return EXIT_NO_BOOTSTRAP
    if is_captioner(bootstrap):
        from callsd_worker.session.captions import serve

        return serve(bootstrap)
    session = Session(bootstrap)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: session.request_stop())
    if bootstrap.HasField("salvage"):
        _salvage(session, bootstrap)
        session.deliver()
        return 0
    if is_recorder(bootstrap) or is_capturer(bootstrap):
        # Parts of them are loaded late, what is done at the end: keep this release's code.
        from callsd_worker.session.code import hold_code

        hold_code(session.directory)
    if session.start(ASSIGNMENT_TIMEOUT_SECONDS):
        try:
            failure = _work(session, bootstrap)
        except InputError as error:
            # That says nothing about the file: without an outcome another worker asks for it.
            log.error("the daemon gave no file in time: %s", error)  # noqa: TRY400 - no bug of ours
            return EXIT_NO_WORK
    elif session.should_stop():
        failure = ("CANCELLED", "stopped before it began")
    else:
        log.error("the daemon gave no work")
        return EXIT_NO_WORK
    if failure is not None:
        log.error("%s: %s", *failure)
        write_outcome(session.directory, session.generation, failure=failure)
    session.deliver()
    return 0


def _salvage(session: Session, bootstrap: Bootstrap) -> None:
    """Make an outcome of what an earlier worker has left, unless it has left one."""
    if has_outcome(session.directory, bootstrap.generation):
        return
    if is_recorder(bootstrap):
        from callsd_worker.session.recording import salvage
    elif is_capturer(bootstrap):
        from callsd_worker.session.capture import salvage
    else:
        return
    reason, message = bootstrap.salvage.reason, bootstrap.salvage.message
    salvage(session.directory, bootstrap.generation, reason, message)


def _work(session: Session, bootstrap: Bootstrap) -> tuple[str, str] | None:
    """Do the work; the reason and message of its failure, or None when it is done.

    Raises InputError when the daemon was away for too long, or could not open a file for now.
    """
    assert session.assignment is not None
    try:
        match session.assignment.WhichOneof("work"):
            case "transcription":
                # Imported late, so that the worker reports to the daemon before it loads its
                # libraries. All of them are loaded before the work begins.
                from callsd_worker.session.transcription import transcribe

                with contextlib.suppress(PermissionError):  # as a unit it has its niceness already
                    os.nice(BATCH_NICENESS)
                transcribe(session, Inputs(bootstrap, session.directory))
            case "recording":
                from callsd_worker.session.recording import record

                record(session)
            case "capture":
                from callsd_worker.session.capture import capture

                capture(session, bootstrap)
            case unknown:
                return "KIND_UNAVAILABLE", f"this worker does not know the work {unknown}"
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the root of the work; what is unknown is logged
        return failure_of(error)
    return None
