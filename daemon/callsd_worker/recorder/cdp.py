# SPDX-License-Identifier: Apache-2.0
"""Chromium's DevTools protocol over a pair of pipes: without a port that others could connect to.

Messages are JSON, each ended by a zero byte. Source: chromium, content/browser/devtools/
devtools_pipe_handler.cc.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any


CALL_SECONDS = 10.0
"""A page normally answers in milliseconds, but not while it loads."""

READ_BYTES = 65_536
MAX_MESSAGE_BYTES = 16 * 1024**2
"""Messages contain addresses and texts of the page, of any length: longer messages are skipped."""

_ANSWER = re.compile(rb'\{"id": ?(\d+)[,}]')
"""How an answer begins."""


class CdpError(Exception):
    """The browser reports an error, does not answer, or is gone."""


class Cdp:
    """One connection. `on_event` is called on a thread of its own, with method and parameters."""

    def __init__(
        self, *, reading: int, writing: int, on_event: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Start to read; closes both descriptors at the end."""
        self._reading, self._writing = reading, writing
        self._on_event = on_event
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, _Answer] = {}
        self._ended: dict[str, str] = {}
        """Sessions in which nobody answers any more, and why."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._read, name="devtools", daemon=True)
        self._thread.start()

    def call(
        self,
        method: str,
        *,
        session: str = "",
        timeout_seconds: float = CALL_SECONDS,
        **params: Any,
    ) -> dict[str, Any]:
        """Call a method and wait for its result; raises CdpError."""
        answer = _Answer(session)
        number = self._send(method, session, params, answer)
        if not answer.is_there.wait(timeout_seconds):
            with self._lock:
                self._waiting.pop(number, None)
            raise CdpError(f"{method}: no answer in {timeout_seconds:g} s")
        if answer.error:
            raise CdpError(f"{method}: {answer.error}")
        return answer.result

    def notify(self, method: str, *, session: str = "", **params: Any) -> None:
        """Call a method without waiting for its result, as in `on_event`; raises CdpError."""
        self._send(method, session, params, None)

    def _send(
        self, method: str, session: str, params: dict[str, Any], answer: "_Answer | None"
    ) -> int:
        with self._lock:
            if self._is_closed:
                raise CdpError(f"{method}: the browser is gone")
            if session in self._ended:
                raise CdpError(f"{method}: {self._ended[session]}")
            self._next += 1
            number = self._next
            if answer is not None:
                self._waiting[number] = answer
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            try:
                _write_all(self._writing, json.dumps(message).encode() + b"\0")
            except OSError:
                self._waiting.pop(number, None)
                raise CdpError(f"{method}: the browser is gone") from None
        return number

    def end_session(self, session: str, why: str) -> None:
        """Tell who waits for an answer in a session, now or later, that none will come.

        The browser does not: what a page was asked when it died is never answered.
        """
        with self._lock:
            self._ended[session] = why
            numbers = [
                number for number, answer in self._waiting.items() if answer.session == session
            ]
            waiting = [self._waiting.pop(number) for number in numbers]
        _disappoint(waiting, why)

    def close(self) -> None:
        """Close the connection, on which the browser exits."""
        with self._lock:
            if self._writing >= 0:
                os.close(self._writing)
                self._writing = -1
            self._is_closed = True
        self._thread.join(CALL_SECONDS)

    def _read(self) -> None:
        message, is_too_long = bytearray(), False
        # An invalid message ends the connection, so that no caller waits for an answer.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            while piece := os.read(self._reading, READ_BYTES):
                *ends, rest = piece.split(b"\0")
                for end in ends:
                    message += end
                    if is_too_long or len(message) > MAX_MESSAGE_BYTES:
                        self._skip(message)
                    else:
                        self._take(json.loads(message))
                    message, is_too_long = bytearray(), False
                message += rest
                if len(message) > MAX_MESSAGE_BYTES:
                    is_too_long = True
                    del message[READ_BYTES:]
        os.close(self._reading)
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, {}
        _disappoint(waiting.values(), "the browser is gone")

    def _skip(self, beginning: bytearray) -> None:
        """End the wait for a message that is too long, of which only the beginning was kept."""
        if answer := _ANSWER.match(beginning):
            self._take({"id": int(answer[1]), "error": {"message": "the answer is too long"}})

    def _take(self, message: dict[str, Any]) -> None:
        if "id" not in message:
            self._on_event(message["method"], message.get("params", {}))
            return
        # Read before the caller is removed from `_waiting`: an invalid message ends the connection,
        # and with it the waits of all callers there.
        result, error = message.get("result", {}), message.get("error", {}).get("message", "")
        with self._lock:
            answer = self._waiting.pop(message["id"], None)
        if answer is None:
            return
        answer.result, answer.error = result, error
        answer.is_there.set()


class _Answer:
    def __init__(self, session: str) -> None:
        self.session = session
        self.is_there = threading.Event()
        self.result: dict[str, Any] = {}
        self.error = ""


def _disappoint(waiting: Iterable[_Answer], why: str) -> None:
    for answer in waiting:
        answer.error = why
        answer.is_there.set()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
