# SPDX-License-Identifier: Apache-2.0
"""The client with a real daemon."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from callsd import (
    AccessError,
    AsyncClient,
    Bookmark,
    CapacityError,
    Client,
    ConflictError,
    DeadlineError,
    Interrupted,
    JobChanged,
    JobDeleted,
    NotFoundError,
    OutOfRangeError,
    WatchEvent,
    WatchPosition,
    job_filter,
)
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
)
from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from tests.helpers.daemon import Daemon
from tests.helpers.waiting import eventually


StartDaemon = Callable[..., Daemon]


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon) -> Daemon:
    """One daemon for the tests that leave it as it was."""
    return shared_daemon()


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of it."""
    with Client(running.address, token_file=running.token_file) as found:
        yield found


def spec(daemon: Daemon, script: str = "succeed") -> TranscriptionSpec:
    """A job whose scripted worker does `script`."""
    track = Track(path=str(daemon.track), speaker="Ada")
    return TranscriptionSpec(tracks=[track], initial_prompt=script)


class TestJobs:
    """From request to result."""

    def test_create_wait_fetch(self, client: Client, running: Daemon, tmp_path: Path) -> None:
        """A job is made, ends, and hands out what it made."""
        created = client.create_job(spec(running), labels={"call": "one"}).job
        ended = client.wait_job(created, timeout_seconds=30)
        client.fetch_artifact(ended, "transcript.vtt", tmp_path / "t.vtt")

        assert ended.state == JOB_STATE_SUCCEEDED
        assert dict(ended.labels) == {"call": "one"}
        assert (tmp_path / "t.vtt").read_bytes() == b"WEBVTT\n"
        assert client.get_job(created.name.removeprefix("jobs/")) == ended

    def test_fetch_waits_for_a_daemon_that_restarts(
        self, daemon: StartDaemon, tmp_path: Path
    ) -> None:
        """A download that begins while the daemon is away has what it asked for when it is back."""
        real = daemon()
        with (
            Client(real.address, token_file=real.token_file) as client,
            ThreadPoolExecutor() as pool,
        ):
            ended = client.wait_job(client.create_job(spec(real)).job, timeout_seconds=30)
            real.kill()
            fetching = pool.submit(
                client.fetch_artifact, ended, "transcript.vtt", tmp_path / "t.vtt"
            )
            real.start()
            fetching.result(timeout=30)

        assert (tmp_path / "t.vtt").read_bytes() == b"WEBVTT\n"

    def test_failed_job_is_returned(self, client: Client, running: Daemon) -> None:
        """`wait_job` tells of a failure by the job, not by an exception."""
        created = client.create_job(spec(running, "fail INPUT_INVALID")).job

        assert client.wait_job(created, timeout_seconds=30).state == JOB_STATE_FAILED

    def test_list_goes_over_all_pages(self, client: Client, running: Daemon) -> None:
        """The iterator hides the pages."""
        label = {"test": "pages"}
        made = [client.create_job(spec(running), labels=label).job.name for _ in range(5)]

        found = client.list_jobs(job_filter(labels=label), page_size=2)

        assert [job.name for job in found] == made[::-1]

    def test_stop_and_delete(self, client: Client, running: Daemon) -> None:
        """A running job is stopped, then removed; it cannot be removed before."""
        job = client.create_job(spec(running, "sleep")).job
        eventually(lambda: client.get_job(job).state == JOB_STATE_RUNNING, "it runs")
        with pytest.raises(ConflictError):
            client.delete_job(job)
        client.stop_job(job)

        assert client.wait_job(job, timeout_seconds=30).state == JOB_STATE_CANCELLED
        client.delete_job(job)
        with pytest.raises(NotFoundError):
            client.get_job(job)

    def test_wait_has_a_deadline(self, client: Client, running: Daemon) -> None:
        """A wait ends when its time is over; the job goes on."""
        job = client.create_job(spec(running, "sleep")).job
        with pytest.raises(DeadlineError):
            client.wait_job(job, timeout_seconds=0.3)

        assert client.get_job(job).state != JOB_STATE_FAILED
        client.stop_job(job)

    def test_wait_for_nothing(self, client: Client) -> None:
        """An unknown job is an error at once."""
        with pytest.raises(NotFoundError):
            client.wait_job("0" * 20)

    def test_no_queue_is_a_capacity_error(self, client: Client, running: Daemon) -> None:
        """With no_queue, a full machine refuses with figures."""
        jobs = [client.create_job(spec(running, "sleep")).job for _ in range(4)]
        with pytest.raises(CapacityError) as caught:
            client.create_job(spec(running), no_queue=True)
        for job in jobs:
            client.stop_job(job)

        assert caught.value.required is not None
        assert caught.value.available is not None
        assert caught.value.required > caught.value.available

    def test_validate_only_makes_nothing(self, client: Client, running: Daemon) -> None:
        """The verdict comes without a job."""
        answer = client.create_job(spec(running), labels={"v": "1"}, validate_only=True)

        assert answer.job.name == ""
        assert answer.admission.reservation.cores > 0
        assert list(client.list_jobs(job_filter(labels={"v": "1"}))) == []

    def test_upload_is_a_track(self, client: Client, running: Daemon, tmp_path: Path) -> None:
        """What was uploaded can be transcribed."""
        (tmp_path / "a.wav").write_bytes(b"RIFF" * 100_000)
        upload = client.upload_media(tmp_path / "a.wav")
        track = Track(upload=upload.name, speaker="Ada")
        job = client.create_job(TranscriptionSpec(tracks=[track], initial_prompt="succeed")).job

        assert client.wait_job(job, timeout_seconds=30).state == JOB_STATE_SUCCEEDED

    def test_log_follows_to_the_end(self, client: Client, running: Daemon) -> None:
        """Following a log ends with the job."""
        job = client.create_job(spec(running)).job
        whole = b"".join(client.read_log(job, follow=True))

        assert client.get_job(job).state == JOB_STATE_SUCCEEDED
        assert b"".join(client.read_log(job)) == whole


