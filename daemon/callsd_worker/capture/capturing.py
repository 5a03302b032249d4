# SPDX-License-Identifier: Apache-2.0
"""Captures one call: hears it, keeps what is said, and has it captioned."""

import asyncio
import contextlib
import logging
import math
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from callsd_ipc.names import CAPTURING_PHASE
from callsd_worker.capture.call import CallClient, Ending, Packet, SenderReport, Speaker
from callsd_worker.capture.caption_text import Words
from callsd_worker.capture.live_place import LiveOrder, LivePlacer
from callsd_worker.capture.packet_log import MAX_TRACKS, PacketLogs
from callsd_worker.capture.publisher import Metric, Publisher, Show


log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
"""How much is lost at most when the capture is killed."""

DISK_SECONDS = 5.0
GATHER_SECONDS = 0.04
"""Packets are sent to the captioner together, two of each speaker."""

MAX_PARCEL_PACKETS = 500
MAX_WAITING_PACKETS = 5_000
"""That wait for a captioner: 100 s of one speaker. What is older is left out of the captions."""

REDIAL_SECONDS = 1.0
IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A packet on its way to the captioner; without data: the speaker says no more for now."""

    session_id: str
    sequence: int = 0
    start_sample: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Captions fell short."""

    metric: Metric
    session_id: str = ""
    """Empty: of all speakers."""


Heard = Words | Shortfall


class Captioner(Protocol):
    """Recognises what is said while it is said."""

    def converse(self, sound: AsyncIterator[list[Sound]]) -> AsyncIterator[Heard]:
        """Words come out while sound goes in. Ends, or raises OSError, when the connection does."""


@dataclass(slots=True, kw_only=True)
class _Captioned:
    """A session whose sound goes to the captioner."""

    placer: LivePlacer
    order: LiveOrder = field(default_factory=LiveOrder)
    track_id: str = ""
    """The newest one, as a session that comes back brings another; empty: it has left."""


