# SPDX-License-Identifier: Apache-2.0
"""What is kept of a speaker's sound, and for how long."""

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.workers.captions.speaker import (
    MAX_OVERLAP_SAMPLES,
    REMEMBERED_SEQUENCES,
    SNAP_SAMPLES,
    Chunk,
    Speaker,
)


LENGTH = 1600
DATA = bytes(2 * LENGTH)


def hear(speaker: Speaker, sequence: int, start_sample: int | None = None) -> Chunk | None:
    """Receive 100 ms, by default where they belong."""
    start = (sequence - 1) * LENGTH if start_sample is None else start_sample
    return speaker.receive(sequence, start, LENGTH, DATA, float(sequence))


@pytest.fixture
def speaker() -> Speaker:
    """One who has said nothing yet."""
    return Speaker("ada")


class TestReceive:
    """Sound as it comes."""

    def test_in_order(self, speaker: Speaker) -> None:
        """Chunks are kept and counted until they are worked off."""
        for sequence in (1, 2, 3):
            assert hear(speaker, sequence) is not None

        assert speaker.received_sequence == 3
        assert speaker.received_sample == speaker.received_samples == 3 * LENGTH
        assert speaker.ring_samples == speaker.unrecognised_samples == 3 * LENGTH
        assert speaker.ring_bytes == 3 * len(DATA)
        assert speaker.lag_seconds(10.0) == 9.0
        assert speaker.silence_seconds(10.0) == 7.0

    def test_duplicates(self, speaker: Speaker) -> None:
        """What is known is ignored, however late it comes again."""
        for sequence in range(1, 301):
            hear(speaker, sequence)
        again = [hear(speaker, sequence) for sequence in (1, 100, 299, 300)]

        assert again == [None] * 4
        assert speaker.received_samples == 300 * LENGTH
        assert len(speaker.ring) == 300

    def test_late(self, speaker: Speaker) -> None:
        """A chunk that was overtaken is taken, once, unless it comes far too late."""
        for sequence in (1, 3, 4):
            hear(speaker, sequence)
        late = hear(speaker, 2)
        again = hear(speaker, 2)
        hear(speaker, 6 + REMEMBERED_SEQUENCES)

        assert late is not None
        assert late.start_sample == LENGTH
        assert again is None
        assert hear(speaker, 5) is None
        assert speaker.received_sequence == 6 + REMEMBERED_SEQUENCES
        assert speaker.received_samples == 5 * LENGTH

    def test_late_and_too_late(self, speaker: Speaker) -> None:
        """What is worked off without it needs it no more."""
        for sequence in (1, 3):
            hear(speaker, sequence)
        speaker.advance(processed_sample=3 * LENGTH, recognised_sample=3 * LENGTH)

        assert hear(speaker, 2) is None
        assert speaker.received_samples == 2 * LENGTH

    def test_joins_what_is_rounded(self, speaker: Speaker) -> None:
        """Chunks whose times are rounded are one sound; a pause is a pause."""
        hear(speaker, 1)
        joined = hear(speaker, 2, LENGTH + SNAP_SAMPLES)
        also = hear(speaker, 3, 2 * LENGTH - SNAP_SAMPLES)
        apart = hear(speaker, 4, 3 * LENGTH + SNAP_SAMPLES + 1)

        assert joined is not None
        assert also is not None
        assert apart is not None
        assert joined.start_sample == LENGTH
        assert also.start_sample == 2 * LENGTH
        assert apart.start_sample == 3 * LENGTH + SNAP_SAMPLES + 1

    def test_too_long_for_its_time(self, speaker: Speaker) -> None:
        """Sound that overlaps itself by more than rounding does is refused, and not counted."""
        hear(speaker, 1)
        with pytest.raises(CallsdError) as caught:
            hear(speaker, 2, LENGTH - MAX_OVERLAP_SAMPLES - 1)

        assert caught.value.reason is Reason.FIELD_INVALID
        assert speaker.received_sequence == 1
        assert hear(speaker, 2, LENGTH - MAX_OVERLAP_SAMPLES) is not None


class TestAdvance:
    """Sound that is worked off."""

    def test_trims(self, speaker: Speaker) -> None:
        """Whole chunks go; one that is half worked off stays, and so does its number."""
        for sequence in (1, 2, 3):
            hear(speaker, sequence)
        speaker.advance(processed_sample=2 * LENGTH + 10, recognised_sample=2 * LENGTH + 20)

        assert [chunk.sequence for chunk in speaker.ring] == [3]
        assert speaker.processed_sequence == 2
        assert (speaker.ring_bytes, speaker.ring_samples) == (len(DATA), LENGTH)
        assert speaker.unrecognised_samples == LENGTH - 20

    def test_never_goes_back(self, speaker: Speaker) -> None:
        """Positions only grow, whatever is reported."""
        hear(speaker, 1)
        speaker.advance(processed_sample=LENGTH, recognised_sample=LENGTH)
        speaker.advance(processed_sample=5, recognised_sample=7)

        assert (speaker.processed_sample, speaker.recognised_sample) == (LENGTH, LENGTH)

    def test_pause_is_not_waiting(self, speaker: Speaker) -> None:
        """An hour of pause before a chunk is not an hour of sound that waits."""
        hear(speaker, 1)
        speaker.advance(processed_sample=LENGTH, recognised_sample=LENGTH)
        assert (speaker.unrecognised_samples, speaker.lag_seconds(9.0)) == (0, 0.0)
        hear(speaker, 2, 3600 * 16_000)

        assert speaker.unrecognised_samples == LENGTH

    def test_missing_in_what_is_kept(self, speaker: Speaker) -> None:
        """What is missing in sound that will be heard again is not counted before that."""
        for sequence in (1, 2, 5, 6):
            hear(speaker, sequence)
        speaker.skipped_samples = 3 * LENGTH
        assert speaker.settled_skipped_samples == LENGTH
        speaker.advance(processed_sample=5 * LENGTH, recognised_sample=5 * LENGTH)

        assert speaker.settled_skipped_samples == 3 * LENGTH


class TestResume:
    """After a restart of the daemon."""

    def test_goes_on_where_it_was(self, speaker: Speaker) -> None:
        """What was worked off is known; what was only received is asked for again, and taken."""
        speaker.resume(processed_sample=2 * LENGTH + 10, processed_sequence=2)

        assert speaker.received_sequence == 2
        assert hear(speaker, 1) is None
        assert hear(speaker, 2) is None
        again = hear(speaker, 3)
        assert again is not None
        assert again.start_sample == 2 * LENGTH
        assert speaker.unrecognised_samples == LENGTH - 10

    def test_worked_off_beyond_its_number(self, speaker: Speaker) -> None:
        """A chunk that is sent again though all of it is worked off is not worked off again."""
        speaker.resume(processed_sample=3 * LENGTH, processed_sequence=2)

        assert hear(speaker, 3) is None
        assert not speaker.ring
        assert (speaker.received_sequence, speaker.processed_sequence) == (3, 3)