class TestServer:
    """What the server tells of itself."""

    def test_info_capacity_models(self, client: Client) -> None:
        """Each answers with what it should."""
        with closing(client.watch_capacity()) as changes:
            watched = next(changes)

        assert client.is_serving()
        assert client.get_server_info().version
        assert client.get_capacity().cores.total == 4.0
        assert watched.cores.total == 4.0
        assert "tiny.test" in {model.name for model in client.list_models()}

    def test_token_is_needed(self, running: Daemon, tmp_path: Path) -> None:
        """A wrong token is an AccessError, and health needs none."""
        (tmp_path / "token").write_text("callsd_wrong")
        with Client(running.address, token_file=tmp_path / "token") as stranger:
            assert stranger.is_serving()
            with pytest.raises(AccessError):
                stranger.get_server_info()


class TestWatch:
    """Changes, through whatever happens to the daemon."""

    def test_survives_a_killed_daemon(self, daemon: StartDaemon) -> None:
        """One watch sees each change once, in order, over a kill -9 of the daemon."""
        real = daemon()
        seen: list[WatchEvent] = []
        with Client(real.address, token_file=real.token_file) as client:
            with closing(client.watch_jobs(timeout_seconds=60)) as events:
                seen.append(next(events))
                first = client.create_job(spec(real)).job.name
                _read_until_ended(events, seen, first)
                real.kill()
                seen.append(next(events))
                real.start()
                second = client.create_job(spec(real)).job.name
                _read_until_ended(events, seen, second)
            told = [event.revision for event in seen if isinstance(event, JobChanged)]
            final = {job.name: job for job in client.list_jobs()}

        assert any(isinstance(event, Interrupted) for event in seen)
        assert told == sorted(set(told))
        assert {first, second} == final.keys()
        assert all(job.revision in told for job in final.values())

    def test_resumes_from_a_bookmark(self, client: Client, running: Daemon) -> None:
        """A later watch begins after the position: what came before is not told again."""
        client.wait_job(client.create_job(spec(running)).job, timeout_seconds=30)
        with closing(client.watch_jobs()) as events:
            position = next(event.position for event in events if isinstance(event, Bookmark))
        job = client.create_job(spec(running)).job.name
        with closing(client.watch_jobs(resume=position, timeout_seconds=30)) as events:
            changed = next(event for event in events if isinstance(event, JobChanged))

        assert changed.job.name == job
        assert changed.job.state == JOB_STATE_QUEUED or changed.revision == position.revision + 1

    def test_foreign_position_is_refused(self, client: Client) -> None:
        """A position of another database is no position here."""
        position = WatchPosition(database_id="other", revision=1)
        with closing(client.watch_jobs(resume=position)) as events, pytest.raises(OutOfRangeError):
            next(events)

    def test_deletion_is_told(self, client: Client, running: Daemon) -> None:
        """A watcher learns that a job has gone."""
        job = client.wait_job(client.create_job(spec(running)).job, timeout_seconds=30)
        with closing(client.watch_jobs(job_filter(names=[job.name]), timeout_seconds=30)) as events:
            assert isinstance(next(events), JobChanged)
            client.delete_job(job)
            deleted = next(event for event in events if not isinstance(event, Bookmark))

        assert isinstance(deleted, JobDeleted)
        assert deleted.name == job.name


class TestAsyncClient:
    """The same from asyncio."""

    async def test_create_watch_wait_fetch(self, running: Daemon, tmp_path: Path) -> None:
        """All ways of calling work side by side in one loop."""
        async with AsyncClient(running.address, token_file=running.token_file) as client:
            (tmp_path / "a.wav").write_bytes(b"RIFF" * 100_000)
            upload = await client.upload_media(tmp_path / "a.wav")
            wanted = TranscriptionSpec(
                tracks=[Track(upload=upload.name, speaker="Ada")], initial_prompt="succeed"
            )
            jobs = [(await client.create_job(wanted)).job for _ in range(3)]
            ended = await asyncio.gather(
                *(client.wait_job(job, timeout_seconds=30) for job in jobs)
            )
            names = {job.name async for job in client.list_jobs(page_size=2)}
            async with aclosing(client.watch_capacity()) as changes:
                capacity = await anext(changes)
            await client.fetch_artifact(ended[0], "transcript.vtt", tmp_path / "t.vtt")

        assert [job.state for job in ended] == [JOB_STATE_SUCCEEDED] * 3
        assert {job.name for job in jobs} <= names
        assert capacity.cores.total == 4.0
        assert (tmp_path / "t.vtt").read_bytes() == b"WEBVTT\n"

    async def test_cancelled_wait_leaves_the_job(self, running: Daemon) -> None:
        """Cancelling a wait cancels the call, nothing else."""
        async with AsyncClient(running.address, token_file=running.token_file) as client:
            job = (await client.create_job(spec(running, "sleep"))).job
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.wait_job(job)
            found = await client.get_job(job)
            await client.stop_job(job)

        assert found.state not in {JOB_STATE_FAILED, JOB_STATE_CANCELLED}


def _read_until_ended(events: Iterator[WatchEvent], seen: list[WatchEvent], name: str) -> None:
    """Read until a job has succeeded."""
    for event in events:
        seen.append(event)
        if isinstance(event, JobChanged) and _has_succeeded(event.job, name):
            return


def _has_succeeded(job: Job, name: str) -> bool:
    return job.name == name and job.state == JOB_STATE_SUCCEEDED
