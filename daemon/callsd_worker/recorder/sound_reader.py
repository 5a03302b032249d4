# SPDX-License-Identifier: Apache-2.0
"""Records what a sound server plays, with times: PulseAudio's simple API."""

import ctypes
import time
from dataclasses import dataclass

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.native import load
from callsd_worker.recorder.sound import CHANNELS, FRAME_BYTES, MONITOR, RATE_HZ


BLOCK_SAMPLES = RATE_HZ // 10
"""Per channel: 100 ms. Latency does not matter, and smaller blocks cost more."""
BLOCK_BYTES = BLOCK_SAMPLES * FRAME_BYTES

# Source: pulse/def.h, pulse/sample.h.
_STREAM_RECORD = 2
_SAMPLE_S16LE = 3
_DEFAULT = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """A block of sound."""

    samples: bytes
    """BLOCK_SAMPLES times two channels, s16le, interleaved."""
    at_seconds: float
    """Monotonic time at which its first sample was played."""


class _SampleSpec(ctypes.Structure):
    _fields_ = (("format", ctypes.c_int), ("rate", ctypes.c_uint32), ("channels", ctypes.c_uint8))


class _BufferAttributes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint32) for name in ("maxlength", "tlength", "prebuf", "minreq", "fragsize")
    )


class SoundReader:
    """Records what is played at the server that the environment names."""

    def __init__(self) -> None:
        """Connect to the server; raises CAPTURE_UNAVAILABLE."""
        pulse = load("libpulse-simple.so.0")
        pulse.pa_simple_new.restype = ctypes.c_void_p
        pulse.pa_simple_read.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_int),
        ]
        pulse.pa_simple_get_latency.restype = ctypes.c_uint64
        pulse.pa_simple_get_latency.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._pulse = pulse
        self._block = ctypes.create_string_buffer(BLOCK_BYTES)
        self._error = ctypes.c_int()
        self._stream = pulse.pa_simple_new(
            None,
            b"callsd",
            _STREAM_RECORD,
            MONITOR.encode(),
            b"recording",
            ctypes.byref(_SampleSpec(_SAMPLE_S16LE, RATE_HZ, CHANNELS)),
            None,
            ctypes.byref(_BufferAttributes(_DEFAULT, _DEFAULT, _DEFAULT, _DEFAULT, BLOCK_BYTES)),
            ctypes.byref(self._error),
        )
        if self._stream is None:
            raise self._failed("the sound server does not answer")

    def read_block(self) -> AudioBlock:
        """Wait for the next block; raises CAPTURE_UNAVAILABLE when the server is gone."""
        if self._pulse.pa_simple_read(
            self._stream, self._block, BLOCK_BYTES, ctypes.byref(self._error)
        ):
            raise self._failed("the sound server has gone")
        # How long ago this block ended.
        since_seconds = self._pulse.pa_simple_get_latency(self._stream, None) / 1e6
        return AudioBlock(
            samples=self._block.raw,
            at_seconds=time.monotonic() - since_seconds - BLOCK_SAMPLES / RATE_HZ,
        )

    def _failed(self, what: str) -> RecordingError:
        return RecordingError(
            Reason.CAPTURE_UNAVAILABLE, f"{what} (PulseAudio error {self._error.value})"
        )
