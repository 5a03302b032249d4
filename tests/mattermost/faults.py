# SPDX-License-Identifier: Apache-2.0
"""What can be made to go wrong on the server, once, a number of times or until it is reset."""

import asyncio
from typing import Any, Generic, TypeVar

from tests.mattermost.network_faults import NetworkFaults


T = TypeVar("T")

PUBLISHING = ("/recordings", "/transcriptions")
"""How the paths of the posts that publish something end."""


class Fault(Generic[T]):
    """One thing that can go wrong, and how badly: a number of bytes, seconds, or just True."""

    def __init__(self, default: T, *, paths: tuple[str, ...] = ("",)) -> None:
        self._default = default
        self._paths = self._default_paths = paths
        self._value = default
        self._left: int | None = 0
        self.uses = 0
        """So often it has happened."""

    def once(self, value: T | None = None, *, path: str | None = None) -> None:
        """Go wrong with the next request, or with the next whose path contains `path`."""
        self.times(1, value, path=path)

    def times(self, count: int, value: T | None = None, *, path: str | None = None) -> None:
        """Go wrong with so many requests."""
        self._set(count, value, path)

    def always(self, value: T | None = None, *, path: str | None = None) -> None:
        """Go wrong until it is reset."""
        self._set(None, value, path)

    def reset(self) -> None:
        """Go wrong no more."""
        self._left = 0

    @property
    def is_on(self) -> bool:
        return self._left != 0

    def concerns(self, path: str) -> bool:
        """Whether a request with this path would go wrong."""
        return self.is_on and any(one in path for one in self._paths)

    def peek(self, path: str) -> T | None:
        """How badly a request with this path would go wrong; nothing is used up."""
        return self._value if self.concerns(path) else None

    def take(self, path: str) -> T | None:
        """How badly a request with this path goes wrong; None = it does not."""
        if not self.concerns(path):
            return None
        if self._left is not None:
            self._left -= 1
        self.uses += 1
        return self._value

    def _set(self, left: int | None, value: T | None, path: str | None) -> None:
        self._left = left
        self._value = self._default if value is None else value
        self._paths = self._default_paths if path is None else (path,)


class Faults:
    """The switches. For a server that is away, see `stop_listening`; for tokens, `restart_plugin`.

    A value is given with the switch: `faults.too_large.always(10 * MIB)`.
    """

    network: NetworkFaults
    """Those that begin at once and end by themselves."""

    def __init__(self) -> None:
        self.plugin_disabled = Fault(default=True)
        """All routes of the plugin answer 404 `404 page not found`."""
        self.plugin_crashed = Fault(default=True)
        """All routes of the plugin answer 500 with a text."""
        self.too_many_requests = Fault(default=True)
        """429 of the plugin, also where it sets no limit itself."""
        self.internal_error = Fault("failed to lock call")
        """500 with JSON; the value is its message."""
        self.too_large = Fault(1024 * 1024)
        """413 of a proxy for bodies of more bytes than this."""
        self.slow = Fault(1.0)
        """The request is handled, and answered so many seconds later."""
        self.late_post = Fault(asyncio.Event())
        """A recording is posted once the event is set, whether anybody still waits or not."""
        self.cut_upload = Fault(0)
        """The connection is cut after so many bytes of the data of an upload."""
        self.lost_answer = Fault(default=True, paths=PUBLISHING)
        """The request is handled (the post is made), then the connection is cut."""

    def switches(self) -> dict[str, Fault[Any]]:
        """All by name."""
        return {name: one for name, one in vars(self).items() if isinstance(one, Fault)}

    def reset(self) -> None:
        """All of them go wrong no more."""
        for fault in self.switches().values():
            fault.reset()
