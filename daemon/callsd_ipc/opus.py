# SPDX-License-Identifier: Apache-2.0
"""Length of a packet of Opus by its first two bytes (RFC 6716, section 3.1)."""

OPUS_RATE_HZ = 48_000
"""The clock of Opus, whatever the sound's own rate is."""

MAX_PACKET_SAMPLES = OPUS_RATE_HZ * 120 // 1000
"""No packet is longer than 120 ms."""

CODE_MASK = 0b11
CODE_COUNTED = 3
"""The number of frames is in the second byte; code 0 is one frame, 1 and 2 are two."""
COUNT_MASK = 0b11_1111

# Length of a frame for each of the 32 configurations (RFC 6716, table 2).
_SILK, _HYBRID, _CELT = (480, 960, 1920, 2880), (480, 960), (120, 240, 480, 960)
_FRAME_SAMPLES = _SILK * 3 + _HYBRID * 2 + _CELT * 4


def frame_samples(first_byte: int) -> int:
    """Length of each frame of a packet, at 48 kHz."""
    return _FRAME_SAMPLES[first_byte >> 3]


def claimed_samples(packet: bytes, rate_hz: int = OPUS_RATE_HZ) -> int:
    """Length of a packet at this rate by its first bytes; 0 = not a packet."""
    if not packet:
        return 0
    code = packet[0] & CODE_MASK
    if code == CODE_COUNTED:
        frames = packet[1] & COUNT_MASK if len(packet) > 1 else 0
    else:
        frames = 1 if code == 0 else 2
    length = frames * frame_samples(packet[0])
    return length * rate_hz // OPUS_RATE_HZ if length <= MAX_PACKET_SAMPLES else 0
