# SPDX-License-Identifier: Apache-2.0
"""A job in words."""

from collections.abc import Iterator

from callsd.v1.caption_pb2 import CaptionsResult
from callsd.v1.capture_pb2 import CaptureResult
from callsd.v1.error_pb2 import ErrorReason
from callsd.v1.job_pb2 import Job, JobState
from callsd.v1.kind_pb2 import JobKind
from callsd.v1.mattermost_pb2 import Delivery, DeliveryState
from callsd.v1.recording_pb2 import (
    PictureState,
    RecordingHealth,
    RecordingProfile,
    RecordingResult,
    RecordingSpec,
)
from callsd.v1.transcription_pb2 import SpeechEngine
from callsd_daemon.cli.shared.output import ago, printable, size, span, times, word
from callsd_daemon.domain.recording import is_silent


DRIFT_WORTH_TELLING_MS = 40.0
"""From here on people begin to see that lips and voice are apart."""

ROW_COLUMNS = ("JOB", "STATE", "KIND", "CREATED", "PROGRESS", "SPEED", "NOTE")
"""Headings of `job_row`."""


def short(job: Job) -> str:
    """What to type for this job."""
    return job.name.removeprefix("jobs/")


def state(job: Job) -> str:
    """The state in one word."""
    return word(JobState.Name(job.state), prefix="JOB_STATE_")


def reason(value: "ErrorReason.ValueType") -> str:
    """A reason as errors show it."""
    return ErrorReason.Name(value).removeprefix("ERROR_REASON_")


def waiting(job: Job) -> str:
    """What a waiting job waits for, and its place where that is told; empty for others."""
    if not job.waiting_for:
        return ""
    place = f"place {job.queue_position}, " if job.queue_position else ""
    return f"{place}waits for {reason(job.waiting_for)}"


def progress(job: Job) -> str:
    """How far a job is: a part of what there is to do, or, live, how much has come."""
    if not job.HasField("start_time") or job.HasField("capture"):
        return ""  # of a capture its result tells
    done = job.progress.processed
    if job.HasField("captions_result"):
        done = job.captions_result.audio_duration
    elif job.HasField("recording_result"):
        done = job.recording_result.duration
    elif not is_live(job):
        return f"{job.progress.fraction:.0%}"
    return span(done.ToNanoseconds() / 1e9)


def is_live(job: Job) -> bool:
    """Whether the job goes on for as long as a call does."""
    return job.HasField("captions") or job.HasField("recording")


def recording_health(health: RecordingHealth) -> Iterator[str]:
    """How a recording is, in a few words."""
    picture = word(PictureState.Name(health.picture), prefix="PICTURE_STATE_")
    match health.picture:
        case PictureState.PICTURE_STATE_MOVING:
            yield f"{health.changed_frame_rate:.0f} changes/s"
        case PictureState.PICTURE_STATE_STILL:
            yield f"picture still for {span(health.still_duration.ToNanoseconds() / 1e9)}"
        case PictureState.PICTURE_STATE_BLANK:
            yield f"picture {picture}: nothing is to be seen"
        case _:
            pass
    yield loudness(health.audio_level_db)
    yield size(health.size_bytes)
    if health.segment > 1:
        yield f"piece {health.segment}"
    if abs(health.drift_ms) > DRIFT_WORTH_TELLING_MS:
        yield f"sound off by {health.drift_ms:.0f} ms"


def loudness(level_db: float) -> str:
    """How loud a recording is."""
    return "silence" if is_silent(level_db) else f"{round(level_db) or 0} dB"


def delivery(found: Delivery) -> str:
    """How a delivery is, in a few words."""
    text = word(DeliveryState.Name(found.state), prefix="DELIVERY_STATE_").replace("_", " ")
    if found.problem:
        tries = "once" if found.failures == 1 else f"{found.failures} times"
        text = f"{text}, failed {tries}: {found.problem}"
    return text


def job_row(job: Job) -> tuple[str, ...]:
    """A job in one line."""
    note = " ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
    if job.HasField("failure"):
        note = f"{reason(job.failure.reason)} {note}".rstrip()
    elif waits := waiting(job):
        note = f"{waits} {note}".rstrip()
    speed = job.transcription_result.real_time_factor or job.progress.real_time_factor
    return (
        short(job),
        state(job),
        word(JobKind.Name(job.kind), prefix="JOB_KIND_"),
        ago(job.create_time),
        progress(job),
        times(speed) if speed else "",
        note,
    )


