# SPDX-License-Identifier: Apache-2.0
"""Jobs that belong together: what is accepted with a job, held for it, and kept for it."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from callsd_daemon.domain.admission import Host, Policy
from callsd_daemon.domain.captions import CAPTIONS, CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import TRANSCRIPTION, Track, TranscriptionSpec
from callsd_daemon.files import FilePool
from callsd_daemon.host.probe import Probe
from callsd_daemon.kinds import Kinds
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.capture import Capture
from callsd_daemon.kinds.stored import codec
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStore
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import JobFilter, ReadTransaction
from callsd_daemon.usecases.jobs import JobRequest, Jobs, job_id_of
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.conclusion import Grant
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.housekeeping import Housekeeper
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.runner import JobRunner
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.supervisor import Supervisor
from tests.helpers import models
from tests.helpers.jobs import CALL, MIB, NOW, SPECS, make_job
from tests.helpers.kinds import KINDS


CREATOR = "gateway/somebody"
CAPTURE_ID = job_id_of(CREATOR, "capture/t")
LATER_ID = job_id_of(CREATOR, "transcription/t")


class Machine(Probe):
    """As large as the test says."""

    def __init__(self) -> None:
        self.uses = {}
        self.cores = 4.0

    def sample(self, sessions: object) -> Host:
        """The same at any time."""
        return Host(
            cores_total=self.cores,
            cores_external=0.0,
            memory_total_bytes=16384 * MIB,
            memory_external_bytes=0,
            disk_total_bytes=16384 * MIB,
            disk_free_bytes=16384 * MIB,
        )


class NoCalls:
    """No call is captioned."""

    def names(self) -> set[str]:
        """There is no captioner."""
        return set()

    async def end(self) -> None:
        """Nothing is to be ended."""


class Runner(JobRunner):
    """Its workers do nothing until they are gone."""

    async def run(self, job: Job, token: str) -> Grant | None:
        """For ever."""
        await asyncio.Event().wait()
        raise AssertionError


def kinds(directory: Path) -> Kinds:
    """All kinds, with one model."""
    models.install(directory)
    store = ModelStore(directory)
    captions, capture = KINDS[CAPTIONS], KINDS[CAPTURE]
    transcription = KINDS[TRANSCRIPTION]
    assert isinstance(captions, Captions)
    assert isinstance(capture, Capture)
    assert isinstance(transcription, Transcription)
    captions = replace(captions, models=store)
    return {
        **KINDS,
        CAPTIONS: captions,
        CAPTURE: replace(capture, captions=captions),
        TRANSCRIPTION: replace(transcription, models=store),
    }


class Office:
    """Jobs and a housekeeper over a real store, on a machine of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "jobs"
        self.directory.mkdir()
        self.database = Database(directory / "callsd.db", codec())
        self.machine = Machine()
        self.clock = NOW
        known, calls = kinds(directory / "models"), cast(Calls, NoCalls())
        policy = Policy(headroom_cores=0.0, headroom_memory_bytes=0, headroom_disk_bytes=0)
        self.admission = AdmissionController(self.machine, policy, known, dict)
        launcher = cast(Launcher, SimpleNamespace(epoch="boot", names=set))
        runner = Runner(
            database=self.database,
            server=cast(WorkerServer, None),
            launcher=launcher,
            directory=self.directory,
            pool=FilePool(),
            kinds=known,
            calls=calls,
            now=lambda: self.clock,
            end_rules=EndRules(max_attempts=1, retention=timedelta(hours=1)),
        )
        self.supervisor = Supervisor(
            database=self.database,
            admission=self.admission,
            runner=runner,
            calls=calls,
            now=lambda: self.clock,
        )
        self.jobs = Jobs(
            database=self.database,
            kinds=known,
            admission=self.admission,
            supervisor=self.supervisor,
            streams=Streams(limit=1),
            directory=self.directory,
            now=lambda: self.clock,
        )
        self.housekeeper = Housekeeper(
            database=self.database,
            kinds=known,
            admission=self.admission,
            supervisor=self.supervisor,
            calls=calls,
            uploads=cast(Uploads, SimpleNamespace(remove_expired=lambda now, needed: None)),
            launcher=launcher,
            directory=self.directory,
            now=lambda: self.clock,
        )

    async def put(self, *jobs: Job) -> None:
        """Have these jobs, each with a directory."""
        await self.database.write(lambda tx: [tx.put(job) for job in jobs])
        for job in jobs:
            (self.directory / job.id).mkdir()

    async def ids(self) -> set[str]:
        """All jobs that there are."""
        return await self.database.read(lambda tx: tx.ids())

    async def job(self, job_id: str) -> Job:
        """One of them."""
        return await self.database.read(lambda tx: tx.find(job_id))


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """An office without jobs."""
    office = Office(tmp_path)
    yield office
    await office.supervisor.close()
    office.database.close()


