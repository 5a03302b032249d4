# SPDX-License-Identifier: Apache-2.0
"""How often speech that goes on is recognised, by how long that takes of late."""

from callsd_worker.captioner.rules import Rules


_NEW_PASS_WEIGHT = 0.1
"""Of the newest pass in what is known of how long they take."""


class Cadence:
    """One for all tracks of a captioner: how long passes take is the doing of the machine."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._pass_seconds: float | None = None

    def take(self, pass_seconds: float) -> None:
        """A pass has taken so long, from when a recogniser took it up."""
        known = pass_seconds if self._pass_seconds is None else self._pass_seconds
        self._pass_seconds = known + _NEW_PASS_WEIGHT * (pass_seconds - known)

    @property
    def seconds(self) -> float:
        """Age at which voice that no pass has heard makes the next pass due."""
        rules = self._rules
        if self._pass_seconds is None:
            return rules.max_cadence_seconds
        wanted = self._pass_seconds / rules.pass_share
        return min(max(wanted, rules.min_cadence_seconds), rules.max_cadence_seconds)
