# SPDX-License-Identifier: Apache-2.0
"""Makes a transcript of a call's tracks.

Tracks are decoded as streams; only speech is kept, and of that one round at a time. All windows of
a round, of all speakers, are recognised in batches of similar length.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from callsd_transcript.transcript import Segment, TrackResult, Transcript, Word
from callsd_worker.speech.engine import DecodeOptions, Encoded
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.loading import ModelFiles, clamp_threads, load_engine
from callsd_worker.speech.voice.windows import Window
from callsd_worker.transcriber.languages import (
    MAX_WAITING_SECONDS,
    PROBE_SECONDS,
    Odds,
    Vote,
    check_language,
    choose_probes,
    decide,
)
from callsd_worker.transcriber.progress import Meter
from callsd_worker.transcriber.reading import (
    OwnedWindow,
    SpeakerKey,
    TrackState,
    open_tracks,
    refuse_if_all_failed,
    rounds,
)
from callsd_worker.transcriber.recognition import recognise
from callsd_worker.transcriber.seams import mended
from callsd_worker.transcriber.segments import place
from callsd_worker.transcriber.stretches import Stretch, stretches
from callsd_worker.transcriber.types import Progress, Settings, Track
from callsd_worker.transcriber.unheard import notice_of, unheard_in


__all__ = [
    "ModelFiles",
    "Progress",
    "Segment",
    "Settings",
    "SpeechError",
    "SpeechReason",
    "Track",
    "TrackResult",
    "Transcript",
    "Word",
    "transcribe",
]


def transcribe(
    tracks: Sequence[Track],
    settings: Settings,
    *,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Transcript:
    """Transcribe a call: one track per speaker, all on one clock.

    A track that cannot be used is reported in its TrackResult; the others are transcribed. Of a
    call without tracks, in which nobody has switched a microphone on, the transcript is empty.

    Raises:
        SpeechError: INPUT_INVALID (no usable track), MODEL_INVALID, MODEL_MISSING,
            ENGINE_UNAVAILABLE, LANGUAGE_UNSUPPORTED, CANCELLED (`should_stop` said so).
    """
    meter = Meter(on_progress, should_stop)
    meter.enter("loading")
    if not tracks:
        return _transcript([], "", [])
    threads, notices = clamp_threads(settings.threads)
    states = open_tracks(tracks, meter)
    recogniser = _Recogniser(settings, states, threads=threads, meter=meter)
    for state in states:
        state.language = recogniser.given_language(state.track)
    meter.enter("decoding")
    for windows, is_last in rounds(states, meter, notices):
        recogniser.recognise(windows, is_last=is_last)
    refuse_if_all_failed(states)
    for state in states:
        state.language = _main_language(state)
    meter.finish(
        call_seconds=max(
            state.track.start_offset_seconds + state.duration_seconds for state in states
        )
    )
    notices += [notice_of(state.track.speaker, state.unheard) for state in states if state.unheard]
    return _transcript(states, recogniser.engine_name, notices)


class _Recogniser:
    """The loaded engine; sorts windows into batches for it."""

    def __init__(
        self, settings: Settings, states: list[TrackState], *, threads: int, meter: Meter
    ) -> None:
        self._settings = settings
        self._states = states
        self._meter = meter
        self._waiting: list[OwnedWindow] = []
        self._engine = load_engine(
            settings.model,
            engine=settings.engine,
            threads=threads,
            compute_type=settings.compute_type,
            ggml_type=settings.ggml_type,
        )
        self.engine_name = self._engine.name

    def given_language(self, track: Track) -> str:
        """The track's language if it is set, else empty.

        Raises SpeechError LANGUAGE_UNSUPPORTED.
        """
        given = track.language or self._settings.language
        check_language(
            given, self._engine, model=self._settings.model.name, task=self._settings.task
        )
        return given if self._engine.is_multilingual else "en"

    def recognise(self, windows: list[OwnedWindow], *, is_last: bool) -> None:
        """Recognise one round, and add the segments to their tracks.

        What is too little to tell the speaker's language is kept for a later round.
        """
        windows = self._ready(self._waiting + windows, is_last=is_last)
        if not windows:
            return
        self._meter.begin_round(sum(window.seconds for _, window in windows))
        by_language: dict[str, list[OwnedWindow]] = defaultdict(list)
        for state, window in self._probe_languages(windows):
            by_language[state.language].append((state, window))
        for same_language in by_language.values():
            for batch in self._batches(same_language):
                self._recognise_batch(batch, self._encode(batch), [None] * len(batch))
        self._meter.end_round()

    def _ready(self, windows: list[OwnedWindow], *, is_last: bool) -> list[OwnedWindow]:
        """The windows of speakers whose language is known, or can be decided now; others wait."""
        self._waiting = []
        if is_last:
            return windows
        waiting = set[SpeakerKey]()
        waiting_seconds = 0.0
        for speaker, own in _undecided(windows).items():
            seconds = sum(window.seconds for _, window in own)
            if seconds < PROBE_SECONDS and waiting_seconds + seconds <= MAX_WAITING_SECONDS:
                waiting.add(speaker)
                waiting_seconds += seconds
                self._waiting += own
        return [
            (state, window)
            for state, window in windows
            if state.language or state.speaker not in waiting
        ]

    def _probe_languages(self, windows: list[OwnedWindow]) -> list[OwnedWindow]:
        """Detect missing languages, and recognise the windows used for that.

        Returns the windows that remain.
        """
        probes = [
            own[at]
            for own in _undecided(windows).values()
            for at in choose_probes([window for _, window in own])
        ]
        if not probes:
            return windows
        votes: dict[SpeakerKey, list[Vote]] = defaultdict(list)
        detected = []
        for batch in self._batches(probes):
            encoded = self._encode(batch)
            odds = self._engine.detect_language(encoded)
            detected.append((batch, encoded, odds))
            for (state, window), probabilities in zip(batch, odds, strict=True):
                votes[state.speaker].append((probabilities, window.seconds))
        languages = decide(votes, _spoken(self._states))
        for state in self._states:
            state.language = state.language or languages.get(state.speaker, "")
        for batch, encoded, odds in detected:
            self._recognise_batch(batch, encoded, odds)
        used = {id(window) for _, window in probes}
        return [(state, window) for state, window in windows if id(window) not in used]

    def _batches(self, windows: list[OwnedWindow]) -> Iterator[list[OwnedWindow]]:
        """Windows sorted by length into batches: a batch is padded to its longest."""
        ordered = sorted(windows, key=lambda item: item[1].seconds, reverse=True)
        size = self._engine.batch_windows
        for first in range(0, len(ordered), size):
            yield ordered[first : first + size]

    def _encode(self, batch: list[OwnedWindow]) -> list[Encoded]:
        padded_seconds = self._padded_seconds(batch)
        encoded = []
        for _, window in batch:
            self._meter.check()
            encoded.append(self._engine.encode(window.samples, padded_seconds=padded_seconds))
        return encoded

    def _padded_seconds(self, batch: list[OwnedWindow]) -> float:
        return self._engine.padded_seconds(max(window.seconds for _, window in batch))

    def _recognise_batch(
        self, batch: list[OwnedWindow], encoded: list[Encoded], odds: Sequence[Odds | None]
    ) -> None:
        """Recognise windows; `odds` of those whose language was detected already."""
        padded_seconds = self._padded_seconds(batch)
        by_language: dict[str, list[tuple[TrackState, Stretch]]] = defaultdict(list)
        for (state, window), item, own in zip(batch, encoded, odds, strict=True):
            for stretch in self._stretches(state, window, item, own, padded_seconds):
                by_language[stretch.language].append((state, stretch))
        size = self._engine.batch_windows
        for _, same in sorted(by_language.items()):
            # A window that was taken apart is several.
            for first in range(0, len(same), size):
                self._recognise_stretches(same[first : first + size])
        self._meter.add_recognised(sum(window.seconds for _, window in batch))

    def _recognise_stretches(self, same: list[tuple[TrackState, Stretch]]) -> None:
        """Recognise stretches in one language, and add the segments to their tracks."""
        language = same[0][1].language
        results = recognise(
            self._engine,
            [stretch.window for _, stretch in same],
            [stretch.encoded for _, stretch in same],
            self._options(language),
            self._meter.check,
        )
        for (state, _), parts in zip(same, results, strict=True):
            state.segments += place(
                parts,
                speaker=state.track.speaker,
                language=language,
                call_seconds=state.call_seconds,
            )
            for window, result in parts:
                state.unheard += unheard_in(
                    window, result, call_seconds=state.call_seconds, task=self._settings.task
                )

    def _stretches(
        self,
        state: TrackState,
        window: Window,
        encoded: Encoded,
        odds: Odds | None,
        padded_seconds: float,
    ) -> list[Stretch]:
        """The window, or what is in it in several languages if these are to be detected."""
        if not self._engine.detects_from_encoding or self.given_language(state.track):
            return [Stretch(window=window, encoded=encoded, language=state.language)]
        return stretches(
            self._engine,
            window,
            encoded,
            odds,
            language=state.language,
            padded_seconds=padded_seconds,
            check=self._meter.check,
        )

    def _options(self, language: str) -> DecodeOptions:
        settings = self._settings
        hints = settings.initial_prompt.strip()
        if settings.vocabulary:
            hints = f"{hints} {', '.join(settings.vocabulary)}.".strip()
        return DecodeOptions(
            language=language,
            task=settings.task,
            hints=hints,
            beam_size=self._engine.usual_beam_size,
        )


def _undecided(windows: list[OwnedWindow]) -> dict[SpeakerKey, list[OwnedWindow]]:
    """The windows of each speaker whose language is not known."""
    found: dict[SpeakerKey, list[OwnedWindow]] = defaultdict(list)
    for state, window in windows:
        if not state.language:
            found[state.speaker].append((state, window))
    return found


def _spoken(states: list[TrackState]) -> dict[str, float]:
    """Seconds of speech in each language that is known."""
    spoken: dict[str, float] = defaultdict(float)
    for state in states:
        if state.language and state.speech_seconds:
            spoken[state.language] += state.speech_seconds
    return spoken


def _main_language(state: TrackState) -> str:
    """The language that most of a track is in: of those who change it, not always the first."""
    seconds: dict[str, float] = defaultdict(float)
    for segment in state.segments:
        seconds[segment.language] += segment.end_seconds - segment.start_seconds
    return max(seconds, key=seconds.__getitem__, default=state.language)


def _transcript(
    states: list[TrackState], engine_name: str, notices: list[tuple[str, str]]
) -> Transcript:
    segments = sorted(
        (segment for state in states for segment in mended(state.segments)),
        key=lambda segment: segment.start_seconds,
    )
    spoken = _spoken(states)
    return Transcript(
        segments=tuple(segments),
        tracks=tuple(
            TrackResult(
                speaker=state.track.speaker,
                duration_seconds=state.duration_seconds,
                speech_seconds=state.speech_seconds,
                language=state.language if state.speech_seconds else "",
                unheard=tuple(sorted(state.unheard, key=lambda stretch: stretch.start_seconds)),
                failure_reason=SpeechReason.INPUT_INVALID.value if state.failure else "",
                failure_message=state.failure,
            )
            for state in states
        ),
        language=max(spoken, key=spoken.__getitem__) if spoken else "",
        engine=engine_name,
        notices=tuple(notices),
    )
