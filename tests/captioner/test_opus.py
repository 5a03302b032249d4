# SPDX-License-Identifier: Apache-2.0
"""Live pieces of sound, as they come off a network."""

import itertools
from collections.abc import Sequence

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.media.decode import SAMPLE_RATE_HZ, Block, Samples
from callsd_worker.media.live import LiveDecoder, PcmDecoder, Piece
from callsd_worker.media.opus import MAX_CONCEALED_SAMPLES, OpusDecoder, packet_samples

from .sound import MAYA_SECONDS, opus_pieces, pcm_pieces


PACKET_SAMPLES = 320
SPEECH_PACKETS = 100
"""Some way into Maya's first sentence."""


@pytest.fixture(scope="module")
def packets() -> list[Piece]:
    """Packets of 20 ms, of somebody who speaks, from the call's start on."""
    sent = opus_pieces("maya", MAYA_SECONDS)
    return [
        Piece(sequence=index + 1, start_sample=index * PACKET_SAMPLES, data=piece.data)
        for index, piece in enumerate(sent)
    ]


def run(decoder: LiveDecoder, pieces: Sequence[Piece], *, at_once: int = 3) -> list[Block]:
    """All that a decoder makes of pieces."""
    blocks: list[Block] = []
    for first in range(0, len(pieces), at_once):
        blocks += decoder.feed(pieces[first : first + at_once])
    return blocks + decoder.finish()


