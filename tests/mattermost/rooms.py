# SPDX-License-Identifier: Apache-2.0
"""The people of each call, and the clock that has them send."""

import asyncio
from collections import deque
from collections.abc import Callable

from tests.mattermost.participants import TICK_SECONDS, Participant, Publish
from tests.mattermost.tracks import Track


REPORT_TICKS = 50
"""From one sender report of a track to the next: a second."""


class Room:
    """All participants of a call. `on_added` and `on_removed` tell the bots of tracks."""

    def __init__(
        self,
        *,
        on_added: Callable[[Track], None],
        on_removed: Callable[[Track], None],
        announce: Callable[[Publish, str], None],
    ) -> None:
        self._announce = announce
        self.participants: list[Participant] = []
        self.tracks: list[Track] = []
        self._on_added = on_added
        self._on_removed = on_removed
        self._timers: deque[asyncio.TimerHandle] = deque(maxlen=10_000)

    def add_track(self, track: Track) -> None:
        """There is a new track."""
        self.tracks.append(track)
        self._on_added(track)

    def remove_track(self, track: Track) -> None:
        """A track is over."""
        if track in self.tracks:
            self.tracks.remove(track)
            track.is_over = True
            self._on_removed(track)

    def remove(self, participant: Participant) -> None:
        """Somebody has left."""
        if participant in self.participants:
            self.participants.remove(participant)
            participant.end()

    def remove_session(self, session_id: str) -> None:
        """The session has ended, whoever ended it."""
        for participant in [one for one in self.participants if one.session_id == session_id]:
            self.remove(participant)

    def announce(self, publish: Publish, event: str) -> None:
        """Have an event published soon, by whoever may wait for that."""
        self._announce(publish, event)

    def send_later(
        self, delay_seconds: float, track: Track, sequence: int, timestamp: int, payload: bytes
    ) -> None:
        """Send a packet that is late."""

        def send() -> None:
            track.send(sequence=sequence, timestamp=timestamp, payload=payload)

        self._timers.append(asyncio.get_running_loop().call_later(delay_seconds, send))

    def close(self) -> None:
        """Nobody is heard any more."""
        for timer in self._timers:
            timer.cancel()
        for participant in list(self.participants):
            self.remove(participant)


class Ticker:
    """Sends for everybody, each 20 ms; after a delay it catches up, as the sound's clock does."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        """By channel."""
        self.is_silent = False
        """The SFU has died: nothing is sent, and time goes on."""
        self.clock_offset_seconds = 0.0
        """How much the server's clock is ahead of ours."""
        self._task: asyncio.Task[None] | None = None
        self._announcer: asyncio.Task[None] | None = None
        self._announcements: asyncio.Queue[tuple[Publish, str]] = asyncio.Queue(maxsize=1000)

    def announce(self, publish: Publish, event: str) -> None:
        """Publish an event soon, after those before it."""
        self._announcements.put_nowait((publish, event))

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._announcer = asyncio.create_task(self._announce())

    async def close(self) -> None:
        """End."""
        for room in self.rooms.values():
            room.close()
        for task in (self._task, self._announcer):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._task = self._announcer = None

    async def _announce(self) -> None:
        while True:
            publish, event = await self._announcements.get()
            await publish(event)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due, count = loop.time(), 0
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += TICK_SECONDS
            count += 1
            if self.is_silent:
                continue
            for room in self.rooms.values():
                for index, participant in enumerate(room.participants):
                    participant.tick()
                    if (count + index * 7) % REPORT_TICKS == 0:
                        participant.report(self.clock_offset_seconds)
