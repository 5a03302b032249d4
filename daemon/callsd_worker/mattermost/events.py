# SPDX-License-Identifier: Apache-2.0
"""Events of the websocket: those that are for us, and what the plugin's hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from callsd_ipc.names import PLUGIN


PREFIX = f"custom_{PLUGIN}_"
"""Of the plugin's actions and events, in both directions."""

HELLO = "hello"

MAX_SESSIONS = 4096


class _Broadcast(msgspec.Struct):
    channel_id: str = ""
    connection_id: str = ""


class _Frame(msgspec.Struct):
    event: str = ""
    data: Any = None
    broadcast: _Broadcast | None = None
    seq: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event; the name of a plugin's one is without its prefix."""

    name: str
    seq: int
    data: Mapping[str, Any]
    channel_id: str
    """Of the call that it is about; empty: of none."""
    connection_id: str
    """The only connection that it is for; empty: it is for all."""

    def text(self, key: str) -> str:
        """A value that should be text; empty when it is not."""
        value = self.data.get(key)
        return value if isinstance(value, str) else ""


_decoder = msgspec.json.Decoder(_Frame)


def parse(frame: str | bytes) -> Event | None:
    """Read an event; None when it is none, or neither the plugin's nor `hello`."""
    try:
        document = _decoder.decode(frame)
    except (ValueError, RecursionError):
        return None
    name = document.event
    if not (name.startswith(PREFIX) or name == HELLO):
        # Events of the server's own count too: a resumed connection begins after the last one.
        return Event(name="", seq=document.seq, data={}, channel_id="", connection_id="")
    data = document.data if isinstance(document.data, dict) else {}
    name = name.removeprefix(PREFIX)
    broadcast = document.broadcast or _Broadcast()
    key = {"call_job_state": "callID", "call_state": "channel_id"}.get(name, "channelID")
    channel_id, connection_id = data.get(key), data.get("connID")
    return Event(
        name=name,
        seq=document.seq,
        data=data,
        channel_id=broadcast.channel_id or (channel_id if isinstance(channel_id, str) else ""),
        connection_id=broadcast.connection_id
        or (connection_id if isinstance(connection_id, str) else ""),
    )


class Session(msgspec.Struct):
    """Somebody in a call."""

    session_id: str
    user_id: str = ""
    unmuted: bool = False


class JobState(msgspec.Struct):
    """What has become of a job of a call; times are in ms of the server's clock, 0 = not yet."""

    type: str = ""
    start_at: int = 0
    end_at: int = 0


class CallState(msgspec.Struct):
    """A call, as the plugin tells of it."""

    sessions: list[Session] | None = None
    recording: JobState | None = None
    transcription: JobState | None = None


def call_state(event: Event) -> CallState | None:
    """The state in an event `call_state`; None: it cannot be read."""
    try:
        state = msgspec.json.decode(event.text("call"), type=CallState | None)
    except (ValueError, RecursionError):
        return None
    # No call at all is a call without anybody.
    return CallState() if state is None else state


def job_state(event: Event) -> JobState | None:
    """The state in an event `call_job_state`; None: it cannot be read."""
    try:
        return msgspec.convert(event.data.get("jobState"), type=JobState)
    except msgspec.ValidationError:
        return None


def text_frame(action: str, seq: int, data: Mapping[str, object]) -> str:
    """Write an action of the plugin's."""
    return json.dumps({"action": PREFIX + action, "seq": seq, "data": data})


def binary_frame(action: str, seq: int, data: Mapping[str, object]) -> bytes:
    """Write an action of the plugin's that holds bytes."""
    return msgspec.msgpack.encode({"action": PREFIX + action, "seq": seq, "data": data})
