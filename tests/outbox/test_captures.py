# SPDX-License-Identifier: Apache-2.0
"""What the plugin is told of a capture, and that nothing of it is published but its transcript."""

from dataclasses import replace

import pytest

from callsd.v1.error_pb2 import ERROR_REASON_WORKER_KILLED
from callsd.v1.job_pb2 import JOB_STATE_FAILED
from callsd_daemon.domain.capture import CAPTURE, CaptureResult
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Progress, State
from callsd_daemon.mattermost.courier import NAME_TRIES
from callsd_daemon.mattermost.work import Work, failure, files, has_begun
from callsd_ipc.names import CAPTURING_PHASE
from tests.helpers.jobs import CALL, make_job
from tests.helpers.waiting import eventually
from tests.mattermost.state import Call
from tests.mattermost.threads import TRANSCRIPTION_POST
from tests.outbox.deliveries import name_of, transcript_of, works
from tests.outbox.fixtures import StartOutbox, StartWorld
from tests.outbox.outbox_world import OutboxWorld
from tests.outbox.world import World


NEVER_THERE = Failure(reason=Reason.CALL_UNAVAILABLE, message="it was not let in")
UNUSABLE = Failure(reason=Reason.INPUT_INVALID, message="no track can be read")


@pytest.fixture
async def world(start_world: StartWorld) -> World:
    """A plugin that wants each recording transcribed."""
    world = await start_world(live_captions=False)
    await world.activate(transcriptions=True)
    return world


async def begin(world: World, capturer: str) -> Call:
    """A call that is recorded, with this script of the worker that captures it."""
    scripts = {"capturer": capturer, "transcriber": "read media/0; transcribe 2"}
    for name, script in scripts.items():
        (world.daemon.root / "tmp" / name).write_text(script)
    call = await world.begin("film 0.1")
    await world.server.until(lambda: call.recording.start_at, "the recording has begun")
    return call


class TestStart:
    """`started`."""

    async def test_told_when_it_is_in_the_call(self, world: World) -> None:
        """The plugin hears of it once, when somebody who speaks would be heard."""
        call = await begin(world, "say joining; until joined; capture 1")
        name = name_of(call.transcription)
        await world.asked(
            lambda: eventually(
                lambda: world.daemon.job(world.daemon.api(), name).progress.phase == "joining",
                "it is joining",
            )
        )
        assert call.transcription.start_at == 0
        (world.daemon.root / "tmp" / "joined").touch()
        await world.server.until(lambda: call.transcription.start_at, "`started` has been told")
        await world.stop(call)
        await world.both_published(call)

        assert world.asks("POST", "/status") == 2  # once for the recording

    async def test_nothing_but_the_transcript(self, outbox: OutboxWorld) -> None:
        """Speakers' files stay here: the thread gets the film, the subtitles and the text."""
        call = await outbox.begin(is_captured=True)
        await outbox.until_begun(call)
        await outbox.stop(call)
        await outbox.both_published(call)
        await outbox.job_delivered(name_of(call.transcription))

        capture = outbox.job(name_of(call.transcription))
        assert [one.file_name for one in capture.artifacts] == ["0.ogg"]
        suffixes = {file.name.rpartition(".")[2] for file in outbox.server.state.files.values()}
        assert suffixes == {"mp4", "vtt", "txt"}


