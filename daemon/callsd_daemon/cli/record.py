# SPDX-License-Identifier: Apache-2.0
"""`callsd record`."""

from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from callsd import CallsdError, Client
from callsd.v1.job_pb2 import Job
from callsd.v1.recording_pb2 import RecordingProfile, RecordingSpec
from callsd_daemon.cli.jobs.admission import show_created
from callsd_daemon.cli.jobs.follow import exit_code, follow, stay
from callsd_daemon.cli.jobs.text import outcome
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import as_dict, print_json, size
from callsd_daemon.cli.shared.params import FILE, INT32, parse_headers, parse_labels, parse_span


MAX_SIZE_CHARACTERS = 11

PROFILES = {
    name.removeprefix("RECORDING_PROFILE_").lower(): name for name in RecordingProfile.keys()[1:]
}


@click.command()
@click.argument("url")
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="Quality. Default: the server's, medium."
)
@click.option("--duration", metavar="SPAN", help="End after so long, such as 60 or 90m.")
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=FILE,
    help="Fetch the recording into this file.",
)
@click.option("--size", "picture_size", metavar="WxH", help="Size of the picture in pixels.")
@click.option("--fps", type=INT32, help="Pictures a second.")
@click.option("--video-kbps", type=INT32, help="Rate of the picture.")
@click.option("--audio-kbps", type=INT32, help="Rate of the sound.")
@click.option("--audio-only", is_flag=True, help="Record the sound alone.")
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    help="Sent with every request of the page to its own scheme, name and port. Repeatable.",
)
@click.option(
    "--header-origin",
    "header_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Another origin that gets the headers, such as https://api.example.com. Repeatable.",
)
@click.option(
    "--headers-file",
    metavar="FILE",
    type=click.File("r"),
    help="Headers, one NAME=VALUE a line; keeps secrets off the command line. - is stdin.",
)
@click.option(
    "--fragment-file",
    metavar="FILE",
    type=click.File("r"),
    help="What stands behind # in the page's address, such as a token. - is stdin.",
)
@click.option("--ready", metavar="JS", default="", help="Begin when this is true in the page.")
@click.option("--over", metavar="JS", default="", help="End when this is true in the page.")
@click.option("--leave", metavar="JS", default="", help="Run this before the page is closed.")
@click.option("--ready-timeout", metavar="SPAN", help="How long the page may take. Default: 20 s.")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="A mark. Repeatable.")
@click.option("--validate-only", is_flag=True, help="Check everything, create nothing.")
@click.option("--detach", is_flag=True, help="Print the job's name and leave it running.")
@json_option
@pass_cli
def record(
    cli: Cli,
    *,
    url: str,
    profile: str | None,
    duration: str | None,
    target: Path | None,
    picture_size: str | None,
    fps: int | None,
    video_kbps: int | None,
    audio_kbps: int | None,
    audio_only: bool,
    headers: tuple[str, ...],
    header_origins: tuple[str, ...],
    headers_file: IO[str] | None,
    fragment_file: IO[str] | None,
    ready: str,
    over: str,
    leave: str,
    ready_timeout: str | None,
    labels: tuple[str, ...],
    validate_only: bool,
    detach: bool,
) -> int:
    """Record a web page, as it looks and sounds, and show how it goes.

    Ctrl-C ends the recording and keeps it. Exit code: 0 when there is a recording.
    """
    url, _, fragment = url.partition("#")
    width, height = _size(picture_size)
    lines = [line.strip() for line in headers_file] if headers_file is not None else []
    spec = RecordingSpec(
        url=url,
        url_fragment=fragment_file.read().strip() if fragment_file is not None else fragment,
        headers=parse_headers([*headers, *filter(None, lines)]),
        header_origins=header_origins,
        width=width,
        height=height,
        frame_rate=fps,
        video_kbps=video_kbps,
        audio_kbps=audio_kbps,
        audio_only=audio_only,
        ready_expression=ready,
        over_expression=over,
        leave_expression=leave,
    )
    if profile is not None:
        spec.profile = RecordingProfile.Value(PROFILES[profile])
    if ready_timeout is not None:
        spec.ready_timeout.FromNanoseconds(round(parse_span(ready_timeout) * 1e9))
    with cli.client() as client:
        created = client.create_job(
            spec,
            labels=parse_labels(labels),
            max_duration_seconds=parse_span(duration) if duration else None,
            validate_only=validate_only,
        )
        if validate_only or detach:
            show_created(created, as_json=cli.json)
            return Exit.OK
        ended = _follow(client, created.job, as_json=cli.json)
        if not cli.json:
            click.echo(f"job:        {ended.name}")
            for line in outcome(ended, with_files=target is None):
                click.echo(line)
        if target is not None and ended.artifacts:
            _fetch(cli, client, ended, target)
        return exit_code(ended)


def _follow(client: Client, job: Job, *, as_json: bool) -> Job:
    """Stay until the recording has ended; Ctrl-C ends it, a second one leaves it to the server."""
    try:
        return stay(client, job, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("ending the recording; its file is put together", err=True)
    with suppress(CallsdError):  # it may just have ended by itself
        client.stop_job(job)
    return follow(client, job, as_json=as_json)


def _fetch(cli: Cli, client: Client, job: Job, target: Path) -> None:
    """Store the recording itself; the thumbnail stays with the job."""
    file = job.artifacts[0].name.rpartition("/")[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    artifact = client.fetch_artifact(job, file, target)
    if cli.json:
        print_json({**as_dict(artifact), "path": str(target)})
    else:
        click.echo(f"{target}  {size(artifact.size_bytes)}")


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(text) <= MAX_SIZE_CHARACTERS):
        raise Problem(f"--size {text} must be WIDTHxHEIGHT, such as 1280x720", exit_code=Exit.USAGE)
    return int(width), int(height)
