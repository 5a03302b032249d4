# SPDX-License-Identifier: Apache-2.0
"""A call on the test server, and a client in it whose listener writes everything down."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from callsd_worker.capture.call import Ending, Packet, SenderReport, Speaker
from callsd_worker.mattermost.client import MattermostClient
from callsd_worker.mattermost.settings import Call, Limits
from tests.mattermost import state
from tests.mattermost.opus_packets import of_pcm
from tests.mattermost.server import MattermostServer


TONE = of_pcm((8000 * np.sin(np.arange(48_000) / 10)).astype(np.int16))
"""A second of sound."""


@dataclass(slots=True)
class Notes:
    """A listener that writes down what it is told."""

    events: list[str] = field(default_factory=list)
    speakers: dict[str, Speaker] = field(default_factory=dict)
    """By track, as it was told last."""
    packets: dict[str, list[Packet]] = field(default_factory=lambda: defaultdict(list))
    reports: dict[str, list[SenderReport]] = field(default_factory=lambda: defaultdict(list))
    started_seconds: list[float] = field(default_factory=list)

    def joined(self) -> None:
        """Write it down."""
        self.events.append("joined")

    def recording_started(self, time_seconds: float) -> None:
        """Write it down."""
        self.started_seconds.append(time_seconds)

    def track(self, track_id: str, speaker: Speaker) -> None:
        """Write it down."""
        if track_id not in self.speakers:
            self.events.append(f"track {track_id}")
        self.speakers[track_id] = speaker

    def packet(self, track_id: str, packet: Packet) -> None:
        """Write it down."""
        self.packets[track_id].append(packet)

    def sender_report(self, track_id: str, report: SenderReport) -> None:
        """Write it down."""
        self.reports[track_id].append(report)

    def muted(self, session_id: str) -> None:
        """Write it down."""
        self.events.append(f"muted {session_id}")

    def track_ended(self, track_id: str) -> None:
        """Write it down."""
        self.events.append(f"ended {track_id}")

    def sound(self, track_id: str | None) -> list[bytes]:
        """What was heard of a track, without padding."""
        return [packet.payload for packet in self.packets[track_id or ""] if packet.payload]


@dataclass(slots=True)
class Stay:
    """A client in a call."""

    client: MattermostClient
    notes: Notes
    running: asyncio.Task[Ending]

    async def ending(self, timeout_seconds: float = 30.0) -> Ending:
        """How it ends."""
        async with asyncio.timeout(timeout_seconds):
            return await self.running


def recorded_call(server: MattermostServer) -> state.Call:
    """A call of one that is to be recorded and transcribed; nothing has started yet."""
    call = server.start_call()
    call.jobs += [
        state.Job(type=state.JobType.RECORDING),
        state.Job(type=state.JobType.TRANSCRIBING),
    ]
    return call


def client_of(
    server: MattermostServer, call: state.Call, notes: Notes, **options: Any
) -> MattermostClient:
    """A client for the call's transcription."""
    token = options.pop("token", server.bot_token)
    job = call.transcription
    assert job is not None
    return MattermostClient(
        Call(site_url=server.url, call_id=call.channel_id, job_id=options.pop("job_id", job.id)),
        token,
        notes,
        limits=Limits(**options),
    )


@contextlib.asynccontextmanager
async def staying(
    server: MattermostServer, call: state.Call, **options: Any
) -> AsyncIterator[Stay]:
    """A client that has joined; it is ended when the test has not."""
    notes = Notes()
    client = client_of(server, call, notes, **options)
    running = asyncio.create_task(client.run())
    try:
        await server.until(lambda: "joined" in notes.events or running.done(), "joined")
        if running.done():
            running.result()
        yield Stay(client, notes, running)
    finally:
        client.request_stop()
        async with asyncio.timeout(10.0):
            await asyncio.gather(running, return_exceptions=True)
