# SPDX-License-Identifier: Apache-2.0
"""Where the packets of a speaker belong while the call goes on.

Good enough for captions; the files are placed with what is known after the call (`packet_order`,
`timeline`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from callsd_ipc.opus import OPUS_RATE_HZ
from callsd_worker.capture.call import Packet
from callsd_worker.capture.packet_order import SEQUENCES, TIMESTAMPS, nearest
from callsd_worker.media.opus_packet import packet_samples


CAPTION_RATE_HZ = 16_000

GAP_SECONDS = 0.3
"""When packets pause for longer than their timestamps say, the speaker was muted meanwhile."""

MAX_AHEAD_SECONDS = 10.0
"""Packets that were held up come all at once, and are placed after one another, ahead of the time
at which they come. By more than this it is the sender's clock that has leapt."""

MAX_LATE_PACKETS = 50
"""When so many in a row come behind a later one, the sender has begun to count anew."""


WAIT_SECONDS = 0.25
"""So long later packets wait for one that is missing."""

MAX_WAITING_PACKETS = 100
"""More than come in that time, but of 2.5 ms each."""


class LiveOrder:
    """Packets of a speaker in the order in which they were sent."""

    def __init__(self) -> None:
        self._next: int | None = None
        """Of the number that is awaited, which does not wrap around."""
        self._waiting: dict[int, Packet] = {}

    def put(self, packet: Packet) -> Iterator[Packet]:
        """What can go on now. What comes too late is not held back: its place tells."""
        if self._next is None:
            self._next = packet.sequence
        number = nearest(packet.sequence, self._next, SEQUENCES)
        if number < self._next:
            yield packet
            return
        self._waiting.setdefault(number, packet)
        yield from self._run()
        while self._waiting:
            first = min(self._waiting)
            waited_seconds = packet.arrival_seconds - self._waiting[first].arrival_seconds
            if waited_seconds < WAIT_SECONDS and len(self._waiting) < MAX_WAITING_PACKETS:
                return
            self._next = first
            yield from self._run()

    def rest(self) -> Iterator[Packet]:
        """What still waits; then the next packet may have any number."""
        for number in sorted(self._waiting):
            yield self._waiting[number]
        self._waiting.clear()
        self._next = None

    def _run(self) -> Iterator[Packet]:
        assert self._next is not None
        while (packet := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            yield packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of one packet. Neither number ever goes back."""

    sequence: int
    """From 1; what was lost on the way is left out."""
    start_sample: int
    """At 16 kHz, from the start of the capture."""


class LivePlacer:
    """Of one speaker, over all tracks that they have one after the other."""

    def __init__(self, start_seconds: float) -> None:
        """`start_seconds` is the Unix time of sample 0."""
        self._start_seconds = start_seconds
        self._sequence = 0
        self._last: Packet | None = None
        self._late_packets = 0
        self._anchor: tuple[int, float] | None = None
        """A timestamp, unwrapped, and the time at which it is placed."""
        self._timestamp = 0
        self._end_seconds = start_seconds
        """What comes next begins here at the earliest."""

    def restart(self) -> None:
        """What comes next is of another track, with other numbers."""
        self._last = self._anchor = None
        self._late_packets = 0

    def place(self, packet: Packet) -> Place | None:
        """None for padding, for what comes behind a later packet, and for what is no sound."""
        samples = packet_samples(packet.payload)
        if self._last is None:
            self._timestamp = packet.timestamp
            self._sequence += 1 if samples else 0
        else:
            last = self._last.sequence
            step = nearest(packet.sequence, last, SEQUENCES) - last
            if step <= 0 and not self._has_begun_anew():
                return None
            self._late_packets = 0
            # Padding takes numbers, and is no sound that was lost.
            self._sequence += max(1, step) - (0 if samples else 1)
            self._timestamp = nearest(packet.timestamp, self._timestamp, TIMESTAMPS)
        self._last = packet
        if not samples:
            return None
        at = max(self._time(packet), self._end_seconds)
        self._end_seconds = at + samples / OPUS_RATE_HZ
        return Place(
            sequence=self._sequence,
            start_sample=round((at - self._start_seconds) * CAPTION_RATE_HZ),
        )

    def _has_begun_anew(self) -> bool:
        self._late_packets += 1
        return self._late_packets > MAX_LATE_PACKETS

    def _time(self, packet: Packet) -> float:
        if self._anchor is not None:
            timestamp, at = self._anchor
            expected = at + (self._timestamp - timestamp) / OPUS_RATE_HZ
            if -MAX_AHEAD_SECONDS <= packet.arrival_seconds - expected <= GAP_SECONDS:
                return expected
        self._anchor = (self._timestamp, max(packet.arrival_seconds, self._end_seconds))
        return self._anchor[1]
