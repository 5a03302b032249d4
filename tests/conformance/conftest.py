# SPDX-License-Identifier: Apache-2.0
"""Options of the runner: which drivers, and whether to write the table of results."""

import subprocess
import tomllib
from collections.abc import Generator

import pytest

from tests.conformance import table
from tests.conformance.driver import Kind, kinds
from tests.helpers.daemon import ROOT


SCENARIO = ROOT / "clients" / "conformance" / "scenario.toml"
BUILD_SECONDS = 600

pytest.register_assert_rewrite("tests.conformance.player")

RESULTS = pytest.StashKey[dict[tuple[str, str], str]]()


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
def built(kind: Kind, request: pytest.FixtureRequest) -> Kind:
    """A driver that is ready to be run."""
    (ROOT / ".cache" / "conformance").mkdir(parents=True, exist_ok=True)
    for step in () if request.config.getoption("--no-build") else kind.build:
        done = subprocess.run(
            step,
            cwd=kind.directory,
            check=False,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        assert done.returncode == 0, f"{' '.join(step)}:\n{done.stdout}{done.stderr}"
    return kind


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what came of each case."""
    report = yield
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "case" in parameters and (report.when == "call" or report.failed):
        results = item.config.stash.setdefault(RESULTS, {})
        key = (parameters["kind"].title, parameters["case"]["name"])
        results[key] = "yes" if report.passed and results.get(key) != "**no**" else "**no**"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, if asked to."""
    config = session.config
    if config.getoption("--write-table", default=False) and RESULTS in config.stash:
        scenario = tomllib.loads(SCENARIO.read_text(encoding="utf-8"))
        cases = [(case["name"], case["promise"]) for case in scenario["case"]]
        titles = [kind.title for kind in kinds().values()]
        results = config.stash[RESULTS]
        table.write(cases, titles, results)
