# SPDX-License-Identifier: Apache-2.0
"""The Python client as a program installs it that wants nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.test_metadata import ROOT, project


BASE = frozenset({"grpcio", "protobuf"})
"""What every gRPC client needs."""

MAX_DEPENDENCIES = 3
MAX_BYTES = 15_000_000
INSTALL_SECONDS = 110

# In the new environment: bytes of each distribution there, and what importing the client brings.
LOOK = """
import importlib.metadata, json, sys
import callsd
sizes = {
    found.name.lower().replace("_", "-"): sum(
        file.locate().stat().st_size for file in found.files or () if file.locate().exists()
    )
    for found in importlib.metadata.distributions()
}
json.dump({"sizes": sizes, "modules": sorted({name.partition(".")[0] for name in sys.modules})},
          sys.stdout)
"""


def test_few_dependencies() -> None:
    """Beside gRPC and protobuf it asks for at most three distributions."""
    names = {
        re.split(r"[^a-z0-9-]", one)[0]
        for one in project(ROOT / "clients" / "python")["dependencies"]
    }

    assert names >= BASE
    assert len(names - BASE) <= MAX_DEPENDENCIES


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_small(tmp_path: Path) -> None:
    """Installed in an environment of its own it can be imported, and brings less than 15 MB."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=INSTALL_SECONDS)
    install = ["-m", "pip", "install", "--quiet", "--no-compile", str(ROOT / "clients/python")]
    subprocess.run([venv / "bin" / "python", *install], check=True, timeout=INSTALL_SECONDS)
    done = subprocess.run(
        [venv / "bin" / "python", "-c", LOOK],
        check=True,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    found = json.loads(done.stdout)
    sizes = {
        name: size for name, size in found["sizes"].items() if name not in {"pip", "setuptools"}
    }

    assert BASE | {"callsd-client"} <= sizes.keys()
    assert sum(size for name, size in sizes.items() if name not in BASE) < MAX_BYTES, sizes
    assert not {"numpy", "av", "msgspec", "click"} & set(found["modules"])
