# SPDX-License-Identifier: Apache-2.0
"""The media of all calls: who speaks, and which bots listen."""

import asyncio
from collections.abc import Awaitable, Callable

from aiortc.rtcdtlstransport import RTCCertificate

from tests.mattermost.rooms import Room, Ticker
from tests.mattermost.sfu import BotSession, SendSignal, Timing
from tests.mattermost.state import Call
from tests.mattermost.tracks import Track


class Media:
    """Sessions of bots and rooms of participants. It owns both."""

    def __init__(self) -> None:
        self.timing = Timing()
        self.ticker = Ticker()
        self.sessions: dict[str, BotSession] = {}
        """By session id, the oldest first."""
        self._channels: dict[str, str] = {}
        self._certificate: RTCCertificate | None = None
        self._is_dropping = False

    def room(self, channel_id: str) -> Room:
        """The people of a call."""
        if channel_id not in self.ticker.rooms:

            def listeners() -> list[BotSession]:
                return [
                    session
                    for session_id, session in self.sessions.items()
                    if self._channels[session_id] == channel_id
                ]

            def added(track: Track) -> None:
                for session in listeners():
                    session.add(track)

            def removed(track: Track) -> None:
                for session in listeners():
                    session.remove(track)

            self.ticker.rooms[channel_id] = Room(
                on_added=added, on_removed=removed, announce=self.ticker.announce
            )
        return self.ticker.rooms[channel_id]

    def open(
        self, session_id: str, channel_id: str, *, uses_channel: bool, send_signal: SendSignal
    ) -> BotSession:
        """A bot has joined: it is to make its offer."""
        if self._certificate is None:
            self._certificate = RTCCertificate.generateCertificate()
        session = BotSession(
            session_id,
            self._certificate,
            self.timing,
            uses_channel=uses_channel,
            send_signal=send_signal,
        )
        session.drop(is_dropping=self._is_dropping)
        self.sessions[session_id] = session
        self._channels[session_id] = channel_id
        room = self.ticker.rooms.get(channel_id)
        for track in [] if room is None else room.tracks:
            session.add(track)
        return session

    def newest(self, channel_id: str) -> BotSession:
        """The session of the bot that came last. LookupError: there is none."""
        for session_id in reversed(self.sessions):
            if self._channels[session_id] == channel_id:
                return self.sessions[session_id]
        raise LookupError(f"no bot listens in {channel_id}")

    async def close_session(self, session_id: str) -> None:
        """A participant or a bot has left, or lost its session."""
        for room in self.ticker.rooms.values():
            room.remove_session(session_id)
        session = self.sessions.pop(session_id, None)
        if session is not None:
            del self._channels[session_id]
            await session.close()

    async def close_call(self, channel_id: str) -> None:
        """A call is over: nobody speaks or listens any more."""
        room = self.ticker.rooms.pop(channel_id, None)
        if room is not None:
            room.close()
        for session_id, where in list(self._channels.items()):
            if where == channel_id:
                await self.close_session(session_id)

    def drop_udp(self, *, is_dropping: bool) -> None:
        """Let no datagram of any bot through, or let them through again."""
        self._is_dropping = is_dropping
        for session in self.sessions.values():
            session.drop(is_dropping=is_dropping)

    async def die(self) -> None:
        """The process is gone: nothing is said to anybody, and no socket answers."""
        self.ticker.is_silent = True
        self.drop_udp(is_dropping=True)

    async def close_bots(self, call: Call, bot_id: str) -> None:
        """Close the sessions of the bots in a call."""
        for session_id in [one for one, user_id in call.sessions.items() if user_id == bot_id]:
            await self.close_session(session_id)

    async def close(self) -> None:
        """All of it."""
        await self.ticker.close()
        for session_id in list(self.sessions):
            await self.close_session(session_id)


class FirstOffers:
    """Closes the sessions of bots that have made no offer in time."""

    def __init__(self, media: Media, on_late: Callable[[str], Awaitable[None]]) -> None:
        self._media = media
        self._on_late = on_late

    async def watch(self, session: BotSession) -> None:
        """Wait for the offer."""
        try:
            async with asyncio.timeout(self._media.timing.first_offer_seconds):
                await session.first_offer.wait()
        except TimeoutError:
            await self._on_late(session.session_id)
