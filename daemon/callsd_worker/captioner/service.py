# SPDX-License-Identifier: Apache-2.0
"""The captioner's threads: one takes the audio of all tracks, the others recognise.

One lock guards tracks, schedule and measurements. It is held for a slice of audio at a time, and
never while an engine works.
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
from callsd_worker.captioner.outbox import Outbox, OutgoingUpdate
from callsd_worker.captioner.recognise import recognise
from callsd_worker.captioner.rules import Rules
from callsd_worker.captioner.schedule import Schedule
from callsd_worker.captioner.track import Track
from callsd_worker.media.decode import SAMPLE_RATE_HZ, Block, Samples
from callsd_worker.media.live import LiveDecoder, PcmDecoder, Piece
from callsd_worker.media.opus import OpusDecoder
from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.voice.vad import VoiceDetector


log = logging.getLogger(__name__)

MAX_COMMANDS = 64
"""Commands that wait for the audio thread, most with 20 ms of audio or more. When the queue is full
the session's reader waits, and with it the daemon."""

ROUND_SECONDS = 0.04
"""Audio that comes within this time is processed together: two packets of a track in one piece cost
a third less."""

SLICE_SAMPLES = SAMPLE_RATE_HZ
"""Audio processed under the lock at a time, some 2 ms of work: recognisers wait no longer."""

TICK_SECONDS = 0.25
"""How often the lag is measured, and stalled tracks are noticed."""

MAX_FAILURES = 5
"""After so many failed passes in a row the fault is not in the audio."""

