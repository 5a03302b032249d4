# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_worker.recorder.sound import RATE_HZ
from callsd_worker.recorder.sound_reader import BLOCK_BYTES, BLOCK_SAMPLES
from callsd_worker.recorder.timeline import (
    PICTURE_FRAMES,
    SOUND_SECONDS,
    TOLERANCE_SECONDS,
    SoundTimeline,
)


BLOCK = b"\x01" * BLOCK_BYTES
BLOCK_SECONDS = BLOCK_SAMPLES / RATE_HZ


def placed(
    timeline: SoundTimeline, *, first: float, count: int, every: float = BLOCK_SECONDS
) -> list[tuple[bytes, int]]:
    """Where blocks are placed that are heard at these times."""
    return [
        piece for number in range(count) for piece in timeline.place(BLOCK, first + number * every)
    ]


def test_blocks_follow_one_another_without_a_seam() -> None:
    """However early or late a block is heard by a little, it begins where the last one ended."""
    timeline = SoundTimeline(frame_rate=None)
    found: list[tuple[bytes, int]] = []
    for number in range(100):
        jitter = 0.008 if number % 2 else -0.008
        found += timeline.place(BLOCK, 1 + number * BLOCK_SECONDS + jitter)
    first = found[0][1]
    assert [position for _, position in found] == [
        first + number * BLOCK_SAMPLES for number in range(100)
    ]
    assert abs(timeline.drift_seconds) < 0.02


@pytest.mark.parametrize("frame_rate", [10, 15, 20, 30])
def test_sound_is_moved_to_its_picture(frame_rate: int) -> None:
    """Sound is placed where its picture is seen, the later the fewer pictures there are."""
    alone = placed(SoundTimeline(frame_rate=None), first=1.0, count=1)
    with_picture = placed(SoundTimeline(frame_rate=frame_rate), first=1.0, count=1)
    assert alone == [(BLOCK, RATE_HZ)]
    earlier_seconds = SOUND_SECONDS - PICTURE_FRAMES / frame_rate
    assert with_picture == [(BLOCK, round((1 - earlier_seconds) * RATE_HZ))]


def test_nothing_is_placed_before_the_beginning() -> None:
    """Sound of before the first picture is left out."""
    found = placed(SoundTimeline(frame_rate=20), first=-0.1, count=10)
    assert found[0][1] >= 0
    assert found[0][1] < BLOCK_SAMPLES


def test_lost_sound_becomes_silence() -> None:
    """After half a second that the sound server has lost, sound is soon at its picture again."""
    timeline = SoundTimeline(frame_rate=None)
    placed(timeline, first=1.0, count=20)
    found = placed(timeline, first=1 + 20 * BLOCK_SECONDS + 0.5, count=100)
    silence = [piece for piece, _ in found if not any(piece)]
    assert sum(map(len, silence)) / len(BLOCK) * BLOCK_SECONDS > 0.5 - TOLERANCE_SECONDS
    samples, position = found[-1]
    heard = 1 + 20 * BLOCK_SECONDS + 0.5 + 99 * BLOCK_SECONDS
    assert samples == BLOCK
    assert abs(position / RATE_HZ - heard) <= TOLERANCE_SECONDS


def test_too_much_sound_is_left_out() -> None:
    """A sound server whose clock is fast does not push sound behind its picture for good."""
    timeline = SoundTimeline(frame_rate=None)
    found = placed(timeline, first=1.0, count=2000, every=BLOCK_SECONDS * 0.99)
    heard = 1.0 + 1999 * BLOCK_SECONDS * 0.99
    assert abs(found[-1][1] / RATE_HZ - heard) <= 2 * TOLERANCE_SECONDS
    positions = [position for _, position in found]
    assert positions == sorted(set(positions))
    assert abs(timeline.drift_seconds) <= TOLERANCE_SECONDS + BLOCK_SECONDS
