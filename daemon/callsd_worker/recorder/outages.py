# SPDX-License-Identifier: Apache-2.0
"""How long a page has reached nobody. It stays in the picture all the while, as it was."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any


MIN_SECONDS = 10.0
"""What is shorter a page gets over, and nobody misses anything."""

_UNREACHED = re.compile(
    r"net::ERR_(?:INTERNET_DISCONNECTED|NAME_NOT_RESOLVED|ADDRESS_UNREACHABLE|TIMED_OUT|"
    r"(?:CONNECTION|NETWORK|PROXY)_\w+)"
)
"""Errors of the network. Others are the page's own, such as a request that it has given up."""


class Outages:
    """Adds up the times in which all requests of a page fail. One that asks nobody has none.

    It is not shown again for them: whoever is on the network's other side is not there for a new
    one, either, and most pages of calls connect again by themselves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended_seconds = 0.0
        self._began: float | None = None
        self._last = 0.0

    @property
    def seconds(self) -> float:
        """Sum of the outages, each from its first to its last failure."""
        return self._ended_seconds + self._current_seconds

    @property
    def _current_seconds(self) -> float:
        seconds = 0.0 if self._began is None else self._last - self._began
        return seconds if seconds >= MIN_SECONDS else 0.0

    def watch(self, event: str, params: Mapping[str, Any]) -> None:
        """Take notice of an event of the browser; most are of no interest.

        Source: Chrome DevTools Protocol, domain Network.
        """
        match event:
            case "Network.loadingFailed":
                self._failed(params["errorText"])
            case "Network.webSocketFrameError":
                self._failed(params["errorMessage"])
            case "Network.responseReceived" | "Network.dataReceived":
                self._reached()
            case "Network.webSocketFrameReceived":
                self._reached()
            case _:
                pass

    def _failed(self, error: str) -> None:
        if _UNREACHED.search(error):
            self._last = self._clock()
            self._began = self._last if self._began is None else self._began

    def _reached(self) -> None:
        self._ended_seconds += self._current_seconds
        self._began = None
