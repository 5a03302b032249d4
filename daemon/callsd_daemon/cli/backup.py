# SPDX-License-Identifier: Apache-2.0
"""`callsd backup` and `callsd restore`: of the database, which holds all that is known of jobs."""

from pathlib import Path

import click

from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.exit import Problem
from callsd_daemon.cli.shared.params import FILE
from callsd_daemon.config import Config
from callsd_daemon.startup import DATABASE_FILE, StartError, own_state
from callsd_daemon.store.backup import BackupError, back_up
from callsd_daemon.store.backup import restore as put_back


CONFIG = click.option(
    "--config", "config_file", metavar="FILE", type=FILE, help="The daemon's file."
)
TARGET = click.argument("file", type=FILE)


def _database(config: Config) -> Path:
    return Path(config.state.directory) / DATABASE_FILE


@click.command()
@TARGET
@CONFIG
def backup(*, file: Path, config_file: Path | None) -> None:
    """Copy the database into a new FILE, while the daemon runs or not.

    It holds names of speakers and files, and is as private as the database. Results lie beside it
    in jobs/, and tokens in tokens.json: copy these as any files.
    """
    try:
        back_up(_database(loaded(config_file)), file)
    except BackupError as error:
        raise Problem(str(error)) from None
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


@click.command()
@TARGET
@CONFIG
def restore(*, file: Path, config_file: Path | None) -> None:
    """Put FILE, which `callsd backup` made, in the place of the database.

    The daemon must be stopped. The old database is kept beside it. After the next start,
    directories in jobs/ and workers/ of jobs that the restored one does not know are removed, and
    what still runs of these jobs is ended: copy both away before.
    """
    config = loaded(config_file)
    try:
        with own_state(Path(config.state.directory), Path(config.state.runtime_directory)):
            old = put_back(file, _database(config))
    except (StartError, BackupError) as error:
        raise Problem(str(error)) from None
    click.echo(f"restored {_database(config)}" + (f"; the old one is {old}" if old else ""))
