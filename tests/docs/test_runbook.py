# SPDX-License-Identifier: Apache-2.0
"""What docs/runbook.md and its neighbours tell an administrator to do can be done."""

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest

from callsd.v1.error_pb2 import ErrorReason
from callsd_daemon.cli.root import root
from callsd_daemon.config import SETTINGS
from tests.helpers.daemon import ROOT


RUNBOOK = ROOT / "docs" / "runbook.md"
PAGES = (RUNBOOK, ROOT / "docs" / "monitoring" / "README.md")
MATTERMOST = ROOT / "docs" / "mattermost.md"
"""Its settings are not all ours."""

HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
CONSOLE = re.compile(r"^\$ (.+?)(?:\s+# .*)?$", re.MULTILINE)
SETTING = re.compile(r"(?:state|server|media|jobs|admission|models|transcription|captions|recording"
                     r"|gateway|metrics|log)\.[a-z_*]+")  # fmt: skip
LINK = re.compile(r"\]\(([^)#:\s]*)#([^)\s]+)\)")
STEP = re.compile(r"^- \*\*(\w+):\*\* \S", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Where links into a page can lead: its headings, as forges make addresses of them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = (title.lower().replace("`", "") for _, title in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in headings}


def sections(level: int) -> dict[str, str]:
    """The runbook's sections with headings of a level: title and text, without what is above."""
    text = RUNBOOK.read_text(encoding="utf-8")
    found = list(HEADING.finditer(text))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    return {
        heading[2]: text[heading.end() : end]
        for heading, end in zip(found, ends, strict=True)
        if len(heading[1]) == level
    }


def commands(path: Path) -> list[str]:
    """Every command of ours that a page names."""
    text = path.read_text(encoding="utf-8")
    named = [*CONSOLE.findall(text), *CODE.findall(FENCE.sub("", text))]
    return [line for line in named if line.split()[0] == "callsd" and len(line.split()) > 1]


def unknown(command: str) -> Iterator[str]:
    """What in a command the command line does not know: a subcommand, an option."""
    found: click.Command = root
    context = click.Context(root)
    for word in shlex.split(command)[1:]:
        if word.startswith("-"):
            options = {name for option in found.params for name in option.opts}
            if word.partition("=")[0] not in options:
                yield word
        elif isinstance(found, click.Group):
            below = found.get_command(context, word)
            if below is None:
                yield word
                return
            found = below


class TestReasons:
    """An entry for each reason."""

    def test_every_reason_once(self) -> None:
        """Each value of ErrorReason has its entry, and nothing else has."""
        reasons = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]]
        titles = re.findall(r"^#### (.+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)

        assert sorted(titles) == sorted(reasons)

    @pytest.mark.parametrize("title", sections(4))
    def test_entry(self, title: str) -> None:
        """An entry says what is seen, what to check and what to do, in this order."""
        assert STEP.findall(sections(4)[title]) == ["Seen", "Check", "Do"]

    def test_symptoms(self) -> None:
        """Each symptom says first where to look and then what to do."""
        found = {title: STEP.findall(text) for title, text in sections(3).items()}
        symptoms = {title: steps for title, steps in found.items() if steps}

        assert len(symptoms) >= 10
        for title, steps in symptoms.items():
            looks, does = steps.count("Look"), steps.count("Do")
            assert steps == ["Look"] * looks + ["Do"] * does, title
            assert min(looks, does) > 0, title


class TestWords:
    """What is named is there."""

    @pytest.mark.parametrize("path", [*PAGES, MATTERMOST], ids=lambda path: path.name)
    def test_commands(self, path: Path) -> None:
        """Each command, with its subcommand and options, is one that the command line knows."""
        named = commands(path)

        assert named
        assert {line: list(unknown(line)) for line in named if list(unknown(line))} == {}

    def test_a_wrong_command_is_found(self) -> None:
        """The check itself tells commands, subcommands and options that do not exist."""
        assert list(unknown("callsd jobs repair JOB")) == ["repair"]
        assert list(unknown("callsd fix")) == ["fix"]
        assert list(unknown("callsd --json jobs stop JOB --now")) == ["--now"]
        assert list(unknown("callsd --json jobs stop JOB --wait")) == []

    @pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
    def test_settings(self, path: Path) -> None:
        """Each setting, a pattern among them, is one that the configuration has."""
        codes = CODE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
        named = {code for code in codes if SETTING.fullmatch(code)}

        assert named
        assert [one for one in named if not any(fnmatch(key, one) for key in SETTINGS)] == []

    @pytest.mark.parametrize("path", [*PAGES, MATTERMOST], ids=lambda path: path.name)
    def test_links(self, path: Path) -> None:
        """Each link to a heading leads to one."""
        links = LINK.findall(path.read_text(encoding="utf-8"))
        dead = [
            f"{page}#{anchor}"
            for page, anchor in links
            if anchor not in anchors(path.parent / page if page else path)
        ]

        assert links
        assert dead == []
