# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed again and again while work comes in, and starts with a long past."""

import asyncio
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from callsd import FINAL_STATES
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd_daemon.domain.jobs import Artifact, State
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from callsd_daemon.store.transaction import Transaction
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.jobs import make_job
from tests.helpers.waiting import eventually


KILLS = 10
WITHIN_SECONDS = 60.0
CLIENTS = 3
PAST_JOBS = 10_000
START_SECONDS = 2.0
LEAST_JOBS = 2 * KILLS


class Load:
    """Clients that each ask for one job after the other, and insist until they have an answer."""

    def __init__(self, one: Daemon, chance: random.Random) -> None:
        self._one = one
        self._is_over = threading.Event()
        self._pauses = [random.Random(chance.random()) for _ in range(CLIENTS)]  # noqa: S311
        self.answers: dict[str, str] = {}
        """What each request id was answered with; answers may have been lost before."""
        self.cuts: Counter[str] = Counter()
        """How requests ended that had to be repeated."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the block runs; ends when every request was answered."""
        threads = [threading.Thread(target=self._ask, args=(own,)) for own in self._pauses]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join(WITHIN_SECONDS)
        assert not any(thread.is_alive() for thread in threads)

    def _ask(self, pauses: random.Random) -> None:
        while not self._is_over.is_set():
            self._insist(str(uuid.UUID(int=pauses.getrandbits(128), version=4)))
            time.sleep(pauses.uniform(0.0, 0.6))

    def _insist(self, request_id: str) -> None:
        while request_id not in self.answers:
            # A new connection each time: an old one would be patient with a dead daemon.
            with self._one.channel() as channel:
                try:
                    job = self._one.create(
                        Api(channel, self._one.token), "note done", request_id=request_id
                    ).job
                except grpc.RpcError as error:
                    self.cuts[error.code().name] += 1
                    time.sleep(0.05)
                else:
                    self.answers[request_id] = job.name


@pytest.mark.scenario(10, "10 kill -9 in 60 s under load: no job lost, none twice")
@pytest.mark.parametrize(
    "most_seconds", [0.6, pytest.param(3.5, marks=pytest.mark.slow)], ids=["close", "apart"]
)
@pytest.mark.timeout(240)
def test_killed_ten_times_under_load(
    daemon: StartDaemon, chance: random.Random, record_figure: RecordFigure, most_seconds: float
) -> None:
    """Each request has one job, each job is done once and succeeds, and no process is left."""
    one = daemon()
    load, starts, began = Load(one, chance), list[float](), time.monotonic()
    with Recorder(one) as recorder:
        with load.running():
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.1, most_seconds))
                one.kill()
                starts.append(start_seconds(one))
        took = time.monotonic() - began
        api = one.api()

        def are_all_over() -> bool:
            return all(job.state in FINAL_STATES for job in all_jobs(api))

        eventually(are_all_over, "every job has ended", seconds=120)
        jobs = all_jobs(api)
        done = Counter((one.root / "tmp" / "done").read_text().split())

        assert took < WITHIN_SECONDS
        assert len(jobs) > LEAST_JOBS
        assert set(load.cuts) == {"UNAVAILABLE"}
        assert sorted(job.name for job in jobs) == sorted(load.answers.values())
        assert {job.state for job in jobs} == {JOB_STATE_SUCCEEDED}
        assert done == dict.fromkeys([job.name.removeprefix("jobs/") for job in jobs], 1)
        assert one.worker_pids() == []
        assert_invariants(one, recorder)
    record_figure(
        f"{KILLS} kills in {took:.0f} s, {len(jobs)} jobs, {load.cuts.total()} requests repeated, "
        f"{sum(job.attempt > 1 for job in jobs)} jobs begun anew; "
        f"start {min(starts):.2f} to {max(starts):.2f} s under load"
    )


def start_seconds(one: Daemon) -> float:
    """Start the daemon; how long until it says that it is well."""
    began = time.monotonic()
    one.start()
    return time.monotonic() - began


@pytest.mark.alone
@pytest.mark.scenario(10, "start ≤ 2 s with 10,000 jobs that have ended")
def test_starts_with_a_long_past(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """Ten thousand jobs that have ended do not delay a start."""
    one = daemon()
    one.stop()
    empty = start_seconds(one)
    one.stop()
    remember(one, PAST_JOBS)
    took = start_seconds(one)
    api = one.api()

    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert len(all_jobs(api)) == PAST_JOBS + 1
    size = (one.state / "callsd.db").stat().st_size / 1e6
    record_figure(f"start {took:.2f} s, {empty:.2f} s without them; {size:.0f} MB of store")
    # On a machine that is busy otherwise any start takes longer.
    assert took <= max(START_SECONDS, 2 * empty)


def remember(one: Daemon, count: int) -> None:
    """Have the store of a daemon that does not run know of jobs that have succeeded."""
    artifact = Artifact(file_name="a.vtt", media_type="text/vtt", size_bytes=7, sha256="0" * 64)
    end = datetime.now(UTC)
    past = make_job(
        state=State.SUCCEEDED,
        create_time=end,
        update_time=end,
        start_time=end,
        end_time=end,
        expire_time=end + timedelta(days=1),
        attempt=1,
        artifacts=(artifact,),
        labels={"team": "platform"},
    )
    database = Database(one.state / "callsd.db", codec())

    def put_all(tx: Transaction) -> None:
        for number in range(count):
            tx.put(replace(past, id=f"past{number}"))

    asyncio.run(database.write(put_all))
    database.close()