def pair(*, model: str = models.NAME, offset: float = 0.0, is_owed: bool = True) -> JobRequest:
    """A capture, and the transcription that follows it."""
    track = Track(speaker="Call", capture=CAPTURE_ID, start_offset_seconds=offset)
    later = JobRequest(
        kind=TRANSCRIPTION,
        spec=TranscriptionSpec(tracks=(track,), model=model, call=CALL),
        secrets=SiteSecrets(token="later's"),
        is_owed=True,
        request_id="transcription/t",
        fingerprint="f",
    )
    return JobRequest(
        kind=CAPTURE,
        spec=CaptureSpec(call=CALL),
        secrets=SiteSecrets(token="capture's"),
        may_queue=False,
        is_owed=is_owed,
        request_id="capture/t",
        fingerprint="f",
        followed_by=later,
    )


class TestFollowedBy:
    """A job that is accepted with the one that it begins after."""

    async def test_both(self, office: Office) -> None:
        """The first one starts, the second one waits for it, and each has its own secrets."""
        made = await office.jobs.create(CREATOR, pair())

        assert made.job.id == CAPTURE_ID
        capture, later = await office.job(CAPTURE_ID), await office.job(LATER_ID)
        assert (capture.state, later.state) == (State.STARTING, State.QUEUED)
        assert (later.after_jobs, later.waiting_for) == ((CAPTURE_ID,), None)
        kept = await office.database.read(lambda tx: [tx.secrets(job) for job in (capture, later)])
        assert kept == [SiteSecrets(token="capture's"), SiteSecrets(token="later's")]
        await office.supervisor.dispatch()
        assert (await office.job(LATER_ID)).state is State.QUEUED

    async def test_at_once(self, office: Office) -> None:
        """There is never one without the other: both are written as one change of the store."""
        seen: list[list[str]] = []
        office.database.on_commit(lambda changes: seen.append([one.job_id for one in changes]))
        await office.jobs.create(CREATOR, pair())

        assert seen == [[CAPTURE_ID, LATER_ID]]

    async def test_none_of_both(self, office: Office) -> None:
        """What follows cannot be written: then the first one is not there either, nor runs."""
        with pytest.raises(msgspec.ValidationError):
            await office.jobs.create(CREATOR, pair(offset=math.nan))

        assert await office.ids() == set()
        assert await office.database.read(lambda tx: tx.active()) == ()
        assert (await office.jobs.create(CREATOR, pair())).job.state is State.STARTING

    async def test_refused(self, office: Office) -> None:
        """With a job that is refused nothing is kept of what would have followed it."""
        office.machine.cores = 0.01
        await office.admission.sample()
        with pytest.raises(CallsdError) as refusal:
            await office.jobs.create(CREATOR, pair(is_owed=False))

        assert refusal.value.reason is Reason.CANNOT_FIT
        assert await office.ids() == set()
        (kept,) = office.database._connection.execute("SELECT count(*) FROM secrets").fetchone()
        assert kept == 0

    async def test_asked_again(self, office: Office) -> None:
        """However often, and be it side by side: there is one of each, and neither changes."""
        made = await asyncio.gather(*(office.jobs.create(CREATOR, pair()) for _ in range(3)))
        revision = office.database.revision
        made.append(await office.jobs.create(CREATOR, pair()))

        assert {one.job.id for one in made} == {CAPTURE_ID}
        assert await office.ids() == {CAPTURE_ID, LATER_ID}
        assert office.database.revision == revision == 2

    async def test_is_there_already(self, office: Office) -> None:
        """One that was asked for alone goes on as it is: it is not begun anew."""
        there = make_job(id=LATER_ID, state=State.RUNNING)
        await office.put(there)
        await office.jobs.create(CREATOR, pair())

        assert await office.job(LATER_ID) == replace(there, revision=1)
        assert await office.ids() == {CAPTURE_ID, LATER_ID}

    async def test_cannot_be_done(self, office: Office) -> None:
        """What is owed is accepted although it cannot be done, and fails in its turn."""
        await office.jobs.create(CREATOR, pair(model="missing"))

        assert (await office.job(LATER_ID)).state is State.QUEUED

    async def test_stopped(self, office: Office) -> None:
        """Who stops the first one does not stop the second: it has its turn when that has ended."""
        await office.jobs.create(CREATOR, pair())
        stopping = await office.jobs.stop(CAPTURE_ID)
        assert stopping.state is State.STOPPING
        assert await office.database.read(lambda tx: tx.first_queued()) is None
        ended = stopping.cancelled(NOW, retention=None)
        await office.database.write(lambda tx: tx.put(ended))

        first = await office.database.read(lambda tx: tx.first_queued())
        assert first is not None
        assert first.id == LATER_ID


