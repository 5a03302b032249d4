# SPDX-License-Identifier: Apache-2.0
"""Somebody in a call, as the network brings them: packets whose true time is known."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from callsd_worker.capture.call import Packet, SenderReport
from callsd_worker.capture.packet_log import Record


PACKET_SECONDS = 0.02
PACKET_SAMPLES = 960
BEGIN_SECONDS = 1_700_000_000.0
"""Unix time of the call's beginning."""
SERVER_AHEAD_SECONDS = 123.456
"""How much the server's clock is ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spurt:
    """What somebody says without switching the microphone off."""

    pause_seconds: float
    """Since the one before."""
    packets: int
    is_rtp_running: bool = False
    """Whether timestamps have run on in the pause."""
    paddings: int = 3
    """Empty packets at the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What happens on the way."""

    jitter_seconds: float = 0.0
    loss: float = 0.0
    doubled: float = 0.0
    delay_seconds: float = 0.03
    drift: float = 0.0
    """How much the sender's clock is too fast."""
    has_reports: bool = False
    seed: int = 1
    first_sequence: int = 65_530
    first_timestamp: int = (1 << 32) - 5000


def payload(number: int, size: int = 60) -> bytes:
    """A packet of 20 ms that can be told from others."""
    return b"\xf8" + number.to_bytes(8, "big") + bytes(size - 9)


def number_of(packet: bytes) -> int:
    """Which one it is."""
    return int.from_bytes(packet[1:9], "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent: records as they came, and when each packet was said (Unix time)."""

    records: list[Record]
    said_seconds: dict[int, float]
    spurts: list[list[int]]
    """Numbers of the packets that came, of each spurt."""


def send(spurts: Sequence[Spurt], network: Network, sizes: Sequence[int] = (60,)) -> Sent:
    """Say it."""
    sender = _Sender(network)
    for spurt in spurts:
        sender.pause(spurt)
        for _ in range(spurt.packets):
            sender.say(sizes)
    sender.report_until(sender.now + 3)
    sender.coming.sort(key=lambda one: one[:2])
    return Sent(
        records=[record for _, _, record in sender.coming],
        said_seconds=sender.said,
        spurts=sender.spoken,
    )


class _Sender:
    """At one moment of the call."""

    def __init__(self, network: Network) -> None:
        self.coming: list[tuple[float, int, Record]] = []
        self.said: dict[int, float] = {}
        self.spoken: list[list[int]] = []
        self.now = BEGIN_SECONDS
        self._network = network
        self._rng = random.Random(network.seed)  # noqa: S311 - the same each time
        self._sequence, self._timestamp = network.first_sequence, network.first_timestamp
        self._report_at = self.now + 0.5
        self._last: tuple[int, float] | None = None
        """Timestamp and time of the last packet."""

    def pause(self, spurt: Spurt) -> None:
        self.report_until(self.now + spurt.pause_seconds)
        self.now += spurt.pause_seconds
        if spurt.is_rtp_running:
            self._timestamp += round(spurt.pause_seconds / PACKET_SECONDS) * PACKET_SAMPLES
        for _ in range(spurt.paddings):
            self._sequence += 1
            self._send(b"")
        self.spoken.append([])

    def say(self, sizes: Sequence[int]) -> None:
        self.report_until(self.now)
        self._sequence += 1
        self._timestamp += PACKET_SAMPLES
        number = len(self.said)
        self.said[number] = self.now
        if self._rng.random() >= self._network.loss:
            self._send(payload(number, sizes[number % len(sizes)]))
            self.spoken[-1].append(number)
        self._last = (self._timestamp, self.now)
        self.now += PACKET_SECONDS / (1 + self._network.drift)

    def report_until(self, time_seconds: float) -> None:
        """Once a second, counted on from the last packet, as the server does."""
        while self._report_at < time_seconds:
            if self._last is not None and self._network.has_reports:
                timestamp, sent = self._last
                report = SenderReport(
                    timestamp=round(timestamp + (self._report_at - sent) * 48_000) % (1 << 32),
                    ntp_seconds=self._report_at + SERVER_AHEAD_SECONDS,
                    arrival_seconds=self._arrival(self._report_at),
                )
                self._come(report)
            self._report_at += 1.0

    def _send(self, data: bytes) -> None:
        is_doubled = self._rng.random() < self._network.doubled
        for copy in range(2 if is_doubled else 1):
            packet = Packet(
                sequence=self._sequence % (1 << 16),
                timestamp=self._timestamp % (1 << 32),
                payload=data,
                arrival_seconds=self._arrival(self.now) + copy * 0.01,
            )
            self._come(packet)

    def _come(self, record: Packet | SenderReport) -> None:
        self.coming.append((record.arrival_seconds, len(self.coming), record))

    def _arrival(self, sent: float) -> float:
        network = self._network
        return sent + network.delay_seconds + self._rng.random() * network.jitter_seconds
