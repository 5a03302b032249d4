# SPDX-License-Identifier: Apache-2.0
"""The end of a captions job: its outcome is made here, and nobody else is needed for it."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from callsd_daemon.domain.captions import (
    CAPTIONS,
    CaptionsResult,
    CaptionsSpec,
    Encoding,
    TrackUpdate,
    Words,
)
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Outcome, Progress, Reservation, State
from callsd_daemon.workers import reports
from callsd_daemon.workers.captions import attempt as module
from callsd_daemon.workers.captions.attempt import CaptionsAttempt
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.files import Written, write_files
from callsd_daemon.workers.captions.journal import read_finals
from callsd_daemon.workers.ending import EndRules, settle
from callsd_daemon.workers.reports import AttemptObserver
from tests.helpers.kinds import KINDS


NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = CaptionsSpec(model="base")
JOB = Job(
    id="job",
    kind=CAPTIONS,
    state=State.STOPPING,
    creator="owner",
    create_time=NOW,
    update_time=NOW,
    max_duration_seconds=60.0,
    reservation=Reservation(),
    cost_key="",
    spec=SPEC,
    attempt=1,
)
LENGTH = 16_000


class NoCaptioner:
    """One that is not there: it hears nothing, and can write nothing."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.failed = asyncio.Event()
        self.failure: Failure | None = None


class OneCall:
    """The calls of a daemon that has one, whose captioner is gone."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.captioner = NoCaptioner()
        self.kind = lambda: KINDS[CAPTIONS]
        self.writing = asyncio.Lock()

    async def open(
        self, job_id: str, spec: CaptionsSpec, directory: Path
    ) -> tuple[Call, Captioner]:
        """The call."""
        return self.call, cast(Captioner, self.captioner)

    def close(self, call: Call, captioner: Captioner) -> None:
        """Its end."""
        call.close()


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """A call in which Ada has said one sentence, which is final."""
    call = Call(
        "job",
        SPEC,
        tmp_path / "job",
        AudioSink(send=lambda *_: None, end_speech=lambda _: None),
        max_log_bytes=4096,
    )
    call.engine, call.cpu_seconds, call.peak_memory_bytes = "ctranslate2", 1.5, 1 << 20
    call.attach(Encoding.S16LE)
    call.receive("ada", 1, 0, LENGTH, bytes(2 * LENGTH))
    call.pause("ada")
    say(call, "It is done.")
    return call


def say(call: Call, text: str) -> None:
    """The captioner's last update: all that was said is final."""
    words = Words(segment=0, text=text, start_sample=0, end_sample=LENGTH, heard_sample=LENGTH)
    update = TrackUpdate(
        finals=(words,), processed_sample=LENGTH, recognised_sample=LENGTH, is_drained=True
    )
    call.apply(call.speakers["ada"], update)


def new_attempt(
    calls: OneCall, running: Callable[[], Awaitable[None]] | None = None
) -> CaptionsAttempt:
    """An attempt at the job, which tells `running` of its start."""
    observer = AttemptObserver(running=running or _nothing, progress=_nothing_of, tick=_nothing)
    return CaptionsAttempt(JOB, cast(Calls, calls), calls.call.directory, observer)


async def end(calls: OneCall) -> Outcome:
    """Stop the job, and see it to its end."""
    attempt = new_attempt(calls)
    attempt.stop()
    failure = await attempt.run(ran_seconds=1.0, max_seconds=60.0)
    assert attempt.outcome is not None
    assert attempt.outcome.failure == failure
    return attempt.outcome


async def _nothing() -> None:
    """Nobody listens."""


async def _nothing_of(progress: Progress) -> None:
    """Nobody listens."""


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the disk full for so many attempts to write the files."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)

    def fill(count: int, number: int = errno.ENOSPC) -> None:
        left = iter(range(count))

        def write(directory: Path, *, engine: str) -> Written:
            if next(left, None) is not None:
                raise OSError(number, os.strerror(number))
            return write_files(directory, engine=engine)

        monkeypatch.setattr(module, "write_files", write)

    return fill


