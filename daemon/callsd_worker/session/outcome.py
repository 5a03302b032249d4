# SPDX-License-Identifier: Apache-2.0
"""A worker's artifacts and outcome, each written whole or not at all.

They stay in its directory until the daemon has taken them over, and survive the worker.
"""

import contextlib
import hashlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from callsd_ipc.names import ARTIFACTS, MAX_OUTCOME_BYTES, OUTCOME
from callsd_ipc.v1 import worker_pb2
from callsd_worker.files import open_regular, sync_names, write_whole


KIB = 1024


def write_artifact(
    directory: Path, file_name: str, media_type: str, content: bytes
) -> worker_pb2.ArtifactFile:
    """Write an artifact; it gets its name only once it is on the disk."""
    (directory / ARTIFACTS).mkdir(exist_ok=True)
    write_whole(directory / ARTIFACTS / file_name, content)
    return worker_pb2.ArtifactFile(
        file_name=file_name,
        media_type=media_type,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def artifact_of(directory: Path, file_name: str, media_type: str) -> worker_pb2.ArtifactFile:
    """Sync a finished file to the disk, and describe it."""
    path = directory / ARTIFACTS / file_name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return worker_pb2.ArtifactFile(
        file_name=file_name,
        media_type=media_type,
        size_bytes=path.stat().st_size,
        sha256=digest,
    )


def write_outcome(
    directory: Path,
    generation: int,
    *,
    failure: tuple[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    artifacts: list[worker_pb2.ArtifactFile] | None = None,
    notices: list[tuple[str, str]] | None = None,
    transcription: worker_pb2.TranscriptionOutcome | None = None,
    recording: worker_pb2.RecordingOutcome | None = None,
    capture: worker_pb2.CaptureOutcome | None = None,
    wall_seconds: float = 0.0,
) -> None:
    """Write how the work ended. `failure` is (reason, message); None = success.

    The names of all artifacts are on the disk before it: what they were made of can then go.
    """
    if artifacts:
        sync_names(directory / ARTIFACTS)
    reason, message = failure or ("", "")
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    outcome = worker_pb2.Outcome(
        generation=generation,
        failure_reason=reason,
        failure_message=message,
        failure_metadata=metadata,
        artifacts=artifacts,
        notices=[worker_pb2.OutcomeNotice(code=code, message=text) for code, text in notices or []],
        transcription=transcription,
        recording=recording,
        capture=capture,
        cpu_seconds=sum(u.ru_utime + u.ru_stime for u in (own, children)),
        wall_seconds=wall_seconds,
        peak_memory_bytes=max(own.ru_maxrss, children.ru_maxrss) * KIB,
    )
    write_whole(directory / OUTCOME, outcome.SerializeToString())


def read_outcome(directory: Path, generation: int) -> worker_pb2.Outcome | None:
    """The outcome that a worker of this generation has left; None when there is none.

    In its place may be anything: links are not followed, pipes not waited for.
    """
    try:
        with open_regular(directory / OUTCOME) as file:
            outcome = worker_pb2.Outcome.FromString(file.read(MAX_OUTCOME_BYTES))
    except (OSError, DecodeError):
        return None
    return outcome if outcome.generation == generation else None


def has_outcome(directory: Path, generation: int) -> bool:
    """Whether a worker of this generation has left an outcome; anything else there is removed."""
    if read_outcome(directory, generation) is not None:
        return True
    with contextlib.suppress(OSError):
        (directory / OUTCOME).unlink()
    return False
