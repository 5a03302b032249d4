# SPDX-License-Identifier: Apache-2.0
"""Workers that share no disk and no user with the daemon, and reach it by TLS alone."""

import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from callsd.v1.recording_pb2 import RECORDING_PROFILE_LOW, RecordingSpec
from callsd_bench.recording.measure import measure
from callsd_bench.recording.pages import PageServer
from callsd_daemon.host import processes
from callsd_ipc.names import JOB_VARIABLE
from tests.conftest import StartDaemon
from tests.helpers.captions import Sender, artifact, begin_call, end_call
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.detached import USER
from tests.helpers.ports import free_port
from tests.helpers.speech import chunks, speech
from tests.helpers.transcripts import JOB_SECONDS, submit, transcribe
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="takes root: workers become another user in a mount namespace"
)

TLS = Path(__file__).parents[1] / "rpc" / "tls"
LONG = SAMPLE_CALL / "joe.ogg"
"""Takes long enough for its worker to be seen at work."""

SHORT = SAMPLE_CALL / "nina.ogg"
FILES = ("transcript.vtt", "transcript.txt", "transcript.srt", "transcript.json")

StartDetached = Callable[..., Daemon]
Expected = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def detached(daemon: StartDaemon) -> Iterator[StartDetached]:
    """Starts daemons whose workers are detached."""
    tops: list[str] = []

    def start(**environment: str) -> Daemon:
        top = tempfile.mkdtemp(prefix="callsd-detached-", dir="/var/tmp")
        tops.append(top)
        one = daemon(
            is_started=False,
            is_real=True,
            env={"CALLSD_TEST_DETACHED": top, **environment},
            config={
                "workers": {"listen": f"localhost:{free_port()}"},
                "server": {
                    "tls_certificate": str(TLS / "cert.pem"),
                    "tls_key": str(TLS / "key.pem"),
                },
            },
        )
        one.env["CALLSD_TEST_HIDDEN"] = str(one.root)
        return one.start()

    yield start
    for pid in workers(tops=tops):
        os.kill(pid, signal.SIGKILL)
    for top in tops:
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="module")
def expected(shared_daemon: StartDaemon, models_directory: Path) -> Expected:
    """What a worker beside the daemon writes about a track."""
    one = shared_daemon(is_real=True)
    return functools.cache(lambda track: files_of(one, transcribe(one, one.api(), track)))


def files_of(one: Daemon, job: Job) -> dict[str, bytes]:
    """The files of a job that has succeeded, as a client is given them."""
    assert job.state == JOB_STATE_SUCCEEDED, job
    found = {}
    for name in FILES:
        target = one.root / name
        one.client().fetch_artifact(job, name, target)
        found[name] = target.read_bytes()
    return found


def workers(name: str = "", *, tops: Sequence[str] = ("",)) -> list[int]:
    """Processes of a job, or of all jobs, that are the other user's and live below `tops`."""
    mark = f"{JOB_VARIABLE}={name.removeprefix('jobs/')}".encode()
    homes = tuple(f"HOME={top}".encode() for top in tops)
    found = []
    for pid in processes.pids():
        path = processes.PROC / str(pid)
        try:
            is_theirs = path.stat().st_uid == USER
            environ = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_below = any(entry.startswith(homes) for entry in environ)
        if is_theirs and is_below and any(entry.startswith(mark) for entry in environ):
            found.append(pid)
    return found


def phase_is(one: Daemon, name: str, phase: str) -> None:
    """Wait until a job is so far."""
    api = one.api()
    eventually(lambda: one.job(api, name).progress.phase == phase, phase, seconds=JOB_SECONDS)


