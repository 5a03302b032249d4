# SPDX-License-Identifier: Apache-2.0
"""The conditions in which speech is heard, and clips degraded to them.

All that is random has a seed made of what it is and of the clip's name: one directory of clips
gives the same sound each time, and the noise of a clip differs in nothing but its level.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callsd_bench.robustness import sound
from callsd_bench.robustness.sound import Random, Samples
from callsd_bench.shared.call import (
    Call,
    CallTrack,
    Turn,
    load_clips,
    read_beginning,
    total_seconds,
    write_wav,
)
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.noise import pink_noise
from callsd_worker.media.decode import SAMPLE_RATE_HZ


ALONE_SECONDS = 60
"""Length of the sound in which nobody speaks to the microphone."""

SPEECH_DBFS = -23.0
"""Of somebody close to the microphone, while they speak."""

MIN_CLIP_SECONDS = 0.1
MAX_CLIP_SECONDS = 300.0
MAX_CLIPS_SECONDS = 3600.0
"""All clips are in memory as the voices of the babble: 230 MB."""

_VOICES = 6
_NOISE_DBFS = -35.0
_LOW_PASS_HZ = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A short recording and what is said in it."""

    name: str
    speaker: str
    text: str
    samples: Samples

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.samples.size / SAMPLE_RATE_HZ


Degrade = Callable[[Clip, Sequence[Clip]], Samples]
"""Makes of a clip, with all others at hand, what is heard of it."""


def _pink(snr_db: float) -> Degrade:
    def degrade(clip: Clip, _: Sequence[Clip]) -> Samples:
        noise = pink_noise(clip.samples.size, _seeded("pink", clip.name))
        return sound.with_noise(clip.samples, noise, snr_db=snr_db)

    return degrade


def _babble(snr_db: float) -> Degrade:
    def degrade(clip: Clip, clips: Sequence[Clip]) -> Samples:
        noise = _voices(_others(clip, clips), clip.samples.size, _seeded("babble", clip.name))
        return sound.with_noise(clip.samples, noise, snr_db=snr_db)

    return degrade


SPEECH: dict[str, Degrade] = {
    "clean": lambda clip, _: clip.samples,
    "pink-20": _pink(20),
    "pink-10": _pink(10),
    "pink-5": _pink(5),
    "babble-10": _babble(10),
    "babble-5": _babble(5),
    "telephone": lambda clip, _: sound.telephone(clip.samples),
    "loss": lambda clip, _: sound.lossy(clip.samples, _seeded("loss", clip.name)),
    "reverb": lambda clip, _: sound.reverberant(
        clip.samples, _seeded("room", clip.name), direct_db=0
    ),
    "far": lambda clip, _: sound.far(clip.samples, _seeded("room", clip.name)),
    "clipped": lambda clip, _: sound.clipped(clip.samples, by_decibels=20),
    "low-pass": lambda clip, _: sound.low_passed(clip.samples, _LOW_PASS_HZ),
    "quiet": lambda clip, _: sound.louder(clip.samples, -30),
}
"""Somebody speaks, and the words are known."""

ALONE: dict[str, Callable[[Sequence[Clip]], Samples]] = {
    "noise-alone": lambda _: sound.louder(
        pink_noise(ALONE_SECONDS * SAMPLE_RATE_HZ, _seeded("pink", "alone")), _NOISE_DBFS
    ),
    "babble-alone": lambda clips: _distant_babble(clips, _seeded("babble", "alone")),
}
"""Nobody speaks to the microphone: each word is one too many."""

CONDITIONS = (*SPEECH, *ALONE)


def read_clips(directory: Path) -> tuple[Clip, ...]:
    """The clips of a directory. BenchError: they are missing, damaged, too short or too long."""
    calls = load_clips(directory)
    for call in calls:
        if not MIN_CLIP_SECONDS <= call.duration_seconds <= MAX_CLIP_SECONDS:
            raise BenchError(
                f"{call.name} has {call.duration_seconds:g} s, and a clip may have "
                f"{MIN_CLIP_SECONDS:g} to {MAX_CLIP_SECONDS:g}"
            )
        if not call.turns[0].text:
            raise BenchError(f"{call.name} has no transcript: there is nothing to compare with")
    if total_seconds(calls) > MAX_CLIPS_SECONDS:
        raise BenchError(
            f"the clips have {total_seconds(calls):.0f} s together, and may have "
            f"{MAX_CLIPS_SECONDS:g}: name fewer in transcripts.tsv"
        )
    return tuple(map(_clip, calls))


def write_condition(condition: str, clips: Sequence[Clip], directory: Path) -> Call:
    """What is heard in a condition, as WAV files: a call with a track for each clip.

    BenchError: there is nobody else for the babble.
    """
    if condition in ALONE:
        heard: Iterable[Samples] = [ALONE[condition](clips)]
        said = []
    else:
        heard = (SPEECH[condition](clip, clips) for clip in clips)
        said = [clip.text for clip in clips]
    tracks = []
    duration_seconds = 0.0
    for number, samples in enumerate(heard):
        path = directory / f"{number}.wav"
        write_wav(path, sound.to_pcm(samples))
        tracks.append(CallTrack(speaker=path.stem, path=path))
        duration_seconds = max(duration_seconds, samples.size / SAMPLE_RATE_HZ)
    return Call(
        name=condition,
        duration_seconds=duration_seconds,
        tracks=tuple(tracks),
        turns=tuple(
            Turn(speaker=track.speaker, start_seconds=0, end_seconds=duration_seconds, text=text)
            for track, text in zip(tracks, said, strict=False)
        ),
    )


def _clip(call: Call) -> Clip:
    (track,), (turn,) = call.tracks, call.turns
    pcm = read_beginning(track.path, seconds=call.duration_seconds)
    return Clip(
        name=call.name,
        speaker=turn.speaker,
        text=turn.text,
        samples=(pcm / sound.FULL_SCALE).astype(np.float32),
    )


def _others(clip: Clip, clips: Sequence[Clip]) -> list[Samples]:
    """Clips of other speakers; where there is one speaker only, their other clips."""
    strangers = [other for other in clips if other.speaker != clip.speaker]
    others = strangers or [other for other in clips if other is not clip]
    if not others:
        raise BenchError(
            "babble is made of other clips, and there is only one: add some, "
            "or choose other conditions with --conditions"
        )
    return [other.samples for other in others]


def _voices(others: Sequence[Samples], length: int, random: Random) -> Samples:
    chosen = random.choice(len(others), min(_VOICES, len(others)), replace=False)
    return sound.babble([others[at] for at in chosen], length, random)


def _distant_babble(clips: Sequence[Clip], random: Random) -> Samples:
    voices = _voices([clip.samples for clip in clips], ALONE_SECONDS * SAMPLE_RATE_HZ, random)
    level_db = SPEECH_DBFS - 10 * math.log10(sound.speech_power(voices))
    return sound.far(sound.louder(voices, level_db), random)


def _seeded(kind: str, name: str) -> Random:
    return np.random.default_rng(zlib.crc32(f"{kind}/{name}".encode()))
