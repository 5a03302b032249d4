# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs create`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from callsd import CallsdError, Client, duration
from callsd.v1.job_pb2 import CreateJobResponse
from callsd.v1.transcription_pb2 import (
    SpeechEngine,
    Track,
    TranscriptFormat,
    TranscriptionSpec,
    TranscriptionTask,
)
from callsd_daemon.cli.jobs.admission import show_created
from callsd_daemon.cli.jobs.fetch import fetch_all
from callsd_daemon.cli.jobs.follow import exit_code, follow, wait_for
from callsd_daemon.cli.jobs.text import outcome, short
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import print_json, size
from callsd_daemon.cli.shared.params import (
    INT32,
    TrackFile,
    call_tracks,
    parse_labels,
    parse_span,
    parse_track,
)
from callsd_daemon.cli.shared.progress import TransferDisplay
from callsd_daemon.cli.shared.sound import FileSource


# The server cannot see the file as we do: it must be sent.
_NOT_VISIBLE = frozenset({"PATH_FORBIDDEN", "MEDIA_NOT_FOUND"})


@click.command()
@click.option(
    "--track",
    "tracks",
    metavar="SPEAKER=FILE[@OFFSET]",
    multiple=True,
    help="A speaker's sound; OFFSET (12.5 or 1:02:03) is when it begins in the call. Repeatable.",
)
@click.option(
    "--call",
    "call",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A directory with turns.json and one <speaker>.flac, .wav, .ogg or .opus each.",
)
@click.option("--model", default="", help="Speech model. Default: the server's.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "ctranslate2", "whispercpp", "onnx"]),
    default="auto",
    show_default=True,
)
@click.option("--threads", type=INT32, help="Processor threads. Default: the server's.")
@click.option("--language", default="", help="Such as `en`. Default: detected for each speaker.")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="translate: into English.",
)
@click.option("--prompt", default="", help="Text that sets style and spelling.")
@click.option("--vocabulary", metavar="WORD", multiple=True, help="A word to expect. Repeatable.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["vtt", "text", "srt", "json"]),
    multiple=True,
    help="A transcript to write. Repeatable. Default: all.",
)
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="A mark. Repeatable.")
@click.option("--max-duration", metavar="SPAN", help="Longest time to run, such as 2h.")
@click.option("--no-queue", is_flag=True, help="Refuse instead of waiting for capacity.")
@click.option("--validate-only", is_flag=True, help="Check everything, create nothing.")
@click.option("--wait", is_flag=True, help="Return when the job has ended.")
@click.option(
    "--follow", "is_followed", is_flag=True, help="Show progress until the job has ended."
)
@click.option(
    "-o",
    "--output",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Fetch the results into this directory (implies --wait).",
)
@json_option
@pass_cli
def create(
    cli: Cli,
    *,
    tracks: tuple[str, ...],
    call: Path | None,
    model: str,
    engine: str,
    threads: int | None,
    language: str,
    task: str,
    prompt: str,
    vocabulary: tuple[str, ...],
    formats: tuple[str, ...],
    labels: tuple[str, ...],
    max_duration: str | None,
    no_queue: bool,
    validate_only: bool,
    wait: bool,
    is_followed: bool,
    directory: Path | None,
) -> int:
    """Transcribe recorded tracks, one for each speaker.

    Files that the server cannot see are sent to it. Exit code with --wait or --follow: 0 when the
    job succeeded, 1 when it failed or was cancelled.
    """
    files = [parse_track(track) for track in tracks] + (call_tracks(call) if call else [])
    if not files:
        raise click.UsageError("no sound: give --track SPEAKER=FILE or --call DIR")
    spec = TranscriptionSpec(
        model=model,
        engine=SpeechEngine.Value(f"SPEECH_ENGINE_{engine.upper()}"),
        threads=threads,
        language=language,
        task=TranscriptionTask.Value(f"TRANSCRIPTION_TASK_{task.upper()}"),
        initial_prompt=prompt,
        vocabulary=vocabulary,
        formats=[TranscriptFormat.Value(f"TRANSCRIPT_FORMAT_{name.upper()}") for name in formats],
    )
    with cli.client() as client:
        make = partial(
            client.create_job,
            labels=parse_labels(labels),
            max_duration_seconds=parse_span(max_duration) if max_duration else None,
            validate_only=validate_only,
            no_queue=no_queue,
        )
        created = _create(client, spec, files, make, is_preview=validate_only)
        if validate_only or not (wait or is_followed or directory):
            show_created(created, as_json=cli.json)
            return 0
        if is_followed:
            ended = follow(client, created.job, as_json=cli.json)
        else:
            ended = wait_for(client, created.job)
            if cli.json:
                print_json(ended)
        if not cli.json:
            click.echo(f"job:        {ended.name}")
            for line in outcome(ended, with_files=directory is None):
                click.echo(line)
        if directory is not None and ended.artifacts:
            fetch_all(cli, client, ended, directory=directory)
        elif ended.artifacts and not cli.json:
            click.echo(f"fetch them: callsd jobs fetch {short(ended)} -o DIR")
        return exit_code(ended)


def _create(
    client: Client,
    spec: TranscriptionSpec,
    files: Sequence[TrackFile],
    make: Callable[[TranscriptionSpec], CreateJobResponse],
    *,
    is_preview: bool,
) -> CreateJobResponse:
    """Ask for the job by paths where the server is here, else by uploads."""
    if client.endpoint.local and all(_is_text(file.path.resolve()) for file in files):
        by_path = TranscriptionSpec()
        by_path.CopyFrom(spec)
        by_path.tracks.extend(_track(file, path=str(file.path.resolve())) for file in files)
        try:
            return make(by_path)
        except CallsdError as error:
            if error.reason not in _NOT_VISIBLE:
                raise
    by_upload = TranscriptionSpec()
    by_upload.CopyFrom(spec)
    if is_preview:
        _check_uploads(client, files)
        by_upload.tracks.extend(_track(file, upload="uploads/-") for file in files)
        return make(by_upload)
    with TransferDisplay() as display:
        for file in files:
            upload = client.upload_media(
                file.path, progress=partial(display.update, f"sending {file.path.name}")
            )
            by_upload.tracks.append(_track(file, upload=upload.name))
    return make(by_upload)


def _check_uploads(client: Client, files: Sequence[TrackFile]) -> None:
    """Find out what sending the files would; raises Problem for what is too large or no sound."""
    limit_bytes = client.get_server_info().limits.max_upload_bytes
    for file in files:
        size_bytes = file.path.stat().st_size
        if size_bytes > limit_bytes:
            raise Problem(
                f"{file.path} has {size(size_bytes)}, and media.max_upload_bytes allows "
                f"{size(limit_bytes)}",
                reason="UPLOAD_TOO_LARGE",
                exit_code=Exit.REFUSED,
            )
        FileSource(file).close()


def _is_text(path: Path) -> bool:
    """Whether the server can be told of a path: names of files may be any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _track(file: TrackFile, *, path: str = "", upload: str = "") -> Track:
    start_offset = duration(file.start_offset_seconds) if file.start_offset_seconds else None
    if upload:
        return Track(upload=upload, speaker=file.speaker, start_offset=start_offset)
    return Track(path=path, speaker=file.speaker, start_offset=start_offset)
