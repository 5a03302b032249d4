# SPDX-License-Identifier: Apache-2.0
"""When captured packets were said, held against senders whose truth is known."""

import itertools
import statistics
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callsd_worker.capture.call import Packet, SenderReport
from callsd_worker.capture.packet_log import Mark, Record, RecordingStart
from callsd_worker.capture.timeline import PlacedPacket, place

from .sender import (
    BEGIN_SECONDS,
    PACKET_SAMPLES,
    Network,
    Sent,
    Spurt,
    number_of,
    payload,
    send,
)


DELAY_SECONDS = 0.03
"""Of the network at its best: nobody can tell it from a clock."""
PROMISED_SECONDS = 0.06
JITTER_SECONDS = 0.2


def placed(sent: Sent) -> dict[int, PlacedPacket]:
    """Packets by number."""
    found = list(place(sent.records, zero_seconds=BEGIN_SECONDS + DELAY_SECONDS))
    assert_in_order(found)
    return {number_of(one.payload): one for one in found}


def assert_in_order(found: list[PlacedPacket]) -> None:
    """Packets never overlap or go back."""
    for one, following in itertools.pairwise(found):
        assert one.position + one.samples <= following.position


def errors(sent: Sent, found: dict[int, PlacedPacket]) -> list[float]:
    """For each spurt, how much later than the truth it is."""
    return [
        found[numbers[0]].position / 48_000 - (sent.said_seconds[numbers[0]] - BEGIN_SECONDS)
        for numbers in sent.spurts
        if numbers
    ]


def assert_continuous(sent: Sent, found: dict[int, PlacedPacket]) -> None:
    """All that came is there, and within a spurt as far apart as it was sent, to the sample."""
    for numbers in sent.spurts:
        for one, following in itertools.pairwise(numbers):
            step = found[following].position - found[one].position
            assert step == (following - one) * PACKET_SAMPLES


def spurt(shortest_seconds: float, paddings: st.SearchStrategy[int]) -> st.SearchStrategy[Spurt]:
    """Any, after a pause of at least this."""
    return st.builds(
        Spurt,
        pause_seconds=st.floats(min_value=shortest_seconds, max_value=20),
        packets=st.integers(min_value=25, max_value=200),
        is_rtp_running=st.booleans(),
        paddings=paddings,
    )


spurts = st.lists(
    # Without padding, a short mute looks like delays on the way.
    st.one_of(spurt(0.05, st.integers(1, 4)), spurt(0.4, st.just(0))),
    min_size=1,
    max_size=6,
)
networks = st.builds(
    Network,
    jitter_seconds=st.floats(min_value=0, max_value=JITTER_SECONDS),
    loss=st.sampled_from([0.0, 0.01, 0.1]),
    doubled=st.sampled_from([0.0, 0.1]),
    has_reports=st.booleans(),
    seed=st.integers(min_value=0, max_value=1000),
    first_sequence=st.integers(min_value=0, max_value=65_535),
    first_timestamp=st.integers(min_value=0, max_value=(1 << 32) - 1),
)


