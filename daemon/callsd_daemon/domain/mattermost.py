# SPDX-License-Identifier: Apache-2.0
"""Calls of Mattermost, as its Calls plugin hands them to a job service."""

import base64
import json
import re
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from callsd_daemon.domain.work import Secrets
from callsd_ipc.names import PLUGIN_PATH


PAGE_HEADERS = {"X-Calls-Recorder": "true"}
"""Without it the plugin serves its page to nobody."""

PAGE_BEGUN = "window.callsClient"
PAGE_READY = "window.callsClient && window.callsClient.connected && !window.callsClient.closed"
PAGE_OVER = "!window.callsClient || window.callsClient.closed"
PAGE_LEAVE = "window.callsClient && window.callsClient.disconnect()"
"""The page tells by these how the call is."""

JOIN_SECONDS = 45.0
"""The plugin waits for a minute; what has begun by then can still be told in time."""

PATIENCE_SECONDS = 12.0
"""A page that has not begun to join by then is opened anew: it may have been told to slow down. One
that has begun is waited for: with its connection the plugin would end the recording."""

PAGE_SECONDS, PAGES_AT_ONCE = 4.0, 2
"""A site answers the bot ten requests at once, and one a second after that, for all its pages
together; a page makes four."""


MAX_SITE_CHARACTERS = 1024
MAX_TOKEN_CHARACTERS = 1024

_IDENTIFIER = re.compile(r"[a-z0-9]{26}")
_PORT = re.compile(r":[0-9]*$")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class MattermostCall:
    """A call, and the plugin's own job in it. Identifiers are the plugin's: 26 of a-z and 0-9."""

    site_url: str
    """Without a path: http://… or https://…"""
    call_id: str
    """The channel's."""
    post_id: str
    """Of the call's post; results go into its thread."""
    job_id: str
    """Of the recording or the transcription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSecrets(Secrets):
    """What a site knows its bot by."""

    token: str = field(default="", repr=False)


def page_url(call: MattermostCall) -> str:
    """The plugin's page that shows a call to be recorded."""
    query = urlencode({"call_id": call.call_id, "job_id": call.job_id})
    return f"{call.site_url}{PLUGIN_PATH}/standalone/recording.html?{query}"


def page_origins(call: MattermostCall) -> tuple[str, ...]:
    """Who else gets the page's headers: the site with TLS, where many send whoever comes without.

    Never the other way, as nobody is to be sent from TLS to a site without.
    """
    parts = urlsplit(call.site_url)
    host = _PORT.sub("", parts.netloc)
    return (f"https://{host}",) if parts.scheme == "http" else ()


def page_fragment(token: str) -> str:
    """What the page takes its token from; the fragment of an address is sent to no server."""
    return base64.urlsafe_b64encode(json.dumps({"token": token}).encode()).decode()


def is_identifier(text: str) -> bool:
    """Whether it is an identifier as Mattermost makes them."""
    return bool(_IDENTIFIER.fullmatch(text))


def is_token(text: str) -> bool:
    """Whether it can be a token, and a part of a header."""
    return len(text) <= MAX_TOKEN_CHARACTERS and bool(_PRINTABLE.fullmatch(text))


def is_site(url: str) -> bool:
    """Whether it is a site's address, and no more than that; the plugin allows no path either."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        return False
    is_bare = not (parts.path or "?" in url or "#" in url or "@" in parts.netloc)
    return (
        is_address
        and is_bare
        and len(url) <= MAX_SITE_CHARACTERS
        and bool(_PRINTABLE.fullmatch(url))
    )
