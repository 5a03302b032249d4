# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest

from callsd.v1.caption_pb2 import SPEAKER_EVENT_TYPE_LEFT, AudioChunk, StreamCaptionsRequest
from callsd_bench.captions.records import read_records
from callsd_bench.captions.sound import Encoding, Sound, speech_slices, write_score
from callsd_bench.shared.call import Call, Turn
from callsd_worker.media.decode import SAMPLE_RATE_HZ


def tone(seconds: float, *, amplitude: int = 8000) -> Sound:
    """A sound that is no silence."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.round(amplitude * np.sin(2 * np.pi * 300 * time)).astype(np.int16)


def call_of(*turns: tuple[float, float]) -> Call:
    """A call in which maya says something."""
    return Call(
        name="test",
        duration_seconds=10,
        tracks=(),
        turns=tuple(
            Turn(speaker="maya", start_seconds=start, end_seconds=end, text="hello")
            for start, end in turns
        ),
    )


def read_score(path: Path) -> list[StreamCaptionsRequest]:
    """All messages of a score."""
    return [StreamCaptionsRequest.FromString(bytes(record)) for record in read_records(path)]


class TestSpeech:
    """What of a call is speech."""

    def test_slices(self) -> None:
        """A turn is cut into 20 ms, each named by its end."""
        slices = speech_slices(call_of((1.0, 1.1)), {"maya": tone(3), "joe": tone(3)})

        assert slices["maya"]["end_seconds"].tolist() == pytest.approx(
            [1.02, 1.04, 1.06, 1.08, 1.1]
        )
        assert slices["maya"]["turn"].tolist() == [0] * 5
        assert len(slices["joe"]) == 0

    def test_quiet_edges(self) -> None:
        """Silence around what is said is no speech, a pause in the midst of it is."""
        silence = np.zeros(SAMPLE_RATE_HZ // 10, np.int16)
        sound = np.concatenate([silence, tone(0.1), silence, tone(0.1), silence])

        slices = speech_slices(call_of((0.0, 0.5)), {"maya": sound})

        assert slices["maya"]["end_seconds"][[0, -1]].tolist() == pytest.approx([0.12, 0.4])
        assert len(slices["maya"]) == 15

    def test_silent_turn(self) -> None:
        """Of a turn without any sound nothing can be captioned."""
        slices = speech_slices(call_of((0.0, 1.0), (2.0, 2.1)), {"maya": tone(3) * 0 + 0})

        assert len(slices["maya"]) == 0


class TestScore:
    """The messages that play a call."""

    def test_pcm(self, tmp_path: Path) -> None:
        """Each tenth of a second there is one message, with the sound of all, as it was."""
        sound = {"maya": tone(1.0), "joe": tone(0.95, amplitude=100)}

        timed = write_score(sound, encoding=Encoding.S16LE, path=tmp_path / "score")

        messages = read_score(tmp_path / "score")
        assert timed == 10
        batches = [list(message.batch.chunks) for message in messages[:timed]]
        for speaker, samples in sound.items():
            chunks = [chunk for batch in batches for chunk in batch if chunk.speaker == speaker]
            assert b"".join(chunk.data for chunk in chunks) == samples.tobytes()
            assert [chunk.sequence for chunk in chunks] == list(range(1, 11))
            assert offsets(chunks) == [100 * number for number in range(10)]
        ends = [(message.event.speaker, message.event.type) for message in messages[timed:]]
        assert ends == [("maya", SPEAKER_EVENT_TYPE_LEFT), ("joe", SPEAKER_EVENT_TYPE_LEFT)]
        assert messages[-1].event.offset.ToMilliseconds() == 950

    def test_opus(self, tmp_path: Path) -> None:
        """Opus goes out as five packets of 20 ms in a message, far smaller than the sound."""
        timed = write_score({"maya": tone(2)}, encoding=Encoding.OPUS, path=tmp_path / "score")

        messages = read_score(tmp_path / "score")[:timed]
        assert [len(message.batch.chunks) for message in messages] == [5] * 20
        chunks = [chunk for message in messages for chunk in message.batch.chunks]
        assert offsets(chunks) == [20 * number for number in range(100)]
        # One frame of 20 ms, SILK or CELT: see RFC 6716, section 3.1.
        assert {chunk.data[0] & 3 for chunk in chunks} == {0}
        assert 2000 < sum(len(chunk.data) for chunk in chunks) < 9000


class TestRecords:
    """Files of records."""

    def test_empty(self, tmp_path: Path) -> None:
        """A file into which nothing was written has no records."""
        (tmp_path / "records").touch()

        assert read_records(tmp_path / "records") == []


def offsets(chunks: list[AudioChunk]) -> list[int]:
    """Where chunks lie, in milliseconds."""
    return [chunk.start_offset.ToMilliseconds() for chunk in chunks]
