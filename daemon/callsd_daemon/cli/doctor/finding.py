# SPDX-License-Identifier: Apache-2.0
"""What a check of `callsd doctor` finds."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Status(StrEnum):
    """How grave a finding is."""

    OK = "ok"
    ADVICE = "advice"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    fix: str = ""


def fine(name: str, found: str) -> Finding:
    """Something is in order."""
    return Finding(name=name, status=Status.OK, found=found)


def problem(name: str, found: str, fix: str) -> Finding:
    """Something keeps callsd from working."""
    return Finding(name=name, status=Status.PROBLEM, found=found, fix=fix)


def first_line(path: Path) -> str:
    """The first line of a small file of the kernel's; empty when there is none to read."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return ""
