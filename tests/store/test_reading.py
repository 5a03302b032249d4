# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from callsd_daemon.domain.captions import CAPTIONS, CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CapturedTrack, CaptureResult, CaptureSpec
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import (
    Artifact,
    Failure,
    Job,
    Notice,
    Progress,
    Reservation,
    State,
    Usage,
)
from callsd_daemon.domain.recording import RECORDING, RecordingResult
from callsd_daemon.domain.transcription import (
    TRANSCRIPTION,
    Engine,
    Format,
    Task,
    Track,
    TrackResult,
    TranscriptionResult,
    TranscriptionSpec,
)
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change, JobFilter, Page, ReadTransaction
from callsd_daemon.workers.housekeeping import needed_uploads
from tests.helpers.jobs import CALL, NOW, SPEC, WORKER, make_job
from tests.helpers.kinds import KINDS


FULL_JOB = make_job(
    id="full",
    state=State.FAILED,
    worker=WORKER,
    labels={"room": "Straße 5 “&” 会議"},
    request_id="1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    attempt=2,
    waiting_for=Reason.MEMORY_EXHAUSTED,
    progress=Progress(phase="writing", fraction=0.5, processed_seconds=1.25, total_seconds=9.0),
    failure=Failure(reason=Reason.OUT_OF_MEMORY, message="no", metadata={"peak": "7"}),
    notices=(Notice(code="THREADS_CLAMPED", message="two"),),
    artifacts=(Artifact(file_name="a.vtt", media_type="text/vtt", size_bytes=1, sha256="c" * 64),),
    spec=TranscriptionSpec(
        tracks=(Track(speaker="Ivo", upload_id="u", start_offset_seconds=0.5, language="de"),),
        model="tiny",
        engine=Engine.WHISPERCPP,
        threads=2,
        task=Task.TRANSLATE,
        vocabulary=("callsd",),
        formats=(Format.VTT,),
    ),
    results={
        TRANSCRIPTION: TranscriptionResult(
            tracks=(TrackResult(speaker="Ivo", failure_reason=Reason.INPUT_INVALID),),
            audio_seconds=9.0,
        ),
        RECORDING: RecordingResult(duration_seconds=3.0),
    },
    usage=Usage(cpu_seconds=3.5, peak_memory_bytes=9),
    start_time=NOW,
    end_time=NOW + timedelta(microseconds=1),
    expire_time=NOW + timedelta(days=1),
)


CAPTURE_JOB = make_job(
    id="captured",
    kind=CAPTURE,
    state=State.SUCCEEDED,
    spec=CaptureSpec(call=CALL, captions=CaptionsSpec(model="tiny", language="de")),
    delivery=Delivery(call=CALL, is_start_told=True),
    results={
        CAPTURE: CaptureResult(
            tracks=(
                CapturedTrack(
                    file_name="1-ada.ogg",
                    speaker="Åda",
                    speaker_id="u" * 26,
                    start_time=NOW + timedelta(microseconds=250_001),
                    duration_seconds=0.06,
                ),
            ),
            recording_start_time=NOW,
            caption_count=3,
            problem="the connection was lost",
        ),
    },
)


async def put_all(database: Database, *jobs: Job) -> tuple[Job, ...]:
    """Write these jobs, in this order."""
    return await database.write(lambda tx: tuple(map(tx.put, jobs)))


async def page(database: Database, **wanted: Any) -> Page:
    """A page of jobs; everything matches but for what is given."""
    before, limit = wanted.pop("before", None), wanted.pop("limit", 50)
    return await database.read(
        lambda tx: tx.page(wanted=JobFilter(**wanted), before=before, limit=limit)
    )


def changes_after(revision: int) -> Callable[[ReadTransaction], tuple[Change, ...]]:
    """Work that reads all changes after a revision."""
    return lambda tx: tx.changes_after(revision, 99)


def ids(jobs: tuple[Job, ...]) -> list[str]:
    """Their ids."""
    return [job.id for job in jobs]


class TestJobs:
    """One job at a time."""

    async def test_reads_as_it_was_written(self, database: Database) -> None:
        """Every field of a job survives, to the microsecond and in any script."""
        await put_all(database, FULL_JOB)

        assert await database.read(lambda tx: tx.get("full")) == replace(FULL_JOB, revision=1)

    @pytest.mark.parametrize(
        "job",
        [
            CAPTURE_JOB,
            replace(CAPTURE_JOB, spec=CaptureSpec(call=CALL), results={CAPTURE: CaptureResult()}),
            make_job(
                id="later",
                spec=replace(
                    SPEC, tracks=(Track(speaker="Call", capture="a", recording="b"),), call=CALL
                ),
                after_jobs=("b", "a"),
            ),
        ],
        ids=["full", "bare", "transcription of one"],
    )
    async def test_captures(self, database: Database, job: Job) -> None:
        """So does a capture with its tracks, and a transcription of one."""
        await put_all(database, job)

        assert await database.read(lambda tx: tx.get(job.id)) == replace(job, revision=1)

    async def test_unknown(self, database: Database) -> None:
        """There is no job where there is none."""
        assert await database.read(lambda tx: tx.get("nobody")) is None

    async def test_deleted(self, database: Database) -> None:
        """A deleted job is gone, and its removal is a change of its own."""
        await put_all(database, make_job())
        await database.write(lambda tx: tx.delete("job"))

        assert await database.read(lambda tx: tx.get("job")) is None
        assert database.revision == 2


