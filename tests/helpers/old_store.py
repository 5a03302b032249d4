# SPDX-License-Identifier: Apache-2.0
"""Databases as earlier versions have left them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callsd_daemon.domain.jobs import Job
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store import migrations
from callsd_daemon.store.database import Database
from callsd_daemon.store.migrations import MIGRATIONS


def make_old(path: Path, version: int, *jobs: Job) -> None:
    """Make a database with the schema that it had at `version`, below 4, and these jobs in it."""
    with pytest.MonkeyPatch.context() as older:
        older.setattr(migrations, "MIGRATIONS", MIGRATIONS[:version])
        Database(path, codec()).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for job in jobs:
            body = msgspec.json.encode(with_fields_by_kind(msgspec.to_builtins(job)))
            held = job.reservation
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?)",
                (
                    *(job.id, job.revision, job.state, job.kind, job.cost_key),
                    *(held.cores, held.memory_bytes, held.disk_bytes, body),
                ),
            )
            connection.execute("INSERT INTO changes VALUES (?, ?, ?)", (job.revision, job.id, body))


def with_fields_by_kind(fields: dict[str, Any]) -> dict[str, Any]:
    """A stored job as it was below version 5, with fields for each kind."""
    spec, results = fields.pop("spec"), fields.pop("results")
    for kind in ("transcription", "captions", "recording"):
        fields[kind] = spec if kind == fields["kind"] else None
        fields[f"{kind}_result"] = results.get(kind)
    return fields
