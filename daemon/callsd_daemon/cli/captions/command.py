# SPDX-License-Identifier: Apache-2.0
"""`callsd captions`."""

import click

from callsd_daemon.cli.captions.create import create
from callsd_daemon.cli.captions.stream import stream
from callsd_daemon.cli.captions.watch import watch


@click.group()
def captions() -> None:
    """Caption calls while they go on, and read along."""


captions.add_command(stream)
captions.add_command(watch)
captions.add_command(create)