def on_the_clock(blocks: Sequence[Block], length: int) -> Samples:
    """Blocks at their places, silence between them."""
    sound = np.zeros(length, dtype=np.float32)
    for block in blocks:
        sound[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return sound


def power(samples: Samples) -> float:
    """Mean power."""
    return float(np.mean(samples**2))


class TestPacketLength:
    """How long a packet is, from its first two bytes (RFC 6716, section 3)."""

    @pytest.mark.parametrize("frame_ms", ["2.5", "5", "10", "20", "40", "60", "80", "100", "120"])
    @pytest.mark.parametrize("kbit", [8, 24, 64])
    def test_is_what_the_codec_makes_of_it(self, frame_ms: str, kbit: int) -> None:
        """Packets of all lengths that libopus makes, in its three modes, are as long as said."""
        encoder = av.AudioCodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "flt"
        encoder.bit_rate = kbit * 1000
        encoder.options = {"frame_duration": frame_ms, "application": "audio"}
        encoder.open()
        length = int(float(frame_ms) * 48)
        tone = np.sin(np.arange(length, dtype=np.float32) / 30)
        found = []
        for _ in range(5):
            frame = av.AudioFrame.from_ndarray(tone[None] * 0.5, format="flt", layout="mono")
            frame.sample_rate = 48_000
            found += [packet_samples(bytes(packet)) for packet in encoder.encode(frame)]

        assert len(found) > 1
        assert set(found) == {length // 3}

    @given(st.binary(max_size=4))
    def test_is_never_more_than_the_format_allows(self, data: bytes) -> None:
        """Whatever the bytes, 0 to 120 ms."""
        assert 0 <= packet_samples(data) <= 1920

    def test_what_is_no_packet(self) -> None:
        """Nothing, a count without its byte, no frames, and more than 120 ms are no packets."""
        found = [packet_samples(data) for data in (b"", b"\x03", b"\x03\x00", b"\xfb\x3f", b"\x1a")]

        assert found == [0, 0, 0, 0, 1920]


class TestOpus:
    """Packets of one speaker."""

    def test_all_packets(self, packets: list[Piece]) -> None:
        """Sound that came whole is whole, to the sample, however many packets come at once."""
        length = len(packets) * PACKET_SAMPLES
        one, other = (
            on_the_clock(run(OpusDecoder(start_sample=0), packets, at_once=count), length)
            for count in (1, 50)
        )

        assert np.array_equal(one, other)
        assert power(one) > 1e-4

    def test_changed_order(self, packets: list[Piece]) -> None:
        """Neighbours that changed places, and packets that come twice, change nothing."""
        mixed = list(packets)
        for index in range(0, len(mixed) - 2, 5):
            mixed[index + 1], mixed[index + 2] = mixed[index + 2], mixed[index + 1]
            mixed.append(packets[index])
        length = len(packets) * PACKET_SAMPLES
        decoder = OpusDecoder(start_sample=0)
        heard = run(decoder, mixed)

        assert np.array_equal(
            on_the_clock(heard, length),
            on_the_clock(run(OpusDecoder(start_sample=0), packets), length),
        )
        assert decoder.skipped_samples == 0

    def test_a_lost_packet_is_concealed(self, packets: list[Piece]) -> None:
        """In its place is sound much like it, what follows is where it belongs, and it counts."""
        lost = SPEECH_PACKETS
        decoder = OpusDecoder(start_sample=0)
        length = len(packets) * PACKET_SAMPLES
        heard = on_the_clock(run(decoder, packets[:lost] + packets[lost + 1 :]), length)
        whole = on_the_clock(run(OpusDecoder(start_sample=0), packets), length)

        place = slice(lost * PACKET_SAMPLES, (lost + 1) * PACKET_SAMPLES)
        later = slice((lost + 50) * PACKET_SAMPLES, None)
        assert decoder.skipped_samples == PACKET_SAMPLES
        assert power(heard[place]) > 0.1 * power(whole[place])
        assert power(heard[later] - whole[later]) < 0.01 * power(whole[later])

    def test_a_long_loss_is_silence(self, packets: list[Piece]) -> None:
        """A second that is lost is guessed for 100 ms only; the sound behind it is in its place."""
        first, after = SPEECH_PACKETS, SPEECH_PACKETS + 50
        decoder = OpusDecoder(start_sample=0)
        blocks = run(decoder, packets[:first] + packets[after:])

        assert decoder.skipped_samples == 50 * PACKET_SAMPLES
        ends = [block.start_sample + block.samples.size for block in blocks]
        holes = [
            (end, block.start_sample)
            for end, block in zip(ends, blocks[1:], strict=False)
            if block.start_sample > end
        ]
        assert holes == [(first * PACKET_SAMPLES + MAX_CONCEALED_SAMPLES, after * PACKET_SAMPLES)]

    def test_a_pause_is_no_loss(self, packets: list[Piece]) -> None:
        """A sender that sends nothing in silence goes on counting: nothing is concealed."""
        pause = 16_000
        moved = [
            Piece(
                sequence=piece.sequence,
                start_sample=piece.start_sample + (pause if index >= SPEECH_PACKETS else 0),
                data=piece.data,
            )
            for index, piece in enumerate(packets)
        ]
        decoder = OpusDecoder(start_sample=0)
        blocks = run(decoder, moved)
        heard = on_the_clock(blocks, len(packets) * PACKET_SAMPLES + pause)

        before = SPEECH_PACKETS * PACKET_SAMPLES
        assert decoder.skipped_samples == 0
        assert not heard[before + 10 : before + pause].any()
        assert blocks[-1].start_sample + blocks[-1].samples.size == heard.size

    def test_a_clock_that_drifts(self, packets: list[Piece]) -> None:
        """Sound follows a sender whose clock is off, to within 60 ms, without end."""
        drifting = [
            Piece(
                sequence=piece.sequence,
                start_sample=round(piece.start_sample * 1.01),
                data=piece.data,
            )
            for piece in packets
        ]
        for pieces in (drifting, packets):
            blocks = run(OpusDecoder(start_sample=0), pieces)
            end = blocks[-1].start_sample + blocks[-1].samples.size

            assert abs(end - (pieces[-1].start_sample + PACKET_SAMPLES)) <= 0.06 * SAMPLE_RATE_HZ

    def test_damage(self, packets: list[Piece]) -> None:
        """Packets that cannot be decoded are counted and concealed, and the sound goes on."""
        damaged = list(packets)
        for index in (0, SPEECH_PACKETS, SPEECH_PACKETS + 1):
            damaged[index] = Piece(
                sequence=damaged[index].sequence,
                start_sample=damaged[index].start_sample,
                data=b"",
            )
        decoder = OpusDecoder(start_sample=0)
        blocks = run(decoder, damaged)

        assert decoder.skipped_samples == 2 * PACKET_SAMPLES
        assert blocks[0].start_sample == PACKET_SAMPLES
        assert blocks[-1].start_sample + blocks[-1].samples.size == len(packets) * PACKET_SAMPLES

    def test_replay_from_the_middle_of_a_packet(self, packets: list[Piece]) -> None:
        """Sound before the start only warms up the codec; what follows is as if all was heard."""
        start_sample = SPEECH_PACKETS * PACKET_SAMPLES + 123
        length = len(packets) * PACKET_SAMPLES
        blocks = run(OpusDecoder(start_sample=start_sample), packets)
        whole = on_the_clock(run(OpusDecoder(start_sample=0), packets), length)

        assert blocks[0].start_sample == start_sample
        assert np.array_equal(on_the_clock(blocks, length)[start_sample:], whole[start_sample:])

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2**40), st.integers(0, 2**40) | st.integers(0, 3000), st.binary()
            ),
            max_size=12,
        )
    )
    def test_whatever_comes(self, sent: list[tuple[int, int, bytes]]) -> None:
        """No bytes, numbers or places break it, and its blocks never lie over each other."""
        decoder = OpusDecoder(start_sample=500)
        blocks = run(
            decoder,
            [
                Piece(sequence=sequence, start_sample=start_sample, data=data)
                for sequence, start_sample, data in sent
            ],
        )

        assert all(block.start_sample >= 500 for block in blocks)
        assert all(
            one.start_sample + one.samples.size <= other.start_sample
            for one, other in itertools.pairwise(blocks)
        )
        assert all(np.isfinite(block.samples).all() for block in blocks)