class TestTruth:
    """What is promised of calls as they are."""

    @settings(max_examples=150, deadline=None)
    @given(said=spurts, network=networks)
    def test_any_call(self, said: list[Spurt], network: Network) -> None:
        """Every spurt is within 60 ms of the truth, and exactly continuous inside.

        With jitter up to 200 ms, reordering, loss, packets twice, numbers that wrap around
        anywhere, timestamps that stand still or run on while the microphone is off, for any time
        with padding or from 0.4 s on without, with sender reports or without.
        """
        sent = send(said, network)
        found = placed(sent)

        assert_continuous(sent, found)
        assert max(abs(error) for error in errors(sent, found)) <= PROMISED_SECONDS

    def test_usually_much_better(self) -> None:
        """With 200 ms of jitter the median error is below 5 ms."""
        found = []
        for seed in range(10):
            said = [Spurt(pause_seconds=3.3, packets=100)] * 6
            sent = send(said, Network(jitter_seconds=JITTER_SECONDS, seed=seed))
            found += [abs(error) for error in errors(sent, placed(sent))]

        assert statistics.median(found) < 0.005

    def test_seen_mutes(self) -> None:
        """Gaps of 2.04, 8.03 and 15.03 s without any RTP time are as long as they were.

        As seen on a real server: three padding packets with the old timestamp come first.
        """
        said = [Spurt(pause_seconds=s, packets=250) for s in (0, 2.04, 8.03, 15.03)]
        sent = send(said, Network(jitter_seconds=0.005))
        found = placed(sent)

        assert_continuous(sent, found)
        assert errors(sent, found) == pytest.approx([0] * 4, abs=0.006)

    def test_short_mutes_add_up(self) -> None:
        """A hundred mutes of less than a second each shift nothing that follows."""
        said = [Spurt(pause_seconds=0.3 + n % 7 / 10, packets=60) for n in range(100)]
        sent = send(said, Network(jitter_seconds=0.05))
        found = placed(sent)

        assert_continuous(sent, found)
        assert max(abs(error) for error in errors(sent, found)) < 0.03

    def test_a_short_answer(self) -> None:
        """Of six packets at 200 ms of jitter, reports that come after them tell the time."""
        said = [Spurt(pause_seconds=5, packets=6 if n % 2 else 100) for n in range(20)]
        found = []
        for seed in range(20):
            sent = send(said, Network(jitter_seconds=JITTER_SECONDS, has_reports=True, seed=seed))
            found += [abs(error) for error in errors(sent, placed(sent))[1::2]]

        assert max(found) < 0.15
        assert statistics.median(found) < 0.03

    def test_a_report_from_the_pause(self) -> None:
        """The server counts timestamps on while the microphone is off: that is no mapping."""
        said = [Spurt(pause_seconds=pause, packets=30) for pause in (0.7, 9.95, 4.9, 2.99)]
        for seed in range(30):
            sent = send(said, Network(jitter_seconds=JITTER_SECONDS, has_reports=True, seed=seed))

            assert max(abs(e) for e in errors(sent, placed(sent))) < PROMISED_SECONDS

    @pytest.mark.parametrize("drift", [-200e-6, -50e-6, 50e-6, 200e-6])
    def test_an_hour_of_talk(self, drift: float) -> None:
        """A sender's clock that is off, for an hour without a mute: below 100 ms, all the time.

        It is corrected where it is quiet, and speech stays in one piece.
        """
        sizes = [90] * 150 + [12] * 50
        said = [Spurt(pause_seconds=0, packets=180_000)]
        network = Network(jitter_seconds=0.1, drift=drift, loss=0.01)
        sent = send(said, network, sizes)
        found = placed(sent)
        wrong = [
            abs(one.position / 48_000 - (sent.said_seconds[number] - BEGIN_SECONDS))
            for number, one in found.items()
        ]
        broken = [
            following
            for one, following in itertools.pairwise(sorted(found))
            if (found[following].position - found[one].position) != (following - one) * 960
        ]

        assert max(wrong) < 0.05
        assert len(found) > 0.98 * 180_000
        assert 5 <= len(broken) <= 80
        assert all(
            sizes[number % 200] == 12 or sizes[(number - 1) % 200] == 12 for number in broken
        )

    def test_an_hour_at_a_constant_rate(self) -> None:
        """Where no packet is smaller than others the clock is followed all the same."""
        sent = send([Spurt(pause_seconds=0, packets=180_000)], Network(drift=100e-6))
        found = placed(sent)
        number = max(found)
        error = found[number].position / 48_000 - (sent.said_seconds[number] - BEGIN_SECONDS)

        assert abs(error) < 0.1

    def test_an_hour_with_pauses(self) -> None:
        """In a call with mutes the clock's error is gone with each of them."""
        said = [Spurt(pause_seconds=30, packets=1500) for _ in range(60)]
        for drift in (-200e-6, 200e-6):
            sent = send(said, Network(jitter_seconds=0.05, drift=drift))
            found = placed(sent)

            assert_continuous(sent, found)
            assert max(abs(error) for error in errors(sent, found)) < 0.03


