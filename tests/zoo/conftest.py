# SPDX-License-Identifier: Apache-2.0
"""Counts what the zoo has tried, and says so at the end, from whichever process it comes."""

from collections import Counter

import pytest


COUNTED = "zoo"
"""The property of a test that holds its outcomes, each with its number of files."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many files were right, refused, or could not be written at all."""
    counts = Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, found in report.user_properties:
                    if name == COUNTED:
                        counts.update(found)
    if counts:
        told = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
        terminalreporter.write_line(f"zoo: {counts.total()} files: {told}")
