# SPDX-License-Identifier: Apache-2.0
"""Copies of the database: made while the daemon runs, and put back while it does not."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from callsd_daemon.files import sync
from callsd_daemon.store.damage import BUSY_TIMEOUT_SECONDS, check_database
from callsd_daemon.store.files import beside
from callsd_daemon.store.migrations import SchemaTooNewError


BEFORE = ".before-restore"
"""What the name of a database that was replaced gets."""


class BackupError(Exception):
    """The copy could not be made or put back; nothing was changed."""


def back_up(database: Path, target: Path) -> None:
    """Copy a database, as it is at one moment, into a new file of mode 0600.

    Secrets of pages that are being recorded are left out: a job that is restored begins anew, and
    by then they would be worthless. Raises BackupError.
    """
    if target.exists():
        raise BackupError(f"{target} is there already: choose another name, or remove it")
    if not database.exists():
        raise BackupError(f"there is no {database}")
    draft = _draft(target)
    try:
        draft.touch(mode=0o600)
        with contextlib.closing(
            sqlite3.connect(database, timeout=BUSY_TIMEOUT_SECONDS)
        ) as connection:
            connection.execute("VACUUM INTO ?", (str(draft),))
        with contextlib.closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("DELETE FROM secrets")
            connection.commit()
        check_database(draft)
        _settle(draft, target)
    except (OSError, sqlite3.Error) as problem:
        raise BackupError(f"{database} could not be copied to {target}: {problem}") from problem
    finally:
        draft.unlink(missing_ok=True)


def restore(backup: Path, database: Path) -> Path | None:
    """Put a copy in the place of a database that nobody uses; returns where the old one went.

    Raises BackupError when the copy is none of callsd's, or damaged.
    """
    draft = _draft(database)
    try:
        check_database(backup)
        shutil.copyfile(backup, draft)
        draft.chmod(0o600)
        old = _move_away(database)
        _settle(draft, database)
    except (OSError, sqlite3.Error, SchemaTooNewError) as problem:
        raise BackupError(f"{backup} cannot be used: {problem}") from problem
    finally:
        draft.unlink(missing_ok=True)
    return old


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.new")


def _move_away(database: Path) -> Path | None:
    if not database.exists():
        return None
    old = beside(database, BEFORE)
    for suffix in ("", "-wal", "-shm"):
        part = beside(database, suffix)
        beside(old, suffix).unlink(missing_ok=True)
        if part.exists():
            part.rename(beside(old, suffix))
    return old


def _settle(draft: Path, path: Path) -> None:
    """Give a file its name once it is on the disk, and keep it from being lost with the power."""
    sync(draft)
    draft.rename(path)
    sync(path.parent)
