# SPDX-License-Identifier: Apache-2.0
"""Capturing a call: a bot joins it, keeps each speaker's sound, and shows captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callsd_daemon.domain.capture import CAPTURE, CaptureResult, CaptureSpec
from callsd_daemon.domain.costs import capture_cost, capture_cost_key
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Job, Notice, Reservation, Usage
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.work import Secrets
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.kind import Bounds, JobKind, Opener, Role, SharedWorker
from callsd_daemon.kinds.sites import certificates


OVERTIME_SECONDS = 60.0
"""For joining the call, and for the files at the end; then it is told to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureAssignment:
    """All that a worker must know to capture a call."""

    spec: CaptureSpec
    secrets: SiteSecrets
    max_seconds: float
    min_free_bytes: int
    """Disk space that is not its own."""
    certificates: bytes = b""
    """Whose certificates the site may have besides those the system trusts; PEM."""

    @property
    def files(self) -> Mapping[str, Opener]:
        """It reads none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Capture(JobKind[CaptureSpec]):
    """Keeps what each speaker of a call says, and captions it there."""

    name = CAPTURE
    is_batch = False
    spec_type = CaptureSpec
    result_type = CaptureResult
    secrets_type = SiteSecrets
    role = Role.CAPTURER
    may_share = True
    leaves_pieces = True

    captions: Captions
    bounds: Bounds
    max_duration_seconds: float
    min_free_bytes: int
    """Disk space that no capture may use."""
    ca_file: str = ""
    """With certificates of sites to trust."""

    def check(self, spec: CaptureSpec, creator: str) -> tuple[Notice, ...]:
        """The captions' model must be there; whether the call is there shows when it is joined."""
        return () if spec.captions is None else self.captions.check(spec.captions, creator)

    def cost_key(self, spec: CaptureSpec) -> str:
        """By what its captions cost."""
        return capture_cost_key(spec)

    def cost(
        self, spec: CaptureSpec, max_duration_seconds: float, observed: Sequence[Usage]
    ) -> Reservation:
        """Receiving, the files, and the captions."""
        return capture_cost(spec, max_duration_seconds)

    def shared_worker(self, spec: CaptureSpec) -> SharedWorker | None:
        """The captioner of its captions' model."""
        return None if spec.captions is None else self.captions.shared_worker(spec.captions)

    def assignment(
        self, job: Job, spec: CaptureSpec, secrets: Secrets, after: Mapping[str, Job]
    ) -> CaptureAssignment:
        """The call with the bot's token."""
        assert isinstance(secrets, SiteSecrets)
        return CaptureAssignment(
            spec=spec,
            secrets=secrets,
            max_seconds=job.max_duration_seconds,
            min_free_bytes=self.min_free_bytes,
            certificates=certificates(self.ca_file, spec.call.site_url),
        )

    def delivery(self, spec: CaptureSpec) -> Delivery:
        """It delivers no files; the plugin is told how the capture is."""
        return Delivery(call=spec.call)

    def longest_seconds(self, job: Job, spec: CaptureSpec) -> float:
        """A capture ends by itself, counted from when it has begun."""
        return job.max_duration_seconds + OVERTIME_SECONDS

    def is_at_end(self, job: Job, ran_seconds: float) -> bool:
        """The plugin lets nobody join again for a job that it was told has begun."""
        return job.delivery is not None and job.delivery.is_start_told

    @property
    def salvage_seconds(self) -> float:
        """The files are made as at the end of a capture."""
        return self.bounds.stop_grace_seconds
