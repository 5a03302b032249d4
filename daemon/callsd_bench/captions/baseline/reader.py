# SPDX-License-Identifier: Apache-2.0
"""What a reader of the captions baseline is left with, from captions that replace each other.

Each caption is the text of a whole window. While the window grows, the next caption replaces the
one before; when its beginning is cut off, the words said there disappear from the screen. They
were shown, so they count: for each stretch of audio, the words of the last caption that covered
it. Where a window was cut, the caption before the cut and the last one after it overlap: they are
joined at the longest run of words that they share, words before the run from the former (which
heard them in context) and all others from the latter. Without a run of two words the share of
time that was cut tells how many words to keep.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


# One word in common may be any "the".
_MIN_RUN_WORDS = 2
# What a cut caption may hear before the first word of the one that it replaces.
_SLACK_WORDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One caption of one speaker; times in seconds from the start of the call."""

    speaker: str
    text: str
    window_start_seconds: float
    window_end_seconds: float
    new_audio_len_ms: int
    emitted_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalText:
    """Words that belong together, from windows of which each overlaps the next."""

    speaker: str
    start_seconds: float
    text: str


def final_texts(captions: Iterable[Caption]) -> list[FinalText]:
    """The final texts of all speakers, by their start; captions come in order of emission."""
    by_speaker: dict[str, list[Caption]] = {}
    for caption in captions:
        last_ones = by_speaker.setdefault(caption.speaker, [])
        if last_ones and last_ones[-1].window_start_seconds == caption.window_start_seconds:
            last_ones.pop()
        last_ones.append(caption)
    texts = [text for last_ones in by_speaker.values() for text in _joined(last_ones)]
    return sorted(texts, key=lambda text: text.start_seconds)


def seam(old: Sequence[str], new: Sequence[str], *, cut_share: float) -> tuple[int, int]:
    """Where to join: how many words of `old` to keep and how many of `new` to leave out.

    `cut_share` is the share of the old window's time that the new one has no more.
    """
    old_words, new_words = ([_bare(word) for word in words] for words in (old, new))
    cut_words = cut_share * len(old)
    best = (_MIN_RUN_WORDS - 1, 0.0)
    place = (round(cut_words), 0)
    lengths = [0] * (len(new) + 1)
    for old_end, word in enumerate(old_words, 1):
        # Runs that end here, from those that end one word earlier in both.
        lengths = [
            0,
            *(lengths[index] + 1 if word == other else 0 for index, other in enumerate(new_words)),
        ]
        for new_end, length in enumerate(lengths):
            # Of runs of one length, the one that fits the time best.
            candidate = (length, -abs(old_end - new_end - cut_words))
            if length >= _MIN_RUN_WORDS and new_end - old_end <= _SLACK_WORDS and candidate > best:
                best, place = candidate, (old_end - length, new_end - length)
    return place


def _joined(captions: Sequence[Caption]) -> Iterator[FinalText]:
    words: list[str] = []
    start_seconds = 0.0
    current_from = 0
    before: Caption | None = None
    for caption in captions:
        new = caption.text.split()
        if before is not None and caption.window_start_seconds < before.window_end_seconds:
            cut_seconds = caption.window_start_seconds - before.window_start_seconds
            window_seconds = before.window_end_seconds - before.window_start_seconds
            kept, left_out = seam(words[current_from:], new, cut_share=cut_seconds / window_seconds)
            current_from += kept
            words = words[:current_from] + new[left_out:]
        else:
            if before is not None:
                yield _final(before, start_seconds, words)
            words, current_from, start_seconds = new, 0, caption.window_start_seconds
        before = caption
    if before is not None:
        yield _final(before, start_seconds, words)


def _final(caption: Caption, start_seconds: float, words: Sequence[str]) -> FinalText:
    return FinalText(speaker=caption.speaker, start_seconds=start_seconds, text=" ".join(words))


def _bare(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum()) or word
