# SPDX-License-Identifier: Apache-2.0
"""`callsd serve`."""

import gc
import os
import sys
from pathlib import Path

import click

from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.params import FILE
from callsd_daemon.config import load


@click.command()
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=FILE,
    help="Configuration. Default: /etc/callsd/callsd.toml, if it exists.",
)
def serve(*, config_file: Path | None) -> int:
    """Run the daemon until it is told to end (SIGTERM, Ctrl-C).

    Jobs that run keep running and are taken over by the next daemon. Exit codes beside those of
    `callsd --help`: 73 the state directory cannot be used, 75 another daemon uses it.
    """
    # A fork that fails would run gRPC's handlers of forks, which end the process. We never fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    loaded(config_file)  # what is wrong with it is told as any command tells it
    # What is loaded stays: to look for garbage among it would be a tenth of the start.
    gc.disable()
    # structlog loads it if it is there, for tracebacks in colour: an eighth of the start, and 4 MB.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from callsd_daemon.app import serve as run_daemon

    return run_daemon(lambda: load(config_file, os.environ))