JOIN_SECONDS = 2.0
"""Longer than any pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Audio of a speaker will follow."""

    track: int
    call: str
    language: str
    is_opus: bool
    start_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Audio of any tracks, as (track, piece)."""

    pieces: Sequence[tuple[int, Piece]]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A speaker has stopped talking."""

    track: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Forget a track."""

    track: int


Command = Open | Sound | End | Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the captioner reports."""

    load: float
    """Share of the last second in which the recognisers were busy. Range 0 to 1."""
    lag_seconds: float
    """Age of the oldest voice that is not in words yet."""
    degraded: str
    """How captions are worse than usual, for a person; empty = they are not."""
    real_time_factor: float
    """Seconds of speech captioned per second of processor time; 0 = not known."""
    cpu_seconds: Mapping[str, float]
    """By call."""
    engine: str
    """Name of the engine that makes final words."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Voice:
    """A speaker of a call, with track and decoder."""

    number: int
    call: str
    track: Track
    decoder: LiveDecoder
    reported_skipped_samples: int = 0


class CaptionService:
    """Captions all calls of one model."""

    def __init__(
        self,
        engines: Sequence[Engine],
        outbox: Outbox,
        *,
        load_fallback: Callable[[], Sequence[Engine]] | None,
        on_crash: Callable[[], None],
        rules: Rules | None = None,
    ) -> None:
        """One thread for each of `engines`, which may all be the same object.

        `load_fallback` loads as many smaller ones when needed. `on_crash` is called from a thread
        that ends with an exception.
        """
        self._engines = engines
        self._fallback: Sequence[Engine] = ()
        self._load_fallback = load_fallback
        self._outbox = outbox
        self._on_crash = on_crash
        self._detector = VoiceDetector()
        self._rules = rules or Rules()
        self._cadence = Cadence(self._rules)
        self._commands: queue.Queue[Command] = queue.Queue(MAX_COMMANDS)
        self._voices: dict[int, _Voice] = {}
        self._changed = threading.Condition()
        self._schedule: Schedule[int] = Schedule()
        self._degradation = Degradation(has_smaller_model=load_fallback is not None)
        self._costs = Costs(process_cpu_seconds())
        self._wake_seconds = 0.0
        """When the next waiting recogniser wakes up by itself."""
        self._ticked_seconds = 0.0
        self._busy_seconds = 0.0
        self._status_seconds = time.monotonic()
        self._failures = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._root, args=(self._take_audio,), daemon=True)]
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
        """End all threads; returns whether they have ended in time."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def submit(self, command: Command) -> None:
        """Queue a command; blocks while the queue is full."""
        while not self._stopping.is_set():
            try:
                return self._commands.put(command, timeout=TICK_SECONDS)
            except queue.Full:
                continue
        return None

    def status(self) -> Status:
        """The status since the last call of this method; call it once a second."""
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
            # A thread in `submit` would wait for ever.
            self._stopping.set()
            self._on_crash()

    # --- audio ---

    def _take_audio(self) -> None:
        round_seconds = 0.0
        while not self._stopping.is_set():
            try:
                commands = [self._commands.get(timeout=TICK_SECONDS)]
            except queue.Empty:
                continue
            self._stopping.wait(max(0.0, round_seconds + ROUND_SECONDS - time.monotonic()))
            round_seconds = time.monotonic()
            while not self._commands.empty():
                commands.append(self._commands.get_nowait())
            self._execute(commands)

    def _execute(self, commands: Sequence[Command]) -> None:
        pieces: dict[int, list[Piece]] = defaultdict(list)
        for command in commands:
            match command:
                case Sound():
                    for number, piece in command.pieces:
                        pieces[number].append(piece)
                case Open():
                    self._open(command)
                case End():
                    self._decode(command.track, pieces.pop(command.track, ()))
                    self._end(command.track)
                case Close():
                    pieces.pop(command.track, None)
                    self._close(command.track)
        for number, together in pieces.items():
            self._decode(number, together)

    def _open(self, command: Open) -> None:
        make_decoder = OpusDecoder if command.is_opus else PcmDecoder
        # A language that the model does not know is detected, as if none was given.
        language = command.language if command.language in self._engines[0].languages else ""
        voice = _Voice(
            number=command.track,
            call=command.call,
            track=Track(
                self._detector,
                start_sample=command.start_sample,
                language=language,
                rules=self._rules,
                cadence=self._cadence,
            ),
            decoder=make_decoder(start_sample=command.start_sample),
        )
        with self._changed:
            self._voices[command.track] = voice
            self._schedule.add(command.track, voice.track)

    def _decode(self, number: int, pieces: Sequence[Piece]) -> None:
        voice = self._voices.get(number)
        if voice is not None and pieces:
            began = time.thread_time()
            self._feed(voice, voice.decoder.feed(pieces), began)

    def _end(self, number: int) -> None:
        voice = self._voices.get(number)
        if voice is not None:
            self._feed(voice, voice.decoder.finish(), time.thread_time())
            with self._changed:
                voice.track.end_speech(time.monotonic())
                self._follow_up(voice)

    def _feed(self, voice: _Voice, blocks: Sequence[Block], began: float) -> None:
        for start_sample, samples in _slices(blocks):
            with self._changed:
                voice.track.feed(start_sample, samples, time.monotonic())
                self._follow_up(voice)
        with self._changed:
            self._costs.work(voice.call, time.thread_time() - began)

    def _follow_up(self, voice: _Voice) -> None:
        """Publish the changes of a track, and wake a recogniser if it is needed earlier."""
        self._publish(voice)
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

    def _publish(self, voice: _Voice) -> None:
        update = voice.track.take_update()
        if update is None:
            return
        for final in update.finals:
            self._costs.finish_speech((final.end_sample - final.start_sample) / SAMPLE_RATE_HZ)
        skipped_samples = voice.decoder.skipped_samples
        self._outbox.put(
            OutgoingUpdate(
                track=voice.number,
                update=update,
                skipped_samples=skipped_samples - voice.reported_skipped_samples,
            )
        )
        voice.reported_skipped_samples = skipped_samples

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
        """Wait for windows to recognise; empty when it is time to end."""
        with self._changed:
            while not self._stopping.is_set():
                now = time.monotonic()
                self._tick(now)
                ready = self._schedule.next(now)
                if ready:
                    # More may be due, for another recogniser.
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
        # Speech may have ended because its audio stopped coming.
        for voice in self._voices.values():
            self._publish(voice)

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
            return self._try_recognise(engines[0], passes)
        return [
            result
            for engine, window in zip(engines, passes, strict=True)
            for result in self._try_recognise(engine, [window])
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

    def _try_recognise(self, engine: Engine, passes: Sequence[DecodeWindow]) -> list[Result]:
        try:
            results = recognise(engine, passes)
        except (RuntimeError, ValueError, SpeechError):
            # One bad stretch of audio must not end the captions of all calls.
            self._failures += 1
            if self._failures == MAX_FAILURES:
                raise
            log.exception("a pass failed")
            return [Result(recognised=None, language=window.language) for window in passes]
        self._failures = 0
        return results


def process_cpu_seconds() -> float:
    """Processor time of this process so far, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _slices(blocks: Sequence[Block]) -> Iterator[tuple[int, Samples]]:
    for block in blocks:
        for first in range(0, block.samples.size, SLICE_SAMPLES):
            yield block.start_sample + first, block.samples[first : first + SLICE_SAMPLES]
