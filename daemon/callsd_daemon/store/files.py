# SPDX-License-Identifier: Apache-2.0
"""Files of the database."""

from pathlib import Path


def beside(path: Path, suffix: str) -> Path:
    """The file whose name has this behind it, such as SQLite's log of a database."""
    return path.with_name(path.name + suffix)
