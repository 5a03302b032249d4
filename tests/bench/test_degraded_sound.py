# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest

from callsd_bench.robustness import sound
from callsd_bench.robustness.conditions import (
    ALONE_SECONDS,
    CONDITIONS,
    SPEECH,
    Clip,
    read_clips,
    write_condition,
)
from callsd_bench.robustness.sound import Samples
from callsd_bench.shared.call import read_beginning, write_wav
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.noise import pink_noise
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from tests.helpers.speech import speech


def tone(hz: float, *, seconds: float = 1.0) -> Samples:
    """A steady sound at a tenth of full scale."""
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.1 * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def level_db(samples: Samples, *, around_hz: float | None = None) -> float:
    """Mean power, of everything or within 50 Hz of a frequency."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(samples.size, 1 / SAMPLE_RATE_HZ)
    chosen = spectrum if around_hz is None else spectrum[np.abs(hz - around_hz) < 50]
    # Half of the power is at the negative frequencies.
    return float(10 * np.log10(2 * chosen.sum() / samples.size**2 + 1e-20))


def clip(name: str, samples: Samples, *, speaker: str = "") -> Clip:
    """A clip of somebody of its own."""
    return Clip(name=name, speaker=speaker or name, text="a word", samples=samples)


@pytest.fixture(scope="module")
def maya() -> Samples:
    """Four seconds of real speech."""
    return (speech("maya", 20, 24) / 32768).astype(np.float32)


def random() -> sound.Random:
    """The same numbers each time."""
    return np.random.default_rng(1)


class TestSound:
    """What each kind of damage does."""

    @pytest.mark.parametrize("snr_db", [20, 5])
    def test_noise(self, maya: Samples, snr_db: float) -> None:
        """Noise lies below speech by what was asked for, pauses left aside."""
        noise = pink_noise(maya.size, random())

        added = sound.with_noise(maya, noise, snr_db=snr_db) - maya

        speech_db = 10 * np.log10(sound.speech_power(maya))
        assert speech_db - level_db(added) == pytest.approx(snr_db, abs=0.2)

    def test_noise_clips_nothing(self, maya: Samples) -> None:
        """What would get too loud for a file is turned down, not cut off."""
        loud = maya / np.abs(maya).max()

        mixed = sound.with_noise(loud, pink_noise(maya.size, random()), snr_db=0)

        assert np.abs(mixed).max() == pytest.approx(1)

    def test_silence_can_be_degraded(self) -> None:
        """A clip of digital silence makes finite sound in every condition."""
        clips = [clip("a", np.zeros(16_001, np.float32)), clip("b", tone(500))]

        for degrade in SPEECH.values():
            assert np.isfinite(degrade(clips[0], clips)).all()

    def test_pink(self) -> None:
        """Each octave of pink noise has the same power."""
        noise = pink_noise(10 * SAMPLE_RATE_HZ, random())
        spectrum = np.abs(np.fft.rfft(noise)) ** 2
        hz = np.fft.rfftfreq(noise.size, 1 / SAMPLE_RATE_HZ)

        octaves = [
            spectrum[(low <= hz) & (hz < 2 * low)].sum() for low in (125, 250, 500, 1000, 2000)
        ]

        assert 10 * np.log10(max(octaves) / min(octaves)) < 1

    def test_telephone(self) -> None:
        """A line carries 300 to 3400 Hz, and nothing else; lengths stay, odd ones too."""
        mixed = tone(100) + tone(1000) + tone(5000)

        heard = sound.telephone(mixed[:-1])

        assert heard.size == mixed.size - 1
        assert level_db(heard, around_hz=1000) == pytest.approx(
            level_db(mixed, around_hz=1000), abs=0.5
        )
        assert level_db(heard, around_hz=100) < level_db(mixed, around_hz=100) - 30
        assert level_db(heard, around_hz=5000) < level_db(mixed, around_hz=5000) - 30

    def test_low_pass(self) -> None:
        """A covered microphone keeps what is low and loses what is high."""
        heard = sound.low_passed(tone(200) + tone(4000), 1000)

        assert level_db(heard, around_hz=200) == pytest.approx(
            level_db(tone(200), around_hz=200), abs=0.5
        )
        assert level_db(heard, around_hz=4000) < level_db(tone(4000), around_hz=4000) - 20

    def test_clipped(self) -> None:
        """A tone that is 20 dB too loud lies at the limit for most of its time."""
        heard = sound.clipped(tone(200), by_decibels=20)

        limit = np.abs(heard).max()
        assert limit == pytest.approx(10 ** (-3 / 20), rel=0.01)
        assert np.mean(np.abs(heard) > 0.999 * limit) > 0.9

    def test_reverberant(self) -> None:
        """A click in a room fades by 60 dB in 0.6 s, and is as loud as before."""
        click = np.zeros(SAMPLE_RATE_HZ, np.float32)
        click[0] = 1

        heard = sound.reverberant(click, random(), direct_db=0)

        early, late = heard[800:1600], heard[8000:8800]
        assert level_db(heard) == pytest.approx(level_db(click), abs=0.1)
        assert level_db(early) - level_db(late) == pytest.approx(45, abs=2)

    def test_lossy(self, maya: Samples) -> None:
        """Some packets are lost, others with another seed, and all else stays where it is."""
        heard = sound.lossy(maya, random())
        other = sound.lossy(maya, np.random.default_rng(2))

        assert heard.size == other.size == maya.size
        frames = np.abs(heard - other)[: heard.size // 320 * 320].reshape(-1, 320)
        assert 0.02 < np.mean(frames.max(axis=1) > 0.01) < 0.5
        # The coder's own delay is 6.5 ms.
        shifts = np.arange(-800, 800, 8)
        likeness = [np.dot(heard[800:-800], np.roll(maya, by)[800:-800]) for by in shifts]
        assert abs(shifts[int(np.argmax(likeness))]) <= 160


class TestConditions:
    """Clips degraded to all conditions."""

    def test_same_each_time(self, tmp_path: Path, maya: Samples) -> None:
        """A condition of a directory of clips is the same sound each time."""
        clips = [clip("a", maya), clip("b", tone(500))]
        (tmp_path / "first").mkdir()
        (tmp_path / "second").mkdir()

        for condition in CONDITIONS:
            first = write_condition(condition, clips, tmp_path / "first")
            second = write_condition(condition, clips, tmp_path / "second")
            assert [track.path.read_bytes() for track in first.tracks] == [
                track.path.read_bytes() for track in second.tracks
            ]

    def test_noise_differs_in_level_only(self, maya: Samples) -> None:
        """At another ratio a clip has the same noise, louder or softer."""
        clips = [clip("a", maya), clip("b", tone(500))]

        for noise in ("pink", "babble"):
            louder = SPEECH[f"{noise}-5"](clips[0], clips) - maya
            softer = SPEECH[f"{noise}-10"](clips[0], clips) - maya

            assert np.corrcoef(louder, softer)[0, 1] > 0.999
            assert level_db(louder) - level_db(softer) == pytest.approx(5, abs=0.1)

    def test_babble_is_of_others(self) -> None:
        """Nobody babbles over themselves, unless there is nobody else."""
        clips = [
            clip("a", tone(500), speaker="x"),
            clip("b", tone(1500), speaker="x"),
            clip("c", tone(2500), speaker="y"),
        ]

        among_strangers = SPEECH["babble-5"](clips[0], clips)
        alone = SPEECH["babble-5"](clips[0], clips[:2])

        assert level_db(among_strangers, around_hz=2500) > -60
        assert level_db(among_strangers, around_hz=1500) < -60
        assert level_db(alone, around_hz=1500) > -60

    def test_babble_of_one_clip(self, tmp_path: Path) -> None:
        """Where there is no other clip, babble is refused with what to do."""
        with pytest.raises(BenchError, match="--conditions"):
            write_condition("babble-5", [clip("a", tone(500))], tmp_path)

    @pytest.mark.parametrize("condition", ["noise-alone", "babble-alone"])
    def test_nobody(self, tmp_path: Path, maya: Samples, condition: str) -> None:
        """Sound without a speaker lasts a minute, is no silence, and has no words to find."""
        call = write_condition(condition, [clip("a", maya), clip("b", maya)], tmp_path)

        (track,) = call.tracks
        heard = read_beginning(track.path, seconds=ALONE_SECONDS) / 32767
        assert (call.duration_seconds, call.turns) == (ALONE_SECONDS, ())
        assert -50 < level_db(heard.astype(np.float32)) < -30


class TestReadClips:
    """Which clips can be degraded."""

    @pytest.mark.parametrize(
        ("seconds", "transcript", "complaint"),
        [(0.05, "yes", "0.1 to 300"), (301, "yes", "0.1 to 300"), (1, "", "no transcript")],
        ids=["too short", "too long", "no transcript"],
    )
    def test_refusals(
        self, tmp_path: Path, seconds: float, transcript: str, complaint: str
    ) -> None:
        """A clip that cannot be used is refused by its name."""
        write_wav(tmp_path / "a.wav", sound.to_pcm(tone(500, seconds=seconds)))
        (tmp_path / "transcripts.tsv").write_text(f"file\ttranscript\na.wav\t{transcript}\n")

        with pytest.raises(BenchError, match=rf"a\.wav.*{complaint}"):
            read_clips(tmp_path)

    def test_too_much(self, tmp_path: Path) -> None:
        """More than an hour is refused before it is read into memory."""
        write_wav(tmp_path / "a.wav", sound.to_pcm(tone(500, seconds=299)))
        rows = "a.wav\tyes\n" * 13
        (tmp_path / "transcripts.tsv").write_text(f"file\ttranscript\n{rows}")

        with pytest.raises(BenchError, match="3600"):
            read_clips(tmp_path)
