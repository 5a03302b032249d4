# SPDX-License-Identifier: Apache-2.0
"""Live views of jobs."""

import time

import click
from rich.progress import BarColumn, TaskID, TextColumn

from callsd.v1.job_pb2 import Job, JobState
from callsd_daemon.cli.jobs.text import is_live, progress, reason, recording_health, waiting
from callsd_daemon.cli.shared.output import STATE_STYLES, as_dict, json_line, span, times, word
from callsd_daemon.cli.shared.progress import Display


# Off a terminal a running job is reported this often.
LINE_INTERVAL_SECONDS = 10.0


class JobDisplay(Display):
    """Jobs on their way: a bar for each that runs, a line for each change of state."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[part]:>5}"),
            TextColumn("{task.fields[detail]}", style="dim"),
        )
        self._as_json = as_json
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}
        self._said_at: dict[str, float] = {}

    def update(self, job: Job) -> None:
        """Take note of a job as it is now."""
        if self._as_json:
            click.echo(json_line({"job_changed": as_dict(job)}))
            return
        state = word(JobState.Name(job.state), prefix="JOB_STATE_")
        label = job.name.removeprefix("jobs/")
        now = time.monotonic()
        if state != self._states.get(job.name):
            self._states[job.name] = state
            self._said_at[job.name] = now
            self.say(f"{label}  {state}{_why(job)}", style=STATE_STYLES.get(state, ""))
        elif not self.is_live and now - self._said_at[job.name] > LINE_INTERVAL_SECONDS:
            self._said_at[job.name] = now
            self.say(f"{label}  {progress(job)} {_detail(job)}")
        if self.is_live:
            self._show_bar(job, label, is_running=state in {"starting", "running", "stopping"})

    def remove(self, name: str) -> None:
        """A job has gone."""
        if self._as_json:
            click.echo(json_line({"job_deleted": name}))
            return
        self._drop_bar(name)
        self.say(f"{name.removeprefix('jobs/')}  deleted", style="dim")

    def interrupted(self, message: str, retry_seconds: float) -> None:
        """The connection broke and will be taken up again."""
        if not self._as_json:
            self.say(f"connection lost, trying again in {retry_seconds:.1f} s: {message}")

    def _show_bar(self, job: Job, label: str, *, is_running: bool) -> None:
        if not is_running:
            self._drop_bar(job.name)
            return
        if job.name not in self._tasks:
            # Live work has no end that is known: its bar only moves.
            total = None if is_live(job) else 1.0
            self._tasks[job.name] = self.bars.add_task(label, total=total, part="", detail="")
        self.bars.update(
            self._tasks[job.name],
            completed=job.progress.fraction,
            part=progress(job),
            detail=_detail(job),
        )

    def _drop_bar(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            self.bars.remove_task(task)


def _detail(job: Job) -> str:
    """What a running job does, how far and how fast it is."""
    now = job.progress
    parts = [now.phase]
    if now.total.ToNanoseconds():
        done = span(now.processed.ToNanoseconds() / 1e9)
        parts.append(f"{done} of {span(now.total.ToNanoseconds() / 1e9)}")
    if now.HasField("recording"):
        parts += recording_health(now.recording)
    if now.real_time_factor:
        parts.append(times(now.real_time_factor))
    return ", ".join(part for part in parts if part)


def _why(job: Job) -> str:
    """What belongs beside the state: what it waits for, or why it failed."""
    if waits := waiting(job):
        return f" ({waits})"
    if job.HasField("failure"):
        return f" ({reason(job.failure.reason)}: {job.failure.message})"
    return ""
