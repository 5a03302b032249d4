# SPDX-License-Identifier: Apache-2.0
"""What a browser is set to before it starts, where there is neither a flag nor a command for it."""

import json
from pathlib import Path
from typing import Any

from callsd_worker.recorder.program_host import ProgramHost


_OF_BROWSER = {"auth": {"schemes": "none"}}
"""No question for a user and a password: it covers the page, and the page waits for an answer."""

_OF_PROFILE = {"printing": {"enabled": False}}
"""No print preview, of any frame: it covers the page, and only a person can close it."""


def write_preferences(host: ProgramHost, directory: Path) -> None:
    """Into the directory of the browser's data. Source: chromium, chrome/common/pref_names.h."""
    profile = directory / "Default"
    profile.mkdir()
    host.share(profile)
    _write(host, directory / "Local State", _OF_BROWSER)
    _write(host, profile / "Preferences", _OF_PROFILE)


def _write(host: ProgramHost, path: Path, preferences: dict[str, Any]) -> None:
    path.write_text(json.dumps(preferences))
    host.share(path)
