# SPDX-License-Identifier: Apache-2.0
"""One speaker's audio: received, processed, and the ring of what is in between."""

import itertools
from collections import deque
from dataclasses import dataclass

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ
from callsd_daemon.domain.errors import invalid_fields


SNAP_SAMPLES = SAMPLE_RATE_HZ // 50
"""Clients round times: a chunk that begins within 20 ms of the end of the last one continues it."""

MAX_OVERLAP_SAMPLES = SAMPLE_RATE_HZ // 2
"""Chunks that overlap by more than rounding explains are not at the sample rate that they claim."""

REMEMBERED_SEQUENCES = 128
"""How late a chunk may come after a later one, in chunks: 2.5 s of Opus packets."""

LETTERS_A_SECOND = 1000
"""Of final words in a second of sound. Speech has some 20, a decoder that repeats itself some 100;
a captioner that was taken over could fill disk and memory."""

FINAL_LETTERS = 100
"""What a final caption counts for besides its text."""

FIRST_LETTERS = 10_000
"""That are let pass before they are compared with the sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Audio as it was sent."""

    sequence: int
    start_sample: int
    end_sample: int
    data: bytes
    arrival_seconds: float
    """Monotonic clock."""


class Speaker:
    """Keeps audio that is not processed yet, so that another captioner can go on with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.display_name = ""
        self.ring: deque[Chunk] = deque()
        self.ring_bytes = 0
        self.ring_samples = 0
        self.received_sequence = 0
        self.received_sample = 0
        self.received_samples = 0
        """Length of all audio received."""
        self.processed_sample = 0
        self.processed_sequence = 0
        """Of the last chunk that is processed as a whole."""
        self.durable_sample = 0
        """Processed position that is in the journal: the client need not keep audio before it."""
        self.recognised_sample = 0
        self.skipped_samples = 0
        """Length of audio that never came."""
        self.is_asked_to_end = False
        """EndSpeech was sent to the captioner."""
        self.is_drained = True
        """All audio received is processed."""
        self._letters = 0
        """Of all that was said so far."""
        self._seen: set[int] = set()
        self._expected_sample: int | None = None
        """Where the next chunk begins if there is no pause; None before the first one."""

    def resume(self, *, processed_sample: int, processed_sequence: int) -> None:
        """Go on from the journal; the client sends again what comes after that."""
        self.processed_sample = self.recognised_sample = self.received_sample = processed_sample
        self.durable_sample = processed_sample
        self.processed_sequence = self.received_sequence = processed_sequence

    def receive(
        self, sequence: int, start_sample: int, length_samples: int, data: bytes, now_seconds: float
    ) -> Chunk | None:
        """Take a chunk; None when it is known already, or comes too late to matter.

        Raises FIELD_INVALID when its time contradicts the audio before it.
        """
        is_late = sequence <= self.received_sequence
        if is_late and (
            sequence in self._seen
            or sequence <= self.received_sequence - REMEMBERED_SEQUENCES
            or start_sample + length_samples <= self.processed_sample
        ):
            return None
        if not is_late:
            start_sample = self._joined(start_sample)
        chunk = Chunk(
            sequence=sequence,
            start_sample=start_sample,
            end_sample=start_sample + length_samples,
            data=data,
            arrival_seconds=now_seconds,
        )
        if not is_late:
            self.received_sequence = sequence
            self.received_sample = max(self.received_sample, chunk.end_sample)
            self._expected_sample = chunk.end_sample
        self._seen.add(sequence)
        if len(self._seen) > 2 * REMEMBERED_SEQUENCES:
            oldest = self.received_sequence - REMEMBERED_SEQUENCES
            self._seen = {number for number in self._seen if number > oldest}
        self.received_samples += length_samples
        if chunk.end_sample <= self.processed_sample:
            # Sent again after a restart, and processed before it.
            self.processed_sequence = max(self.processed_sequence, sequence)
            return None
        self.ring.append(chunk)
        self.ring_bytes += len(data)
        self.ring_samples += length_samples
        self.is_asked_to_end = self.is_drained = False
        return chunk

    def _joined(self, start_sample: int) -> int:
        if self._expected_sample is None:
            return start_sample
        gap = start_sample - self._expected_sample
        if gap < -MAX_OVERLAP_SAMPLES:
            problem = (
                f"begins {-gap / SAMPLE_RATE_HZ:.1f} s before the end of the audio sent so far: "
                "the chunks are longer than their times allow; is it 16 kHz, one channel?"
            )
            raise invalid_fields([("audio.start_offset", problem)])
        return self._expected_sample if gap <= SNAP_SAMPLES else start_sample

    def advance(self, *, processed_sample: int, recognised_sample: int) -> None:
        """Move the positions forward, within what was received, and drop what is processed."""
        processed_sample = min(processed_sample, self.received_sample)
        recognised_sample = min(recognised_sample, self.received_sample)
        self.recognised_sample = max(self.recognised_sample, recognised_sample, processed_sample)
        self.processed_sample = max(self.processed_sample, processed_sample)
        while self.ring and self.ring[0].end_sample <= self.processed_sample:
            done = self.ring.popleft()
            self.ring_bytes -= len(done.data)
            self.ring_samples -= done.end_sample - done.start_sample
            self.processed_sequence = max(self.processed_sequence, done.sequence)

    def can_have_said(self, text: str) -> bool:
        """Whether there was sound enough for one more final caption of this text."""
        letters = self._letters + FINAL_LETTERS + len(text)
        if letters > FIRST_LETTERS + LETTERS_A_SECOND * self.received_samples / SAMPLE_RATE_HZ:
            return False
        self._letters = letters
        return True

    @property
    def settled_skipped_samples(self) -> int:
        """Length of audio that never came before the ring; gaps in the ring are reported again."""
        if not self.skipped_samples:
            return 0
        missing = sum(
            max(0, after.start_sample - before.end_sample)
            for before, after in itertools.pairwise(self.ring)
            if after.sequence > before.sequence + 1
        )
        return max(0, self.skipped_samples - missing)

    @property
    def unrecognised_samples(self) -> int:
        """Length of audio that waits for its first recognition."""
        if not self.ring:
            return 0
        # A pause before the oldest chunk does not count.
        return max(0, self.received_sample - max(self.recognised_sample, self.ring[0].start_sample))

    def lag_seconds(self, now_seconds: float) -> float:
        """Age of the oldest audio that waits for its first recognition."""
        for chunk in self.ring:
            if chunk.end_sample > self.recognised_sample:
                return now_seconds - chunk.arrival_seconds
        return 0.0

    def silence_seconds(self, now_seconds: float) -> float:
        """How long nothing has come; 0 when all audio is processed."""
        return now_seconds - self.ring[-1].arrival_seconds if self.ring else 0.0
