# SPDX-License-Identifier: Apache-2.0
"""The WebRTC connection: one transport, a data channel, and the packets of all voices."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

from callsd_worker.mattermost import data_channel, library, rtp, sdp
from callsd_worker.mattermost.data_channel import Description
from callsd_worker.mattermost.rtp import RtcpSenderReport, RtpPacket
from callsd_worker.mattermost.sdp import Voice


log = logging.getLogger(__name__)

MAX_EARLY_CANDIDATES = 20
"""Candidates that come before the server's answer, which happens."""

MAX_CANDIDATES = 64


class PeerError(Exception):
    """There is no connection, or no longer."""


class Peer:
    """Makes the first offer, answers all that the server makes, and hands over what is heard."""

    def __init__(
        self,
        servers: Sequence[RTCIceServer],
        *,
        gather_seconds: float,
        on_ready: Callable[[], None],
        on_offer: Callable[[Description], None],
        on_packet: Callable[[RtpPacket], None],
        on_report: Callable[[RtcpSenderReport], None],
    ) -> None:
        # Without a list the library would ask a server of Google's.
        configuration = RTCConfiguration(
            iceServers=list(servers), bundlePolicy=RTCBundlePolicy.MAX_BUNDLE
        )
        self._connection = RTCPeerConnection(configuration)
        self._channel = self._connection.createDataChannel(data_channel.LABEL)
        self._on_ready = on_ready
        self._on_offer = on_offer
        self._on_packet = on_packet
        self._on_report = on_report
        self._ours = ""
        self._transport: sdp.Transport | None = None
        self._inbox: asyncio.Queue[Description | str] = asyncio.Queue(MAX_CANDIDATES)
        self._version = int(time.time())
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when packets can come; or PeerError."""
        self.ended = asyncio.Event()
        self.heard_seconds = time.monotonic()
        """When something came last (monotonic): of sound, or the server's reports."""
        transport = library.transport_of(self._connection)
        library.limit_gathering(transport.transport, gather_seconds)
        library.take_packets(transport, self._take_packet, self._take_reports)
        self._connection.on("connectionstatechange", self._state_changed)
        self._channel.on("open", self._state_changed)
        self._channel.on("message", self._take_message)

    async def offer(self) -> Description:
        """Make the first offer, with all our candidates in it.

        Raises PeerError.
        """
        try:
            await self._connection.setLocalDescription(await self._connection.createOffer())
        except (OSError, ValueError) as problem:
            raise PeerError(f"the network of this machine cannot be used: {problem}") from None
        self._ours = self._connection.localDescription.sdp
        return Description(type="offer", sdp=self._ours)

    def accept(self, answer: Description) -> None:
        """Take the server's answer to the first offer; `run` does the rest."""
        if self._transport is not None:
            log.warning("the call's server has answered twice")
            return
        try:
            self._transport = sdp.Transport.of(self._ours, answer.sdp)
        except ValueError as problem:
            self._fail(f"the call's server has given no answer that can be used: {problem}")
            return
        self._put(answer)

    def add_candidate(self, candidate: str) -> None:
        """Take an address of the server's, as SDP has it; `run` does the rest."""
        self._put(candidate)

    def _put(self, item: Description | str) -> None:
        try:
            self._inbox.put_nowait(item)
        except asyncio.QueueFull:
            log.warning("the call's server has more addresses than we try")

    async def run(self) -> None:
        """Apply the server's answer and its addresses, in whatever order they come."""
        early: list[str] = []
        is_accepted = False
        while True:
            item = await self._inbox.get()
            if isinstance(item, Description):
                await self._apply(item)
                is_accepted = True
                for candidate in early:
                    await self._try(candidate)
            elif is_accepted:
                await self._try(item)
            elif len(early) < MAX_EARLY_CANDIDATES:
                early.append(item)

    async def _apply(self, answer: Description) -> None:
        try:
            await self._connection.setRemoteDescription(
                RTCSessionDescription(sdp=answer.sdp, type="answer")
            )
        except Exception as problem:  # noqa: BLE001 - whatever the library makes of a stranger's text
            self._fail(f"the call's server has given no answer that can be used: {problem!r}")

    async def _try(self, text: str) -> None:
        try:
            candidate = candidate_from_sdp(text.removeprefix("candidate:"))
            if candidate.protocol.lower() != "udp" or candidate.ip.endswith(".local"):
                return  # the library knows no TCP here, and would ask the whole network for a name
            # All there is goes over the transport of the data channel.
            candidate.sdpMid = self._connection.sctp.mid if self._connection.sctp else None
            await self._connection.addIceCandidate(candidate)
        except Exception as problem:  # noqa: BLE001 - likewise
            log.warning("an address of the call's server cannot be used: %r", problem)

    def answer(self, offer: Description) -> tuple[Description, list[Voice]]:
        """Answer an offer of the server's; returns all voices in it, too.

        Raises PeerError when that cannot be done.
        """
        if self._transport is None:
            raise PeerError("an offer before we have a connection")
        try:
            sections = sdp.parse(offer.sdp)
        except ValueError as problem:
            raise PeerError(f"an offer that cannot be read: {problem}") from None
        self._version += 1
        answer = sdp.answer(sections, self._transport, self._version)
        return Description(type="answer", sdp=answer), sdp.voices(sections)

    def send(self, message: bytes) -> None:
        """Send a message over the data channel, if it is there."""
        if self._channel.readyState == "open":
            self._channel.send(message)

    async def close(self) -> None:
        """End it."""
        await self._connection.close()

    def _state_changed(self) -> None:
        state = self._connection.connectionState
        log.info("the connection to the call's server is %s", state)
        if state in ("failed", "closed"):
            self.ended.set()
            self._fail(f"the connection to the call's server is {state}")
        elif state == "connected" and self._channel.readyState == "open" and not self.ready.done():
            self.ready.set_result(None)
            self._on_ready()

    def _fail(self, message: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(PeerError(message))
            self.ready.exception()  # whoever waits is told; nobody has to

    def _take_message(self, message: bytes | str) -> None:
        description = data_channel.description_in(message)
        if description is not None and description.type == "offer":
            self._on_offer(description)

    def _take_packet(self, data: bytes) -> None:
        self.heard_seconds = time.monotonic()
        packet = rtp.parse_packet(data)
        if packet is not None:
            self._on_packet(packet)

    def _take_reports(self, data: bytes) -> None:
        self.heard_seconds = time.monotonic()
        for report in rtp.sender_reports(data):
            self._on_report(report)
