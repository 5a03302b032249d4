# SPDX-License-Identifier: Apache-2.0
"""Collects what the tests of scenarios have found, and prints it as a table in the end.

CALLSD_FAULTS_TABLE names a file that gets the table between its two marker lines.
CALLSD_FAULTS_SEED repeats a random schedule.
"""

import os
import platform
import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scenarios import ELSEWHERE, TITLES
from tests.outbox.fixtures import start_world


__all__ = ["start_world"]


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

RecordFigure = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, and begin to collect; this file speaks for all directories."""
    config.addinivalue_line(
        "markers", "scenario(number, criterion): what the test holds callsd to, of scenarios.py"
    )
    config.pluginmanager.register(_Table(), "scenarios")


@pytest.fixture
def record_figure(record_property: Callable[[str, object], None]) -> RecordFigure:
    """Takes what was measured, with its unit, for the table."""

    def record(text: str) -> None:
        record_property("figure", text)
        print(f"measured: {text}")  # noqa: T201 - for people

    return record


@pytest.fixture(scope="module")
def seed() -> str:
    """What a module's random numbers come of."""
    return os.environ.get("CALLSD_FAULTS_SEED") or secrets.token_hex(4)


@pytest.fixture
def chance(seed: str, record_property: Callable[[str, object], None]) -> random.Random:
    """Random numbers whose seed is printed, and given by CALLSD_FAULTS_SEED to have them again."""
    record_property("seed", seed)
    print(f"seed: CALLSD_FAULTS_SEED={seed}")  # noqa: T201 - for people
    return random.Random(seed)  # noqa: S311 - no secret


@dataclass(slots=True)
class _Row:
    outcomes: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        counts = {name: self.outcomes.count(name) for name in dict.fromkeys(self.outcomes)}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


class _Table:
    """One row for each criterion of each scenario."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], _Row] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark tests of other directories, before `-m` selects."""
        for item in items:
            for beginning, (number, criterion) in ELSEWHERE.items():
                if item.nodeid.startswith(beginning):
                    item.add_marker(pytest.mark.scenario(number, criterion))
            # With the report, since tests may run in other processes than the one that reads this.
            item.user_properties += [
                ("scenario", mark.args) for mark in item.iter_markers("scenario")
            ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended: by its body, or by what came before or after and failed."""
        if report.when != "call" and report.passed:
            return
        properties: list[tuple[str, Any]] = report.user_properties
        for number, criterion in [mark for name, mark in properties if name == "scenario"]:
            row = self._rows.setdefault((number, criterion), _Row())
            # Pytest calls it skipped when a test fails of which that is known.
            known = hasattr(report, "wasxfail") and report.skipped
            row.outcomes.append("fails, as known" if known else report.outcome)
            row.figures += [str(text) for name, text in properties if name == "figure"]
            row.seeds += [str(text) for name, text in properties if name == "seed"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and write it to where it is asked for."""
        if not self._rows:
            return
        terminalreporter.section("scenarios")
        terminalreporter.write("\n".join(self._lines()) + "\n")
        if target := os.environ.get("CALLSD_FAULTS_TABLE"):
            self._write(Path(target))

    def _lines(self) -> Iterator[str]:
        yield "| | Scenario | Criterion | Result | Measured | Seed |"
        yield "|---|---|---|---|---|---|"
        for (number, criterion), row in sorted(self._rows.items()):
            figures, seeds = "; ".join(row.figures), ", ".join(dict.fromkeys(row.seeds))
            cells = [str(number), TITLES[number], criterion, row.result, figures, seeds]
            yield f"| {' | '.join(cells)} |"

    def _write(self, target: Path) -> None:
        before, begin, rest = target.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        assert end, f"{target} has no lines {BEGIN} and {END}"
        when = f"{datetime.now(UTC):%Y-%m-%d}"
        where = f"{os.cpu_count()} cores, Linux {platform.release()}, Python"
        title = f"Measured on {when}: {where} {platform.python_version()}."
        table = "\n".join(self._lines())
        target.write_text(
            f"{before}{begin}\n\n{title}\n\n{table}\n\n{end}{after}", encoding="utf-8"
        )
