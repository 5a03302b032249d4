# SPDX-License-Identifier: Apache-2.0
"""One language for each speaker, from speech of all of the speaker's tracks, and changes of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import (
    TRAINED_SECONDS,
    DecodeOptions,
    Encoded,
    Recognised,
    TimedWord,
)
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.voice.utterances import Utterance
from callsd_worker.speech.voice.windows import Piece, Window, WindowPacker
from callsd_worker.transcriber import pipeline, reading
from callsd_worker.transcriber.languages import MAX_WAITING_SECONDS
from callsd_worker.transcriber.pipeline import ModelFiles, Settings, Track, transcribe
from callsd_worker.transcriber.progress import Meter
from callsd_worker.transcriber.reading import OwnedWindow, TrackState

from .conftest import SAMPLE_CALL, decode


LANGUAGES = ("en", "de", "cy")


class ToneEngine:
    """Takes the values of the samples for languages, and says nothing else."""

    name = "tone"
    is_multilingual = True
    languages = frozenset(LANGUAGES)
    detects_from_encoding = True
    usual_beam_size = 1
    batch_windows = 8

    def __init__(self) -> None:
        self.encoded_seconds: list[tuple[float, float]] = []
        """Of each window: its length, and with padding."""
        self.detected = 0
        self.most_recognised = 0

    def padded_seconds(self, window_seconds: float) -> float:
        return window_seconds

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        self.encoded_seconds.append((window.size / SAMPLE_RATE_HZ, padded_seconds))
        odds = {
            language: 0.9 * float(np.mean(window == value))
            for value, language in enumerate(LANGUAGES)
        }
        return Encoded(payload=odds, seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        self.detected += len(encoded)
        return [dict(item.payload) for item in encoded]

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        self.most_recognised = max(self.most_recognised, len(encoded))
        word = TimedWord(text=options.language, start_seconds=0.0, end_seconds=0.5, probability=0.9)
        return [
            Recognised(
                text=options.language,
                words=(word,),
                token_count=1,
                average_log_probability=-0.1,
                no_speech_probability=0.0,
            )
            for _ in encoded
        ]


class Call:
    """What is recognised of a call, round by round."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *speaker_ids: str, language: str = ""
    ) -> None:
        tracks = [
            Track(source=0, speaker="Somebody", speaker_id=speaker_id) for speaker_id in speaker_ids
        ]
        self.states = [
            TrackState(track=track, speaker=reading.speaker_key(track, number))
            for number, track in enumerate(tracks)
        ]
        self.engine = ToneEngine()
        self.is_stopped = False
        monkeypatch.setattr(pipeline, "load_engine", lambda *args, **settings: self.engine)
        self._recogniser = pipeline._Recogniser(
            Settings(model=ModelFiles(name="tone", directory=Path()), language=language),
            self.states,
            threads=1,
            meter=Meter(lambda progress: None, lambda: self.is_stopped),
        )
        for state in self.states:
            state.language = language

    def hear(self, *spoken: tuple[int, str, float], is_last: bool = False) -> None:
        """One round: in which track how many seconds of which language were spoken."""
        self.hear_windows(
            *((number, window(LANGUAGES.index(said), seconds)) for number, said, seconds in spoken),
            is_last=is_last,
        )

    def hear_windows(self, *spoken: tuple[int, Window], is_last: bool = False) -> None:
        """One round: what was spoken in which track."""
        windows = list[OwnedWindow]()
        for number, heard in spoken:
            self.states[number].speech_seconds += heard.seconds
            windows.append((self.states[number], heard))
        self._recogniser.recognise(windows, is_last=is_last)

    @property
    def languages(self) -> list[str]:
        """Of each track, as far as known."""
        return [state.language for state in self.states]

    @property
    def heard(self) -> list[list[str]]:
        """The language in which each part of each track was recognised."""
        return [[segment.text for segment in state.segments] for state in self.states]


def window(language: int, seconds: float) -> Window:
    """Speech in a language."""
    samples = np.full(int(seconds * SAMPLE_RATE_HZ), language, dtype=np.float32)
    piece = Piece(
        track_start_sample=0,
        window_start_sample=0,
        length_samples=samples.size,
        voiced_seconds=seconds,
    )
    return Window(samples=samples, pieces=(piece,))


def packed(*spoken: tuple[str, float]) -> Window:
    """One window of so many seconds in languages, each 10 s after the last."""
    packer = WindowPacker(target_seconds=30.0)
    for number, (language, seconds) in enumerate(spoken):
        samples = window(LANGUAGES.index(language), seconds).samples
        start = 10 * number * SAMPLE_RATE_HZ
        packer.add(Utterance(start_sample=start, samples=samples, voiced_seconds=0.5))
    (one,) = packer.finish()
    return one


def test_tracks_of_one_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came back has several tracks and one language: of most speech in all of them."""
    call = Call(monkeypatch, "ada", "", "ada")
    call.hear((0, "cy", 3), (1, "en", 20), (2, "de", 20), is_last=True)

    assert call.languages == ["de", "en", "de"]
    assert call.heard == [["de"], ["en"], ["de"]]


def test_two_languages_in_one_track(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is clearly in another language is recognised in that; a short answer is not clear."""
    call = Call(monkeypatch, "ada")
    call.hear((0, "en", 24), (0, "en", 24), (0, "de", 10), (0, "cy", 2), is_last=True)

    assert call.languages == ["en"]
    assert sorted(call.heard[0]) == ["de", "en", "en", "en"]


