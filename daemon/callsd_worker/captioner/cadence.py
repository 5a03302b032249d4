# SPDX-License-Identifier: Apache-2.0
"""How often ongoing speech is recognised, by how long recent passes took."""

from collections.abc import Hashable

from callsd_worker.captioner.rules import Rules


_NEW_PASS_WEIGHT = 0.1
"""Weight of the newest pass in the average."""

_TALKING_SECONDS = 1.5
"""A track with a pass within this time counts as talking; longer than the slowest cadence and its
pass."""


class Cadence:
    """One for all tracks of a captioner: how long passes take depends on the machine."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._pass_seconds: float | None = None
        self._passed_seconds: dict[Hashable, float] = {}
        """When each talking track had its latest pass."""

    def take(self, talker: Hashable, pass_seconds: float, now_seconds: float) -> None:
        """Take the duration of a pass that has just ended."""
        known = pass_seconds if self._pass_seconds is None else self._pass_seconds
        self._pass_seconds = known + _NEW_PASS_WEIGHT * (pass_seconds - known)
        self._passed_seconds[talker] = now_seconds
        since = now_seconds - _TALKING_SECONDS
        self._passed_seconds = {who: at for who, at in self._passed_seconds.items() if at >= since}

    @property
    def seconds(self) -> float:
        """Age at which voice that is in no pass makes the next pass due."""
        rules = self._rules
        if self._pass_seconds is None:
            return rules.max_cadence_seconds
        share = max(rules.pass_share, rules.spare_share / len(self._passed_seconds))
        wanted = self._pass_seconds / share
        return min(max(wanted, rules.min_cadence_seconds), rules.max_cadence_seconds)
