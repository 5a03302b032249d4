# SPDX-License-Identifier: Apache-2.0
"""`callsd install` and `callsd uninstall`."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from callsd_daemon.cli.install.installation import Installation, Step
from callsd_daemon.cli.shared.exit import Exit, Problem


Command = TypeVar("Command", bound=Callable[..., Any])


def _options(command: Command) -> Command:
    """Where it is done, and whether."""
    root = click.option(
        "--root",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
        default=Path("/"),
        help="Set up a system in this directory instead of the running one.",
    )
    dry_run = click.option(
        "--dry-run", is_flag=True, help="Show what would be done, and do nothing."
    )
    return root(dry_run(command))


@click.command()
@_options
@click.option("--no-start", is_flag=True, help="Set everything up, but leave the service as it is.")
def install(*, root: Path, dry_run: bool, no_start: bool) -> None:
    """Set callsd up as a service of systemd: units, user, polkit rule, configuration.

    Shows each step. May be repeated, as after an upgrade: what is in place stays, the configuration
    is not touched, and jobs live through the restart of the service.
    """
    installation = Installation(root)
    installation.check()
    _do(installation.install(is_started=not no_start), is_dry_run=dry_run)
    if not dry_run and root == Path("/"):
        click.echo("callsd is set up: `callsd doctor` looks at it, `callsd models pull` comes next")


@click.command()
@_options
@click.option("--purge", is_flag=True, help="Remove configuration, recordings and all else, too.")
def uninstall(*, root: Path, dry_run: bool, purge: bool) -> None:
    """Take callsd out of systemd. What was recorded stays, unless --purge is given.

    The programs stay as well: remove the directory or package that they came with.
    """
    _do(Installation(root).uninstall(is_purged=purge), is_dry_run=dry_run)
    if not purge:
        click.echo("kept: /etc/callsd, /var/lib/callsd, and the user callsd")


def _do(steps: Iterable[Step], *, is_dry_run: bool) -> None:
    if not is_dry_run and os.geteuid() != 0:
        raise Problem(
            "this takes root",
            exit_code=Exit.NOT_ALLOWED,
            to_do="use sudo, or see by --dry-run what it would do",
        )
    for step in steps:
        click.echo(step.text)
        if is_dry_run:
            continue
        try:
            step.do()
        except OSError as problem:
            raise Problem(f"{problem.filename}: {problem.strerror}") from None
