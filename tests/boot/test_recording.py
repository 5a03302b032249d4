# SPDX-License-Identifier: Apache-2.0
"""A recording whose worker is a unit, and what befalls its machine. The tests follow each other."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd_bench.recording.measure import measure
from tests.boot.service import CALL, STATE, Service, recorder
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

ASKING = (
    "window.callsClient?.connected && "
    "(window.news ??= setInterval(() => fetch(`/typical.html?at=${Date.now()}`), 500))"
)
"""The page is ready; from then on it asks its server for news."""

OUTAGE_SECONDS = 12.0
"""More than a page gets over without a word."""

MAX_STILL_SECONDS = 5.0
"""The page moves all the while; on a machine that is busy otherwise now and then it does not."""

REFUSED, PROBLEMS = 5, 1
"""Exit codes of `callsd`."""

FIRST_PAGES_BYTES = 4 * 4096
"""Where the schema is."""

TRACK = f"nina={CALL}/nina.ogg"
BACKUP = f"{STATE}/backup.db"
COPY = "/var/backups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A recording that goes on, and a transcription that has ended."""

    job: str
    worker: int
    ended: str


@pytest.fixture(scope="module")
def recorded(service: Service) -> Iterator[Recorded]:
    """Both of them; the page asks for news."""
    ended = service.transcribe(tracks=(TRACK,))
    with service.page() as page:
        job = service.record(page, f"--ready={ASKING}")
        worker = service.process(recorder(job))
        assert worker
        service.wait(ended)
        yield Recorded(job=job, worker=worker, ended=ended)


@pytest.fixture
def network(service: Service) -> Iterator[None]:
    """Is there again afterwards."""
    yield
    service.machine.run("ip", "link", "set", "lo", "up")


class TestRecording:
    """One recording goes through all of this."""

    def test_it_survives_the_daemon(self, service: Service, recorded: Recorded) -> None:
        """Kill -9 and restart of the daemon do not touch the worker."""
        service.kill()
        service.restart()
        assert service.process(recorder(recorded.job)) == recorded.worker

    def test_it_survives_a_damaged_database(
        self, service: Service, recorded: Recorded, network: None
    ) -> None:
        """All are told of it, and nothing is put into it; the administrator follows the runbook.

        The daemon is back with what the backup has, the recording goes on, the transcript is there.
        Meanwhile the machine has no network.
        """
        machine = service.machine
        service.callsd("backup", BACKUP)
        machine.run("ip", "link", "set", "lo", "down")
        gone = time.monotonic()
        with machine.path(f"{STATE}/callsd.db").open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(FIRST_PAGES_BYTES)
            file.write(b"\xff" * (size - FIRST_PAGES_BYTES))

        with service.client() as client:
            with refused("DATABASE_DAMAGED", grpc.StatusCode.DATA_LOSS):
                list(client.list_jobs())
            eventually(lambda: not client.is_serving(), "health says that it is not well")
        done = service.attempt("jobs", "create", f"--track={TRACK}")
        assert done.returncode == REFUSED
        assert "callsd restore" in done.stderr
        done = service.attempt("doctor")
        assert done.returncode == PROBLEMS
        assert "damaged: " in done.stdout
        assert machine.journal("callsd").count("database_damaged") == 1

        files = [machine.path(f"{STATE}/callsd.db{suffix}") for suffix in ("", "-wal")]
        before = [file.read_bytes() for file in files]
        machine.run("systemctl", "stop", "callsd.service")
        assert [file.read_bytes() for file in files] == before
        machine.run("cp", "--archive", f"{STATE}/jobs", f"{STATE}/workers", COPY)
        assert machine.run("ls", f"{COPY}/workers/{recorded.job}/pieces")
        service.callsd("restore", BACKUP)
        eventually(
            lambda: time.monotonic() - gone > OUTAGE_SECONDS,
            "the outage is long enough",
            seconds=OUTAGE_SECONDS + 1,
        )
        machine.run("ip", "link", "set", "lo", "up")
        machine.run("systemctl", "start", "callsd.service")
        assert service.process(recorder(recorded.job)) == recorded.worker
        with service.client() as client:
            assert client.is_serving()
        service.callsd("jobs", "fetch", recorded.ended, "--output=/tmp/fetched")
        assert "WEBVTT" in machine.run("cat", "/tmp/fetched/transcript.vtt")

    def test_what_became_of_it(self, service: Service, recorded: Recorded) -> None:
        """It has no gap, is of one worker, and tells that its page has reached nobody."""
        found = service.stop(recorded.job)
        assert found.state == JOB_STATE_SUCCEEDED, found
        assert [notice.code for notice in found.notices] == ["PAGE_UNREACHABLE"]
        assert found.recording_result.gap_duration.ToTimedelta() == timedelta()
        assert found.recording_result.segment_count == 1
        measured = measure(service.artifact(recorded.job, "recording.mp4"), fps=20)
        assert measured.duration_seconds > OUTAGE_SECONDS
        assert measured.missing_seconds < MAX_STILL_SECONDS
