# SPDX-License-Identifier: Apache-2.0
"""Recordings from a request to a file, with real browser, display, sound and encoder."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from callsd import Client
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from callsd.v1.recording_pb2 import (
    PICTURE_STATE_MOVING,
    RECORDING_PROFILE_LOW,
    RECORDING_PROFILE_MEDIUM,
    RecordingSpec,
)
from callsd_bench.recording.measure import measure
from callsd_bench.recording.pages import PageServer
from callsd_worker.recorder.program_host import program
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


READY = "window.callsClient?.connected"
OVER = "window.callsClient.closed"
SECRET_FRAGMENT = "fragment-that-nobody-may-know"
SECRET_HEADER = "header-that-nobody-may-know"
END_SECONDS = 60.0


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """The pages to record."""
    with PageServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with the real worker."""
    return shared_daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})


@pytest.fixture
def client(running: Daemon) -> Client:
    """A connection to it."""
    return running.client()


def await_health(client: Client, job: Job) -> Job:
    """The job, once it has recorded for some seconds."""

    def look() -> Job | None:
        now = client.get_job(job)
        assert not now.HasField("failure"), now.failure
        return now if now.progress.recording.frame_count > 60 else None

    found = eventually(look, "it records", seconds=30)
    assert found is not None
    return found


