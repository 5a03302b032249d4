# SPDX-License-Identifier: Apache-2.0
"""Files that people bring: put together, without a length, with clocks that are wrong."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import av
import numpy as np
import pytest

from callsd_worker.media.container import _problem
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, MediaError
from callsd_worker.speech.loading import ModelFiles
from callsd_worker.transcriber.pipeline import Progress, Settings, Track, Transcript, transcribe
from tests.helpers.ffmpeg import ffmpeg
from tests.weights import MODELS_DIRECTORY

from .conftest import SAMPLE_CALL, Samples


VOICE = ("-ss", "18.2", "-t", "4", "-i", SAMPLE_CALL / "maya.ogg")
OTHER = ("-ss", "8", "-t", "5", "-i", SAMPLE_CALL / "joe.ogg")


def heard(path: Path) -> tuple[Samples, AudioStream]:
    """The sound without its holes, and what became of the file."""
    with AudioStream(path) as stream:
        assert stream.declared_seconds > 0.0
        blocks = list(stream.blocks())
    return np.concatenate([block.samples for block in blocks]), stream


def codes(stream: AudioStream) -> list[str]:
    """Of what is told."""
    return [code for code, _ in stream.notices]


def likeness(samples: Samples, reference: Samples) -> float:
    """1 = the same sound but for its loudness and some milliseconds."""
    length = min(samples.size, reference.size)
    spectra = np.fft.rfft(samples[:length]) * np.conj(np.fft.rfft(reference[:length]))
    energy = np.linalg.norm(samples[:length]) * np.linalg.norm(reference[:length])
    return float(np.abs(np.fft.irfft(spectra)).max() / energy)


def joined(first: Path, second: Path) -> Path:
    """Both, end to end."""
    path = first.with_stem("joined")
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


class TestJoined:
    """One file behind another."""

    @pytest.mark.parametrize(
        ("name", "first", "second", "told"),
        [
            ("opus", "-c:a libopus -ac 1", "-c:a libopus -ac 2", []),
            ("ogg", "-c:a flac -ar 48000", "-c:a libvorbis -ac 2 -ar 22050", []),
            ("ts", "-c:a aac", "-c:a aac", ["CLOCK_BROKEN"]),
            ("ts", "-c:a aac", "-c:a aac -output_ts_offset 20000", ["CLOCK_BROKEN"]),
            ("ts", "-c:a aac -output_ts_offset 20000", "-c:a aac", ["CLOCK_BROKEN"]),
            ("webm", "-c:a libopus", "-c:a libopus -ac 2", ["CLOCK_BROKEN"]),
            ("wav", "-ar 16000", "-ar 44100 -ac 2", []),
            ("mp3", "-ar 48000", "-ar 44100 -ac 2", ["INPUT_DAMAGED"]),
            ("aac", "-ar 48000", "-ar 24000 -ac 2", []),
            ("aac", "-ac 2", "-ac 1", []),
            ("ac3", "-ac 6", "-ac 1", []),
            ("ac3", "-ac 1", "-ac 2", []),
            ("flac", "", "-ac 2 -ar 22050", []),
            ("flv", "-ar 44100", "-ar 22050 -ac 2", []),
            ("m4a", "-c:a aac", "-c:a alac", []),
            ("aiff", "", "-ac 2 -ar 22050", []),
            ("caf", "-c:a alac", "-c:a pcm_s16be", []),
            ("w64", "", "-ac 2", []),
            ("tta", "", "", []),
            ("asf", "-c:a mp2", "-c:a mp2 -ac 2", []),
        ],
    )
    def test_the_second_comes_right_behind_the_first(
        self, name: str, first: str, second: str, told: list[str], tmp_path: Path
    ) -> None:
        """Whatever its form and its clock; that a clock has leapt is told."""
        ffmpeg(*VOICE, *first.split(), tmp_path / f"a.{name}")
        ffmpeg(*OTHER, *second.split(), tmp_path / f"b.{name}")
        voice, _ = heard(tmp_path / f"a.{name}")
        other, _ = heard(tmp_path / f"b.{name}")

        samples, stream = heard(joined(tmp_path / f"a.{name}", tmp_path / f"b.{name}"))

        assert samples.size == pytest.approx(voice.size + other.size, abs=0.06 * SAMPLE_RATE_HZ)
        assert stream.position_seconds == pytest.approx(samples.size / SAMPLE_RATE_HZ, abs=0.06)
        assert likeness(samples[: voice.size], voice) > 0.9
        assert likeness(samples[-other.size :], other) > 0.9
        assert codes(stream) == told
        if name not in {"aac", "webm"}:  # their headers tell of the first
            assert stream.declared_seconds == pytest.approx(stream.position_seconds, abs=0.1)

    def test_what_is_no_sound_in_between(self, tmp_path: Path) -> None:
        """A link of an Ogg file that cannot be decoded costs itself only."""
        ffmpeg(*VOICE, "-c:a", "libopus", tmp_path / "a.ogg")
        voice, _ = heard(tmp_path / "a.ogg")
        page = (tmp_path / "a.ogg").read_bytes()
        foreign = b"".join(
            b"OggS\0" + flags + bytes(8) + struct.pack("<III", 7, 0, 0) + b"\1\4none"
            for flags in (b"\2", b"\0")
        )
        (tmp_path / "b.ogg").write_bytes(page + foreign + page)

        samples, stream = heard(tmp_path / "b.ogg")

        assert samples.size == 2 * voice.size
        assert codes(stream) == ["INPUT_DAMAGED"]


class TestLength:
    """What files say of their length, or do not."""

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("a.mp3", "-write_xing 0 -q:a 9"),
            ("a.aac", "-c:a aac -q:a 2"),
            ("a.ac3", "-c:a ac3"),
        ],
    )
    def test_an_estimate_is_no_promise(self, name: str, form: str, tmp_path: Path) -> None:
        """Silence before speech, whose bytes are few, does not make a file too short."""
        long_silence = ("-af", "adelay=20s:all=1")
        ffmpeg(*VOICE, *long_silence, *form.split(), tmp_path / name)

        _, stream = heard(tmp_path / name)

        assert codes(stream) == []
        assert stream.position_seconds == pytest.approx(24, abs=0.2)
        assert stream.declared_seconds == pytest.approx(24, abs=0.2)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.ts", "a.mpg"])
    @pytest.mark.parametrize(
        ("picture", "seconds"), [("-f lavfi -t 24 -i color=s=64x64 -map 1 -map 0", 24), ("", 4)]
    )
    def test_sound_that_begins_late(
        self, name: str, picture: str, seconds: float, tmp_path: Path
    ) -> None:
        """Its place is by the picture's clock, and what the header says of its end is kept."""
        ffmpeg(*VOICE, tmp_path / "a.wav")
        codec = "mp2" if name == "a.mpg" else "aac"
        late = ("-itsoffset", "20", "-i", tmp_path / "a.wav")
        ffmpeg(*late, *picture.split(), "-c:a", codec, tmp_path / name)

        samples, stream = heard(tmp_path / name)

        assert codes(stream) == []
        assert samples.size == pytest.approx(4 * SAMPLE_RATE_HZ, rel=0.02)
        assert stream.position_seconds == pytest.approx(seconds, abs=0.1)
        assert stream.declared_seconds == pytest.approx(seconds, abs=0.1)

    @pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.mkv"])
    def test_a_promise_is_kept_or_told(self, name: str, tmp_path: Path) -> None:
        """A file that was cut is told by a header that says how long it was."""
        ffmpeg(*VOICE, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])

        _, stream = heard(tmp_path / name)

        assert codes(stream)[-1] == "INPUT_TRUNCATED"

    def test_a_file_of_a_browser_has_true_figures(self, tmp_path: Path) -> None:
        """Progress and speed are right without a length in the header."""
        form = ("-c:a", "libopus", "-f", "webm", "-live", "1")
        ffmpeg(*VOICE, *form, tmp_path / "a.webm")
        seen: list[Progress] = []

        transcribed(tmp_path / "a.webm", seen)

        assert [progress.total_seconds for progress in seen[1:]] == pytest.approx(
            [4.0] * (len(seen) - 1), abs=0.1
        )
        assert seen[-1].processed_seconds == seen[-1].total_seconds
        assert seen[-1].real_time_factor > 0.0


