# SPDX-License-Identifier: Apache-2.0
"""Captures a call as the daemon assigns it, and salvages a capture whose worker has died."""

import asyncio
import contextlib
import errno
import logging
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from callsd_ipc.names import ARTIFACTS, PIECES
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.capture.call import End, Ending, JoinError, NotSavedError, StoppedError
from callsd_worker.capture.caption_text import Words
from callsd_worker.capture.capturing import Captioner, Capture, Heard, Shortfall, Sound
from callsd_worker.capture.packet_log import MAX_TRACKS, file_name
from callsd_worker.capture.publisher import Metric
from callsd_worker.capture.tracks import CapturedTrack, finish
from callsd_worker.mattermost.client import MattermostClient
from callsd_worker.mattermost.settings import Call, steady_clock
from callsd_worker.session.bootstrap import aio_channel, hello
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.outcome import artifact_of, write_outcome


log = logging.getLogger(__name__)

TRACK_TYPE = "audio/ogg"
LOOK_SECONDS = 0.1
SAMPLE_RATE_HZ = 16_000

CaptionCall = grpc.aio.StreamStreamCall[
    worker_pb2.CaptionCallRequest, worker_pb2.CaptionCallResponse
]


def capture(session: Session, bootstrap: worker_pb2.Bootstrap) -> None:
    """Capture the call of the session's assignment, and write its outcome.

    Raises what ended a capture without any sound: JoinError when the call could not be joined,
    StoppedError when it was to end before that. Raises as `_finish` when no file can be made.
    """
    assert session.assignment is not None
    began = time.monotonic()
    failure: Exception | None = None
    facts = _Facts()
    try:
        asyncio.run(_capture(session, bootstrap, session.assignment.capture, facts))
    except Exception as error:  # noqa: BLE001 - nothing captured, now or before, is lost with it
        failure, (_, facts.problem) = error, failure_of(error)
    session.report(worker_pb2.Status(phase="finishing"))
    tracks = _tracks(session.directory)
    if failure is not None and not tracks:
        raise failure
    _finish(
        session.directory,
        session.generation,
        tracks,
        facts,
        wall_seconds=time.monotonic() - began,
    )


@dataclass(slots=True)
class _Facts:
    """Learned of a capture besides its tracks."""

    problem: str = ""
    """Why it ended before the call did; empty: it did not."""
    caption_count: int = 0
    losses: list[str] = field(default_factory=list)
    """What came and could not be kept."""


async def _capture(
    session: Session,
    bootstrap: worker_pb2.Bootstrap,
    work: worker_pb2.CaptureWork,
    facts: _Facts,
) -> None:
    """Until the call is over."""
    pieces, clock = session.directory / PIECES, steady_clock()
    pieces.mkdir(exist_ok=True)
    async with aio_channel(bootstrap) as channel:
        captioner: Captioner | None = None
        if work.captions:
            captioner = _DaemonsCaptioner(bootstrap, channel)
        capturing = Capture(
            pieces,
            captioner,
            clock=clock,
            min_free_bytes=work.min_free_bytes,
            report=lambda phase: session.report(worker_pb2.Status(phase=phase)),
        )
        client = MattermostClient(
            Call(site_url=work.site_url, call_id=work.call_id, job_id=work.job_id),
            work.token,
            capturing,
            context=_trusted(work.certificates),
            clock=clock,
        )
        stopping = asyncio.create_task(_stop_when_asked(session, client, work.max_seconds))
        try:
            ending: Ending = await capturing.run(client)
        finally:
            stopping.cancel()
            facts.caption_count = capturing.caption_count
            facts.losses = _losses(capturing)
    log.info("the capture has ended: %s %s", ending.end, ending.message)
    if not capturing.is_joined:
        # A call in which nobody spoke is something else.
        if session.should_stop():
            raise StoppedError("it was stopped before it had begun")
        raise JoinError(f"the call was not joined: {capturing.problem or ending.message}")
    lost = ending.message if ending.end is End.LOST else ""
    facts.problem = capturing.problem or lost


def _losses(capturing: Capture) -> list[str]:
    losses = [
        f"{speaker.name or speaker.session_id}: about {seconds:.1f} s of what was said could not "
        "be kept; the disk was full or too slow"
        for speaker, seconds in capturing.lost_seconds
    ]
    if capturing.has_refused_tracks:
        losses.append(f"only the first {MAX_TRACKS} tracks of the call were kept")
    return losses


async def _stop_when_asked(session: Session, client: MattermostClient, max_seconds: float) -> None:
    deadline = time.monotonic() + max_seconds
    # The session has a thread of its own, and takes no lock to be told: it is asked.
    while not session.should_stop() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    client.request_stop()


