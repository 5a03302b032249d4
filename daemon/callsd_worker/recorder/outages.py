# SPDX-License-Identifier: Apache-2.0
"""How long a page has reached nobody. It stays in the picture all the while, as it was."""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit


MIN_SECONDS = 10.0
"""What is shorter a page gets over, and nobody misses anything."""

MAX_PAUSE_SECONDS = 60.0
"""Of what lies between a failure and a request that comes later nothing is known."""

MAX_HOSTS = 100
MAX_REQUESTS = 1000
"""Under way; what a page asks beyond that is not watched."""

_UNREACHED = re.compile(
    r"net::ERR_(?:INTERNET_DISCONNECTED|ADDRESS_UNREACHABLE|TIMED_OUT|HTTP2_PING_FAILED|"
    r"(?:CONNECTION|DNS|NAME|NETWORK|PROXY|TUNNEL)_\w+)"
)
"""Errors of the network. Others are the page's own, such as a request that it has given up."""

_STORED = ("fromDiskCache", "fromServiceWorker", "fromPrefetchCache")


class Outages:
    """Adds up the times in which all requests of a page fail. One that asks nobody has none.

    It is not shown again for them: whoever is on the network's other side is not there for a new
    one, either, and most pages of calls connect again by themselves. Fed on one thread, read on
    another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answered: set[str] = set()
        """Hosts that have: others may be blocked here for good, and nobody misses them."""
        self._asked: dict[str, tuple[str, float]] = {}
        """Hosts of the requests under way, and since when they are."""
        self._began: float | None = None
        self._last = 0.0
        self._reached = -math.inf
        self._ended_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Sum of the outages, each from its first request that fails to its last failure."""
        with self._lock:
            return self._ended_seconds + self._current_seconds

    @property
    def _current_seconds(self) -> float:
        seconds = 0.0 if self._began is None else self._last - self._began
        return seconds if seconds >= MIN_SECONDS else 0.0

    def restart(self) -> None:
        """Count from now on."""
        with self._lock:
            self._began, self._ended_seconds = None, 0.0
            self._reached = self._clock()

    def watch(self, event: str, params: Mapping[str, Any]) -> None:
        """Take notice of an event of the browser; most are of no interest.

        Source: Chrome DevTools Protocol, domain Network.
        """
        domain, _, name = event.partition(".")
        if domain != "Network":
            return
        request = params.get("requestId", "")
        with self._lock:
            match name:
                case "requestWillBeSent":
                    self._ask(request, params["request"]["url"])
                case "webSocketCreated":
                    self._ask(request, params["url"])
                case "responseReceived" | "dataReceived" | "webSocketFrameReceived":
                    if _is_live(params):
                        self._reach(request)
                case "loadingFailed" | "webSocketFrameError":
                    self._fail(request, params.get("errorText") or params["errorMessage"])
                case "loadingFinished" | "webSocketClosed":
                    self._asked.pop(request, None)
                case _:
                    pass

    def _ask(self, request: str, url: str) -> None:
        try:
            host = urlsplit(url).netloc  # empty for what is within the page, such as data:
        except ValueError:
            return
        if host and len(self._asked) < MAX_REQUESTS:
            self._asked[request] = (host, self._clock())

    def _reach(self, request: str) -> None:
        if request not in self._asked:
            return
        if len(self._answered) < MAX_HOSTS:
            self._answered.add(self._asked[request][0])
        self._reached = self._clock()
        self._end()

    def _fail(self, request: str, error: str) -> None:
        host, asked = self._asked.pop(request, ("", 0.0))
        if host not in self._answered or not _UNREACHED.search(error):
            return
        # Where packets get lost without a word, a request takes minutes to fail.
        since = max(asked, self._reached)
        if self._began is not None and since - self._last > MAX_PAUSE_SECONDS:
            self._end()
        self._last = self._clock()
        self._began = since if self._began is None else self._began

    def _end(self) -> None:
        self._ended_seconds += self._current_seconds
        self._began = None


def _is_live(params: Mapping[str, Any]) -> bool:
    """Whether something came from the network, and not out of what the browser keeps."""
    response = params.get("response", {})
    is_stored = any(response.get(name) for name in _STORED)
    return not is_stored and params.get("encodedDataLength", 1) > 0
