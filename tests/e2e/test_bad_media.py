# SPDX-License-Identifier: Apache-2.0
"""Bad media, through the whole system: a reason for what cannot be used, and no other harm."""

import json
import math
import struct
from pathlib import Path

import pytest

from callsd.v1.error_pb2 import ERROR_REASON_INPUT_INVALID, ERROR_REASON_UNSPECIFIED
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.e2e.media import FLOAT, GOOD, RATE_HZ, UNUSABLE, silence, tone, wav
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure, refused
from tests.helpers.speech import speech
from tests.helpers.transcripts import submit, transcribe, transcript


HEARD = "three support tickets"
"""Words near the beginning of the good track, easy enough for the smallest model."""

SILENCE_SECONDS = 240.0
"""Some CPU seconds are the promise, not when a machine that is busy otherwise has them."""

CLIP_SECONDS = 25.0
"""In these joe and maya have said something."""


@pytest.mark.reason("INPUT_INVALID")
@pytest.mark.parametrize("kind", ["playlist", "all NaN"])
def test_alone(server: Daemon, api: Api, kind: str) -> None:
    """A job that has nothing else to transcribe fails, names the file, and says what is wrong."""
    path = server.media / f"{kind}.wav"
    UNUSABLE[kind](path)
    job = transcribe(server, api, path)

    assert failure(job) == "INPUT_INVALID"
    assert f"track of {path.stem}: " in job.failure.message
    assert job.attempt == 1
    assert not job.artifacts
    assert_invariants(server)


def _clip(path: Path) -> Path:
    """The first seconds of a speaker of the sample call."""
    return wav(path, speech(path.stem, 0.0, CLIP_SECONDS).tobytes())


def test_bad_tracks_never_lose_the_others(server: Daemon, api: Api) -> None:
    """Among good tracks each bad one is named with its reason; the good ones are in every file."""
    bad = []
    for kind, write in UNUSABLE.items():
        write(path := server.media / f"bad {kind}.wav")
        bad.append(path)
    joe, maya = (_clip(server.media / f"{name}.wav") for name in ("joe", "maya"))
    job = transcribe(server, api, maya, *bad[:5], joe, *bad[5:])

    assert job.state == JOB_STATE_SUCCEEDED
    results = {track.speaker: track for track in job.transcription_result.tracks}
    for path in bad:
        assert results[path.stem].failure_reason == ERROR_REASON_INPUT_INVALID, path
        assert results[path.stem].failure_message, path
    for speaker in ("joe", "maya"):
        assert results[speaker].failure_reason == ERROR_REASON_UNSPECIFIED
        assert results[speaker].speech_duration.ToTimedelta().total_seconds() > 2
    for suffix in ("vtt", "txt", "srt", "json"):
        written = transcript(server, job, suffix)
        assert HEARD in written
        assert "maya" in written
    assert "<v bad" not in transcript(server, job, "vtt")
    assert_invariants(server)


def _damaged(path: Path) -> Path:
    content = bytearray(GOOD.read_bytes()[:90_000])
    content[60_000:62_000] = bytes(2000)
    path.write_bytes(content)
    return path


def _some_nan(path: Path) -> Path:
    good = struct.unpack(f"<{2 * RATE_HZ}h", tone(2))
    samples = [value / 32768 if at % 100 else math.nan for at, value in enumerate(good)]
    return wav(path, struct.pack(f"<{len(samples)}f", *samples), code=FLOAT, bits=32)


def test_damaged(server: Daemon, api: Api) -> None:
    """What was cut short and has holes is transcribed as far as it can be heard.

    Samples that are no numbers are silence, and a notice says how many there were.
    """
    damaged = _damaged(server.media / "damaged.ogg")
    job = transcribe(server, api, damaged, _some_nan(server.media / "nan.wav"))

    assert job.state == JOB_STATE_SUCCEEDED
    assert HEARD in transcript(server, job)
    assert [notice.code for notice in job.notices] == ["SAMPLES_CLEANED"]
    assert_invariants(server)


@pytest.mark.timeout(300)
def test_hours_of_silence(server: Daemon, api: Api) -> None:
    """3 h without a word are an empty transcript, for little work and in little memory."""
    name = submit(server, api, silence(server.media / "silence3.wav", hours=3))
    job = server.wait(api, name, seconds=SILENCE_SECONDS)

    assert job.state == JOB_STATE_SUCCEEDED
    (track,) = job.transcription_result.tracks
    assert track.duration.ToTimedelta().total_seconds() == pytest.approx(3 * 3600, abs=1)
    assert track.speech_duration.ToTimedelta().total_seconds() == 0
    assert job.transcription_result.segment_count == 0
    assert json.loads(transcript(server, job, "json"))["segments"] == []
    assert job.usage.cpu_seconds < 10
    # Its samples would take 660 MiB, beside the model.
    assert job.usage.peak_memory_bytes < 700 * 2**20
    assert_invariants(server)


@pytest.mark.reason("PATH_FORBIDDEN", "MEDIA_NOT_FOUND")
def test_refused_before_a_worker_starts(server: Daemon, api: Api) -> None:
    """Paths outside of the roots, links out of them and missing files make no job."""
    (server.media / "out.wav").symlink_to("/etc/hostname")
    for path in (Path("/etc/hostname"), server.media / "out.wav"):
        with refused("PATH_FORBIDDEN"):
            transcribe(server, api, path)
    with refused("MEDIA_NOT_FOUND"):
        transcribe(server, api, server.media / "missing.wav")
    with refused("PATH_FORBIDDEN"):
        transcribe(server, api, Path("/proc/self/root/etc/hostname"))
    assert_invariants(server)


@pytest.mark.reason("LANGUAGE_UNSUPPORTED", "FIELD_INVALID", "MODEL_UNKNOWN", "MODEL_MISSING")
def test_settings(server: Daemon, api: Api) -> None:
    """Languages and models that cannot be had are refused before a worker starts."""
    for reason, spec in (
        ("FIELD_INVALID", {"language": "klingon"}),
        ("LANGUAGE_UNSUPPORTED", {"language": "de"}),
        ("MODEL_UNKNOWN", {"model": "huge.xx"}),
        ("MODEL_MISSING", {"model": "small"}),
    ):
        with refused(reason):
            transcribe(server, api, GOOD, **spec)
    assert_invariants(server)
