# SPDX-License-Identifier: Apache-2.0
"""Client of callsd: recordings, transcripts and live captions for calls.

`Client` is for blocking code, `AsyncClient` for asyncio; both have the same methods. Messages of
the API are in `callsd.v1`.
"""

from callsd._caption_sender import CaptionSender
from callsd._caption_sender_async import AsyncCaptionSender
from callsd._endpoint import Endpoint
from callsd._errors import (
    AccessError,
    CallsdError,
    CapacityError,
    ConflictError,
    DeadlineError,
    FieldViolation,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    SettingsError,
    UnavailableError,
)
from callsd._requests import JobSpec, duration, job_filter
from callsd._sound import Sound
from callsd._transfer import Progress
from callsd._watch import (
    FINAL_STATES,
    Bookmark,
    Interrupted,
    JobChanged,
    JobDeleted,
    WatchEvent,
    WatchPosition,
)
from callsd.aio import AsyncClient
from callsd.client import Client


__all__ = [
    "FINAL_STATES",
    "AccessError",
    "AsyncCaptionSender",
    "AsyncClient",
    "Bookmark",
    "CallsdError",
    "CapacityError",
    "CaptionSender",
    "Client",
    "ConflictError",
    "DeadlineError",
    "Endpoint",
    "FieldViolation",
    "IntegrityError",
    "Interrupted",
    "InvalidRequestError",
    "JobChanged",
    "JobDeleted",
    "JobSpec",
    "NotFoundError",
    "OutOfRangeError",
    "Progress",
    "SettingsError",
    "Sound",
    "UnavailableError",
    "WatchEvent",
    "WatchPosition",
    "duration",
    "job_filter",
]
