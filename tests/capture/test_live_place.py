# SPDX-License-Identifier: Apache-2.0
import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.capture.call import Packet
from callsd_worker.capture.live_place import GAP_SECONDS, LivePlacer, Place


START = 1_700_000_000.0
FRAME = 960


def packet(number: int, timestamp: int, seconds: float, payload: bytes = b"\xf8") -> Packet:
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
