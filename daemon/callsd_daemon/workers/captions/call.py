# SPDX-License-Identifier: Apache-2.0
"""One call that is being captioned: audio in, captions out."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from callsd_daemon.domain.captions import (
    SAMPLE_RATE_HZ,
    CaptionsResult,
    CaptionsSpec,
    Encoding,
    SpeechChange,
    TrackUpdate,
    Words,
)
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.workers.captions.call_log import CallLog
from callsd_daemon.workers.captions.feed import CallStatus, Caption, CaptionFeed, Event, EventType
from callsd_daemon.workers.captions.journal import Final, Journal, Position
from callsd_daemon.workers.captions.speaker import Chunk, Speaker
from callsd_ipc.names import WORKER_LOG


log = structlog.get_logger(__name__)

MAX_SPEAKERS = 250
MAX_UNRECOGNISED_SECONDS = 20.0
"""Audio of one speaker that may wait for its first recognition; beyond it the client must wait."""

MAX_RING_BYTES = 64 * 1024**2
"""The same for all speakers of a call, with audio that is recognised but not final: 200 who talk at
once for ten seconds."""

MAX_RING_CHUNKS = 100_000
"""The same in chunks, of 20 ms each. A chunk takes some 200 bytes besides its audio: one sample in
each would fill the memory with little of it."""

STALL_SECONDS = 1.0
"""A speaker from whom nothing comes for so long has stopped talking: muted, or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSink:
    """Takes a call's audio to its captioner. What is lost with a captioner is sent again."""

    send: "Callable[[Call, Speaker, Chunk], None]"
    end_speech: Callable[[Speaker], None]
    has_room: Callable[[], bool] = lambda: True
    """Whether the captioner keeps up with all its calls."""


