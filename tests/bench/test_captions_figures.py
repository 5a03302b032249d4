# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from callsd_bench.captions.baseline.run import measured_baseline
from callsd_bench.captions.figures import (
    SLICE,
    Shares,
    Shown,
    Slices,
    erased_ratio,
    first_word_delays,
    latencies,
    new_audio_seconds,
    percentile,
    shares,
)
from callsd_bench.captions.report import figures
from callsd_bench.shared.accuracy import HeardSegment
from callsd_bench.shared.call import Call, Turn
from callsd_bench.shared.measure import Cost


def shown(
    text: str = "hello",
    *,
    heard_to: float,
    arrival: float,
    heard_from: float = -math.inf,
    text_start: float = 0.0,
    segment: str = "1",
    speaker: str = "maya",
    call: int = 0,
    is_final: bool = False,
) -> Shown:
    """A caption."""
    return Shown(
        call=call,
        speaker=speaker,
        segment=segment,
        text=text,
        is_final=is_final,
        text_start_seconds=text_start,
        heard_from_seconds=heard_from,
        heard_to_seconds=heard_to,
        arrival_seconds=arrival,
    )


def slices(*ends: float, turn: int = 0) -> Slices:
    """Slices of one turn."""
    return np.array([(end, turn) for end in ends], SLICE)


def turn(start: float, end: float, *, speaker: str = "maya", text: str = "hello") -> Turn:
    """Something said."""
    return Turn(speaker=speaker, start_seconds=start, end_seconds=end, text=text)


class TestLatencies:
    """Age of speech when its caption arrives."""

    def test_oldest_counts(self) -> None:
        """All that a caption brings for the first time gets the age of the oldest part of it."""
        speech = {"maya": slices(1.0, 2.0, 3.0, 4.0)}
        captions = [shown(heard_to=2.0, arrival=2.5), shown(heard_to=4.0, arrival=4.2)]

        ages = latencies(speech, captions, calls=1)

        assert ages.tolist() == pytest.approx([1.5, 1.5, 1.2, 1.2])

    def test_order_of_arrival(self) -> None:
        """What counts is the first caption to arrive, in whatever order they are given."""
        speech = {"maya": slices(1.0)}
        captions = [shown(heard_to=5.0, arrival=6.0), shown(heard_to=2.0, arrival=2.0)]

        assert latencies(speech, captions, calls=1).tolist() == [1.0]

    def test_no_caption(self) -> None:
        """Speech beyond what was recognised, or withdrawn before it had words, is never there."""
        speech = {"maya": slices(1.0, 2.0), "joe": slices(1.0)}
        captions = [shown("", heard_to=2.0, arrival=2.0), shown(heard_to=1.0, arrival=2.0)]

        assert latencies(speech, captions, calls=1).tolist() == [1.0, math.inf, math.inf]

    def test_other_calls_and_speakers(self) -> None:
        """A caption has the speech of its own speaker and call only."""
        speech = {"maya": slices(1.0), "joe": slices(1.0)}
        captions = [
            shown(heard_to=1.0, arrival=2.0, call=1),
            shown(heard_to=1.0, arrival=3.0, speaker="joe"),
        ]

        assert latencies(speech, captions, calls=2).tolist() == [math.inf, 2.0, 1.0, math.inf]

    def test_turns_apart(self) -> None:
        """The end of a turn that was missed is late itself, and not the next turn with it."""
        speech = {"maya": np.concatenate([slices(1.0, 2.0), slices(30.0, 31.0, turn=1)])}
        captions = [shown(heard_to=1.0, arrival=1.5), shown(heard_to=31.0, arrival=31.5)]

        assert latencies(speech, captions, calls=1).tolist() == [0.5, 29.5, 1.5, 1.5]

    def test_window(self) -> None:
        """What lies before the window that a caption was made from stays without one."""
        speech = {"maya": slices(1.0, 5.0, 6.0)}
        captions = [shown(heard_from=4.0, heard_to=6.0, arrival=6.5)]

        assert latencies(speech, captions, calls=1).tolist() == [math.inf, 1.5, 1.5]

    def test_equal_times(self) -> None:
        """A caption that ends exactly with a slice has it, whatever its clock rounds to."""
        speech = {"maya": slices(0.1 + 0.2)}

        assert latencies(speech, [shown(heard_to=0.3, arrival=1.3)], calls=1)[0] < 2


class TestFirstWord:
    """Delay of the first word of a turn."""

    def test_caption_of_the_turn(self) -> None:
        """An older caption with text of before does not count, nor one without words."""
        captions = [
            shown(heard_to=10.5, text_start=3.0, arrival=10.6),
            shown("", heard_to=10.6, text_start=10.0, arrival=10.7),
            shown(heard_to=10.8, text_start=9.8, arrival=11.0),
        ]

        assert first_word_delays([turn(10, 12)], captions, calls=1) == [1.0]

    def test_turns_in_a_row(self) -> None:
        """A turn right behind one of the same speaker has no first word of its own."""
        turns = [turn(0, 5), turn(5.5, 6), turn(5.5, 6, speaker="joe"), turn(7, 8)]

        delays = first_word_delays(turns, [], calls=2)

        assert delays == [math.inf] * 6

    def test_each_call(self) -> None:
        """Each call is a case of its own."""
        captions = [
            shown(heard_to=2.0, text_start=1.0, arrival=2.0),
            shown(heard_to=2.0, text_start=1.0, arrival=3.0, call=1),
        ]

        assert first_word_delays([turn(1, 4)], captions, calls=2) == [1.0, 2.0]


