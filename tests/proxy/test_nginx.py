# SPDX-License-Identifier: Apache-2.0
"""The configuration of docs/proxy.md, with a real nginx in front of real daemons."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from callsd import (
    AccessError,
    Bookmark,
    CallsdError,
    CaptionSender,
    Client,
    Interrupted,
    InvalidRequestError,
    JobChanged,
    NotFoundError,
    UnavailableError,
    WatchEvent,
)
from callsd.v1.caption_pb2 import Caption, CaptionsSpec
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import stored_changes
from tests.helpers.speech import errors, speech
from tests.helpers.waiting import eventually
from tests.proxy.conftest import Front
from tests.proxy.nginx import CA_FILE, Nginx, documented, without_b


A, B = "localhost", "127.0.0.1"

WORDS = (
    "There is one more thing that worries me. We only found the problem because the queue was long."
    " If the jobs had failed quietly, we would not have known until the morning."
)
SPEECH_SECONDS = (26.0, 37.5)
REPEATS = int(os.environ.get("CALLSD_PROXY_REPEATS", "1"))
"""How often they are said; 26 times are five minutes."""

STEP_SECONDS = 0.1
STEP_BYTES = 3200
WORK_SECONDS = 60.0
CALL_SECONDS = 0.2
CALLS_PER_JOB = 10


def spec(daemon: Daemon) -> TranscriptionSpec:
    """A job of a scripted worker that ends at once."""
    track = Track(path=str(daemon.track), speaker="Ada")
    return TranscriptionSpec(tracks=[track], initial_prompt="succeed")


class Watch:
    """Watches all jobs in a thread, and keeps what it is told."""

    def __init__(self, client: Client) -> None:
        self.events: list[WatchEvent] = []
        self._watch = client.watch_jobs()
        self._client = client
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: any(isinstance(one, Bookmark) for one in self.events), "it watches")

    def _run(self) -> None:
        try:
            for event in self._watch:
                self.events.append(event)
        except Exception:
            if not self.is_over:
                raise

    is_over = False

    @property
    def revisions(self) -> list[int]:
        """Revisions of all changes so far, in order."""
        return [one.revision for one in list(self.events) if isinstance(one, JobChanged)]

    def await_changes(self, count: int) -> None:
        """Wait until so many are told."""
        eventually(lambda: len(self.revisions) >= count, "all changes are told", seconds=30)

    @property
    def cuts(self) -> int:
        """How often the connection broke."""
        return sum(isinstance(one, Interrupted) for one in list(self.events))

    def stop(self) -> None:
        """End it, with its client."""
        self.is_over = True
        self._client.close()
        self._thread.join(WORK_SECONDS)


@contextmanager
def watching(client: Client) -> Iterator[Watch]:
    """A watch for a block."""
    watch = Watch(client)
    try:
        yield watch
    finally:
        watch.stop()


class Calls:
    """Calls a daemon again and again in a thread: what it can carry, and a job every so often.

    A call that finds nobody there is repeated, as docs/proxy.md tells programs to.
    """

    def __init__(self, client: Client, spec: TranscriptionSpec) -> None:
        self.jobs: list[str] = []
        self.count = 0
        self.repeated = 0
        self.failure: CallsdError | None = None
        self._client, self._spec = client, spec
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        request_id = uuid4()
        while not self._is_over.wait(CALL_SECONDS):
            try:
                self._client.get_capacity()
                if self.count % CALLS_PER_JOB == 0:
                    made = self._client.create_job(self._spec, request_id=request_id)
                    self.jobs.append(made.job.name)
                    request_id = uuid4()
                self.count += 1
            except UnavailableError:
                self.repeated += 1
            except CallsdError as error:
                self.failure = error
                return

    def stop(self) -> None:
        """End them, with their client."""
        self._is_over.set()
        self._thread.join(WORK_SECONDS)
        self._client.close()


@contextmanager
def calling(client: Client, spec: TranscriptionSpec) -> Iterator[Calls]:
    """Calls for a block."""
    calls = Calls(client, spec)
    try:
        yield calls
    finally:
        calls.stop()


def play(sender: CaptionSender, between: Callable[[int], None]) -> None:
    """Send the words as live sound comes, a tenth of a second at a time; `between` counts them."""
    data = speech("kenji", *SPEECH_SECONDS).tobytes() * REPEATS
    began = time.monotonic()
    for number, at in enumerate(range(0, len(data), STEP_BYTES)):
        time.sleep(max(0.0, began + number * STEP_SECONDS - time.monotonic()))
        sender.send("k", data[at : at + STEP_BYTES], number * STEP_SECONDS)
        between(number)


class TestCalls:
    """What passes, and where it goes."""

    def test_by_name(self, front: Front) -> None:
        """Each name is one daemon, with its own jobs and its own tokens."""
        with front.client(B) as b, front.client(A) as a:
            job = b.create_job(spec(front.b)).job

            assert b.wait_job(job, timeout_seconds=30).state == JOB_STATE_SUCCEEDED
            assert a.is_serving()
            with pytest.raises(NotFoundError):
                a.get_job(job)
        address = front.nginx.address(A)
        with (
            Client(address, token_file=front.b.token_file, ca_file=CA_FILE) as stranger,
            pytest.raises(AccessError),
        ):
            stranger.get_capacity()

    def test_details_of_errors(self, front: Front) -> None:
        """A refusal comes whole, however much it has to tell."""
        labels = {f"{number} {'X' * 80}": "" for number in range(30)}
        with front.client(B) as b, pytest.raises(InvalidRequestError) as caught:
            b.create_job(spec(front.b), labels=labels)

        assert caught.value.reason == "FIELD_INVALID"
        assert len(caught.value.field_violations) >= 5

    def test_large_files(self, front: Front, tmp_path: Path) -> None:
        """An upload may be larger than nginx takes by default, and arrives whole."""
        (tmp_path / "a.wav").write_bytes(b"RIFF" * 1_000_000)
        with front.client(B) as b:
            upload = b.upload_media(tmp_path / "a.wav")

        assert upload.complete
        assert upload.received_bytes == 4_000_000

    def test_one_daemon(self, daemon: StartDaemon, tmp_path: Path) -> None:
        """With everything about `b` left out there is one daemon."""
        one = daemon()
        config = without_b(documented())
        assert "internal" not in config
        with (
            Nginx(tmp_path, config, one) as nginx,
            Client(nginx.address(A), token_file=one.token_file, ca_file=CA_FILE) as client,
        ):
            job = client.wait_job(client.create_job(spec(one)).job, timeout_seconds=30)

        assert job.state == JOB_STATE_SUCCEEDED


class TestStreams:
    """Long streams while daemons and nginx come and go."""

    def test_watches_over_a_drain(self, front: Front) -> None:
        """One daemon is drained: its watch goes on with the next, that of the other is not cut."""
        with watching(front.client(A)) as a, watching(front.client(B)) as b:
            with front.client(B) as client:
                client.wait_job(client.create_job(spec(front.b)).job)
                front.b.stop()
                front.b.start()
            with front.client(B) as client:
                client.wait_job(client.create_job(spec(front.b)).job)
            stored = sorted(stored_changes(front.b))
            b.await_changes(len(stored))
            cuts = {"a": a.cuts, "b": b.cuts}

        assert b.revisions == stored
        assert cuts["b"] >= 1
        assert cuts["a"] == 0

    def test_watch_over_nginx(self, front: Front) -> None:
        """A reload cuts nothing; after a restart of nginx all goes on."""
        with watching(front.client(B)) as watch, front.client(B) as client:
            front.nginx.reload()
            client.wait_job(client.create_job(spec(front.b)).job)
            cuts = watch.cuts
            front.nginx.stop()
            front.nginx.start()
            eventually(lambda: watch.cuts > 0, "the watch is cut")
            client.wait_job(client.create_job(spec(front.b)).job, timeout_seconds=30)
            last = max(stored_changes(front.b))
            eventually(lambda: watch.revisions[-1:] == [last], "it goes on", seconds=30)

        assert cuts == 0
        assert watch.revisions == sorted(set(watch.revisions))

    @pytest.mark.timeout(120 + 20 * REPEATS)
    def test_everything_at_once_over_a_drain(self, front: Front) -> None:
        """Calls, watches and captions go on while the daemon is drained in the middle of it all.

        Each call is answered in the end, each change is told once and in order, each word is
        captioned once; the other daemon's clients notice nothing.
        """
        finals: list[Caption] = []
        with (
            front.client(A) as client,
            front.client(A) as viewer,
            watching(front.client(A)) as watch_a,
            watching(front.client(B)) as watch_b,
            calling(front.client(A), spec(front.a)) as calls_a,
            calling(front.client(B), spec(front.b)) as calls_b,
        ):
            job = client.create_job(CaptionsSpec(language="en")).job.name

            def view() -> None:
                with closing(viewer.watch_captions(job, resume_sequence=0)) as messages:
                    finals.extend(one.caption for one in messages if one.caption.is_final)

            viewing = threading.Thread(target=view, daemon=True)
            viewing.start()

            def between(number: int) -> None:
                if number == 50 * REPEATS:
                    front.a.stop()
                    front.a.launch()

            with client.stream_captions(job) as sender:
                play(sender, between)
            eventually(front.a._is_serving, "it is back")
            client.stop_job(job)
            ended = client.wait_job(job, timeout_seconds=WORK_SECONDS)
            viewing.join(WORK_SECONDS)
            for calls in (calls_a, calls_b):
                calls.stop()
            for daemon, watch, calls in (
                (front.a, watch_a, calls_a),
                (front.b, watch_b, calls_b),
            ):
                with daemon.client() as direct:
                    for name in calls.jobs:
                        direct.wait_job(name, timeout_seconds=WORK_SECONDS)
                stored = sorted(stored_changes(daemon))
                watch.await_changes(len(stored))
                assert watch.revisions == stored
            cuts = {"a": watch_a.cuts, "b": watch_b.cuts}

        assert (calls_a.failure, calls_b.failure) == (None, None)
        assert min(len(calls_a.jobs), len(calls_b.jobs)) >= 3 * REPEATS
        assert len(set(calls_a.jobs)) == len(calls_a.jobs)
        assert calls_b.repeated == 0
        assert cuts["a"] >= 1
        assert cuts["b"] == 0
        assert [one.sequence for one in finals] == list(range(1, len(finals) + 1))
        assert errors(" ".join([WORDS] * REPEATS), " ".join(one.text for one in finals)) <= (
            3 * REPEATS
        )
        assert ended.captions_result.skipped_duration.ToMilliseconds() == 0
