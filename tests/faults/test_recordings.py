# SPDX-License-Identifier: Apache-2.0
"""Everything that a recording needs is killed in the middle of it, and the recording is there.

What each death costs is printed: `pytest tests/faults/test_recordings.py -rP | grep lost`.
"""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from callsd import Client
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job
from callsd.v1.recording_pb2 import RECORDING_PROFILE_LOW, RecordingSpec
from callsd_bench.recording.measure import measure, stills
from callsd_bench.recording.pages import PageServer
from callsd_worker.recorder.pieces import find_pieces
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


FPS = 15
START_SECONDS = 30.0
END_SECONDS = 60.0

NOTICED_SECONDS = 1.5
"""A death is noticed within 0.2 s when nobody else uses the machine; then things are started. Of a
second that the daemon is dead nothing is lost: it is what a picture may stand still."""

Chooser = Callable[[psutil.Process], bool]


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """The pages to record."""
    with PageServer() as server:
        yield server


def spec(pages: PageServer, **options: object) -> RecordingSpec:
    """A recording of four people, one of whom speaks."""
    fields: dict[str, object] = {
        "url": pages.url("typical"),
        "profile": RECORDING_PROFILE_LOW,
        "ready_expression": "window.callsClient?.connected",
        "over_expression": "window.callsClient.closed",
        **options,
    }
    return RecordingSpec(**fields)  # type: ignore[arg-type]


def begin(one: Daemon, recording: RecordingSpec) -> Job:
    """A recording that goes on; returns it once it has recorded some seconds."""
    client = one.client()
    job = client.create_job(recording).job
    await_frames(one, job, beyond=3 * FPS)
    return job


def await_frames(one: Daemon, job: Job, *, beyond: int) -> None:
    """Wait until more frames than these are recorded."""
    client = one.client()

    def count() -> bool:
        now = client.get_job(job)
        assert not now.HasField("failure"), now.failure
        return now.progress.recording.frame_count > beyond

    eventually(count, f"{beyond} frames are recorded", seconds=START_SECONDS)


def fetched(one: Daemon, job: Job, target: Path) -> Path:
    """The finished recording."""
    one.client().fetch_artifact(job, "recording.mp4", target)
    return target


def finish(one: Daemon, job: Job) -> Job:
    """End it, and wait for its file."""
    client = one.client()
    client.stop_job(job)
    return client.wait_job(job, timeout_seconds=END_SECONDS)


def named(name: str) -> Chooser:
    """Tells a program by its name."""
    return lambda process: process.name() == name


def running(module: str) -> Chooser:
    """Tells a program of ours."""
    return lambda process: module in process.cmdline()


def is_renderer(process: psutil.Process) -> bool:
    """Tells the process that shows the page."""
    return "--type=renderer" in process.cmdline()


