# SPDX-License-Identifier: Apache-2.0
"""Writes jobs to a database, one after the other, and says which were acknowledged.

Run as `python writer.py PATH COUNT`; a failpoint may end it at any moment.
"""

import asyncio
import sys
from pathlib import Path

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.helpers.jobs import make_job, put


async def write(path: Path, count: int) -> None:
    """Write `count` jobs."""
    database = Database(path, codec())
    for number in range(count):
        job = await database.write(put(make_job(id=f"job{number}")))
        print(job.id, flush=True)  # noqa: T201 - read by the test
    database.close()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