class Capture:
    """A listener of a call. Belongs to one event loop."""

    def __init__(
        self,
        directory: Path,
        captioner: Captioner | None,
        *,
        clock: Callable[[], float],
        min_free_bytes: int,
        report: Callable[[str], None],
    ) -> None:
        """`directory` takes the packets; `report` is told the phase. Raises OSError."""
        self._directory = directory
        self._captioner = captioner
        self._clock = clock
        self._min_free_bytes = min_free_bytes
        self._report = report
        self._logs = PacketLogs(directory)
        self._start_seconds = clock()
        self._speakers: dict[str, str] = {}
        """Session of each track."""
        self._captioned: dict[str, _Captioned] = {}
        """By session."""
        self._sound: deque[Sound] = deque()
        self._has_sound = asyncio.Event()
        self._publisher = Publisher()
        self._has_words = asyncio.Event()
        self.is_joined = False
        """Whether we have been in the call."""
        self.has_refused_tracks = False
        """Whether there were more tracks than are kept."""
        self.caption_count = 0
        self.problem = ""
        """Why what is said is not kept any more; empty: it is."""

    async def run(self, client: CallClient) -> Ending:
        """Until the call is over; raises JoinError."""
        self._report("joining")
        work = [self._keep(client)]
        if self._captioner is not None:
            work += [self._caption(self._captioner), self._publish(client)]
        tasks = [asyncio.create_task(one) for one in work]
        try:
            return await client.run()
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("a part of the capture failed", exc_info=result)
            with contextlib.suppress(OSError):
                self._logs.close()

    @property
    def lost_seconds(self) -> list[tuple[Speaker, float]]:
        """About how much of each speaker's sound came and could not be kept, if any."""
        return self._logs.lost_seconds

    # The call

    def joined(self) -> None:
        """We are in the call."""
        self.is_joined = True
        self._report(CAPTURING_PHASE)

    def recording_started(self, time_seconds: float) -> None:
        """By the server, the recording began at this time."""
        self._logs.recording_started(time_seconds)

    def track(self, track_id: str, speaker: Speaker) -> None:
        """A track has begun, or more is known of its speaker."""
        if not self._logs.track(track_id, speaker):
            if not self.has_refused_tracks:
                log.warning("no more than %d tracks are kept", MAX_TRACKS)
            self.has_refused_tracks = True
            return
        session_id = speaker.session_id
        if self._speakers.get(track_id) != session_id:
            self._speakers[track_id] = session_id
            captioned = self._captioned.setdefault(
                session_id, _Captioned(placer=LivePlacer(self._start_seconds))
            )
            self._send_rest(session_id, captioned)
            captioned.track_id = track_id
            captioned.placer.restart()

    def packet(self, track_id: str, packet: Packet) -> None:
        """Sound has come."""
        self._logs.packet(track_id, packet)
        session_id = self._speakers.get(track_id, "")
        captioned = self._captioned.get(session_id)
        if self._captioner is None or captioned is None or captioned.track_id != track_id:
            return
        for ordered in captioned.order.put(packet):
            self._place(session_id, captioned, ordered)

    def _place(self, session_id: str, captioned: _Captioned, packet: Packet) -> None:
        if (place := captioned.placer.place(packet)) is not None:
            self._send(
                Sound(
                    session_id=session_id,
                    sequence=place.sequence,
                    start_sample=place.start_sample,
                    data=packet.payload,
                )
            )

    def _send_rest(self, session_id: str, captioned: _Captioned) -> None:
        """What waits for packets before it waits no longer."""
        for packet in captioned.order.rest():
            self._place(session_id, captioned, packet)

    def sender_report(self, track_id: str, report: SenderReport) -> None:
        """The sender's clock has been told."""
        self._logs.sender_report(track_id, report)

    def muted(self, session_id: str) -> None:
        """Nothing more comes for now: what was said is captioned at once."""
        self._logs.muted(session_id)
        captioned = self._captioned.get(session_id)
        if self._captioner is not None and captioned is not None and captioned.track_id:
            self._send_rest(session_id, captioned)
            self._send(Sound(session_id=session_id))

    def track_ended(self, track_id: str) -> None:
        """Its speaker has left."""
        self._logs.track_ended(track_id)
        session_id = self._speakers.pop(track_id, "")
        captioned = self._captioned.get(session_id)
        if captioned is not None and captioned.track_id == track_id:
            self._send_rest(session_id, captioned)
            captioned.track_id = ""
            self._publisher.gone(session_id)

    def _send(self, sound: Sound) -> None:
        if len(self._sound) >= MAX_WAITING_PACKETS:
            lost = self._sound.popleft()
            self._publisher.count(lost.session_id, Metric.PACKETS_DROPPED, self._clock())
        self._sound.append(sound)
        self._has_sound.set()

    # What is said is kept

    async def _keep(self, client: CallClient) -> None:
        try:
            await self._keep_on(client)
        except Exception:
            log.exception("nothing more can be kept")
            self.problem = "the rest could not be kept, by a mistake of this program: see the log"
            client.request_stop()

    async def _keep_on(self, client: CallClient) -> None:
        looked = -math.inf
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await asyncio.to_thread(self._logs.flush)
                if (now := self._clock()) >= looked + DISK_SECONDS:
                    looked = now
                    usage = await asyncio.to_thread(shutil.disk_usage, self._directory)
                    if usage.free < self._min_free_bytes:
                        self.problem = "the capture was ended before the disk was full"
                        client.request_stop()
            except OSError as problem:
                log.warning("some sound could not be kept: %s", problem)

    # It is captioned

    async def _caption(self, captioner: Captioner) -> None:
        told = ""
        while True:
            try:
                async for heard in captioner.converse(self._parcels()):
                    told = ""
                    self._take(heard)
            except OSError as problem:
                # Not once a second, for a call that is not captioned at all.
                if str(problem) != told:
                    told = str(problem)
                    log.warning("captions are interrupted: %s", told)
            await asyncio.sleep(REDIAL_SECONDS)

    async def _parcels(self) -> AsyncIterator[list[Sound]]:
        while True:
            await self._has_sound.wait()
            await asyncio.sleep(GATHER_SECONDS)
            parcel: list[Sound] = []
            # A pause is of what is before it.
            while (
                self._sound
                and len(parcel) < MAX_PARCEL_PACKETS
                and not (parcel and not parcel[-1].data)
            ):
                parcel.append(self._sound.popleft())
            if not self._sound:
                self._has_sound.clear()
            if parcel:
                yield parcel

    def _take(self, heard: Heard) -> None:
        match heard:
            case Words():
                self._publisher.words(heard)
            case Shortfall(session_id=""):
                self._publisher.fell_behind(self._clock())
            case Shortfall():
                self._publisher.count(heard.session_id, heard.metric, self._clock())
        self._has_words.set()

    async def _publish(self, client: CallClient) -> None:
        while True:
            now = self._clock()
            for message in self._publisher.take(now):
                if isinstance(message, Show):
                    self.caption_count += client.show_caption(
                        message.session_id, message.text, message.new_audio_seconds
                    )
                else:
                    client.count(message.session_id, message.metric)
            again = self._publisher.next_seconds()
            pause = IDLE_SECONDS if again is None else min(max(again - now, 0.0), IDLE_SECONDS)
            self._has_words.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._has_words.wait()
