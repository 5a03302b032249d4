# SPDX-License-Identifier: Apache-2.0
"""Calls of Mattermost, as its Calls plugin hands them to a job service."""

import base64
import json
from dataclasses import dataclass, field
from urllib.parse import urlencode

from callsd_daemon.domain.work import Secrets


PLUGIN_PATH = "/plugins/com.mattermost.calls"

PAGE_HEADERS = {"X-Calls-Recorder": "true"}
"""Without it the plugin serves its page to nobody."""

PAGE_READY = "window.callsClient && window.callsClient.connected && !window.callsClient.closed"
PAGE_OVER = "!window.callsClient || window.callsClient.closed"
PAGE_LEAVE = "window.callsClient && window.callsClient.disconnect()"
"""The page tells by these how the call is."""

JOIN_SECONDS = 45.0
"""The plugin waits for a minute; what has begun by then can still be told in time."""


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


def page_fragment(token: str) -> str:
    """What the page takes its token from; the fragment of an address is sent to no server."""
    return base64.urlsafe_b64encode(json.dumps({"token": token}).encode()).decode()
