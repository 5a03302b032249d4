# SPDX-License-Identifier: Apache-2.0
"""Power is cut: of what was written only that is certain which was synced before."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.faults.disk_log import Entry
from tests.helpers.daemon import ROOT
from tests.helpers.invariants import assert_invariants


PROGRAM = Path(__file__).with_name("disk_log.py")
JOBS = 60
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

HALF = 0.5
CUTS = 250
COPIES = 12


class Disk:
    """Files as they are on a disk, and what is on its way there."""

    def __init__(self, database: bytes) -> None:
        self._synced = {"": bytearray(database), "-wal": bytearray()}
        self._pending: dict[str, list[Entry]] = {"": [], "-wal": []}

    def take(self, entry: Entry) -> None:
        """Something happens."""
        if entry.what == "sync":
            synced = self._synced[entry.file]
            for pending in self._pending[entry.file]:
                if pending.what == "truncate":
                    del synced[pending.offset :]
                else:
                    _apply(synced, pending, 0, len(pending.data))
            self._pending[entry.file].clear()
        elif entry.what != "acknowledged":
            self._pending[entry.file].append(entry)

    def after_cut(self, chance: random.Random) -> dict[str, bytes]:
        """The files after a power cut now: some of what was on its way has arrived, in part."""
        files = {}
        for name, synced in self._synced.items():
            content = bytearray(synced)
            for pending in self._pending[name]:
                if pending.what == "truncate" and chance.random() < HALF:
                    del content[pending.offset :]
                sectors = -(-len(pending.data) // SECTOR_BYTES)
                first, last = sorted(chance.randint(0, sectors) for _ in range(2))
                _apply(content, pending, first * SECTOR_BYTES, last * SECTOR_BYTES)
            files[name] = bytes(content)
        return files


def _apply(content: bytearray, entry: Entry, begin: int, end: int) -> None:
    """Have a write arrive, or some bytes of it."""
    data = entry.data[begin:end]
    start = entry.offset + begin
    content.extend(bytes(max(0, start + len(data) - len(content))))
    content[start : start + len(data)] = data


def record(directory: Path, synchronous: str = "") -> tuple[bytes, list[Entry]]:
    """Write jobs; the database as it was before, and all that happened to its files."""
    path, log = directory / "callsd.db", directory / "log"
    subprocess.run(
        [sys.executable, str(PROGRAM), str(path), str(log), str(JOBS), synchronous],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    entries = msgspec.msgpack.decode(log.read_bytes(), type=list[Entry])
    return path.with_name("callsd.db.begin").read_bytes(), entries


def jobs_in(directory: Path, files: dict[str, bytes]) -> set[str]:
    """Jobs in the files that a cut has left, each of which can be read."""
    directory.mkdir()
    for name, content in files.items():
        (directory / f"callsd.db{name}").write_bytes(content)
    database = Database(directory / "callsd.db", codec())
    try:

        async def read() -> set[str]:
            ids = await database.read(lambda tx: tx.ids())
            for job_id in ids:
                await database.read(lambda tx, job_id=job_id: tx.find(job_id))  # type: ignore[misc]
            return ids

        return asyncio.run(read())
    finally:
        database.close()
        shutil.rmtree(directory)


def lost_jobs(
    directory: Path, begin: bytes, entries: list[Entry], cuts: Iterable[int], chance: random.Random
) -> tuple[int, int]:
    """Cut the power at these entries; how many cuts that were, and how many lost a job."""
    disk, acknowledged, wanted = Disk(begin), set[str](), set(cuts)
    tried = lost = 0
    for index, entry in enumerate(entries):
        disk.take(entry)
        if entry.what == "acknowledged":
            acknowledged.add(f"job{entry.offset}")
        if index in wanted:
            found = jobs_in(directory / "cut", disk.after_cut(chance))
            tried += 1
            lost += not acknowledged <= found
            # What was under way may be there, and nothing that was never asked for.
            assert found <= acknowledged | {f"job{len(acknowledged)}"}
    return tried, lost


@pytest.mark.scenario(27, "power cut at write boundaries: every acknowledged job is there")
def test_no_acknowledged_job_is_lost(
    tmp_path: Path, chance: random.Random, record_figure: RecordFigure
) -> None:
    """Wherever the power is cut, and whichever unsynced sectors arrive, no job is lost or torn."""
    begin, entries = record(tmp_path)
    written_back = sum(entry.what == "sync" and not entry.file for entry in entries)
    cuts = chance.sample(range(len(entries)), min(CUTS, len(entries)))
    tried, lost = lost_jobs(tmp_path, begin, entries, cuts, chance)

    assert written_back >= 3
    assert lost == 0
    record_figure(
        f"{tried} cuts in {len(entries)} writes and syncs of {JOBS} jobs, "
        f"with {written_back} checkpoints: {lost} lost a job"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.scenario(27, "the same at each single boundary, three times")
def test_no_acknowledged_job_is_lost_anywhere(
    tmp_path: Path, chance: random.Random, record_figure: RecordFigure
) -> None:
    """There is no boundary at which a cut loses a job."""
    begin, entries = record(tmp_path)
    outcomes = [lost_jobs(tmp_path, begin, entries, range(len(entries)), chance) for _ in range(3)]

    assert [lost for _, lost in outcomes] == [0, 0, 0]
    record_figure(f"{sum(tried for tried, _ in outcomes)} cuts: 0 lost a job")


def test_a_lost_job_would_be_noticed(tmp_path: Path, chance: random.Random) -> None:
    """With a store that does not sync each commit, these cuts do lose acknowledged jobs."""
    begin, entries = record(tmp_path, synchronous="NORMAL")
    cuts = [index for index, entry in enumerate(entries) if entry.what == "acknowledged"]
    _, lost = lost_jobs(tmp_path, begin, entries, cuts, chance)

    assert lost > 0


@pytest.mark.scenario(27, "store and log copied at any moment hold every answered CreateJob")
def test_daemon_is_frozen_and_copied(
    daemon: StartDaemon, tmp_path: Path, chance: random.Random, record_figure: RecordFigure
) -> None:
    """At whatever instruction the daemon stands still, what it has answered is in its files."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    copies, is_over = list[tuple[set[str], dict[str, bytes]]](), False

    def ask() -> None:
        api = one.api()
        while not is_over:
            one.create(api, "sleep 0.1")

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask) for _ in range(4)]
        try:
            for _ in range(COPIES):
                time.sleep(chance.uniform(0.01, 0.15))
                one.signal(signal.SIGSTOP)
                # Answers that are already on their way are counted by nobody: that is no harm.
                answered = set(one.acknowledged)
                files = {
                    name: (one.state / f"callsd.db{name}").read_bytes() for name in ("", "-wal")
                }
                one.signal(signal.SIGCONT)
                copies.append((answered, files))
        finally:
            is_over = True
        for asked in asking:
            asked.result(30)
    for answered, files in copies:
        found = jobs_in(tmp_path / "copy", files)
        assert {name.removeprefix("jobs/") for name in answered} <= found
    assert_invariants(one)
    record_figure(f"{COPIES} copies, the last with {len(copies[-1][0])} answered jobs: 0 lost")
