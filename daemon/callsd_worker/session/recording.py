# SPDX-License-Identifier: Apache-2.0
"""Runs a recording as the daemon assigns it, and salvages one whose worker has died."""

import logging
import shutil
import time
from pathlib import Path

from callsd_ipc.names import ARTIFACTS, AUDIO_FILE, PIECES, VIDEO_FILE
from callsd_ipc.v1 import worker_pb2
from callsd_worker.recorder.pieces import find_pieces
from callsd_worker.recorder.program_host import remove_leftovers
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.recording import End, Recorder, Status
from callsd_worker.recorder.web_source import Page
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.outcome import artifact_of, write_outcome


log = logging.getLogger(__name__)

VIDEO_TYPE, AUDIO_TYPE = "video/mp4", "audio/mp4"
THUMBNAIL_FILE, THUMBNAIL_TYPE = "thumbnail.jpg", "image/jpeg"


def record(session: Session) -> None:
    """Make the recording of the session's assignment, and write its outcome.

    Raises RecordingError when nothing was recorded.
    """
    assert session.assignment is not None
    work = session.assignment.recording
    began = time.monotonic()
    recorder = Recorder(
        Page(
            url=work.url,
            headers=dict(work.headers),
            header_origins=tuple(work.header_origins),
            ready_expression=work.ready_expression,
            over_expression=work.over_expression,
            leave_expression=work.leave_expression,
            ready_timeout_seconds=work.ready_timeout_seconds,
            secrets=tuple(work.secrets),
            patience_seconds=work.patience_seconds,
            begun_expression=work.begun_expression,
            open_delay_seconds=work.open_delay_seconds,
            certificates=work.certificates,
        ),
        Quality(
            width=work.width,
            height=work.height,
            fps=work.frame_rate,
            video_kbps=work.video_kbps,
            audio_kbps=work.audio_kbps,
            has_video=not work.audio_only,
        ),
        session.directory,
        min_free_bytes=work.min_free_bytes,
        max_seconds=work.max_seconds,
        report=lambda status: session.report(_status(status)),
        should_stop=session.should_stop,
    )
    ending = recorder.run()
    log.info("the recording has ended: %s %s", ending.end, ending.message)
    session.report(worker_pb2.Status(phase="joining"))
    notices = []
    if ending.is_cut_short:
        notices.append(
            (f"RECORDING_{ending.end.upper()}", f"{_SAID[ending.end]}: {ending.message}")
        )
    if ending.unreachable_seconds:
        outage = f"for {ending.unreachable_seconds:.0f} s the page reached no server"
        notices.append(("PAGE_UNREACHABLE", f"{outage}: what is seen then may be missing or old"))
    _finish(
        session.directory,
        session.generation,
        notices=notices,
        is_cut_short=ending.is_cut_short,
        wall_seconds=time.monotonic() - began,
    )


_SAID = {
    End.DISK_LOW: "the recording was ended before the disk was full",
    End.PAGE_LOST: "the page was lost and did not come back",
    End.CAPTURE_LOST: "the recording could not go on",
}


def salvage(directory: Path, generation: int, reason: str, message: str) -> None:
    """Join the pieces that earlier workers have left, and write an outcome.

    Without pieces no outcome is written: the job then fails by the reason of the workers' end.
    """
    remove_leftovers(directory.name)
    try:
        _finish(
            directory,
            generation,
            notices=[("RECORDING_RECOVERED", f"what was recorded is here; {message} [{reason}]")],
            is_cut_short=True,
            wall_seconds=0.0,
        )
    except Exception as error:  # noqa: BLE001 - the root of the work; what is unknown is logged
        log.error("nothing was saved: %s: %s", *failure_of(error))  # noqa: TRY400 - logged there


def _finish(
    directory: Path,
    generation: int,
    *,
    notices: list[tuple[str, str]],
    is_cut_short: bool,
    wall_seconds: float,
) -> None:
    # Imported late: the media library would take memory during the whole recording.
    from callsd_worker.recorder.joining import join, thumbnail

    folder = directory / ARTIFACTS
    folder.mkdir(exist_ok=True)
    joined = join(find_pieces(directory), folder / VIDEO_FILE)
    name, media_type = (VIDEO_FILE, VIDEO_TYPE) if joined.width else (AUDIO_FILE, AUDIO_TYPE)
    if not joined.width:
        (folder / VIDEO_FILE).replace(folder / AUDIO_FILE)
    artifacts = [
        worker_pb2.ArtifactFile(
            file_name=name,
            media_type=media_type,
            size_bytes=joined.size_bytes,
            sha256=joined.sha256,
        )
    ]
    if thumbnail(folder / name, folder / THUMBNAIL_FILE):
        artifacts.append(artifact_of(directory, THUMBNAIL_FILE, THUMBNAIL_TYPE))
    if joined.piece_count > 1:
        missing = f"{joined.gap_seconds:.1f} s between them are missing"
        notices.append(("RECORDING_JOINED", f"joined from {joined.piece_count} pieces, {missing}"))
    write_outcome(
        directory,
        generation,
        artifacts=artifacts,
        notices=notices,
        recording=worker_pb2.RecordingOutcome(
            duration_seconds=joined.duration_seconds,
            width=joined.width,
            height=joined.height,
            frame_rate=joined.frame_rate,
            size_bytes=joined.size_bytes,
            segment_count=joined.piece_count,
            gap_seconds=joined.gap_seconds,
            start_ms=round(joined.start_seconds * 1000),
            cut_short=is_cut_short,
        ),
        wall_seconds=wall_seconds,
    )
    # The outcome is on the disk: the pieces are not needed any more.
    shutil.rmtree(directory / PIECES, ignore_errors=True)


def _status(status: Status) -> worker_pb2.Status:
    message = worker_pb2.Status(phase=status.phase)
    if status.health is not None:
        health = status.health
        message.processed_seconds = health.recorded_seconds
        message.recording.CopyFrom(
            worker_pb2.RecordingStatus(
                frame_count=health.frame_count,
                changed_frame_rate=health.changed_frame_rate,
                audio_level_db=health.audio_level_db,
                picture=health.picture,
                still_seconds=health.still_seconds,
                drift_ms=health.drift_ms,
                size_bytes=health.size_bytes,
                disk_free_bytes=status.disk_free_bytes,
                segment=status.segment,
            )
        )
    return message