class TestTranscription:
    """Media and models go to the worker, and files come back, through its session."""

    def test_the_files_are_the_same(self, detached: StartDetached, expected: Expected) -> None:
        """A worker without a disk in common sees nothing, and writes what one with it does."""
        one = detached()
        api = one.api()
        name = submit(one, api, LONG)
        phase_is(one, name, "recognising")
        (pid,) = workers(name)
        assert list(Path(f"/proc/{pid}/root{one.root}").iterdir()) == []
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()

        assert files_of(one, one.wait(api, name, seconds=JOB_SECONDS)) == expected(LONG)

    @pytest.mark.parametrize("phase", ["starting", "recognising"])
    def test_its_worker_is_killed(
        self, detached: StartDetached, expected: Expected, phase: str
    ) -> None:
        """Another worker does it again, with the same result."""
        one, track = detached(), SHORT if phase == "starting" else LONG
        api = one.api()
        name = submit(one, api, track)
        if phase != "starting":
            phase_is(one, name, phase)
        for pid in eventually(lambda: workers(name), "the worker runs"):
            os.kill(pid, signal.SIGKILL)
        ended = one.wait(api, name, seconds=JOB_SECONDS)

        assert files_of(one, ended) == expected(track)
        assert [notice.code for notice in ended.notices] == ["WORKER_RESTARTED"]

    @pytest.mark.parametrize(
        "failpoint",
        [
            "worker.running",
            "takeover.before_file=3",
            "takeover.before_outcome",
            "takeover.after_outcome",
        ],
    )
    def test_the_daemon_is_killed(
        self, detached: StartDetached, expected: Expected, failpoint: str
    ) -> None:
        """The worker goes on, and brings the next daemon what the last one did not get."""
        one = detached(CALLSD_FAILPOINTS=failpoint)
        name = submit(one, one.api(), SHORT)
        one.wait_dead(seconds=JOB_SECONDS)
        del one.env["CALLSD_FAILPOINTS"]
        one.start()
        ended = one.wait(one.api(), name, seconds=JOB_SECONDS)

        assert files_of(one, ended) == expected(SHORT)
        assert ended.attempt == 1

    def test_both_are_killed_at_the_end(self, detached: StartDetached, expected: Expected) -> None:
        """What the worker has left in its directory is brought by another one, not done again."""
        one = detached(CALLSD_FAILPOINTS="takeover.before_file=2")
        name = submit(one, one.api(), SHORT)
        one.wait_dead(seconds=JOB_SECONDS)
        for pid in workers(name):
            os.kill(pid, signal.SIGKILL)
        del one.env["CALLSD_FAILPOINTS"]
        one.start()
        ended = one.wait(one.api(), name, seconds=JOB_SECONDS)

        assert files_of(one, ended) == expected(SHORT)
        assert ended.attempt == 1


def test_captions(detached: StartDetached) -> None:
    """Live captions are heard, shown and kept; a captioner that is killed costs no word."""
    one = detached()
    api = one.api()
    pieces = chunks("nina", speech("nina", 0, 10))
    half = len(pieces) // 2
    name = begin_call(one, api)
    with Sender(api, name) as sender:
        sender.push(pieces[:half])
        sender.wait_worked_off()
        for pid in workers("captioner."):
            os.kill(pid, signal.SIGKILL)
        sender.push(pieces[half:])
        sender.finish()
    ended = end_call(one, api, name)

    assert ended.state == JOB_STATE_SUCCEEDED
    assert ended.captions_result.restart_count == 1
    text = artifact(one, name, "captions.txt").read_text()
    assert "customer" in text
    assert "WEBVTT" in artifact(one, name, "captions.vtt").read_text()


def test_recording(detached: StartDetached, tmp_path: Path) -> None:
    """A page is recorded, and the film comes whole, over a restart of the daemon too."""
    one = detached()
    with PageServer() as pages:
        spec = RecordingSpec(
            url=pages.url("typical"),
            profile=RECORDING_PROFILE_LOW,
            ready_expression="window.callsClient?.connected",
        )
        job = one.client().create_job(spec).job
        await_frames(one, job, beyond=15)
        one.kill()
        one.start()
        await_frames(one, job, beyond=60)
        one.client().stop_job(job)
        ended = one.client().wait_job(job, timeout_seconds=JOB_SECONDS)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1), ended
    one.client().fetch_artifact(ended, "recording.mp4", tmp_path / "film.mp4")
    measured = measure(tmp_path / "film.mp4", fps=15)

    # In one piece: the worker has not noticed anything.
    assert ended.recording_result.segment_count == 1
    assert measured.duration_seconds > 4
    assert measured.unreadable_ratio < 0.1


def await_frames(one: Daemon, job: Job, *, beyond: int) -> None:
    """Wait until a recording has more pictures than these."""
    client = one.client()

    def is_there() -> bool:
        return client.get_job(job).progress.recording.frame_count > beyond

    eventually(is_there, f"{beyond} pictures", seconds=JOB_SECONDS)
