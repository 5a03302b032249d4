# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest

from callsd_bench.shared.baseline_vad import SileroVad, speech_parts
from callsd_bench.transcription.baseline import RULES, chunks
from callsd_worker.media.decode import AudioStream


SPEECH, DOUBT, SILENCE = 0.9, 0.4, 0.1
WINDOW = 512
PAD = 1600
# 2 s in windows: the drop itself is seen at the end of its first one.
SPLIT_WINDOWS = 64
SAMPLE_CALL = Path(__file__).parents[2] / "daemon" / "callsd_bench" / "sample_call"


class TestSpeechParts:
    """Where the original splits a track."""

    def test_silence(self) -> None:
        """Without speech there are no parts."""
        assert speech_parts([SILENCE] * 500, RULES, sample_count=500 * WINDOW) == []

    def test_pads_both_ends(self) -> None:
        """A part begins 100 ms before its first window and ends 100 ms after its last."""
        probabilities = [SILENCE] * 10 + [SPEECH] * 5 + [SILENCE] * 100

        parts = speech_parts(probabilities, RULES, sample_count=115 * WINDOW)

        assert parts == [(10 * WINDOW - PAD, 16 * WINDOW + PAD)]

    def test_begins_no_earlier_than_the_audio(self) -> None:
        """The pad before speech at the very beginning is cut off."""
        parts = speech_parts([SPEECH] + [SILENCE] * 100, RULES, sample_count=101 * WINDOW)

        assert parts[0][0] == 0

    def test_still_speaking_at_the_end(self) -> None:
        """Speech that is still on ends with the audio, silence of less than 2 s included."""
        probabilities = [SPEECH] * 3 + [SILENCE] * 20

        assert speech_parts(probabilities, RULES, sample_count=23 * WINDOW + 7) == [
            (0, 23 * WINDOW + 7)
        ]

    @pytest.mark.parametrize(
        ("silent_windows", "part_count"), [(SPLIT_WINDOWS - 1, 1), (SPLIT_WINDOWS, 2)]
    )
    def test_two_seconds_of_silence_split(self, silent_windows: int, part_count: int) -> None:
        """A pause splits once it has lasted 2 s after its first window, not before."""
        probabilities = [SPEECH] * 3 + [SILENCE] * silent_windows + [SPEECH] * 3

        parts = speech_parts(probabilities, RULES, sample_count=len(probabilities) * WINDOW)

        assert len(parts) == part_count

    def test_doubt_neither_begins_nor_ends(self) -> None:
        """Between 0.35 and 0.5 nothing changes: no beginning, no drop, no end of a drop."""
        assert speech_parts([DOUBT] * 200, RULES, sample_count=200 * WINDOW) == []
        lasting = [SPEECH, *[DOUBT] * 200]
        assert speech_parts(lasting, RULES, sample_count=201 * WINDOW) == [(0, 201 * WINDOW)]
        dropping = [SPEECH, SILENCE, *[DOUBT] * 70, SILENCE]
        assert speech_parts(dropping, RULES, sample_count=73 * WINDOW) == [(0, 2 * WINDOW + PAD)]

    def test_speech_cancels_a_drop(self) -> None:
        """One window of speech within the 2 s starts the count anew."""
        probabilities = [SPEECH, *[SILENCE] * 50, SPEECH, *[SILENCE] * 50]

        assert len(speech_parts(probabilities, RULES, sample_count=102 * WINDOW)) == 1


class TestChunks:
    """What becomes of holes in a track."""

    def test_long_hole_begins_a_new_chunk(self) -> None:
        """A hole of more than a second begins a chunk at its own place in time."""
        block = np.ones(16_000, np.float32)

        found = list(chunks([(0, block), (16_000, block), (48_001, block)]))

        assert [chunk.start_sample for chunk in found] == [0, 48_001]
        assert [len(chunk.samples) for chunk in found] == [32_000, 16_000]

    def test_short_hole_is_closed_up(self) -> None:
        """A hole of a second or less is not filled: time shrinks by it."""
        block = np.ones(16_000, np.float32)

        found = list(chunks([(0, block), (32_000, block)]))

        assert [(chunk.start_sample, len(chunk.samples)) for chunk in found] == [(0, 32_000)]

    def test_empty_track(self) -> None:
        """A track without audio has no chunks."""
        assert list(chunks([])) == []


class TestSileroVad:
    """The voice network, stepped window by window."""

    def test_hears_speech_where_it_is(self) -> None:
        """On a real track, speech is found where the reference has it and not before."""
        with AudioStream(SAMPLE_CALL / "nina.ogg") as stream:
            track = np.concatenate([block.samples for block in stream.blocks()])[: 16 * 16_000]

        parts = speech_parts(SileroVad().probabilities(track), RULES, sample_count=len(track))

        assert len(parts) == 1
        start, end = (value / 16_000 for value in parts[0])
        assert start == pytest.approx(0.827, abs=0.4)
        assert end == pytest.approx(6.134, abs=0.4)

    def test_windows_short_of_the_end(self) -> None:
        """The last window is one that ends before the audio does, as in the original."""
        detector = SileroVad()

        assert len(list(detector.probabilities(np.zeros(1024, np.float32)))) == 1
        assert len(list(detector.probabilities(np.zeros(1025, np.float32)))) == 2
        assert list(detector.probabilities(np.zeros(100, np.float32))) == []
