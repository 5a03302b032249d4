# SPDX-License-Identifier: Apache-2.0

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callsd_bench.shared.accuracy import (
    Errors,
    HeardSegment,
    count_errors,
    word_error_rate,
)
from callsd_bench.shared.call import Call, CallTrack, Turn, cut_call, load_call, load_clips
from callsd_bench.shared.errors import BenchError


SAMPLE_CALL = Path(__file__).parents[2] / "daemon" / "callsd_bench" / "sample_call"


def write_track(path: Path, *, seconds: float) -> None:
    """A mono WAV as loud all the time; a constant would be an offset, and taken away."""
    samples = np.resize(np.array([8_000, -8_000], "<i2"), round(seconds * 16_000))
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(samples.tobytes())


def turn(speaker: str, start: float, end: float, text: str) -> dict[str, Any]:
    """A turn as it stands in turns.json."""
    return {"speaker": speaker, "start": start, "end": end, "text": text}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A call of ten seconds, two speakers and three turns."""
    turns = [turn("bo", 4, 7, "three four"), turn("al", 1, 3, "one two"), turn("al", 6, 9, "five")]
    (tmp_path / "turns.json").write_text(json.dumps(turns))
    write_track(tmp_path / "al.wav", seconds=10)
    write_track(tmp_path / "bo.wav", seconds=8)
    return tmp_path


def loud_seconds(path: Path) -> float:
    """How much of a WAV file is not silence."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return float((samples != 0).sum() / 16_000)


class TestLoadCall:
    """Reading a call directory."""

    def test_bare_list(self, directory: Path) -> None:
        """A plain list of turns is enough; turns are put in order of time."""
        call = load_call(directory)

        assert [track.speaker for track in call.tracks] == ["al", "bo"]
        assert [part.text for part in call.turns] == ["one two", "three four", "five"]
        assert call.duration_seconds == 10

    def test_shipped_sample(self) -> None:
        """The shipped sample is a call of four speakers and more than a minute."""
        call = load_call(SAMPLE_CALL)

        assert [track.speaker for track in call.tracks] == ["joe", "kenji", "maya", "nina"]
        assert call.duration_seconds > 60

    def test_silent_participant(self, directory: Path) -> None:
        """Somebody named as a speaker who never speaks still has a track to be listened to."""
        turns = json.loads((directory / "turns.json").read_text())
        document = {"speakers": {"al": "", "bo": "", "cy": ""}, "turns": turns}
        (directory / "turns.json").write_text(json.dumps(document))
        write_track(directory / "cy.wav", seconds=2)

        assert [track.speaker for track in load_call(directory).tracks] == ["al", "bo", "cy"]

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "{}", "[1]", '[{"speaker": "al"}]', '{"turns": 3}', "\udcff"],
        ids=["empty", "no turns", "no list", "numbers", "half a turn", "no sequence", "binary"],
    )
    def test_malformed_turns(self, directory: Path, content: str) -> None:
        """A turns.json that is none is refused by its name."""
        (directory / "turns.json").write_bytes(content.encode(errors="surrogateescape"))

        with pytest.raises(BenchError, match=r"turns\.json"):
            load_call(directory)

    def test_missing_parts(self, directory: Path) -> None:
        """What is missing is named."""
        (directory / "bo.wav").unlink()
        with pytest.raises(BenchError, match="no track bo"):
            load_call(directory)
        with pytest.raises(BenchError, match="No such file"):
            load_call(directory / "nowhere")

    def test_speaker_that_is_a_path(self, directory: Path) -> None:
        """A speaker's name never leads out of the directory."""
        (directory / "sub").mkdir()
        (directory / "sub" / "turns.json").write_text(json.dumps([turn("../al", 0, 1, "one")]))

        with pytest.raises(BenchError, match="no track"):
            load_call(directory / "sub")

    def test_track_that_is_no_audio(self, directory: Path) -> None:
        """A track that cannot be decoded is named."""
        (directory / "al.wav").write_bytes(b"not audio")

        with pytest.raises(BenchError, match=r"al\.wav"):
            load_call(directory)


