# SPDX-License-Identifier: Apache-2.0
"""STUN and TURN servers, as a stranger lists them."""

from typing import Any

from aiortc import RTCIceServer
from aiortc.rtcicetransport import parse_stun_turn_uri


MAX_SERVERS = 16
MAX_TEXT = 1024


def ice_servers(listed: Any) -> list[RTCIceServer]:
    """Those of a list that can be used; what is malformed is left out."""
    if not isinstance(listed, list):
        return []
    found = []
    for item in listed[:MAX_SERVERS]:
        server = {"urls": item} if isinstance(item, str) else item
        if not isinstance(server, dict):
            continue
        urls = server.get("urls")
        if not isinstance(urls, list):
            urls = [urls]
        usable = [url for url in urls[:MAX_SERVERS] if _fits(url)]
        if usable:
            found.append(
                RTCIceServer(
                    urls=usable,
                    username=_text(server.get("username")),
                    credential=_text(server.get("credential")),
                )
            )
    return found


def _fits(url: Any) -> bool:
    if not isinstance(url, str) or len(url) > MAX_TEXT:
        return False
    try:
        port: int = parse_stun_turn_uri(url)["port"]
    except ValueError:
        return False
    return 0 < port < 2**16


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT else None
