# SPDX-License-Identifier: Apache-2.0
import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from callsd_daemon.workers.captions.speaker import Speaker
from callsd_worker.capture.call import Packet
from callsd_worker.capture.live_place import (
    GAP_SECONDS,
    MAX_AHEAD_SECONDS,
    MAX_LATE_PACKETS,
    MAX_WAITING_PACKETS,
    WAIT_SECONDS,
    LiveOrder,
    LivePlacer,
    Place,
)


START = 1_700_000_000.0
FRAME = 960


def packet(number: int, timestamp: int, seconds: float, payload: bytes = b"\xf8\x00") -> Packet:
    """As it came so long after the start."""
    return Packet(
        sequence=number % 2**16,
        timestamp=timestamp % 2**32,
        payload=payload,
        arrival_seconds=START + seconds,
    )


@given(
    first=st.integers(0, 2**16 - 1), timestamp=st.integers(0, 2**32 - 1), seed=st.integers(0, 99)
)
def test_continuous(first: int, timestamp: int, seed: int) -> None:
    """What is sent without a pause is placed without one, with jitter and numbers anew."""
    jitter = random.Random(seed)  # noqa: S311 - guards nothing
    placer = LivePlacer(START)
    places = [
        placer.place(
            packet(
                first + n, timestamp + n * FRAME, 1 + n / 50 + jitter.uniform(0, GAP_SECONDS / 2)
            )
        )
        for n in range(200)
    ]
    assert all(
        after is not None
        and before is not None
        and after.sequence == before.sequence + 1
        and abs(after.start_sample - before.start_sample - 320) <= 1
        for before, after in itertools.pairwise(places)
    )


def test_mute() -> None:
    """After a mute, in which RTP time stands still, sound is placed when it comes, without loss."""
    placer = LivePlacer(START)
    assert placer.place(packet(1, 0, 0.0)) == Place(sequence=1, start_sample=0)
    assert placer.place(packet(2, 0, 8.0, b"")) is None
    assert placer.place(packet(3, 0, 8.0, b"")) is None
    assert placer.place(packet(4, FRAME, 8.02)) == Place(sequence=2, start_sample=128_320)


def test_loss() -> None:
    """A packet that is lost leaves its number and its time out; one that is late is left out."""
    placer = LivePlacer(START)
    placer.place(packet(1, 0, 0.0))
    assert placer.place(packet(3, 2 * FRAME, 0.04)) == Place(sequence=3, start_sample=640)
    assert placer.place(packet(2, FRAME, 0.05)) is None
    assert placer.place(packet(4, 3 * FRAME, 0.06)) == Place(sequence=4, start_sample=960)


def test_reordered() -> None:
    """A packet that another one has overtaken is left out, and disturbs no later one."""
    placer = LivePlacer(START)
    order = [1, 2, 4, 3, 3, 4, 5]
    places = [placer.place(packet(n, n * FRAME, 1 + n / 50)) for n in order]
    assert [place and place.sequence for place in places] == [1, 2, 4, None, None, None, 5]
    assert [place.start_sample for place in places if place] == [16_320, 16_640, 17_280, 17_600]


def test_padding_first() -> None:
    """A track that begins with padding is numbered from its first sound."""
    placer = LivePlacer(START)
    assert placer.place(packet(1, 0, 0.0, b"")) is None
    assert placer.place(packet(2, 0, 0.02, b"")) is None
    assert placer.place(packet(3, 0, 1.0)) == Place(sequence=1, start_sample=16_000)


def test_no_sound() -> None:
    """What is no packet of Opus takes no number: nobody could make sound of it."""
    placer = LivePlacer(START)
    placer.place(packet(1, 0, 0.0))
    assert placer.place(packet(2, FRAME, 0.02, b"\xfb\x3f")) is None
    assert placer.place(packet(3, 2 * FRAME, 0.04)) == Place(sequence=2, start_sample=640)


def test_both_counters_wrap() -> None:
    """Numbers and timestamps begin again within a second of each other, with a loss in between."""
    placer = LivePlacer(START)
    first, timestamp = 2**16 - 20, 2**32 - 25 * FRAME
    numbers = [n for n in range(60) if n not in (19, 20, 21, 25)]
    places = [placer.place(packet(first + n, timestamp + n * FRAME, n / 50)) for n in numbers]
    assert places == [Place(sequence=n + 1, start_sample=320 * n) for n in numbers]


def test_silence_that_is_not_sent() -> None:
    """A pause that timestamps know of is as long as they say, whatever the delay after it."""
    placer = LivePlacer(START)
    placer.place(packet(1, 0, 0.0))
    assert placer.place(packet(2, 48_000, 1.2)) == Place(sequence=2, start_sample=16_000)


def test_after_a_jam() -> None:
    """Packets that a network held up come all at once: they are placed after one another.

    Sound that is placed before sound that came earlier is none to a captioner, which refuses it.
    """
    placer = LivePlacer(START)
    placer.place(packet(0, 0, 0.0))
    seconds = [3.0 if n <= 150 else n / 50 for n in range(1, 500)]
    starts = [
        place.start_sample
        for n, at in enumerate(seconds, 1)
        if (place := placer.place(packet(n, n * FRAME, at)))
    ]
    assert len(starts) == 499
    assert all(after - before == 320 for before, after in itertools.pairwise(starts))


