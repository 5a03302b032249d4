# SPDX-License-Identifier: Apache-2.0
"""Jobs and their parts, complete but for what a test is about."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from callsd_daemon.domain.captions import CAPTIONS, CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.jobs import Job, Reservation, State, Worker
from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.domain.recording import PROFILES, RECORDING, Profile, RecordingSpec
from callsd_daemon.domain.transcription import TRANSCRIPTION, Track, TranscriptionSpec
from callsd_daemon.domain.work import Spec
from callsd_daemon.store.transaction import Transaction


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

MIB = 1024 * 1024

MANY = 500

WORKER = Worker(token_sha256="a" * 64, epoch="boot")

SPEC = TranscriptionSpec(tracks=(Track(speaker="Maya", path="/calls/maya.ogg"),), model="base")

CALL = MattermostCall(
    site_url="https://mm.example", call_id="c" * 26, post_id="p" * 26, job_id="t" * 26
)

_JOB = Job(
    id="job",
    kind=TRANSCRIPTION,
    state=State.QUEUED,
    creator="owner",
    create_time=NOW,
    update_time=NOW,
    max_duration_seconds=3600.0,
    reservation=Reservation(cores=1.0, memory_bytes=500 * MIB, disk_bytes=64 * MIB),
    cost_key="transcription/auto/base/1",
    spec=SPEC,
)


SPECS: dict[str, Spec] = {
    TRANSCRIPTION: SPEC,
    CAPTIONS: CaptionsSpec(model="base"),
    RECORDING: RecordingSpec(
        url="https://a.example/", profile=Profile.LOW, quality=PROFILES[Profile.LOW]
    ),
    CAPTURE: CaptureSpec(call=CALL),
}


def make_job(**changes: Any) -> Job:
    """A transcription that waits, but for `changes`."""
    spec = SPECS[changes.get("kind", TRANSCRIPTION)]
    return replace(_JOB, **{"spec": spec, **changes})


def fill(tx: Transaction) -> None:
    """Make more ended jobs than SQLite keeps in memory."""
    for number in range(MANY):
        tx.put(make_job(id=f"job{number}", state=State.SUCCEEDED, labels={"note": "x" * 8000}))


def put(job: Job) -> Callable[[Transaction], Job]:
    """Work for the store: write one job."""
    return lambda tx: tx.put(job)
