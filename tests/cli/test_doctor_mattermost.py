# SPDX-License-Identifier: Apache-2.0
"""What `callsd doctor --mattermost` says of sites that are well, and of others."""

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from callsd_daemon.cli.doctor import checks_mattermost, checks_way
from callsd_daemon.cli.shared.exit import Exit
from tests.cli.conftest import Command
from tests.helpers.ports import free_port
from tests.mattermost.server import MattermostServer


Look = Callable[..., Awaitable[dict[str, dict[str, str]]]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ALL = [
    *("name", "connection", "certificate", "server", "websocket", "Calls plugin"),
    *("recording page", "bot's routes"),
]


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A site."""
    async with MattermostServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, whatever this machine goes through."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def look(callsd: Command) -> Look:
    """Runs the command in a thread, as the site is served by the test's event loop."""

    async def run(url: str, *arguments: object, problems: int) -> dict[str, dict[str, str]]:
        found: dict[str, Any] = await asyncio.to_thread(
            callsd.json,
            *("doctor", "--mattermost", url, *arguments),
            exit_code=Exit.FAILED if problems else Exit.OK,
        )
        assert sum(one["status"] == "problem" for one in found["checks"]) == problems
        assert found["healthy"] is (problems == 0)
        return {one["name"]: one for one in found["checks"]}

    return run


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A web server of another kind."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def certificate(directory: Path, host: str = "IP:127.0.0.1") -> Path:
    """A self-signed certificate with its key, in one file."""
    file = directory / "site.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=site", "-addext", f"subjectAltName={host}"),
            *("-keyout", directory / "key.pem", "-out", file),
        ],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + (directory / "key.pem").read_text())
    return file


@contextlib.asynccontextmanager
async def behind_tls(server: MattermostServer, file: Path) -> AsyncIterator[str]:
    """The site's address by HTTPS: what comes there is passed on to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", server.port)
        for pair in ((reader, their_writer), (their_reader, writer)):
            tasks.add(asyncio.create_task(copy(*pair)))

    port = free_port()
    async with await asyncio.start_server(meet, "127.0.0.1", port, ssl=context):
        try:
            yield f"https://127.0.0.1:{port}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def configuration(directory: Path, ca_file: Path) -> Path:
    """A configuration that trusts a certificate."""
    file = directory / "callsd.toml"
    file.write_text(f'[gateway]\nca_file = "{ca_file}"\n')
    return file


class TestWay:
    """How far it is to the site."""

    async def test_all_is_well(self, server: MattermostServer, look: Look) -> None:
        """Each step is shown; nothing is asked as the bot, and by http it is said what that is."""
        found = await look(server.url, problems=0)

        assert list(found) == ALL
        assert {name for name in ALL if found[name]["status"] != "ok"} == {"certificate"}
        assert "readable on the way" in found["certificate"]["found"]
        assert "1.12.2" in found["Calls plugin"]["found"]

    async def test_trailing_slash(self, server: MattermostServer, look: Look) -> None:
        """The address may end with a slash, as people copy it."""
        assert list(await look(f"{server.url}/", problems=0)) == ALL

    @pytest.mark.parametrize(
        "url", ["mm.example", "ftp://mm.example", "http://mm.example/chat", "http://u@h", "http://"]
    )
    async def test_no_address(self, url: str, look: Look) -> None:
        """What is no address of a site, or has a path, is told so, and nothing is asked."""
        found = await look(url, problems=1)

        assert list(found) == ["address"]
        assert "where there is a path" in found["address"]["fix"]

    async def test_unknown_name(self, look: Look) -> None:
        """A name that nobody knows ends it."""
        found = await look("http://mm.invalid", problems=1)

        assert list(found) == ["name"]
        assert "mm.invalid cannot be resolved" in found["name"]["found"]

    async def test_server_down(self, server: MattermostServer, look: Look) -> None:
        """A server that is down is told by its port; what would come after is not asked."""
        await server.stop_listening()
        found = await look(server.url, problems=1)

        assert list(found) == ["name", "connection"]
        assert "Connection refused" in found["connection"]["found"]

    async def test_no_tls(self, server: MattermostServer, look: Look) -> None:
        """A port without TLS is not taken for a wrong certificate."""
        found = await look(server.url.replace("http", "https"), problems=1)

        assert "wrong version number" in found["certificate"]["found"]
        assert "speak TLS" in found["certificate"]["fix"]

    async def test_proxy(
        self, server: MattermostServer, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy of the environment is named without its password, and used as the outbox does."""
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{free_port()}")
        found = await look(server.url, problems=1)

        assert list(found) == ["proxy", "server"]
        assert "secret" not in str(found)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert list(await look(server.url, problems=0)) == ALL


