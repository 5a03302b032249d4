# SPDX-License-Identifier: Apache-2.0
"""People in a call who can be heard.

    participant = await server.participant(call, user)  # joins, unless start_call let them in
    await participant.play(Path("words.flac"))          # unmutes; returns as soon as it has begun
    await participant.mute()                            # no packets; RTP time stands still
    await participant.unmute()                          # three empty packets, then sound again
    await participant.finished()                        # the end of the file was sent
    await participant.leave()

`play` takes a file (WAV, FLAC, any rate) or packets of Opus of 20 ms (`opus_packets.of_pcm` makes
them of samples). The file goes on by the wall clock: what falls into a mute is not sent. So the
sound at `s` seconds of the file is sent at `participant.began_seconds + s`, a Unix time, and a
decoder gives it 6.5 ms later, by its delay. Mutes can be planned as well, `mutes=[(at, for)]` in
seconds of the file, and so can holes, in which nothing is sent while RTP time goes on
(`holes=[(at, for)]`). Whoever is unmuted and plays nothing sends silence, as browsers do.

`server.participant(call, user, …)`: `has_spoken_before=True` = muted, with a track; `sequence` and
`timestamp` = those of the first packet; `impairment=Impairment(loss=0.02, jitter_seconds=0.2,
seed=1)` = what the network does (`impairments`). `participant.track_id`; `share_screen()` offers a
picture as well, `stop_sharing()` ends it: `participant.screen.packets_sent` counts to all bots.

Network faults, all of which end by themselves after so many seconds:

    await server.faults.network.cut_websockets(3.0)  # and refuse them meanwhile
    await server.faults.network.drop_udp(5.0)        # media, both ways
    await server.faults.network.crash_plugin(8.0)    # no events, no media, routes answer 500
    await server.faults.network.lose_sessions(call)  # the SFU closes those of the bots
    await server.faults.network.mend()               # ends the first three at once

`call.captions` and `call.metrics` are what bots have sent, the oldest first (`captions_seen`);
`call.dropped_messages` counts those above the limit. `server.timing` has the SFU's waits and when
it tells its candidate; `server.bot_session(call)` the newest session of a bot, with `is_stuck`,
`offers_sent`, and `connected`, an event. `server.plugin.bots.refused_signals` is why signals of
bots were not taken.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tests.mattermost.impairments import BadNetwork, Impairment
from tests.mattermost.opus_packets import SAMPLES, SILENCE, Sound, of_sound
from tests.mattermost.tracks import Track, new_track_id


TICK_SECONDS = 0.02
PADDING_PACKETS = 3
SLACK_SECONDS = 20.0
"""How much later than it should something may happen on a busy machine."""


class Around(Protocol):
    """What its room is to a participant."""

    def add_track(self, track: Track) -> None:
        """There is a new track."""

    def remove_track(self, track: Track) -> None:
        """A track is over."""

    def remove(self, participant: "Participant") -> None:
        """Somebody has left."""

    def announce(self, publish: "Publish", event: str) -> None:
        """Have an event published soon, by whoever may wait for that."""

    def send_later(
        self, delay_seconds: float, track: Track, sequence: int, timestamp: int, payload: bytes
    ) -> None:
        """Send a packet that is late."""


Spans = Sequence[tuple[float, float]]
"""Where they begin, and how long they are, in seconds."""

Publish = Callable[[str], Awaitable[None]]
"""Tells everybody an event about this participant."""


class Participant:
    """Somebody in a call; `server.participant` makes one."""

    def __init__(
        self,
        *,
        session_id: str,
        user_id: str,
        room: Around,
        publish: Publish,
        on_left: Callable[[], Awaitable[None]],
        sequence: int | None,
        timestamp: int | None,
        impairment: Impairment,
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.began_seconds = 0.0
        """Unix time at which the last `play` began."""
        self.is_unmuted = False
        self.track: Track | None = None
        self.screen: Track | None = None
        self._room = room
        self._publish = publish
        self._on_left = on_left
        self._network = BadNetwork(impairment)
        first = random.randrange(2**15) if sequence is None else sequence  # noqa: S311
        self._sequence = (first - 1) % 2**16
        first = random.randrange(2**32) if timestamp is None else timestamp  # noqa: S311
        self._timestamp = (first - SAMPLES) % 2**32
        self._has_sent = False
        self._is_after_mute = False
        self._is_in_planned_mute = False
        self._packets: Sequence[bytes] = ()
        self._position = 0
        self._mutes: Spans = ()
        self._holes: Spans = ()
        self._began = asyncio.Event()
        self._finished = asyncio.Event()
        self._video_sequence = 0

    @property
    def track_id(self) -> str:
        """Of the voice; empty: there is none yet."""
        return "" if self.track is None else self.track.id

    async def play(
        self, sound: Sound, *, unmute: bool = True, mutes: Spans = (), holes: Spans = ()
    ) -> None:
        """Play a sound from now on, instead of what was played before."""
        packets = await asyncio.to_thread(of_sound, sound)
        if unmute:
            await self.unmute()
        self._began.clear()
        self._finished.clear()
        self._mutes, self._holes = mutes, holes
        self._position, self._packets = 0, packets
        if self.is_unmuted:
            await self._publish("user_voice_on")
        async with asyncio.timeout(SLACK_SECONDS):
            await self._began.wait()

    async def finished(self) -> None:
        """Wait until all of the sound was sent."""
        async with asyncio.timeout(len(self._packets) * TICK_SECONDS + SLACK_SECONDS):
            await self._finished.wait()
        await self._publish("user_voice_off")

    async def unmute(self) -> None:
        """Be heard from now on; the first time there is a new track."""
        if self.is_unmuted:
            return
        self.be_known()
        self.is_unmuted = True
        self._is_after_mute = self._has_sent
        await self._publish("user_unmuted")

    async def mute(self) -> None:
        """Be heard no more."""
        if self.is_unmuted:
            self.is_unmuted = False
            await self._publish("user_muted")

    def be_known(self) -> None:
        """Have a track, if there is none yet."""
        if self.track is None:
            track = Track(id=new_track_id("voice", self.session_id), session_id=self.session_id)
            self.track = track
            self._room.add_track(track)

    async def share_screen(self) -> None:
        """Send a picture, too."""
        track = Track(
            id=new_track_id("screen", self.session_id), session_id=self.session_id, kind="video"
        )
        self.screen = track
        self._room.add_track(track)
        await self._publish("user_screen_on")

    async def stop_sharing(self) -> None:
        """Send no picture any more."""
        if self.screen is not None:
            self._room.remove_track(self.screen)
            self.screen = None
            await self._publish("user_screen_off")

    async def leave(self) -> None:
        """Leave the call: the voice just stops."""
        self._room.remove(self)
        await self._on_left()

    def end(self) -> None:
        """Send nothing more."""
        for track in (self.track, self.screen):
            if track is not None:
                self._room.remove_track(track)
        self._began.set()
        self._finished.set()

    # --- each 20 ms ---

    def tick(self) -> None:
        """Send what is due."""
        payload, at_seconds = self._next()
        if self.screen is not None:
            self._send_video()
        if self.track is None:
            return
        is_planned = self.is_unmuted and _within(at_seconds, self._mutes)
        if is_planned is not self._is_in_planned_mute:
            self._is_in_planned_mute = is_planned
            self._room.announce(self._publish, "user_muted" if is_planned else "user_unmuted")
        if is_planned or not self.is_unmuted:
            self._is_after_mute = self._has_sent
            return
        if self._is_after_mute:
            self._is_after_mute = False
            for _ in range(PADDING_PACKETS):
                self._send(b"")
        self._timestamp = (self._timestamp + SAMPLES) % 2**32
        if not _within(at_seconds, self._holes):
            self._send(payload)
            self._has_sent = True

    def report(self, clock_offset_seconds: float) -> None:
        """Send the sender reports."""
        for track in (self.track, self.screen):
            if track is not None:
                track.send_reports(clock_offset_seconds)

    def _next(self) -> tuple[bytes, float]:
        """What is played now, and where in the sound that is; -1: nowhere."""
        if self._position >= len(self._packets):
            if self._packets:
                self._packets = ()
                self._finished.set()
            return SILENCE, -1.0
        if self._position == 0:
            self.began_seconds = time.time()
            self._began.set()
        payload, at_seconds = self._packets[self._position], self._position * TICK_SECONDS
        self._position += 1
        return payload, at_seconds

    def _send(self, payload: bytes) -> None:
        assert self.track is not None
        self._sequence = sequence = (self._sequence + 1) % 2**16
        track, timestamp = self.track, self._timestamp
        for delay_seconds in self._network.delays_seconds():
            if delay_seconds:
                self._room.send_later(delay_seconds, track, sequence, timestamp, payload)
            else:
                track.send(sequence=sequence, timestamp=timestamp, payload=payload)

    def _send_video(self) -> None:
        assert self.screen is not None
        self._video_sequence = (self._video_sequence + 1) % 2**16
        self.screen.send(
            sequence=self._video_sequence,
            timestamp=self._video_sequence * 1800,
            payload=b"\x10" + bytes(200),
            marker=True,
        )


def _within(at_seconds: float, spans: Spans) -> bool:
    return at_seconds >= 0 and any(
        start - 1e-6 <= at_seconds < start + length - 1e-6 for start, length in spans
    )
