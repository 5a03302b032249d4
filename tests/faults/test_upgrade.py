# SPDX-License-Identifier: Apache-2.0
"""Another version of the daemon takes over, with jobs that run."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import psutil
import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd.v1.recording_pb2 import RECORDING_PROFILE_LOW, RecordingSpec
from callsd_bench.recording.measure import measure
from callsd_bench.recording.pages import PageServer
from callsd_daemon.store.migrations import MIGRATIONS
from tests.conftest import StartDaemon
from tests.helpers.api import log_of
from tests.helpers.daemon import ROOT, Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.old_store import with_fields_by_kind
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


CONFIG = 78
TRANSCRIPT = b"WEBVTT\n"
"""What the scripted worker writes."""

RECORD_SECONDS = 60.0
PACKAGES = ("callsd_worker", "callsd_ipc", "callsd_transcript")
COPIED_WORKER = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, {place!r})
from callsd_worker.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
NEWEST = len(MIGRATIONS)


def as_the_first_release_had_it(one: Daemon) -> None:
    """Take from the store what later versions of the schema have brought."""
    with contextlib.closing(sqlite3.connect(one.state / "callsd.db")) as database:
        database.execute("DROP TABLE secrets")
        database.execute("DROP TABLE labels")
        database.execute("DROP TABLE gateway_clients")
        for index in ("jobs_by_delivery", "jobs_by_expiry", "jobs_by_state"):
            database.execute(f"DROP INDEX {index}")
        for column in ("delivery", "after_jobs"):
            database.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        database.execute("CREATE INDEX jobs_by_state ON jobs (state, accepted_revision)")
        database.execute("ALTER TABLE changes DROP COLUMN written_bytes")
        for job_id, text in database.execute("SELECT id, body FROM jobs").fetchall():
            body = with_fields_by_kind(json.loads(text))
            if body.get("worker"):
                body["worker"]["boot_id"] = body["worker"].pop("epoch")
            changed = json.dumps(body).encode()
            database.execute("UPDATE jobs SET body = ? WHERE id = ?", (changed, job_id))
        database.commit()
        database.execute("PRAGMA user_version = 1")


@pytest.mark.scenario(8, "an older store is copied, then brought up to date; workers go on")
def test_upgrade(daemon: StartDaemon) -> None:
    """Jobs that run and wait live through an upgrade, and the way back stays open."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    running, waiting = one.create(api, "until go").job, one.create(api).job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    worker = one.worker(running.name)
    one.stop()
    as_the_first_release_had_it(one)
    api = one.start().api()

    assert one.leaders(running.name) == [worker]
    assert one.job(api, waiting.name).state == JOB_STATE_QUEUED
    backup = one.state / "callsd.db.v1.bak"
    with contextlib.closing(sqlite3.connect(backup)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    (one.root / "tmp" / "go").touch()
    for job in (running, waiting):
        ended = one.wait(api, job.name)
        assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)


@pytest.mark.scenario(8, "a newer store: exit code 78, a clear line, workers go on")
def test_downgrade(daemon: StartDaemon) -> None:
    """An older daemon touches neither the newer store nor the workers; the newer one goes on."""
    one = daemon()
    api = one.api()
    job = one.create(api, "until go").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    worker = one.worker(job.name)
    one.stop()
    set_version(one, NEWEST + 1)
    code, message = one.fail_to_start()

    assert code == CONFIG
    assert f"has schema {NEWEST + 1}, and this callsd knows up to {NEWEST}" in message
    assert "backup" in message
    assert one.leaders(job.name) == [worker]
    set_version(one, NEWEST)
    api = one.start().api()
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)


