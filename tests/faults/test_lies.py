# SPDX-License-Identifier: Apache-2.0
"""Workers whose word is not good, or that say too much."""

import contextlib
import time

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import log_of
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


KIB = 1024

TORRENT_MB = 170
"""10 GB a minute."""

ONCE = {"jobs": {"max_attempts": 1}}


def run(one: Daemon, script: str, **options: float) -> Job:
    """Do a job to its end."""
    api = one.api()
    return one.wait(api, one.create(api, script, **options).job.name)


class TestLies:
    """Workers whose word is not good."""

    @pytest.mark.scenario(38, "a result whose file is not there is none")
    @pytest.mark.reason("WORKER_KILLED")
    def test_artifact_that_is_not_there(self, daemon: StartDaemon) -> None:
        """A job never succeeds without its files."""
        one = daemon(config=ONCE)

        assert failure(run(one, "lie-artifact")) == "WORKER_KILLED"
        assert_invariants(one)

    @pytest.mark.scenario(37, "binary, without a line: cut with a mark, the job succeeds")
    def test_log_flood(self, daemon: StartDaemon) -> None:
        """A worker that floods its log fills no disk, and is otherwise not disturbed."""
        limit = 64 * KIB
        one = daemon(config={"jobs": {"max_log_bytes": limit}})
        api = one.api()
        job = one.create(api, "flood-log 40; until go").job
        log = one.worker_directory(job.name) / "log.txt"
        eventually(lambda: log.exists() and log.stat().st_size > limit, "the log is too long")
        eventually(lambda: log.stat().st_size <= limit, "the log was cut")
        (one.root / "tmp" / "go").touch()

        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        kept = log_of(api, job.name)
        assert b"the log was longer than allowed" in kept
        assert len(kept) < limit + KIB
        assert_invariants(one)

    @pytest.mark.alone
    @pytest.mark.reason("WORKER_KILLED")
    @pytest.mark.scenario(37, "10 GB a minute: bounded, and the exit status is seen at once")
    def test_log_torrent(self, daemon: StartDaemon, record_figure: RecordFigure) -> None:
        """As much as a disk takes: the log is bounded, requests are answered, the end is seen."""
        limit, seconds = 64 * KIB, 2.5
        one = daemon(config={"jobs": {"max_log_bytes": limit, "max_attempts": 1}})
        api = one.api()
        job = one.create(api, f"flood-at {TORRENT_MB} {seconds}; touch over; exit 7").job
        log, over = one.worker_directory(job.name) / "log.txt", one.root / "tmp" / "over"
        one.wait(api, job.name, JOB_STATE_RUNNING)
        sizes, waits = list[int](), list[float]()
        while not over.exists():
            began = time.monotonic()
            one.job(api, job.name)
            waits.append(time.monotonic() - began)
            with contextlib.suppress(FileNotFoundError):  # the job may have ended in this moment
                sizes.append(log.stat().st_size)
            time.sleep(0.01)
        ended_at = time.monotonic()
        ended = one.wait(api, job.name)
        seen_after = time.monotonic() - ended_at

        assert (failure(ended), ended.failure.metadata["exit_code"]) == ("WORKER_KILLED", "7")
        # It is looked at once a second: what is written in between is the most there is.
        assert limit < max(sizes) < limit + 3 * TORRENT_MB * 1_000_000
        assert len(log_of(api, job.name)) < limit + KIB
        assert seen_after < 1.0
        assert sorted(waits)[int(len(waits) * 0.99)] < 0.25
        assert_invariants(one)
        record_figure(
            f"{TORRENT_MB} MB/s: log at most {max(sizes) / 1e6:.0f} MB, end seen after "
            f"{seen_after * 1000:.0f} ms"
        )
