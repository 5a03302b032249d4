# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_daemon.domain.captions import opus_samples


class TestOpusLength:
    """Packets as RFC 6716 lays them out: five bits of configuration, one stereo, two of code."""

    @pytest.mark.parametrize(
        ("configuration", "milliseconds"),
        [(0, 10), (1, 20), (2, 40), (3, 60), (11, 60), (12, 10), (15, 20), (16, 2.5), (31, 20)],
    )
    def test_one_frame(self, configuration: int, milliseconds: float) -> None:
        """A packet of one frame lasts as long as its configuration says."""
        assert opus_samples(bytes([configuration << 3, 1, 2])) == milliseconds * 16

    @pytest.mark.parametrize("code", [1, 2])
    def test_two_frames(self, code: int) -> None:
        """Codes 1 and 2 stand for two frames, of equal or of different size."""
        assert opus_samples(bytes([1 << 3 | code, 0])) == 2 * 20 * 16

    def test_many_frames(self) -> None:
        """Code 3 has the number of frames in the second byte, below two flags."""
        assert opus_samples(bytes([1 << 3 | 3, 0xC0 | 6])) == 6 * 20 * 16

    @pytest.mark.parametrize(
        "packet",
        [b"", bytes([3]), bytes([1 << 3 | 3, 0]), bytes([1 << 3 | 3, 7])],
        ids=["empty", "without its count", "no frames", "140 ms"],
    )
    def test_no_packet(self, packet: bytes) -> None:
        """What cannot be an Opus packet is refused and not guessed at."""
        with pytest.raises(ValueError, match="Opus packet"):
            opus_samples(packet)