@pytest.mark.scenario(8, "a worker of the release before: its result is taken")
@pytest.mark.parametrize("daemon_is", ["there", "away"])
def test_worker_of_the_release_before(daemon: StartDaemon, daemon_is: str) -> None:
    """A worker that shares a disk with the daemon, and ends without a word, has done its work.

    The next daemon takes it up and hears it, or finds what it has left.
    """
    one = daemon()
    api = one.api()
    script = "version 1; touch ready; until more; say recognising; until go; print done; note done"
    job = one.create(api, script).job
    eventually((one.root / "tmp" / "ready").exists, "it is of the release before")
    worker = one.worker(job.name)
    one.kill()
    if daemon_is == "away":
        for name in ("more", "go"):
            (one.root / "tmp" / name).touch()
        eventually(lambda: not one.worker_pids(job.name), "it has ended")
        api = one.start().api()
    else:
        api = one.start().api()
        (one.root / "tmp" / "more").touch()
        eventually(lambda: one.job(api, job.name).progress.phase == "recognising", "it is heard")
        assert one.leaders(job.name) == [worker]
        (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [job.name.removeprefix("jobs/")]
    one.client().fetch_artifact(ended, "transcript.vtt", one.root / "transcript.vtt")
    assert (one.root / "transcript.vtt").read_bytes() == TRANSCRIPT
    assert log_of(api, job.name) == b"done\n"
    assert_invariants(one)


@pytest.mark.scenario(8, "a worker of the release before that dies: another one begins anew")
def test_worker_of_the_release_before_dies(daemon: StartDaemon) -> None:
    """Half of what it has written is not taken for a result."""
    one = daemon()
    api = one.api()
    job = one.create(api, "1: version 1; 1: touch ready; 1: die-before replace 2; until go").job
    eventually((one.root / "tmp" / "ready").exists, "it is of the release before")
    api = one.restart().api()
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 2)
    assert [notice.code for notice in ended.notices] == ["WORKER_RESTARTED"]
    assert_invariants(one)


@pytest.mark.reason("CRASH_LOOP")
@pytest.mark.scenario(8, "a worker of a later release is told so, and given up")
def test_worker_of_a_later_release(daemon: StartDaemon) -> None:
    """A worker whose version the daemon does not speak gets no work; the log says what to do."""
    one = daemon(config={"jobs": {"max_attempts": 2}})
    api = one.api()
    (one.root / "tmp" / "before-hello").write_text("version 3")
    ended = one.wait(api, one.create(api, "note done").job.name)

    assert failure(ended) == "CRASH_LOOP"
    assert ended.failure.message
    assert b"speaks versions 1 to 2 with its workers, not 3: restart callsd" in log_of(
        api, ended.name
    )
    assert {entry["version"] for entry in one.events("worker_version")} == {3}
    assert not (one.root / "tmp" / "done").exists()
    assert_invariants(one)


@pytest.mark.scenario(8, "the code of a recorder goes away meanwhile: the recording is whole")
@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_upgrade_under_a_recorder(daemon: StartDaemon, tmp_path: Path, how: str) -> None:
    """What an upgrade does with installed code is nothing to a recording that goes on.

    Neither to what it loads at its end, nor to a part of it that is started again.
    """
    place = tmp_path / "installed"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / "daemon" / package,
            place / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    program = tmp_path / "worker.py"
    program.write_text(COPIED_WORKER.format(place=str(place)))
    one = daemon(
        is_real=True,
        machine=None,
        config={"admission": {"enforced": False}},
        env={"CALLSD_WORKER_PROGRAM": str(program)},
    )
    with PageServer() as pages:
        client = one.client()
        spec = RecordingSpec(
            url=pages.url("typical"),
            profile=RECORDING_PROFILE_LOW,
            ready_expression="window.callsClient?.connected",
        )
        job = client.create_job(spec).job

        def frames() -> int:
            now = client.get_job(job)
            assert not now.HasField("failure"), now.failure
            return now.progress.recording.frame_count

        eventually(lambda: frames() > 30, "it records", seconds=RECORD_SECONDS)
        if how == "renamed":
            for module in ("joining", "piece_process", "pieces"):
                file = place / "callsd_worker" / "recorder" / f"{module}.py"
                file.rename(file.with_name(f"{module}s.py"))
        else:
            shutil.rmtree(place)
        (capture,) = [
            child
            for child in psutil.Process(one.worker(job.name)).children()
            if "callsd_worker.recorder.piece_process" in child.cmdline()
        ]
        capture.kill()
        eventually(
            lambda: client.get_job(job).progress.recording.segment == 2,
            "a second piece is recorded",
            seconds=RECORD_SECONDS,
        )
        more = frames() + 30
        eventually(lambda: frames() > more, "it goes on", seconds=RECORD_SECONDS)
        client.stop_job(job)
        ended = client.wait_job(job, timeout_seconds=RECORD_SECONDS)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert ended.recording_result.segment_count == 2
    assert not ended.recording_result.cut_short
    client.fetch_artifact(ended, "recording.mp4", tmp_path / "film.mp4")
    assert measure(tmp_path / "film.mp4", fps=15).duration_seconds > 3
    assert_invariants(one)


def set_version(one: Daemon, version: int) -> None:
    """Have the store say that it is of this version."""
    with contextlib.closing(sqlite3.connect(one.state / "callsd.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")