class TestPcm:
    """Plain samples."""

    def pieces(self, samples: Samples, **options: int) -> list[Piece]:
        """As they are sent."""
        return [
            Piece(sequence=sent.sequence, start_sample=sent.start_sample, data=sent.data)
            for sent in pcm_pieces(samples, **options)
        ]

    def test_whole(self) -> None:
        """What is sent is what is heard, to the step of a 16-bit sample."""
        sent = np.linspace(-1, 1, 16_000, dtype=np.float32)
        blocks = run(PcmDecoder(start_sample=0), self.pieces(sent, start_sample=77))

        assert blocks[0].start_sample == 77
        heard = np.concatenate([block.samples for block in blocks])
        assert np.abs(heard - sent).max() < 2 / 32768

    def test_odd_bytes(self) -> None:
        """Half a sample at the end of a piece is left out; a piece of one byte is nothing."""
        pieces = [
            Piece(sequence=1, start_sample=0, data=b"\x01"),
            Piece(sequence=2, start_sample=0, data=b"\x00\x40\x00"),
        ]

        assert [block.samples.tolist() for block in run(PcmDecoder(start_sample=0), pieces)] == [
            [0.5]
        ]

    def test_replay_from_the_middle_of_a_piece(self) -> None:
        """Sound before the start is not given out."""
        pieces = self.pieces(np.ones(8_000, dtype=np.float32))
        blocks = run(PcmDecoder(start_sample=1723), pieces, at_once=20)

        assert [(block.start_sample, block.samples.size) for block in blocks] == [(1723, 6277)]

    def test_missing_and_doubled_pieces(self) -> None:
        """What is missing is a hole that counts, what comes twice is heard once."""
        pieces = self.pieces(np.ones(16_000, dtype=np.float32))
        decoder = PcmDecoder(start_sample=0)
        blocks = run(decoder, [*pieces[:3], pieces[1], *pieces[5:]], at_once=20)

        assert [(block.start_sample, block.samples.size) for block in blocks] == [
            (0, 4800),
            (8000, 8000),
        ]
        assert decoder.skipped_samples == 3200

    def test_jitter_and_pauses(self) -> None:
        """Steps of a few milliseconds do not tear sound apart, a pause is a hole and no loss."""
        pieces = self.pieces(np.ones(8_000, dtype=np.float32))
        moved = [
            Piece(
                sequence=piece.sequence,
                start_sample=piece.start_sample + (16_000 if index >= 3 else 50 * (index % 2)),
                data=piece.data,
            )
            for index, piece in enumerate(pieces)
        ]
        decoder = PcmDecoder(start_sample=0)

        assert [block.start_sample for block in run(decoder, moved, at_once=20)] == [0, 20_800]
        assert decoder.skipped_samples == 0
