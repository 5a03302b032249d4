# SPDX-License-Identifier: Apache-2.0
"""Makes segments, timed from the start of the call, of the words in windows."""

from collections.abc import Callable, Iterable

import numpy as np

from callsd_transcript.transcript import Segment, Word
from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.sentences import ends_sentence, goes_on
from callsd_worker.speech.voice.windows import Window


MIN_SEGMENT_SECONDS = 1.0
"""A sentence shorter than this is joined to the next one."""

MAX_SEGMENT_SECONDS = 10.0
"""A segment longer than this is too long for a subtitle; it ends at the next word."""

MAX_SEGMENT_CHARACTERS = 180

_TRIM_SAMPLES = 320
_TRIM_SECONDS = 0.02

_CLAUSE_ENDS = (",", ";", ":", "，", "、", "؛")


def place(
    results: Iterable[tuple[Window, Recognised]],
    *,
    speaker: str,
    language: str,
    call_seconds: Callable[[float], float],
) -> list[Segment]:
    """Segments of one track, in order; `call_seconds` as in `TrackState`."""
    segments = []
    for window, result in results:
        for words in _sentences(_timed(window, result, call_seconds)):
            segments.append(  # noqa: PERF401 - two loops read better
                Segment(
                    speaker=speaker,
                    start_seconds=words[0].start_seconds,
                    end_seconds=words[-1].end_seconds,
                    text="".join(word.text for word in words).strip(),
                    words=tuple(
                        Word(
                            text=word.text.strip(),
                            start_seconds=word.start_seconds,
                            end_seconds=word.end_seconds,
                            probability=word.probability,
                        )
                        for word in words
                    ),
                    language=language,
                )
            )
    return sorted(segments, key=lambda segment: segment.start_seconds)


def _timed(
    window: Window, result: Recognised, call_seconds: Callable[[float], float]
) -> list[tuple[int, Word]]:
    """Words, timed from the start of the call, with the index of the utterance of each."""
    loudness = _Loudness(window)
    timed = []
    earliest = 0.0
    for word in result.words:
        if not word.text.strip():
            continue
        begin, finish = loudness.trim(word.start_seconds, word.end_seconds)
        # By the middle: the edges of a word between two utterances may be on the wrong side.
        piece = window.piece_at((begin + finish) / 2)
        start = call_seconds(window.track_seconds(begin, piece=piece))
        end = call_seconds(window.track_seconds(finish, piece=piece))
        if end <= 0.0:
            continue  # Of a track that begins before its recording: nobody was told of that yet.
        start = max(start, earliest)
        end = max(end, start)
        earliest = start
        timed.append(
            (
                piece,
                Word(
                    text=word.text,
                    start_seconds=start,
                    end_seconds=end,
                    probability=word.probability,
                ),
            )
        )
    return timed


class _Loudness:
    """Where a window is loud, to correct word times: attention counts pauses with the next word."""

    def __init__(self, window: Window) -> None:
        count = window.samples.size // _TRIM_SAMPLES
        frames = window.samples[: count * _TRIM_SAMPLES].reshape(count, _TRIM_SAMPLES)
        power = np.einsum("ij,ij->i", frames, frames) / _TRIM_SAMPLES
        level = 10.0 * np.log10(power + 1e-10)
        if count:
            # The threshold is half-way between pause and voice, whatever the noise.
            level -= (np.percentile(level, 5) + np.percentile(level, 90)) / 2
        self._is_loud = level > 0.0

    def trim(self, start_seconds: float, end_seconds: float) -> tuple[float, float]:
        """The loud part of an interval; all of it if it is quiet throughout."""
        first = int(start_seconds / _TRIM_SECONDS)
        after = int(end_seconds / _TRIM_SECONDS) + 1
        loud = np.flatnonzero(self._is_loud[first:after])
        if not loud.size:
            return start_seconds, end_seconds
        return (
            max(start_seconds, (first + int(loud[0])) * _TRIM_SECONDS),
            min(end_seconds, (first + int(loud[-1]) + 1) * _TRIM_SECONDS),
        )


def _sentences(timed: list[tuple[int, Word]]) -> list[list[Word]]:
    sentences: list[list[Word]] = []
    current: list[Word] = []
    current_piece = -1
    for piece, word in timed:
        if current and (piece != current_piece or _is_complete(current, word)):
            sentences.append(current)
            current = []
        current.append(word)
        current_piece = piece
    if current:
        sentences.append(current)
    return sentences


def _is_complete(words: list[Word], following: Word) -> bool:
    """Whether a segment ends after these words; `following` is the next word of the utterance."""
    last = words[-1].text.strip()
    seconds = words[-1].end_seconds - words[0].start_seconds
    if ends_sentence(last):
        # A small letter after it: the stop of an abbreviation or an ordinal, by the same pass.
        return seconds >= MIN_SEGMENT_SECONDS and not goes_on(following.text)
    characters = sum(len(word.text) for word in words)
    if last.endswith(_CLAUSE_ENDS):
        return seconds >= 0.7 * MAX_SEGMENT_SECONDS or characters >= 0.7 * MAX_SEGMENT_CHARACTERS
    return (
        following.end_seconds - words[0].start_seconds > MAX_SEGMENT_SECONDS
        or characters >= MAX_SEGMENT_CHARACTERS
    )
