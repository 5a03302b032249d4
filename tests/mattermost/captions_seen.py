# SPDX-License-Identifier: Apache-2.0
"""The captions and metrics that bots have sent, and how many messages a connection may send."""

import time
from dataclasses import dataclass, field
from typing import Any


MESSAGES_PER_SECOND = 10.0
BURST = 100.0

METRICS = (
    "live_captions_window_dropped",
    "live_captions_transcriber_buf_full",
    "live_captions_pktPayloadCh_buf_full",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What was shown."""

    session_id: str
    """Of the speaker."""
    user_id: str
    text: str
    new_audio_len_ms: float
    time_seconds: float = field(default_factory=time.time)
    """When it arrived, as Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What was counted."""

    session_id: str
    name: str
    time_seconds: float = field(default_factory=time.time)


class Allowance:
    """How many messages a connection may send; those above are dropped silently."""

    def __init__(self) -> None:
        self._left = BURST
        self._since = time.monotonic()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._since) * MESSAGES_PER_SECOND)
        self._since = now
        is_allowed = self._left >= 1.0
        self._left -= is_allowed
        return is_allowed


def read_caption(data: dict[str, Any], sessions: dict[str, str]) -> Caption | None:
    """The caption of a message. None: it is not accepted.

    `sessions` = those in the call. The length must be a float: those of JSON all are.
    """
    session_id, text = data.get("session_id"), data.get("text")
    length = data.get("new_audio_len_ms")
    if session_id not in sessions or not isinstance(text, str) or not isinstance(length, float):
        return None
    return Caption(
        session_id=str(session_id),
        user_id=sessions[session_id],
        text=text,
        new_audio_len_ms=length,
    )


def read_metric(data: dict[str, Any], sessions: dict[str, str]) -> Metric | None:
    """The metric of a message. None: it is not accepted."""
    session_id, name = data.get("session_id"), data.get("metric_name")
    if session_id not in sessions or name not in METRICS:
        return None
    return Metric(session_id=str(session_id), name=str(name))
