# SPDX-License-Identifier: Apache-2.0
"""What is seen of deliveries, at the server and here."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

from callsd_daemon.usecases.jobs import job_id_of
from callsd_ipc.names import VIDEO_FILE
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Call, File, Job, JobType, Post
from tests.mattermost.threads import RECORDING_POST, TRANSCRIPTION_POST


CLIENT = "n7c4i6u1tjyr5bmq3dk8xw2esh"

CONSTANTS: dict[str, float] = {
    "callsd_daemon.domain.delivery.FIRST_PAUSE_SECONDS": 0.05,
    "callsd_daemon.domain.delivery.MAX_PAUSE_SECONDS": 0.4,
    "callsd_daemon.mattermost.courier.SECOND_LOOK_SECONDS": 0.3,
    "callsd_daemon.mattermost.outbox.LOOK_SECONDS": 1.0,
}
"""All waits are short, so that a test can go through many of them."""


class Deliveries(ABC):
    """Of jobs into the threads of a server's calls, whoever does the work."""

    def __init__(self, server: MattermostServer) -> None:
        self.server = server

    @abstractmethod
    def artifacts(self, name: str) -> Path:
        """The directory with what a job has made."""

    @abstractmethod
    def is_delivered(self, name: str) -> bool:
        """Whether there is nothing left to do for a job."""

    @abstractmethod
    def problems(self, call: Call) -> list[str]:
        """What has gone wrong with the delivery of a recording, the oldest first."""

    # --- what is seen at the server ---

    async def until_begun(self, call: Call) -> None:
        """Wait until the plugin knows that its jobs have begun, and has named the files."""
        await self.server.until(
            lambda: all(job.start_at for job in works(call)), "`started` has been told"
        )
        await self.server.until(
            lambda: self.asks("GET", f"{call.channel_id}/filename"), "the file's name was asked for"
        )

    async def published(self, call: Call, *, seconds: float = 30.0) -> File:
        """Wait until the recording is in the thread, and hold it against the file that is here."""
        await self.server.until(
            lambda: self.server.thread(call), "there is a post", timeout_seconds=seconds
        )
        await self.delivered(call)
        return self.only_file(call)

    async def both_published(self, call: Call) -> tuple[Post, Post]:
        """Wait until recording and transcript are in the thread; returns their posts.

        All files are held against those that are here.
        """
        await self.delivered(call)
        await self.job_delivered(transcript_of(call))
        recording, transcript = self.server.thread(call)
        assert (recording.type, transcript.type) == (RECORDING_POST, TRANSCRIPTION_POST)
        (caption,) = transcript.props["captions"]
        directory = self.artifacts(transcript_of(call))
        file_ids = [*recording.file_ids, *transcript.file_ids, caption["file_id"]]
        ours = [self.film(call), directory / "transcript.txt", directory / "transcript.vtt"]
        theirs = [self.server.state.files[file_id].path for file_id in file_ids]
        assert [sha256(path) for path in theirs] == [sha256(path) for path in ours]
        return recording, transcript

    def only_file(self, call: Call) -> File:
        """The one file in the call's thread, which is the job's artifact byte for byte."""
        (post,) = self.server.thread(call)
        assert post.type == RECORDING_POST
        (file_id,) = post.file_ids
        file = self.server.state.files[file_id]
        assert sha256(file.path) == sha256(self.film(call))
        return file

    def asks(self, method: str, ending: str) -> int:
        """How many requests the server has answered whose path ends so."""
        return sum(
            one.method == method and one.path.endswith(ending) for one in self.server.requests
        )

    # --- what is seen here ---

    def film(self, call: Call) -> Path:
        """The recording's file as it is here."""
        return self.artifacts(name_of(call.recording)) / VIDEO_FILE

    async def delivered(self, call: Call, *, seconds: float = 30.0) -> None:
        """Wait until there is nothing left to do for a recording."""
        await self.job_delivered(name_of(call.recording), seconds=seconds)

    async def job_delivered(self, name: str, *, seconds: float = 30.0) -> None:
        """The same for any job."""
        await self.server.until(
            lambda: self.is_delivered(name), "the delivery has ended", timeout_seconds=seconds
        )

    async def problem(self, call: Call, text: str) -> str:
        """Wait for a problem with this text; returns all of it."""

        def look() -> str:
            return next((one for one in self.problems(call) if text in one), "")

        return await self.server.until(look, f"a try has failed by {text!r}")

    async def asked_more_than(self, call: Call, count: int) -> None:
        """Wait until so many more tries have failed."""
        before = len(self.problems(call))
        await self.server.until(
            lambda: len(self.problems(call)) > before + count, f"{count} more tries"
        )


def name_of(job: Job) -> str:
    """Our name of a job of the plugin's."""
    return f"jobs/{job.job_id}"


def works(call: Call) -> list[Job]:
    """The plugin's jobs that go on during a call: the recording and, if there is one, the other."""
    return [job for job in call.jobs if job.type in (JobType.RECORDING, JobType.TRANSCRIBING)]


def transcript_of(call: Call) -> str:
    """Our name of the job that transcribes what is captured for the plugin's job."""
    return f"jobs/{job_id_of(f'gateway/{CLIENT}', f'transcription/{call.transcription.id}')}"


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
