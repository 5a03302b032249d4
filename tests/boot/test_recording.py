# SPDX-License-Identifier: Apache-2.0
"""Recordings whose workers are units."""

import time
from datetime import timedelta

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd_bench.recording.measure import measure
from tests.boot.service import Service, recorder
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

RECORDED_SECONDS = 8


class TestRecording:
    """A recorder that is a unit."""

    def test_it_survives_the_daemon(self, service: Service) -> None:
        """Restart and kill -9 of the daemon leave no gap in a recording, nor another worker."""
        with service.page() as page:
            job = service.record(page)
            began = time.monotonic()
            worker = service.process(recorder(job))
            assert worker
            service.restart()
            service.kill()
            eventually(
                lambda: time.monotonic() - began > RECORDED_SECONDS,
                "there is something",
                seconds=RECORDED_SECONDS + 1,
            )
            assert service.process(recorder(job)) == worker
            found = service.stop(job)
        assert found.state == JOB_STATE_SUCCEEDED, found
        assert found.recording_result.gap_duration.ToTimedelta() == timedelta()
        assert found.recording_result.segment_count == 1
        measured = measure(service.artifact(job, "recording.mp4"), fps=20)
        assert measured.duration_seconds > RECORDED_SECONDS - 2
        assert measured.missing_seconds < 1
