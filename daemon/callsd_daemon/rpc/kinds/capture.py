# SPDX-License-Identifier: Apache-2.0
"""Capture jobs."""

from callsd.v1 import capture_pb2
from callsd_daemon.domain.capture import CaptureResult, CaptureSpec
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.kinds.capture import Capture
from callsd_daemon.rpc.convert import duration, timestamp
from callsd_daemon.rpc.kinds import captions, mattermost
from callsd_daemon.rpc.problems import Problems


def parse(
    problems: Problems, message: capture_pb2.CaptureSpec, kind: Capture
) -> tuple[CaptureSpec, SiteSecrets]:
    """What is asked for, and the bot's token."""
    at = "job.capture"
    call = mattermost.parse(problems, f"{at}.mattermost_call", message.mattermost_call)
    wanted = None
    if message.HasField("captions"):
        wanted = captions.parse_spec(problems, f"{at}.captions", message.captions, kind.captions)
    return CaptureSpec(call=call, captions=wanted), SiteSecrets(token=message.mattermost_call.token)


def spec(spec: CaptureSpec) -> capture_pb2.CaptureSpec:
    """What was asked for, but for what is secret."""
    return capture_pb2.CaptureSpec(
        mattermost_call=mattermost.message(spec.call),
        captions=None if spec.captions is None else captions.spec(spec.captions),
    )


def result(result: CaptureResult) -> capture_pb2.CaptureResult:
    """What came of it."""
    start_time = result.recording_start_time
    return capture_pb2.CaptureResult(
        tracks=[
            capture_pb2.CapturedTrack(
                file_name=track.file_name,
                speaker=track.speaker,
                speaker_id=track.speaker_id,
                start_time=timestamp(track.start_time),
                duration=duration(track.duration_seconds),
            )
            for track in result.tracks
        ],
        recording_start_time=None if start_time is None else timestamp(start_time),
        caption_count=result.caption_count,
        problem=result.problem,
    )
