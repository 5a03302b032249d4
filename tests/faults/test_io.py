# SPDX-License-Identifier: Apache-2.0
"""One thing after the other that the daemon asks of its disk fails, under a mix of work."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    CreateJobRequest,
    Job,
    StopJobRequest,
)
from callsd.v1.recording_pb2 import RecordingSpec
from callsd_daemon.startup import EXIT_STATE_UNUSABLE
from callsd_ipc.names import VIDEO_FILE
from tests.conftest import StartDaemon
from tests.faults.failing_io import failing, start_failing
from tests.faults.mixed_work import Mix
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.history import Pulse, Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


QUICK = {
    "callsd_daemon.store.database.BUSY_TIMEOUT_SECONDS": 0.1,
    "callsd_daemon.workers.conclusion.RETRY_SECONDS": 0.1,
    "callsd_daemon.workers.takeover.RETRY_SECONDS": 0.1,
    "callsd_daemon.workers.housekeeping.SWEEP_SECONDS": 0.5,
    "callsd_daemon.workers.housekeeping.TICK_SECONDS": 0.2,
    "callsd_daemon.workers.patient_store.RETRY_SECONDS": 0.1,
    "callsd_daemon.workers.salvage.RETRY_SECONDS": 0.1,
    "callsd_daemon.workers.starter.RETRY_SECONDS": 0.1,
}

SLOW_SECONDS = 5

REFUSALS = frozenset({"DISK_FULL", "SLOTS_EXHAUSTED"})
"""What a client may be told."""

NOT_THERE = frozenset({"JOB_NOT_FOUND", "UPLOAD_NOT_FOUND"})
"""What it is told of something whose making was refused."""

OPEN, READ, WRITE, SYNC = "/^open", "/^p?read(64)?$", "/^p?write(64)?$", "/sync$"
RENAME, MKDIR, LIST, STAT, UNLINK = "/^rename", "/^mkdir", "getdents64", "/stat", "/^unlink"
FULL, BROKEN, SCARCE = "error=ENOSPC", "error=EIO", "error=EMFILE"

Fault = tuple[str, str, str]
"""Where, which calls, and what becomes of them."""

PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    "wal": {READ: (BROKEN,), WRITE: (BROKEN, FULL), SYNC: (BROKEN, FULL)},
    "job": {
        OPEN: (BROKEN, SCARCE),
        LIST: (BROKEN,),
        MKDIR: (BROKEN, FULL),
        STAT: (BROKEN,),
        SYNC: (BROKEN, FULL),
    },
    "artifact": {
        OPEN: (BROKEN, FULL, SCARCE),
        READ: (BROKEN,),
        RENAME: (BROKEN, FULL),
        STAT: (BROKEN,),
        SYNC: (BROKEN, FULL),
    },
    "outcome": {
        OPEN: (BROKEN, FULL, SCARCE),
        READ: (BROKEN,),
        RENAME: (BROKEN, FULL),
        STAT: (BROKEN,),
        SYNC: (BROKEN, FULL),
        UNLINK: (BROKEN,),
        WRITE: (BROKEN, FULL),
    },
    "log": {OPEN: (BROKEN, FULL, SCARCE), WRITE: (BROKEN, FULL)},
    "worker": {
        LIST: (BROKEN,),
        MKDIR: (BROKEN, FULL),
        OPEN: (BROKEN, SCARCE),
        STAT: (BROKEN,),
    },
    "trash": {OPEN: (BROKEN, SCARCE), LIST: (BROKEN,)},
    "upload": {
        LIST: (BROKEN,),
        MKDIR: (BROKEN, FULL),
        OPEN: (BROKEN, FULL, SCARCE),
        READ: (BROKEN,),
        RENAME: (BROKEN, FULL),
        STAT: (BROKEN,),
        SYNC: (BROKEN, FULL),
        WRITE: (BROKEN, FULL),
    },
    "tokens": {OPEN: (BROKEN, SCARCE), READ: (BROKEN,), STAT: (BROKEN,)},
    "media": {OPEN: (BROKEN, SCARCE)},
}

EACH: list[Fault] = [
    (place, call, fault)
    for place, calls in PLACES.items()
    for call, faults in calls.items()
    for fault in faults
]

SOME = {
    ("wal", READ, BROKEN),
    ("wal", SYNC, BROKEN),
    ("job", SYNC, FULL),
    ("job", MKDIR, BROKEN),
    ("artifact", READ, BROKEN),
    ("artifact", RENAME, BROKEN),
    ("outcome", OPEN, SCARCE),
    ("outcome", WRITE, FULL),
    ("log", WRITE, BROKEN),
    ("worker", OPEN, SCARCE),
    ("trash", LIST, BROKEN),
    ("upload", OPEN, SCARCE),
    ("upload", READ, BROKEN),
    ("upload", WRITE, BROKEN),
    ("tokens", READ, BROKEN),
    ("media", OPEN, SCARCE),
}
"""At least one of each place; the others take minutes."""


def told(one: Daemon, since: int) -> list[str]:
    """What the daemon has said is wrong."""
    entries = [json.loads(line) for line in one.log[since:].splitlines() if line.startswith("{")]
    serious = [entry for entry in entries if entry["level"] in ("warning", "error")]
    return [str(entry.get("problem")) for entry in serious]


def names(problem: str, place: str, paths: list[Path]) -> bool:
    """Whether a person learns from this which file it is about."""
    return "job database" in problem if place == "wal" else any(str(p) in problem for p in paths)


@dataclass(frozen=True)
class Calm:
    """A daemon on which all is well, with a job that is done."""

    one: Daemon
    api: Api
    done: str


@pytest.fixture(scope="module")
def calm(shared_daemon: StartDaemon) -> Iterator[Calm]:
    """One for all faults; in the end all that is promised must hold."""
    one = shared_daemon(constants=QUICK, config={"jobs": {"max_attempts": 2}})
    api = one.api()
    with Recorder(one) as recorder:
        done = one.create(api, "print done").job.name
        assert one.wait(api, done).state == JOB_STATE_SUCCEEDED
        yield Calm(one, api, done)
        assert_invariants(one, recorder)


@pytest.mark.scenario(63, "a call fails: who asked is told, what was accepted ends well")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=" ".join(fault), marks=() if fault in SOME else pytest.mark.slow)
        for fault in EACH
    ],
)
def test_fails(calm: Calm, fault: Fault) -> None:
    """Who asks is refused with the reason, jobs lose nothing, and the log names the file."""
    one, (place, calls, error) = calm.one, fault
    mix, since = Mix(one, calm.api, calm.done), len(one.log)
    paths = mix.places(place)
    with failing(one, calls, error, *paths) as injected:
        answers = mix.go_on()
        eventually(lambda: injected.calls, "something has failed")
        eventually(
            lambda: any(names(problem, place, paths) for problem in told(one, since)),
            "it is said which file is the matter",
        )
    assert set(answers.values()) <= {"", *REFUSALS, *NOT_THERE}
    assert answers["CreateJob"] not in NOT_THERE
    assert one.bugs() == []
    mix.assert_finished()


@pytest.mark.scenario(63, "a recording that is done is kept, however its disk answers")
def test_recording(calm: Calm) -> None:
    """An error while it is taken over costs no recording: it is there when the disk is well."""
    one, api = calm.one, calm.api
    spec = RecordingSpec(url="http://127.0.0.1:9/", ready_expression="film 1")
    name = api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec))).job.name
    one.wait(api, name, JOB_STATE_RUNNING)
    draft = one.job_directory(name) / "artifacts" / f".{VIDEO_FILE}.part"
    with failing(one, f"{READ},{SYNC}", BROKEN, draft) as injected:
        api(api.jobs.StopJob, StopJobRequest(name=name))
        eventually(lambda: len(injected.calls) > 1, "it was tried again")

    ended = one.wait(api, name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)


@pytest.mark.scenario(63, "a call fails: who asked is told, what was accepted ends well")
@pytest.mark.parametrize("calls", [OPEN, READ])
def test_whole_or_refused(calm: Calm, calls: str) -> None:
    """A result that the disk does not give back is not sent as an empty one, with success."""
    one, mix = calm.one, Mix(calm.one, calm.api, calm.done)
    result = one.job_directory(calm.done) / "artifacts" / "transcript.vtt"
    with failing(one, calls, BROKEN, result), refused("DISK_FULL"):
        mix.fetch()

    mix.go.touch()
    mix.assert_finished()


@pytest.mark.scenario(63, "a call takes 5 s: everybody else is answered meanwhile")
@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("wal", SYNC),
        pytest.param("wal", READ, marks=pytest.mark.slow),
        pytest.param("artifact", SYNC, marks=pytest.mark.slow),
        pytest.param("outcome", RENAME, marks=pytest.mark.slow),
        pytest.param("log", WRITE, marks=pytest.mark.slow),
        pytest.param("job", MKDIR, marks=pytest.mark.slow),
        pytest.param("worker", MKDIR, marks=pytest.mark.slow),
        pytest.param("upload", OPEN, marks=pytest.mark.slow),
        pytest.param("upload", SYNC, marks=pytest.mark.slow),
        pytest.param("media", OPEN, marks=pytest.mark.slow),
        pytest.param("tokens", OPEN, marks=pytest.mark.slow),
    ],
)
def test_takes_long(calm: Calm, place: str, calls: str) -> None:
    """Who waits for the disk gets what he wants; whoever does not is answered at once."""
    one, mix = calm.one, Mix(calm.one, calm.api, calm.done)
    with (
        Pulse(one) as pulse,
        failing(one, calls, f"delay_enter={SLOW_SECONDS}s:when=1", *mix.places(place)) as injected,
    ):
        answers = mix.go_on()
        eventually(lambda: injected.calls, "something takes long")
    assert set(answers.values()) == {""}
    mix.assert_finished()
    assert pulse.failures == []
    # Whoever waits behind it waits for all of it: a busy machine alone is not so slow.
    assert max(pulse.seconds) < 0.9 * SLOW_SECONDS


@pytest.mark.scenario(63, "a start fails: 73 and the file; the next one has everything")
@pytest.mark.parametrize(
    ("calls", "error", "place"),
    [
        pytest.param(OPEN, BROKEN, "state/callsd.db", marks=pytest.mark.slow),
        (LIST, BROKEN, "state/uploads"),
        pytest.param("flock", BROKEN, "state/lock", marks=pytest.mark.slow),
        pytest.param(OPEN, SCARCE, "state/callsd.db-wal", marks=pytest.mark.slow),
        pytest.param(READ, BROKEN, "state/callsd.db", marks=pytest.mark.slow),
        pytest.param(READ, BROKEN, "state/tokens.json", marks=pytest.mark.slow),
        pytest.param(STAT, BROKEN, "state/uploads", marks=pytest.mark.slow),
        pytest.param(UNLINK, BROKEN, "run/workers/door.sock", marks=pytest.mark.slow),
    ],
)
def test_start(daemon: StartDaemon, calls: str, error: str, place: str) -> None:
    """A daemon that cannot start for its disk says for which file, and changes nothing."""
    one = daemon()
    api = one.api()
    waiting = one.create(api, "until go").job.name
    one.wait(api, waiting, JOB_STATE_RUNNING)
    one.kill()
    code, said = start_failing(one, calls, error, one.root / place)

    assert code == EXIT_STATE_UNUSABLE
    assert str(one.root / place).removesuffix("-wal") in said
    assert "Traceback" not in said
    (one.root / "tmp" / "go").touch()
    api = one.start().api()
    ended = one.wait(api, waiting)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)
