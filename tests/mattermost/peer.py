# SPDX-License-Identifier: Apache-2.0
"""The media transport to one bot: ICE, DTLS and the data channel, without any media of aiortc.

aiortc's RTCPeerConnection would encode what is sent and write its own SDP, so only the transports
below it are used, and RTP is protected and sent as it is.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from aiortc import RTCDataChannel, RTCIceCandidate
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.sdp import MediaDescription, candidate_to_sdp
from pylibsrtp import Session


HOST = "127.0.0.1"
CONNECT_SECONDS = 20.0
CLOSE_SECONDS = 5.0


class Peer:
    """One bot's transport. `on_message` is told what comes on the data channel."""

    def __init__(
        self, certificate: RTCCertificate, on_message: Callable[[bytes | str], None]
    ) -> None:
        self._gatherer = RTCIceGatherer(iceServers=[])
        self._ice = RTCIceTransport(self._gatherer)
        self._dtls = RTCDtlsTransport(self._ice, [certificate])
        self._dtls._set_role("client")  # as the answerer: `a=setup:active`
        self._sctp = RTCSctpTransport(self._dtls)
        self._sctp.on("datachannel", self._on_channel)
        self._on_message = on_message
        self._channel: RTCDataChannel | None = None
        self.is_open = asyncio.Event()
        """The data channel is open."""
        self.is_dropping = False
        """No datagram gets through, in either direction."""

    async def gather(self) -> None:
        """Open the socket, on the loopback interface alone, which aioice itself leaves out."""
        connection = self._gatherer._connection
        connection._local_candidates_start = True
        connection._local_candidates += await connection.get_component_candidates(
            component=1, addresses=[HOST]
        )
        connection._local_candidates_end = True
        for protocol in connection._protocols:
            self._make_droppable(protocol)

    def candidates(self) -> list[str]:
        """Ours, as the values of `a=candidate:`."""
        return [candidate_to_sdp(one) for one in self._gatherer.getLocalCandidates()]

    @property
    def ufrag(self) -> str:
        return str(self._gatherer.getLocalParameters().usernameFragment)

    @property
    def password(self) -> str:
        return str(self._gatherer.getLocalParameters().password)

    async def connect(self, media: MediaDescription) -> None:
        """Connect to the bot by what the data channel's section of its offer says.

        TimeoutError, ConnectionError: it was not to be reached.
        """
        for candidate in media.ice_candidates:
            await self.add_candidate(candidate)
        assert media.dtls is not None
        assert media.ice is not None
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._ice.start(media.ice)
            if self._ice.state != "completed":
                raise ConnectionError("ICE failed")
            await self._dtls.start(media.dtls)
            if self._dtls.state != "connected":
                raise ConnectionError("DTLS failed")
            await self._sctp.start(media.sctpCapabilities, media.sctp_port or 5000)

    async def add_candidate(self, candidate: RTCIceCandidate) -> None:
        """Take a candidate of the bot; those over TCP and by mDNS lead nowhere."""
        if candidate.protocol.lower() == "udp" and not candidate.ip.endswith(".local"):
            await self._ice.addRemoteCandidate(candidate)

    def send_message(self, message: bytes | str) -> None:
        """Send on the data channel, if there is one."""
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(message)

    def send_rtp(self, packet: bytes, *, is_rtcp: bool = False) -> bool:
        """Send a packet of RTP or RTCP; False: there is no connection."""
        session: Session | None = self._dtls._tx_srtp
        pair = self._ice._connection._nominated.get(1)
        if self._dtls.state != "connected" or session is None or pair is None:
            return False
        data = session.protect_rtcp(packet) if is_rtcp else session.protect(packet)
        pair.protocol.transport.sendto(data, pair.remote_addr)
        return True

    async def close(self) -> None:
        """Close all of it, and tell the bot."""
        with contextlib.suppress(TimeoutError):  # then it is for the end of the process
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sctp.stop()
                await self._dtls.stop()
                await self._ice.stop()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == "calls-dc":
            self._channel = channel
            channel.on("message", self._on_message)
            self.is_open.set()

    def _make_droppable(self, protocol: Any) -> None:
        received, transport = protocol.datagram_received, protocol.transport

        def receive(data: bytes, address: tuple[Any, ...]) -> None:
            if not self.is_dropping:
                received(data, address)

        protocol.datagram_received = receive
        protocol.transport = _Droppable(transport, lambda: self.is_dropping)


class _Droppable:
    """A transport of datagrams that sends nothing while it is dropping."""

    def __init__(self, transport: asyncio.DatagramTransport, drops: Callable[[], bool]) -> None:
        self._transport = transport
        self._drops = drops

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        if not self._drops() and not self._transport.is_closing():
            self._transport.sendto(data, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
