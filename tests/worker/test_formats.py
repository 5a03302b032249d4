# SPDX-License-Identifier: Apache-2.0

import html
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_transcript.formats import (
    Compaction,
    mattermost_name,
    shown_name,
    to_json,
    to_srt,
    to_text,
    to_vtt,
)
from callsd_transcript.transcript import Segment, TrackResult, Transcript, Unheard, Word


def say(speaker: str, start: float, end: float, text: str) -> Segment:
    """One segment."""
    return Segment(
        speaker=speaker,
        start_seconds=start,
        end_seconds=end,
        text=text,
        words=(Word(text=text, start_seconds=start, end_seconds=end, probability=0.9),),
        language="en",
    )


def spoken(segments: list[Segment]) -> Transcript:
    """A transcript of these."""
    return Transcript(
        segments=tuple(segments), tracks=(), language="en", engine="ctranslate2", notices=()
    )


A_AND_B = [
    say("SpeakerA", 0, 1, "A1"),
    say("SpeakerA", 2, 3, "A2"),
    say("SpeakerB", 3, 4, "B1"),
    say("SpeakerA", 4, 5, "A3"),
    say("SpeakerA", 5, 6, "A4"),
]


class TestVtt:
    """The subtitles of the video player."""

    def test_exact_form(self) -> None:
        """Byte for byte what players and summarisers of today read."""
        assert to_vtt(A_AND_B[:3]) == (
            "WEBVTT\n"
            "\n"
            "00:00:00.000 --> 00:00:01.000\n"
            "<v SpeakerA>(SpeakerA) A1\n"
            "\n"
            "00:00:02.000 --> 00:00:03.000\n"
            "<v SpeakerA>(SpeakerA) A2\n"
            "\n"
            "00:00:03.000 --> 00:00:04.000\n"
            "<v SpeakerB>(SpeakerB) B1\n"
        )

    def test_without_speaker(self) -> None:
        """On demand a cue is the text alone."""
        vtt = to_vtt(A_AND_B[:1], is_speaker_shown=False)

        assert vtt == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nA1\n"

    def test_nothing_said(self) -> None:
        """An empty transcript is still a valid file."""
        assert to_vtt([]) == "WEBVTT\n"

    def test_escapes(self) -> None:
        """Markup in what was said is text, quotes are escaped by number, white space collapses."""
        vtt = to_vtt([say("Ann", 0, 1, " <b>\"Tom\"  &\n'Jerry'</b> ")])

        assert vtt.endswith("(Ann) &lt;b&gt;&#34;Tom&#34; &amp; &#39;Jerry&#39;&lt;/b&gt;\n")

    def test_hours_and_rounding(self) -> None:
        """Hours have at least two digits, milliseconds are carried."""
        vtt = to_vtt([say("A", 3599.9996, 360000.5, "x")])

        assert "01:00:00.000 --> 100:00:00.500" in vtt


class TestNames:
    """How speakers are written."""

    @pytest.mark.parametrize(
        "name", ["Zoë O'Neil (sales)", "नेहा शर्मा", "Nguyễn", "👩🏽‍🚀 Ada", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "می‌خواهم", "???"]
    )
    def test_a_name_is_written_as_it_is(self, name: str) -> None:
        """Combining marks, emoji made of several characters and punctuation stay everywhere."""
        said = [say(name, 0, 1, "x")]

        assert html.unescape(to_vtt(said)).endswith(f"\n<v {name}>({name}) x\n")
        assert to_text(said).splitlines()[1] == name
        assert to_srt(said).splitlines()[2] == f"{name}: x"
        assert json.loads(to_json(spoken(said)))["segments"][0]["speaker"] == name

    def test_mattermost_has_its_own_form(self) -> None:
        """Only letters, digits, white space, dot, dash and underscore stay in a name there."""
        name = "  Zoë \t O'Neil-中村_2. (sales) 🎉<x>& "
        assert mattermost_name(name) == "Zoë ONeil-中村_2. sales x"
        assert mattermost_name("Henry Ⅷ (H₂O №٣)") == "Henry Ⅷ H₂O ٣"
        assert "<v A>(A) x" in to_vtt([say("A!", 0, 1, "x")], named=mattermost_name)

    @pytest.mark.parametrize("name", ["", " ", "\u200d", "\u0301", "\u202e", "\n", "\ufe0f"])
    def test_nothing_to_show(self, name: str) -> None:
        """Whose name has nothing that can be seen is unknown, but not nameless."""
        said = [say(name, 0, 1, "x")]

        assert mattermost_name(name) == "Unknown"
        assert to_vtt(said).endswith("\n<v Unknown>(Unknown) x\n")
        assert to_text(said).splitlines()[1] == "Unknown"
        assert to_srt(said).splitlines()[2] == "Unknown: x"
        assert json.loads(to_json(spoken(said)))["segments"][0]["speaker"] == "Unknown"

    @pytest.mark.parametrize("named", [shown_name, mattermost_name])
    @given(name=st.text())
    def test_never_breaks_the_file(self, named: Callable[[str], str], name: str) -> None:
        """No name can add a line or a tag, or turn the direction of the text around it."""
        cleaned = named(name)

        assert not set(cleaned) & set("\n\r\u202e\u2028")
        assert cleaned
        assert cleaned == cleaned.strip()
        assert named(cleaned) == cleaned
        cue = to_vtt([say(name, 0, 1, "x")], named=named).splitlines()[3:]
        assert [line.count("<") for line in cue] == [1]
        assert [line.count(">") for line in cue] == [1]