class TestPages:
    """Lists of jobs."""

    async def test_one_at_a_time(self, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many clients list, who reads something short waits for one page at most."""
        reading, most, read = 0, 0, office.database.read

        async def counted(work: Callable[[ReadTransaction], Any]) -> Any:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            try:
                return await read(work)
            finally:
                reading -= 1

        monkeypatch.setattr(office.database, "read", counted)
        pages = await asyncio.gather(
            *(
                office.jobs.page(JobFilter(), before=None, limit=10, render=lambda job, _: job.id)
                for _ in range(8)
            )
        )

        assert most == 1
        assert [list(jobs) for jobs, _, _ in pages] == [[]] * 8


class TestCompanion:
    """Room for what will be asked for in a moment."""

    def film(self, spec: CaptureSpec) -> JobRequest:
        """A recording, of which the capture will be asked for."""
        companion = JobRequest(kind=CAPTURE, spec=spec)
        return JobRequest(
            kind=RECORDING,
            spec=SPECS[RECORDING],
            may_queue=False,
            companion=companion,
            request_id="recording/r",
        )

    async def test_held_until_it_comes(self, office: Office) -> None:
        """Nothing of it is kept but the room, which it takes when it comes."""
        captioned = CaptureSpec(call=CALL, captions=CaptionsSpec(model=models.NAME))
        film = (await office.jobs.create(CREATOR, self.film(captioned))).job
        assert await office.ids() == {film.id}
        accounts = await office.database.read(office.admission.accounts)
        held = accounts["cores"].reserved - film.reservation.cores
        assert held > 0

        wish = replace(pair(), spec=captioned, companion_of=film.id)
        capture = (await office.jobs.create(CREATOR, wish)).job
        assert held == pytest.approx(capture.reservation.cores)
        assert await office.database.read(office.admission.accounts) == accounts

    async def test_cannot_be_done(self, office: Office) -> None:
        """A job is refused by the reason for which its companion would be."""
        captioned = CaptureSpec(call=CALL, captions=CaptionsSpec(model="missing"))
        with pytest.raises(CallsdError) as refusal:
            await office.jobs.create(CREATOR, self.film(captioned))

        assert refusal.value.reason is Reason.MODEL_UNKNOWN
        assert await office.ids() == set()


FILM = make_job(id="film", kind=RECORDING, state=State.SUCCEEDED, end_time=NOW, expire_time=NOW)
CAPTURED = make_job(
    id="captured", kind=CAPTURE, state=State.SUCCEEDED, end_time=NOW, expire_time=NOW
)
LATER = make_job(id="later", after_jobs=("film", "captured"))


@pytest.mark.parametrize("name", ["film", "captured"])
class TestKept:
    """What another job takes its sound from."""

    async def test_not_deleted(self, office: Office, name: str) -> None:
        """Its deletion is refused while that job has not ended, which is named."""
        await office.put(FILM, CAPTURED, LATER)
        with pytest.raises(CallsdError, match="jobs/later takes its sound from job") as refusal:
            await office.jobs.delete(name)
        assert refusal.value.reason is Reason.JOB_STATE_CONFLICT
        assert refusal.value.metadata == {"state": "succeeded", "job": "jobs/later"}
        assert (office.directory / name).exists()

        await office.database.write(lambda tx: tx.put(replace(LATER, state=State.FAILED)))
        await office.jobs.delete(name)
        assert name not in await office.ids()
        assert not (office.directory / name).exists()

    async def test_not_swept(self, office: Office, name: str) -> None:
        """Nor is it removed when its time is up, until that job has ended."""
        office.clock += timedelta(days=7)
        await office.put(FILM, CAPTURED, LATER)
        await office.housekeeper._sweep()
        assert name in await office.ids()
        assert (office.directory / name).exists()

        await office.database.write(lambda tx: tx.put(replace(LATER, state=State.SUCCEEDED)))
        await office.housekeeper._sweep()
        assert name not in await office.ids()
        assert not (office.directory / name).exists()
