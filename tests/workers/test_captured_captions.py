# SPDX-License-Identifier: Apache-2.0
"""Captions beside the work that captures a call: whatever becomes of them, the work goes on."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from callsd_daemon.domain.captions import CaptionsSpec, Encoding
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Failure, Job, Reservation, State
from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.workers.captions import captured as module
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.captured import captioned
from callsd_daemon.workers.captions.journal import Journal
from callsd_ipc.names import WORKER_LOG
from tests.helpers.waiting import until


NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = CaptureSpec(
    call=MattermostCall(site_url="https://mm.example", call_id="c", post_id="p", job_id="j"),
    captions=CaptionsSpec(model="base"),
)
JOB = Job(
    id="job",
    kind=CAPTURE,
    state=State.RUNNING,
    creator="owner",
    create_time=NOW,
    update_time=NOW,
    max_duration_seconds=60.0,
    reservation=Reservation(),
    cost_key="",
    spec=SPEC,
    attempt=1,
)
WAIT_SECONDS = 10.0
PACKET, LENGTH = b"\xf8" + bytes(20), 320


class AnyCaptioner:
    """One that hears nothing."""

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        self.failure: Failure | None = None


class Slot:
    """That of a worker."""

    call: Call | None = None

    async def opened(self) -> Call:
        """The call, once it is there."""
        await until(lambda: self.call, "the call")
        assert self.call is not None
        return self.call


class OneCall:
    """The calls of a daemon that has one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.captioner = AnyCaptioner()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.tried = asyncio.Event()
        self.refusal: Exception | None = None
        self.problem: Exception | None = None
        self.ended: list[str] = []
        self.closed = 0

    async def open(
        self, job_id: str, spec: CaptionsSpec, directory: Path
    ) -> tuple[Call, Captioner]:
        """The call, unless it is refused."""
        self.tried.set()
        await self.may_open.wait()
        if self.refusal is not None:
            raise self.refusal
        sink = AudioSink(
            send=lambda *_: None, end_speech=lambda speaker: self.ended.append(speaker.name)
        )
        call = Call(job_id, spec, directory, sink, max_log_bytes=4096)
        return call, cast(Captioner, self.captioner)

    def close(self, call: Call, captioner: Captioner) -> None:
        """Its end."""
        self.closed += 1
        call.close()
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OneCall:
    """A daemon's calls."""
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    return OneCall(tmp_path)


@asynccontextmanager
async def during(calls: OneCall, job: Job = JOB) -> AsyncIterator[Slot]:
    """The time in which the job's call is captioned."""
    slot = Slot()
    async with captioned(cast(Calls, calls), job, calls.directory, slot):
        yield slot
    assert slot.call is None


async def test_without_captions(calls: OneCall) -> None:
    """Work that wants no captions opens no call."""
    async with during(calls, replace(JOB, spec=replace(SPEC, captions=None))):
        await asyncio.sleep(0)
    assert not calls.tried.is_set()
    assert calls.closed == 0


@pytest.mark.parametrize(
    "problem",
    [
        CallsdError(Reason.MODEL_MISSING, "there is no model base"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("a bug"),
    ],
    ids=repr,
)
async def test_refused(calls: OneCall, problem: Exception) -> None:
    """When captions cannot begin, the work does, without them."""
    calls.refusal = problem
    async with during(calls) as slot:
        await until(calls.tried.is_set, "a try")
        await asyncio.sleep(0)
        assert slot.call is None
    assert calls.closed == 0


async def test_late(calls: OneCall) -> None:
    """The work does not wait for its captions: they join it when they can."""
    calls.may_open.clear()
    async with during(calls) as slot:
        await until(calls.tried.is_set, "a try")
        assert slot.call is None
        calls.may_open.set()
        await slot.opened()
    assert calls.closed == 1


async def test_too_late(calls: OneCall) -> None:
    """Nor does its end."""
    calls.may_open.clear()
    async with asyncio.timeout(WAIT_SECONDS), during(calls):
        await until(calls.tried.is_set, "a try")
    assert calls.closed == 0


async def test_tended(calls: OneCall, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the work goes on, speech that has stopped is ended, and positions are kept."""
    monkeypatch.setattr("callsd_daemon.workers.captions.call.STALL_SECONDS", 0.0)
    async with during(calls) as slot:
        call = await slot.opened()
        call.attach(Encoding.OPUS)
        call.receive("ada", 1, 0, LENGTH, PACKET)
        await until(lambda: calls.ended == ["ada"], "the end of her speech")
        await until(lambda: "ada" in Journal(calls.directory).positions, "her position")
    assert calls.closed == 1
    assert call.is_over
    assert call.feed.ended.is_set()


async def test_a_captioner_that_cannot_go_on(calls: OneCall) -> None:
    """The job's log says why there are no more captions, and the work goes on."""
    async with during(calls) as slot:
        call = await slot.opened()
        calls.captioner.failure = Failure(reason=Reason.MODEL_INVALID, message="it is damaged")
        calls.captioner.failed.set()
        log = calls.directory / WORKER_LOG
        await until(lambda: log.exists() and "it is damaged" in log.read_text(), "a note")
        assert slot.call is call
        assert not call.feed.ended.is_set()
    assert calls.closed == 1


async def test_a_disk_that_is_full(calls: OneCall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that cannot be synced end nothing; they are tried again."""
    tried = []

    def sync(journal: Journal) -> None:
        tried.append(journal)
        if len(tried) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "sync", sync)
    async with during(calls):
        await until(lambda: len(tried) > 4, "more tries")
    assert calls.closed == 1


async def test_a_bug(calls: OneCall, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in the captions is no failure of the work."""
    ticks = []

    def tick(call: Call) -> None:
        ticks.append(call)
        raise ValueError("a bug")

    monkeypatch.setattr(Call, "tick", tick)
    async with during(calls):
        await until(lambda: ticks, "a tick")
    assert calls.closed == 1


@pytest.mark.parametrize(
    "problem",
    [OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug")],
    ids=repr,
)
async def test_an_end_that_cannot_be_written(calls: OneCall, problem: Exception) -> None:
    """Nor is a disk that takes no more when the call is closed, or whatever goes wrong there."""
    calls.problem = problem
    async with during(calls) as slot:
        await slot.opened()
    assert calls.closed == 1


async def test_work_that_fails(calls: OneCall) -> None:
    """How the work failed comes through, and the call is closed."""

    async def work() -> None:
        async with during(calls) as slot:
            await slot.opened()
            raise RuntimeError("the work has failed")

    with pytest.raises(RuntimeError, match="the work"):
        await work()
    assert calls.closed == 1
