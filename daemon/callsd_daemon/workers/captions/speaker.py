# SPDX-License-Identifier: Apache-2.0
"""One speaker's sound: what has come, what is worked off, and all in between."""

import itertools
from collections import deque
from dataclasses import dataclass

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ
from callsd_daemon.domain.errors import invalid_fields


SNAP_SAMPLES = SAMPLE_RATE_HZ // 50
"""Clients round times: a chunk that begins within 20 ms of where the last one ended joins it."""

MAX_OVERLAP_SAMPLES = SAMPLE_RATE_HZ // 2
"""Sound that comes with less time between its chunks than it lasts is not at the rate that it
claims: half a second of that is no rounding any more."""

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
    """Some sound as it was sent."""

    sequence: int
    start_sample: int
    end_sample: int
    data: bytes
    arrival_seconds: float
    """Monotonic clock."""


class Speaker:
    """Keeps the sound that is not worked off yet, so that another captioner can go on with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.display_name = ""
        self.ring: deque[Chunk] = deque()
        self.ring_bytes = 0
        self.ring_samples = 0
        self.received_sequence = 0
        self.received_sample = 0
        self.received_samples = 0
        """How much sound has come in all."""
        self.processed_sample = 0
        self.processed_sequence = 0
        """Of the last chunk that is wholly worked off."""
        self.kept_sample = 0
        """How much of what is worked off is written down: so much a client need not keep."""
        self.heard_sample = 0
        self.skipped_samples = 0
        """Sound that never came."""
        self.is_asked_to_end = False
        """The captioner was told that nothing more comes for now."""
        self.is_drained = True
        """Nothing is left to work off."""
        self._letters = 0
        """Of all that was said so far."""
        self._seen: set[int] = set()
        self._expected_sample: int | None = None
        """Where the next chunk begins if there is no pause; None while nobody can say."""

    def resume(self, *, processed_sample: int, processed_sequence: int) -> None:
        """Go on where an earlier daemon left off; what it had beyond that is sent again."""
        self.processed_sample = self.heard_sample = self.received_sample = processed_sample
        self.kept_sample = processed_sample
        self.processed_sequence = self.received_sequence = processed_sequence

    def receive(
        self, sequence: int, start_sample: int, length_samples: int, data: bytes, now_seconds: float
    ) -> Chunk | None:
        """Take a chunk; None when it is known already, or comes too late to matter.

        Raises FIELD_INVALID when its time does not fit to the sound before it.
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
            # Sent again after a restart, and worked off before it.
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
                f"goes back by {-gap / SAMPLE_RATE_HZ:.1f} s behind the sound before it, which "
                "lasts longer than the time between its chunks: is it 16 kHz, one channel?"
            )
            raise invalid_fields([("audio.start_offset", problem)])
        return self._expected_sample if gap <= SNAP_SAMPLES else start_sample

    def advance(self, *, processed_sample: int, heard_sample: int) -> None:
        """The captioner has worked off so much, of what has come."""
        processed_sample = min(processed_sample, self.received_sample)
        heard_sample = min(heard_sample, self.received_sample)
        self.heard_sample = max(self.heard_sample, heard_sample, processed_sample)
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
        """Sound that never came before what is kept; what is missing in between is told again."""
        if not self.skipped_samples:
            return 0
        missing = sum(
            max(0, after.start_sample - before.end_sample)
            for before, after in itertools.pairwise(self.ring)
            if after.sequence > before.sequence + 1
        )
        return max(0, self.skipped_samples - missing)

    @property
    def unheard_samples(self) -> int:
        """Sound that waits for its first recognition."""
        if not self.ring:
            return 0
        # A pause before the oldest sound is not sound that waits.
        return max(0, self.received_sample - max(self.heard_sample, self.ring[0].start_sample))

    def lag_seconds(self, now_seconds: float) -> float:
        """Age of the oldest sound that waits for its first recognition."""
        for chunk in self.ring:
            if chunk.end_sample > self.heard_sample:
                return now_seconds - chunk.arrival_seconds
        return 0.0

    def silence_seconds(self, now_seconds: float) -> float:
        """How long nothing has come, while something is left to work off."""
        return now_seconds - self.ring[-1].arrival_seconds if self.ring else 0.0