class TestFailure:
    """`failed`."""

    @pytest.mark.parametrize(
        ("result", "failed", "told"),
        [
            (None, NEVER_THERE, NEVER_THERE.message),
            (CaptureResult(problem="it was lost"), None, "it was lost"),
        ],
        ids=["never in the call", "cut short"],
    )
    async def test_told(
        self, outbox: OutboxWorld, result: CaptureResult | None, failed: Failure | None, told: str
    ) -> None:
        """The plugin hears why, and still gets a transcript of what there is."""
        call = await outbox.begin(is_captured=True)
        await outbox.end(name_of(call.transcription), result, failure=failed)
        await outbox.server.until(lambda: call.transcription.err, "`failed` has been told")
        assert call.transcription.err == told
        await outbox.stop(call)
        await outbox.both_published(call)

    async def test_told_whatever_the_files_are_called(self, start_outbox: StartOutbox) -> None:
        """A capture publishes no files: that the site names none does not keep it from telling."""
        outbox = await start_outbox(
            constants={"callsd_daemon.mattermost.courier.TELL_FAILURE_TRIES": 1}
        )
        outbox.server.faults.plugin_disabled.always(path="/filename")
        call = await outbox.begin(is_captured=True)
        await outbox.server.until(lambda: call.transcription.start_at, "`started` has been told")
        await outbox.server.until(
            lambda: len(outbox.problems(call)) >= NAME_TRIES, "the recording has a name"
        )
        lost = CaptureResult(problem="it was lost")
        await outbox.end(name_of(call.transcription), lost)
        await outbox.server.until(lambda: call.transcription.err, "`failed` has been told")

        assert call.transcription.err == "it was lost"

    async def test_stopped_too_early(self, outbox: OutboxWorld) -> None:
        """Nor does it wait for one that somebody has stopped before it was in the call."""
        call = await outbox.begin(is_captured=True, has_begun=False)
        await outbox.cancel(name_of(call.transcription))
        await outbox.server.until(lambda: call.transcription.err, "`failed` has been told")
        assert call.transcription.err == "it was stopped before it had begun"
        await outbox.go_on(call.recording)
        await outbox.stop(call)
        await outbox.both_published(call)

    async def test_dies_in_a_silent_call(self, world: World) -> None:
        """Nobody joins again who was told of: the plugin hears once why the worker has ended."""
        call = await begin(world, "note capturers; say capturing; until go; crash SIGKILL")
        await world.server.until(lambda: call.transcription.start_at, "`started` has been told")
        (world.daemon.root / "tmp" / "go").touch()
        await world.server.until(lambda: call.transcription.err, "`failed` has been told")
        name = name_of(call.transcription)
        capture = await world.asked(lambda: world.daemon.wait(world.daemon.api(), name))

        assert "SIGKILL" in call.transcription.err
        assert capture.state == JOB_STATE_FAILED
        assert capture.failure.reason == ERROR_REASON_WORKER_KILLED
        assert not capture.notices
        assert len((world.daemon.root / "tmp" / "capturers").read_text().splitlines()) == 1
        await world.stop(call)
        await world.both_published(call)

    async def test_of_the_transcription(self, outbox: OutboxWorld) -> None:
        """A transcription that has failed is told of while the plugin waits for it."""
        call = await outbox.begin(is_captured=True)
        await outbox.until_begun(call)
        for work in works(call):
            await outbox.end(name_of(work))
        await outbox.end(transcript_of(call), failure=UNUSABLE)
        await outbox.server.until(lambda: call.transcription.err, "`failed` has been told")
        assert call.transcription.err == UNUSABLE.message
        await outbox.job_delivered(transcript_of(call))
        await outbox.published(call)


async def test_recording_cannot_be_posted(start_outbox: StartOutbox) -> None:
    """A transcript waits for its recording's post, but not for ever."""
    outbox = await start_outbox(
        constants={
            "callsd_daemon.mattermost.courier.RECORDING_SECONDS": 0.5,
            "callsd_daemon.mattermost.courier.IDLE_SECONDS": 0.2,
        }
    )
    outbox.server.faults.plugin_disabled.always(path="/recordings")
    call = await outbox.begin(is_captured=True)
    await outbox.stop(call)
    await outbox.job_delivered(transcript_of(call))

    (transcript,) = outbox.server.thread(call)
    assert transcript.type == TRANSCRIPTION_POST
    outbox.server.faults.reset()
    await outbox.delivered(call)
    assert len(outbox.server.thread(call)) == 2


class TestWork:
    """What is told of a capture as the store has it."""

    JOB = make_job(kind=CAPTURE, state=State.RUNNING, delivery=Delivery(call=CALL))

    @pytest.mark.parametrize(
        ("phase", "is_told"), [("starting", False), ("joining", False), (CAPTURING_PHASE, True)]
    )
    def test_has_begun(self, phase: str, *, is_told: bool) -> None:
        """It has begun when its worker says that it captures."""
        job = replace(self.JOB, progress=Progress(phase=phase))
        assert job.delivery is not None
        work = Work(job=job, delivery=job.delivery, token="", newer_token="", recording=None)
        assert has_begun(work) is is_told

    def test_files(self) -> None:
        """However its artifacts are called, none is published."""
        names = ("1.ogg", "transcript.vtt", "transcript.txt", "recording.mp4")
        artifacts = tuple(
            Artifact(file_name=name, media_type="", size_bytes=1, sha256="") for name in names
        )
        assert files(replace(self.JOB, artifacts=artifacts)) == []

    @pytest.mark.parametrize(
        ("result", "reason", "told"),
        [
            (CaptureResult(), "", ""),
            (CaptureResult(problem="lost"), "", "lost"),
            (None, "never there", "never there"),
            (None, "", ""),
        ],
        ids=["to its end", "cut short", "failed", "stopped"],
    )
    def test_failure(self, result: CaptureResult | None, reason: str, told: str) -> None:
        """Why it ended before the call did, be it in the call or not."""
        failed = Failure(reason=Reason.CALL_UNAVAILABLE, message=reason) if reason else None
        results = {} if result is None else {CAPTURE: result}
        assert failure(replace(self.JOB, results=results, failure=failed)) == told
