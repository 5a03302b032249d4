# SPDX-License-Identifier: Apache-2.0
"""The plugin's routes that are not its bot's alone: the recording page, and what it looks up."""

from pathlib import Path

from aiohttp import web

from tests.mattermost.answers import json_answer, page_not_found, status_answer
from tests.mattermost.routes import ID, PLUGIN
from tests.mattermost.state import State


SITE = Path(__file__).with_name("site")
PLUGIN_VERSION = "1.12.2"


class Pages:
    """The page is one of our own: it has the hooks of the real one. `sample` = sound to play."""

    def __init__(self, state: State, sample: Path | None) -> None:
        self._state = state
        self._sample = sample

    def table(self) -> list[web.RouteDef]:
        """Where is what."""
        return [
            web.get(f"{PLUGIN}/version", self._version),
            web.get(f"{PLUGIN}/config", self._config),
            web.get(f"{PLUGIN}/turn-credentials", self._turn),
            web.get(f"{PLUGIN}/calls/{{call_id:{ID}}}/active", self._active),
            web.get(f"{PLUGIN}/standalone/recording.html", self._page),
            web.get(f"{PLUGIN}/standalone/recording.js", self._script),
            web.get(f"{PLUGIN}/standalone/sample", self._sound),
        ]

    async def _version(self, _request: web.Request) -> web.StreamResponse:
        return json_answer({"version": PLUGIN_VERSION, "build": "test", "rtcd": False})

    async def _config(self, _request: web.Request) -> web.StreamResponse:
        return json_answer(
            {
                "AllowEnableCalls": True,
                "DefaultEnabled": True,
                "ICEServers": None,
                "ICEServersConfigs": None,
                "MaxCallParticipants": 0,
                "NeedsTURNCredentials": False,
                "AllowScreenSharing": True,
                "EnableRecordings": True,
                "EnableTranscriptions": True,
                "EnableLiveCaptions": True,
                "MaxRecordingDuration": 60,
                "sku_short_name": "enterprise",
                "EnableSimulcast": False,
                "EnableRinging": False,
                "EnableAV1": False,
                "EnableDCSignaling": True,
                "HostControlsAllowed": True,
            }
        )

    async def _turn(self, _request: web.Request) -> web.StreamResponse:
        # There is no secret: a client that treats this as fatal does so on real servers, too.
        return status_answer(403, "TURN secret is not set")

    async def _active(self, request: web.Request) -> web.StreamResponse:
        call = self._state.ongoing(request.match_info["call_id"])
        return json_answer({"active": call is not None})

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        text = (SITE / "recording.html").read_text(encoding="utf-8")
        if self._sample is not None:
            text = text.replace("<html ", '<html data-sample="sample" ', 1)
        return web.Response(text=text, content_type="text/html")

    async def _script(self, _request: web.Request) -> web.StreamResponse:
        text = (SITE / "recording.js").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="text/javascript")

    async def _sound(self, _request: web.Request) -> web.StreamResponse:
        return page_not_found() if self._sample is None else web.FileResponse(self._sample)