def describe(job: Job) -> Iterator[str]:
    """Everything worth knowing about a job, one fact a line."""
    facts = {
        "job": job.name,
        "state": state(job),
        "kind": word(JobKind.Name(job.kind), prefix="JOB_KIND_"),
        "created": f"{ago(job.create_time)} by {job.creator}",
        "model": job.captions.model or job.capture.captions.model or job.transcription.model,
        "page": job.recording.url,
        "call": _call(job),
        "quality": _quality(job.recording) if job.HasField("recording") else "",
        "language": job.captions.language or job.capture.captions.language,
        "tracks": ", ".join(track.speaker for track in job.transcription.tracks),
        "labels": " ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
    }
    if job.HasField("delivery"):
        facts["delivery"] = delivery(job.delivery)
    if waits := waiting(job):
        facts["queue"] = waits
    if job.HasField("start_time"):
        facts["progress"] = f"{progress(job)} {job.progress.phase}".strip()
    if job.progress.HasField("recording"):
        facts["now"] = ", ".join(recording_health(job.progress.recording))
    if job.HasField("start_time") and job.HasField("end_time"):
        seconds = (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9
        facts["ran for"] = span(seconds)
    if job.HasField("usage"):
        facts["used"] = (
            f"{span(job.usage.cpu_seconds)} of processor time,"
            f" {size(job.usage.peak_memory_bytes)} of memory"
        )
    if job.HasField("expire_time"):
        facts["kept until"] = job.expire_time.ToDatetime().strftime("%Y-%m-%d %H:%M UTC")
    yield from (f"{name + ':':<12}{value}" for name, value in facts.items() if value)
    yield from outcome(job)


def outcome(job: Job, *, with_files: bool = True) -> Iterator[str]:
    """How a job ended: result, failure, notices, lost tracks, and the server's names of files."""
    if job.HasField("transcription_result"):
        result = job.transcription_result
        heard = span(result.audio_duration.ToNanoseconds() / 1e9)
        engine = word(SpeechEngine.Name(result.engine), prefix="SPEECH_ENGINE_")
        yield (
            f"{'result:':<12}{heard} of sound at {times(result.real_time_factor)} real time"
            f" with {engine}, {result.word_count} words,"
            f" language {result.language or 'unknown (nobody spoke)'}"
        )
        for track in result.tracks:
            if track.failure_reason:
                lost = f"{reason(track.failure_reason)}: {track.failure_message}"
                yield f"{'missing:':<12}track of {track.speaker}: {lost}"
    if job.HasField("recording_result"):
        yield _recorded(job.recording_result)
    if job.HasField("capture_result"):
        yield from _captured(job.capture_result)
    if job.HasField("captions_result"):
        yield from _captioned(job.captions_result)
    if job.HasField("failure"):
        yield f"{'failure:':<12}{reason(job.failure.reason)}: {job.failure.message}"
    for notice in job.notices:
        yield f"{'notice:':<12}{notice.message} [{notice.code}]"
    for artifact in job.artifacts if with_files else ():
        yield f"{'file:':<12}{artifact.name.rpartition('/')[2]}  {size(artifact.size_bytes)}"


def _quality(spec: RecordingSpec) -> str:
    profile = word(RecordingProfile.Name(spec.profile), prefix="RECORDING_PROFILE_")
    if spec.audio_only:
        return f"sound alone, {spec.audio_kbps} kbit/s"
    return (
        f"{profile}: {spec.width}×{spec.height}, {spec.frame_rate} pictures/s,"
        f" {spec.video_kbps} + {spec.audio_kbps} kbit/s"
    )


def _recorded(result: RecordingResult) -> str:
    """What was recorded."""
    length = span(result.duration.ToNanoseconds() / 1e9)
    picture = f"{result.width}×{result.height}" if result.width else "sound alone"
    cut = ", cut short" if result.cut_short else ""
    return f"{'result:':<12}{length} recorded, {picture}, {size(result.size_bytes)}{cut}"


def _captioned(result: CaptionsResult) -> Iterator[str]:
    """What became of a call's captions."""
    heard = span(result.audio_duration.ToNanoseconds() / 1e9)
    yield (
        f"{'result:':<12}{heard} of sound from {_counted(result.speaker_count, 'speaker')},"
        f" {_counted(result.caption_count, 'caption')}, {_counted(result.word_count, 'word')}"
    )
    if lost := result.skipped_duration.ToNanoseconds():
        yield f"{'missing:':<12}{span(lost / 1e9)} of sound that never arrived"
    if result.restart_count:
        again = _counted(result.restart_count, "time")
        yield f"{'notice:':<12}the captioning process was started again {again}"


def _captured(result: CaptureResult) -> Iterator[str]:
    """What was captured of a call."""
    heard = sum(track.duration.ToNanoseconds() for track in result.tracks) / 1e9
    speakers = len({track.speaker_id for track in result.tracks})
    yield (
        f"{'result:':<12}{span(heard)} of sound from {_counted(speakers, 'speaker')},"
        f" {_counted(result.caption_count, 'caption')} shown"
    )
    for track in result.tracks:
        length = span(track.duration.ToNanoseconds() / 1e9)
        who = printable(track.speaker) or "somebody unknown"
        yield f"{'track:':<12}{track.file_name}  {who}, {length}"
    if result.problem:
        yield f"{'cut short:':<12}{printable(result.problem)}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _call(job: Job) -> str:
    """Which call of Mattermost it is about, if it is."""
    specs = (job.recording, job.capture, job.transcription)
    calls = [spec.mattermost_call for spec in specs if spec.HasField("mattermost_call")]
    return " ".join(f"{call.call_id} at {call.site_url}" for call in calls)
