# SPDX-License-Identifier: Apache-2.0
"""Recording of a web page, such as that of a call."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from callsd_daemon.domain import mattermost
from callsd_daemon.domain.costs import recording_cost, recording_cost_key
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Job, Notice, Reservation, Usage
from callsd_daemon.domain.recording import (
    RECORDING,
    PageSecrets,
    Profile,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.domain.work import Secrets
from callsd_daemon.kinds.kind import Bounds, JobKind, Opener, Role
from callsd_daemon.kinds.sites import certificates


OVERTIME_SECONDS = 60.0
"""For all that a recording does besides recording; then it is told to end."""


MAX_SITES = 1000


class Pace:
    """Spaces the pages that are opened at one site, so that it does not refuse any of them.

    Used from several threads.
    """

    def __init__(self, now_seconds: Callable[[], float] = time.monotonic) -> None:
        self._now_seconds = now_seconds
        self._due: dict[str, float] = {}
        """When the last page at a site would be due if each waited for the one before."""
        self._lock = threading.Lock()

    def delay(self, site: str) -> float:
        """How many seconds the next page shall wait."""
        with self._lock:
            now = self._now_seconds()
            if len(self._due) >= MAX_SITES:
                self._due = {one: due for one, due in self._due.items() if due > now}
            due = max(self._due.get(site, 0.0), now)
            self._due[site] = due + mattermost.PAGE_SECONDS
        burst_seconds = mattermost.PAGE_SECONDS * (mattermost.PAGES_AT_ONCE - 1)
        return max(0.0, due - now - burst_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingAssignment:
    """All that a worker must know to record a page."""

    spec: RecordingSpec
    secrets: PageSecrets
    max_seconds: float
    min_free_bytes: int
    """Disk space that is not its own."""
    patience_seconds: float = 0.0
    """When the page is opened anew; 0: never."""
    begun_expression: str = ""
    """True once the page is on its way to be ready: it is not opened anew then."""
    open_delay_seconds: float = 0.0
    certificates: bytes = b""
    """Whose certificates the page may have besides those the system trusts; PEM."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """What must not stand in a log, whatever the page prints."""
        secrets = self.secrets
        return tuple(filter(None, (secrets.token, secrets.url_fragment, *secrets.headers.values())))

    @property
    def files(self) -> Mapping[str, Opener]:
        """It reads none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Recording(JobKind[RecordingSpec]):
    """Films a page, such as a call's, with its sound."""

    name = RECORDING
    is_batch = False
    spec_type = RecordingSpec
    result_type = RecordingResult
    secrets_type = PageSecrets
    role = Role.RECORDER
    leaves_pieces = True

    bounds: Bounds
    max_duration_seconds: float
    default_profile: Profile
    min_free_bytes: int
    """Disk space that no recording may use."""
    ca_file: str = ""
    """With certificates of sites to trust."""
    pace: Pace = field(default_factory=Pace)

    def check(self, spec: RecordingSpec, creator: str) -> tuple[Notice, ...]:
        """Whether the page is there shows when it is opened."""
        return ()

    def cost_key(self, spec: RecordingSpec) -> str:
        """By picture and bit rate."""
        return recording_cost_key(spec)

    def cost(
        self, spec: RecordingSpec, max_duration_seconds: float, observed: Sequence[Usage]
    ) -> Reservation:
        """Browser, display and encoder; disk for its longest time."""
        return recording_cost(spec, max_duration_seconds, observed)

    def assignment(
        self, job: Job, spec: RecordingSpec, secrets: Secrets, after: Mapping[str, Job]
    ) -> RecordingAssignment:
        """The page with its secrets."""
        assert isinstance(secrets, PageSecrets)
        assignment = RecordingAssignment(
            spec=spec,
            secrets=secrets,
            max_seconds=job.max_duration_seconds,
            min_free_bytes=self.min_free_bytes,
        )
        if (call := spec.call) is None:
            return assignment
        spec, secrets = _page_of_call(spec, call, secrets)
        return replace(
            assignment,
            spec=spec,
            secrets=secrets,
            patience_seconds=mattermost.PATIENCE_SECONDS,
            begun_expression=mattermost.PAGE_BEGUN,
            open_delay_seconds=self.pace.delay(call.site_url),
            certificates=certificates(self.ca_file, call.site_url),
        )

    def delivery(self, spec: RecordingSpec) -> Delivery | None:
        """Into the call's thread."""
        return None if spec.call is None else Delivery(call=spec.call)

    def longest_seconds(self, job: Job, spec: RecordingSpec) -> float:
        """A recording ends by itself, counted from when it has begun."""
        return job.max_duration_seconds + spec.ready_timeout_seconds + OVERTIME_SECONDS

    def is_at_end(self, job: Job, ran_seconds: float) -> bool:
        """Another recorder would only film what came after its time."""
        return ran_seconds >= job.max_duration_seconds

    @property
    def salvage_seconds(self) -> float:
        """Joining the pieces takes as long as at the end of a recording."""
        return self.bounds.stop_grace_seconds


def _page_of_call(
    spec: RecordingSpec, call: mattermost.MattermostCall, secrets: PageSecrets
) -> tuple[RecordingSpec, PageSecrets]:
    page = replace(
        spec,
        url=mattermost.page_url(call),
        header_origins=mattermost.page_origins(call),
        ready_expression=mattermost.PAGE_READY,
        over_expression=mattermost.PAGE_OVER,
        leave_expression=mattermost.PAGE_LEAVE,
        ready_timeout_seconds=mattermost.JOIN_SECONDS,
    )
    fragment = mattermost.page_fragment(secrets.token)
    return page, replace(secrets, url_fragment=fragment, headers=mattermost.PAGE_HEADERS)
