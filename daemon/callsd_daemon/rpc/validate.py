# SPDX-License-Identifier: Apache-2.0
"""Checks the small parts of requests: names, filters, starts of uploads."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from callsd.v1 import job_pb2
from callsd_daemon.domain.errors import invalid_fields
from callsd_daemon.rpc.convert import DELIVERIES, KINDS, STATES
from callsd_daemon.rpc.kinds.transcription import JOB, UPLOAD
from callsd_daemon.rpc.problems import MODEL, Problems
from callsd_daemon.store.read_transaction import JobFilter


Number = TypeVar("Number", bound=int)
Value = TypeVar("Value")

MAX_FILTER_LABELS = 16
"""Each one is looked up for each job that has the rarest of them."""

MAX_NAMES = 100
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 50

_ARTIFACT = re.compile(r"jobs/([a-z0-9]{8,40})/artifacts/([A-Za-z0-9][A-Za-z0-9._-]{0,99})")
_SHA256 = re.compile(r"[0-9a-f]{64}")

KIND_OF = {number: kind for kind, number in KINDS.items()}
STATE_OF = {number: state for state, number in STATES.items()}
DELIVERY_OF = {number: state for state, number in DELIVERIES.items()}


def job_filter(message: job_pb2.JobFilter, *, states_allowed: bool) -> JobFilter:
    """Check a filter; raises FIELD_INVALID."""
    problems = Problems()
    if message.states and not states_allowed:
        problems.add("filter.states", "must be empty: a watch reports jobs through all of them")
    if message.deliveries and not states_allowed:
        problems.add("filter.deliveries", "must be empty: a watch reports jobs through all of them")
    states = _known(problems, "states", message.states, STATE_OF)
    kinds = _known(problems, "kinds", message.kinds, KIND_OF)
    for key in _few(problems, "labels", message.labels, MAX_FILTER_LABELS):
        problems.label("filter.labels", key, message.labels[key])
    names = _few(problems, "names", message.names, MAX_NAMES)
    ids = frozenset(match[1] for match in map(JOB.fullmatch, names) if match)
    if not all(map(JOB.fullmatch, names)):
        problems.add("filter.names", 'must each be "jobs/JOB"')
    deliveries = _known(problems, "deliveries", message.deliveries, DELIVERY_OF)
    problems.raise_any()
    return JobFilter(
        states=states,
        kinds=kinds,
        labels=dict(message.labels),
        ids=ids,
        deliveries=deliveries,
    )


def _few(
    problems: Problems, field: str, values: Collection[Value], limit: int
) -> Collection[Value]:
    """The values of a filter's field, or none when there are too many: nobody looks at them."""
    if len(values) <= limit:
        return values
    problems.add(f"filter.{field}", f"has {len(values)} values, at most {limit}")
    return ()


def _known(
    problems: Problems, field: str, numbers: Collection[Number], known: Mapping[Number, Value]
) -> tuple[Value, ...]:
    """What these numbers stand for; there is no use for more of them than there are."""
    numbers = _few(problems, field, numbers, len(known))
    unknown = [number for number in numbers if number not in known]
    if unknown:
        problems.add(f"filter.{field}", f"{unknown[0]} is no value that we know")
    # No set: each of thousands of watches would keep an empty one.
    return tuple(known[number] for number in numbers if number in known)


def job_id(name: str, *, field: str = "name") -> str:
    """The id in a job's name; raises FIELD_INVALID."""
    return _groups(JOB, field, name, "jobs/JOB")[0]


def artifact(name: str) -> tuple[str, str]:
    """Job id and file name in an artifact's name; raises FIELD_INVALID."""
    job, file_name = _groups(_ARTIFACT, "name", name, "jobs/JOB/artifacts/FILE")
    return job, file_name


def upload_id(name: str) -> str:
    """The id in an upload's name; raises FIELD_INVALID."""
    return _groups(UPLOAD, "name", name, "uploads/UUID")[0]


def model_name(name: str) -> str:
    """A model's name; raises FIELD_INVALID."""
    if not MODEL.fullmatch(name):
        raise invalid_fields([("name", "must be a model's name: see ListModels")])
    return name


def upload_start(upload: str, size_bytes: int, sha256: str) -> None:
    """Check the first message of an upload; raises FIELD_INVALID."""
    problems = Problems()
    problems.uuid("start.upload_id", upload)
    if size_bytes < 1:
        problems.add("start.size_bytes", "must be at least 1")
    if not _SHA256.fullmatch(sha256):
        problems.add("start.sha256", "must be 64 lower-case hexadecimal digits")
    problems.raise_any()


def _groups(pattern: re.Pattern[str], field: str, value: str, shape: str) -> tuple[str, ...]:
    match = pattern.fullmatch(value)
    if match is None:
        raise invalid_fields([(field, f'must be "{shape}"')])
    return match.groups()
