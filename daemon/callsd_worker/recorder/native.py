# SPDX-License-Identifier: Apache-2.0
"""Loads the system's libraries that recorders use."""

import ctypes

from callsd_worker.recorder.errors import Reason, RecordingError


PACKAGES = {
    "libyuv.so.0": "libyuv0",
    "libxcb.so.1": "libxcb1",
    "libpulse-simple.so.0": "libpulse0",
}
"""Debian's package for each library."""


def load(name: str) -> ctypes.CDLL:
    """A library, whose functions run without the GIL; raises CAPTURE_UNAVAILABLE."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise RecordingError(
            Reason.CAPTURE_UNAVAILABLE,
            f"{name} is not installed: apt install {PACKAGES[name]}",
        ) from None
