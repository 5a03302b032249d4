# SPDX-License-Identifier: Apache-2.0
"""From files to windows of speech, all tracks one after another, a bounded amount at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from callsd_transcript.transcript import Segment
from callsd_worker.media.decode import AudioStream, MediaError
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.vad import UtteranceFinder, VoiceDetector
from callsd_worker.speech.windows import Window, WindowPacker
from callsd_worker.transcriber.progress import Meter
from callsd_worker.transcriber.types import Track


WINDOW_SECONDS = 24.0
"""Windows are filled up to this: context helps, but attention grows with its square."""

ROUND_SPEECH_SECONDS = 900.0
"""Speech held at a time (58 MB): enough to batch well, and the same for a call of any length."""


@dataclass(slots=True)
class TrackState:
    """What is known of one track so far."""

    track: Track
    declared_seconds: float = 0.0
    duration_seconds: float = 0.0
    speech_seconds: float = 0.0
    language: str = ""
    failure: str = ""
    segments: list[Segment] = field(default_factory=list)


OwnedWindow = tuple[TrackState, Window]


def open_tracks(tracks: Sequence[Track], meter: Meter) -> list[TrackState]:
    """Find unusable files before any work is spent on the others.

    Raises SpeechError INPUT_INVALID if none is usable.
    """
    if not tracks:
        raise SpeechError(SpeechReason.INPUT_INVALID, "no tracks given; name at least one file")
    states = [TrackState(track=track) for track in tracks]
    for state in states:
        meter.check()
        try:
            with AudioStream(state.track.source) as stream:
                state.declared_seconds = stream.declared_seconds
        except MediaError as error:
            state.failure = str(error)
    refuse_if_all_failed(states)
    meter.set_total(
        call_seconds=max(
            state.track.start_offset_seconds + state.declared_seconds for state in states
        ),
        work_seconds=sum(state.declared_seconds for state in states),
    )
    return states


def refuse_if_all_failed(states: Sequence[TrackState]) -> None:
    """Raises SpeechError INPUT_INVALID if no track is left."""
    if all(state.failure for state in states):
        raise SpeechError(
            SpeechReason.INPUT_INVALID,
            "; ".join(f"track of {state.track.speaker}: {state.failure}" for state in states),
        )


def rounds(
    states: Sequence[TrackState], meter: Meter, notices: list[tuple[str, str]]
) -> Iterator[list[OwnedWindow]]:
    """Windows of all tracks, at most a round's worth of speech at a time.

    Fills in `duration_seconds`, `speech_seconds` and `failure` of the states, and `notices`.
    """
    detector = VoiceDetector()
    collected: list[OwnedWindow] = []
    seconds = 0.0
    for state in states:
        if state.failure:
            continue
        try:
            for window in _windows(state, detector, meter, notices):
                state.speech_seconds += window.voiced_seconds
                collected.append((state, window))
                seconds += window.seconds
                if seconds >= ROUND_SPEECH_SECONDS:
                    yield collected
                    collected, seconds = [], 0.0
        except MediaError as error:
            state.failure = str(error)
    if collected:
        yield collected


def _windows(
    state: TrackState, detector: VoiceDetector, meter: Meter, notices: list[tuple[str, str]]
) -> Iterator[Window]:
    finder = UtteranceFinder(detector)
    packer = WindowPacker(target_seconds=WINDOW_SECONDS)
    with AudioStream(state.track.source) as stream:
        for block in stream.blocks():
            for utterance in finder.feed(block.start_sample, block.samples):
                yield from packer.add(utterance)
            meter.add_decoded(stream.position_seconds - state.duration_seconds)
            state.duration_seconds = stream.position_seconds
        for utterance in finder.finish():
            yield from packer.add(utterance)
        yield from packer.finish()
        notices += [
            (code, f"track of {state.track.speaker}: {message}") for code, message in stream.notices
        ]