def command_lines() -> str:
    """Command line and environment of every process."""
    found = []
    for process in psutil.process_iter():
        for name in ("cmdline", "environ"):
            try:
                found.append(Path(f"/proc/{process.pid}/{name}").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


class TestRecording:
    """One that ends as it should."""

    @pytest.mark.alone
    def test_whole(
        self, running: Daemon, client: Client, pages: PageServer, tmp_path: Path
    ) -> None:
        """The page closes its call, and there are a film in step with its sound and a picture.

        Nearly all that the page paints is in the film, each picture readable, and no more.
        """
        spec = RecordingSpec(
            url=pages.url("typical", end=10),
            url_fragment=SECRET_FRAGMENT,
            headers={"X-Calls-Recorder": SECRET_HEADER},
            profile=RECORDING_PROFILE_MEDIUM,
            ready_expression=READY,
            over_expression=OVER,
        )
        created = client.create_job(spec).job
        health = await_health(client, created).progress.recording
        seen = command_lines()
        ended = client.wait_job(created, timeout_seconds=END_SECONDS)
        target = tmp_path / "recording.mp4"
        client.fetch_artifact(ended, "recording.mp4", target)
        client.fetch_artifact(ended, "thumbnail.jpg", tmp_path / "thumbnail.jpg")
        found = measure(target, fps=20)
        log = (running.job_directory(ended.name) / "log.txt").read_text()

        assert ended.state == JOB_STATE_SUCCEEDED
        assert (found.width, found.height) == (1280, 720)
        assert found.unique_fps > 17
        assert found.unique_ratio <= 1.02
        assert found.unreadable_ratio < 0.02
        # A beep is heard when its flash is seen.
        assert found.sync_ms_end is not None
        assert abs(found.sync_ms_end) < 150
        assert 7 < found.duration_seconds < 12
        assert b"moov" in target.read_bytes()[:64]
        assert (tmp_path / "thumbnail.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
        # While it went on, it said how it was.
        assert health.picture == PICTURE_STATE_MOVING
        assert health.changed_frame_rate > 5
        # What the page alone may know reached it, and is nowhere else.
        page = next(one for one in pages.requests if "typical" in one.target)
        assert page.headers["x-calls-recorder"] == SECRET_HEADER
        for secret in (SECRET_FRAGMENT, SECRET_HEADER):
            assert secret not in seen
            assert secret not in log
            assert secret not in running.log
            assert secret not in str(ended)
        assert ended.recording.headers == {"X-Calls-Recorder": ""}
        workers = running.worker_directory(ended.name)
        eventually(lambda: not workers.exists(), "what it was made of is gone")

    def test_sound_alone(self, client: Client, pages: PageServer, tmp_path: Path) -> None:
        """Without picture there is a sound file and no thumbnail."""
        spec = RecordingSpec(url=pages.url("typical"), ready_expression=READY, audio_only=True)
        job = client.create_job(spec, max_duration_seconds=4).job
        ended = client.wait_job(job, timeout_seconds=END_SECONDS)
        client.fetch_artifact(ended, "recording.m4a", tmp_path / "a.m4a")
        probed = subprocess.run(
            [
                program("ffprobe"),
                "-v",
                "error",
                "-show_entries",
                "stream=codec_type",
                tmp_path / "a.m4a",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

        assert [one.name.rpartition("/")[2] for one in ended.artifacts] == ["recording.m4a"]
        assert "audio" in probed
        assert "video" not in probed

    def test_two_at_once(self, client: Client, pages: PageServer, tmp_path: Path) -> None:
        """Neither picture nor sound of one recording gets into another.

        Each is done after max_duration, with a file of that length.
        """
        options = {"profile": RECORDING_PROFILE_LOW, "ready_expression": READY}
        loud = RecordingSpec(url=pages.url("typical"), **options)  # type: ignore[arg-type]
        still = RecordingSpec(url=pages.url("typical", beeps=0, strip=0), **options)  # type: ignore[arg-type]
        jobs = [client.create_job(spec, max_duration_seconds=6).job for spec in (loud, still)]
        ended = [client.wait_job(job, timeout_seconds=END_SECONDS) for job in jobs]
        files = [tmp_path / "loud.mp4", tmp_path / "still.mp4"]
        for job, file in zip(ended, files, strict=True):
            client.fetch_artifact(job, "recording.mp4", file)
        levels = [
            subprocess.run(
                [program("ffmpeg"), "-i", file, "-af", "volumedetect", "-vn", "-f", "null", "-"],
                check=True,
                capture_output=True,
                text=True,
            ).stderr
            for file in files
        ]

        found = measure(files[0], fps=15)
        assert found.unique_fps > 1
        assert found.unreadable_ratio < 0.1
        for job in ended:
            assert (job.state, job.recording_result.cut_short) == (JOB_STATE_SUCCEEDED, False)
            assert 2 < job.recording_result.duration.ToMilliseconds() / 1000 < 12
        assert "max_volume: -91.0 dB" not in levels[0]
        assert "max_volume: -91.0 dB" in levels[1]


class TestRefused:
    """Pages that cannot be recorded."""

    @pytest.mark.reason("PAGE_UNAVAILABLE")
    def test_no_such_page(self, client: Client, pages: PageServer) -> None:
        """A page that answers with an error is told by its status."""
        spec = RecordingSpec(url=pages.url("nothing"), ready_timeout={"seconds": 2})  # type: ignore[arg-type]
        ended = client.wait_job(client.create_job(spec).job, timeout_seconds=END_SECONDS)

        assert failure(ended) == "PAGE_UNAVAILABLE"
        assert "404" in ended.failure.message

    @pytest.mark.reason("PAGE_UNAVAILABLE")
    def test_never_ready(self, client: Client, pages: PageServer) -> None:
        """A page that does not become ready is given its time and no more."""
        spec = RecordingSpec(
            url=pages.url("typical"),
            ready_expression="window.nothing",
            ready_timeout={"seconds": 2},  # type: ignore[arg-type]
        )
        before = time.monotonic()
        ended = client.wait_job(client.create_job(spec).job, timeout_seconds=END_SECONDS)

        assert failure(ended) == "PAGE_UNAVAILABLE"
        assert "ready_expression" in ended.failure.message
        assert time.monotonic() - before < 20

    @pytest.mark.reason("CAPTURE_UNAVAILABLE")
    def test_nothing_installed(self, daemon: StartDaemon, tmp_path: Path) -> None:
        """Without the programs that it needs, the error names the package."""
        one = daemon(is_real=True, machine=None, env={"PATH": str(tmp_path)})
        job = one.client().create_job(RecordingSpec(url="http://127.0.0.1:1/")).job
        ended = one.client().wait_job(job, timeout_seconds=END_SECONDS)

        assert failure(ended) == "CAPTURE_UNAVAILABLE"
        assert "apt install xvfb" in ended.failure.message

    def test_stopped_before_it_began(self, client: Client) -> None:
        """A recording that is stopped while its page loads is cancelled at once."""
        spec = RecordingSpec(url="http://127.0.0.1:1/", ready_timeout={"seconds": 60})  # type: ignore[arg-type]
        job = client.create_job(spec).job
        eventually(lambda: client.get_job(job).progress.phase == "loading", "it loads", seconds=30)
        client.stop_job(job)

        assert client.wait_job(job, timeout_seconds=20).artifacts == []


def test_browser_is_not_root(running: Daemon, client: Client, pages: PageServer) -> None:
    """Whoever runs the daemon, the browser runs as an ordinary user, with its sandbox on."""
    spec = RecordingSpec(
        url=pages.url("typical"), profile=RECORDING_PROFILE_LOW, ready_expression=READY
    )
    job = client.create_job(spec).job
    await_health(client, job)
    worker = psutil.Process(running.worker(job.name))
    browsers = [one for one in worker.children(recursive=True) if one.name().startswith("chrom")]
    users = {one.uids().effective for one in browsers}
    flags = {flag for one in browsers for flag in one.cmdline()}
    client.stop_job(job)
    client.wait_job(job, timeout_seconds=END_SECONDS)

    assert browsers
    assert 0 not in users
    assert os.geteuid() in (0, *users)
    assert "--no-sandbox" not in flags
