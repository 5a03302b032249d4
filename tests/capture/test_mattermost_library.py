# SPDX-License-Identifier: Apache-2.0

import asyncio
import socket
import threading
import time

from aiortc import AudioStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from callsd_worker.mattermost import library
from callsd_worker.mattermost.data_channel import Description
from callsd_worker.mattermost.ice_servers import ice_servers
from callsd_worker.mattermost.peer import Peer
from callsd_worker.mattermost.rtp import RtcpSenderReport, RtpPacket


async def test_takes_packets_before_the_library_does() -> None:
    """Packets and reports of a track come to us as they were sent, and no thread decodes them.

    This uses private parts of aiortc: when it fails, look at what `library` replaces.
    """
    packets: list[RtpPacket] = []
    has_enough = asyncio.Event()
    reports: list[RtcpSenderReport] = []

    def report(one: RtcpSenderReport) -> None:
        reports.append(one)
        if len(packets) >= 10:
            has_enough.set()

    offers: asyncio.Queue[Description] = asyncio.Queue()
    peer = Peer(
        [],
        gather_seconds=0.5,
        on_ready=lambda: None,
        on_offer=offers.put_nowait,
        on_packet=packets.append,
        on_report=report,
    )
    running = asyncio.create_task(peer.run())
    server = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    async with asyncio.timeout(20.0):
        offer = await peer.offer()
        await server.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
        await server.setLocalDescription(await server.createAnswer())
        peer.accept(Description(type="answer", sdp=server.localDescription.sdp))
        await peer.ready
        server.addTransceiver(AudioStreamTrack(), direction="sendonly")
        await server.setLocalDescription(await server.createOffer())
        answer, _ = peer.answer(Description(type="offer", sdp=server.localDescription.sdp))
        await server.setRemoteDescription(RTCSessionDescription(sdp=answer.sdp, type="answer"))
        await has_enough.wait()
    assert all(packet.payload for packet in packets)
    assert {report.ssrc for report in reports} == {packets[0].ssrc}
    assert not [thread for thread in threading.enumerate() if "decoder" in thread.name]
    running.cancel()
    await peer.close()
    await server.close()


async def test_does_not_wait_for_servers_that_are_away() -> None:
    """A STUN server that does not answer costs no more than what we allow it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        connection = RTCPeerConnection(
            RTCConfiguration(iceServers=ice_servers([f"stun:127.0.0.1:{silent.getsockname()[1]}"]))
        )
        connection.createDataChannel("any")
        library.limit_gathering(library.transport_of(connection).transport, 0.5)
        began_seconds = time.monotonic()
        await connection.setLocalDescription(await connection.createOffer())
        assert 0.4 < time.monotonic() - began_seconds < 2.0
        assert "typ host" in connection.localDescription.sdp
        await connection.close()
