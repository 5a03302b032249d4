# SPDX-License-Identifier: Apache-2.0
"""Turns exceptions into reasons of the closed list."""

import errno
import logging

from callsd_worker.capture.call import CaptureError
from callsd_worker.recorder.errors import RecordingError
from callsd_worker.session.inputs import RefusedInputError
from callsd_worker.speech.errors import SpeechError


log = logging.getLogger(__name__)


def failure_of(error: Exception) -> tuple[str, str]:
    """Reason and message of a failure, for an outcome or a report."""
    if isinstance(error, (SpeechError, RecordingError)):
        return error.reason, error.message
    if isinstance(error, CaptureError):
        return error.reason, str(error)
    if isinstance(error, RefusedInputError):
        return "MEDIA_NOT_FOUND", f"a file of the job could not be read: {error}"
    if isinstance(error, MemoryError):
        return "OUT_OF_MEMORY", "there was not enough memory: take a smaller model"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "DISK_FULL", "the disk is full: free some space and submit the job again"
    log.error("a bug", exc_info=error)
    return "INTERNAL", f"a bug in callsd; please report it with the job's log ({error})"
