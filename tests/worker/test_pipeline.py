# SPDX-License-Identifier: Apache-2.0

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.transcriber.pipeline import (
    ModelFiles,
    Progress,
    Settings,
    SpeechError,
    SpeechReason,
    Track,
    Transcript,
    transcribe,
)
from callsd_worker.transcriber.segments import MAX_SEGMENT_SECONDS

from .conftest import SAMPLE_CALL, SPEAKERS, decode


TURNS = json.loads((SAMPLE_CALL / "turns.json").read_text())["turns"]


@pytest.fixture
def tiny(model_dir: Callable[[str], Path]) -> Settings:
    """The usual settings."""
    return Settings(model=ModelFiles(name="tiny.en", directory=model_dir("tiny.en")))


def run(
    tracks: list[Track],
    settings: Settings,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Transcript:
    """Transcribe, by default undisturbed."""
    return transcribe(tracks, settings, on_progress=on_progress, should_stop=should_stop)


def sample_tracks() -> list[Track]:
    """The four tracks of the sample call."""
    return [Track(source=SAMPLE_CALL / f"{name}.ogg", speaker=name) for name in SPEAKERS]


def plain(text: str) -> str:
    """Lower-case words only."""
    return re.sub(r"[^a-z0-9' ]", "", text.lower())


def refusal(tracks: list[Track], settings: Settings) -> SpeechError:
    """The error instead of a transcript."""
    with pytest.raises(SpeechError) as caught:
        run(tracks, settings)
    return caught.value


class TestCall:
    """Calls with speech."""

    @pytest.mark.parametrize(
        ("engine", "model"),
        [("ctranslate2", "tiny.en"), ("whispercpp", "tiny.en"), ("onnx", "moonshine-base")],
    )
    def test_everybody_is_understood(
        self, model_dir: Callable[[str], Path], engine: str, model: str
    ) -> None:
        """The sample call comes back right: words, speakers, order, times, short answers."""
        settings = Settings(model=ModelFiles(name=model, directory=model_dir(model)), engine=engine)
        reports: list[Progress] = []

        began = time.monotonic()
        transcript = run(sample_tracks(), settings, on_progress=reports.append)
        took_seconds = time.monotonic() - began

        assert transcript.engine == engine
        assert transcript.language == "en"
        said = {
            name: " ".join(t["text"] for t in TURNS if t["speaker"] == name) for name in SPEAKERS
        }
        heard = {
            name: " ".join(s.text for s in transcript.segments if s.speaker == name)
            for name in SPEAKERS
        }
        wer = jiwer.wer([plain(said[n]) for n in SPEAKERS], [plain(heard[n]) for n in SPEAKERS])
        assert wer < 0.08
        starts = [segment.start_seconds for segment in transcript.segments]
        assert starts == sorted(starts)
        for segment in transcript.segments:
            spoken = [t for t in TURNS if t["speaker"] == segment.speaker]
            middle = (segment.start_seconds + segment.end_seconds) / 2
            assert any(t["start"] - 0.5 < middle < t["end"] + 0.5 for t in spoken)
            assert segment.words
            assert segment.end_seconds - segment.start_seconds <= MAX_SEGMENT_SECONDS + 1
        for turn in TURNS:
            if turn["end"] - turn["start"] < 1.0:
                assert plain(turn["text"]) in plain(heard[turn["speaker"]])
        self.check_progress(reports, took_seconds=took_seconds)

    def check_progress(self, reports: list[Progress], *, took_seconds: float) -> None:
        phases = [report.phase for report in reports]
        done = [report.processed_seconds for report in reports]
        assert phases[0] == "loading"
        assert phases[-1] == "writing"
        assert {"decoding", "recognising"} <= set(phases)
        assert done == sorted(done)
        assert done[-1] == reports[-1].total_seconds
        assert abs(reports[-1].total_seconds - 74) < 2
        assert reports[-1].real_time_factor >= reports[-1].total_seconds / took_seconds

    def test_offsets_and_given_language(self, tiny: Settings) -> None:
        """A track that starts late keeps its place in the call."""
        track = Track(
            source=SAMPLE_CALL / "maya.ogg",
            speaker="Maya",
            start_offset_seconds=1000,
            language="en",
        )

        transcript = run([track], tiny)

        first = min(t["start"] for t in TURNS if t["speaker"] == "maya")
        assert abs(transcript.segments[0].start_seconds - 1000 - first) < 0.7

    def test_one_bad_track_does_not_harm_the_others(self, tiny: Settings, tmp_path: Path) -> None:
        """The bad one is named with its reason, the good one is transcribed."""
        (tmp_path / "bad.ogg").write_bytes(b"no sound" * 100)
        tracks = [
            Track(source=tmp_path / "bad.ogg", speaker="Bad"),
            Track(source=SAMPLE_CALL / "maya.ogg", speaker="Maya"),
            Track(source=tmp_path / "absent.ogg", speaker="Absent"),
        ]

        transcript = run(tracks, tiny)

        assert [track.failure_reason for track in transcript.tracks] == [
            "INPUT_INVALID",
            "",
            "INPUT_INVALID",
        ]
        assert "not a media file" in transcript.tracks[0].failure_message
        assert "cannot be read" in transcript.tracks[2].failure_message
        assert {segment.speaker for segment in transcript.segments} == {"Maya"}

    def test_a_cut_file_is_used_as_far_as_it_goes(self, tiny: Settings, tmp_path: Path) -> None:
        """Half a file gives the first half of the words."""
        path = tmp_path / "cut.ogg"
        data = (SAMPLE_CALL / "maya.ogg").read_bytes()
        path.write_bytes(data[: len(data) // 2])

        transcript = run([Track(source=path, speaker="Maya")], tiny)

        assert "explain what happened" in " ".join(s.text for s in transcript.segments)
        assert transcript.tracks[0].duration_seconds < 60


class TestSilence:
    """Calls without."""

    def test_a_call_without_tracks(self, tiny: Settings) -> None:
        """Where nobody has switched a microphone on there is an empty transcript, and no error."""
        found = run([], tiny)

        assert (found.segments, found.tracks, found.language) == ((), (), "")

    def test_a_silent_track(self, tiny: Settings, write_wav: Callable[..., Path]) -> None:
        """Silence succeeds with nothing said and no language."""
        path = write_wav(np.zeros(60 * SAMPLE_RATE_HZ, dtype=np.float32))

        transcript = run([Track(source=path, speaker="A")], tiny)

        assert transcript.segments == ()
        assert transcript.language == ""
        assert transcript.tracks[0].duration_seconds == 60
        assert transcript.tracks[0].speech_seconds == 0
        assert transcript.tracks[0].failure_reason == ""

    @pytest.mark.parametrize("engine", ["ctranslate2", "whispercpp"])
    def test_nothing_is_invented(
        self, tiny: Settings, write_wav: Callable[..., Path], engine: str
    ) -> None:
        """Noise, hum, clicks and bursts are not put into words."""
        rng = np.random.default_rng(7)
        track = 0.01 * rng.standard_normal(60 * SAMPLE_RATE_HZ)
        track += 0.05 * np.sin(2 * np.pi * 50 * np.arange(track.size) / SAMPLE_RATE_HZ)
        for second in range(3, 57, 4):
            burst = rng.standard_normal(SAMPLE_RATE_HZ // 2) * np.hanning(SAMPLE_RATE_HZ // 2)
            track[second * SAMPLE_RATE_HZ :][: burst.size] += 0.3 * burst
        path = write_wav(track.astype(np.float32))

        transcript = run([Track(source=path, speaker="A")], replace(tiny, engine=engine))

        assert transcript.segments == ()

    @pytest.mark.parametrize("engine", ["ctranslate2", "whispercpp"])
    def test_a_short_answer_in_long_silence(
        self, tiny: Settings, write_wav: Callable[..., Path], engine: str, speech: Samples
    ) -> None:
        """A single short sentence in two minutes of silence is heard, at its time, once."""
        track = np.zeros(120 * SAMPLE_RATE_HZ, dtype=np.float32)
        answer = speech[: int(2.9 * SAMPLE_RATE_HZ)]
        track[60 * SAMPLE_RATE_HZ :][: answer.size] = answer

        transcript = run(
            [Track(source=write_wav(track), speaker="A")], replace(tiny, engine=engine)
        )

        assert plain("I will write to them today") in plain(transcript.segments[0].text)
        assert 59.5 < transcript.segments[0].start_seconds < 61
        assert len(" ".join(s.text for s in transcript.segments).split()) < 14


class TestShortAnswers:
    """One word in a track of its own."""

    @pytest.mark.parametrize("engine", ["ctranslate2", "whispercpp"])
    @pytest.mark.parametrize("noise", [0.0, 0.001], ids=["muted", "open microphone"])
    def test_yes(
        self, tiny: Settings, write_wav: Callable[..., Path], engine: str, noise: float
    ) -> None:
        """A "Yes." of 0.4 s in a minute of nothing is in the transcript, at its time."""
        yes = decode(SAMPLE_CALL / "kenji.ogg")[int(71.24 * SAMPLE_RATE_HZ) :]
        yes = yes[: int(0.4 * SAMPLE_RATE_HZ)]
        track = noise * np.random.default_rng(3).standard_normal(60 * SAMPLE_RATE_HZ)
        track[30 * SAMPLE_RATE_HZ :][: yes.size] += yes

        transcript = run(
            [Track(source=write_wav(track.astype(np.float32)), speaker="Kenji")],
            replace(tiny, engine=engine),
        )

        (segment,) = transcript.segments
        assert plain(segment.text) == "yes"
        assert 29.8 < segment.start_seconds < segment.end_seconds < 30.6

    def test_among_those_who_speak(self, tiny: Settings, write_wav: Callable[..., Path]) -> None:
        """Nor is it lost where others say more, or where it is the last thing of a track."""
        yes = decode(SAMPLE_CALL / "kenji.ogg")[int(71.24 * SAMPLE_RATE_HZ) :]
        yes = yes[: int(0.4 * SAMPLE_RATE_HZ)]
        tracks = [
            Track(source=SAMPLE_CALL / "maya.ogg", speaker="maya"),
            Track(source=write_wav(yes), speaker="kenji", start_offset_seconds=42),
        ]

        transcript = run(tracks, tiny)

        (answer,) = (segment for segment in transcript.segments if segment.speaker == "kenji")
        assert plain(answer.text) == "yes"
        assert 42 <= answer.start_seconds < answer.end_seconds < 42.5

    def test_at_the_same_time(self, tiny: Settings) -> None:
        """What begins at the same time is in the order of the tracks, however often it is made."""
        tracks = [Track(source=SAMPLE_CALL / "maya.ogg", speaker=name) for name in ("b", "a", "c")]

        speakers = [segment.speaker for segment in run(tracks, tiny).segments]

        assert speakers == ["b", "a", "c"] * (len(speakers) // 3)
        assert speakers


class TestRefusals:
    """What is not transcribed."""

    def test_no_usable_track(self, tiny: Settings, tmp_path: Path) -> None:
        """If no track can be used the job fails, naming each track."""
        (tmp_path / "a.wav").write_bytes(b"")
        tracks = [
            Track(source=tmp_path / "a.wav", speaker="A"),
            Track(source=tmp_path / "b.wav", speaker="B"),
        ]

        error = refusal(tracks, tiny)

        assert error.reason == SpeechReason.INPUT_INVALID
        assert "track of A: empty" in error.message
        assert "track of B: cannot be read" in error.message

    @pytest.mark.parametrize("language", ["de", "xx", "english", "e\0n"])
    def test_language_of_an_english_model(self, tiny: Settings, language: str) -> None:
        """An .en model refuses every other language instead of guessing."""
        error = refusal(sample_tracks(), replace(tiny, language=language))

        assert error.reason == SpeechReason.LANGUAGE_UNSUPPORTED
        assert "tiny.en" in error.message

    def test_translation_by_an_english_model(self, tiny: Settings) -> None:
        """Translation needs a multilingual model."""
        error = refusal(sample_tracks(), replace(tiny, task="translate"))

        assert error.reason == SpeechReason.LANGUAGE_UNSUPPORTED

    def test_unknown_language(self, model_dir: Callable[[str], Path]) -> None:
        """A code that no Whisper knows is refused, also when only one track asks for it."""
        settings = Settings(model=ModelFiles(name="base", directory=model_dir("base")))
        tracks = [*sample_tracks()[:1], replace(sample_tracks()[1], language="xx")]

        assert refusal(tracks, settings).reason == SpeechReason.LANGUAGE_UNSUPPORTED

    @pytest.mark.parametrize("engine", ["ctranslate2", "whispercpp", "onnx"])
    def test_missing_model(self, tmp_path: Path, engine: str) -> None:
        """No files of the model: said before any audio is decoded."""
        settings = Settings(model=ModelFiles(name="x", directory=tmp_path), engine=engine)

        assert refusal(sample_tracks(), settings).reason == SpeechReason.MODEL_MISSING

    def test_unknown_engine(self, tiny: Settings) -> None:
        """An engine that does not exist is refused with those that do."""
        error = refusal(sample_tracks(), replace(tiny, engine="vosk"))

        assert error.reason == SpeechReason.ENGINE_UNAVAILABLE
        assert "whispercpp" in error.message

    def test_stopping(self, tiny: Settings) -> None:
        """A transcription that is not wanted any more ends at the next window."""
        reports: list[Progress] = []

        with pytest.raises(SpeechError) as caught:
            run(
                sample_tracks(),
                tiny,
                on_progress=reports.append,
                should_stop=lambda: any(report.phase == "recognising" for report in reports),
            )

        assert caught.value.reason == SpeechReason.CANCELLED
        assert "writing" not in [report.phase for report in reports]


class TestSettings:
    """What a job can ask for."""

    @pytest.mark.parametrize("threads", [0, -3, 10_000], ids=str)
    def test_threads_are_clamped_with_a_notice(
        self, tiny: Settings, write_wav: Callable[..., Path], threads: int
    ) -> None:
        """Impossible numbers of threads do not fail a job."""
        path = write_wav(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32))

        transcript = run([Track(source=path, speaker="A")], replace(tiny, threads=threads))

        assert [code for code, _ in transcript.notices] == ["THREADS_CLAMPED"]
        assert str(threads) in transcript.notices[0][1]

    def test_vocabulary_helps(self, tiny: Settings) -> None:
        """Hints do not derail recognition."""
        settings = replace(tiny, initial_prompt="A meeting.", vocabulary=("Nina", "Ohio"))

        transcript = run([Track(source=SAMPLE_CALL / "maya.ogg", speaker="maya")], settings)

        assert "Nina" in " ".join(segment.text for segment in transcript.segments)

    def test_language_is_detected_per_speaker(self, model_dir: Callable[[str], Path]) -> None:
        """A multilingual model names the language of each track."""
        settings = Settings(model=ModelFiles(name="base", directory=model_dir("base")))

        transcript = run(sample_tracks()[:2], settings)

        assert [track.language for track in transcript.tracks] == ["en", "en"]
        assert transcript.language == "en"