class TestCutCall:
    """The first seconds of a call."""

    def test_keeps_what_ends_in_time(self, directory: Path, tmp_path: Path) -> None:
        """Turns that end later are gone from the reference and from the audio."""
        scratch = tmp_path / "scratch"
        scratch.mkdir()

        cut = cut_call(load_call(directory), seconds=6.5, directory=scratch)

        assert [part.text for part in cut.turns] == ["one two"]
        assert cut.duration_seconds == 6.5
        assert [loud_seconds(track.path) for track in cut.tracks] == [6.0, 4.0]

    def test_longer_than_the_call(self, directory: Path, tmp_path: Path) -> None:
        """Asking for more than there is gives the call as it is."""
        call = load_call(directory)

        assert cut_call(call, seconds=60, directory=tmp_path) is call

    def test_nothing_left(self, directory: Path, tmp_path: Path) -> None:
        """A cut before the end of any turn is refused."""
        with pytest.raises(BenchError, match="take more seconds"):
            cut_call(load_call(directory), seconds=2, directory=tmp_path)


class TestLoadClips:
    """Reading short clips."""

    def test_each_is_a_call(self, directory: Path) -> None:
        """Every row becomes a call of one speaker; quotes in a transcript are letters."""
        (directory / "transcripts.tsv").write_text(
            'file\tseconds\ttranscript\nal.wav\t10\tone "two\nbo.wav\t8\tthree\n'
        )

        clips = load_clips(directory)

        assert [clip.turns[0].text for clip in clips] == ['one "two', "three"]
        assert [clip.tracks[0].path.name for clip in clips] == ["al.wav", "bo.wav"]

    @pytest.mark.parametrize("content", ["", "file\ttranscript\n", "path\ttext\na\tb\n"])
    def test_malformed_table(self, directory: Path, content: str) -> None:
        """A table without clips or columns is refused by its name."""
        (directory / "transcripts.tsv").write_text(content)

        with pytest.raises(BenchError, match=r"transcripts\.tsv"):
            load_clips(directory)


def call_of(*turns: tuple[str, float, str]) -> Call:
    """A call with these (speaker, start, text)."""
    return Call(
        name="call",
        duration_seconds=10,
        tracks=(CallTrack(speaker="al", path=Path("al.wav")),),
        turns=tuple(
            Turn(speaker=speaker, start_seconds=start, end_seconds=start + 1, text=text)
            for speaker, start, text in turns
        ),
    )


def heard(*segments: tuple[str, float, str]) -> list[HeardSegment]:
    """A transcript of these (speaker, start, text)."""
    return [
        HeardSegment(speaker=speaker, start_seconds=start, text=text)
        for speaker, start, text in segments
    ]


class TestWordErrorRate:
    """How accuracy is counted."""

    def test_spelling_and_order_of_segments_do_not_count(self) -> None:
        """Case, punctuation, numbers and the order of the list are no errors."""
        call = call_of(("al", 0, "It's twenty two degrees."), ("al", 5, "Fine"))

        assert (
            word_error_rate([call], [heard(("al", 6, "fine!"), ("al", 0, "it is 22 degrees"))]) == 0
        )

    def test_overlap_is_no_error_but_the_wrong_speaker_is(self) -> None:
        """Speakers are compared each with themselves."""
        call = call_of(("al", 0, "one apple"), ("bo", 0.5, "two pears"))
        right = heard(("bo", 0.4, "two pears"), ("al", 0.6, "one apple"))
        swapped = heard(("al", 0.4, "two pears"), ("bo", 0.6, "one apple"))

        assert word_error_rate([call], [right]) == 0
        assert word_error_rate([call], [swapped]) == 1

    def test_invention_counts_even_from_the_silent(self) -> None:
        """Words put into a silent speaker's mouth are errors."""
        call = call_of(("al", 0, "red green blue black"))

        assert word_error_rate([call], [heard(("al", 0, "red green"), ("cy", 0, "thanks"))]) == 0.75

    def test_pools_all_calls(self) -> None:
        """Errors of all calls are divided by the words of all, not averaged call by call."""
        calls = [call_of(("al", 0, "yes")), call_of(("al", 0, "red green blue"))]

        rate = word_error_rate(calls, [heard(), heard(("al", 0, "red green blue"))])

        assert rate == 0.25

    def test_words_in_round_brackets_are_said(self) -> None:
        """An aside in brackets counts like all words, in the reference and in what is heard."""
        call = call_of(("al", 0, "He came (late) to the (third) meeting."))

        right = word_error_rate([call], [heard(("al", 0, "he came late to the (third) meeting"))])
        wrong = word_error_rate([call], [heard(("al", 0, "he came to the third meeting"))])

        assert right == 0
        assert wrong == pytest.approx(1 / 7)

    def test_kinds_of_errors(self) -> None:
        """Words that are wrong, missing and too many are told apart."""
        call = call_of(("al", 0, "red green blue black white pink"))

        errors = count_errors([call], [heard(("al", 0, "red clean blue white pink so"))])

        assert errors == Errors(words=6, substitutions=1, deletions=1, insertions=1)
