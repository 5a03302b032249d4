# SPDX-License-Identifier: Apache-2.0
"""What we use of aiortc and aioice that is not part of their interface, all in one place.

aiortc decodes every track that it receives, each in a thread, through a jitter buffer that throws
away the packets' times. We want the packets, so its transport hands them to us before that.
`tests/capture/test_mattermost_library.py` fails when a newer aiortc works differently.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from aiortc import RTCDtlsTransport, RTCIceTransport, RTCPeerConnection


log = logging.getLogger(__name__)

# It tells of each address that it tries, at the level at which we tell of a call.
logging.getLogger("aioice").setLevel(logging.WARNING)

MAX_REPORTS = 10
"""So many exceptions are logged: there are fifty packets a second."""

OnDatagram = Callable[[bytes], None]


def transport_of(connection: RTCPeerConnection) -> RTCDtlsTransport:
    """The transport of a connection that has a data channel: the only one there is."""
    assert connection.sctp is not None
    return connection.sctp.transport


def take_packets(
    transport: RTCDtlsTransport, on_packet: OnDatagram, on_reports: OnDatagram
) -> None:
    """Have decrypted packets of RTP and of RTCP handed over, and nothing else done with them."""
    call = _Careful()

    async def handle_packet(data: bytes, arrival_time_ms: int) -> None:  # noqa: ARG001 - theirs
        call(on_packet, data)

    async def handle_reports(data: bytes) -> None:
        call(on_reports, data)

    for name, handler in (
        ("_handle_rtp_data", handle_packet),
        ("_handle_rtcp_data", handle_reports),
    ):
        if not callable(getattr(transport, name, None)):
            raise TypeError(f"this release of aiortc has no {name}")
        setattr(transport, name, handler)


def limit_gathering(transport: RTCIceTransport, seconds: float) -> None:
    """Wait no longer for STUN and TURN servers. Theirs is 5 s, which a join has not."""
    ice = transport._connection  # noqa: SLF001
    # A name of the instance, which its own `gather_candidates` finds before the class's.
    gather: Any = ice.get_component_candidates
    ice.get_component_candidates = functools.partial(gather, timeout=seconds)  # type: ignore[method-assign]


class _Careful:
    """Calls handlers: an exception would end the library's loop, and with it the connection."""

    def __init__(self) -> None:
        self._reports_left = MAX_REPORTS

    def __call__(self, handler: OnDatagram, data: bytes) -> None:
        try:
            handler(data)
        except Exception:
            if self._reports_left:
                self._reports_left -= 1
                log.exception("a packet could not be handled")
