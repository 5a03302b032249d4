# SPDX-License-Identifier: Apache-2.0
"""Packets of Opus, judged without decoding."""

import av
import numpy as np
import pytest
from av.error import FFmpegError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callsd_ipc.opus import claimed_samples
from callsd_worker.media.opus_packet import is_stereo, packet_samples

from .sound import clicks, encoded


def decoded_samples(packet: bytes) -> int:
    """How long libopus says it is; 0 = it is refused."""
    codec = av.AudioCodecContext.create("libopus", "r")
    codec.layout, codec.sample_rate = "stereo", 48_000
    try:
        return sum(frame.samples for frame in codec.decode(av.Packet(packet)))
    except FFmpegError:
        return 0


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.binary(min_size=2, max_size=60),
        # Two frames of different lengths, and any number of frames, with padding or without.
        st.builds(
            lambda first, rest: bytes([first << 2 | 2]) + rest,
            st.integers(0, 63),
            st.binary(min_size=1, max_size=300),
        ),
        st.builds(
            lambda first, flags, rest: bytes([first << 2 | 3, flags]) + rest,
            st.integers(0, 63),
            st.integers(0, 255),
            st.binary(min_size=1, max_size=300),
        ),
    )
)
@example(b"\xff\x06" + b"\xff\xfe" * 6)
@example(b"\xfb\x41\xff\x00" + bytes(300))
def test_as_the_codec_has_it(packet: bytes) -> None:
    """A packet is as long as libopus decodes it, and one that it refuses is none."""
    assert packet_samples(packet) == decoded_samples(packet)


@pytest.mark.parametrize("milliseconds", [2.5, 5, 10, 20, 40, 60])
def test_real_packets(milliseconds: float) -> None:
    """What an encoder makes is as long as it was told to."""
    packets = encoded(np.zeros(48_000, dtype=np.int16), milliseconds=milliseconds)
    assert {packet_samples(packet) for packet in packets} == {48 * milliseconds}
    assert not any(is_stereo(packet) for packet in packets)


def test_no_packet() -> None:
    """Nothing is no packet, and a size that no frame has neither."""
    assert packet_samples(b"") == claimed_samples(b"") == 0
    assert packet_samples(b"\xf8" + bytes(1276)) == 0
    assert claimed_samples(clicks(1)[0]) == 960


class TestClaimed:
    """Packets as RFC 6716 lays them out: five bits of configuration, one stereo, two of code."""

    @pytest.mark.parametrize(
        ("configuration", "milliseconds"),
        [(0, 10), (1, 20), (2, 40), (3, 60), (11, 60), (12, 10), (15, 20), (16, 2.5), (31, 20)],
    )
    def test_one_frame(self, configuration: int, milliseconds: float) -> None:
        """A packet of one frame lasts as long as its configuration says."""
        assert claimed_samples(bytes([configuration << 3, 1, 2])) == milliseconds * 48

    @pytest.mark.parametrize("code", [1, 2])
    def test_two_frames(self, code: int) -> None:
        """Codes 1 and 2 stand for two frames, of equal or of different size."""
        assert claimed_samples(bytes([1 << 3 | code, 0])) == 2 * 20 * 48

    def test_many_frames(self) -> None:
        """Code 3 has the number of frames in the second byte, below two flags."""
        assert claimed_samples(bytes([1 << 3 | 3, 0xC0 | 6])) == 6 * 20 * 48

    @pytest.mark.parametrize(
        "packet",
        [b"", bytes([3]), bytes([1 << 3 | 3, 0]), bytes([1 << 3 | 3, 7])],
        ids=["empty", "without its count", "no frames", "140 ms"],
    )
    def test_no_packet(self, packet: bytes) -> None:
        """What cannot be an Opus packet is none, and its length is not guessed at."""
        assert claimed_samples(packet) == 0
