# SPDX-License-Identifier: Apache-2.0
"""What a request meets before its route: a proxy, faults, the plugin's gate and its limiter."""

import asyncio
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.mattermost.answers import (
    TOO_MANY_REQUESTS,
    bearer_token,
    core_error,
    page_not_found,
    proxy_too_large,
    status_answer,
    text_error,
)
from tests.mattermost.faults import Faults
from tests.mattermost.plugin import RefusedError
from tests.mattermost.routes import PLUGIN
from tests.mattermost.state import State


REQUESTS_PER_SECOND = 1.0
BURST = 10.0


class Gate:
    """A middleware. `limits` is False where a test wants no limiter."""

    def __init__(self, state: State, faults: Faults, *, limits: bool) -> None:
        self._state = state
        self._faults = faults
        self._limits = limits
        self._buckets: dict[str, tuple[float, float]] = {}
        """User id → what is left of the burst, and when that was."""

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse the request, or have it handled."""
        refusal = self._proxy(request) or self._demanded(request)
        if refusal is None and request.path.startswith(f"{PLUGIN}/"):
            refusal = self._plugin(request)
        if refusal is not None:
            return refusal
        try:
            answer = await handler(request)
        except web.HTTPNotFound:
            return page_not_found()
        except RefusedError as error:
            answer = status_answer(error.status, error.message)
        except ConnectionError as error:
            # Nobody is there to be answered: the connection was cut, by us or by the other side.
            return status_answer(400, str(error))
        if (seconds := self._faults.slow.take(request.path)) is not None:
            await asyncio.sleep(seconds)
        if self._faults.lost_answer.take(request.path) and request.transport is not None:
            request.transport.abort()
        return answer

    def _proxy(self, request: web.Request) -> web.StreamResponse | None:
        limit = self._faults.too_large.peek(request.path)
        if limit is None or (request.content_length or 0) <= limit:
            return None
        self._faults.too_large.take(request.path)
        return proxy_too_large()

    def _demanded(self, request: web.Request) -> web.StreamResponse | None:
        is_plugin = request.path.startswith(f"{PLUGIN}/")
        if is_plugin and self._faults.plugin_disabled.take(request.path):
            return page_not_found()
        if is_plugin and self._faults.plugin_crashed.take(request.path):
            return text_error(500, "500 internal server error")
        if is_plugin and self._faults.too_many_requests.take(request.path):
            return text_error(429, TOO_MANY_REQUESTS)
        if (message := self._faults.internal_error.take(request.path)) is None:
            return None
        return status_answer(500, message) if is_plugin else core_error(500, "app.error", message)

    def _plugin(self, request: web.Request) -> web.StreamResponse | None:
        path = request.path.removeprefix(PLUGIN)
        if path == "/version":
            return None
        if path.startswith("/standalone/"):
            return None if _may_see_pages(request) else text_error(403, "Forbidden")
        user_id = self._state.tokens.get(bearer_token(request.headers))
        if user_id is None:
            return text_error(401, "Unauthorized")
        if path.startswith("/bot/"):
            is_bot = user_id == self._state.bot.id
            return None if is_bot else text_error(403, "Forbidden")
        return None if self._has_token_left(user_id) else text_error(429, TOO_MANY_REQUESTS)

    def _has_token_left(self, user_id: str) -> bool:
        if not self._limits:
            return True
        now = asyncio.get_running_loop().time()
        left, since = self._buckets.get(user_id, (BURST, now))
        left = min(BURST, left + (now - since) * REQUESTS_PER_SECOND)
        is_allowed = left >= 1.0
        self._buckets[user_id] = (left - is_allowed, now)
        return is_allowed


def _may_see_pages(request: web.Request) -> bool:
    headers = request.headers
    agent = headers.get("User-Agent", "")
    if headers.get("X-Calls-Recorder") == "true" or headers.get("X-Calls-E2E") == "true":
        return True
    if "Mattermost" in agent and "Electron" in agent:
        return True
    return bool(referer := headers.get("Referer")) and urlsplit(referer).netloc == request.host
