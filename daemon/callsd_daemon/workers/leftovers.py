# SPDX-License-Identifier: Apache-2.0
"""What an attempt has left on the disk: whether it is a result, and when it goes."""

import os
from pathlib import Path
from typing import Any

from callsd_daemon.domain.jobs import Job, Outcome, State
from callsd_daemon.files import PASSING_ERRNOS, open_regular
from callsd_daemon.kinds import JobKind
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.takeover import FILE_NAME, remove_drafts
from callsd_ipc.names import ARTIFACTS, OUTCOME, PIECES


def taken_over(job: Job, directory: Path, made: Outcome | None = None) -> Outcome | None:
    """What was taken over from the job's attempt; None if there is nothing, or a file is missing.

    `made` is the outcome of an attempt that leaves none in a file. Raises OSError when that cannot
    be told now. Blocks.
    """
    outcome = made or messages.read_outcome(directory, job.attempt)
    return outcome if outcome is not None and is_whole(outcome, directory) else None


def is_whole(outcome: Outcome, directory: Path) -> bool:
    """Whether every file that the worker reports is there at its full length."""
    for artifact in outcome.artifacts:
        if not FILE_NAME.fullmatch(artifact.file_name):
            return False
        try:
            descriptor = open_regular(directory / ARTIFACTS / artifact.file_name)
        except OSError as problem:
            if problem.errno in PASSING_ERRNOS:
                raise
            return False
        try:
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size != artifact.size_bytes:
            return False
    return True


def discard(job: Job, kind: JobKind[Any], directory: Path, launcher: Launcher) -> None:
    """Remove what the workers of a job that has ended have left, and halves of files they sent.

    But for the pieces of a recording of which nothing was made, and for a finished one that could
    not be taken over: those are for a person, until the job is deleted. Blocks.
    """
    is_lost = kind.leaves_pieces and job.state is not State.SUCCEEDED
    left = (launcher.leftovers(job.id) or frozenset()) if is_lost else frozenset()
    # Its file may be a draft here already, the only copy: the worker has removed the pieces.
    is_finished = OUTCOME in left and not _is_taken_over(job, directory)
    if not is_finished:
        remove_drafts(directory / ARTIFACTS)
    if not is_finished and PIECES not in left:
        launcher.discard(job.id)


def _is_taken_over(job: Job, directory: Path) -> bool:
    """Whether the outcome of the job's last attempt is ours, as far as the disk tells."""
    try:
        return messages.read_outcome(directory, job.attempt) is not None
    except OSError:
        return False
