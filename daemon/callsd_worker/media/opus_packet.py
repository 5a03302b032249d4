# SPDX-License-Identifier: Apache-2.0
"""What can be known of an Opus packet without decoding it (RFC 6716, section 3)."""

from callsd_ipc.opus import CODE_MASK, COUNT_MASK, claimed_samples


MAX_FRAME_BYTES = 1275

_STEREO_BIT = 0b100
_IS_VARIABLE = 0b1000_0000
_IS_PADDED = 0b0100_0000
_LONG_LENGTH = 252
"""A length from this on has a second byte."""
_MORE_PADDING = 255


def is_stereo(packet: bytes) -> bool:
    """Whether a packet has two channels."""
    return bool(packet[0] & _STEREO_BIT)


def packet_samples(packet: bytes) -> int:
    """Length of a packet at 48 kHz; 0 = its frames are not as long as they say."""
    length = claimed_samples(packet)
    if not length:
        return 0
    rest = len(packet) - 1
    match packet[0] & CODE_MASK:
        case 0:
            is_whole = rest <= MAX_FRAME_BYTES
        case 1:
            is_whole = rest % 2 == 0 and rest <= 2 * MAX_FRAME_BYTES
        case 2:
            first, size = _frame_bytes(packet, 1)
            is_whole = 0 < size <= rest and 0 <= rest - size - first <= MAX_FRAME_BYTES
        case _:
            is_whole = _is_counted_whole(packet)
    return length if is_whole else 0


def _frame_bytes(packet: bytes, at: int) -> tuple[int, int]:
    """Length of a frame, and in how many bytes it is written; (0, 0) = cut off."""
    if at >= len(packet):
        return 0, 0
    if packet[at] < _LONG_LENGTH:
        return packet[at], 1
    if at + 1 >= len(packet):
        return 0, 0
    return packet[at] + 4 * packet[at + 1], 2


def _is_counted_whole(packet: bytes) -> bool:
    flags = packet[1]
    frames = flags & COUNT_MASK
    at, padding = 2, 0
    if flags & _IS_PADDED:
        while True:
            if at >= len(packet):
                return False
            step = packet[at]
            at += 1
            if step != _MORE_PADDING:
                padding += step
                break
            padding += _MORE_PADDING - 1
    end = len(packet) - padding
    if not flags & _IS_VARIABLE:
        left = end - at
        return left >= 0 and left % frames == 0 and left // frames <= MAX_FRAME_BYTES
    taken = 0
    for _ in range(frames - 1):
        length, size = _frame_bytes(packet, at)
        if not size:
            return False
        at += size
        taken += length
    return 0 <= end - at - taken <= MAX_FRAME_BYTES
