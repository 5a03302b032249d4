# SPDX-License-Identifier: Apache-2.0
"""Files of the database."""

import os
from pathlib import Path


def beside(path: Path, suffix: str) -> Path:
    """The file whose name has this behind it, such as SQLite's log of a database."""
    return path.with_name(path.name + suffix)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk when this returns; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
