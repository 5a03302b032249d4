# SPDX-License-Identifier: Apache-2.0
"""Writes large jobs until the system lets the files grow no more, then a small one with no limit.

Run as `python limited_writer.py PATH COUNT`; prints how many jobs were acknowledged, and the
reason of the first refusal.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.helpers.jobs import make_job, put


LIMIT_BYTES = 300_000


async def write(path: Path, count: int) -> None:
    """Write at most `count` large jobs, and a small one."""
    database = Database(path, codec())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    for number in range(count):
        job = make_job(id=f"job{number}", labels={"note": "x" * 9000})
        try:
            await database.write(put(job))
        except CallsdError as refusal:
            print(number, refusal.reason)  # noqa: T201 - read by the test
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await database.write(put(make_job(id="next")))
    database.close()


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
