# SPDX-License-Identifier: Apache-2.0
"""From the domain's words to the API's messages."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from callsd.v1 import error_pb2, job_pb2, kind_pb2, mattermost_pb2, transcription_pb2
from callsd_daemon.domain.delivery import DeliveryState
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import State
from callsd_daemon.domain.transcription import Engine


KINDS = {
    name.removeprefix("JOB_KIND_").lower(): number
    for name, number in kind_pb2.JobKind.items()
    if number
}
"""Kinds that this API knows, by name."""

STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in State}
REASONS = {reason: error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.name}") for reason in Reason}
DELIVERIES = {
    state: mattermost_pb2.DeliveryState.Value(f"DELIVERY_STATE_{state.name}")
    for state in DeliveryState
}
ENGINES = {
    engine: transcription_pb2.SpeechEngine.Value(f"SPEECH_ENGINE_{engine.name}")
    for engine in Engine
}

MAX_SECONDS = 315_576_000_000.0
"""The longest duration that protobuf knows: a worker may count wrongly."""


def duration(seconds: float) -> Duration:
    """Seconds as a message, to the millisecond."""
    message = Duration()
    message.FromMilliseconds(round(min(max(seconds, -MAX_SECONDS), MAX_SECONDS) * 1000))
    return message


def timestamp(stamp: datetime) -> Timestamp:
    """A time as a message."""
    message = Timestamp()
    message.FromDatetime(stamp)
    return message
