# SPDX-License-Identifier: Apache-2.0
"""One schema for every setting: defaults ← TOML file ← environment.

Each field's comment in `SETTINGS` is its documentation; the sample file is made from it.
"""

from callsd_daemon.config.check import UNIT_DIRECTORIES
from callsd_daemon.config.settings import SETTINGS, Config, ConfigError
from callsd_daemon.config.sources import (
    DEFAULT_PATH,
    ENVIRONMENT_PREFIX,
    default_runtime_directory,
    load,
    read_secret,
    sample,
    secret_file,
    show,
)


__all__ = [
    "DEFAULT_PATH",
    "ENVIRONMENT_PREFIX",
    "SETTINGS",
    "UNIT_DIRECTORIES",
    "Config",
    "ConfigError",
    "default_runtime_directory",
    "load",
    "read_secret",
    "sample",
    "secret_file",
    "show",
]
