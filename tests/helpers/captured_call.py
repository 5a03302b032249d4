# SPDX-License-Identifier: Apache-2.0
"""A call on a Mattermost that a whole daemon captures, as its people and readers see it."""

import asyncio
import contextlib
import html
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from callsd.v1.job_pb2 import Job, StopJobRequest
from callsd.v1.mattermost_pb2 import DELIVERY_STATE_PENDING
from callsd_bench.shared.accuracy import HeardSegment
from tests.helpers.captions import MODEL
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.invariants import all_jobs
from tests.helpers.ports import free_port
from tests.helpers.speech import errors, speech
from tests.helpers.waiting import eventually
from tests.mattermost import state
from tests.mattermost.captions_seen import Caption
from tests.mattermost.opus_packets import of_pcm
from tests.mattermost.participants import Participant
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Channel, Post
from tests.mattermost.threads import RECORDING_POST, TRANSCRIPTION_POST
from tests.outbox.deliveries import CLIENT, CONSTANTS
from tests.outbox.world import KEY


T = TypeVar("T")

FILM_WORKER = Path(__file__).parent / "film_worker.py"

JOIN_SECONDS = 60.0
"""The plugin gives no job more."""

WORK_SECONDS = 90.0
"""How long things may take on a machine that is busy otherwise."""

MODELS = {"model_size": MODEL, "live_captions_model_size": MODEL}


