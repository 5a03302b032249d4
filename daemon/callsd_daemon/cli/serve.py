# SPDX-License-Identifier: Apache-2.0
"""`callsd serve`."""

from pathlib import Path

import click

from callsd_daemon.cli.config import loaded


@click.command()
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration. Default: /etc/callsd/callsd.toml, if it exists.",
)
def serve(*, config_file: Path | None) -> int:
    """Run the daemon until it is told to end (SIGTERM, Ctrl-C).

    Jobs that run keep running and are taken over by the next daemon. Exit codes beside those of
    `callsd --help`: 73 the state directory cannot be used, 75 another daemon uses it.
    """
    from callsd_daemon.app import serve as run_daemon

    return run_daemon(loaded(config_file))
