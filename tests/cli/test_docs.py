# SPDX-License-Identifier: Apache-2.0
"""docs/cli.md against the command."""

from pathlib import Path

import click

from callsd_daemon.cli.root import COMMANDS, root
from callsd_daemon.cli.shared.exit import MEANINGS


HANDBOOK = Path(__file__).parents[2] / "docs" / "cli.md"


class TestHandbook:
    """What the handbook says of the command line."""

    def test_every_exit_code(self) -> None:
        """Each code stands there with the meaning that `--help` gives it."""
        text = HANDBOOK.read_text()

        for code, meaning in MEANINGS.items():
            assert f"| {int(code)} | {meaning} |" in text

    def test_every_command(self) -> None:
        """Each command and subcommand is named."""
        text = HANDBOOK.read_text()
        context = click.Context(root)
        for name in COMMANDS:
            command = root.get_command(context, name)
            subcommands = command.commands if isinstance(command, click.Group) else {}
            rows = [line for line in text.splitlines() if f"`callsd {name}" in line]

            assert rows
            for subcommand in subcommands if name != "bench" else ():
                assert any(subcommand in row for row in rows), f"{name} {subcommand}"
