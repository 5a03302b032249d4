# SPDX-License-Identifier: Apache-2.0
"""What the plugin and its server are asked by HTTP while we are in a call."""

import json
import re
import unicodedata
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiortc import RTCIceServer

from callsd_ipc.names import PLUGIN_PATH
from callsd_worker.mattermost.ice_servers import ice_servers
from callsd_worker.mattermost.settings import Call, Clock


ANSWER_SECONDS = 5.0
MAX_ANSWER_BYTES = 1024**2
MAX_NAME_CHARACTERS = 128

_IDENTIFIER = re.compile(r"[a-z0-9]{1,64}")
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


class RestError(Exception):
    """Not answered as hoped; the message is for a person, and holds no token."""

    def __init__(self, message: str, *, status: int = 0, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0: there was no answer."""
        self.is_temporary = is_temporary
        """Whether asking again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the plugin tells its clients, as far as we use it."""

    ice_servers: list[RTCIceServer]
    has_data_channel_signaling: bool
    needs_turn_credentials: bool
    """Whether there may be more ICE servers to ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Who somebody is."""

    user_id: str
    name: str
    """To show; without control characters, and maybe empty."""


class ServerClock:
    """How the server's clock differs from ours, from the dates of its answers (whole seconds)."""

    def __init__(self) -> None:
        self._low_seconds = float("-inf")
        self._high_seconds = float("inf")

    def observe(self, date: str, *, sent_seconds: float, received_seconds: float) -> None:
        """Take the date of an answer and our own times around it."""
        try:
            at_seconds = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        low, high = sent_seconds - at_seconds - 1.0, received_seconds - at_seconds
        low, high = max(low, self._low_seconds), min(high, self._high_seconds)
        if low <= high:
            self._low_seconds, self._high_seconds = low, high

    @property
    def ahead_seconds(self) -> float:
        """To be added to a time of the server's to have it on our clock; 0 if that may be right."""
        if self._low_seconds <= 0.0 <= self._high_seconds:
            return 0.0
        return (self._low_seconds + self._high_seconds) / 2


class Rest:
    """The server, as the bot with one token uses it by HTTP. All methods raise RestError."""

    def __init__(
        self, session: aiohttp.ClientSession, call: Call, token: str, clock: Clock
    ) -> None:
        self._session = session
        self._call = call
        self._token = token
        self._clock = clock
        self.server_clock = ServerClock()

    async def config(self) -> Config:
        """How calls work on this server."""
        answer = _object(await self._get(f"{PLUGIN_PATH}/config"))
        servers = ice_servers(answer.get("ICEServersConfigs")) or ice_servers(
            answer.get("ICEServers")
        )
        return Config(
            ice_servers=servers,
            has_data_channel_signaling=answer.get("EnableDCSignaling") is True,
            needs_turn_credentials=answer.get("NeedsTURNCredentials") is not False,
        )

    async def turn_credentials(self) -> list[RTCIceServer]:
        """Servers to relay through, for a short time; none: the server has none."""
        try:
            return ice_servers(await self._get(f"{PLUGIN_PATH}/turn-credentials"))
        except RestError as problem:
            if problem.is_temporary:
                raise
            return []

    async def is_active(self) -> bool:
        """Whether the call goes on, by the plugin."""
        answer = _object(await self._get(f"{PLUGIN_PATH}/calls/{self._call.call_id}/active"))
        is_active = answer.get("active")
        if not isinstance(is_active, bool):
            raise RestError("the plugin does not tell whether the call goes on")
        return is_active

    async def profile(self, session_id: str) -> Profile:
        """Whose session it is; only while it is in the call."""
        path = (
            f"{PLUGIN_PATH}/bot/calls/{self._call.call_id}/sessions/{_checked(session_id)}/profile"
        )
        return _profile(await self._get(path))

    async def user(self, user_id: str) -> Profile:
        """Who a user is."""
        return _profile(await self._get(f"/api/v4/users/{_checked(user_id)}"))

    async def _get(self, path: str) -> Any:
        sent_seconds = self._clock()
        try:
            async with self._session.get(
                self._call.site_url + path,
                headers={"Authorization": f"Bearer {self._token}"},
                allow_redirects=False,  # the token is for this site alone
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            ) as response:
                status, date = response.status, response.headers.get("Date", "")
                content = await _content(response.content)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as problem:
            # Not its text: that may be an address or a header as we sent them.
            kind = type(problem).__name__
            raise RestError(f"{self._call.site_url} cannot be reached ({kind})") from None
        self.server_clock.observe(date, sent_seconds=sent_seconds, received_seconds=self._clock())
        answer = _decoded(content)
        if status == 200 and answer is not None:  # noqa: PLR2004 - OK
            return answer
        raise RestError(
            f"{self._call.site_url} answers {status} to {path.partition('?')[0]}",
            status=status,
            is_temporary=_is_temporary(status, answer),
        )


def _is_temporary(status: int, answer: Any) -> bool:
    # While the plugin is down its routes are 500, or 404 with a text; its own 404 is an object.
    # 200 that cannot be read is a page of some proxy's.
    return (
        status in (200, 408, 429)
        or status >= 500  # noqa: PLR2004 - of the server's
        or (status == 404 and not isinstance(answer, dict))  # noqa: PLR2004 - Not Found
    )


async def _content(stream: aiohttp.StreamReader) -> bytes:
    content = bytearray()
    async for piece in stream.iter_any():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise ValueError
    return bytes(content)


def _decoded(content: bytes) -> Any:
    """Decode JSON; None when it is none. The plugin's answer null is an empty object."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return {} if value is None else value


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise RestError("the server's answer is not what it should be")
    return answer


def _checked(identifier: str) -> str:
    if not _IDENTIFIER.fullmatch(identifier):
        raise RestError("not an identifier", is_temporary=False)
    return identifier


def _profile(answer: Any) -> Profile:
    user = _object(answer)
    names = [_name(user.get("first_name")), _name(user.get("last_name"))]
    name = " ".join(name for name in names if name) or _name(user.get("username"))
    user_id = user.get("id")
    return Profile(
        user_id=user_id if isinstance(user_id, str) and _IDENTIFIER.fullmatch(user_id) else "",
        name=name[:MAX_NAME_CHARACTERS].strip(),
    )


def _name(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(
        character
        for character in value[: 4 * MAX_NAME_CHARACTERS]
        if unicodedata.category(character) not in _CONTROL_CATEGORIES
        and character not in _BIDI_CONTROLS
    ).strip()
