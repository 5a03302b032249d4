# SPDX-License-Identifier: Apache-2.0
"""Where the packets of a speaker belong while the call goes on.

Good enough for captions; the files are placed with what is known after the call (`timeline`).
"""

from dataclasses import dataclass

from callsd_worker.capture.call import Packet


CAPTION_RATE_HZ = 16_000
RTP_TICKS_A_SAMPLE = 3
"""RTP counts Opus at 48 kHz."""

GAP_SECONDS = 0.3
"""When packets pause for longer than their timestamps say, the speaker was muted meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of one packet."""

    sequence: int
    """From 1, or where another track has ended; what was lost on the way is left out."""
    start_sample: int
    """At 16 kHz, from the start of the capture."""


class LivePlacer:
    """Of one track."""

    def __init__(self, start_seconds: float, last_sequence: int = 0) -> None:
        """`start_seconds` is the Unix time of sample 0; the first packet is the next in number."""
        self._start_seconds = start_seconds
        self._sequence = last_sequence
        self._last: Packet | None = None
        self._anchor: tuple[int, float] | None = None
        """A timestamp, unwrapped, and the time at which it is placed."""
        self._timestamp = 0

    def place(self, packet: Packet) -> Place | None:
        """None for padding, and for what comes behind a later packet."""
        last, self._last = self._last, packet
        if last is None:
            self._timestamp = packet.timestamp
        else:
            step = _signed(packet.sequence - last.sequence, 16)
            if step <= 0:
                self._last = last
                return None
            # Padding takes numbers, and is no sound that was lost.
            self._sequence += step - (0 if packet.payload else 1)
            self._timestamp += _signed(packet.timestamp - last.timestamp, 32)
        if not packet.payload:
            return None
        if last is None:
            self._sequence += 1
        at = self._time(packet)
        return Place(
            sequence=max(1, self._sequence),
            start_sample=max(0, round((at - self._start_seconds) * CAPTION_RATE_HZ)),
        )

    def _time(self, packet: Packet) -> float:
        rate = CAPTION_RATE_HZ * RTP_TICKS_A_SAMPLE
        if self._anchor is not None:
            timestamp, at = self._anchor
            expected = at + (self._timestamp - timestamp) / rate
            if abs(packet.arrival_seconds - expected) <= GAP_SECONDS:
                return expected
        self._anchor = (self._timestamp, packet.arrival_seconds)
        return packet.arrival_seconds


def _signed(difference: int, bits: int) -> int:
    """A difference of numbers that begin again after 2^bits - 1."""
    half = 1 << (bits - 1)
    return (difference + half) % (1 << bits) - half