def is_browser(process: psutil.Process) -> bool:
    """Tells the browser itself."""
    command = process.cmdline()
    return process.name().startswith("chrom") and not any("--type=" in word for word in command)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is killed, and what may be lost by that: some first starts, and a pause."""

    what: str
    is_it: Chooser
    starts: float = 2.0
    """Of all that a recording needs; less when it is only a part of it that is started again."""
    pause_seconds: float = 0.0
    """Before the page is shown again, as it was not there for long; twice as long the next time."""


ROUNDS = (
    (
        Case(what="the page", is_it=is_renderer, pause_seconds=1.0),
        Case(what="the display", is_it=named("Xvfb"), pause_seconds=1.0),
    ),
    (
        Case(what="the browser", is_it=is_browser, pause_seconds=2.0),
        Case(what="the sound server", is_it=named("pulseaudio"), pause_seconds=2.0),
    ),
    (
        Case(what="the capture", is_it=running("callsd_worker.recorder.piece_process"), starts=1.0),
        Case(what="the worker", is_it=running("callsd_worker"), starts=3.0),
    ),
)
"""Killed one after the other, in two recordings at once."""


class Victim:
    """A recording in which one thing after the other is killed."""

    def __init__(self, one: Daemon, pages: PageServer) -> None:
        self._one = one
        self.job = one.client().create_job(spec(pages)).job
        self._piece_count = 1
        self._frames: int | None = None
        """So many were there when this piece was first seen, since the last death."""
        self._deaths: list[tuple[str, float, float]] = []
        """What died, when in Unix time, and what may be lost by it, in seconds."""

    def goes_on(self, client: Client) -> bool:
        """Whether some seconds were recorded since the last death, in the piece that is due."""
        now = client.get_job(self.job)
        assert not now.HasField("failure"), now.failure
        progress = now.progress.recording
        if progress.segment != self._piece_count:
            return False
        if self._frames is None:
            self._frames = progress.frame_count
        return progress.frame_count > self._frames + 2 * FPS

    def note_start(self) -> None:
        """Note how long its start took, on this machine and as busy as it is.

        What is lost is the time of another start, so that this is what it is held against.
        """
        self._began_at = find_pieces(self._one.worker_directory(self.job.name))[0].start_seconds
        self._start_seconds = self._began_at - self.job.create_time.ToNanoseconds() / 1e9

    def kill(self, case: Case) -> None:
        """Kill something, of which another one is started."""
        worker = psutil.Process(self._one.worker(self.job.name))
        for process in (worker, *worker.children(recursive=True)):
            # Some of the browser's helpers end by themselves meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess):
                if case.is_it(process):
                    process.kill()
                    self.note(case.what, starts=case.starts, seconds=case.pause_seconds)
                    return
        raise AssertionError(f"there is no process of {case.what}")

    def note(
        self, what: str, *, starts: float = 0.0, seconds: float = 0.0, pieces: int = 1
    ) -> None:
        """Something dies: so many starts may be lost by it, and so many seconds more."""
        most_seconds = NOTICED_SECONDS + starts * self._start_seconds + seconds
        self._deaths.append((what, time.time(), most_seconds))
        self._piece_count += pieces
        self._frames = None

    def end(self, path: Path) -> Job:
        """Its end: it is whole but for what the deaths have cost, which is printed and bounded."""
        ended = self._one.client().wait_job(self.job, timeout_seconds=END_SECONDS)
        assert ended.state == JOB_STATE_SUCCEEDED
        result = ended.recording_result
        assert (result.segment_count, result.cut_short) == (self._piece_count, False)
        stood_still = stills(fetched(self._one, ended, path))
        self._check_losses(stood_still)
        seconds = result.duration.ToMilliseconds() / 1000
        assert stood_still[-1].sum() == pytest.approx(seconds, abs=0.5)
        # Nothing of it goes on.
        assert self._one.worker_pids(ended.name) == []
        return ended

    def _check_losses(self, stood_still: NDArray[np.float64]) -> None:
        begins = stood_still[:, 0] + self._began_at
        # What dies takes with it what it has not written yet, of the last second.
        times = [at - 2.0 for _, at, _ in self._deaths]
        for (what, _, most_seconds), since, until in zip(
            self._deaths, [0.0, *times[1:]], [*times[1:], math.inf], strict=True
        ):
            lost = stood_still[(begins >= since) & (begins < until), 1].max()
            print(f"lost {lost:.1f} s after kill -9 of {what}, of {most_seconds:.1f} s")  # noqa: T201 - for people
            assert lost < most_seconds, what


def await_both(one: Daemon, both: Sequence[Victim]) -> None:
    """Wait until both are recorded again."""
    client = one.client()
    eventually(
        lambda: not [each for each in both if not each.goes_on(client)],
        "both are recorded",
        seconds=2 * START_SECONDS,
    )


@pytest.mark.alone
@pytest.mark.timeout(240)
@pytest.mark.scenario(3, "whatever a recording needs is killed: it goes on, and is whole")
@pytest.mark.scenario(2, "a recording goes on without a gap while no daemon runs")
@pytest.mark.scenario(7, "everything dies at once: the recording goes on afterwards")
def test_killed(daemon: StartDaemon, pages: PageServer, tmp_path: Path) -> None:
    """What a recording needs is started again, and the pieces are joined by the clock.

    After a worker another one goes on at once. Without the daemon the worker goes on, and the next
    one takes it up: no gap at all. When all die together, as with a machine, the next daemon goes
    on.
    """
    one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
    both = [Victim(one, pages) for _ in range(2)]
    await_both(one, both)
    for each in both:
        each.note_start()
    for cases in ROUNDS:
        for each, case in zip(both, cases, strict=True):
            each.kill(case)
        await_both(one, both)

    workers = [one.worker(each.job.name) for each in both]
    for each in both:
        each.note("the daemon", pieces=0)
    began = time.monotonic()
    one.kill()
    one.start()
    restart_seconds = time.monotonic() - began
    await_both(one, both)
    assert [one.worker(each.job.name) for each in both] == workers
    assert [one.client().get_job(each.job).attempt for each in both] == [1, 2]

    for each in both:
        each.note("everything", starts=3.0, seconds=2.0 * restart_seconds)
    one.kill()
    for pid in one.worker_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    one.start()
    await_both(one, both)
    for each in both:
        one.client().stop_job(each.job)
    ended = [each.end(tmp_path / f"{number}.mp4") for number, each in enumerate(both)]

    assert [job.attempt for job in ended] == [2, 3]
    assert [[notice.code for notice in job.notices] for job in ended] == [
        ["WORKER_RESTARTED", "RECORDING_JOINED"],
        ["WORKER_RESTARTED", "WORKER_RESTARTED", "RECORDING_JOINED"],
    ]


class TestSaved:
    """What was recorded is kept when nobody can go on."""

    @pytest.mark.scenario(3, "what was recorded is kept when nobody can go on")
    def test_last_attempt(self, daemon: StartDaemon, pages: PageServer, tmp_path: Path) -> None:
        """Without another attempt, what there is becomes the result, and a notice says why."""
        one = daemon(
            is_real=True,
            machine=None,
            config={"admission": {"enforced": False}, "jobs": {"max_attempts": 1}},
        )
        job = begin(one, spec(pages))
        before = time.monotonic()
        os.kill(one.worker(job.name), signal.SIGKILL)
        ended = one.client().wait_job(job, timeout_seconds=END_SECONDS)

        assert time.monotonic() - before < START_SECONDS
        assert (ended.state, ended.recording_result.cut_short) == (JOB_STATE_SUCCEEDED, True)
        assert [notice.code for notice in ended.notices] == ["RECORDING_RECOVERED"]
        assert "WORKER_KILLED" in ended.notices[0].message
        assert measure(fetched(one, ended, tmp_path / "a.mp4"), fps=FPS).duration_seconds > 2

    @pytest.mark.reason("WORKER_KILLED")
    def test_nothing_to_save(self, daemon: StartDaemon) -> None:
        """A worker that dies before it has recorded leaves a failure, not an empty file."""
        one = daemon(
            is_real=True,
            machine=None,
            config={"admission": {"enforced": False}, "jobs": {"max_attempts": 1}},
        )
        client = one.client()
        never = RecordingSpec(url="http://127.0.0.1:1/", ready_timeout={"seconds": 60})  # type: ignore[arg-type]
        job = client.create_job(never).job
        one.wait(one.api(), job.name, JOB_STATE_RUNNING)
        os.kill(one.worker(job.name), signal.SIGKILL)

        assert failure(client.wait_job(job, timeout_seconds=END_SECONDS)) == "WORKER_KILLED"

    @pytest.mark.reason("RECORDING_LOST")
    def test_unreadable(self, daemon: StartDaemon, pages: PageServer) -> None:
        """When what was recorded cannot be read, the job says so and keeps what there is."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        job = begin(one, spec(pages))
        directory = one.worker_directory(job.name) / "pieces"
        (piece,) = directory.iterdir()
        os.truncate(piece, 0)
        ended = finish(one, job)

        assert failure(ended) == "RECORDING_LOST"
        assert piece.exists()
