# SPDX-License-Identifier: Apache-2.0
"""Packets as they came, in the order in which they were sent: each once, with unbounded numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from callsd_ipc.opus import MAX_PACKET_SAMPLES, OPUS_RATE_HZ
from callsd_worker.capture.call import Packet, SenderReport
from callsd_worker.capture.packet_log import Record
from callsd_worker.media.opus_packet import packet_samples


MAX_LATE_SECONDS = 1.0
"""So long packets wait for one that is missing; after that it is lost."""

MAX_WAITING_PACKETS = 2000
"""More than come in that time: 400 a second are the most there can be, of 2.5 ms each."""

MAX_EARLIER_PACKETS = 400
"""As many may have been sent before the first one that came, and come after it."""

MAX_MISSING_PACKETS = 3000
"""A minute of the usual 20 ms. A larger step of the sequence is no loss …"""
MAX_STALE_PACKETS = 500
"""… and a step back by more no late packet: the sender has begun anew …"""
PROOF_PACKETS = 5
"""… if so many in a row say so; fewer are strays."""

MAX_LEAP_SECONDS = 1.0
"""A timestamp that runs ahead of arrival by more than this counts from somewhere else."""

SEQUENCES, TIMESTAMPS = 1 << 16, 1 << 32
"""After so many they begin again."""


@dataclass(slots=True)
class Sound:
    """A packet with sound."""

    timestamp: int
    """Does not wrap around; at 48 kHz."""
    arrival_seconds: float
    payload: bytes
    samples: int
    """Its length at 48 kHz."""
    is_after_padding: bool
    """Padding came right before it, as when a microphone is switched on again."""
    is_restart: bool
    """Its timestamp has nothing to do with those before."""


def nearest(value: int, reference: int, period: int) -> int:
    """The number closest to `reference` that is `value` modulo `period`."""
    half = period // 2
    return reference + (value - reference + half) % period - half


def in_order(records: Iterable[Record]) -> Iterator[Sound | SenderReport]:
    """The sound of one track; sender reports stay where they are, everything else is left out.

    Memory is bounded by the packets of `MAX_LATE_SECONDS`.
    """
    order = _Order()
    last = _Timestamps()
    for record in records:
        if isinstance(record, SenderReport):
            yield record
        elif isinstance(record, Packet):
            for packet, is_restart in order.feed(record):
                if (sound := last.sound(packet, is_restart=is_restart)) is not None:
                    yield sound
    for packet, is_restart in order.finish():
        if (sound := last.sound(packet, is_restart=is_restart)) is not None:
            yield sound


class _Order:
    """Sorts by sequence number."""

    def __init__(self) -> None:
        self._last: int | None = None
        """Number of the last packet that was passed on; does not wrap around."""
        self._waiting: dict[int, Packet] = {}
        self._strays: list[Packet] = []
        """Consecutive packets that fit nowhere."""

    def feed(self, packet: Packet) -> Iterator[tuple[Packet, bool]]:
        if self._last is None:
            self._last = packet.sequence - MAX_EARLIER_PACKETS
        number = nearest(packet.sequence, self._last, SEQUENCES)
        step = number - self._last
        if step > MAX_MISSING_PACKETS or step < -MAX_STALE_PACKETS:
            yield from self._stray(packet)
            return
        self._strays.clear()
        if step <= 0 or number in self._waiting:
            return
        if step == 1 and not self._waiting:
            self._last = number
            yield packet, False
            return
        self._waiting[number] = packet
        yield from self._release(packet.arrival_seconds)

    def finish(self) -> Iterator[tuple[Packet, bool]]:
        for number in sorted(self._waiting):
            yield self._waiting[number], False
        self._waiting.clear()

    def _release(self, now_seconds: float) -> Iterator[tuple[Packet, bool]]:
        assert self._last is not None
        while self._waiting:
            if self._last + 1 in self._waiting:
                number = self._last + 1
            else:
                # In the order of arrival, as dictionaries are: the first has waited longest.
                first = next(iter(self._waiting.values()))
                is_given_up = (
                    abs(now_seconds - first.arrival_seconds) > MAX_LATE_SECONDS
                    or len(self._waiting) > MAX_WAITING_PACKETS
                )
                if not is_given_up:
                    return
                number = min(self._waiting)
            self._last = number
            yield self._waiting.pop(number), False

    def _stray(self, packet: Packet) -> Iterator[tuple[Packet, bool]]:
        strays = self._strays
        if strays and packet.sequence != (strays[-1].sequence + 1) % SEQUENCES:
            strays.clear()
        strays.append(packet)
        if len(strays) < PROOF_PACKETS:
            return
        yield from self.finish()
        for number, stray in enumerate(strays):
            yield stray, number == 0
        strays.clear()
        self._last = packet.sequence


class _Timestamps:
    """Counts timestamps on without wrapping around, and sorts out what is no sound."""

    def __init__(self) -> None:
        self._timestamp: int | None = None
        self._arrival_seconds = 0.0
        self._has_padding = False
        self._is_restart = False

    def sound(self, packet: Packet, *, is_restart: bool) -> Sound | None:
        # Kept for the next packet with sound, if this one has none.
        self._is_restart = self._is_restart or is_restart
        if not packet.payload:
            self._has_padding = True
            return None
        samples = packet_samples(packet.payload)
        if not samples:
            return None
        if self._timestamp is None:
            timestamp = packet.timestamp
        else:
            timestamp = nearest(packet.timestamp, self._timestamp, TIMESTAMPS)
            step_seconds = (timestamp - self._timestamp) / OPUS_RATE_HZ
            waited_seconds = packet.arrival_seconds - self._arrival_seconds
            if step_seconds > max(waited_seconds, 0.0) + MAX_LEAP_SECONDS:
                self._is_restart = True
            if timestamp < self._timestamp - MAX_PACKET_SAMPLES:
                self._is_restart = True
        sound = Sound(
            timestamp=timestamp,
            arrival_seconds=packet.arrival_seconds,
            payload=packet.payload,
            samples=samples,
            is_after_padding=self._has_padding,
            is_restart=self._is_restart,
        )
        self._timestamp = timestamp
        self._arrival_seconds = packet.arrival_seconds
        self._has_padding = self._is_restart = False
        return sound