class TestErased:
    """Words that a reader sees vanish."""

    def test_growing(self) -> None:
        """Text that only grows, or changes its commas and capitals, erases nothing."""
        captions = [
            shown("hello", heard_to=1, arrival=1),
            shown("Hello, my", heard_to=2, arrival=2),
            shown("Hello. My name", heard_to=3, arrival=3),
        ]

        assert erased_ratio(captions) == 0.0

    def test_rewritten(self) -> None:
        """From the first word that differs, all is taken off and put on."""
        captions = [
            shown("the red house", heard_to=1, arrival=1),
            shown("the read house now", heard_to=2, arrival=2),
        ]

        assert erased_ratio(captions) == 2 / 6

    def test_withdrawn(self) -> None:
        """An empty caption takes off everything of its segment, and of nobody else's."""
        captions = [
            shown("one two", heard_to=1, arrival=1),
            shown("three", heard_to=2, arrival=2, speaker="joe"),
            shown("", heard_to=3, arrival=3),
        ]

        assert erased_ratio(captions) == 2 / 3

    def test_moved(self) -> None:
        """Words that move behind a final into the next segment at once were never away."""
        captions = [
            shown("one two three", heard_to=1, arrival=1),
            shown("one two", heard_to=2, arrival=2, is_final=True),
            shown("three four", heard_to=2, arrival=2.01, segment="2"),
        ]

        assert erased_ratio(captions) == 0.0

    def test_away_for_a_while(self) -> None:
        """Words that come back later have been away."""
        captions = [
            shown("one two three", heard_to=1, arrival=1),
            shown("one two", heard_to=2, arrival=2, is_final=True),
            shown("three four", heard_to=2, arrival=2.5, segment="2"),
        ]

        assert erased_ratio(captions) == 1 / 5

    def test_final(self) -> None:
        """A final stays, whatever comes next; each speaker and call has a screen of its own."""
        captions = [
            shown("one", heard_to=1, arrival=1, is_final=True),
            shown("two", heard_to=2, arrival=2, segment="2"),
            shown("three", heard_to=2, arrival=2, speaker="joe"),
            shown("four", heard_to=2, arrival=2, call=1),
            shown("two", heard_to=2, arrival=3, segment="2", is_final=True),
        ]

        assert erased_ratio(captions) == 0.0

    def test_nothing_shown(self) -> None:
        """Nothing is erased where nothing is shown."""
        assert erased_ratio([]) == 0.0


class TestDistributions:
    """Shares and percentiles."""

    def test_shares(self) -> None:
        """What never came is in no share; the limit itself is within it."""
        assert shares([1.0, 2.0, 2.01, 5.0, math.inf]) == Shares(
            lt_2s=0.4, lt_4s=0.6, lt_6s=0.8, lt_8s=0.8
        )

    def test_no_shares(self) -> None:
        """Of nothing, nothing is in time."""
        assert shares([]) == Shares(lt_2s=0, lt_4s=0, lt_6s=0, lt_8s=0)

    def test_percentile(self) -> None:
        """One that falls on what never came has no value, and none is mixed from two."""
        values = [1.0, 2.0, 3.0, math.inf]

        assert [percentile(values, percent) for percent in (50, 60, 99)] == [3.0, 3.0, None]
        assert percentile([], 50) is None

    def test_new_audio(self) -> None:
        """Sound counts from the caption before, but silence before the first word does not."""
        captions = [
            shown(heard_to=2.0, text_start=1.0, arrival=2),
            shown(heard_to=3.5, text_start=1.0, arrival=3),
            shown(heard_to=31.0, text_start=30.0, segment="2", arrival=31),
            shown(heard_to=31.0, text_start=30.0, speaker="joe", arrival=32),
        ]

        assert new_audio_seconds(captions) == [1.0, 1.5, 1.0, 1.0]


class TestBaseline:
    """The baseline's document becomes figures of the same kind."""

    def test_figures(self) -> None:
        """Its windows, counters and texts are taken over, call by call."""
        caption = {
            "call": 1,
            "speaker": "maya",
            "text": "hello there",
            "window_start_seconds": 0.0,
            "window_end_seconds": 4.0,
            "new_audio_len_ms": 2010,
            "emitted_seconds": 5.0,
        }
        text = {"call": 1, "speaker": "maya", "start_seconds": 0.0, "text": "hello there"}
        result = {
            "captions": [caption],
            "final_texts": [text],
            "windows_dropped": 3,
            "buffer_full": 4,
            "pkt_payload_ch_buf_full": 5,
        }
        cost = Cost(wall_seconds=10.0, cpu_seconds=5.0, peak_pss_bytes=200_000_000)
        call = Call(
            name="short",
            duration_seconds=10.0,
            tracks=(),
            turns=(turn(1, 4, text="Hello there."),),
        )

        measured, packets_dropped = measured_baseline(result, calls=2, cost=cost)
        report = figures(call, {"maya": slices(2.0, 4.0)}, measured, machine_cores=2.0).as_json()

        assert measured.finals == [
            [],
            [HeardSegment(speaker="maya", start_seconds=0.0, text="hello there")],
        ]
        assert packets_dropped == 5
        assert (report["windows_dropped"], report["buffer_full"]) == (3, 4)
        assert (report["lt_2s"], report["lt_4s"]) == (0, 0.5)
        assert report["published"] == {"lt_2s": 0, "lt_4s": 1, "lt_6s": 1, "lt_8s": 1}
        assert report["latency"] == {"p50": None, "p95": None, "p99": None}
        assert report["first_word_delay"] == {"p50": None, "p95": None}
        assert report["wer"] == 0.5
        assert (report["cores"], report["cpu_percent"], report["pss_mb"]) == (0.5, 25.0, 200.0)
        assert report["skipped_seconds"] is None
