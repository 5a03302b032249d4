# SPDX-License-Identifier: Apache-2.0
"""Storing what a job has made."""

from functools import partial
from pathlib import Path

import click

from callsd import Client
from callsd.v1.job_pb2 import Job
from callsd_daemon.cli.jobs.text import short
from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import as_dict, print_json, size
from callsd_daemon.cli.shared.progress import TransferDisplay


def fetch_all(
    cli: Cli, client: Client, job: Job, *, directory: Path, only: str | None = None
) -> None:
    """Store a job's artifacts in a directory and say where they are."""
    files = [artifact.name.rpartition("/")[2] for artifact in job.artifacts]
    if only is not None:
        files = [only]
    if not files:
        raise Problem(
            f"{job.name} has no results",
            exit_code=Exit.REFUSED,
            to_do=f"callsd jobs watch {short(job)}",
        )
    directory.mkdir(parents=True, exist_ok=True)
    fetched = []
    with TransferDisplay() as display:
        for file in files:
            # The name comes from the server: it must not lead out of the directory.
            target = directory / Path(file).name
            artifact = client.fetch_artifact(
                job,
                file,
                target,
                progress=partial(display.update, file),
            )
            fetched.append((target, artifact))
    if cli.json:
        print_json([{**as_dict(artifact), "path": str(path)} for path, artifact in fetched])
        return
    for path, artifact in fetched:
        click.echo(f"{path}  {size(artifact.size_bytes)}")
