# SPDX-License-Identifier: Apache-2.0
"""An outbox without its daemon: jobs are put into a store as those that do the work would put them.

The store, the outbox, its couriers and what they say to the server are the real ones.
"""

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from callsd_daemon.domain.capture import CAPTURE
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Artifact, Failure, Job, Outcome, Progress, State
from callsd_daemon.domain.mattermost import MattermostCall, SiteSecrets
from callsd_daemon.domain.recording import RECORDING, RecordingHealth
from callsd_daemon.domain.transcription import TRANSCRIPTION, TranscriptionResult
from callsd_daemon.domain.work import Result
from callsd_daemon.kinds.stored import codec
from callsd_daemon.mattermost.outbox import Outbox
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change
from callsd_daemon.store.transaction import Transaction
from callsd_ipc.names import ARTIFACTS, CAPTURING_PHASE, VIDEO_FILE
from tests.helpers.jobs import make_job
from tests.mattermost import state
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import MIB, Call, JobType
from tests.mattermost.threads import note_jobs
from tests.outbox.deliveries import CLIENT, Deliveries, name_of, sha256, transcript_of, works


BUDGET = timedelta(days=7)
RETENTION = timedelta(days=1)

BEGUN = {
    RECORDING: Progress(phase="recording", recording=RecordingHealth(frame_count=1)),
    CAPTURE: Progress(phase=CAPTURING_PHASE),
}
"""What workers report that have begun."""


