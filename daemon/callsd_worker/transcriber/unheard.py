# SPDX-License-Identifier: Apache-2.0
"""Tells where somebody spoke and no attempt was to be believed: it is not gone silently."""

from collections.abc import Callable, Sequence

from callsd_transcript.transcript import Unheard
from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.gaps import find_gap
from callsd_worker.speech.evidence.syllables import syllables_in
from callsd_worker.speech.voice.windows import Window


MIN_VOICED_SECONDS = 0.5
"""Less voice without words is a cough, a breath or a laugh."""


def unheard_in(
    window: Window,
    result: Recognised,
    *,
    call_seconds: Callable[[float], float],
    task: str = "transcribe",
) -> list[Unheard]:
    """Stretches of the call that have voice and no words; `call_seconds` as in `TrackState`.

    Text whose words have no times is in no segment.
    """
    if not result.words:
        spans = [
            (piece.window_start_seconds, piece.window_end_seconds)
            for piece in window.pieces
            if piece.voiced_seconds >= MIN_VOICED_SECONDS
        ]
    elif task == "translate":
        spans = []  # A translation has other syllables than the sound.
    else:
        gap = find_gap(result.words, syllables_in(window.samples))
        spans = [] if gap is None else [(gap.start_seconds, min(gap.end_seconds, window.seconds))]
    timed = [
        tuple(
            call_seconds(window.track_seconds(at, piece=window.piece_at((start + end) / 2)))
            for at in (start, end)
        )
        for start, end in spans
    ]
    return [
        Unheard(start_seconds=max(start, 0.0), end_seconds=end) for start, end in timed if end > 0.0
    ]


def notice_of(speaker: str, unheard: Sequence[Unheard]) -> tuple[str, str]:
    """The notice, (code, message), for a speaker of whom something was not understood."""
    first_seconds = min(stretch.start_seconds for stretch in unheard)
    seconds = sum(stretch.end_seconds - stretch.start_seconds for stretch in unheard)
    return "SPEECH_UNHEARD", (
        f"track of {speaker}: no words could be made out in {len(unheard)} stretches of a voice, "
        f"{seconds:.1f} s in all, the first {first_seconds:.1f} s into the call"
    )
