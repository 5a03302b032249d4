# SPDX-License-Identifier: Apache-2.0
"""What the captions of some calls were worth to who read them: delay, steadiness.

All times are in seconds from the start of the call that they belong to.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.call import Turn


SLICE_SECONDS = 0.02
"""Speech is cut into pieces of this length, and each has a delay of its own."""

SAME_UTTERANCE_SECONDS = 1.0
"""A turn that begins so soon after the same speaker's last one has no first word of its own."""

FIRST_WORD_SECONDS = 0.7
"""A caption belongs to a turn when its text begins at most so long before it: voice detectors and
recognisers place the first word a little early."""

SAME_MOMENT_SECONDS = 0.1
"""What arrives so close together a reader sees as one change."""

# Times travel as nanoseconds and as samples: what is equal differs in the last digits.
_TOLERANCE_SECONDS = 1e-4

_WORD = re.compile(r"[\w']+")

Slices = NDArray[np.void]
"""Pieces of one speaker's speech, in order; of type `SLICE`."""

SLICE = np.dtype([("end_seconds", np.float64), ("turn", np.int64)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A caption as it arrived at a viewer."""

    call: int
    speaker: str
    segment: str
    """A caption takes the place of an earlier one with the same segment."""
    text: str
    """Empty: what was shown of this segment is withdrawn."""
    is_final: bool = False
    text_start_seconds: float
    """Where the first word begins, as far as the caption tells."""
    heard_from_seconds: float = -math.inf
    """The recogniser knew of no sound before this; infinite: of all before `heard_to_seconds`."""
    heard_to_seconds: float
    """Sound before this is in the text."""
    arrival_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Share of something that took no more than 2, 4, 6, 8 seconds; 0 to 1.

    The limit itself counts, as in the histogram from which the published shares are.
    """

    lt_2s: float
    lt_4s: float
    lt_6s: float
    lt_8s: float


def shares(seconds: Iterable[float]) -> Shares:
    """How many of some durations are short; of none at all, none is."""
    values = np.fromiter(seconds, np.float64)
    below = [float(np.mean(values <= limit)) if len(values) else 0.0 for limit in (2, 4, 6, 8)]
    return Shares(lt_2s=below[0], lt_4s=below[1], lt_6s=below[2], lt_8s=below[3])


def percentile(seconds: Sequence[float] | NDArray[np.float64], percent: float) -> float | None:
    """The value that so many per cent do not exceed; None when it is infinite or there is none."""
    if not len(seconds):
        return None
    value = float(np.percentile(seconds, percent, method="higher"))
    return value if math.isfinite(value) else None


def latencies(
    speech: Mapping[str, Slices], captions: Sequence[Shown], *, calls: int
) -> NDArray[np.float64]:
    """How old each slice of speech was when the first caption that has it arrived.

    `speech` is that of each of the `calls` calls. A caption has the slices before its
    `heard_to_seconds` that no caption before it had. All of them that belong to one turn get the
    age of the oldest, counted from when that slice ended. A slice that no caption has is
    infinitely late.
    """
    by_track = _by_track(captions)
    ages = []
    for call in range(calls):
        for speaker, slices in speech.items():
            ends = slices["end_seconds"]
            age = np.full(len(ends), np.inf)
            for caption in by_track.get((call, speaker), ()):
                if not caption.text:
                    continue
                first = np.searchsorted(ends, caption.heard_from_seconds + _TOLERANCE_SECONDS)
                last = np.searchsorted(ends, caption.heard_to_seconds + _TOLERANCE_SECONDS)
                fresh = first + np.flatnonzero(np.isinf(age[first:last]))
                # Slices are in order: the first one of a turn is the oldest.
                _, oldest, turn = np.unique(
                    slices["turn"][fresh], return_index=True, return_inverse=True
                )
                age[fresh] = caption.arrival_seconds - ends[fresh][oldest][turn]
            ages.append(age)
    return np.concatenate(ages) if ages else np.zeros(0)


def first_word_delays(
    turns: Sequence[Turn], captions: Sequence[Shown], *, calls: int
) -> list[float]:
    """From the start of each turn to the first caption with words of it; infinite if none came.

    Turns that follow hard on one of the same speaker do not count.
    """
    by_track = _by_track(captions)
    delays = []
    ends: dict[str, float] = defaultdict(lambda: -math.inf)
    for turn in sorted(turns, key=lambda turn: turn.start_seconds):
        is_fresh = turn.start_seconds >= ends[turn.speaker] + SAME_UTTERANCE_SECONDS
        ends[turn.speaker] = max(ends[turn.speaker], turn.end_seconds)
        if not is_fresh:
            continue
        for call in range(calls):
            arrivals = (
                caption.arrival_seconds
                for caption in by_track.get((call, turn.speaker), ())
                if caption.text
                and caption.heard_to_seconds > turn.start_seconds
                and caption.text_start_seconds >= turn.start_seconds - FIRST_WORD_SECONDS
            )
            delays.append(next(arrivals, math.inf) - turn.start_seconds)
    return delays


def erased_ratio(captions: Sequence[Shown]) -> float:
    """Words that were taken off the screen again over words that were put on it.

    What a speaker's captions show together is compared with what they showed before: all behind
    the common beginning is taken off and put on. Case and punctuation do not count, nor does it
    that words move to another segment, as long as they arrive there at the same moment.
    """
    erased = shown = 0
    for track in _by_track(captions).values():
        # Segments that may still change, in the order in which they were begun.
        open_segments: dict[str, list[str]] = {}
        for change in _changes(track):
            before = list(chain.from_iterable(open_segments.values()))
            for caption in change:
                open_segments[caption.segment] = words(caption.text)
            now = list(chain.from_iterable(open_segments.values()))
            same = _common_prefix(before, now)
            erased += len(before) - same
            shown += len(now) - same
            for caption in change:
                if caption.is_final:
                    del open_segments[caption.segment]
    return erased / shown if shown else 0.0


def _changes(track: Sequence[Shown]) -> Iterator[list[Shown]]:
    """One speaker's captions, those of one moment together, but a segment's final is its last."""
    change: list[Shown] = []
    for caption in track:
        if change and (
            caption.arrival_seconds > change[0].arrival_seconds + SAME_MOMENT_SECONDS
            or any(other.is_final and other.segment == caption.segment for other in change)
        ):
            yield change
            change = []
        change.append(caption)
    if change:
        yield change


def new_audio_seconds(captions: Sequence[Shown]) -> list[float]:
    """How much sound each caption has that the one before it had not.

    The first caption of a segment has that from its first word on.
    """
    lengths = []
    for track in _by_track(captions).values():
        heard_to = -math.inf
        for caption in track:
            lengths.append(caption.heard_to_seconds - max(heard_to, caption.text_start_seconds))
            heard_to = max(heard_to, caption.heard_to_seconds)
    return lengths


def words(text: str) -> list[str]:
    """The words of a text, without what does not matter to a reader's eye."""
    return _WORD.findall(text.lower())


def _by_track(captions: Sequence[Shown]) -> dict[tuple[int, str], list[Shown]]:
    tracks: dict[tuple[int, str], list[Shown]] = defaultdict(list)
    for caption in sorted(captions, key=lambda caption: caption.arrival_seconds):
        tracks[caption.call, caption.speaker].append(caption)
    return tracks


def _common_prefix(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next(
        (index for index, (left, right) in enumerate(pairs) if left != right),
        min(len(one), len(other)),
    )
