# SPDX-License-Identifier: Apache-2.0
"""`callsd gateway`: what an administrator of the HTTP gateway needs besides its settings."""

import os
from pathlib import Path

import click

from callsd_daemon.cli.gateway.container_settings import SettingsFileError, read
from callsd_daemon.cli.gateway.translation import translated
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.params import FILE


@click.group()
def gateway() -> None:
    """Move over from the container-based job service of Mattermost Calls."""


@gateway.command("import")
@click.argument("file", required=False, type=FILE)
def import_(*, file: Path | None) -> None:
    """Print the part of callsd.toml that matches a container-based service's config.toml.

    Its variables in the environment count, too, as they did there; without FILE they alone do.
    Nothing is written, and no secret is printed.
    """
    try:
        settings = read(file, os.environ)
    except SettingsFileError as error:
        raise Problem(str(error), exit_code=Exit.CONFIG) from None
    click.echo(translated(settings), nl=False)
