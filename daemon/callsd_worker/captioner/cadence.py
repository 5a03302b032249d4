# SPDX-License-Identifier: Apache-2.0
"""How often speech that goes on is recognised, by how long that takes of late."""

from collections.abc import Hashable

from callsd_worker.captioner.rules import Rules


_NEW_PASS_WEIGHT = 0.1
"""Of the newest pass in what is known of how long they take."""

_TALKING_SECONDS = 1.5
"""Who had a pass within this time talks; longer than the slowest cadence and its pass."""


class Cadence:
    """One for all tracks of a captioner: how long passes take is the doing of the machine."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._pass_seconds: float | None = None
        self._passed_seconds: dict[Hashable, float] = {}
        """When each of those who talk had their latest pass."""

    def take(self, talker: Hashable, pass_seconds: float, now_seconds: float) -> None:
        """A pass of this talker has ended now, and taken so long."""
        known = pass_seconds if self._pass_seconds is None else self._pass_seconds
        self._pass_seconds = known + _NEW_PASS_WEIGHT * (pass_seconds - known)
        self._passed_seconds[talker] = now_seconds
        since = now_seconds - _TALKING_SECONDS
        self._passed_seconds = {who: at for who, at in self._passed_seconds.items() if at >= since}

    @property
    def seconds(self) -> float:
        """Age at which voice that no pass has heard makes the next pass due."""
        rules = self._rules
        if self._pass_seconds is None:
            return rules.max_cadence_seconds
        share = max(rules.pass_share, rules.spare_share / len(self._passed_seconds))
        wanted = self._pass_seconds / share
        return min(max(wanted, rules.min_cadence_seconds), rules.max_cadence_seconds)