def transcribed(path: Path, seen: list[Progress]) -> Transcript:
    """What the smallest model makes of it."""
    model = ModelFiles(name="tiny.en", directory=MODELS_DIRECTORY / "tiny.en")
    return transcribe(
        [Track(source=path, speaker="A")],
        Settings(model=model),
        on_progress=seen.append,
        should_stop=lambda: False,
    )


def test_encrypted_sound_is_told(tmp_path: Path) -> None:
    """Who brings a protected file learns that, not that it be damaged."""
    key = ("-encryption_key", "0" * 32, "-encryption_kid", "0" * 32)
    protection = ("-encryption_scheme", "cenc-aes-ctr", *key)
    ffmpeg(*VOICE, "-c:a", "aac", *protection, tmp_path / "a.mp4")

    with pytest.raises(MediaError, match="encrypted"):
        heard(tmp_path / "a.mp4")


def test_encrypted_matroska_is_told() -> None:
    """FFmpeg writes none; what it says of one that it reads is enough to refuse it."""
    stream = cast("av.AudioStream", SimpleNamespace(metadata={"enc_key_id": "MDEyMzQ1Njc="}))

    assert "encrypted" in _problem(stream)


class TestTracks:
    """Several tracks of sound in one file."""

    def test_the_first_with_speech_is_used(self, tmp_path: Path) -> None:
        """Noise of a microphone nobody uses does not hide what is said into another one."""
        noise = ("-f", "lavfi", "-t", "4", "-i", "anoisesrc=a=0.001")
        ffmpeg(*noise, *VOICE, "-map", "0", "-map", "1", "-c:a", "libopus", tmp_path / "a.mkv")

        transcript = transcribed(tmp_path / "a.mkv", [])

        assert transcript.segments
        ((code, message),) = transcript.notices
        assert code == "SOUND_TRACK_CHOSEN"
        assert "2 tracks of sound; number 2 was used" in message
        assert transcript.tracks[0].duration_seconds == pytest.approx(4, abs=0.1)

    def test_one_that_cannot_be_decoded_is_passed_over(self, tmp_path: Path) -> None:
        """The next one is there for that."""
        ffmpeg(*OTHER, *VOICE, "-map", "0", "-map", "1", "-c:a", "libopus", tmp_path / "a.mkv")
        content = (tmp_path / "a.mkv").read_bytes().replace(b"A_OPUS", b"A_NONE", 1)
        (tmp_path / "a.mkv").write_bytes(content)

        assert transcribed(tmp_path / "a.mkv", []).segments

    def test_silence_beside_one_that_cannot_be_decoded(self, tmp_path: Path) -> None:
        """A file whose first track is silent is a silent one, not a damaged one."""
        silence = ("-f", "lavfi", "-t", "4", "-i", "anullsrc")
        ffmpeg(*silence, *VOICE, "-map", "0", "-map", "1", "-c:a", "libopus", tmp_path / "a.mkv")
        content = b"A_NONE".join((tmp_path / "a.mkv").read_bytes().rsplit(b"A_OPUS", 1))
        (tmp_path / "a.mkv").write_bytes(content)

        transcript = transcribed(tmp_path / "a.mkv", [])

        (track,) = transcript.tracks
        assert (track.failure_reason, transcript.segments) == ("", ())
        assert track.duration_seconds == pytest.approx(4, abs=0.1)

    def test_the_preferred_one_comes_first(self, tmp_path: Path) -> None:
        """A file says which of its tracks is to be heard."""
        form = [
            "-map",
            "0",
            "-map",
            "1",
            "-c:a",
            "libopus",
            "-disposition:a:0",
            "0",
            "-disposition:a:1",
            "default",
        ]
        ffmpeg(*OTHER, *VOICE, *form, tmp_path / "a.mkv")

        with AudioStream(tmp_path / "a.mkv") as stream:
            assert (stream.number, stream.count, stream.choice) == (2, 2, 0)


def test_a_track_whose_file_fails_under_way_is_the_only_one_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised for it, also where its end is concluded."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    ffmpeg(*VOICE, tmp_path / "a.wav")
    monkeypatch.setattr("callsd_worker.media.files.MediaFile.riff_missing_bytes", fail)

    with pytest.raises(MediaError), AudioStream(tmp_path / "a.wav") as stream:
        list(stream.blocks())