class TestText:
    """What summarisers read."""

    def test_exact_form(self) -> None:
        """Paragraphs are joined and laid out byte for byte as today."""
        assert to_text(A_AND_B) == (
            "00:00:00 -> 00:00:03\nSpeakerA\nA1 A2\n"
            "\n"
            "00:00:03 -> 00:00:04\nSpeakerB\nB1\n"
            "\n"
            "00:00:04 -> 00:00:06\nSpeakerA\nA3 A4\n"
        )

    def test_a_pause_of_two_seconds_ends_a_paragraph(self) -> None:
        """1999 ms of silence join, 2000 ms do not."""
        joined = to_text([say("A", 0, 1, "a"), say("A", 2.999, 3, "b")])
        apart = to_text([say("A", 0, 1, "a"), say("A", 3.0, 4, "b")])

        assert joined == "00:00:00 -> 00:00:03\nA\na b\n"
        assert apart.count("A\n") == 2

    def test_the_start_is_what_ten_seconds_bound(self) -> None:
        """A segment starting before 10 s joins however long it is; one at 10 s does not."""
        long = to_text([say("A", 0, 9.5, "a"), say("A", 9.999, 30, "b")])
        cut = to_text([say("A", 0, 9.5, "a"), say("A", 10.0, 11, "b")])

        assert long == "00:00:00 -> 00:00:30\nA\na b\n"
        assert cut.count("A\n") == 2

    def test_names_are_told_apart_before_they_are_cleaned(self) -> None:
        """Two people whose names differ in punctuation only are still two."""
        said = [say("Ann!", 0, 1, "a"), say("Ann", 1, 2, "b")]
        text = to_text(said, named=mattermost_name)

        assert text.count("Ann\n") == 2

    def test_off(self) -> None:
        """With both limits zero every segment is a paragraph."""
        text = to_text(A_AND_B, compaction=Compaction(silence_seconds=0, max_seconds=0))

        assert text.count(" -> ") == 5

    @pytest.mark.parametrize(
        ("silence_seconds", "max_seconds", "blocks"),
        [(2.0, 10.0, 3), (1.0, 10.0, 4), (0.0, 10.0, 5), (1.001, 2.0, 4), (60.0, 60.0, 3)],
    )
    def test_limits(self, silence_seconds: float, max_seconds: float, blocks: int) -> None:
        """Both limits can be set; one of them 0 is a limit, too, within which nothing is."""
        rule = Compaction(silence_seconds=silence_seconds, max_seconds=max_seconds)

        assert to_text(A_AND_B, compaction=rule).count(" -> ") == blocks

    def test_seconds_are_carried(self) -> None:
        """59.6 s is one minute, never second 60."""
        text = to_text([say("A", 59.6, 3599.5, "x")])

        assert text.startswith("00:01:00 -> 01:00:00\n")

    @given(st.floats(min_value=0, max_value=500_000))
    def test_no_clock_ever_shows_sixty(self, seconds: float) -> None:
        """Minutes and seconds stay below 60 at any moment."""
        segment = say("A", seconds, seconds, "x")
        stamps = to_text([segment]).splitlines()[0].split(" -> ")
        stamps += [to_vtt([segment]).splitlines()[2].split(" ")[0].split(".")[0]]

        for stamp in stamps:
            _, minutes, rest = stamp.split(":")
            assert int(minutes) < 60
            assert int(rest) < 60


def test_srt() -> None:
    """Numbered cues with decimal commas, a blank line between them."""
    assert to_srt(A_AND_B[1:3]) == (
        "1\n00:00:02,000 --> 00:00:03,000\nSpeakerA: A2\n"
        "\n"
        "2\n00:00:03,000 --> 00:00:04,000\nSpeakerB: B1\n"
    )


def test_json_has_everything() -> None:
    """Segments with word times, the fate of every track, notices and the engine."""
    transcript = Transcript(
        segments=(say("Zoë", 1.23456, 2, "Hi."),),
        tracks=(
            TrackResult(
                speaker="Zoë",
                duration_seconds=9,
                speech_seconds=1,
                language="en",
                unheard=(Unheard(start_seconds=3.00049, end_seconds=4.5),),
            ),
            TrackResult(
                speaker="Bo",
                duration_seconds=0,
                speech_seconds=0,
                language="",
                failure_reason="INPUT_INVALID",
                failure_message="bo.ogg: empty",
            ),
        ),
        language="en",
        engine="ctranslate2",
        notices=(("THREADS_CLAMPED", "2 used"),),
    )

    document = json.loads(to_json(transcript))

    assert document["segments"][0]["words"] == [
        {"text": "Hi.", "start_seconds": 1.235, "end_seconds": 2, "probability": 0.9}
    ]
    assert document["segments"][0]["speaker"] == "Zoë"
    assert [track["failure_reason"] for track in document["tracks"]] == ["", "INPUT_INVALID"]
    assert [track["unheard"] for track in document["tracks"]] == [
        [{"start_seconds": 3.0, "end_seconds": 4.5}],
        [],
    ]
    assert document["notices"] == [{"code": "THREADS_CLAMPED", "message": "2 used"}]
    assert (document["language"], document["engine"]) == ("en", "ctranslate2")
