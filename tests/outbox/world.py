# SPDX-License-Identifier: Apache-2.0
"""A daemon with a gateway, and a Mattermost server whose plugin hands it recordings."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JobState, StopJobRequest
from callsd_daemon.domain.delivery import DeliveryState
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import Http
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Call
from tests.outbox.deliveries import CLIENT, Deliveries, name_of, works


T = TypeVar("T")

KEY = "k" * 32


class World(Deliveries):
    """Both of them. What asks the daemon and waits is run beside the server's event loop."""

    def __init__(self, server: MattermostServer, daemon: Daemon, http: Http) -> None:
        super().__init__(server)
        self.daemon = daemon
        self.http = http

    async def open(self) -> None:
        """Start the daemon, and have the plugin get to know it."""
        await asyncio.to_thread(self.daemon.start)
        await self.activate()

    async def activate(self, *, transcriptions: bool = False) -> None:
        """The plugin is activated."""
        url = f"http://127.0.0.1:{self.http.port}"
        await self.server.activate(url, CLIENT, KEY, transcriptions=transcriptions)

    async def record(self, megabytes: float = 0.1, *, channel: str = "Town Square") -> Call:
        """A call whose recording goes on; the plugin knows that it has begun."""
        call = await self.begin(f"film {megabytes}", channel=channel)
        await self.until_begun(call)
        return call

    async def record_speech(self, megabytes: float, *, segments: int) -> Call:
        """The same, and in the call so much will have been said."""
        (self.daemon.root / "tmp" / "transcriber").write_text(f"transcribe {segments}")
        return await self.record(megabytes)

    async def begin(self, script: str, *, channel: str = "Town Square") -> Call:
        """A call of whose recording this script is the recorder."""
        (self.daemon.root / "tmp" / "recorder").write_text(script)
        call = self.server.start_call(channel=channel)
        await self.server.start_recording(call)
        # The recorder reads its script when it starts: the next one may have another.
        name = name_of(call.recording)
        await asyncio.to_thread(
            lambda: self.daemon.wait(self.daemon.api(), name, JOB_STATE_RUNNING, *ENDED)
        )
        return call

    async def stop(self, call: Call) -> None:
        """End the recording, and the capture, as those do that see the call's end."""
        names = [name_of(job) for job in works(call)]

        def stop() -> None:
            api = self.daemon.api()
            for name in names:
                api(api.jobs.StopJob, StopJobRequest(name=name))

        await self.asked(stop)

    async def asked(self, question: Callable[[], T]) -> T:
        """What the daemon answers, while the server goes on serving."""
        return await asyncio.to_thread(question)

    def artifacts(self, name: str) -> Path:
        """Where the daemon keeps them."""
        return self.daemon.job_directory(name) / "artifacts"

    def is_delivered(self, name: str) -> bool:
        """As its database has it: who is killed after the last step tells nobody else."""
        database = self.daemon.state / "callsd.db"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (state,) = connection.execute(
                "SELECT delivery FROM jobs WHERE id = ?", (name.removeprefix("jobs/"),)
            ).fetchone()
        return bool(state != DeliveryState.PENDING)

    def problems(self, call: Call) -> list[str]:
        """As the log tells them."""
        return [
            event["problem"]
            for event in self.daemon.events("delivery_delayed")
            if event["job_id"] == call.recording.job_id
        ]


ENDED = (
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
)
