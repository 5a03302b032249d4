# SPDX-License-Identifier: Apache-2.0
"""Takes what one job has made to the thread of its call, step by step.

Each step that is done is written down with the job before the next one begins.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import structlog

from callsd_daemon.domain.capture import CAPTURE
from callsd_daemon.domain.delivery import (
    MAX_PAUSE_SECONDS,
    Delivery,
    DeliveryState,
    Upload,
)
from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Artifact, Job, State
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.mattermost.site import Site, SiteError, TooLargeError
from callsd_daemon.mattermost.work import JOB_TYPES, Work, failure, files, has_begun, language, look
from callsd_daemon.metrics import DELIVERED_BYTES, DELIVERIES
from callsd_daemon.store.database import Database
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.transaction import Transaction
from callsd_ipc.names import ARTIFACTS


log = structlog.get_logger(__name__)

MIN_FIRST_SLICE_BYTES = 5 * 1024**2
"""The first part of a file must have this length, unless the file is shorter."""

MIN_SLICE_BYTES = 1024**2
MAX_SLICE_BYTES = 32 * 1024**2
"""So much is sent again at most when a connection breaks."""

TELL_FAILURE_TRIES = 5
"""The plugin notices by itself within a minute."""

SECOND_LOOK_SECONDS = 30.0
"""A post whose answer was lost may be in the making while we look for it."""

RECORDING_SECONDS = 6 * 3600.0
"""How long a transcript waits for its recording to be posted: without that the film has no
captions, but the transcript is there."""

NAME_TRIES = 3
"""Then the files get a name of ours."""

ABANDON_REFUSALS = 6
"""After so many in a row, in a minute or two, an upload that the site itself refuses is begun anew:
the site may have lost what it had."""

IDLE_SECONDS = 60.0
"""How often it is looked whether there is something to do, besides with each change."""

REFUSALS = frozenset({400, 401, 403, 404, 413, 429})
"""With these statuses the site says that it has not done what was asked."""


class Courier:
    """Of one job. Belongs to one event loop."""

    def __init__(
        self,
        job_id: str,
        *,
        database: Database,
        session: aiohttp.ClientSession,
        directory: Path,
        now: Callable[[], datetime],
        budget: Callable[[], timedelta],
        turn: asyncio.Semaphore,
    ) -> None:
        """`directory` holds the jobs' directories; uploads take a `turn`."""
        self._job_id = job_id
        self._database = database
        self._session = session
        self._directory = directory / job_id / ARTIFACTS
        self._now = now
        self._budget = budget
        self._turn = turn
        self._slice_bytes = self._max_slice_bytes = 0
        """What is sent at once: now, and at most; 0: not known yet."""
        self._refusals = 0
        """Parts in a row that the site itself has refused."""
        self._woken = asyncio.Event()
        self.after_jobs: tuple[str, ...] = ()
        """Ids of jobs whose changes concern this one, too."""

    def wake(self) -> None:
        """Something has changed."""
        self._woken.set()

    async def run(self) -> None:
        """Until everything is delivered, or given up."""
        while True:
            self._woken.clear()
            work = await self._database.read(lambda tx: look(tx, self._job_id))
            if work is None:
                return
            self.after_jobs = work.job.after_jobs
            if work.newer_token:
                await self._take_token(work.newer_token)
                continue
            try_time = work.delivery.try_time
            pause = (try_time - self._now()).total_seconds() if try_time else 0.0
            # A longer one was chosen by a clock that has been set since.
            if 0 < pause <= MAX_PAUSE_SECONDS:
                await self._wait(pause)
                continue
            try:
                is_idle = not await self._step(work, self._site(work))
            except SiteError as problem:
                await self._failed(problem)
                continue
            except CallsdError:
                raise  # of the database: somebody tries again when it can
            except Exception as problem:
                log.exception("delivery_failed", job_id=self._job_id)
                await self._failed(SiteError(f"a bug in callsd ({type(problem).__name__})"))
                continue
            if is_idle:
                await self._wait(IDLE_SECONDS)

    def _site(self, work: Work) -> Site:
        return Site(self._session, work.delivery.call.site_url, work.token)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    # Steps

    async def _step(self, work: Work, site: Site) -> bool:
        """Do what is to be done next; False when there is nothing now."""
        if not work.job.is_final:
            return await self._accompany(work, site)
        if found := files(work.job):
            return await self._deliver(work, site, found)
        await self._tell_end(work, site)
        return True

    async def _accompany(self, work: Work, site: Site) -> bool:
        """Do what is to be done while the job goes on; False when that is nothing now."""
        if not has_begun(work):
            return False
        if not work.delivery.is_start_told:
            await self._tell_start(work, site)
        elif not work.delivery.title and work.job.kind != CAPTURE:  # which publishes no files
            await self._name(work, site)
        else:
            return False
        return True

    async def _deliver(self, work: Work, site: Site, found: list[Artifact]) -> bool:
        """Do the next step of bringing these files; False when there is nothing to do now."""
        delivery = work.delivery
        if self._waits_for_recording(work):
            return False
        if not delivery.title:
            await self._name(work, site)
            return True
        for artifact in found:
            upload = delivery.uploads.get(artifact.file_name, Upload())
            if not upload.file_id:
                await self._upload(work, site, artifact, upload)
                return True
        await self._publish(work, site, [delivery.uploads[one.file_name].file_id for one in found])
        return True

    def _waits_for_recording(self, work: Work) -> bool:
        """The plugin joins a transcript to the recording that is there already."""
        recording, end_time = work.recording, work.job.end_time
        if recording is None or not recording.is_undelivered:
            return False
        return end_time is None or (self._now() - end_time).total_seconds() < RECORDING_SECONDS

    async def _tell_start(self, work: Work, site: Site) -> None:
        try:
            await site.report(work.delivery.call, JOB_TYPES[work.job.kind], "started")
        except SiteError as problem:
            if not problem.is_final:
                raise
            # The call is over, or was told already; the recording goes on to its own end.
            log.warning("start_not_wanted", job_id=self._job_id, problem=str(problem))
        else:
            log.info("start_told", job_id=self._job_id)
        await self._change(lambda delivery: replace(delivery.went_on(), is_start_told=True))

    async def _tell_end(self, work: Work, site: Site) -> None:
        """Of a job that has made nothing."""
        job, delivery = work.job, work.delivery
        problem = failure(job)
        if not delivery.is_start_told and job.state is State.CANCELLED:
            problem = "it was stopped before it had begun"
        if problem and delivery.failures < TELL_FAILURE_TRIES:
            try:
                await site.report(delivery.call, JOB_TYPES[job.kind], "failed", problem)
            except SiteError as refusal:
                if not refusal.is_final and not refusal.is_token_refused:
                    raise
                log.warning("failure_not_told", job_id=self._job_id, problem=str(refusal))
        await self._done(DeliveryState.NOTHING)

    async def _name(self, work: Work, site: Site) -> None:
        """Ask what the files shall be called; a transcript is called as its recording is."""
        recording = work.recording
        title = recording.delivery.title if recording and recording.delivery else ""
        try:
            title = title or await site.file_name(work.delivery.call)
        except SiteError as problem:
            if not problem.is_final and work.delivery.failures < NAME_TRIES:
                raise
            title = f"Call_{work.job.create_time:%Y-%m-%d_%H-%M-%S}"
        await self._change(lambda delivery: replace(delivery.went_on(), title=title))

    async def _upload(self, work: Work, site: Site, artifact: Artifact, upload: Upload) -> None:
        name, size = artifact.file_name, artifact.size_bytes
        offset = 0
        if upload.session_id:
            arrived = await site.upload_offset(upload.session_id)
            if arrived is None or self._refusals >= ABANDON_REFUSALS:
                self._refusals = 0
                # It has ended or was swept away, and its file can no longer be found: a new one.
                await self._change(lambda delivery: delivery.with_upload(name, Upload()))
                return
            offset = arrived
        else:
            title = f"{work.delivery.title}{Path(name).suffix}"
            session_id = await site.create_upload(work.delivery.call, title, size)
            upload = Upload(session_id=session_id)
            await self._change(lambda delivery: delivery.with_upload(name, upload))
        if not self._slice_bytes:
            limit_bytes = await site.max_slice_bytes() or MAX_SLICE_BYTES
            if limit_bytes < min(size, MIN_FIRST_SLICE_BYTES):
                raise SiteError(
                    f"the site takes {limit_bytes} bytes at once, and {MIN_FIRST_SLICE_BYTES} are "
                    "the least that it begins a file with: raise FileSettings.MaxFileSize there"
                )
            self._slice_bytes = self._max_slice_bytes = min(limit_bytes, MAX_SLICE_BYTES)
        try:
            path = self._directory / name
            file_id = await self._send(site, upload.session_id, path, offset, size)
        except SiteError as problem:
            self._refusals += problem.is_from_site
            raise
        self._refusals = 0
        done = replace(upload, file_id=file_id)
        await self._change(lambda delivery: delivery.with_upload(name, done))

    async def _send(self, site: Site, session_id: str, path: Path, offset: int, size: int) -> str:
        """Send what is missing; returns the file's id."""
        while True:
            least = MIN_SLICE_BYTES if offset else MIN_FIRST_SLICE_BYTES
            length = min(max(self._slice_bytes, least), size - offset)
            try:
                # Each part takes its turn: a slow site does not hold up the others.
                async with self._turn:
                    file_id = await site.send(session_id, path, offset, length)
            except SiteError as problem:
                if length <= least and isinstance(problem, TooLargeError):
                    raise TooLargeError(
                        f"{problem}; these were {length} bytes, and fewer cannot be sent at once: "
                        "raise client_max_body_size of the proxy before the site",
                        status=problem.status,
                    ) from None
                if length <= least:
                    raise
                # Smaller ones get through where larger ones do not, by size or by time.
                self._slice_bytes = max(length // 2, least)
                if isinstance(problem, TooLargeError):
                    self._max_slice_bytes = self._slice_bytes
                    continue
                raise
            DELIVERED_BYTES.inc(length)
            self._slice_bytes = min(2 * self._slice_bytes, self._max_slice_bytes)
            if file_id:
                return file_id
            arrived = await site.upload_offset(session_id)
            if arrived is None or arrived <= offset:
                raise SiteError(f"the upload does not go on: {offset} of {size} bytes are there")
            offset = arrived
            await self._change(Delivery.went_on)

    async def _publish(self, work: Work, site: Site, file_ids: list[str]) -> None:
        job, call = work.job, work.delivery.call
        # The file of which a post is made; the other one of a transcript only goes with it.
        posted = file_ids[-1]
        if work.delivery.is_posting:
            is_posted = await site.is_posted(posted)
            if not is_posted:
                await asyncio.sleep(SECOND_LOOK_SECONDS)
                is_posted = await site.is_posted(posted)
            if is_posted:
                await self._done(DeliveryState.DELIVERED)
                return
        await self._change(lambda delivery: replace(delivery, is_posting=True))
        try:
            if job.kind == RECORDING:
                await site.publish_recording(call, posted)
            else:
                await site.publish_transcription(call, file_ids, language(job))
        except SiteError as problem:
            if problem.status in REFUSALS:
                await self._change(lambda delivery: replace(delivery, is_posting=False))
            raise
        await self._done(DeliveryState.DELIVERED)

    # What is written down

    async def _change(self, change: Callable[[Delivery], Delivery]) -> Job:
        def write(tx: Transaction) -> Job:
            job = tx.find(self._job_id)
            assert job.delivery is not None
            job = replace(job, delivery=change(job.delivery))
            if not job.is_undelivered and job.expire_time is not None and job.end_time is not None:
                # Its files are kept for as long as those of a job that has ended now.
                kept = job.expire_time - job.end_time
                job = replace(job, expire_time=max(job.expire_time, self._now() + kept))
            return tx.put(job)

        failpoint("courier.before_change")
        changed = await self._database.write(write)
        failpoint("courier.after_change")
        return changed

    async def _done(self, state: DeliveryState) -> None:
        await self._change(lambda delivery: delivery.done(state))
        DELIVERIES.labels(state=state).inc()
        log.info("delivery_ended", job_id=self._job_id, state=state)

    async def _failed(self, problem: SiteError) -> None:
        jitter, now = random.random(), self._now()  # noqa: S311 - spreads load, guards nothing
        job = await self._change(
            lambda delivery: delivery.failed(
                str(problem),
                now,
                jitter=jitter,
                budget=self._budget(),
                is_token_refused=problem.is_token_refused,
            )
        )
        assert job.delivery is not None
        log.warning(
            "delivery_delayed",
            job_id=self._job_id,
            failures=job.delivery.failures,
            problem=str(problem),
        )
        if not job.delivery.is_pending:
            DELIVERIES.labels(state=job.delivery.state).inc()
            log.error("delivery_given_up", job_id=self._job_id, problem=str(problem))

    async def _take_token(self, token: str) -> None:
        def write(tx: Transaction) -> None:
            job = tx.find(self._job_id)
            assert job.delivery is not None
            known = tx.secrets(job)
            assert isinstance(known, SiteSecrets)
            tx.put_secrets(job.id, replace(known, token=token))
            tx.put(replace(job, delivery=job.delivery.went_on()))

        await self._database.write(write)
        log.info("newer_token_taken", job_id=self._job_id)
