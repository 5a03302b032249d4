# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (two programs and what they share, not a package)
"""What both Python drivers have in common: the lines they read and write.

The protocol is described in clients/conformance/README.md.
"""

import hashlib
import json
import re
import sys
import threading
import traceback
from pathlib import Path
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from callsd import (
    Bookmark,
    CallsdError,
    Interrupted,
    JobChanged,
    JobDeleted,
    WatchEvent,
    WatchPosition,
)
from callsd.v1.caption_pb2 import WatchCaptionsResponse
from callsd.v1.job_pb2 import CreateJobRequest, JobFilter


Command = dict[str, Any]

STEP_SECONDS = 0.1
STEP_BYTES = 3200
"""Sound is sent in tenths of a second."""

_writing = threading.Lock()


def say(command: Command, **what: Any) -> None:
    """Write a line about a command."""
    with _writing:
        sys.stdout.write(json.dumps({"id": command["id"], **what}) + "\n")
        sys.stdout.flush()


def say_error(command: Command, error: Exception) -> None:
    """Write that a command has failed, and with what."""
    if not isinstance(error, CallsdError):
        traceback.print_exception(error, file=sys.stderr)
        say(command, error={"type": "CallsdError", "code": "UNKNOWN", "message": str(error)})
        return
    described = {
        "type": type(error).__name__,
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": dict(error.metadata),
        "retryAfterSeconds": error.retry_after_seconds,
        "fields": [violation.field for violation in error.field_violations],
    }
    say(command, error={key: value for key, value in described.items() if value is not None})


def method(command: Command) -> str:
    """The method of a driver that does what a command asks for."""
    name: str = re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", command["do"])
    return name


def message(found: Message) -> Any:
    """A message of the API as JSON."""
    return MessageToDict(found)


def connection(command: Command) -> dict[str, Any]:
    """Arguments of a client."""
    return {
        "address": command["address"] or None,
        "token_file": _path(command["tokenFile"]),
        "ca_file": _path(command["caFile"]),
    }


def create_arguments(command: Command) -> dict[str, Any]:
    """Arguments of `create_job`."""
    request = ParseDict(command["request"], CreateJobRequest())
    job = request.job
    return {
        "spec": getattr(job, job.WhichOneof("spec")),
        "labels": dict(job.labels),
        "request_id": UUID(request.request_id) if request.request_id else None,
        "validate_only": request.validate_only,
        "no_queue": request.no_queue,
        "timeout_seconds": command.get("timeoutSeconds"),
    }


def job_filter(command: Command) -> JobFilter:
    """The filter of a command; empty if it has none."""
    return ParseDict(command.get("filter") or {}, JobFilter())


def position(command: Command) -> WatchPosition | None:
    """Where a watch shall go on."""
    found = command.get("resume")
    return WatchPosition(**found) if found else None


def watch_event(event: WatchEvent) -> dict[str, Any]:
    """An event of `watch_jobs` as JSON."""
    match event:
        case JobChanged(job=job):
            return {"job": message(job)}
        case JobDeleted(name=name):
            return {"deleted": name}
        case Bookmark(position=at):
            return {"bookmark": {"database_id": at.database_id, "revision": at.revision}}
        case Interrupted(error=error):
            return {"interrupted": error.reason}


def final(found: WatchCaptionsResponse) -> dict[str, Any] | None:
    """A final caption as JSON; None for anything else."""
    caption = found.caption
    if not caption.is_final:
        return None
    return {
        "final": {
            "sequence": caption.sequence,
            "speaker": caption.speaker,
            "text": caption.text,
        }
    }


def sound(command: Command) -> list[bytes]:
    """The sound that a command shall send, in tenths of a second."""
    data = Path(command["path"]).read_bytes()
    return [data[at : at + STEP_BYTES] for at in range(0, len(data), STEP_BYTES)]


def file_result(path: Path) -> dict[str, Any]:
    """What is to be said about a file that was fetched."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": len(data)}


def _path(text: str) -> Path | None:
    return Path(text) if text else None
