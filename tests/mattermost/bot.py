# SPDX-License-Identifier: Apache-2.0
"""A bot that listens to a call: a small client to test the server with, and no more."""

import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket
from aiortc.sdp import candidate_from_sdp

from tests.mattermost.server import MattermostServer
from tests.mattermost.sockets import PREFIX
from tests.mattermost.state import Call, Job


NTP_SECONDS = 2_208_988_800


@dataclass(slots=True, kw_only=True)
class Heard:
    """What came of one track."""

    packets: list[tuple[float, RtpPacket]] = field(default_factory=list)
    """With the Unix time of their arrival."""
    reports: list[tuple[float, float, int]] = field(default_factory=list)
    """Arrival, the server's time, and the timestamp."""

    @property
    def sound(self) -> list[bytes]:
        """The payloads that are sound, as they came."""
        return [packet.payload for _, packet in self.packets if packet.payload]


class Bot:
    """It answers at once unless `answers` is off, by the way that the offer came."""

    def __init__(
        self,
        server: MattermostServer,
        session: aiohttp.ClientSession,
        call: Call,
        job: Job,
        *,
        uses_channel: bool = False,
    ) -> None:
        self.server = server
        self.call = call
        self.job = job
        self.uses_channel = uses_channel
        self.answers = True
        self.answer_delay_seconds = 0.0
        self.refuses_video = True
        self.edit: Callable[[str], str] = str
        """Changes answers before they are sent."""
        self.events: list[dict[str, Any]] = []
        self.offers: list[str] = []
        self.messages: list[bytes | str] = []
        self.heard: dict[str, Heard] = {}
        """By the id of the track."""
        self.session_id = ""
        self.connection_id = ""
        self.next_seq = 0
        self._http = session
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._signals: asyncio.Queue[tuple[dict[str, Any], bool]] = asyncio.Queue(maxsize=100)
        self._signaller: asyncio.Task[None] | None = None
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.peer.createDataChannel("calls-dc")
        self.channel.on("message", self._on_message)
        self.peer.on("track", self._on_track)

    async def connect(self, *, resume: bool = False) -> None:
        """Open the websocket; ClientError: it is refused."""
        query = (
            {"connection_id": self.connection_id, "sequence_number": str(self.next_seq)}
            if resume
            else {}
        )
        headers = {"Authorization": f"Bearer {self.server.bot_token}"}
        url = f"{self.server.url}/api/v4/websocket"
        self._socket = await self._http.ws_connect(url, headers=headers, params=query)
        self._reader = asyncio.create_task(self._read(self._socket))

    async def join(self, *, makes_offer: bool = True) -> None:
        """Join the call, and make the offer."""
        await self.connect()
        hello = await self.event("hello")
        self.connection_id = self.session_id = hello["data"]["connection_id"]
        await self.act(
            "join", channelID=self.call.channel_id, jobID=self.job.id, dcSignaling=self.uses_channel
        )
        await self.event("join")
        self._signaller = asyncio.create_task(self._signal())
        if makes_offer:
            await self.offer()

    async def offer(self) -> None:
        """Make the first offer."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        await self.send_description("offer", self.peer.localDescription.sdp)

    async def act(self, action: str, **data: Any) -> None:
        """Send an action as text."""
        assert self._socket is not None
        await self._socket.send_json({"action": PREFIX + action, "seq": 1, "data": data})

    async def act_binary(self, action: str, **data: Any) -> None:
        """Send an action as msgpack."""
        assert self._socket is not None
        document = {"action": PREFIX + action, "seq": 1, "data": data}
        await self._socket.send_bytes(msgspec.msgpack.encode(document))

    async def send_description(self, kind: str, text: str) -> None:
        """Send an offer or an answer over the websocket."""
        await self.act_binary("sdp", data=_packed(kind, text))

    async def reconnect(self, *, resume: bool) -> None:
        """Open another websocket, and say which session it goes on with."""
        before = self.connection_id
        if not resume:
            self.events.clear()
        await self.connect(resume=resume)
        if not resume:
            self.connection_id = (await self.event("hello"))["data"]["connection_id"]
        await self.act(
            "reconnect",
            channelID=self.call.channel_id,
            originalConnID=self.session_id,
            prevConnID=before,
        )

    async def event(self, name: str, *, timeout_seconds: float = 10.0) -> dict[str, Any]:
        """The first event of this name, which may have come before."""
        found = await self.server.until(
            lambda: [one for one in self.events if one.get("event") in {name, PREFIX + name}],
            f"event {name}",
            timeout_seconds=timeout_seconds,
        )
        return found[0]

    def has_heard(self, track_id: str) -> bool:
        """Whether packets of this track have come."""
        return track_id in self.heard and bool(self.heard[track_id].packets)

    async def leave(self) -> None:
        """Leave and close everything."""
        if self._socket is not None and not self._socket.closed:
            await self.act("leave")
        await self.close()

    async def close(self) -> None:
        """Close everything, without a word."""
        for task in (self._reader, self._signaller):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()
        await self.peer.close()

    async def is_cut(self) -> None:
        """Wait until the websocket is gone."""
        assert self._reader is not None
        async with asyncio.timeout(10.0):
            await self._reader

    # --- what comes ---

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            event = json.loads(message.data)
            self.events.append(event)
            if "seq" in event:
                self.next_seq = int(event["seq"]) + 1
            if event.get("event") == f"{PREFIX}signal":
                self._signals.put_nowait((json.loads(event["data"]["data"]), False))

    def _on_message(self, data: bytes | str) -> None:
        self.messages.append(data)
        if isinstance(data, bytes) and data[:2] == b"\xcc\x03":
            document = json.loads(zlib.decompress(msgspec.msgpack.decode(data[2:])))
            self._signals.put_nowait((document, True))

    async def _signal(self) -> None:
        early = []
        while True:
            document, is_by_channel = await self._signals.get()
            if document["type"] == "candidate":
                text = document["candidate"]["candidate"].removeprefix("candidate:")
                candidate = candidate_from_sdp(text)
                candidate.sdpMid = document["candidate"]["sdpMid"]
                early.append(candidate)
            else:
                await self._on_description(document, is_by_channel=is_by_channel)
            if self.peer.remoteDescription is not None:
                for candidate in early:
                    await self.peer.addIceCandidate(candidate)
                early.clear()

    async def _on_description(self, document: dict[str, Any], *, is_by_channel: bool) -> None:
        if document["type"] == "answer":
            await self.peer.setRemoteDescription(RTCSessionDescription(**document))
            return
        self.offers.append(document["sdp"])
        if self.answers:
            await self.answer(document["sdp"], by_channel=is_by_channel)

    async def answer(self, offer: str, *, by_channel: bool = False) -> None:
        """Answer an offer."""
        await self.peer.setRemoteDescription(RTCSessionDescription(type="offer", sdp=offer))
        if self.refuses_video:
            for transceiver in self.peer.getTransceivers():
                if transceiver.kind == "video":
                    transceiver.direction = "inactive"
        await self.peer.setLocalDescription(await self.peer.createAnswer())
        text = self.edit(self.peer.localDescription.sdp)
        await asyncio.sleep(self.answer_delay_seconds)
        if by_channel:
            self.channel.send(b"\xcc\x03" + msgspec.msgpack.encode(_packed("answer", text)))
        else:
            await self.send_description("answer", text)

    def _on_track(self, track: MediaStreamTrack) -> None:
        heard = self.heard[track.id] = Heard()
        receiver: RTCRtpReceiver = next(
            one for one in self.peer.getReceivers() if one.track is track
        )

        async def on_packet(packet: RtpPacket, arrival_time_ms: int) -> None:
            heard.packets.append((time.time(), packet))

        async def on_rtcp(packet: AnyRtcpPacket) -> None:
            if isinstance(packet, RtcpSrPacket):
                info = packet.sender_info
                ntp_seconds = info.ntp_timestamp / 2**32 - NTP_SECONDS
                heard.reports.append((time.time(), ntp_seconds, info.rtp_timestamp))

        receiver._handle_rtp_packet = on_packet  # type: ignore[method-assign]
        receiver._handle_rtcp_packet = on_rtcp  # type: ignore[method-assign]


def _packed(kind: str, text: str) -> bytes:
    return zlib.compress(json.dumps({"type": kind, "sdp": text}).encode())


OpenBot = Callable[..., Awaitable[Bot]]
"""Opens bots that have joined a call, and listen unless `makes_offer` is off."""
