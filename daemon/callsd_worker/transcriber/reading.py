# SPDX-License-Identifier: Apache-2.0
"""Reads windows of speech from files, track by track, a bounded amount at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from callsd_transcript.transcript import Segment, Unheard
from callsd_worker.media.decode import AudioStream, MediaError
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.voice.utterances import UtteranceFinder
from callsd_worker.speech.voice.vad import VoiceDetector
from callsd_worker.speech.voice.windows import Window, WindowPacker
from callsd_worker.transcriber.progress import Meter
from callsd_worker.transcriber.types import Track


WINDOW_SECONDS = 24.0
"""Length to which windows are packed: context helps, but the cost of attention is quadratic."""

ROUND_SPEECH_SECONDS = 900.0
"""Speech in memory at a time (58 MB): enough for good batches, whatever the length of the call."""


SpeakerKey = tuple[str, int]
"""The same for all tracks of one speaker."""


@dataclass(slots=True)
class TrackState:
    """One track, with its results so far."""

    track: Track
    speaker: SpeakerKey
    declared_seconds: float = 0.0
    duration_seconds: float = 0.0
    speech_seconds: float = 0.0
    language: str = ""
    failure: str = ""
    segments: list[Segment] = field(default_factory=list)
    unheard: list[Unheard] = field(default_factory=list)
    clock_seconds: Callable[[float], float] = float
    """See `AudioStream.clock_seconds`."""

    def call_seconds(self, sound_seconds: float) -> float:
        """When in the call sound of the track is heard, by its place in the decoded sound."""
        return self.clock_seconds(sound_seconds) + self.track.start_offset_seconds


OwnedWindow = tuple[TrackState, Window]


def open_tracks(tracks: Sequence[Track], meter: Meter) -> list[TrackState]:
    """Open all files first, so that unusable ones are found before work is spent on the others.

    Raises SpeechError INPUT_INVALID if none is usable.
    """
    states = [
        TrackState(track=track, speaker=speaker_key(track, number))
        for number, track in enumerate(tracks)
    ]
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


def speaker_key(track: Track, number: int) -> SpeakerKey:
    """Whose the track is; `number` is its place among the tracks."""
    return (track.speaker_id, 0) if track.speaker_id else ("", number)


def refuse_if_all_failed(states: Sequence[TrackState]) -> None:
    """Raises SpeechError INPUT_INVALID if no track is left."""
    if all(state.failure for state in states):
        raise SpeechError(
            SpeechReason.INPUT_INVALID,
            "; ".join(f"track of {state.track.speaker}: {state.failure}" for state in states),
        )


def rounds(
    states: Sequence[TrackState], meter: Meter, notices: list[tuple[str, str]]
) -> Iterator[tuple[list[OwnedWindow], bool]]:
    """Windows of all tracks, at most ROUND_SPEECH_SECONDS at a time, and whether they are the last.

    Sets `duration_seconds`, `speech_seconds` and `failure` of the states, and adds to `notices`.
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
                    yield collected, False
                    collected, seconds = [], 0.0
        except MediaError as error:
            state.failure = str(error)
    yield collected, True


def _windows(
    state: TrackState, detector: VoiceDetector, meter: Meter, notices: list[tuple[str, str]]
) -> Iterator[Window]:
    """Windows of the first track of sound in the file that has speech."""
    used: AudioStream | None = None
    choice = 0
    is_last = False
    while not is_last:
        is_heard, is_last = False, True
        try:
            with AudioStream(state.track.source, choice=choice) as stream:
                choice = stream.choice + 1
                is_last = choice == stream.count
                state.duration_seconds = 0.0
                for window in _windows_of(stream, state, detector, meter):
                    is_heard = is_last = True
                    yield window
        except MediaError:
            if is_heard or (is_last and used is None):
                raise
        else:
            used = stream
    assert used is not None
    state.duration_seconds = used.position_seconds
    notices += [
        (code, f"track of {state.track.speaker}: {message}") for code, message in _notices(used)
    ]


def _windows_of(
    stream: AudioStream, state: TrackState, detector: VoiceDetector, meter: Meter
) -> Iterator[Window]:
    finder = UtteranceFinder(detector)
    packer = WindowPacker(target_seconds=WINDOW_SECONDS)
    state.clock_seconds = stream.clock_seconds
    for block in stream.blocks():
        for utterance in finder.feed(block.start_sample, block.samples):
            yield from packer.add(utterance)
        meter.add_decoded(stream.position_seconds - state.duration_seconds)
        state.duration_seconds = stream.position_seconds
    for utterance in finder.finish():
        yield from packer.add(utterance)
    yield from packer.finish()


def _notices(stream: AudioStream) -> list[tuple[str, str]]:
    if stream.count == 1:
        return stream.notices
    choice = f"its file has {stream.count} tracks of sound; number {stream.number} was used"
    return [("SOUND_TRACK_CHOSEN", choice), *stream.notices]
