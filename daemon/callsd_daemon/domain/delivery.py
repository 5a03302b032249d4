# SPDX-License-Identifier: Apache-2.0
"""Where a job's results go, and how far they are on their way.

It is stored with its job, and tells at any moment what has been done: whoever goes on after a
crash does nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from callsd_daemon.domain.mattermost import MattermostCall


FIRST_PAUSE_SECONDS = 2.0
MAX_PAUSE_SECONDS = 300.0
"""After each failure the pause before the next try is doubled, up to this."""


class DeliveryState(StrEnum):
    """How a delivery is."""

    PENDING = "pending"
    """The job has not ended, or what it made is not all there yet."""
    DELIVERED = "delivered"
    NOTHING = "nothing"
    """The job has ended and made nothing."""
    GIVEN_UP = "given_up"
    """It was tried for as long as the administrator allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file on its way; `file_id` is set when all of it is there."""

    session_id: str = ""
    file_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """To a call's thread."""

    call: MattermostCall
    state: DeliveryState = DeliveryState.PENDING
    is_start_told: bool = False
    """The plugin was told that the work has begun, even if it refused to hear it."""
    title: str = ""
    """Name of the files without their suffix, as the plugin gives it."""
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    """By the artifact's file name."""
    is_posting: bool = False
    """The post was asked for. If it still is when a step begins, the answer was lost: look whether
    the post is there before asking again."""
    failures: int = 0
    """In a row."""
    problem: str = ""
    """Of the last try, for a person; empty when it went well."""
    is_token_refused: bool = False
    """The site does not know the token any more."""
    try_time: datetime | None = None
    """When it is tried next; None: at once."""
    waited_seconds: float = 0.0
    """Sum of the pauses after failures; no clock that is set can change it."""

    @property
    def is_pending(self) -> bool:
        """Whether there is something to do, now or later."""
        return self.state is DeliveryState.PENDING

    def failed(
        self,
        problem: str,
        now: datetime,
        *,
        jitter: float,
        budget: timedelta,
        is_token_refused: bool = False,
    ) -> "Delivery":
        """A try has failed; `jitter` (0 to 1) spreads the next one.

        Given up when all pauses together are longer than `budget`, but not for want of a token:
        that comes with the site's next job.
        """
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self.failures, 16), MAX_PAUSE_SECONDS)
        pause *= 0.5 + jitter / 2
        is_over = self.waited_seconds > budget.total_seconds() and not is_token_refused
        return replace(
            self,
            state=DeliveryState.GIVEN_UP if is_over else self.state,
            failures=self.failures + 1,
            problem=problem,
            is_token_refused=is_token_refused,
            waited_seconds=self.waited_seconds + pause,
            try_time=now + timedelta(seconds=pause),
        )

    def with_upload(self, file_name: str, upload: Upload) -> "Delivery":
        """A file is as far as `upload` says."""
        return replace(self.went_on(), uploads={**self.uploads, file_name: upload})

    def went_on(self) -> "Delivery":
        """A step was done: what failed before is forgotten."""
        return replace(self, failures=0, problem="", is_token_refused=False, try_time=None)

    def done(self, state: DeliveryState) -> "Delivery":
        """Nothing is left to do."""
        return replace(self.went_on(), state=state)

    def again(self) -> "Delivery":
        """Somebody wants it to be tried now, however often it has failed."""
        return replace(self.went_on(), state=DeliveryState.PENDING, waited_seconds=0.0)