class TestBooks:
    """What is promised, and who waits."""

    async def test_only_active_jobs_are_charged(self, database: Database) -> None:
        """A reservation counts in exactly those states in which there may be a process."""
        await put_all(
            database,
            *(
                make_job(
                    id=state,
                    state=state,
                    reservation=Reservation(cores=2.0**number, memory_bytes=10, disk_bytes=1),
                )
                for number, state in enumerate(State)
            ),
        )

        reserved, active, running = await database.read(
            lambda tx: (tx.reserved(), tx.active(), tx.running())
        )

        assert ids(active) == ["starting", "running", "stopping"]
        assert reserved == Reservation(cores=2.0 + 4.0 + 8.0, memory_bytes=30, disk_bytes=3)
        assert running == {TRANSCRIPTION: 3}

    async def test_charge_that_changes(self, database: Database) -> None:
        """The tx show what a job holds now, not what it held when it was accepted."""
        await put_all(database, make_job(state=State.RUNNING))
        dearer = Reservation(cores=2.0, memory_bytes=7, disk_bytes=5)
        await put_all(database, make_job(state=State.RUNNING, reservation=dearer))

        assert await database.read(lambda tx: tx.reserved()) == dearer

    async def test_nothing_reserved(self, database: Database) -> None:
        """Empty tx are zero."""
        assert await database.read(lambda tx: tx.reserved()) == Reservation()
        assert await database.read(lambda tx: tx.running()) == {}

    async def test_queue_is_in_the_order_of_acceptance(self, database: Database) -> None:
        """Places are by acceptance; a job that starts over keeps the one it had."""
        await put_all(
            database,
            make_job(id="one", state=State.RUNNING),
            make_job(id="two"),
            make_job(id="three"),
            make_job(id="one"),
        )

        def look(tx: ReadTransaction) -> list[object]:
            first = tx.first_queued()
            assert first is not None
            return [
                first.id,
                tx.queue_length(),
                *(tx.queue_positions().get(name, 0) for name in ("one", "two", "three", "nobody")),
            ]

        assert await database.read(look) == ["one", 3, 1, 2, 3, 0]

        await put_all(database, make_job(id="one", state=State.CANCELLED))

        assert await database.read(look) == ["two", 2, 0, 1, 2, 0]

    async def test_empty_queue(self, database: Database) -> None:
        """Nobody waits in an empty queue."""
        assert await database.read(lambda tx: tx.first_queued()) is None
        assert await database.read(lambda tx: tx.queue_length()) == 0


class TestPages:
    """Lists, newest first."""

    async def test_every_job_once(self, database: Database) -> None:
        """Page after page, each job is listed exactly once, even if some change meanwhile."""
        await put_all(database, *(make_job(id=f"job{number}") for number in range(7)))
        seen: list[str] = []
        before: int | None = None
        while True:
            found = await page(database, before=before, limit=3)
            seen += ids(found.jobs)
            await put_all(database, make_job(id="job1", state=State.CANCELLED))
            if found.next_before is None:
                break
            before = found.next_before

        assert seen == [f"job{number}" for number in reversed(range(7))]

    async def test_exactly_full_page_is_the_last(self, database: Database) -> None:
        """A page that holds the rest promises no other."""
        await put_all(database, *(make_job(id=f"job{number}") for number in range(3)))

        assert (await page(database, limit=3)).next_before is None

    async def test_empty(self, database: Database) -> None:
        """No jobs make an empty page at revision 0."""
        assert await page(database) == Page(jobs=(), next_before=None, revision=0)

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, ["d", "c", "b", "a"]),
            ({"states": (State.QUEUED,)}, ["d", "a"]),
            ({"states": (State.QUEUED, State.RUNNING)}, ["d", "b", "a"]),
            ({"kinds": (CAPTIONS,)}, ["b"]),
            ({"labels": {"room": "1"}}, ["c", "a"]),
            ({"labels": {"room": "1", "team.x": "red"}}, ["c"]),
            ({"labels": {"room": ""}}, []),
            ({"labels": {'no"such': "1"}}, []),
            ({"labels": {"empty": ""}}, ["d"]),
            ({"ids": ("a", "c", "nobody")}, ["c", "a"]),
            ({"labels": {"room": "1"}, "states": (State.QUEUED,), "ids": ("a", "d")}, ["a"]),
        ],
    )
    async def test_filters(
        self, database: Database, wanted: dict[str, Any], found: list[str]
    ) -> None:
        """A job is listed when it matches all that is asked."""
        await put_all(
            database,
            make_job(id="a", labels={"room": "1"}),
            make_job(id="b", state=State.RUNNING, kind=CAPTIONS, labels={"room": "2"}),
            make_job(id="c", state=State.FAILED, labels={"room": "1", "team.x": "red"}),
            make_job(id="d", labels={"empty": ""}),
        )

        assert ids((await page(database, **wanted)).jobs) == found