def options(*, has_film: bool = True, **more: Any) -> dict[str, Any]:
    """Of a daemon with real workers and a gateway; `has_film`: but for the recorders."""
    return {
        "is_real": True,
        "machine": replace(CALM, cores_total=16.0),
        "config": {"gateway": {"listen": f"127.0.0.1:{free_port()}", "self_registration": True}},
        "constants": CONSTANTS,
        "env": {"CALLSD_WORKER_PROGRAM": str(FILM_WORKER)} if has_film else {},
        **more,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What somebody of the sample call says, in a stretch of it."""

    speaker: str
    begin_seconds: float
    end_seconds: float
    text: str

    async def packets(self) -> Sequence[bytes]:
        """As a browser would send it."""
        # Decoded only now: tests are collected more often than they are run.
        pcm = speech(self.speaker, self.begin_seconds, self.end_seconds)
        return await asyncio.to_thread(of_pcm, pcm, rate_hz=16_000)


def words(speaker: str, begin_seconds: float, end_seconds: float, text: str) -> Words:
    """A stretch of the sample call."""
    return Words(speaker=speaker, begin_seconds=begin_seconds, end_seconds=end_seconds, text=text)


def of_vtt(document: str) -> list[HeardSegment]:
    """The segments of subtitles that name their speakers."""
    found = re.findall(
        r"^(\d+):(\d\d):(\d\d\.\d+) --> .*\n<v ([^>]*)>\([^)]*\) (.*)$", document, re.MULTILINE
    )
    return [
        HeardSegment(
            speaker=speaker.lower(),
            start_seconds=3600 * int(h) + 60 * int(m) + float(s),
            text=html.unescape(text),
        )
        for h, m, s, speaker, text in found
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """As it is read in the thread."""

    vtt: str
    text: str
    language: str

    @property
    def segments(self) -> list[HeardSegment]:
        """What was said, by whom, in order of time."""
        return of_vtt(self.vtt)

    def said_by(self, speaker: str) -> str:
        """All that somebody has said."""
        return " ".join(one.text for one in self.segments if one.speaker == speaker.lower())

    def errors(self, said: Words) -> int:
        """Words of somebody that are wrong, missing or too many."""
        return errors(said.text, self.said_by(said.speaker))


@dataclass(slots=True, kw_only=True)
class CapturedCall:
    """The call, its people by name, the server that it is on and the daemon that captures it."""

    server: MattermostServer
    daemon: Daemon
    call: state.Call
    people: dict[str, Participant]

    # In the call

    async def say(self, said: Words) -> Participant:
        """Begin to say this, as soon as one can be heard; returns who does."""
        person = self.people[said.speaker]
        packets = await said.packets()
        await person.unmute()
        await self.server.until(lambda: person.track and person.track.copies, "the bot listens")
        await person.play(packets)
        return person

    def captions(self, speaker: str) -> list[Caption]:
        """What was shown of somebody."""
        session_id = self.people[speaker].session_id
        return [one for one in self.call.captions if one.session_id == session_id]

    async def captioned(
        self, speaker: str, *, word_count: int = 1, since_seconds: float = 0.0
    ) -> Caption:
        """Wait for a caption of so many words that came after a moment of Unix time."""

        def look() -> Caption | None:
            for one in self.captions(speaker):
                if one.time_seconds > since_seconds and len(one.text.split()) >= word_count:
                    return one
            return None

        what = f"{word_count} words of {speaker} are captioned"
        found = await self.server.until(look, what, timeout_seconds=WORK_SECONDS)
        assert found is not None
        return found

    async def stop(self) -> None:
        """The host stops the recording, and the recorder sees it as well."""
        await self.server.stop_recording(self.call)
        await self.end_film()

    async def end_film(self) -> None:
        """Let the scripted recorder see that its job was stopped."""
        name = f"jobs/{self.call.recording.job_id}"

        def stop() -> None:
            api = self.daemon.api()
            api(api.jobs.StopJob, StopJobRequest(name=name))

        await self.asked(stop)

    def open(self) -> None:
        """The plugin lets bots into the call."""
        members = [person.user_id for person in self.people.values()]
        channel = Channel(display_name="Town Square", member_ids=members, id=self.call.channel_id)
        self.server.state.channels[channel.id] = channel

    # In the thread

    async def published(self) -> Transcript:
        """Wait until both posts are there; the recording's is the first, and neither comes twice.

        The files are in the order that the plugin wants, and the film has its captions.
        """
        await self.server.until(
            lambda: len(self.thread) > 1, "there are two posts", timeout_seconds=WORK_SECONDS
        )
        await self.delivered()
        recording, transcription = self.thread
        assert (recording.type, transcription.type) == (RECORDING_POST, TRANSCRIPTION_POST)
        (captions,) = transcription.props["captions"]
        assert recording.props["captions"] == [captions]
        assert captions["language"]
        (text_id,) = transcription.file_ids
        files = self.server.state.files
        vtt, text = files[captions["file_id"]], files[text_id]
        assert (vtt.name[-4:], text.name[-4:]) == (".vtt", ".txt")
        assert vtt.post_id == self.call.post_id
        return Transcript(
            vtt=vtt.path.read_text(encoding="utf-8"),
            text=text.path.read_text(encoding="utf-8"),
            language=captions["language"],
        )

    @property
    def thread(self) -> list[Post]:
        """The posts, the oldest first."""
        return self.server.thread(self.call)

    # At the daemon

    async def asked(self, question: Callable[[], T]) -> T:
        """What the daemon answers, while the server goes on serving."""
        return await asyncio.to_thread(question)

    async def capture(self) -> Job:
        """The job that captures the call."""
        name = f"jobs/{self.call.transcription.job_id}"
        return await self.asked(lambda: self.daemon.job(self.daemon.api(), name))

    def jobs(self) -> dict[str, Job]:
        """The jobs of the call by kind."""
        names = {job.job_id for job in self.call.jobs if job.job_id}
        found = dict[str, Job]()
        for job in all_jobs(self.daemon.api()):
            if job.name.removeprefix("jobs/") in names:
                found["capture" if job.HasField("capture") else "recording"] = job
            elif any(
                track.capture.removeprefix("jobs/") in names and track.capture
                for track in job.transcription.tracks
            ):
                found["transcription"] = job
        return found

    async def delivered(self) -> dict[str, Job]:
        """The jobs by kind, once there is nothing left to deliver of any."""

        def look() -> dict[str, Job]:
            jobs = self.jobs()
            is_over = len(jobs) == 3 and all(
                job.delivery.state != DELIVERY_STATE_PENDING for job in jobs.values()
            )
            return jobs if is_over else {}

        return await self.asked(
            lambda: eventually(look, "all is delivered", seconds=WORK_SECONDS, every_seconds=0.2)
        )

    async def worker(self) -> int:
        """The process that captures the call."""
        name = f"jobs/{self.call.transcription.job_id}"
        return await self.asked(lambda: self.daemon.worker(name))


@contextlib.asynccontextmanager
async def calling(
    daemon: Daemon,
    speakers: Iterable[str],
    *,
    is_awaited: bool = True,
    is_open: bool = True,
    max_duration_seconds: int = 3600,
    **server_options: Any,
) -> AsyncIterator[CapturedCall]:
    """A call of these people that is recorded and captured; `is_awaited`: both have started.

    `is_open=False`: the plugin lets no bot into it, until it is opened.
    """
    (daemon.root / "tmp" / "recorder").write_text("film 0.1")
    async with MattermostServer(**server_options) as server:
        url = f"http://{daemon.settings['gateway']['listen']}"
        await server.activate(url, CLIENT, KEY)
        users = [server.add_user(name, name.title()) for name in speakers]
        call = server.start_call(users=users)
        people = {user.username: await server.participant(call, user) for user in users}
        one = CapturedCall(server=server, daemon=daemon, call=call, people=people)
        if not is_open:
            del server.state.channels[call.channel_id]  # it answers "forbidden"
        await server.start_recording(
            call,
            quality="low",
            max_duration_seconds=max_duration_seconds,
            transcriber_extras=MODELS,
        )
        try:
            if is_awaited:
                await started(one)
            yield one
        finally:
            # Other tests use the same daemon: nothing of this call goes on.
            if daemon.process is not None:
                await one.asked(lambda: _end(one))


async def started(one: CapturedCall) -> None:
    """Wait until the plugin was told that both of its jobs have started."""
    jobs = [one.call.recording, one.call.transcription]
    await one.server.until(
        lambda: all(job.start_at or job.end_at for job in jobs),
        "both have started",
        timeout_seconds=JOIN_SECONDS,
    )
    assert [job.err for job in jobs] == ["", ""]


def _end(one: CapturedCall) -> None:
    api = one.daemon.api()
    for job in one.jobs().values():
        api(api.jobs.StopJob, StopJobRequest(name=job.name))