def packets(numbers: Sequence[int], *, gap_seconds: float = 0.02) -> list[Packet]:
    """Packets of 20 ms in the order given, their timestamps by their numbers."""
    return [
        Packet(
            sequence=number % 65_536,
            timestamp=number * 960 % (1 << 32),
            payload=payload(number),
            arrival_seconds=BEGIN_SECONDS + place * gap_seconds,
        )
        for place, number in enumerate(numbers)
    ]


def run(records: Sequence[Record]) -> list[tuple[int, int]]:
    """(number, position) of what is placed."""
    found = list(place(records, zero_seconds=BEGIN_SECONDS))
    assert_in_order(found)
    return [(number_of(one.payload), one.position) for one in found]


class TestFaults:
    """Single things that networks and senders do."""

    def test_loss_is_a_hole(self) -> None:
        """What was lost is a hole, as long as that was."""
        numbers = [*range(50), *range(61, 100)]
        assert run(
            [
                Packet(
                    sequence=n,
                    timestamp=n * 960,
                    payload=payload(n),
                    arrival_seconds=BEGIN_SECONDS + n * 0.02,
                )
                for n in numbers
            ]
        ) == [(n, n * 960) for n in numbers]

    def test_late_by_less_than_a_second(self) -> None:
        """A packet that comes 0.9 s late is in its place; one that comes 1.2 s late is lost."""
        numbers = list(range(200))
        numbers.insert(60, numbers.pop(20))
        numbers.insert(170, numbers.pop(100))
        found = [number for number, _ in run(packets(numbers))]

        assert 20 in found
        assert 100 not in found
        assert found == sorted(found)

    def test_padding_in_mid_speech(self) -> None:
        """Padding that no pause belongs to changes nothing."""
        sound = packets(list(range(400)))
        records: list[Record] = []
        for number, packet in enumerate(sound):
            sequence = number + number // 5
            if number % 5 == 0 and number:
                records.append(
                    Packet(
                        sequence=sequence - 1,
                        timestamp=sound[number - 1].timestamp,
                        payload=b"",
                        arrival_seconds=packet.arrival_seconds,
                    )
                )
            records.append(
                Packet(
                    sequence=sequence,
                    timestamp=packet.timestamp,
                    payload=packet.payload,
                    arrival_seconds=packet.arrival_seconds + number * 37 % 11 / 100,
                )
            )
        found = run(records)

        assert [number for number, _ in found] == list(range(400))
        assert {position - 960 * number for number, position in found} == {0}

    def test_a_stall(self) -> None:
        """Two seconds that come all at once, late, are no pause."""
        sound = packets(list(range(300)))
        records: list[Record] = [
            packet
            if not 100 <= number < 180
            else Packet(
                sequence=packet.sequence,
                timestamp=packet.timestamp,
                payload=packet.payload,
                arrival_seconds=BEGIN_SECONDS + 3.6 + number / 100_000,
            )
            for number, packet in enumerate(sound)
        ]
        assert run(records) == [(number, number * 960) for number in range(300)]

    def test_a_sender_that_begins_anew(self) -> None:
        """Sequence and timestamp that start somewhere else are placed by their arrival."""
        first = packets(list(range(100)))
        second = [
            Packet(
                sequence=(packet.sequence + 40_000) % 65_536,
                timestamp=(packet.timestamp + 3_000_000_000) % (1 << 32),
                payload=payload(1000 + number),
                arrival_seconds=packet.arrival_seconds + 5,
            )
            for number, packet in enumerate(first)
        ]
        found = dict(run([*first, *second]))

        assert len(found) == 200
        assert found[1000] == 5 * 48_000
        assert found[1099] - found[1000] == 99 * 960

    def test_strays(self) -> None:
        """Single packets with numbers from elsewhere are left out, and change nothing."""
        records: list[Record] = list(packets(list(range(200))))
        for at in (150, 100, 50):
            stray = Packet(
                sequence=30_000 + at,
                timestamp=77,
                payload=payload(5000),
                arrival_seconds=BEGIN_SECONDS + at * 0.02,
            )
            records.insert(at, stray)
        assert run(records) == [(number, number * 960) for number in range(200)]

    def test_a_timestamp_that_leaps(self) -> None:
        """When timestamps leap ahead of the time, arrival decides."""
        records: list[Record] = [
            packet
            if number < 100
            else Packet(
                sequence=packet.sequence,
                timestamp=packet.timestamp + 48_000 * 3600,
                payload=packet.payload,
                arrival_seconds=packet.arrival_seconds,
            )
            for number, packet in enumerate(packets(list(range(200))))
        ]
        assert run(records) == [(number, number * 960) for number in range(200)]

    def test_timestamps_that_stand(self) -> None:
        """A sender that never counts on is no reason to place sound after it came."""
        records: list[Record] = [
            Packet(
                sequence=packet.sequence,
                timestamp=5,
                payload=packet.payload,
                arrival_seconds=packet.arrival_seconds,
            )
            for packet in packets(list(range(1000)), gap_seconds=0.001)
        ]
        assert max(position for _, position in run(records)) <= 48_000 * 2.1

    def test_what_is_no_opus(self) -> None:
        """A damaged packet is a hole."""
        records: list[Record] = list(packets(list(range(60))))
        records[30] = Packet(
            sequence=30, timestamp=30 * 960, payload=b"\xff", arrival_seconds=BEGIN_SECONDS + 0.6
        )
        assert run(records) == [(n, n * 960) for n in range(60) if n != 30]

    def test_marks_are_no_sound(self) -> None:
        """Other records are passed over."""
        records: list[Record] = [*packets([0]), Mark.MUTED, RecordingStart(time_seconds=1.0)]
        assert run(records) == [(0, 0)]

    def test_constant_memory(self) -> None:
        """Ten hours of packets are placed in the memory of a few seconds."""

        def endless() -> Iterator[Record]:
            for number in range(500_000):
                if number % 7:
                    yield Packet(
                        sequence=number % 65_536,
                        timestamp=number * 960 % (1 << 32),
                        payload=payload(number),
                        arrival_seconds=BEGIN_SECONDS + number * 0.02,
                    )

        found = place(endless(), zero_seconds=BEGIN_SECONDS)
        for _ in itertools.islice(found, 2000):
            pass
        tracemalloc.start()
        try:
            for _ in itertools.islice(found, 20_000):
                pass
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak_bytes < 500_000


times = st.one_of(
    st.floats(min_value=BEGIN_SECONDS, max_value=BEGIN_SECONDS + 10),
    st.floats(min_value=0, max_value=2.0**33),
)
anything = st.one_of(
    st.builds(
        Packet,
        sequence=st.one_of(st.integers(0, 20), st.integers(0, 65_535)),
        timestamp=st.one_of(st.integers(0, 20_000), st.integers(0, (1 << 32) - 1)),
        payload=st.one_of(st.just(payload(1)), st.binary(max_size=4)),
        arrival_seconds=times,
    ),
    st.builds(
        SenderReport,
        timestamp=st.integers(0, (1 << 32) - 1),
        ntp_seconds=times,
        arrival_seconds=times,
    ),
)


class TestGarbage:
    """Whatever the records are."""

    @settings(max_examples=300, deadline=None)
    @given(st.lists(anything, max_size=60))
    @example([])
    def test_promises(self, records: list[Record]) -> None:
        """Nothing raises, nothing overlaps, and nothing lasts longer than two days."""
        found = list(place(records, zero_seconds=BEGIN_SECONDS))

        assert_in_order(found)
        if found:
            assert found[-1].position - found[0].position <= 48 * 3600 * 48_000
