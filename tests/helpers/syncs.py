# SPDX-License-Identifier: Apache-2.0
"""What is put onto the disk, and in which order."""

import os
from pathlib import Path

import pytest


def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and directories that are synced from now on, in order."""
    synced: list[str] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    return synced
