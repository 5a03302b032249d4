# SPDX-License-Identifier: Apache-2.0
"""Libraries of the system that a capture calls."""

import ctypes

from callsd_worker.recorder.errors import RecordingError, RecordingReason


PACKAGES = {
    "libyuv.so.0": "libyuv0",
    "libxcb.so.1": "libxcb1",
    "libpulse-simple.so.0": "libpulse0",
}
"""Debian's package for each library."""


def load(name: str) -> ctypes.CDLL:
    """A library; raises CAPTURE_UNAVAILABLE. Its functions run without Python's lock."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise RecordingError(
            RecordingReason.CAPTURE_UNAVAILABLE,
            f"{name} is not installed: apt install {PACKAGES[name]}",
        ) from None
