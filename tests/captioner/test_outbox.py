# SPDX-License-Identifier: Apache-2.0
"""TrackUpdate that waits for a slow reader."""

import time

from callsd_worker.captioner.outbox import Outbox, OutgoingUpdate
from callsd_worker.captioner.words import SpeechChange, TrackUpdate, Words


def words(text: str, *, segment: int = 0) -> Words:
    """Some words."""
    return Words(
        segment=segment,
        revision=1,
        is_end_of_utterance=False,
        text=text,
        start_sample=segment,
        end_sample=segment + 100,
        recognised_sample=segment + 100,
        language="en",
        stability=0.5,
    )


def update(
    track: int = 1,
    *,
    finals: tuple[Words, ...] = (),
    interim: Words | None = None,
    speech: SpeechChange | None = None,
    is_drained: bool = False,
    at_sample: int = 0,
    skipped_samples: int = 0,
) -> OutgoingUpdate:
    """TrackUpdate of a track."""
    return OutgoingUpdate(
        track=track,
        update=TrackUpdate(
            finals=finals,
            interim=interim,
            processed_sample=at_sample,
            recognised_sample=at_sample,
            speech=speech,
            is_drained=is_drained,
        ),
        skipped_samples=skipped_samples,
    )


def emptied(outbox: Outbox) -> list[OutgoingUpdate]:
    """All that waits."""
    taken = []
    while (report := outbox.take(time.monotonic())) is not None:
        taken.append(report)
    return taken


def test_what_waits_is_brought_together() -> None:
    """All finals in order, the newest interim and positions, the sum of what was skipped."""
    outbox = Outbox()
    outbox.put(update(interim=words("a"), at_sample=1, skipped_samples=5))
    outbox.put(update(finals=(words("A."),), at_sample=2))
    outbox.put(update(finals=(words("B.", segment=200),), interim=words("c", segment=400)))
    outbox.put(update(interim=words("c d", segment=400), at_sample=3, skipped_samples=2))

    finals = (words("A."), words("B.", segment=200))
    assert emptied(outbox) == [
        update(finals=finals, interim=words("c d", segment=400), at_sample=3, skipped_samples=7)
    ]


def test_an_interim_does_not_outlive_its_final() -> None:
    """What became final before it was told as interim is told as final only."""
    outbox = Outbox()
    outbox.put(update(interim=words("hell")))
    outbox.put(update(finals=(words("Hello."),)))

    assert emptied(outbox) == [update(finals=(words("Hello."),))]


def test_changes_of_speech_are_all_told() -> None:
    """Beginning and end do not cancel each other, and being drained is not lost in later update."""
    outbox = Outbox()
    reports = [
        update(speech=SpeechChange.BEGIN),
        update(speech=SpeechChange.END, is_drained=True),
        update(speech=SpeechChange.BEGIN),
    ]
    for report in reports:
        outbox.put(report)

    assert emptied(outbox) == reports


def test_each_track_has_its_turn() -> None:
    """A track with much to tell does not hold up the others."""
    outbox = Outbox()
    outbox.put(update(1, is_drained=True))
    outbox.put(update(1, is_drained=True))
    outbox.put(update(2))

    assert [report.track for report in emptied(outbox)] == [1, 2, 1]


def test_a_forgotten_track_is_silent() -> None:
    """Nothing of it is told any more."""
    outbox = Outbox()
    outbox.put(update(1))
    outbox.forget(1)

    assert emptied(outbox) == []


def test_closing_wakes_the_reader() -> None:
    """Nobody waits at an outbox that is closed."""
    outbox = Outbox()
    outbox.close()
    began = time.monotonic()

    assert outbox.take(began + 60) is None
    assert time.monotonic() - began < 1