class TestHistory:
    """Changes, for watches to resume from."""

    async def test_every_change_in_order(self, database: Database) -> None:
        """What happened is told as it happened, removals included, from any revision on."""
        first, second = await put_all(database, make_job(), make_job(id="other"))
        await database.write(lambda tx: tx.delete("job"))
        changes = [
            Change(revision=1, job_id="job", job=first),
            Change(revision=2, job_id="other", job=second),
            Change(revision=3, job_id="job", job=None),
        ]

        for revision in range(4):
            found = await database.read(changes_after(revision))
            assert list(found) == changes[revision:]
        assert await database.read(lambda tx: tx.changes_after(0, 2)) == tuple(changes[:2])

    async def test_kept_so_long(self, open_database: Callable[..., Database]) -> None:
        """Only the latest changes are kept, and the oldest revision to resume from is known."""
        database = open_database(history=5)
        assert await database.read(lambda tx: tx.oldest_resumable()) == 0
        for number in range(12):
            await put_all(database, make_job(progress=Progress(fraction=number / 12)))
            oldest = await database.read(lambda tx: tx.oldest_resumable())
            assert oldest == max(0, number + 1 - 5)
            found = await database.read(changes_after(oldest))
            assert [change.revision for change in found] == list(range(oldest + 1, number + 2))

    async def test_goes_on_after_a_restart(
        self, database: Database, open_database: Callable[..., Database]
    ) -> None:
        """Revisions have no gap across restarts, not even when all jobs were removed."""
        await put_all(database, make_job())
        await database.write(lambda tx: tx.delete("job"))
        database.close()

        (job,) = await put_all(open_database(), make_job())

        assert job.revision == 3


class TestHousekeeping:
    """What is over, what is needed, what it cost."""

    async def test_expired(self, database: Database) -> None:
        """Jobs are due from their time of removal on, the oldest first, so many at a time."""
        await put_all(
            database,
            *(
                make_job(id=name, state=State.FAILED, expire_time=NOW + timedelta(hours=hours))
                for name, hours in (("later", 2), ("soon", 1), ("now", 0))
            ),
            make_job(id="kept", state=State.FAILED),
            make_job(id="waits"),
        )

        def due(hours: float, limit: int = 9) -> Callable[[ReadTransaction], list[str]]:
            return lambda tx: ids(tx.expired(NOW + timedelta(hours=hours), limit))

        assert await database.read(due(-0.001)) == []
        assert await database.read(due(0)) == ["now"]
        assert await database.read(due(1.5)) == ["now", "soon"]
        assert await database.read(due(99)) == ["now", "soon", "later"]
        assert await database.read(due(99, limit=1)) == ["now"]

    async def test_recent_usage(self, database: Database) -> None:
        """What the latest successes of the same cost used, and nobody else's."""

        def ended(name: str, peak: int, hours: int, **changes: Any) -> Job:
            return make_job(
                **{
                    "id": name,
                    "state": State.SUCCEEDED,
                    "end_time": NOW + timedelta(hours=hours),
                    "usage": Usage(peak_memory_bytes=peak),
                    **changes,
                }
            )

        await put_all(
            database,
            ended("newest", 3, 3),
            ended("oldest", 1, 1),
            ended("middle", 2, 2),
            ended("failed", 9, 4, state=State.FAILED),
            ended("other", 9, 4, cost_key="transcription/auto/tiny/1"),
            ended("unknown", 9, 0, usage=None),
        )

        key = make_job().cost_key
        found = await database.read(lambda tx: tx.recent_usage(key, 9))
        latest = await database.read(lambda tx: tx.recent_usage(key, 2))

        assert [usage.peak_memory_bytes for usage in found] == [3, 2, 1]
        assert [usage.peak_memory_bytes for usage in latest] == [3, 2]

    async def test_needed_uploads(self, database: Database) -> None:
        """An upload is needed until every job that names it has ended."""

        def using(name: str, state: State, *uploads: str) -> Job:
            tracks = tuple(Track(speaker=upload, upload_id=upload) for upload in uploads)
            return make_job(id=name, state=state, spec=replace(SPEC, tracks=tracks))

        await put_all(
            database,
            using("waits", State.QUEUED, "a", "b"),
            using("stops", State.STOPPING, "c"),
            using("ended", State.SUCCEEDED, "b", "d"),
            make_job(id="by path"),
            make_job(id="no media", kind=RECORDING),
        )

        assert await database.read(lambda tx: needed_uploads(tx, KINDS)) == {"a", "b", "c"}
        assert await database.read(lambda tx: tx.ids()) == {
            "waits",
            "stops",
            "ended",
            "by path",
            "no media",
        }
