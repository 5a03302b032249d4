# SPDX-License-Identifier: Apache-2.0
"""A daemon with a gateway, and a Mattermost server whose plugin hands it recordings."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JobState, StopJobRequest
from callsd_daemon.domain.delivery import DeliveryState
from callsd_daemon.usecases.jobs import job_id_of
from callsd_ipc.names import VIDEO_FILE
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import Http
from tests.helpers.waiting import eventually
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Call, File, Job, JobType, Post
from tests.mattermost.threads import RECORDING_POST, TRANSCRIPTION_POST


T = TypeVar("T")

CLIENT, KEY = "n7c4i6u1tjyr5bmq3dk8xw2esh", "k" * 32

CONSTANTS: dict[str, float] = {
    "callsd_daemon.domain.delivery.FIRST_PAUSE_SECONDS": 0.05,
    "callsd_daemon.domain.delivery.MAX_PAUSE_SECONDS": 0.4,
    "callsd_daemon.mattermost.courier.SECOND_LOOK_SECONDS": 0.3,
    "callsd_daemon.mattermost.outbox.LOOK_SECONDS": 1.0,
}
"""All waits are short, so that a test can go through many of them."""


class World:
    """Both of them. What asks the daemon and waits is run beside the server's event loop."""

    def __init__(self, server: MattermostServer, daemon: Daemon, http: Http) -> None:
        self.server = server
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

    # --- recordings ---

    def script(self, text: str) -> None:
        """What the recorders do that are started from now on."""
        (self.daemon.root / "tmp" / "recorder").write_text(text)

    async def record(self, megabytes: float = 0.1, *, channel: str = "Town Square") -> Call:
        """A call whose recording goes on; the plugin knows that it has begun."""
        call = await self.begin(f"film {megabytes}", channel=channel)
        await self.server.until(
            lambda: all(job.start_at for job in works(call)), "`started` has been told"
        )
        await self.server.until(
            lambda: self.asks("GET", f"{call.channel_id}/filename"), "the file's name was asked for"
        )
        return call

    async def record_speech(self, megabytes: float, *, segments: int) -> Call:
        """The same, and in the call so much will have been said."""
        (self.daemon.root / "tmp" / "transcriber").write_text(f"transcribe {segments}")
        return await self.record(megabytes)

    async def begin(self, script: str, *, channel: str = "Town Square") -> Call:
        """A call of whose recording this script is the recorder."""
        self.script(script)
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

    async def stop_before(self, call: Call, path: str, then: Callable[[], None]) -> None:
        """End the recording, and do something as soon as the server was asked for this path."""
        await self.stop(call)
        await self.server.until(lambda: self.asks("POST", path), f"{path} was asked for")
        then()

    # --- what is seen at the server ---

    async def published(self, call: Call, *, seconds: float = 30.0) -> File:
        """Wait until the recording is in the thread, and hold it against the daemon's own file."""
        await self.server.until(
            lambda: self.server.thread(call), "there is a post", timeout_seconds=seconds
        )
        await self.delivered(call)
        return self.only_file(call)

    async def both_published(self, call: Call) -> tuple[Post, Post]:
        """Wait until recording and transcript are in the thread; returns their posts.

        All files are held against the daemon's own.
        """
        await self.job_delivered(name_of(call.recording))
        await self.job_delivered(transcript_of(call))
        recording, transcript = self.server.thread(call)
        assert (recording.type, transcript.type) == (RECORDING_POST, TRANSCRIPTION_POST)
        (caption,) = transcript.props["captions"]
        directory = self.daemon.job_directory(transcript_of(call)) / "artifacts"
        file_ids = [*recording.file_ids, *transcript.file_ids, caption["file_id"]]
        ours = [self.artifact(call), directory / "transcript.txt", directory / "transcript.vtt"]
        theirs = [self.server.state.files[file_id].path for file_id in file_ids]
        assert [sha256(path) for path in theirs] == [sha256(path) for path in ours]
        return recording, transcript

    def only_file(self, call: Call) -> File:
        """The one file in the call's thread, which is the job's artifact byte for byte."""
        (post,) = self.server.thread(call)
        assert post.type == RECORDING_POST
        (file_id,) = post.file_ids
        file = self.server.state.files[file_id]
        assert sha256(file.path) == sha256(self.artifact(call))
        return file

    def artifact(self, call: Call) -> Path:
        """The file as the daemon has it."""
        return self.daemon.job_directory(name_of(call.recording)) / "artifacts" / VIDEO_FILE

    # --- what is seen at the daemon ---

    async def delivered(self, call: Call, *, seconds: float = 30.0) -> None:
        """Wait until the daemon knows that there is nothing left to do for a recording."""
        await self.job_delivered(name_of(call.recording), seconds=seconds)

    async def job_delivered(self, name: str, *, seconds: float = 30.0) -> None:
        """The same for any job of the daemon's."""
        database, job_id = self.daemon.state / "callsd.db", name.removeprefix("jobs/")

        def has_ended() -> bool:
            # Whoever was killed after the last step can have told it to nobody but the database.
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                (state,) = connection.execute(
                    "SELECT delivery FROM jobs WHERE id = ?", (job_id,)
                ).fetchone()
            return bool(state != DeliveryState.PENDING)

        await self.asked(lambda: eventually(has_ended, "the delivery has ended", seconds=seconds))

    def problems(self, call: Call) -> list[str]:
        """What has gone wrong with a delivery, as the log tells it."""
        return [
            event["problem"]
            for event in self.daemon.events("delivery_delayed")
            if event["job_id"] == call.recording.job_id
        ]

    def problems_with(self, call: Call, text: str) -> list[str]:
        """Those of them that hold this text."""
        return [one for one in self.problems(call) if text in one]

    async def problem(self, call: Call, text: str) -> str:
        """Wait for a problem with this text; returns all of it."""

        def look() -> str:
            return next((one for one in self.problems(call) if text in one), "")

        return await self.asked(lambda: eventually(look, f"a try has failed by {text!r}"))

    async def asked_more_than(self, call: Call, count: int) -> None:
        """Wait until so many more tries have failed."""
        before = len(self.problems(call))
        await self.asked(
            lambda: eventually(
                lambda: len(self.problems(call)) > before + count, f"{count} more tries"
            )
        )

    async def until_event(self, event: str, call: Call) -> None:
        """Wait until the daemon's log has this event of the recording."""
        job_id = call.recording.job_id

        def look() -> bool:
            return any(one.get("job_id") == job_id for one in self.daemon.events(event))

        await self.asked(lambda: eventually(look, f"the log tells {event}"))

    def asks(self, method: str, ending: str) -> int:
        """How many requests the server has answered whose path ends so."""
        return sum(
            one.method == method and one.path.endswith(ending) for one in self.server.requests
        )


ENDED = (
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
)


def name_of(job: Job) -> str:
    """The daemon's name of a job of the plugin's."""
    return f"jobs/{job.job_id}"


def works(call: Call) -> list[Job]:
    """The plugin's jobs that go on during a call: the recording and, if there is one, the other."""
    return [job for job in call.jobs if job.type in (JobType.RECORDING, JobType.TRANSCRIBING)]


def transcript_of(call: Call) -> str:
    """The daemon's name of the job that transcribes what is captured for the plugin's job."""
    return f"jobs/{job_id_of(f'gateway/{CLIENT}', f'transcription/{call.transcription.id}')}"


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
