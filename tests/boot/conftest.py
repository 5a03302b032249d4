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
from tests.boot.service import CALL, MODEL, PROGRAMS, Service
from tests.weights import MODELS_DIRECTORY


HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

LAST = ("test_uninstall.py", "test_upgrade.py")
"""One takes away what the others need, the next one boots another machine."""

FIRST_SECONDS = 600.0
"""The first one to run has callsd installed, for itself and all others."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests boot a machine, which takes root; some come last."""
    mine = [item for item in items if HERE in item.path.parents]
    if os.geteuid() != 0:
        for item in mine:
            item.add_marker(pytest.mark.skip(reason="takes root: a machine is booted"))
    places = [index for index, item in enumerate(items) if HERE in item.path.parents]
    mine.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)
    for item in mine[:1]:
        item.add_marker(pytest.mark.timeout(FIRST_SECONDS), append=False)
    for place, item in zip(places, mine, strict=True):
        items[place] = item


def build(source: Path, directory: Path) -> Path:
    """The distribution of a tree, as it would be published."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(directory), str(source)),
        ],
        check=True,
        timeout=120,
    )
    (found,) = directory.glob("*.whl")
    return found


def add_callsd(machine: Machine, wheel: Path) -> None:
    """A machine that is not booted yet gets callsd in /opt/callsd, and weights in /opt/models."""
    for file in (wheel, REPOSITORY / "requirements.txt"):
        shutil.copy(file, machine.root / "opt")
    shutil.copytree(MODELS_DIRECTORY / MODEL, machine.root / "opt/models" / MODEL)
    machine.chroot("/usr/bin/python3", "-m", "venv", "/opt/callsd")
    pip = (f"{PROGRAMS}/pip", "install", "--quiet")
    machine.chroot(*pip, "--require-hashes", "--requirement", "/opt/requirements.txt")
    machine.chroot(*pip, "--no-deps", f"/opt/{wheel.name}")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, as it would be published."""
    return build(REPOSITORY, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, models_directory: Path) -> Iterator[Path]:
    """A layer for machines: callsd in /opt/callsd, and weights of tiny.en in /opt/models."""
    with Machine() as one:
        add_callsd(one, wheel)
        yield one.layer


@pytest.fixture(scope="session")
def machine(installed: Path) -> Iterator[Machine]:
    """Booted, with callsd in /opt/callsd and weights of tiny.en in /opt/models."""
    with Machine(installed) as one:
        one.boot()
        yield one


@pytest.fixture(scope="session")
def service(machine: Machine) -> Service:
    """callsd, installed and running; jobs may read the sample call by its path."""
    machine.run(f"{PROGRAMS}/callsd", "install", "--no-start")
    service = Service(machine)
    service.configure("# roots = []", f'roots = ["{CALL}"]')
    service.begin()
    return service
