# SPDX-License-Identifier: Apache-2.0
"""The client's caption sender and watch with a real daemon, which is killed under them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from callsd import AsyncClient, CaptionSender, Client, ConflictError, NotFoundError, Sound
from callsd.v1.caption_pb2 import AUDIO_ENCODING_OPUS, Caption, CaptionsSpec
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from tests.captioner.sound import MAYA_SECONDS, MAYA_TEXT, opus_pieces
from tests.helpers.daemon import Daemon
from tests.helpers.speech import errors, speech
from tests.helpers.waiting import eventually


StartDaemon = Callable[..., Daemon]

SPEC = CaptionsSpec(language="en")
STEP_SECONDS = 0.1
STEP_BYTES = 3200

WORDS = (
    "There is one more thing that worries me. We only found the problem because the queue was long."
    " If the jobs had failed quietly, we would not have known until the morning."
)
"""What Kenji says in the stretch below."""

SPEECH_SECONDS = (26.0, 37.5)


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with real workers; each test has a job of its own."""
    return shared_daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of it."""
    with Client(running.address, token_file=running.token_file) as found:
        yield found


def sounds(*, first: int = 0, last: int | None = None) -> list[Sound]:
    """Kenji's words in tenths of a second."""
    data = speech("kenji", *SPEECH_SECONDS).tobytes()
    pieces = [data[at : at + STEP_BYTES] for at in range(0, len(data), STEP_BYTES)]
    return [
        Sound(speaker="k", data=piece, start_offset_seconds=number * STEP_SECONDS)
        for number, piece in enumerate(pieces)
    ][first:last]


def play(sender: CaptionSender, parts: list[Sound], *, speed: float = 1.0) -> None:
    """Send as live sound comes."""
    began = time.monotonic()
    for number, sound in enumerate(parts):
        time.sleep(max(0.0, began + number * STEP_SECONDS / speed - time.monotonic()))
        sender.send(sound.speaker, sound.data, sound.start_offset_seconds)


class Watching:
    """Keeps the final captions of a call, to its end."""

    def __init__(self, client: Client, job: str) -> None:
        self.finals: list[Caption] = []
        self._messages = client.watch_captions(job, resume_sequence=0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with closing(self._messages) as messages:
            self.finals.extend(one.caption for one in messages if one.caption.is_final)

    def text(self) -> str:
        """All words, once the call has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return " ".join(caption.text for caption in self.finals)


class TestKilled:
    """kill -9."""

    def test_daemon(self, daemon: StartDaemon, models_directory: Path) -> None:
        """A daemon killed twice mid-sentence: every word is captioned, none of them twice."""
        one = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
        client = one.client()
        job = client.create_job(SPEC).job.name
        watching = Watching(client, job)
        parts = sounds()
        with client.stream_captions(job) as sender:
            sender.joined("k", display_name="Kenji")
            play(sender, parts[:40])
            one.kill()
            one.launch()
            play(sender, parts[40:80])
            one.kill()
            one.launch()
            play(sender, parts[80:])
        client.stop_job(job)
        ended = client.wait_job(job, timeout_seconds=60)
        text = watching.text()
        numbers = [caption.sequence for caption in watching.finals]

        assert ended.state == JOB_STATE_SUCCEEDED
        assert numbers == list(range(1, len(numbers) + 1))
        assert errors(WORDS, text) <= 3
        assert {caption.display_name for caption in watching.finals} == {"Kenji"}
        assert ended.captions_result.skipped_duration.ToMilliseconds() == 0

    def test_client(self, client: Client) -> None:
        """Another process goes on where one that vanished mid-word had been."""
        job = client.create_job(SPEC).job.name
        watching = Watching(client, job)
        parts = sounds()
        first = client.stream_captions(job)
        play(first, parts[:50], speed=4)
        eventually(
            lambda: "k" in first.acks and first.acks["k"].received_sequence == 50,
            "all is received",
        )
        first.abort()
        with client.stream_captions(job) as second:
            received = second.acks["k"].received_sequence
            play(second, parts[received:], speed=4)
        client.stop_job(job)

        assert received == 50
        assert errors(WORDS, watching.text()) <= 3


class TestSender:
    """What ends it."""

    def test_replaced(self, client: Client) -> None:
        """The newer of two senders has the call; the older one is told, and does not come back."""
        job = client.create_job(SPEC).job.name
        older = client.stream_captions(job)
        with client.stream_captions(job) as newer:
            with pytest.raises(ConflictError) as caught:
                eventually(lambda: older.send_batch(sounds(last=1)), "it is told")
            newer.send_batch(sounds(last=5))
        client.stop_job(job)

        assert caught.value.reason == "STREAM_REPLACED"

    def test_call_is_over(self, client: Client) -> None:
        """A job that is stopped takes no more sound, and says so."""
        job = client.create_job(SPEC).job.name
        sender = client.stream_captions(job)
        client.stop_job(job)
        client.wait_job(job, timeout_seconds=60)

        with pytest.raises(ConflictError) as caught:
            eventually(lambda: sender.muted("k"), "it is told")
        assert caught.value.reason == "JOB_STATE_CONFLICT"

    def test_no_such_job(self, client: Client) -> None:
        """A mistake is told when the stream is begun."""
        with pytest.raises(NotFoundError):
            client.stream_captions("0" * 20)

    async def test_asyncio(self, running: Daemon) -> None:
        """The same from asyncio, as fast as it goes."""
        async with AsyncClient(running.address, token_file=running.token_file) as client:
            job = (await client.create_job(SPEC)).job.name
            async with await client.stream_captions(job) as sender:
                await sender.send_batch(sounds())
            await client.stop_job(job)
            finals = [
                one.caption.text
                async for one in client.watch_captions(job, resume_sequence=0, finals_only=True)
                if one.caption.is_final
            ]

        assert errors(WORDS, " ".join(finals)) <= 3

    def test_opus(self, client: Client) -> None:
        """Packets as a call's client has them are captioned as well."""
        job = client.create_job(SPEC).job.name
        watching = Watching(client, job)
        with client.stream_captions(job, AUDIO_ENCODING_OPUS) as sender:
            sender.send_batch(
                Sound(
                    speaker="m",
                    data=packet.data,
                    start_offset_seconds=packet.start_sample / SAMPLE_RATE_HZ,
                )
                for packet in opus_pieces("maya", MAYA_SECONDS)
            )
        client.stop_job(job)

        assert errors(MAYA_TEXT, watching.text()) <= 3
