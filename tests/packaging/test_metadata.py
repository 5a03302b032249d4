# SPDX-License-Identifier: Apache-2.0
"""What the two distributions and the code generator say about each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


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


class TestLock:
    """`requirements.txt`, by which callsd is installed."""

    @pytest.fixture
    def lock(self) -> str:
        """Its text."""
        return (ROOT / "requirements.txt").read_text(encoding="utf-8")

    def test_is_current(self, lock: str) -> None:
        """Each package that callsd asks for is there, in a version that will do."""
        with (ROOT / "pyproject.toml").open("rb") as file:
            asked = tomllib.load(file)["build-system"]["requires"]
        extras = project(ROOT)["optional-dependencies"]
        asked += project(ROOT)["dependencies"]
        for name in ("daemon", "whispercpp", "moonshine", "parakeet"):
            asked += extras[name]
        locked = [Requirement(line) for line in re.findall(r"^\S+==[^\\\n]+", lock, re.MULTILINE)]

        for requirement in map(Requirement, asked):
            versions = [
                specifier.version
                for one in locked
                if canonicalize_name(one.name) == canonicalize_name(requirement.name)
                for specifier in one.specifier
            ]
            assert versions, requirement
            assert list(requirement.specifier.filter(versions)) == versions, requirement

    def test_each_file_has_its_hash(self, lock: str) -> None:
        """Nothing is taken that is not listed by its SHA-256; nothing is built but callsd."""
        packages = re.split(r"\n(?=\S)", lock.partition("--only-binary :all:\n\n")[2].strip())

        assert len(packages) > 50
        for package in packages:
            assert re.fullmatch(r"\S+==[^\\]+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n)?)+", package)

    def test_names_no_registry(self, lock: str) -> None:
        """Each is installed from the registry of whoever installs."""
        assert "://" not in lock


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