class Call:
    """Belongs to one event loop."""

    def __init__(
        self,
        job_id: str,
        spec: CaptionsSpec,
        directory: Path,
        sink: AudioSink,
        *,
        max_log_bytes: int,
    ) -> None:
        """Open the call's journal; blocks on the disk."""
        self.job_id = job_id
        self.spec = spec
        self.directory = directory
        self.encoding: Encoding | None = None
        self.speakers: dict[str, Speaker] = {}
        self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0
        """The most that a captioner has used while it served this call, with all its calls."""
        self.real_time_factor = 0.0
        self.restart_count = 0
        self.acks = asyncio.Event()
        """Set when there is something new to acknowledge."""
        self.room = asyncio.Event()
        self.room.set()
        """Clear while the client must not send more audio."""
        self.last_attached = time.monotonic()
        self.is_over = False
        """No more audio is accepted."""
        self._sink = sink
        self._notes = CallLog(directory / WORKER_LOG, max_bytes=max_log_bytes)
        self._journal = Journal(directory)
        self.engine = self._journal.engine
        """Name of the captioner's engine; empty until one has reported."""
        self.feed = CaptionFeed(self.status, last_sequence=self._journal.last_sequence)
        """What viewers are shown."""
        self._stream = 0
        self._is_attached = False
        self._degraded = ""
        self._acked: dict[str, tuple[int, int]] = {}
        self._is_disk_full = False
        for position in self._journal.positions.values():
            speaker = self._speaker(position.speaker)
            speaker.display_name = position.display_name
            speaker.received_samples = position.received_samples
            speaker.resume(
                processed_sample=position.processed_sample,
                processed_sequence=position.processed_sequence,
            )
            speaker.skipped_samples = position.skipped_samples

    # The client that sends audio

    def attach(self, encoding: Encoding) -> int:
        """Begin a stream, which replaces any older one; returns its number."""
        if self.encoding not in (None, encoding) and self.received_samples:
            problem = f"is {encoding}, but what came before was {self.encoding}: a call keeps to it"
            raise invalid_fields([("config.encoding", problem)])
        self.encoding = encoding
        self._stream += 1
        self._is_attached = True
        self.note(f"stream {self._stream} begins, {encoding}")
        self._acked.clear()
        # Wakes the older stream, so that it sees that it is replaced.
        self.acks.set()
        return self._stream

    def check_stream(self, stream: int) -> None:
        """Raise STREAM_REPLACED when a newer stream has taken over."""
        if stream != self._stream:
            raise CallsdError(
                Reason.STREAM_REPLACED,
                "another stream sends this call's audio now: two clients stream to one job, or "
                "this one has come back on a new connection",
            )

    def detach(self, stream: int) -> None:
        """End a stream; another one may follow."""
        if stream == self._stream:
            self._is_attached = False
            self.last_attached = time.monotonic()
            self.note(f"stream {stream} has ended")

    @property
    def abandoned_seconds(self) -> float:
        """How long no client has been connected to send audio."""
        return 0.0 if self._is_attached else time.monotonic() - self.last_attached

    def close_input(self) -> None:
        """Accept no more audio; what was received is still processed."""
        self.is_over = True
        self.room.set()
        self.acks.set()

    def receive(self, name: str, sequence: int, start: int, length: int, data: bytes) -> None:
        """Take a chunk of audio. Raises FIELD_INVALID."""
        if self.is_over:
            return
        speaker = self._speaker(name)
        chunk = speaker.receive(sequence, start, length, data, time.monotonic())
        self.acks.set()
        if chunk is not None:
            self._sink.send(self, speaker, chunk)

    def name(self, name: str, display_name: str) -> None:
        """Set the display name of a speaker, who may be new."""
        self._speaker(name).display_name = display_name

    def pause(self, name: str) -> None:
        """A speaker is muted or has left: caption at once what was said."""
        self._end_speech(self._speaker(name))

    def _speaker(self, name: str) -> Speaker:
        if name not in self.speakers:
            if len(self.speakers) == MAX_SPEAKERS:
                raise invalid_fields(
                    [("audio.speaker", f"is one too many: a call has at most {MAX_SPEAKERS}")]
                )
            self.speakers[name] = Speaker(name)
            self.note(f"speaker {name}")
        return self.speakers[name]

    def _end_speech(self, speaker: Speaker) -> None:
        if not speaker.is_drained and not speaker.is_asked_to_end:
            speaker.is_asked_to_end = True
            self._sink.end_speech(speaker)

    async def until_room(self) -> None:
        """Wait until the client may send more audio.

        Asked once for each of its messages, not for each chunk: it takes a look at every speaker.
        """
        self.update_room()
        await self.room.wait()

    def update_room(self) -> None:
        """Find out whether the client may send more audio."""
        speakers = self.speakers.values()
        if (
            any(
                s.unrecognised_samples > MAX_UNRECOGNISED_SECONDS * SAMPLE_RATE_HZ for s in speakers
            )
            or sum(speaker.ring_bytes for speaker in speakers) > MAX_RING_BYTES
            or sum(len(speaker.ring) for speaker in speakers) > MAX_RING_CHUNKS
            or not self._sink.has_room()
        ) and not self.is_over:
            self.room.clear()
        else:
            self.room.set()

    def new_acks(self) -> list[Speaker]:
        """Speakers with something to acknowledge since the last time."""
        self.acks.clear()
        found = []
        for speaker in self.speakers.values():
            now = speaker.received_sequence, speaker.durable_sample
            if self._acked.get(speaker.name) != now:
                self._acked[speaker.name] = now
                found.append(speaker)
        return found

    # The captioner

    def apply(self, speaker: Speaker, update: TrackUpdate) -> None:
        """Take an update of a speaker: write finals into the journal, then publish."""
        speaker.is_drained = update.is_drained and speaker.is_asked_to_end
        # Not more than there has been: it is a worker that says so.
        skipped_samples = min(
            update.skipped_samples, speaker.received_sample - speaker.skipped_samples
        )
        if skipped_samples > 0:
            speaker.skipped_samples += skipped_samples
            self.feed.add_event(
                Event(
                    type=EventType.AUDIO_SKIPPED,
                    speaker=speaker.name,
                    sample=update.processed_sample,
                    skipped_samples=skipped_samples,
                )
            )
        if update.speech is SpeechChange.BEGIN:
            self._publish_speech(speaker, EventType.SPEECH_BEGIN, update.recognised_sample)
        for words in update.finals:
            if not speaker.can_have_said(words.text):
                self.note(f"final words of {speaker.name} are left out: more than its sound can be")
                continue
            # Not `end_sample`: a word may last longer than its end as it was recognised.
            speaker.advance(
                processed_sample=words.heard_sample, recognised_sample=words.heard_sample
            )
            self._finalise(speaker, words)
        speaker.advance(
            processed_sample=update.processed_sample, recognised_sample=update.recognised_sample
        )
        if speaker.is_drained:
            # Audio that could not be decoded is in no update.
            speaker.advance(
                processed_sample=speaker.received_sample, recognised_sample=speaker.received_sample
            )
        if update.interim is not None:
            caption = Caption(
                sequence=0,
                speaker=speaker.name,
                display_name=speaker.display_name,
                words=update.interim,
            )
            self.feed.add_caption(caption)
        if update.speech is SpeechChange.END:
            self._publish_speech(speaker, EventType.SPEECH_END, update.recognised_sample)
        self.acks.set()
        self.update_room()
        self.feed.wake()

    def _finalise(self, speaker: Speaker, words: Words) -> None:
        """Number a final caption, write it into the journal, and publish it."""
        caption = Caption(
            sequence=self.feed.last_sequence + 1,
            speaker=speaker.name,
            display_name=speaker.display_name,
            words=words,
        )
        position = self._position(speaker)
        final = Final(sequence=caption.sequence, position=position, words=words, engine=self.engine)
        if self._journal.append(final):
            speaker.durable_sample = position.processed_sample
        self.feed.add_caption(caption)

    def _publish_speech(self, speaker: Speaker, change: EventType, sample: int) -> None:
        self.feed.add_event(Event(type=change, speaker=speaker.name, sample=sample))

    def interrupted(self, reason: str) -> None:
        """The captioner is lost; another one will go on with the audio in the rings."""
        self.restart_count += 1
        self.degrade(f"the captioner was lost ({reason}) and is started again")
        # The next captioner may cut utterances elsewhere: these interims will never become final.
        self.feed.withdraw()
        for speaker in self.speakers.values():
            speaker.recognised_sample = speaker.processed_sample
            speaker.skipped_samples = speaker.settled_skipped_samples
            speaker.is_asked_to_end = False
            # Of a speaker of whom nothing waits the next captioner is told nothing.
            speaker.is_drained = not speaker.ring
        self.feed.wake()

    def degrade(self, detail: str) -> None:
        """Publish how captions are worse than asked for; "" = they are as asked for again."""
        if detail != self._degraded:
            self._degraded = detail
            change = EventType.DEGRADED if detail else EventType.RECOVERED
            self.note(f"{change} {detail}".rstrip())
            self.feed.add_event(Event(type=change, sample=self.recognised_sample, detail=detail))
            self.feed.wake()

    # State

    @property
    def recognised_sample(self) -> int:
        """Audio before this was recognised at least once, for all speakers."""
        waiting = [s.recognised_sample for s in self.speakers.values() if s.unrecognised_samples]
        return min(waiting) if waiting else self.received_sample

    @property
    def received_sample(self) -> int:
        """The end of the audio received, of the speaker who is furthest."""
        return max((speaker.received_sample for speaker in self.speakers.values()), default=0)

    def status(self) -> CallStatus:
        """What is published with each caption."""
        return CallStatus(
            processed_sample=self.recognised_sample,
            lag_seconds=self.lag_seconds(),
            real_time_factor=self.real_time_factor,
        )

    def lag_seconds(self) -> float:
        """Age of the oldest audio that waits for its first recognition."""
        now = time.monotonic()
        return max((s.lag_seconds(now) for s in self.speakers.values()), default=0.0)

    @property
    def received_samples(self) -> int:
        """Length of the audio received, summed over all speakers."""
        return sum(speaker.received_samples for speaker in self.speakers.values())

    @property
    def processed_samples(self) -> int:
        """How much of it is processed."""
        return self.received_samples - sum(s.ring_samples for s in self.speakers.values())

    @property
    def degraded(self) -> str:
        """How captions are worse than asked for, for a person; "" = they are not."""
        return self._degraded

    @property
    def is_drained(self) -> bool:
        """Whether all audio received is processed."""
        return all(speaker.is_drained for speaker in self.speakers.values())

    def finals(self, after_sequence: int, limit: int) -> list[Final]:
        """Final captions behind `after_sequence`, in order, from the disk; blocks."""
        return self._journal.finals(after_sequence, limit)

    def result(self, *, caption_count: int, word_count: int) -> CaptionsResult:
        """The result of the job, with what was counted in its files."""
        sound = [s.received_samples for s in self.speakers.values() if s.received_samples]
        skipped = sum(speaker.skipped_samples for speaker in self.speakers.values())
        return CaptionsResult(
            caption_count=caption_count,
            word_count=word_count,
            speaker_count=len(sound),
            audio_seconds=sum(sound) / SAMPLE_RATE_HZ,
            skipped_seconds=skipped / SAMPLE_RATE_HZ,
            restart_count=self.restart_count,
        )

    # Periodic

    def tick(self) -> None:
        """End the speech of speakers from whom nothing comes any more."""
        now = time.monotonic()
        for speaker in self.speakers.values():
            if speaker.silence_seconds(now) > STALL_SECONDS:
                self._end_speech(speaker)

    def pause_all(self) -> None:
        """End the speech of all speakers."""
        for speaker in self.speakers.values():
            self._end_speech(speaker)

    def save_positions(self) -> bool:
        """Write all changed positions into the journal; False while the disk is full."""
        is_full = not self._journal.flush()
        for speaker in self.speakers.values():
            position = self._position(speaker)
            is_changed = position != self._journal.positions.get(speaker.name)
            if is_changed and speaker.received_sequence and not is_full:
                is_full = not self._journal.append(position)
            # Also while the disk is full: clients would have to keep all they have ever sent.
            speaker.durable_sample = position.processed_sample
        self.acks.set()
        if is_full != self._is_disk_full:
            self._is_disk_full = is_full
            log.error("captions_not_kept" if is_full else "captions_kept_again", job_id=self.job_id)
        return not is_full

    def sync(self) -> None:
        """Sync the journal to the disk; blocks."""
        self._journal.sync()

    def close(self) -> None:
        """Write what is left, and publish nothing more."""
        self.save_positions()
        self._journal.close()
        self._notes.close()
        self.feed.close()
        self.acks.set()

    def note(self, text: str) -> None:
        """Write a line into the job's log, unless there are too many."""
        self._notes.write(text)

    def _position(self, speaker: Speaker) -> Position:
        return Position(
            speaker=speaker.name,
            display_name=speaker.display_name,
            processed_sample=speaker.processed_sample,
            processed_sequence=speaker.processed_sequence,
            # Audio in the ring is sent again to the next daemon, and counted then.
            received_samples=speaker.received_samples - speaker.ring_samples,
            skipped_samples=speaker.settled_skipped_samples,
        )