def test_the_main_language_of_a_track(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on in another language has spoken that, if it is more."""
    call = Call(monkeypatch, "ada")
    call.hear(*[(0, "en", 24.0)] * 2)
    call.hear(*[(0, "de", 24.0)] * 3, is_last=True)

    assert call.heard == [["en", "en", "de", "de", "de"]]
    assert pipeline._main_language(call.states[0]) == "de"


def test_a_given_language_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the language is set nothing else is listened for."""
    call = Call(monkeypatch, "ada", language="en")
    call.hear((0, "en", 24), (0, "de", 24), is_last=True)

    assert call.heard == [["en", "en"]]


def test_two_languages_in_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was packed together is taken apart where the language changes, and only there."""
    call = Call(monkeypatch, "ada")
    mixed = packed(("en", 6), ("en", 6), ("de", 6))

    call.hear_windows((0, mixed), (0, window(0, 24)), is_last=True)

    heard = [(segment.language, segment.start_seconds) for segment in call.states[0].segments]
    assert sorted(heard) == [("de", 20.0), ("en", 0.0), ("en", 0.0)]


def test_detection_costs_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is long enough to change the language is looked at, once, with its own padding."""
    call = Call(monkeypatch, "ada")
    mixed = packed(("en", 5), ("cy", 2), ("de", 6))

    call.hear_windows((0, window(0, 24)), (0, window(0, 24)), (0, mixed), is_last=True)

    assert sorted(call.heard[0]) == ["de", "en", "en", "en"]
    alone, parts = [(5, 5), (6, 6)], [(7, 13), (6, 13)]
    first_heard = [one for one in call.engine.encoded_seconds if one[1] != TRAINED_SECONDS]
    assert first_heard == [(24, 24), (24, 24), (13, 13), *alone, *parts]
    assert call.engine.detected == 3 + len(alone)


def test_what_is_taken_apart_fits_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts windows have, no more are recognised together than the engine takes."""
    call = Call(monkeypatch, "ada")
    spoken = (("en", 6), ("de", 5), ("en", 6), ("de", 5))

    call.hear_windows(
        *((0, packed(*spoken)) for _ in range(call.engine.batch_windows)), is_last=True
    )

    assert sorted(call.heard[0]) == ["de"] * 16 + ["en"] * 16
    assert call.engine.most_recognised == call.engine.batch_windows


def test_detection_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks to stop does not wait until all pieces of a window were listened to."""
    call = Call(monkeypatch, "ada")
    call.hear((0, "en", 24), (0, "en", 24))
    before = len(call.engine.encoded_seconds)
    encode = call.engine.encode

    def stop(samples: Samples, *, padded_seconds: float) -> Encoded:
        call.is_stopped = True
        return encode(samples, padded_seconds=padded_seconds)

    monkeypatch.setattr(call.engine, "encode", stop)
    with pytest.raises(SpeechError, match="stopped"):
        call.hear_windows((0, packed(("en", 6), ("de", 6), ("en", 6))), is_last=True)
    assert len(call.engine.encoded_seconds) == before + 1


def test_same_name_is_not_the_same_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people may have one name: without an identifier each track is by itself."""
    call = Call(monkeypatch, "", "")
    call.hear((0, "en", 20), (1, "de", 20), is_last=True)

    assert call.languages == ["en", "de"]


def test_first_words_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little speech waits for more of the same speaker, in whichever track and round."""
    call = Call(monkeypatch, "ada", "bob", "ada")
    call.hear((0, "cy", 3), *[(1, "en", 24.0)] * 3)
    assert call.languages == ["", "en", ""]
    call.hear(*[(2, "de", 24.0)] * 3)

    assert call.languages == ["de", "en", "de"]
    assert call.heard == [["de"], ["en"] * 3, ["de"] * 3]


def test_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes later is recognised in the language that is decided, in new tracks too."""
    call = Call(monkeypatch, "ada", "ada")
    call.hear(*[(0, "en", 24.0)] * 3)
    assert call.languages == ["en", "en"]
    call.hear((1, "cy", 2), is_last=True)

    assert call.heard == [["en"] * 3, ["en"]]


def test_short_answers_follow_the_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says hardly anything speaks the call's language, also if the others speak later."""
    call = Call(monkeypatch, "ada", "bob")
    call.hear((0, "cy", 1))
    call.hear(*[(1, "en", 24.0)] * 3)
    call.hear(is_last=True)

    assert call.languages == ["en", "en"]
    assert call.heard == [["en"], ["en"] * 3]


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many say little, no more than so much speech waits in memory."""
    speakers = [f"speaker {number}" for number in range(30)]
    call = Call(monkeypatch, *speakers)
    call.hear(*((number, "en", 20.0) for number in range(30)))

    waiting = call.languages.count("")
    assert 20.0 * waiting <= MAX_WAITING_SECONDS < 20.0 * (waiting + 1)
    call.hear(is_last=True)
    assert call.heard == [["en"]] * 30


def test_real_speech(
    model_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    write_wav: Callable[..., Path],
) -> None:
    """In an English call "Got it." is English, also before anybody else has spoken.

    Alone it is taken for Telugu by this model.
    """
    monkeypatch.setattr(reading, "ROUND_SPEECH_SECONDS", 1.0)
    answer = decode(SAMPLE_CALL / "nina.ogg")[int(23.7 * SAMPLE_RATE_HZ) :][:SAMPLE_RATE_HZ]
    transcript = transcribe(
        [
            Track(source=write_wav(answer), speaker="Nina"),
            Track(source=SAMPLE_CALL / "joe.ogg", speaker="Joe"),
        ],
        Settings(model=ModelFiles(name="base", directory=model_dir("base"))),
        on_progress=lambda progress: None,
        should_stop=lambda: False,
    )

    assert [track.language for track in transcript.tracks] == ["en", "en"]
    assert transcript.language == "en"
    assert {segment.language for segment in transcript.segments} == {"en"}
    assert {segment.speaker for segment in transcript.segments} == {"Nina", "Joe"}