class TestCertificates:
    """Sites with a certificate of their own."""

    async def test_self_signed(self, server: MattermostServer, look: Look, tmp_path: Path) -> None:
        """One that nobody has signed leads to gateway.ca_file."""
        async with behind_tls(server, certificate(tmp_path)) as url:
            found = await look(url, problems=1)

        assert list(found)[-1] == "certificate"
        assert "self-signed" in found["certificate"]["found"]
        assert "gateway.ca_file" in found["certificate"]["fix"]

    async def test_ca_file(self, server: MattermostServer, look: Look, tmp_path: Path) -> None:
        """With gateway.ca_file every step goes by TLS."""
        file = certificate(tmp_path)
        async with behind_tls(server, file) as url:
            found = await look(url, "--config", configuration(tmp_path, file), problems=0)

        assert list(found) == ALL
        assert {one["status"] for one in found.values()} == {"ok"}

    async def test_no_certutil(
        self,
        server: MattermostServer,
        look: Look,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What keeps the browser from trusting it is told, and the way is gone all the same."""
        file = certificate(tmp_path)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        async with behind_tls(server, file) as url:
            found = await look(url, "--config", configuration(tmp_path, file), problems=1)

        assert list(found) == ["gateway.ca_file", *ALL]
        assert found["gateway.ca_file"]["fix"] == "apt install libnss3-tools"

    async def test_other_host(self, server: MattermostServer, look: Look, tmp_path: Path) -> None:
        """A certificate for another name is told from one that is not trusted."""
        file = certificate(tmp_path, "DNS:mm.example")
        async with behind_tls(server, file) as url:
            found = await look(url, "--config", configuration(tmp_path, file), problems=1)

        assert "a name for which the certificate is" in found["certificate"]["fix"]

    async def test_no_such_file(self, look: Look, tmp_path: Path) -> None:
        """A ca_file that is not there is the first thing to put right."""
        file = configuration(tmp_path, tmp_path / "none.pem")

        found = await look("https://127.0.0.1", "--config", file, problems=1)
        assert list(found) == ["gateway.ca_file"]


class TestSite:
    """What answers there."""

    async def test_plugin_disabled(self, server: MattermostServer, look: Look) -> None:
        """A site without the plugin is told so, and what is the plugin's is not asked."""
        server.faults.plugin_disabled.always()
        found = await look(server.url, problems=1)

        assert list(found) == ALL[:6]
        assert found["Calls plugin"]["fix"] == "System Console → Plugins → Calls: enable it"

    async def test_plugin_crashed(self, server: MattermostServer, look: Look) -> None:
        """So is one whose plugin has crashed."""
        server.faults.plugin_crashed.always()

        assert "crashed" in (await look(server.url, problems=1))["Calls plugin"]["fix"]

    async def test_no_mattermost(self, look: Look) -> None:
        """Another web server, whatever it says with success, is no Mattermost."""

        async def handle(_request: web.Request) -> web.StreamResponse:
            return web.Response(text="<h1>\x1b[31mIt works!</h1>", content_type="text/html")

        async with serving(handle) as url:
            found = await look(url, problems=1)

        assert list(found)[-1] == "server"
        assert "not as Mattermost does" in found["server"]["found"]

    async def test_redirect(self, look: Look) -> None:
        """An address that leads elsewhere is not followed: the bot's token would not be, either."""

        async def handle(request: web.Request) -> web.StreamResponse:
            raise web.HTTPMovedPermanently("https://mm.example/login")

        async with serving(handle) as url:
            found = await look(url, problems=1)

        assert "leads elsewhere: https://mm.example/login" in found["server"]["found"]

    async def test_password(self, look: Look) -> None:
        """A proxy that asks for a password is told from Mattermost's own 401."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if "/bot/" not in request.path:
                return web.json_response({"status": "OK", "version": "1"})
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

        async with serving(handle) as url:
            found = await look(url, problems=2)

        assert "asks for a password of its own" in found["bot's routes"]["found"]
        assert "Upgrade and Connection" in found["websocket"]["fix"]
        assert found["recording page"]["status"] == "advice"

    async def test_header_is_lost(self, look: Look) -> None:
        """A proxy that drops the recorder's header is found by the page."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if "standalone" in request.path:
                return web.Response(status=403, text="Forbidden")
            return web.json_response({"status": "OK", "version": "1"})

        async with serving(handle) as url:
            found = await look(url, problems=3)

        assert "X-Calls-Recorder: true" in found["recording page"]["fix"]

    async def test_foreign_pages(self, look: Look) -> None:
        """A site that refuses websockets to pages of this address leads to AllowCorsFrom."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if "websocket" in request.path:
                assert request.headers["Origin"] == url
                return web.Response(status=403)
            return web.json_response({"status": "OK", "version": "1"})

        async with serving(handle) as url:
            found = await look(url, problems=2)

        assert f"cross-origin requests from: {url}" in found["websocket"]["fix"]

    async def test_silence(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        """A site that does not answer is waited for as long as a step may take, and no longer."""
        for module in (checks_way, checks_mattermost):
            monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)

        async def handle(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(60)
            return web.Response()

        async with serving(handle) as url:
            found = await look(url, problems=1)

        assert "no answer within" in found["server"]["found"]

    async def test_for_people(self, callsd: Command, server: MattermostServer) -> None:
        """It is shown as all that doctor finds, each problem with what to do."""
        server.faults.plugin_disabled.always()
        done = await asyncio.to_thread(
            callsd, "doctor", "--mattermost", server.url, exit_code=Exit.FAILED
        )

        assert "✓ websocket         opens" in done.stdout
        assert "→ System Console → Plugins → Calls: enable it" in done.stdout
        assert done.stdout.endswith("\n1 problem\n")
