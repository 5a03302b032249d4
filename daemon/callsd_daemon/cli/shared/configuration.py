# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration, for the commands that work on its files."""

import os
from pathlib import Path

from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.config import Config, ConfigError, load


def loaded(path: Path | None, *, exit_code: Exit = Exit.CONFIG) -> Config:
    """The configuration in force, or a problem that says what is wrong with it."""
    try:
        return load(path, os.environ)
    except ConfigError as error:
        raise Problem(
            str(error), exit_code=exit_code, to_do="callsd config sample shows all keys"
        ) from None
