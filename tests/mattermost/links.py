# SPDX-License-Identifier: Apache-2.0
"""Which websocket each session of a call has, and which session has none just now."""

import asyncio


RECONNECT_DELAY_SECONDS = 0.3
"""So long it takes until a session that was taken up again is listened to."""


class Links:
    """Session and connection have the same id until the session is taken up by another one."""

    def __init__(self) -> None:
        self._current: dict[str, str] = {}
        self._away: dict[str, object] = {}
        """Session id → a mark of the loss."""
        self._deaf_until: dict[str, float] = {}

    def begin(self, session_id: str) -> None:
        """A connection has joined a call."""
        self._current[session_id] = session_id

    def take_up(self, session_id: str, connection_id: str) -> None:
        """Go on with a session in this connection."""
        self._current[session_id] = connection_id
        self._away.pop(session_id, None)
        now = asyncio.get_running_loop().time()
        self._deaf_until[session_id] = now + RECONNECT_DELAY_SECONDS

    def lose(self, connection_id: str) -> tuple[str, object] | None:
        """A connection is gone: its session, with a mark of the loss. None: it had none."""
        session_id = self.session_of(connection_id)
        if self._current.get(session_id) != connection_id:
            return None
        mark = self._away[session_id] = object()
        return session_id, mark

    def is_lost_since(self, session_id: str, mark: object) -> bool:
        """Whether the session has not been taken up again since."""
        return self._away.get(session_id) is mark

    def forget(self, session_id: str) -> None:
        """The session is over."""
        self._current.pop(session_id, None)
        self._away.pop(session_id, None)
        self._deaf_until.pop(session_id, None)

    def clear(self) -> None:
        """All are over."""
        for session_id in list(self._current):
            self.forget(session_id)

    def session_of(self, connection_id: str) -> str:
        """The session of a connection; the one of the same name, if it has none."""
        return next(
            (one for one, current in self._current.items() if current == connection_id),
            connection_id,
        )

    def connection_of(self, session_id: str) -> str:
        """The newest connection of a session."""
        return self._current.get(session_id, session_id)

    def is_heard(self, session_id: str) -> bool:
        """Whether what comes from it is listened to."""
        now = asyncio.get_running_loop().time()
        return session_id not in self._away and now >= self._deaf_until.get(session_id, 0.0)
