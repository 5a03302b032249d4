# SPDX-License-Identifier: Apache-2.0
"""The daemon is asked to end."""

import signal
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    ReadLogRequest,
    WatchJobsRequest,
)
from callsd.v1.media_pb2 import UploadMediaRequest, UploadStart
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import health
from tests.helpers.history import Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


SHA256 = "0" * 64
UPLOAD_ID = "6f1c1b1e-7a7e-4b44-8a3c-2f1f3b0f5a10"


class TestDrain:
    """SIGTERM."""

    @pytest.mark.scenario(9, "streams end with DRAINING and when to come back")
    @pytest.mark.reason("DRAINING")
    def test_watchers_are_sent_away(self, daemon: StartDaemon) -> None:
        """Open streams end with UNAVAILABLE, the reason, and when to come back."""
        one = daemon()
        api = one.api()
        job = one.create(api, "sleep").job
        watch = api.stream(api.jobs.WatchJobs, WatchJobsRequest())
        log = api.stream(api.jobs.ReadLog, ReadLogRequest(name=job.name, follow=True))
        assert next(watch).initial_state_sent

        one.signal(signal.SIGTERM)
        for stream in (watch, log):
            with refused("DRAINING", grpc.StatusCode.UNAVAILABLE) as refusal:
                for _ in stream:
                    pass
            assert 0.5 <= (refusal.error.retry_after_seconds or 0) <= 2.0

        assert one.wait_dead() == 0

    @pytest.mark.scenario(9, "NOT_SERVING first, new jobs are told DRAINING")
    @pytest.mark.reason("DRAINING")
    def test_health_first_and_no_new_jobs(self, daemon: StartDaemon) -> None:
        """Health says NOT_SERVING at once; a request for a job meanwhile is refused as DRAINING."""
        one = daemon(config={"server": {"drain_seconds": 10.0}})
        api, go_on = one.api(), threading.Event()

        def slow_upload() -> Iterator[UploadMediaRequest]:
            start = UploadStart(upload_id=UPLOAD_ID, size_bytes=4, sha256=SHA256)
            yield UploadMediaRequest(start=start)
            go_on.wait(20)

        upload = api.media.UploadMedia.future(slow_upload(), metadata=api.metadata, timeout=30)
        place = one.state / "uploads" / UPLOAD_ID
        eventually(place.exists, "the upload has begun")
        states = health(api.channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING

        one.signal(signal.SIGTERM)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with refused("DRAINING", grpc.StatusCode.UNAVAILABLE) as refusal:
            one.create(one.api(), "succeed")
        assert 0.5 <= (refusal.error.retry_after_seconds or 0) <= 2.0
        go_on.set()
        assert upload.code() is grpc.StatusCode.FAILED_PRECONDITION

        assert one.wait_dead() == 0

    @pytest.mark.scenario(9, "jobs go on, and the next daemon has the same workers")
    def test_workers_survive(self, daemon: StartDaemon, record_figure: RecordFigure) -> None:
        """Workers go on, and the next daemon takes over the same processes."""
        one = daemon()
        api = one.api()
        with Recorder(one) as recorder:
            job = one.create(api, "until go").job
            one.wait(api, job.name, JOB_STATE_RUNNING)
            worker = one.worker(job.name)

            asked_at = time.monotonic()
            assert one.stop() == 0
            record_figure(f"ended {time.monotonic() - asked_at:.2f} s after SIGTERM")
            assert one.leaders(job.name) == [worker]
            api = one.start().api()
            assert one.job(api, job.name).state == JOB_STATE_RUNNING
            assert one.leaders(job.name) == [worker]
            (one.root / "tmp" / "go").touch()
            ended = one.wait(api, job.name)

            assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
            assert set(recorder.cuts) == {grpc.StatusCode.UNAVAILABLE}
            assert_invariants(one, recorder)

    @pytest.mark.scenario(9, "a second SIGTERM ends it at once")
    def test_second_signal_forces(self, daemon: StartDaemon, record_figure: RecordFigure) -> None:
        """Who insists is obeyed at once, whatever is under way; the exit code tells."""
        one = daemon(config={"server": {"drain_seconds": 60.0}})
        api, go_on = one.api(), threading.Event()

        def endless() -> Iterator[UploadMediaRequest]:
            start = UploadStart(upload_id=UPLOAD_ID, size_bytes=4, sha256=SHA256)
            yield UploadMediaRequest(start=start)
            go_on.wait(20)

        upload = api.media.UploadMedia.future(endless(), metadata=api.metadata, timeout=60)
        eventually((one.state / "uploads" / UPLOAD_ID).exists, "the upload has begun")
        one.signal(signal.SIGTERM)
        eventually(lambda: one.events("draining"), "the daemon drains")
        one.signal(signal.SIGTERM)
        insisted_at = time.monotonic()

        assert one.wait_dead(seconds=10) == 1
        record_figure(f"ended {time.monotonic() - insisted_at:.2f} s after the second")
        go_on.set()
        assert upload.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
