# SPDX-License-Identifier: Apache-2.0
"""Decodes an audio file to plain samples on stdout: `python -m callsd_worker.media.pcm FILE`.

For programs that must not load a media library themselves. stdout: one channel, 16 kHz, signed
16 bit, little endian; holes in the file's clock are silence. stderr: one JSON object a line, first
`{"seconds": N}` (what the file claims to last; 0 if nothing), `{"notice": TEXT}` for damage that
was worked around, and `{"error": TEXT}` with exit code 1 if there is nothing to decode.
"""

import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, MediaError, Samples


MAX_SILENCE_SAMPLES = SAMPLE_RATE_HZ
"""Silence of a hole is written a second at a time: false times in a file cost no memory."""


def write_pcm(path: Path, out: BinaryIO) -> None:
    """Decode a file as above.

    Raises:
        MediaError: It cannot be decoded.
    """
    with AudioStream(path) as stream:
        _say(seconds=stream.declared_seconds)
        position = 0
        for block in stream.blocks():
            while position < block.start_sample:
                count = min(block.start_sample - position, MAX_SILENCE_SAMPLES)
                out.write(bytes(2 * count))
                position += count
            out.write(_s16le(block.samples))
            position = block.start_sample + block.samples.size
        for _, message in stream.notices:
            _say(notice=message)
    out.flush()


def main() -> int:
    """Run; returns the exit code."""
    try:
        write_pcm(Path(sys.argv[1]), sys.stdout.buffer)
    except MediaError as error:
        _say(error=str(error))
        return 1
    except BrokenPipeError:
        # The reader has closed the pipe: drop what is left in the buffer, without an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _s16le(samples: Samples) -> bytes:
    data: bytes = np.rint(samples * 32767.0).astype("<i2").tobytes()
    return data


def _say(**facts: float | str) -> None:
    print(json.dumps(facts), file=sys.stderr, flush=True)  # noqa: T201 - its protocol


if __name__ == "__main__":
    sys.exit(main())