def test_clock_that_leaps() -> None:
    """Timestamps that run hours ahead place nothing there."""
    placer = LivePlacer(START)
    placer.place(packet(1, 0, 0.0))
    assert placer.place(packet(2, 2**30, 0.02)) == Place(sequence=2, start_sample=320)
    assert placer.place(packet(3, 2**30 + FRAME, 0.04)) == Place(sequence=3, start_sample=640)
    assert placer.place(packet(4, 7, 0.5)) == Place(sequence=4, start_sample=8_000)


def test_clock_that_stands_still() -> None:
    """Sound whose timestamps never move is placed one packet after the other."""
    placer = LivePlacer(START)
    places = [placer.place(packet(n, 7, n / 50)) for n in range(1, 200)]
    assert places == [Place(sequence=n, start_sample=320 * n) for n in range(1, 200)]


def test_numbers_anew() -> None:
    """A sender that begins to count anew is heard again within a second."""
    placer = LivePlacer(START)
    for n in range(100):
        placer.place(packet(20_000 + n, n * FRAME, n / 50))
    places = [placer.place(packet(n, n * FRAME, 2 + n / 50)) for n in range(100)]
    assert places[:MAX_LATE_PACKETS] == [None] * MAX_LATE_PACKETS
    assert places[MAX_LATE_PACKETS] == Place(
        sequence=101, start_sample=16_000 * 2 + 320 * MAX_LATE_PACKETS
    )
    assert None not in places[MAX_LATE_PACKETS:]


def test_another_track() -> None:
    """What comes of the speaker's next track goes on in numbers and time."""
    placer = LivePlacer(START)
    placer.place(packet(5, 0, 1.0))
    placer.restart()
    assert placer.place(packet(9_000, 7_777, 1.0)) == Place(sequence=2, start_sample=16_320)
    placer.restart()
    assert placer.place(packet(3, 1, 5.0)) == Place(sequence=3, start_sample=80_000)


def test_before_the_start() -> None:
    """Nothing is placed before the capture began, though a clock may say so."""
    placer = LivePlacer(START)
    assert placer.place(packet(1, 0, -3.0)) == Place(sequence=1, start_sample=0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**16 - 1) | st.integers(0, 40),
            st.integers(0, 2**32 - 1) | st.integers(0, 40).map(lambda n: n * FRAME),
            st.floats(0, 60),
            st.sampled_from([b"", b"\xf8\x00", b"\x18\x00", b"\xe0\x00", b"\xff"]),
        ),
        max_size=80,
    )
)
def test_whatever_comes(packets: list[tuple[int, int, float, bytes]]) -> None:
    """Places go on, and the daemon takes each: it refuses sound that contradicts what was before.

    Time passes between packets, as arrival is told by a clock that never goes back.
    """
    placer, speaker, now = LivePlacer(START), Speaker("ada"), 0.0
    sequence, end = 0, 0.0
    for number, timestamp, step, payload in packets:
        now += step
        place = placer.place(packet(number, timestamp, now, payload))
        if place is None:
            continue
        assert place.sequence > sequence
        assert place.start_sample >= end - 1
        assert place.start_sample <= (now + MAX_AHEAD_SECONDS + 0.06) * 16_000
        length = {0xF8: 320, 0x18: 960, 0xE0: 40}[payload[0]]
        sequence, end = place.sequence, place.start_sample + length
        assert speaker.receive(sequence, place.start_sample, length, payload, now) is not None


@given(first=st.integers(0, 2**16 - 1), seed=st.integers(0, 99))
def test_order(first: int, seed: int) -> None:
    """Packets that overtake each other go on as they were sent, all of them, over a wrap-around."""
    chance = random.Random(seed)  # noqa: S311 - guards nothing
    sent = [(n / 50 + chance.uniform(0, WAIT_SECONDS * 0.8), n) for n in range(1, 300)]
    came = [packet(first, 0, 0.0), *(packet(first + n, n * FRAME, at) for at, n in sorted(sent))]
    order = LiveOrder()

    found = [one for packet_ in came for one in order.put(packet_)]

    found += order.rest()
    assert [one.timestamp // FRAME for one in found] == list(range(300))


def test_order_of_what_is_lost() -> None:
    """A packet that does not come is waited for a quarter of a second, and no longer."""
    order = LiveOrder()
    lost, after = 10, round(WAIT_SECONDS * 50)
    for n in range(lost):
        assert len(list(order.put(packet(n, n * FRAME, n / 50)))) == 1
    held = [list(order.put(packet(n, n * FRAME, n / 50))) for n in range(11, 11 + after + 2)]
    assert [len(one) for one in held] == [0] * (after + 1) + [after + 2]
    assert len(list(order.put(packet(lost, lost * FRAME, 1.0)))) == 1, "its place tells"


def test_order_is_bounded() -> None:
    """Numbers that leap about make nothing wait for long, nor many packets."""
    order = LiveOrder()
    waiting = 0
    for n in range(0, 20 * MAX_WAITING_PACKETS, 2):
        waiting += 1 - len(list(order.put(packet(n, 0, 0.0))))
        assert waiting <= MAX_WAITING_PACKETS