def _trusted(certificates: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificates:
        context.load_verify_locations(cadata=certificates.decode())
    return context


class _DaemonsCaptioner:
    """The captioner that the daemon runs, reached through the daemon."""

    def __init__(self, bootstrap: worker_pb2.Bootstrap, channel: grpc.aio.Channel) -> None:
        self._bootstrap = bootstrap
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)

    async def converse(self, sound: AsyncIterator[list[Sound]]) -> AsyncIterator[Heard]:
        """Words come out while sound goes in. Raises OSError when the connection breaks."""
        call = self._stub.CaptionCall()
        # Not as gRPC's iterator of requests: of a call that is over it would take one more, and
        # that sound would be lost.
        sending = asyncio.create_task(self._send(call, sound))
        try:
            async for response in call:
                if (heard := _heard(response)) is not None:
                    yield heard
        except grpc.aio.AioRpcError as problem:
            raise ConnectionError(problem.details()) from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    async def _send(self, call: CaptionCall, sound: AsyncIterator[list[Sound]]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(
                worker_pb2.CaptionCallRequest(hello=hello(self._bootstrap, is_assigned=True))
            )
            async for parcel in sound:
                await call.write(_request(parcel))


def _request(parcel: list[Sound]) -> worker_pb2.CaptionCallRequest:
    return worker_pb2.CaptionCallRequest(
        audio=[
            worker_pb2.SpeakerAudio(
                speaker=one.session_id,
                sequence=one.sequence,
                start_sample=one.start_sample,
                data=one.data,
            )
            for one in parcel
            if one.data
        ],
        paused=[one.session_id for one in parcel if not one.data],
    )


def _heard(response: worker_pb2.CaptionCallResponse) -> Heard | None:
    match response.WhichOneof("event"):
        case "words":
            words = response.words
            return Words(
                session_id=words.speaker,
                segment=str(words.segment),
                revision=words.revision,
                text=words.text,
                is_final=words.final,
                is_end_of_utterance=words.end_of_utterance,
                start_seconds=words.start_sample / SAMPLE_RATE_HZ,
                heard_seconds=words.heard_sample / SAMPLE_RATE_HZ,
            )
        case "skipped":
            return Shortfall(metric=Metric.AUDIO_SKIPPED, session_id=response.skipped)
        case "degraded" if response.degraded:
            return Shortfall(metric=Metric.FELL_BEHIND)
        case _:
            return None


def salvage(directory: Path, generation: int, reason: str, message: str) -> None:
    """Make the files of what an earlier worker has captured, and write an outcome.

    Without anything, or when no file can be made of it, no outcome is written: the job then fails
    by the reason of the worker's end.
    """
    try:
        if (directory / PIECES).is_dir() and (tracks := _tracks(directory)):
            facts = _Facts(problem=f"{message} [{reason}]")
            _finish(directory, generation, tracks, facts, wall_seconds=0.0)
    except Exception as error:  # noqa: BLE001 - the root of the work; what is unknown is logged
        log.error("nothing was saved: %s: %s", *failure_of(error))  # noqa: TRY400 - logged there


def _tracks(directory: Path) -> list[CapturedTrack]:
    return finish(directory / PIECES, directory / ARTIFACTS)


def _finish(
    directory: Path,
    generation: int,
    tracks: list[CapturedTrack],
    facts: _Facts,
    *,
    wall_seconds: float,
) -> None:
    """Write the outcome, and remove the pieces of which files were made.

    When there is no file of any track, this raises NotSavedError, or what else prevented that:
    of a job that fails the pieces are kept for a person, of others nothing is.
    """
    _check_saved(tracks)
    if not tracks and facts.losses:
        raise NotSavedError(
            f"nothing of the call could be kept: {'; '.join(facts.losses)}; free some space"
        )
    notices = []
    if facts.problem:  # first, as the daemon takes no more than some
        notices.append(("CAPTURE_CUT_SHORT", f"what was captured is here; {facts.problem}"))
    notices += [("TRACK_DAMAGED", _damage(track)) for track in tracks if track.problem]
    notices += [("TRACK_DAMAGED", loss) for loss in facts.losses]
    starts = [track.recording_start_seconds or 0.0 for track in tracks]
    kept = [track for track in tracks if track.file_name]
    write_outcome(
        directory,
        generation,
        artifacts=[artifact_of(directory, track.file_name, TRACK_TYPE) for track in kept],
        notices=notices,
        capture=worker_pb2.CaptureOutcome(
            tracks=[
                worker_pb2.CapturedTrack(
                    file_name=track.file_name,
                    speaker=track.name,
                    speaker_id=track.user_id or track.session_id,
                    start_ms=round(track.start_seconds * 1000),
                    duration_seconds=track.duration_seconds,
                )
                for track in kept
            ],
            recording_start_ms=round(max(starts, default=0.0) * 1000),
            caption_count=facts.caption_count,
            problem=facts.problem,
        ),
        wall_seconds=wall_seconds,
    )
    # The outcome is on the disk: the pieces are not needed any more. Not before, track by track:
    # whoever goes on after a death here learns from them whose the files are.
    unsaved = {file_name(track.number) for track in tracks if not track.file_name}
    if not unsaved:
        shutil.rmtree(directory / PIECES, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        for path in (directory / PIECES).iterdir():
            if path.name not in unsaved:
                path.unlink()


def _check_saved(tracks: list[CapturedTrack]) -> None:
    errors = [track.error for track in tracks if track.error is not None]
    if not errors or any(track.file_name for track in tracks):
        return
    for error in errors:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotSavedError(
                "the disk is full: no file could be made of what was captured; free some space. "
                f"It is kept in {PIECES}/ of the worker's directory until the job is deleted"
            ) from error
    raise errors[0]


def _damage(track: CapturedTrack) -> str:
    lost = "" if track.file_name else "all that was said is lost; "
    return f"{track.name or track.session_id}: {lost}{track.problem}"
