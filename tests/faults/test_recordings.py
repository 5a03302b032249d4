# SPDX-License-Identifier: Apache-2.0
"""Everything that a recording needs is killed in the middle of it, and the recording is there.

What each death costs is printed: `pytest tests/faults/test_recordings.py -rP | grep lost`.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job
from callsd.v1.recording_pb2 import RECORDING_PROFILE_LOW, RecordingSpec
from callsd_bench.recording.measure import measure
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
"""A death is noticed within 0.2 s when nobody else uses the machine; then things are started."""

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


def frames(one: Daemon, job: Job) -> int:
    """How many are recorded."""
    return one.client().get_job(job).progress.recording.frame_count


def fetched(one: Daemon, job: Job, target: Path) -> Path:
    """The finished recording."""
    one.client().fetch_artifact(job, "recording.mp4", target)
    return target


def first_start(one: Daemon, job: Job, *, with_worker: bool = False) -> float:
    """How long it took to start what a recording needs, on this machine and as busy as it is.

    What is lost is the time of another start, so that this is what it is held against.
    """
    now = one.client().get_job(job)
    began = now.create_time if with_worker else now.start_time
    piece = find_pieces(one.worker_directory(job.name))[0]
    return piece.start_seconds - began.ToMicroseconds() / 1e6


def finish(one: Daemon, job: Job) -> Job:
    """End it, and wait for its file."""
    client = one.client()
    client.stop_job(job)
    return client.wait_job(job, timeout_seconds=END_SECONDS)


def victim(one: Daemon, job: Job, is_it: Chooser) -> int:
    """The process of a recording that `is_it` tells."""
    for child in psutil.Process(one.worker(job.name)).children(recursive=True):
        # Some of the browser's helpers end by themselves meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_it(child):
                return child.pid
    raise AssertionError("no such process")


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


def check(one: Daemon, job: Job, path: Path, *, what: str, most_seconds: float) -> None:
    """The recording is whole but for what the death has cost, which is printed and bounded."""
    result = job.recording_result
    found = measure(fetched(one, job, path), fps=FPS)
    print(  # noqa: T201 - for people
        f"lost {found.missing_seconds:.1f} s after kill -9 of {what}, of {most_seconds:.1f} s"
    )

    assert job.state == JOB_STATE_SUCCEEDED
    assert found.missing_seconds < most_seconds
    assert found.duration_seconds == pytest.approx(result.duration.ToMilliseconds() / 1000, abs=0.5)
    # Nothing of it goes on.
    assert one.worker_pids(job.name) == []


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is killed, and how many first starts may be lost by that."""

    what: str
    is_it: Chooser
    starts: float = 3.0
    """Of all that a recording needs; less when it is only a part of it that is started again."""


CASES = (
    Case(what="the capture", is_it=running("callsd_worker.recorder.capture"), starts=1.0),
    Case(what="the page", is_it=is_renderer),
    Case(what="the browser", is_it=is_browser),
    Case(what="the display", is_it=named("Xvfb")),
    Case(what="the sound server", is_it=named("pulseaudio")),
)


@pytest.mark.alone
class TestKilled:
    """kill -9 in the middle of a recording."""

    @pytest.mark.scenario(3, "whatever a recording needs is killed: it goes on, and is whole")
    @pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
    def test_helpers(
        self, daemon: StartDaemon, pages: PageServer, tmp_path: Path, case: Case
    ) -> None:
        """What a recording needs is started again, and the pieces are joined by the clock."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        job = begin(one, spec(pages))
        most_seconds = NOTICED_SECONDS + case.starts * first_start(one, job)
        os.kill(victim(one, job, case.is_it), signal.SIGKILL)
        eventually(
            lambda: one.client().get_job(job).progress.recording.segment == 2,
            "a second piece is recorded",
            seconds=START_SECONDS,
        )
        await_frames(one, job, beyond=frames(one, job) + 2 * FPS)
        ended = finish(one, job)

        check(one, ended, tmp_path / "a.mp4", what=case.what, most_seconds=most_seconds)
        assert (ended.attempt, ended.recording_result.segment_count) == (1, 2)
        assert not ended.recording_result.cut_short
        assert [notice.code for notice in ended.notices] == ["RECORDING_JOINED"]

    @pytest.mark.scenario(3, "whatever a recording needs is killed: it goes on, and is whole")
    def test_worker(self, daemon: StartDaemon, pages: PageServer, tmp_path: Path) -> None:
        """Another worker goes on at once; nothing of the first one stays."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        job = begin(one, spec(pages))
        most_seconds = NOTICED_SECONDS + 3 * first_start(one, job, with_worker=True)
        os.kill(one.worker(job.name), signal.SIGKILL)
        eventually(
            lambda: one.client().get_job(job).attempt == 2, "another worker", seconds=START_SECONDS
        )
        eventually(
            lambda: one.client().get_job(job).progress.recording.segment == 2,
            "a second piece is recorded",
            seconds=START_SECONDS,
        )
        await_frames(one, job, beyond=2 * FPS)
        ended = finish(one, job)

        check(one, ended, tmp_path / "a.mp4", what="the worker", most_seconds=most_seconds)
        assert ended.recording_result.segment_count == 2
        assert [notice.code for notice in ended.notices] == ["WORKER_RESTARTED", "RECORDING_JOINED"]

    @pytest.mark.scenario(2, "a recording goes on without a gap while no daemon runs")
    def test_daemon(self, daemon: StartDaemon, pages: PageServer, tmp_path: Path) -> None:
        """The worker goes on without the daemon, and the next one takes it up: no gap at all."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        job = begin(one, spec(pages))
        worker = one.worker(job.name)
        one.kill()
        one.start()
        await_frames(one, job, beyond=frames(one, job) + 2 * FPS)

        assert one.worker(job.name) == worker
        ended = finish(one, job)
        check(one, ended, tmp_path / "a.mp4", what="the daemon", most_seconds=1.0)
        assert (ended.attempt, ended.recording_result.segment_count) == (1, 1)

    @pytest.mark.scenario(7, "everything dies at once: the recording goes on afterwards")
    def test_everything(self, daemon: StartDaemon, pages: PageServer, tmp_path: Path) -> None:
        """Daemon and workers die together, as with a machine: the next daemon goes on."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        job = begin(one, spec(pages))
        most_seconds = NOTICED_SECONDS + 3 * first_start(one, job, with_worker=True)
        one.kill()
        for pid in one.worker_pids(job.name):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        one.start()
        most_seconds += time.monotonic() - began
        eventually(
            lambda: one.client().get_job(job).progress.recording.segment == 2,
            "a second piece is recorded",
            seconds=START_SECONDS,
        )
        await_frames(one, job, beyond=2 * FPS)
        ended = finish(one, job)

        check(one, ended, tmp_path / "a.mp4", what="everything", most_seconds=most_seconds)


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
