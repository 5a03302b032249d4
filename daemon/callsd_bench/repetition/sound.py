# SPDX-License-Identifier: Apache-2.0
"""Makes utterances of which it is known how often their phrase is said, at fixed seeds.

The phrases are cut from the sample call. Each time one is said it is a little faster or slower,
and louder or softer, than the last.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from callsd_bench.shared.call import SAMPLE_CALL, read_beginning
from callsd_bench.shared.noise import pink_noise
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


MAX_SECONDS = 8.5
"""What captions take as one segment."""

_CALL_SECONDS = 74.0
_SPEECH_LEVEL = 0.08
_EDGE_SAMPLES = 160

# speaker, seconds from, to, words
_PHRASES = (
    ("joe", 7.44, 8.75, 4),  # The alert came first.
    ("joe", 54.95, 56.5, 5),  # The age one is easy.
    ("joe", 70.08, 70.8, 3),  # Works for me.
    ("kenji", 26.74, 29.2, 8),  # There is one more thing that worries me.
    ("kenji", 71.2, 71.6, 1),  # Yes.
    ("maya", 38.38, 39.3, 2),  # That's fair.
    ("maya", 39.8, 41.0, 6),  # What would you want to measure?
    ("maya", 64.25, 64.85, 1),  # Okay.
    ("nina", 0.83, 2.5, 5),  # One question for the notes.
    ("nina", 2.57, 3.95, 4),  # Did any customer complain?
    ("nina", 23.7, 24.4, 2),  # Got it.
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A phrase that is said some times."""

    samples: Samples
    phrase_words: int
    times: int


def repeated(seed: int) -> Utterance:
    """A phrase said two to seven times, with short pauses, in a little noise."""
    random = np.random.default_rng((1, seed))
    phrase, words = _phrase(random)
    wanted = int(random.integers(2, 8))
    parts: list[Samples] = []
    seconds, times = 0.0, 0
    while times < wanted:
        said = _varied(phrase, random)
        pause = np.zeros(int(random.uniform(0.1, 0.4) * SAMPLE_RATE_HZ), dtype=np.float32)
        seconds += (said.size + pause.size) / SAMPLE_RATE_HZ
        if seconds > MAX_SECONDS:
            break
        parts += [said, pause]
        times += 1
    samples = np.concatenate(parts)
    noise = pink_noise(samples.size, random) * _SPEECH_LEVEL * 10 ** (random.uniform(-45, -25) / 20)
    return Utterance(
        samples=(samples + noise).astype(np.float32),
        phrase_words=words,
        times=times,
    )


def said_once(seed: int) -> Utterance:
    """A phrase said once, and noise behind it that provokes decoders to say it again."""
    random = np.random.default_rng((2, seed))
    phrase, words = _phrase(random)
    tail = int(random.uniform(2.0, 6.0) * SAMPLE_RATE_HZ)
    size = phrase.size + tail
    noise = (pink_noise, _white, _hum, _knocks)[int(random.integers(4))](size, random)
    noise *= float(random.choice([0.03, 0.1]))
    noise[: phrase.size] *= 0.3
    samples = noise + np.pad(phrase, (0, tail))
    return Utterance(
        samples=np.clip(samples, -1, 1).astype(np.float32),
        phrase_words=words,
        times=1,
    )


@cache
def _track(speaker: str) -> Samples:
    samples = read_beginning(SAMPLE_CALL / f"{speaker}.ogg", seconds=_CALL_SECONDS)
    return samples.astype(np.float32) / np.float32(32768)


def _phrase(random: np.random.Generator) -> tuple[Samples, int]:
    speaker, start, end, words = _PHRASES[int(random.integers(len(_PHRASES)))]
    sound = _track(speaker)[int(start * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)].copy()
    fade = np.linspace(0, 1, _EDGE_SAMPLES, dtype=np.float32)
    sound[:_EDGE_SAMPLES] *= fade
    sound[-_EDGE_SAMPLES:] *= fade[::-1]
    level = float(np.sqrt(np.mean(sound**2)))
    return sound * np.float32(_SPEECH_LEVEL / level), words


def _varied(phrase: Samples, random: np.random.Generator) -> Samples:
    speed, gain = random.uniform(0.95, 1.05), random.uniform(0.8, 1.25)
    at = np.arange(int(phrase.size / speed)) * speed
    varied: Samples = (gain * np.interp(at, np.arange(phrase.size), phrase)).astype(np.float32)
    return varied


def _white(size: int, random: np.random.Generator) -> Samples:
    return random.standard_normal(size).astype(np.float32)


def _hum(size: int, random: np.random.Generator) -> Samples:
    pitch_hz = random.uniform(80, 160)
    time = np.arange(size) / SAMPLE_RATE_HZ
    hum: Samples = np.sign(np.sin(2 * np.pi * pitch_hz * time)).astype(np.float32)
    return hum


def _knocks(size: int, random: np.random.Generator) -> Samples:
    decay = np.exp(-(np.arange(size) % 4000) / 300).astype(np.float32)
    return np.float32(3) * decay * _white(size, random)
