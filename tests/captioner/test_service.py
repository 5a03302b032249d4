# SPDX-License-Identifier: Apache-2.0
"""The captioner's threads, in this process."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from callsd_worker.captioner.degradation import Step
from callsd_worker.captioner.outbox import Outbox, OutgoingUpdate
from callsd_worker.captioner.service import CaptionService, End, Open, Sound
from callsd_worker.media.live import Piece
from callsd_worker.speech.engine import DecodeOptions, Encoded, Engine, Recognised
from callsd_worker.speech.engines.ct2 import CTranslate2Engine
from tests.helpers.waiting import eventually

from .sound import MAYA_SECONDS, cut, decoded, pcm_pieces


class Engines(CTranslate2Engine):
    """The real one, which remembers how it was used, and fails when it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "ctranslate2", threads=1, compute_type="int8")
        self.beam_sizes: list[int] = []
        self.failures = 0

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        self.beam_sizes += [options.beam_size] * len(encoded)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("out of order")
        return super().recognise(encoded, options)


@pytest.fixture
def main(models_directory: Path) -> Engines:
    """The model that calls ask for."""
    return Engines(models_directory / "tiny.en")


StartService = Callable[..., CaptionService]


@pytest.fixture
def start() -> Iterator[StartService]:
    """Starts services, which have ended well when the test is over."""
    crashes: list[int] = []
    started: list[CaptionService] = []

    def begin(engine: Engine, outbox: Outbox, fallback: Engine | None = None) -> CaptionService:
        service = CaptionService(
            (engine,),
            outbox,
            load_fallback=None if fallback is None else lambda: (fallback,),
            on_crash=lambda: crashes.append(1),
        )
        service.start()
        started.append(service)
        return service

    yield begin
    assert all(service.stop() for service in started)
    assert not crashes


def say(service: CaptionService, *, pace: float, track: int = 1) -> None:
    """Maya's turn on a track, so many times as fast as she speaks, to its end."""
    service.submit(Open(track=track, call="a", language="", is_opus=False, start_sample=0))
    for piece in pcm_pieces(cut(decoded("maya"), MAYA_SECONDS)):
        sent = Piece(sequence=piece.sequence, start_sample=piece.start_sample, data=piece.data)
        service.submit(Sound(pieces=[(track, sent)]))
        time.sleep(0.1 / pace)
    service.submit(End(track=track))


def heard(outbox: Outbox) -> list[OutgoingUpdate]:
    """All news, until the track is worked off."""
    found: list[OutgoingUpdate] = []

    def is_drained() -> bool:
        report = outbox.take(time.monotonic() + 0.1)
        if isinstance(report, OutgoingUpdate):
            found.append(report)
        return bool(found) and found[-1].update.is_drained

    eventually(is_drained, "all is worked off", seconds=30)
    return found


def test_the_smaller_model_makes_interims_only(
    start: StartService, main: Engines, models_directory: Path
) -> None:
    """At the last step interims come from the smaller model, final words from the main one."""
    smaller = Engines(models_directory / "tiny.en")
    outbox = Outbox()
    service = start(main, outbox, smaller)
    service._degradation.step = Step.SMALLER_MODEL
    eventually(lambda: service._fallback, "the smaller model is loaded")
    say(service, pace=2)
    update = heard(outbox)

    assert any(told.update.interim is not None for told in update)
    assert smaller.beam_sizes
    assert set(smaller.beam_sizes) == {1}
    assert main.beam_sizes
    assert 1 not in main.beam_sizes


def test_a_pass_that_fails(start: StartService, main: Engines) -> None:
    """An engine that fails now and then costs words at most; the captions of all go on."""
    main.failures = 3
    outbox = Outbox()
    service = start(main, outbox)
    say(service, pace=4)
    heard(outbox)
    service.submit(Open(track=2, call="b", language="xx", is_opus=False, start_sample=0))
    piece = pcm_pieces(cut(decoded("maya"), MAYA_SECONDS), piece_samples=200_000)[0]
    service.submit(Sound(pieces=[(2, Piece(sequence=1, start_sample=0, data=piece.data))]))
    service.submit(End(track=2))
    finals = [words.text for told in heard(outbox) for words in told.update.finals]

    assert main.failures == 0
    assert "an action for me" in " ".join(finals)


def test_an_engine_that_always_fails(main: Engines) -> None:
    """That is not the sound's fault: it is told as a crash, and whoever gives orders goes on."""
    main.failures = 1000
    crashes: list[int] = []
    service = CaptionService(
        (main,), Outbox(), load_fallback=None, on_crash=lambda: crashes.append(1)
    )
    service.start()
    # On a busy machine one turn is worked off in fewer passes than it takes.
    tracks = itertools.count(1)

    def is_told() -> bool:
        if not crashes:
            say(service, pace=4, track=next(tracks))
        return bool(crashes)

    eventually(is_told, "it is told", seconds=80)
    for _ in range(1000):
        service.submit(End(track=1))

    assert service.stop()