class OutboxWorld(Deliveries):
    """The outbox, the store and the server. All of them belong to one event loop."""

    def __init__(self, server: MattermostServer, directory: Path) -> None:
        super().__init__(server)
        self._directory = directory / "jobs"
        self._database = Database(directory / "callsd.db", codec())
        self._outbox = Outbox(
            database=self._database,
            directory=self._directory,
            ca_file="",
            now=now,
            budget=lambda: BUDGET,
        )
        self._jobs: dict[str, Job] = {}
        """As they were committed last, by name."""
        self._problems: defaultdict[str, list[str]] = defaultdict(list)
        self._bugs: list[Exception] = []
        """What went wrong in callbacks, from which the event loop raises nothing."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["OutboxWorld"]:
        """The outbox works; in the end nothing of it has failed by a bug."""
        loop = asyncio.get_running_loop()
        self._database.on_commit(lambda changes: loop.call_soon_threadsafe(self._tell, changes))
        task = asyncio.create_task(self._outbox.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(self._database.close)
        bugs = [one for told in self._problems.values() for one in told if "a bug in" in one]
        assert bugs == []
        if self._bugs:
            raise ExceptionGroup("changes could not be told", self._bugs)

    def _tell(self, changes: list[Change]) -> None:
        try:
            self._note(changes)
        except Exception as bug:  # noqa: BLE001 - raised when the test is over
            self._bugs.append(bug)

    def _note(self, changes: list[Change]) -> None:
        self._outbox.notice(changes)
        for job in filter(None, (change.job for change in changes)):
            assert job.delivery is not None
            before = self._jobs.get(job.name)
            failures = before.delivery.failures if before and before.delivery else 0
            if job.delivery.failures > failures:
                self._problems[job.name].append(job.delivery.problem)
            self._jobs[job.name] = job

    # --- calls ---

    async def record(self, megabytes: float = 0.1, *, channel: str = "Town Square") -> Call:
        """A call whose recording goes on; the plugin knows that it has begun."""
        call = await self.begin(megabytes, channel=channel)
        await self.until_begun(call)
        return call

    async def begin(
        self,
        megabytes: float = 0.1,
        *,
        channel: str = "Town Square",
        is_captured: bool = False,
        has_begun: bool = True,
    ) -> Call:
        """A call that the plugin has handed in; `has_begun`: there is something of it."""
        call = self.server.start_call(channel=channel)
        recording = _row(call, JobType.RECORDING)
        transcription = _row(call, JobType.TRANSCRIBING) if is_captured else None
        note_jobs(self.server.state, call, recording, transcription)
        film = {VIDEO_FILE: os.urandom(round(megabytes * MIB))}
        await self._accept(call, recording, RECORDING, film)
        if transcription is not None:
            await self._accept(call, transcription, CAPTURE, {"0.ogg": os.urandom(100)})
            texts = {name: os.urandom(100) for name in ("transcript.vtt", "transcript.txt")}
            await self._accept(call, transcription, TRANSCRIPTION, texts)
        for work in works(call) if has_begun else ():
            await self.go_on(work)
        return call

    async def go_on(self, work: state.Job) -> None:
        """What does a job reports that it has begun."""
        await self._change(name_of(work), lambda job: job.with_progress(BEGUN[job.kind], now()))

    async def stop(self, call: Call, *, segments: int = 3) -> None:
        """What goes on of a call ends as it should; so much was said in it."""
        for work in works(call):
            if not self.job(name_of(work)).is_final:
                await self.end(name_of(work))
        if len(works(call)) > 1:
            result = TranscriptionResult(segment_count=segments, language="de")
            await self.end(transcript_of(call), result)

    # --- jobs ---

    def job(self, name: str) -> Job:
        """As it is now."""
        return self._jobs[name]

    async def end(
        self, name: str, result: Result | None = None, *, failure: Failure | None = None
    ) -> None:
        """A job ends with all of its files, or fails."""
        found = () if failure else tuple(map(_artifact, sorted(self.artifacts(name).iterdir())))

        def finished(job: Job) -> Job:
            results = {} if result is None else {job.kind: result}
            outcome = Outcome(failure=failure, artifacts=found, results=results)
            return job.finished(outcome, now(), retention=RETENTION)

        await self._change(name, finished)

    async def cancel(self, name: str) -> None:
        """A job ends on request, without a result."""
        await self._change(
            name, lambda job: job.stopping(now()).cancelled(now(), retention=RETENTION)
        )

    async def _accept(
        self, call: Call, work: state.Job, kind: str, files: dict[str, bytes]
    ) -> None:
        """A job for the plugin's, which will make these files."""
        is_later = kind == TRANSCRIPTION
        name = transcript_of(call) if is_later else name_of(work)
        to = MattermostCall(
            site_url=self.server.url,
            call_id=call.channel_id,
            post_id=call.post_id,
            job_id=work.id,
        )
        job = make_job(
            id=name.removeprefix("jobs/"),
            kind=kind,
            state=State.STARTING,
            creator=f"gateway/{CLIENT}",
            create_time=now(),
            update_time=now(),
            after_jobs=tuple(one.job_id for one in works(call)) if is_later else (),
            delivery=Delivery(call=to, is_start_told=is_later),
        )
        self.artifacts(name).mkdir(parents=True)
        for file_name, content in files.items():
            (self.artifacts(name) / file_name).write_bytes(content)
        secrets = SiteSecrets(token=self.server.bot_token)

        def write(tx: Transaction) -> None:
            tx.put_secrets(job.id, secrets)
            tx.put(job)

        await self._database.write(write)

    async def _change(self, name: str, change: Callable[[Job], Job]) -> None:
        await self._database.write(lambda tx: tx.put(change(tx.find(name.removeprefix("jobs/")))))

    # --- deliveries ---

    def artifacts(self, name: str) -> Path:
        """Where the outbox looks for them."""
        return self._directory / name.removeprefix("jobs/") / ARTIFACTS

    def is_delivered(self, name: str) -> bool:
        """As it was committed last."""
        return not self.job(name).is_undelivered

    def problems(self, call: Call) -> list[str]:
        """As they were written down with the job."""
        return self._problems[name_of(call.recording)]


def now() -> datetime:
    """By the wall clock, as everywhere in a daemon."""
    return datetime.now(UTC)


def _row(call: Call, job_type: JobType) -> state.Job:
    """A new job of the plugin's, which we call as the plugin does."""
    job = state.Job(type=job_type)
    job.job_id = job.id
    call.jobs.append(job)
    return job


def _artifact(path: Path) -> Artifact:
    return Artifact(
        file_name=path.name,
        media_type="",
        size_bytes=path.stat().st_size,
        sha256=sha256(path),
    )
