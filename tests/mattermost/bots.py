# SPDX-License-Identifier: Apache-2.0
"""What bots send besides joining and leaving: signals of their media, captions, and metrics."""

from collections import deque
from typing import Any, Protocol

from tests.mattermost.captions_seen import Allowance, read_caption, read_metric
from tests.mattermost.links import Links
from tests.mattermost.media import Media
from tests.mattermost.sfu import BotSession, RefusedSignalError
from tests.mattermost.sockets import PREFIX, Connection, Sockets
from tests.mattermost.state import Call, State


class Around(Protocol):
    """What the plugin is to its bots."""

    media: Media
    sockets: Sockets
    is_dead: bool

    async def publish(self, call: Call, event: str, data: dict[str, Any]) -> None:
        """Tell everybody in the call."""


class Bots:
    """The plugin's ears for its bots."""

    def __init__(self, plugin: Around, state: State, links: Links) -> None:
        self.refused_signals: deque[str] = deque(maxlen=1000)
        """Why signals were not taken; the real plugin says it in its log alone."""
        self._plugin = plugin
        self._state = state
        self._links = links
        self._allowances: dict[str, Allowance] = {}
        """By connection."""

    def open(self, session_id: str, call: Call, *, uses_channel: bool) -> BotSession:
        """Begin the media of a bot that has joined."""

        async def send_signal(data: dict[str, Any]) -> None:
            connection_id = self._links.connection_of(session_id)
            connection = self._plugin.sockets.find(connection_id)
            if connection is not None and not self._plugin.is_dead:
                await connection.send(f"{PREFIX}signal", data, connection_id=connection_id)

        return self._plugin.media.open(
            session_id, call.channel_id, uses_channel=uses_channel, send_signal=send_signal
        )

    async def signal(self, connection: Connection, action: str, data: dict[str, Any]) -> None:
        """Take a description or a candidate."""
        session_id = self._links.session_of(connection.id)
        session = self._plugin.media.sessions.get(session_id)
        if session is None:
            self.refused_signals.append("no session")
        elif not self._links.is_heard(session_id):
            # Seen on a real server: what comes before the reconnect was handled is lost.
            self.refused_signals.append("not reconnected yet")
        else:
            try:
                if action == "sdp":
                    await session.describe(data.get("data"))
                else:
                    await session.add_candidate(data.get("data"))
            except RefusedSignalError as error:
                self.refused_signals.append(str(error))

    async def caption(self, connection: Connection, action: str, data: dict[str, Any]) -> None:
        """Take a caption or a metric, and show captions to everybody."""
        session_id = self._links.session_of(connection.id)
        calls = self._state.calls.values()
        call = next((one for one in calls if session_id in one.sessions), None)
        if call is None or connection.user is not self._state.bot:
            return
        if not self._allowances.setdefault(connection.id, Allowance()).take():
            call.dropped_messages += 1
        elif action == "metric":
            metric = read_metric(data, call.sessions)
            call.metrics += [] if metric is None else [metric]
        elif (caption := read_caption(data, call.sessions)) is not None:
            call.captions.append(caption)
            shown = {
                "channel_id": call.channel_id,
                "user_id": caption.user_id,
                "session_id": caption.session_id,
                "text": caption.text,
            }
            await self._plugin.publish(call, "caption", shown)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._allowances.pop(connection.id, None)
