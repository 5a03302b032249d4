# SPDX-License-Identifier: Apache-2.0
"""What the two distributions and the code generator say about each other."""

import re
import tomllib
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]


def project(directory: Path) -> dict[str, Any]:
    """The [project] table of the pyproject.toml in `directory`."""
    with (directory / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


class TestClientDistribution:
    """`callsd-client` beside `callsd`."""

    def test_carries_the_version_of_the_whole(self) -> None:
        """Both distributions are released together, under one version."""
        client = project(ROOT / "clients" / "python")

        assert client["version"] == project(ROOT)["version"]

    def test_needs_what_the_base_needs(self) -> None:
        """A client installs the same dependencies from either distribution, and no more."""
        client = project(ROOT / "clients" / "python")

        assert client["dependencies"] == project(ROOT)["dependencies"]


class TestGenerator:
    """The pins of `make gen`."""

    def test_is_the_oldest_grpc_that_is_supported(self) -> None:
        """Generated code admits every grpcio that `dependencies` admits."""
        pins = (ROOT / "tools" / "gen-requirements.txt").read_text(encoding="utf-8")
        floors = [
            found[1]
            for name in project(ROOT)["dependencies"]
            if (found := re.fullmatch(r"grpcio>=([\d.]+)", name))
        ]
        pinned = re.findall(r"^grpcio-tools==(\d+\.\d+)\.\d+$", pins, re.MULTILINE)

        assert pinned == floors
