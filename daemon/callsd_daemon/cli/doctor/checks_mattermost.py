# SPDX-License-Identifier: Apache-2.0
"""Whether a Mattermost site can be used from here, step by step, as a recording does it.

Loaded only when a site is asked for: it brings the client that the daemon's outbox uses.
"""

import asyncio
import json
import shutil
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import aiohttp

from callsd_daemon.cli.doctor.checks_way import (
    TIMEOUT_SECONDS,
    FailedError,
    Step,
    Way,
    parsed,
    reason,
)
from callsd_daemon.cli.doctor.finding import Finding, Status, fine, problem
from callsd_daemon.domain.mattermost import PAGE_HEADERS
from callsd_daemon.mattermost.outbox import trusted
from callsd_daemon.mattermost.site import open_session
from callsd_ipc.names import PLUGIN_PATH


MAX_ANSWER_BYTES = 64 * 1024
SOME_ID = "a" * 26
"""An identifier that nothing has: who may not ask is told so before it is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def text(self) -> str:
        return _plain(" ".join(self.body[:80].decode(errors="replace").split()))

    @property
    def foreign(self) -> str:
        """What stands before the site and answers in its place, if something does."""
        if 300 <= self.status < 400:  # noqa: PLR2004 - redirects
            return f"leads elsewhere: {_plain(self.headers.get('Location', ''))}"
        # Mattermost never asks a browser for a password of its own.
        return "asks for a password of its own" if "WWW-Authenticate" in self.headers else ""


def _plain(text: str) -> str:
    """What a stranger says, without anything that a terminal would obey."""
    return "".join(char for char in text[:200] if char.isprintable())


def check_site(url: str, ca_file: str) -> Iterator[Finding]:
    """All steps; ends with the first without which the next ones mean nothing."""
    site = parsed(url)
    if site is None:
        yield problem(
            "address",
            f"{url[:200]} is not that of a site",
            "http(s)://HOST or http(s)://HOST:PORT: the plugin cannot record where there is a path",
        )
        return
    try:
        context = trusted(ca_file)
    except OSError as error:
        yield problem("gateway.ca_file", f"{ca_file}: {error}", "name a PEM file")
        return
    if ca_file and shutil.which("certutil") is None:
        yield problem(
            "gateway.ca_file",
            "the browser cannot be told of it: there is no certutil",
            "apt install libnss3-tools",
        )
    with asyncio.Runner() as runner:
        way = Way(site, context)
        mattermost = _Mattermost(f"{site.scheme}://{site.netloc}", context)
        try:
            for step in (*way.steps, *mattermost.steps):
                finding = runner.run(step())
                yield finding
                if finding.status is Status.PROBLEM and step in (*way.steps, *mattermost.needed):
                    return
        finally:
            runner.run(mattermost.close())


class _Mattermost:
    """The steps at one site. Belongs to one event loop."""

    def __init__(self, url: str, trusted: ssl.SSLContext) -> None:
        self._url = url
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None
        self.needed: tuple[Step, ...] = (self._server, self._plugin)
        """Without one of these, what follows means nothing."""
        self.steps: tuple[Step, ...] = (
            self._server,
            self._websocket,
            self._plugin,
            self._page,
            self._bot,
        )

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def _server(self) -> Finding:
        try:
            answer = await self._get("/api/v4/system/ping")
        except FailedError as error:
            return problem("server", str(error), "look at the site's log, and what is before it")
        if foreign := answer.foreign:
            return problem(
                "server", f"{self._url} {foreign}", "take the address at which Mattermost answers"
            )
        if answer.status == 200 and "status" in answer.json:  # noqa: PLR2004 - OK
            return fine("server", f"Mattermost answers at {self._url}")
        if answer.status >= 500:  # noqa: PLR2004 - the server's errors
            return problem(
                "server",
                f"{self._url} answers {answer.status}: {answer.text}",
                "is Mattermost itself up behind its proxy?",
            )
        return problem(
            "server",
            f"{self._url} answers {answer.status}, and not as Mattermost does",
            "take the site's address, as System Console → Web Server → Site URL has it",
        )

    async def _websocket(self) -> Finding:
        url = f"{self._url}/api/v4/websocket"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                # The browser names its page's site, and a server refuses what it does not know.
                connection = await self._opened().ws_connect(url, origin=self._url)
                await connection.close()
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 403:  # noqa: PLR2004 - Forbidden
                return problem(
                    "websocket",
                    f"{url} is refused (403) to pages of this address",
                    "System Console → Integrations → CORS, Enable cross-origin requests from: "
                    f"{self._url}",
                )
            return problem(
                "websocket",
                f"{url} answers {error.status} in place of 101",
                "have the proxy before Mattermost pass on Upgrade and Connection",
            )
        except TimeoutError:
            return problem(
                "websocket",
                f"{url}: no answer within {TIMEOUT_SECONDS:.0f} s",
                "have the proxy before Mattermost pass on Upgrade and Connection",
            )
        except (aiohttp.ClientError, OSError) as error:
            return problem("websocket", f"{url}: {reason(error)}", "look at the site's log")
        return fine("websocket", "opens")

    async def _plugin(self) -> Finding:
        path = f"{PLUGIN_PATH}/version"
        try:
            answer = await self._get(path)
        except FailedError as error:
            return problem("Calls plugin", str(error), "look at the site's log")
        version = answer.json.get("version")
        if answer.status == 200 and isinstance(version, str):  # noqa: PLR2004 - OK
            return fine("Calls plugin", f"version {_plain(version)}")
        fixes = {
            404: "System Console → Plugins → Calls: enable it",
            500: "the plugin has crashed: disable and enable it, and look at the site's log",
        }
        return problem(
            "Calls plugin",
            f"{path} answers {answer.status}: {answer.foreign or answer.text}",
            fixes.get(answer.status, "have the proxy before Mattermost let /plugins through"),
        )

    async def _page(self) -> Finding:
        path = f"{PLUGIN_PATH}/standalone/recording.html"
        try:
            shown = await self._get(path, PAGE_HEADERS)
            bare = await self._get(path)
        except FailedError as error:
            return problem("recording page", str(error), "look at the site's log")
        if shown.status == 200:  # noqa: PLR2004 - OK
            if bare.status == 403:  # noqa: PLR2004 - Forbidden
                return fine("recording page", "is shown to recorders, and to nobody else")
            return Finding(
                name="recording page",
                status=Status.ADVICE,
                found=f"is shown, but answers {bare.status} in place of 403 to who is no recorder",
                fix="does something before Mattermost add X-Calls-Recorder to all requests?",
            )
        header = ", ".join(f"{name}: {value}" for name, value in PAGE_HEADERS.items())
        fixes = {
            403: f"have the proxy before Mattermost pass on the header {header}",
            404: "the plugin has no such page: update it",
        }
        return problem(
            "recording page",
            f"{path} answers {shown.status}: {shown.foreign or shown.text}",
            fixes.get(shown.status, "have the proxy before Mattermost let /plugins through"),
        )

    async def _bot(self) -> Finding:
        path = f"{PLUGIN_PATH}/bot/calls/{SOME_ID}/filename"
        try:
            answer = await self._get(path)
        except FailedError as error:
            return problem("bot's routes", str(error), "look at the site's log")
        if answer.status == 401 and not answer.foreign:  # noqa: PLR2004 - Unauthorized
            return fine("bot's routes", "are there, for who has a token")
        return problem(
            "bot's routes",
            f"without a token they answer {answer.status} in place of 401: "
            f"{answer.foreign or answer.text}",
            f"have what is before Mattermost let {PLUGIN_PATH}/bot through, with Authorization",
        )

    # Requests

    def _opened(self) -> aiohttp.ClientSession:
        # Made late: it belongs to the loop that runs.
        if self._session is None:
            self._session = open_session(self._trusted)
        return self._session

    async def _get(self, path: str, headers: Mapping[str, str] | None = None) -> _Answer:
        """Raises FailedError."""
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._opened().get(
                    self._url + path, headers=headers, allow_redirects=False
                ) as answer,
            ):
                body = await answer.content.read(MAX_ANSWER_BYTES)
                return _Answer(status=answer.status, headers=answer.headers, body=body)
        except TimeoutError:
            raise FailedError(
                f"{self._url}{path}: no answer within {TIMEOUT_SECONDS:.0f} s"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FailedError(f"{self._url}{path}: {reason(error)}") from None
