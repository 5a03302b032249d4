# SPDX-License-Identifier: Apache-2.0
"""A client of its own process that sends a recording as live sound: ADDRESS TOKEN_FILE JOB PCM.

It goes on where the server says that it has got to, and says so on its first line.
"""

import sys
import time
from pathlib import Path

from callsd import Client


SPEAKER = "kenji"
CHUNK_BYTES = 3200
BYTES_PER_SECOND = 32_000


def main() -> None:
    """Send all that the server does not have yet."""
    address, token_file, job, pcm = sys.argv[1:]
    data = Path(pcm).read_bytes()
    with Client(address, token_file=Path(token_file)) as client, client.stream_captions(job) as out:
        ack = out.acks.get(SPEAKER)
        begin = 0 if ack is None else round(ack.received_offset.ToNanoseconds() * 32 / 1_000_000)
        sys.stdout.write(f"{begin}\n")
        sys.stdout.flush()
        for first in range(begin, len(data), CHUNK_BYTES):
            out.send(SPEAKER, data[first : first + CHUNK_BYTES], first / BYTES_PER_SECOND)
            time.sleep(CHUNK_BYTES / BYTES_PER_SECOND)


if __name__ == "__main__":
    main()
