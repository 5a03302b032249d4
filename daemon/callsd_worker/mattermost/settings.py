# SPDX-License-Identifier: Apache-2.0
"""Which call is joined, and how long is waited for what."""

import time
from collections.abc import Callable
from dataclasses import dataclass


Clock = Callable[[], float]
"""Gives Unix time that never steps while the process lives."""


def steady_clock() -> Clock:
    """Wall-clock time as it is now, which then goes on with the monotonic clock."""
    offset_seconds = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that a job of the plugin's is about."""

    site_url: str
    """Of the server, without a slash at the end."""
    call_id: str
    """The channel's id: so the plugin names its calls."""
    job_id: str
    """The plugin's own id of the job."""
    job_kind: str = "transcription"
    """What the call's state calls this job: "transcription" or "recording"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long is waited. The defaults are right for real servers; tests shorten them."""

    join_seconds: float = 45.0
    """The plugin gives a job 60 s from its creation to its report that it has started."""
    hello_seconds: float = 5.0
    """A server that does not like the token opens a websocket, says nothing, and closes it."""
    accept_seconds: float = 10.0
    """For the answer to a join; in large channels the plugin gathers joins for a second."""
    connect_seconds: float = 15.0
    """For ICE, DTLS and the data channel. The server gives up on a first offer after 10 s."""
    gather_seconds: float = 1.5
    """For STUN and TURN servers, which may be away: the server reaches us mostly without them."""
    away_seconds: float = 10.0
    """The server forgets a session whose websocket is gone for longer."""
    answer_hold_seconds: float = 0.6
    """An answer that the server reads before our `reconnect` is dropped without a word."""
    silence_seconds: float = 20.0
    """So long nothing comes from a server that should send something: it may have crashed."""
    look_seconds: float = 10.0
    """Between looks at whether the call goes on, while the server does not tell."""
    leave_seconds: float = 2.0
