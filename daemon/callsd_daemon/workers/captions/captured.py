# SPDX-License-Identifier: Apache-2.0
"""Captions of a call that a worker captures: they are beside its work, and never hold it up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import structlog

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CaptureSpec
from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Job
from callsd_daemon.workers.captions.attempt import KEEP_TICKS, TICK_SECONDS
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.waits import until


log = structlog.get_logger(__name__)


class Place(Protocol):
    """Where the worker's streams find the call."""

    call: Call | None


@contextlib.asynccontextmanager
async def captioned(calls: Calls, job: Job, directory: Path, place: Place) -> AsyncIterator[None]:
    """Caption the job's call while this is entered; it is at its place while it is open.

    Nothing is waited for in the beginning, and nothing that goes wrong is raised.
    """
    captions = job.spec.captions if isinstance(job.spec, CaptureSpec) else None
    if captions is None:
        yield
        return
    tending = asyncio.create_task(
        _caption(calls, job.id, captions, directory, place), name=f"captions of {job.id}"
    )
    try:
        yield
    finally:
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)


async def _caption(
    calls: Calls, job_id: str, captions: CaptionsSpec, directory: Path, place: Place
) -> None:
    """Until this is cancelled, even when no captioner can serve the call any more.

    A worker finds the call at its place all the same: it need not ask for it again and again.
    """
    try:
        call, captioner = await calls.open(job_id, captions, directory)
    except (CallsdError, OSError) as problem:
        log.warning("call_not_captioned", job_id=job_id, problem=str(problem))
        return
    except Exception:
        log.exception("call_not_captioned", job_id=job_id)
        return
    try:
        place.call = call
        await _tend(call, captioner)
        await asyncio.Event().wait()
    finally:
        place.call = None
        call.close_input()
        try:
            calls.close(call, captioner)
        except Exception:
            log.exception("captions_not_kept", job_id=job_id)


async def _tend(call: Call, captioner: Captioner) -> None:
    """Until no captioner can serve the call any more."""
    try:
        await _keep_going(call, captioner)
    except Exception:
        log.exception("call_not_captioned", job_id=call.job_id)


async def _keep_going(call: Call, captioner: Captioner) -> None:
    ticks = 0
    while not captioner.failed.is_set():
        call.tick()
        ticks += 1
        if ticks % KEEP_TICKS == 0:
            call.save_positions()
            with contextlib.suppress(OSError):  # the disk may be full; captions go on
                await asyncio.to_thread(call.sync)
        await until(captioner.failed, TICK_SECONDS)
    problem = captioner.failure.message if captioner.failure else "the captioner has ended"
    log.warning("call_not_captioned", job_id=call.job_id, problem=problem)
    call.note(f"captions have ended: {problem}")
