# SPDX-License-Identifier: Apache-2.0
"""Options of the runner: which drivers, and whether to write the table of results."""

import fcntl
import os
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import table
from tests.conformance.driver import Kind, kinds
from tests.helpers.daemon import ROOT


SCENARIO = ROOT / "clients" / "conformance" / "scenario.toml"
BUILD_SECONDS = 600

Build = Callable[[Kind], Kind]

pytest.register_assert_rewrite("tests.conformance.player")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options; they are there when this directory or a file of it is named."""
    group = parser.getgroup("conformance")
    group.addoption("--driver", action="append", help="play with this driver (default: all)")
    group.addoption("--no-build", action="store_true", help="play with drivers as they are built")
    group.addoption(
        "--write-table", action="store_true", help="write the results to docs/clients.md"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each case with each driver."""
    if "case" not in metafunc.fixturenames:
        return
    known = kinds()
    names = metafunc.config.getoption("--driver") or list(known)
    if unknown := set(names) - set(known):
        raise pytest.UsageError(f"no driver {', '.join(unknown)}: there are {', '.join(known)}")
    scenario = tomllib.loads(SCENARIO.read_text(encoding="utf-8"))
    cases = [{**case, "values": scenario["values"]} for case in scenario["case"]]
    metafunc.parametrize("kind", [known[name] for name in names], ids=names, scope="session")
    metafunc.parametrize("case", cases, ids=[case["name"] for case in cases])


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes drivers ready to be run: once in a run, in whichever of its processes comes first."""
    (ROOT / ".cache" / "conformance").mkdir(parents=True, exist_ok=True)
    shared = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):
        shared = shared.parent

    def build(kind: Kind) -> Kind:
        with (shared / f"{kind.name}.built").open("a+b") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            if mark.seek(0, os.SEEK_END) == 0 and not pytestconfig.getoption("--no-build"):
                for step in kind.build:
                    _run(step, kind.directory)
                mark.write(b"yes")
        return kind

    return build


def _run(step: Sequence[str], directory: Path) -> None:
    done = subprocess.run(
        step,
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(step)}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def built(kind: Kind, build: Build) -> Kind:
    """A driver that is ready to be run."""
    return build(kind)


def pytest_configure(config: pytest.Config) -> None:
    """Collect what came of each case, if a table is asked for: where all reports come together."""
    if config.getoption("--write-table", default=False) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(), "results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each report says of which client and case it is, wherever the test has run."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.keys() >= {"kind", "case"}:
            case = (parameters["kind"].title, parameters["case"]["name"])
            item.user_properties.append(("case", case))


class _Results:
    """What came of each case, by title of the client and name of the case."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a case ended."""
        if report.when != "call" and report.passed:
            return
        properties: list[tuple[str, Any]] = report.user_properties
        for title, name in [value for key, value in properties if key == "case"]:
            is_good = report.passed and self._results.get((title, name)) != "**no**"
            self._results[title, name] = "yes" if is_good else "**no**"

    def pytest_sessionfinish(self) -> None:
        """Write the table."""
        if self._results:
            scenario = tomllib.loads(SCENARIO.read_text(encoding="utf-8"))
            cases = [(case["name"], case["promise"]) for case in scenario["case"]]
            titles = [kind.title for kind in kinds().values()]
            table.write(cases, titles, self._results)
