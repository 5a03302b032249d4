# SPDX-License-Identifier: Apache-2.0
"""What the handbook tells people to type."""

import re
import shlex
from pathlib import Path

import click
import pytest

from callsd_daemon.cli.root import root
from tests.faults.conftest import RecordFigure
from tests.helpers.daemon import ROOT


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PROMPT = re.compile(r"^(?:\$|#) (.*)$")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "2>>", "#"}
"""Where a command ends on a line of a shell."""


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `callsd` that a console block shows."""
    found, is_console = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_console = line == "```console"
        if is_console and (typed := PROMPT.match(line)):
            found += _invocations(typed[1])
    return found


def _invocations(line: str) -> list[list[str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []  # the beginning of something that goes on in the next line
    found = []
    for index, word in enumerate(words):
        is_program = word == "callsd" or word.endswith("/callsd")
        # Not a user of that name, and not a file that is written.
        if is_program and (index == 0 or words[index - 1] in {"--", "|", "&&"}):
            rest = words[index + 1 :]
            end = next((at for at, one in enumerate(rest) if one in ENDS), len(rest))
            found.append(rest[:end])
    return found


def parse(arguments: list[str]) -> None:
    """Have the command line read the arguments, as if the command were run, without running it."""
    command: click.Command = root
    context, rest = click.Context(root), list(arguments)
    while True:
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, rest.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    assert rest == [], f"too many arguments: {rest}"


@pytest.mark.scenario(42, "each command that the handbook shows is one, with these options")
def test_every_command_can_be_typed(record_figure: RecordFigure) -> None:
    """Who types what README and handbook show is told of no unknown command or option."""
    shown = [(page.name, words) for page in PAGES for words in commands(page)]
    wrong = []
    for name, words in shown:
        try:
            parse(words)
        except (click.ClickException, AssertionError, IndexError) as problem:
            wrong.append(f"{name}: callsd {shlex.join(words)}: {problem}")

    assert wrong == []
    assert {"README.md", "install.md", "operate.md", "models.md"} <= {name for name, _ in shown}
    record_figure(f"{len(shown)} commands on {len({name for name, _ in shown})} pages")


def test_a_wrong_command_would_be_noticed() -> None:
    """An unknown command, option or argument is an error here as on the command line."""
    for words in (["jobz"], ["jobs", "list", "--no-such"], ["jobs", "list", "job", "job"]):
        with pytest.raises((click.ClickException, AssertionError)):
            parse(words)