async def test_without_a_captioner(call: Call) -> None:
    """Files and result of a call whose captioner is gone are whole."""
    outcome = await end(OneCall(call))

    assert outcome.failure is None
    assert [artifact.file_name for artifact in outcome.artifacts] == [
        "captions.vtt",
        "captions.txt",
        "captions.json",
    ]
    assert b"It is done." in (call.directory / "artifacts" / "captions.txt").read_bytes()
    result = outcome.results[CAPTIONS]
    assert isinstance(result, CaptionsResult)
    assert (result.caption_count, result.word_count) == (1, 3)
    assert result.audio_seconds == 1.0
    assert (outcome.usage.cpu_seconds, outcome.usage.peak_memory_bytes) == (1.5, 1 << 20)
    assert outcome.usage.wall_seconds >= 1.0


async def test_room_comes_back(call: Call, full: Callable[[int], None]) -> None:
    """A disk that is full for a moment costs nothing but that moment."""
    full(3)
    outcome = await end(OneCall(call))

    assert outcome.failure is None
    assert len(outcome.artifacts) == 3


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EDQUOT, Reason.DISK_FULL),
        (errno.EIO, Reason.DISK_FULL),
        (errno.EACCES, Reason.INTERNAL),
    ],
)
async def test_no_room(
    call: Call,
    full: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: Reason,
) -> None:
    """A job whose files cannot be written has failed and says why; its captions are kept."""
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    full(1_000_000, number)
    outcome = await end(OneCall(call))
    rules = EndRules(max_attempts=3, retention=None)
    unheard = Failure(reason=Reason.WORKER_KILLED, message="nobody sees this")
    job = settle(JOB, outcome, unheard, NOW, rules, is_at_end=False)

    assert job.state is State.FAILED
    assert job.failure is not None
    assert job.failure.reason is reason
    assert "callsd captions watch" in job.failure.message
    assert job.artifacts == ()
    assert [one.words.text for one in read_finals(call.directory, 0)] == ["It is done."]


async def test_captions_that_wait_for_room(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is written that lacks captions which viewers have seen."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    pwrite, refused = os.pwrite, 0

    def is_full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal refused
        refused += 1
        if refused < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", is_full)
    say(call, "And seen.")
    outcome = await end(OneCall(call))

    assert outcome.failure is None
    result = outcome.results[CAPTIONS]
    assert isinstance(result, CaptionsResult)
    assert result.caption_count == 2
    assert b"And seen." in (call.directory / "artifacts" / "captions.txt").read_bytes()


async def test_the_captioner_fails_at_the_end(call: Call) -> None:
    """Words that no captioner will hear any more are no success, nor a wish of the client's."""
    call.receive("ada", 2, LENGTH, LENGTH, bytes(2 * LENGTH))
    calls = OneCall(call)
    calls.captioner.failure = Failure(reason=Reason.CRASH_LOOP, message="5 captioners were lost")
    calls.captioner.failed.set()
    outcome = await end(calls)

    assert outcome.failure == calls.captioner.failure
    assert not (call.directory / "artifacts").exists()


async def test_the_store_is_held(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes on and ends as asked while nothing of it can be stored."""
    monkeypatch.setattr(reports, "LAST_SECONDS", 0.01)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    is_asked, is_saved = asyncio.Event(), asyncio.Event()
    sync = call.sync
    loop = asyncio.get_running_loop()

    async def held() -> None:
        is_asked.set()
        await asyncio.Event().wait()

    def seen() -> None:
        sync()
        if is_asked.is_set():
            loop.call_soon_threadsafe(is_saved.set)

    monkeypatch.setattr(call, "sync", seen)
    calls = OneCall(call)
    calls.captioner.ready.set()
    attempt = new_attempt(calls, held)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(attempt.run(ran_seconds=None, max_seconds=60.0))
        await is_saved.wait()
        attempt.stop()

    assert running.result() is None
    assert attempt.outcome is not None
    assert len(attempt.outcome.artifacts) == 3
