# SPDX-License-Identifier: Apache-2.0
"""What waits for a captioner is bounded, and comes in order."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from callsd_daemon.domain.captions import CaptionsSpec, Encoding
from callsd_daemon.files import FilePool
from callsd_daemon.kinds.captions import CaptionerAssignment
from callsd_daemon.metrics import CAPTIONER_COMMANDS
from callsd_daemon.workers.captions import link as module
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.link import (
    CaptionerCommand,
    CaptionerObserver,
    CaptionerStatus,
    CloseTrack,
    Link,
)
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.worker_log import WorkerLog


WAIT_SECONDS = 10.0
WORK = CaptionerAssignment(model="base", model_files=(), engine="ctranslate2", workers=1)
FULL, MAX, BATCH = 5, 8, 3


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    """One with room for a handful."""
    monkeypatch.setattr(module, "FULL_COMMANDS", FULL)
    monkeypatch.setattr(module, "MAX_COMMANDS", MAX)
    monkeypatch.setattr(module, "BATCH_COMMANDS", BATCH)
    return Link(
        WORK,
        cast(CaptionerObserver, None),
        log=cast(WorkerLog, None),
        generation=1,
        token_sha256="",
    )


def send(link: Link, count: int) -> list[CaptionerCommand]:
    """Send some commands, each for a track of its own."""
    sent: list[CaptionerCommand] = [CloseTrack(track=number) for number in range(count)]
    for command in sent:
        link.send(command)
    return sent


async def taken(link: Link, count: int) -> list[list[CaptionerCommand]]:
    """What the captioner is given, until it has so many commands."""
    batches: list[list[CaptionerCommand]] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for batch in link.batches():
            batches.append(batch)
            if sum(map(len, batches)) >= count:
                break
    return batches


async def test_order(link: Link) -> None:
    """All commands are taken in order, some at a time, and what is left is counted."""
    sent = send(link, MAX)
    batches = await taken(link, MAX - 1)

    assert [len(batch) for batch in batches] == [BATCH, BATCH, MAX - 2 * BATCH]
    assert [command for batch in batches for command in batch] == sent
    assert link.waiting == 0


def test_room(link: Link) -> None:
    """Calls are told to wait before the bound is reached."""
    send(link, FULL - 1)
    had_room = link.has_room
    send(link, 1)

    assert (had_room, link.has_room, link.is_closed) == (True, False, False)


async def test_bound(link: Link) -> None:
    """A captioner that takes nothing is given up, and nothing is kept for it any more."""
    send(link, MAX)
    was_closed = link.is_closed
    send(link, 2)

    assert (was_closed, link.is_closed, link.waiting) == (False, True, 0)
    assert await taken(link, 1) == []


def test_rings(link: Link) -> None:
    """What a captioner is sent at its start, the rings of all calls, does not count."""
    send(link, 3)
    link.exempt()
    send(link, MAX)
    was_closed = link.is_closed
    send(link, 1)

    assert (was_closed, link.is_closed) == (False, True)


def test_calls_of_a_captioner(link: Link, tmp_path: Path) -> None:
    """A call that was held back for the others' sake goes on as soon as the captioner reports.

    How much waits is among the metrics.
    """
    captioner = Captioner(
        WORK,
        server=cast(WorkerServer, None),
        launcher=cast(Launcher, None),
        directory=tmp_path,
        pool=cast(FilePool, None),
        tag="",
        max_log_bytes=4096,
    )
    sink = AudioSink(
        send=captioner.send_audio,
        end_speech=captioner.end_speech,
        has_room=captioner.has_room,
    )
    call = Call("job", CaptionsSpec(model="base"), tmp_path, sink, max_log_bytes=4096)
    call.attach(Encoding.S16LE)
    captioner.add(call)
    captioner._link = link
    send(link, FULL)
    call.receive("ada", 1, 0, 1600, bytes(3200))
    call.update_room()
    is_held = not call.room.is_set()
    link._commands.clear()
    captioner.on_status(
        CaptionerStatus(
            load=0.0,
            lag_seconds=0.0,
            degraded="",
            real_time_factor=0.0,
            cpu_seconds={},
            peak_memory_bytes=0,
            engine="",
        )
    )

    assert is_held
    assert call.room.is_set()
    assert CAPTIONER_COMMANDS.labels(model="base")._value.get() == 0
