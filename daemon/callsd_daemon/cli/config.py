# SPDX-License-Identifier: Apache-2.0
"""`callsd config`."""

from pathlib import Path

import click

from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.shared.output import print_json
from callsd_daemon.cli.shared.params import FILE
from callsd_daemon.config import sample as sample_text
from callsd_daemon.config import show as show_text


@click.group()
def config() -> None:
    """Show and check the configuration."""


@config.command()
def sample() -> None:
    """Print a configuration file with every key at its default, explained."""
    click.echo(sample_text(), nl=False)


@config.command()
@click.option("--config", "file", metavar="FILE", type=FILE, help="Default: the daemon's own.")
@json_option
@pass_cli
def show(cli: Cli, *, file: Path | None) -> None:
    """Print the configuration in force: defaults, file and environment together."""
    found = loaded(file)
    if cli.json:
        import msgspec

        print_json(msgspec.to_builtins(found))
        return
    click.echo(show_text(found), nl=False)


@config.command()
@click.argument("file", required=False, type=FILE)
@json_option
@pass_cli
def check(cli: Cli, *, file: Path | None) -> None:
    """Check a configuration file (default: the daemon's own); exit code 1 if it is wrong."""
    loaded(file, exit_code=Exit.FAILED)
    if cli.json:
        print_json({"valid": True})
        return
    click.echo("the configuration is valid")
