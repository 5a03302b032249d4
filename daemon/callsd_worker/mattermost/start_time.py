# SPDX-License-Identifier: Apache-2.0
"""When the recording of a call began, on our clock."""

from callsd_worker.mattermost.rest import ServerClock
from callsd_worker.mattermost.settings import Clock


TRAVEL_SECONDS = 0.015
"""From the server's stamp to the event's arrival: median 14 ms, measured on one machine."""


class StartTime:
    """Decides once. An event that comes live is exact, as it needs no clock but ours."""

    def __init__(self, server_clock: ServerClock, clock: Clock) -> None:
        self._server_clock = server_clock
        self._clock = clock
        self._is_decided = False
        self._is_waiting = False

    def gap(self) -> None:
        """Events may have been missed, or may come late."""
        self._is_waiting = False

    def take(self, start_at_ms: int, *, is_live: bool) -> float | None:
        """Take what the server says; returns the time (Unix) when it is known, once."""
        if self._is_decided:
            return None
        if start_at_ms <= 0:
            self._is_waiting = True
            return None
        self._is_decided = True
        # Who was told before that it has not begun is now told that it has: this is the moment.
        if is_live and self._is_waiting:
            return self._clock() - TRAVEL_SECONDS
        return start_at_ms / 1000 + self._server_clock.ahead_seconds
