# SPDX-License-Identifier: Apache-2.0
"""The captioner's threads: one listens to all tracks, the others recognise.

One lock guards tracks, schedule and figures. It is held for a slice of sound at a time, and never
while an engine works.
"""

import logging
import queue
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from callsd_worker.captioner.cadence import Cadence
from callsd_worker.captioner.costs import Costs
from callsd_worker.captioner.decoding import DecodeWindow, Result
from callsd_worker.captioner.degradation import Degradation, Step
from callsd_worker.captioner.outbox import Outbox, TrackNews
from callsd_worker.captioner.recognise import recognise
from callsd_worker.captioner.rules import Rules
from callsd_worker.captioner.schedule import Schedule
from callsd_worker.captioner.track import Track
from callsd_worker.media.decode import SAMPLE_RATE_HZ, Block, Samples
from callsd_worker.media.live import LiveDecoder, PcmDecoder, Piece
from callsd_worker.media.opus import OpusDecoder
from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.vad import VoiceDetector


log = logging.getLogger(__name__)

MAX_ORDERS = 64
"""Orders that wait for the listening thread: each is a parcel of sound of 20 ms or more. Whoever
brings more waits, and with it the daemon."""

ROUND_SECONDS = 0.04
"""Sound that comes within this is listened to together: of two packets of a track in one piece
each costs a third less than alone."""

SLICE_SAMPLES = SAMPLE_RATE_HZ
"""Sound that is listened to at once, some 2 ms of work: recognisers wait for no more."""

TICK_SECONDS = 0.25
"""How often the lag is looked at, and tracks that nobody feeds."""

MAX_FAILURES = 5
"""Passes that fail one after the other: then it is not the sound that is at fault."""

JOIN_SECONDS = 2.0
"""A pass is over by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A speaker's sound will come."""

    track: int
    call: str
    language: str
    is_opus: bool
    start_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Some sound of any tracks, as (track, piece)."""

    pieces: Sequence[tuple[int, Piece]]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A speaker says no more for now."""

    track: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """A speaker is forgotten."""

    track: int


Order = Open | Sound | End | Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the captioner is."""

    load: float
    """Share of the last second in which the recognisers were busy. Range 0 to 1."""
    lag_seconds: float
    """Age of the oldest voice that is not in words."""
    degraded: str
    """What is being done without, for a person; empty = nothing."""
    real_time_factor: float
    """Speech worked off in one second of processor time; 0 = not known."""
    cpu_seconds: Mapping[str, float]
    """By call."""
    engine: str
    """Name of the one that final words come from."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Voice:
    """A speaker of a call."""

    number: int
    call: str
    track: Track
    decoder: LiveDecoder
    told_skipped_samples: int = 0


