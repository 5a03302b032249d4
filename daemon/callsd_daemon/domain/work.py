# SPDX-License-Identifier: Apache-2.0
"""What every kind of job brings: what it is asked for, and what came of it."""

from dataclasses import dataclass


MAX_DURATION_SECONDS = 7 * 86400.0
"""No job, and no call, lasts longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a job is asked for: plain data that can be stored. Each kind has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a job: plain data that can be stored. Each kind has its own."""

    @property
    def media_seconds(self) -> float:
        """Length of the sound or film that was worked on, for the metrics."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What the work needs and nobody may read: kept apart from the job, until that is delivered."""
