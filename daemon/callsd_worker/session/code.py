# SPDX-License-Identifier: Apache-2.0
"""A copy of our own code, for a worker that runs for hours and loads parts of itself late.

So an upgrade of the installation does not affect it.
"""

import os
import shutil
import sys
from pathlib import Path

import callsd_ipc
import callsd_worker


CODE = "code"
"""The directory of the copy, in ours."""


def _unreadable(directory: str, names: list[str]) -> list[str]:
    """Compiled files that only another user can read: they are left out, and compiled anew."""
    return [name for name in names if not os.access(Path(directory, name), os.R_OK)]


def hold_code(directory: Path) -> None:
    """Copy our code, and import from the copy from now on, here and in programs that we start."""
    place = directory / CODE
    shutil.rmtree(place, ignore_errors=True)
    for package in (callsd_worker, callsd_ipc):
        source = Path(package.__path__[0])
        shutil.copytree(source, place / source.name, ignore=_unreadable)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == package.__name__ and hasattr(module, "__path__"):
                module.__path__ = [str(place.joinpath(*name.split(".")))]
    sys.path.insert(0, str(place))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(place), inherited)))
