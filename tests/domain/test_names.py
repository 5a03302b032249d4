# SPDX-License-Identifier: Apache-2.0

from enum import StrEnum
from typing import Any

import pytest

from callsd.v1 import error_pb2, job_pb2, kind_pb2, recording_pb2, transcription_pb2
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.domain.jobs import State
from callsd_daemon.domain.languages import LANGUAGES
from callsd_daemon.domain.recording import Picture, Profile
from callsd_daemon.domain.transcription import Engine, Format, Task
from tests.helpers.kinds import KINDS


@pytest.mark.parametrize(
    ("ours", "public", "prefix"),
    [
        (Reason, error_pb2.ErrorReason, "ERROR_REASON_"),
        (State, job_pb2.JobState, "JOB_STATE_"),
        (Engine, transcription_pb2.SpeechEngine, "SPEECH_ENGINE_"),
        (Task, transcription_pb2.TranscriptionTask, "TRANSCRIPTION_TASK_"),
        (Format, transcription_pb2.TranscriptFormat, "TRANSCRIPT_FORMAT_"),
        (Profile, recording_pb2.RecordingProfile, "RECORDING_PROFILE_"),
        (Picture, recording_pb2.PictureState, "PICTURE_STATE_"),
    ],
    ids=["reasons", "states", "engines", "tasks", "formats", "profiles", "pictures"],
)
def test_same_names_as_the_api(ours: type[StrEnum], public: Any, prefix: str) -> None:
    """The domain and the public API know the same names, no more and no fewer."""
    assert public.Name(0) == f"{prefix}UNSPECIFIED"
    assert {prefix + member.name for member in ours} == set(public.keys()) - {public.Name(0)}


def test_a_reason_is_its_name() -> None:
    """What is written down for a reason is the name that the API shows."""
    assert all(reason.value == reason.name for reason in Reason)


def test_languages_are_codes() -> None:
    """The 100 languages of multilingual models, as codes of two or three letters."""
    assert len(LANGUAGES) == 100
    assert {"en", "de", "yue"} <= LANGUAGES
    assert all(code.isalpha() and code.islower() and len(code) in (2, 3) for code in LANGUAGES)


def test_error_carries_the_facts() -> None:
    """An error holds its reason, its words, its figures, and keeps its own copy of them."""
    facts = {"limit": "3"}

    error = CallsdError(Reason.QUEUE_FULL, "wait", metadata=facts, retry_after_seconds=2.0)
    facts["limit"] = "4"

    assert (error.reason, str(error), error.message) == (Reason.QUEUE_FULL, "wait", "wait")
    assert (error.metadata, error.violations) == ({"limit": "3"}, ())
    assert error.retry_after_seconds == 2.0


def test_all_invalid_fields_at_once() -> None:
    """One error names every field that is wrong."""
    error = invalid_fields([("job.spec", "is missing"), ("request_id", "must be a UUID")])

    assert error.reason is Reason.FIELD_INVALID
    assert error.message == "job.spec: is missing; request_id: must be a UUID"
    assert error.violations == (("job.spec", "is missing"), ("request_id", "must be a UUID"))


def test_kinds() -> None:
    """The kinds that are served are those that the public API names."""
    assert {f"JOB_KIND_{name.upper()}" for name in KINDS} == set(kind_pb2.JobKind.keys()[1:])
