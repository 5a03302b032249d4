# SPDX-License-Identifier: Apache-2.0

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.media.sound import SAMPLE_RATE_HZ
from callsd_worker.speech.voice.utterances import Utterance
from callsd_worker.speech.voice.windows import Window, WindowPacker


def utterance(start_seconds: float, seconds: float) -> Utterance:
    """An utterance at a place in the track."""
    size = int(seconds * SAMPLE_RATE_HZ)
    start = int(start_seconds * SAMPLE_RATE_HZ)
    # Each sample carries its own position in the track.
    samples = np.arange(start, start + size, dtype=np.float32)
    return Utterance(start_sample=start, samples=samples, voiced_seconds=seconds / 2)


def pack(utterances: list[Utterance], *, target_seconds: float = 20) -> list[Window]:
    """All windows of these utterances."""
    packer = WindowPacker(target_seconds=target_seconds)
    windows = [window for item in utterances for window in packer.add(item)]
    return windows + packer.finish()


def test_neighbours_share_a_window() -> None:
    """Utterances are joined until the next would not fit."""
    windows = pack([utterance(0, 8), utterance(60, 8), utterance(120, 8)])

    assert [len(window.pieces) for window in windows] == [2, 1]
    assert [window.seconds for window in windows] == [16, 8]
    assert windows[0].voiced_seconds == 8


def test_moments_lead_back_to_the_track() -> None:
    """A moment in a window is told in the time of the track, held within its utterance."""
    (window,) = pack([utterance(5, 2), utterance(100, 3)])

    assert window.track_seconds(1.5, piece=window.piece_at(1.5)) == 6.5
    assert window.piece_at(2.25) == 1
    assert window.track_seconds(2.25, piece=1) == 100.25
    assert window.track_seconds(2.25, piece=0) == 7
    assert window.track_seconds(99, piece=1) == 103


def test_unpacked_windows_keep_their_place() -> None:
    """Taken apart, every utterance still knows where it comes from."""
    (window,) = pack([utterance(5, 2), utterance(100, 3)])

    parts = window.unpacked()

    assert [part.seconds for part in parts] == [2, 3]
    assert [part.track_seconds(1, piece=0) for part in parts] == [6, 101]
    assert parts[1].samples[0] == 100 * SAMPLE_RATE_HZ


@given(
    st.lists(st.tuples(st.integers(0, 30_000), st.integers(160, 30_000)), min_size=1, max_size=30)
)
def test_every_sample_is_heard_once(gaps_and_sizes: list[tuple[int, int]]) -> None:
    """Whatever the utterances, windows hold all of them, in order, none twice, none too long."""
    utterances = []
    position = 0
    for gap, size in gaps_and_sizes:
        position += gap
        utterances.append(utterance(position / SAMPLE_RATE_HZ, size / SAMPLE_RATE_HZ))
        position += size

    windows = pack(utterances, target_seconds=2)

    packed = np.concatenate([window.samples for window in windows])
    assert np.array_equal(packed, np.concatenate([item.samples for item in utterances]))
    for window in windows:
        assert window.seconds <= 2
        for piece in window.pieces:
            assert window.samples[piece.window_start_sample] == piece.track_start_sample
