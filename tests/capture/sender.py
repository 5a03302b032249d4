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
    rng = random.Random(network.seed)
    coming: list[tuple[float, int, Record]] = []
    said: dict[int, float] = {}
    spoken: list[list[int]] = []
    now = BEGIN_SECONDS
    sequence, timestamp = network.first_sequence, network.first_timestamp
    number = 0
    report_at = now + 0.5
    last: tuple[int, float] | None = None

    def come(record: Record, at: float) -> None:
        coming.append((at, len(coming), record))

    def delayed(at: float) -> float:
        return at + network.delay_seconds + rng.random() * network.jitter_seconds

    def reports_until(at: float) -> None:
        nonlocal report_at
        while report_at < at:
            if last is not None and network.has_reports:
                arrival = delayed(report_at)
                come(
                    SenderReport(
                        timestamp=round(last[0] + (report_at - last[1]) * 48_000) % (1 << 32),
                        ntp_seconds=report_at + SERVER_AHEAD_SECONDS,
                        arrival_seconds=arrival,
                    ),
                    arrival,
                )
            report_at += 1.0

    def packet(data: bytes, at: float) -> bool:
        is_lost = data != b"" and rng.random() < network.loss
        for copy in range(2 if rng.random() < network.doubled else 1):
            if is_lost:
                break
            arrival = delayed(at) + copy * 0.01
            come(
                Packet(
                    sequence=sequence % (1 << 16),
                    timestamp=timestamp % (1 << 32),
                    payload=data,
                    arrival_seconds=arrival,
                ),
                arrival,
            )
        return not is_lost

    for spurt in spurts:
        reports_until(now + spurt.pause_seconds)
        now += spurt.pause_seconds
        if spurt.is_rtp_running:
            timestamp += round(spurt.pause_seconds / PACKET_SECONDS) * PACKET_SAMPLES
        for _ in range(spurt.paddings):
            sequence += 1
            packet(b"", now)
        numbers = []
        for _ in range(spurt.packets):
            reports_until(now)
            sequence += 1
            timestamp += PACKET_SAMPLES
            said[number] = now
            if packet(payload(number, sizes[number % len(sizes)]), now):
                numbers.append(number)
            last = (timestamp, now)
            number += 1
            now += PACKET_SECONDS / (1 + network.drift)
        spoken.append(numbers)
    reports_until(now + 3)
    coming.sort(key=lambda one: one[:2])
    return Sent(records=[record for _, _, record in coming], said_seconds=said, spurts=spoken)
