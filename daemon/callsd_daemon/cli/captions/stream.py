# SPDX-License-Identifier: Apache-2.0
"""`callsd captions stream`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from callsd import FINAL_STATES, CallsdError, Client
from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.job_pb2 import Job
from callsd_daemon.cli.captions.sending import Reading, Sending
from callsd_daemon.cli.captions.view import CaptionView
from callsd_daemon.cli.jobs.follow import exit_code
from callsd_daemon.cli.jobs.text import outcome, short
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import as_dict, json_line
from callsd_daemon.cli.shared.sound import opened


# A slow machine needs its time for the last minute of sound of many speakers; Ctrl-C ends it.
_WORK_OFF_SECONDS = 600.0


@click.command()
@click.option(
    "--call",
    metavar="DIR|FILE|-",
    required=True,
    help="A directory with one file for each speaker, one file, or raw s16le 16 kHz mono on stdin.",
)
@click.option(
    "--realtime/--no-realtime",
    "is_paced",
    default=False,
    show_default=True,
    help="Send as fast as it was spoken, not as fast as it is captioned.",
)
@click.option("--model", default="", help="Speech model. Default: the server's.")
@click.option("--language", default="", help="Such as `en`. Default: detected for each speaker.")
@click.option("--speaker", help="Who speaks, in a file or on stdin. Default: the file's name.")
@click.option("--job", "name", metavar="JOB", help="Go on with this job. Default: a new one.")
@click.option("--keep", is_flag=True, help="Do not stop the job at the end.")
@click.option("--quiet", is_flag=True, help="Do not show the captions.")
@json_option
@pass_cli
def stream(
    cli: Cli,
    *,
    call: str,
    is_paced: bool,
    model: str,
    language: str,
    speaker: str | None,
    name: str | None,
    keep: bool,
    quiet: bool,
) -> int:
    """Have a recorded or piped call captioned as if it were live, and show the captions.

    At the end, and after Ctrl-C, what was sent is captioned and the job is stopped: its captions
    are its artifacts. With --json there is one message of WatchCaptions a line, and at last
    {"job": JOB}.
    """
    if name and (model or language):
        raise click.UsageError("--job has its model and language already")
    with opened(call, speaker=speaker) as sources, cli.client() as client:
        if name:
            job = client.get_job(name)
        else:
            job = client.create_job(CaptionsSpec(model=model, language=language)).job
        if not cli.json:
            click.echo(f"{job.name}: read along with: callsd captions watch {short(job)}", err=True)
        sending = Sending(sources, is_paced=is_paced)
        view = CaptionView(as_json=cli.json, is_quiet=quiet, status=sending.status)
        with (
            _left_in_order(client, job, keep=keep),
            Reading(client, job, view, is_new=not name) as reading,
            view,
        ):
            is_whole = _send(client, job, sending, view)
            if not keep:
                client.stop_job(job)
                job = client.wait_job(job)
            reading.finish()
        if keep:
            job = client.get_job(job)
    _conclude(job, view, as_json=cli.json)
    if not is_whole:
        return Exit.INTERRUPTED
    return Exit.OK if keep else exit_code(job)


def _send(client: Client, job: Job, sending: Sending, view: CaptionView) -> bool:
    """Send, and wait until all of it is worked off; False after Ctrl-C."""
    is_whole = True
    with client.stream_captions(job) as sender:
        try:
            sending.run(sender, view)
        except KeyboardInterrupt:
            is_whole = False
            view.say("ending what was sent; Ctrl-C again leaves at once", style="dim")
        sender.close(timeout_seconds=_WORK_OFF_SECONDS)
    return is_whole


@contextmanager
def _left_in_order(client: Client, job: Job, *, keep: bool) -> Iterator[None]:
    """When something breaks: end the job if that is ours to do, else say how to."""
    try:
        yield
    except Problem:
        # The sound cannot be read: nothing more will come, and what came is captioned.
        if not keep:
            with suppress(CallsdError):
                client.stop_job(job)
        raise
    except (CallsdError, KeyboardInterrupt):
        click.echo(
            f"{job.name} is kept with its captions; unless it has ended, end it with:"
            f" callsd jobs stop {short(job)}",
            err=True,
        )
        raise


def _conclude(job: Job, view: CaptionView, *, as_json: bool) -> None:
    """What became of it: the job, its result and files, and how far captions were behind."""
    if as_json:
        click.echo(json_line({"job": as_dict(job)}))
        return
    click.echo(f"job:        {job.name}", err=True)
    for line in outcome(job):
        click.echo(line, err=True)
    if lags := sorted(view.lags_seconds):
        middle, worst = lags[len(lags) // 2], lags[-1]
        click.echo(f"lag:        {middle:.1f} s in the middle, {worst:.1f} s at most", err=True)
    if job.artifacts:
        click.echo(f"fetch them: callsd jobs fetch {short(job)} -o DIR", err=True)
    elif job.state not in FINAL_STATES:
        click.echo(f"it goes on; end it with: callsd jobs stop {short(job)}", err=True)