class CaptionService:
    """All that one model is used for."""

    def __init__(
        self,
        engines: Sequence[Engine],
        outbox: Outbox,
        *,
        load_fallback: Callable[[], Sequence[Engine]] | None,
        on_crash: Callable[[], None],
        rules: Rules | None = None,
    ) -> None:
        """One recognising thread for each engine, which may be one and the same.

        `load_fallback` loads as many smaller ones when they are needed. `on_crash` is called from
        a thread that ends of a bug.
        """
        self._engines = engines
        self._fallback: Sequence[Engine] = ()
        self._load_fallback = load_fallback
        self._outbox = outbox
        self._on_crash = on_crash
        self._detector = VoiceDetector()
        self._rules = rules or Rules()
        self._cadence = Cadence(self._rules)
        self._orders: queue.Queue[Order] = queue.Queue(MAX_ORDERS)
        self._voices: dict[int, _Voice] = {}
        self._changed = threading.Condition()
        self._schedule: Schedule[int] = Schedule()
        self._degradation = Degradation(has_smaller_model=load_fallback is not None)
        self._costs = Costs(process_cpu_seconds())
        self._wake_seconds = 0.0
        """When the next waiting recogniser looks for work by itself."""
        self._ticked_seconds = 0.0
        self._busy_seconds = 0.0
        self._status_seconds = time.monotonic()
        self._failures = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._root, args=(self._listen,), daemon=True)]
        for engine_number in range(len(engines)):
            self._threads.append(
                threading.Thread(
                    target=self._root, args=(self._recognise, engine_number), daemon=True
                )
            )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> bool:
        """End; returns whether all threads have ended in time."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def give(self, order: Order) -> None:
        """Have an order carried out; waits while too many wait already."""
        while not self._stopping.is_set():
            try:
                return self._orders.put(order, timeout=TICK_SECONDS)
            except queue.Full:
                continue
        return None

    def status(self) -> Status:
        """How things are since the last call; to be called once a second."""
        now = time.monotonic()
        with self._changed:
            self._costs.divide(process_cpu_seconds())
            elapsed = max(now - self._status_seconds, 1e-3) * len(self._engines)
            load = min(self._busy_seconds / elapsed, 1.0)
            self._busy_seconds, self._status_seconds = 0.0, now
            return Status(
                load=load,
                lag_seconds=self._schedule.lag_seconds(now),
                degraded=self._degradation.text,
                real_time_factor=self._costs.real_time_factor,
                cpu_seconds=self._costs.by_call,
                engine=self._engines[0].name,
            )

    def _root(self, work: Callable[..., None], *args: int) -> None:
        try:
            work(*args)
        except Exception:
            log.exception("a bug")
            # Whoever waits to give an order would wait for ever.
            self._stopping.set()
            self._on_crash()

    # --- listening ---

    def _listen(self) -> None:
        round_seconds = 0.0
        while not self._stopping.is_set():
            try:
                orders = [self._orders.get(timeout=TICK_SECONDS)]
            except queue.Empty:
                continue
            self._stopping.wait(max(0.0, round_seconds + ROUND_SECONDS - time.monotonic()))
            round_seconds = time.monotonic()
            while not self._orders.empty():
                orders.append(self._orders.get_nowait())
            self._carry_out(orders)

    def _carry_out(self, orders: Sequence[Order]) -> None:
        pieces: dict[int, list[Piece]] = defaultdict(list)
        for order in orders:
            match order:
                case Sound():
                    for number, piece in order.pieces:
                        pieces[number].append(piece)
                case Open():
                    self._open(order)
                case End():
                    self._hear(order.track, pieces.pop(order.track, ()))
                    self._end(order.track)
                case Close():
                    pieces.pop(order.track, None)
                    self._close(order.track)
        for number, together in pieces.items():
            self._hear(number, together)

    def _open(self, order: Open) -> None:
        make_decoder = OpusDecoder if order.is_opus else PcmDecoder
        # One that the model does not know is detected like one that nobody gave.
        language = order.language if order.language in self._engines[0].languages else ""
        voice = _Voice(
            number=order.track,
            call=order.call,
            track=Track(
                self._detector,
                start_sample=order.start_sample,
                language=language,
                rules=self._rules,
                cadence=self._cadence,
            ),
            decoder=make_decoder(start_sample=order.start_sample),
        )
        with self._changed:
            self._voices[order.track] = voice
            self._schedule.add(order.track, voice.track)

    def _hear(self, number: int, pieces: Sequence[Piece]) -> None:
        voice = self._voices.get(number)
        if voice is not None and pieces:
            began = time.thread_time()
            self._take_in(voice, voice.decoder.feed(pieces), began)

    def _end(self, number: int) -> None:
        voice = self._voices.get(number)
        if voice is not None:
            self._take_in(voice, voice.decoder.finish(), time.thread_time())
            with self._changed:
                voice.track.end_speech(time.monotonic())
                self._follow_up(voice)

    def _take_in(self, voice: _Voice, blocks: Sequence[Block], began: float) -> None:
        for start_sample, samples in _slices(blocks):
            with self._changed:
                voice.track.hear(start_sample, samples, time.monotonic())
                self._follow_up(voice)
        with self._changed:
            self._costs.work(voice.call, time.thread_time() - began)

    def _follow_up(self, voice: _Voice) -> None:
        """A track has changed: tell it, and wake a recogniser if there is work before it looks."""
        self._tell(voice)
        due = voice.track.due()
        if due is not None and due.ready_seconds < self._wake_seconds:
            self._wake_seconds = due.ready_seconds
            self._changed.notify()

    def _close(self, number: int) -> None:
        with self._changed:
            voice = self._voices.pop(number, None)
            self._schedule.remove(number)
            self._outbox.forget(number)
            if voice is not None and all(v.call != voice.call for v in self._voices.values()):
                self._costs.forget(voice.call)

    def _tell(self, voice: _Voice) -> None:
        update = voice.track.take_update()
        if update is None:
            return
        for final in update.finals:
            self._costs.finish_speech((final.end_sample - final.start_sample) / SAMPLE_RATE_HZ)
        skipped_samples = voice.decoder.skipped_samples
        self._outbox.put(
            TrackNews(
                track=voice.number,
                update=update,
                skipped_samples=skipped_samples - voice.told_skipped_samples,
            )
        )
        voice.told_skipped_samples = skipped_samples

    # --- recognising ---

    def _recognise(self, index: int) -> None:
        while taken := self._next():
            voices, passes = [voice for voice, _ in taken], [window for _, window in taken]
            began = time.monotonic()
            results = self._results(index, passes)
            now = time.monotonic()
            seconds = sum(window.seconds for window in passes)
            with self._changed:
                self._busy_seconds += now - began
                for voice, window, result in zip(voices, passes, results, strict=True):
                    share = window.seconds / seconds if seconds else 1.0
                    voice.track.settle(result, now)
                    if self._voices.get(voice.number) is voice:
                        self._costs.work(voice.call, (now - began) * share)
                        self._follow_up(voice)

    def _next(self) -> list[tuple[_Voice, DecodeWindow]]:
        """Wait for passes to make; none when it is time to end."""
        with self._changed:
            while not self._stopping.is_set():
                now = time.monotonic()
                self._tick(now)
                ready = self._schedule.next(now)
                if ready:
                    # More may be due: another recogniser shall see to it.
                    self._changed.notify()
                    return [(self._voices[number], track.take(now)) for number, track in ready]
                wait_seconds = self._schedule.wait_seconds(now)
                self._wake_seconds = now + wait_seconds
                self._changed.wait(wait_seconds)
        return []

    def _tick(self, now: float) -> None:
        if now - self._ticked_seconds < TICK_SECONDS:
            return
        self._ticked_seconds = now
        step = self._degradation.observe(self._schedule.lag_seconds(now), now)
        if step is Step.SMALLER_MODEL and self._load_fallback is not None:
            load, self._load_fallback = self._load_fallback, None
            threading.Thread(target=self._bring_fallback, args=(load,), daemon=True).start()
        # Speech also ends because its sound stays away.
        for voice in self._voices.values():
            self._tell(voice)

    def _bring_fallback(self, load: Callable[[], Sequence[Engine]]) -> None:
        try:
            engines = load()
        except SpeechError as error:
            log.warning("no smaller model: %s", error.message)
            return
        with self._changed:
            self._fallback = engines

    def _results(self, index: int, passes: Sequence[DecodeWindow]) -> list[Result]:
        engines = [self._engine(index, window) for window in passes]
        if all(engine is engines[0] for engine in engines):
            return self._heard(engines[0], passes)
        return [
            result
            for engine, window in zip(engines, passes, strict=True)
            for result in self._heard(engine, [window])
        ]

    def _engine(self, index: int, window: DecodeWindow) -> Engine:
        """Final words always come from the main model."""
        if (
            self._fallback
            and self._degradation.step is Step.SMALLER_MODEL
            and not window.is_final
            and window.language in ("", *self._fallback[index].languages)
        ):
            return self._fallback[index]
        return self._engines[index]

    def _heard(self, engine: Engine, passes: Sequence[DecodeWindow]) -> list[Result]:
        try:
            results = recognise(engine, passes)
        except (RuntimeError, ValueError, SpeechError):
            # One bad stretch of sound must not end the captions of all calls.
            self._failures += 1
            if self._failures == MAX_FAILURES:
                raise
            log.exception("a pass failed")
            return [Result(heard=None, language=window.language) for window in passes]
        self._failures = 0
        return results


def process_cpu_seconds() -> float:
    """What this process has used of the processors so far, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _slices(blocks: Sequence[Block]) -> Iterator[tuple[int, Samples]]:
    for block in blocks:
        for first in range(0, block.samples.size, SLICE_SAMPLES):
            yield block.start_sample + first, block.samples[first : first + SLICE_SAMPLES]
