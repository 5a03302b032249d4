# SPDX-License-Identifier: Apache-2.0
"""A machine with callsd on it, as an administrator would install it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.machine import Machine
from tests.weights import MODELS_DIRECTORY


REPOSITORY = Path(__file__).parents[2]
PROGRAMS = "/opt/callsd/bin"
MODEL = "tiny.en"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests boot a machine, which takes root."""
    if os.geteuid() != 0:
        reason = "takes root: a machine is booted by systemd-nspawn"
        for item in items:
            if Path(__file__).parent in item.path.parents and "machine" in item.fixturenames:  # type: ignore[attr-defined]
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, as it would be published."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(directory), str(REPOSITORY)),
        ],
        check=True,
        timeout=120,
    )
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def machine(wheel: Path, models_directory: Path) -> Iterator[Machine]:
    """Booted, with callsd in /opt/callsd and weights of tiny.en in /opt/models."""
    with Machine() as one:
        shutil.copy(wheel, one.root / "opt")
        shutil.copytree(MODELS_DIRECTORY / MODEL, one.root / "opt/models" / MODEL)
        one.chroot("/usr/bin/python3", "-m", "venv", "/opt/callsd")
        one.chroot(f"{PROGRAMS}/pip", "install", "--quiet", f"/opt/{wheel.name}[daemon]")
        one.boot()
        yield one
