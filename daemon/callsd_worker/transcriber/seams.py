# SPDX-License-Identifier: Apache-2.0
"""Mends sentences whose parts were recognised apart from each other."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from callsd_transcript.transcript import Segment
from callsd_worker.speech.evidence.sentences import (
    ends_sentence,
    goes_on,
    with_capital,
    without_stop,
)


_LONGEST_PAUSE_SECONDS = 1.5
"""After a longer pause a new sentence begins, even if its first letter is small."""


def mended(segments: Iterable[Segment]) -> list[Segment]:
    """The segments of one track, in order of time.

    Where the next one goes on in the middle of a sentence there is no full stop, and no small
    letter follows the end of one.
    """
    done: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: segment.start_seconds):
        if not goes_on(segment.text):
            done.append(segment)
        elif done and _is_same_sentence(done[-1], segment):
            done[-1] = _changed(done[-1], -1, without_stop)
            done.append(segment)
        elif done and not ends_sentence(done[-1].text):
            done.append(segment)
        else:
            capital = partial(with_capital, language=segment.language)
            done.append(_changed(segment, 0, capital))
    return done


def _is_same_sentence(segment: Segment, following: Segment) -> bool:
    pause_seconds = following.start_seconds - segment.end_seconds
    return segment.text.endswith(".") and pause_seconds <= _LONGEST_PAUSE_SECONDS


def _changed(segment: Segment, index: int, change: Callable[[str], str]) -> Segment:
    """With a change of the text in the word at the index, the first or the last."""
    words = list(segment.words)
    words[index] = replace(words[index], text=change(words[index].text))
    return replace(segment, text=change(segment.text), words=tuple(words))
