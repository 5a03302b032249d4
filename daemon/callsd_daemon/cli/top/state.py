# SPDX-License-Identifier: Apache-2.0
"""What `callsd top` knows at a moment: the machine, and each job that runs or waits."""

import time
from dataclasses import dataclass, field

from callsd import FINAL_STATES, Bookmark, Interrupted, JobChanged, JobDeleted, WatchEvent
from callsd.v1.capacity_pb2 import Capacity
from callsd.v1.caption_pb2 import WatchCaptionsResponse
from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job, JobState
from callsd.v1.kind_pb2 import JOB_KIND_CAPTIONS, JobKind
from callsd.v1.recording_pb2 import PictureState
from callsd_daemon.cli.shared.output import word
from callsd_daemon.cli.top.problem import problem


QUIET_SECONDS = 15.0
"""An idle watch of jobs says something every 10 s: after this the connection is probably broken."""

LAG_KEPT_SECONDS = 6.0
"""A viewer of captions is told the lag every 5 s; what is older tells of the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One job; None where a figure does not exist for its kind or is not known yet.

    These are the keys of `callsd top --json`: they are only ever added to.
    """

    name: str
    kind: str
    """transcription, captions, recording."""
    state: str
    """queued, starting, running, stopping."""
    seconds: float
    """Since it began to run; of a job that does not run yet, since it was created."""
    attempt: int
    queue_position: int
    """1 = next; 0 when it does not wait."""
    reserved_cores: float
    reserved_memory_bytes: int
    reserved_disk_bytes: int
    used_cores: float | None
    used_memory_bytes: int | None
    """What its processes take at the moment."""
    phase: str
    fraction: float | None
    """Part of a transcription that is done, 0 to 1."""
    real_time_factor: float | None
    lag_seconds: float | None
    """Age of the oldest sound of a call that is not captioned yet."""
    picture: str | None
    """What is recorded: moving, still, blank."""
    changed_frame_rate: float | None
    """Pictures a second that differ from the one before."""
    audio_level_db: float | None
    drift_ms: float | None
    problem: str
    """What a person should know, in words; empty when all is well."""


@dataclass(slots=True, kw_only=True)
class TopState:
    """Learns from the watches of jobs, capacity and captions."""

    address: str
    version: str
    jobs: dict[str, Job] = field(default_factory=dict)
    """Those that have not ended, by name."""
    capacity: Capacity = field(default_factory=Capacity)
    last_ended: Job | None = None
    """The job that has ended last while we were looking."""
    lost: str = ""
    """How the connection broke; empty while there is one."""
    is_complete: bool = False
    """Whether all jobs that there were at the beginning are known."""
    lags: dict[str, float] = field(default_factory=dict)
    """Of calls that are captioned, in seconds."""
    _heard_at: float = field(default_factory=time.monotonic)
    _measured_at: float = field(default_factory=time.monotonic)

    def observe(self, event: WatchEvent) -> None:
        """Take note of what the watch of jobs says."""
        if isinstance(event, Interrupted):
            # gRPC's own words go through every layer; the last part is what the system said.
            self.lost = event.error.message.rpartition("error: ")[2]
            return
        self.lost, self._heard_at = "", time.monotonic()
        match event:
            case JobChanged(job=job) if job.state in FINAL_STATES:
                self._forget(job.name)
                if self.is_complete:
                    self.last_ended = job
            case JobChanged(job=job):
                self.jobs[job.name] = job
            case JobDeleted(name=name):
                self._forget(name)
            case Bookmark():
                self.is_complete = True

    def measure(self, capacity: Capacity) -> None:
        """Take note of the machine."""
        self.capacity, self._measured_at = capacity, time.monotonic()

    def hear(self, job_name: str, message: WatchCaptionsResponse) -> bool:
        """Take note of a call's lag; False when the message tells how it was, not how it is."""
        published = message.publish_time.ToNanoseconds() / 1e9
        observed = self.capacity.observe_time.ToNanoseconds() / 1e9
        if job_name not in self.jobs or published < observed - LAG_KEPT_SECONDS:
            return False
        self.lags[job_name] = message.lag.ToNanoseconds() / 1e9
        return True

    @property
    def health(self) -> str:
        """SERVING; DRAINING while the daemon shuts down; LOST while it cannot be reached."""
        if self.lost:
            return "LOST"
        return "DRAINING" if self.capacity.draining else "SERVING"

    @property
    def quiet_seconds(self) -> float:
        """How long nothing has been heard that should have been; 0 while all is well."""
        quiet = time.monotonic() - self._heard_at
        return quiet if quiet > QUIET_SECONDS else 0.0

    def captioned(self) -> list[str]:
        """Names of the calls that are captioned now."""
        return [
            job.name
            for job in self.jobs.values()
            if job.kind == JOB_KIND_CAPTIONS and job.state == JOB_STATE_RUNNING
        ]

    def lines(self) -> list[JobLine]:
        """A line for each job: first what runs, then what waits, each the oldest first."""
        jobs = sorted(
            self.jobs.values(),
            key=lambda job: (job.state == JOB_STATE_QUEUED, job.create_time.ToNanoseconds()),
        )
        active = sum(job.state != JOB_STATE_QUEUED for job in jobs)
        return [
            # The events of a watch leave places out; the queue is worked off in order of creation.
            self._line(job, queue_position=max(0, place - active))
            for place, job in enumerate(jobs, start=1)
        ]

    def _line(self, job: Job, *, queue_position: int) -> JobLine:
        now, health = job.progress, job.progress.recording
        load = next((one for one in self.capacity.jobs if one.job == job.name), None)
        is_recorded, lag = now.HasField("recording"), self.lags.get(job.name)
        began = job.start_time if job.HasField("start_time") else job.create_time
        return JobLine(
            name=job.name,
            kind=word(JobKind.Name(job.kind), prefix="JOB_KIND_"),
            state=word(JobState.Name(job.state), prefix="JOB_STATE_"),
            seconds=max(0.0, self._now() - began.ToNanoseconds() / 1e9),
            attempt=job.attempt,
            queue_position=queue_position,
            reserved_cores=job.reservation.cores,
            reserved_memory_bytes=job.reservation.memory_bytes,
            reserved_disk_bytes=job.reservation.disk_bytes,
            used_cores=load.cores if load else None,
            used_memory_bytes=load.memory_bytes if load else None,
            phase=now.phase,
            fraction=now.fraction if job.HasField("transcription") else None,
            real_time_factor=now.real_time_factor or None,
            lag_seconds=lag,
            picture=word(PictureState.Name(health.picture), prefix="PICTURE_STATE_")
            if is_recorded and health.picture
            else None,
            changed_frame_rate=health.changed_frame_rate if is_recorded else None,
            audio_level_db=health.audio_level_db if is_recorded else None,
            drift_ms=health.drift_ms if is_recorded else None,
            problem=problem(job, lag_seconds=lag),
        )

    def _now(self) -> float:
        """The daemon's clock, which may differ from ours. Unit: seconds since the epoch."""
        observed = self.capacity.observe_time.ToNanoseconds() / 1e9
        return observed + time.monotonic() - self._measured_at

    def _forget(self, name: str) -> None:
        self.jobs.pop(name, None)
        self.lags.pop(name, None)
