# SPDX-License-Identifier: Apache-2.0
"""The daemon, read downward: load → open → adopt → serve → drain."""

import asyncio
import faulthandler
import gc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from callsd_daemon import logs, notify, rules
from callsd_daemon.config import Config, ConfigError
from callsd_daemon.core import Core
from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.transcription import Engine
from callsd_daemon.files import FilePool
from callsd_daemon.liveness import Liveness
from callsd_daemon.rpc.captions import CaptionService
from callsd_daemon.rpc.endpoints import MAX_MESSAGE_BYTES
from callsd_daemon.rpc.interceptor import RequestInterceptor
from callsd_daemon.rpc.jobs import JobService, render_change
from callsd_daemon.rpc.media import MediaService
from callsd_daemon.rpc.models import ModelService
from callsd_daemon.rpc.public import PublicServer
from callsd_daemon.rpc.server import Facts, ServerService
from callsd_daemon.startup import (
    EXIT_CONFIG,
    EXIT_FORCED,
    EXIT_OK,
    EXIT_STATE_UNUSABLE,
    StartError,
    hide,
    own_state,
)
from callsd_daemon.threads import started_pool


if TYPE_CHECKING:
    from callsd_daemon.gateway.server import Gateway

log = structlog.get_logger(__name__)

NOTICE_SECONDS = 0.25
"""How long a daemon that ends still answers new requests, with DRAINING: a client whose connection
is closed learns nothing, nor does a request that comes while the server is closing."""

DRAIN_LOOK_SECONDS = 0.05

LIVE_LOOK_SECONDS = 1.0

THREADS = min(32, (os.cpu_count() or 1) + 4)
"""For the short looks at the disk that requests wait for; as many as asyncio would start."""

VERIFYING_THREADS = 2
"""Uploads whose hash is computed at once: each keeps a core or a disk busy. Nothing else that
requests wait for uses these threads."""

EXTEND_STOP = "EXTEND_TIMEOUT_USEC=30000000"
"""Has systemd wait longer than TimeoutStopSec."""

LAST_REQUESTS_SECONDS = 1.0
"""For what is still open at the end: requests that take milliseconds, and health watches that
never end by themselves."""


def serve(load: Callable[[], Config]) -> int:
    """Run the daemon until it is told to end; returns the exit code.

    `load` reads the configuration: now, and on each SIGHUP. Raises ConfigError.
    """
    config = load()
    logs.configure(config.log.level, config.log.format)
    hide()
    faulthandler.enable()  # a watchdog's SIGABRT tells where the event loop stands
    try:
        with own_state(Path(config.state.directory), Path(config.state.runtime_directory)):
            return asyncio.run(_Daemon(config, load).run())
    except (StartError, ConfigError) as problem:
        print(f"callsd: {problem}", file=sys.stderr)  # noqa: T201 - there may be no log to look at
        return problem.exit_code if isinstance(problem, StartError) else EXIT_CONFIG


class _Daemon:
    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self._config = config
        self._load = load
        self._start_time = datetime.now(UTC)
        self._asked_to_stop = asyncio.Event()
        self._forced = asyncio.Event()
        self._verifying = FilePool(VERIFYING_THREADS)
        self._engines = _engines()
        self._core: Core

    async def run(self) -> int:
        """From start to end."""
        self._install_signals()
        asyncio.get_running_loop().set_default_executor(started_pool(THREADS, "short"))
        try:
            core = self._core = Core(self._config, render_change, now=_now)
            await core.open()
        except (CallsdError, OSError) as problem:
            raise StartError(f"the state cannot be used: {problem}", EXIT_STATE_UNUSABLE) from None
        server = await self._serve(core)
        gateway = await self._open_gateway(core)
        liveness = Liveness(
            _parts(core),
            lambda is_well: server.say_well(is_well=is_well),
            is_usable=lambda: not core.database.is_damaged,
        )
        log.info(
            "ready",
            listen=list(self._config.server.listen),
            state=self._config.state.directory,
            start_seconds=round((datetime.now(UTC) - self._start_time).total_seconds(), 2),
        )
        notify.notify(notify.READY, f"STATUS=listening on {', '.join(self._config.server.listen)}")
        # What was built to start the daemon stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.enable()
        # When one of these fails the daemon ends with it, and its service is started again.
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(core.run(), name="core"),
                group.create_task(liveness.run(), name="liveness"),
            ]
            await self._asked_to_stop.wait()
            await self._drain(core, server, gateway)
            for part in parts:
                part.cancel()
        await core.close()
        self._verifying.close()
        log.info("stopped", forced=self._forced.is_set())
        return EXIT_FORCED if self._forced.is_set() else EXIT_OK

    def _install_signals(self) -> None:
        def asked() -> None:
            # The first signal asks, the second insists.
            (self._forced if self._asked_to_stop.is_set() else self._asked_to_stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Read the configuration again; what is wrong with it leaves everything as it is."""
        notify.notify(notify.RELOADING)
        try:
            new = self._load()
        except ConfigError as problem:
            log.error("reload_failed", problem=str(problem))  # noqa: TRY400 - no bug of ours
        else:
            changed = list(rules.changed_keys(self._config, new))
            later = [key for key in changed if not key.startswith(rules.RELOADED)]
            self._config = new
            self._core.reload(new)
            log.info("reloaded", changed=changed, needs_restart=later)
        notify.notify(notify.READY)

    async def _serve(self, core: Core) -> PublicServer:
        """Open the public API."""
        server = PublicServer(
            RequestInterceptor(core.tokens),
            jobs=JobService(
                jobs=core.jobs,
                deliveries=core.deliveries,
                changes=core.changes,
                kinds=core.kinds,
                database_id=core.database.database_id,
            ),
            media=MediaService(
                uploads=core.uploads,
                database=core.database,
                admission=core.admission,
                kinds=core.kinds,
                streams=core.streams,
                pool=self._verifying,
            ),
            models=ModelService(core.models, core.streams),
            captions=CaptionService(core.captions),
            server=ServerService(
                facts=self._facts,
                database=core.database,
                admission=core.admission,
                kinds=core.kinds,
                streams=core.streams,
            ),
        )
        await server.open(self._config)
        return server

    async def _open_gateway(self, core: Core) -> "Gateway | None":
        """Open the HTTP gateway, if there shall be one."""
        if not self._config.gateway.listen:
            return None
        # Loaded when it is needed: it takes 10 MB, and few daemons have to do with Mattermost.
        from callsd_daemon.gateway.server import Gateway

        gateway = Gateway(
            jobs=core.jobs, database=core.database, kinds=core.kinds, config=self._config
        )
        await gateway.open()
        return gateway

    def _facts(self) -> Facts:
        config = self._config
        return Facts(
            start_time=self._start_time,
            engines=self._engines,
            default_model=config.transcription.model,
            default_caption_model=config.captions.model,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_upload_bytes=config.media.max_upload_bytes,
            max_threads=rules.max_threads(config),
            max_watches=config.server.max_watches,
            retention_seconds=config.jobs.retention_seconds,
        )

    async def _await_live_jobs(self, core: Core, forced: "asyncio.Task[Any]") -> None:
        """Give recordings and captions time to end by themselves, if the administrator wants."""
        began = time.monotonic()
        while time.monotonic() - began < self._config.server.drain_live_seconds:
            live = await core.live_jobs()
            if not live or forced.done():
                return
            notify.notify(f"STATUS=draining: {live} live jobs", EXTEND_STOP)
            await asyncio.wait({forced}, timeout=LIVE_LOOK_SECONDS)

    async def _drain(self, core: Core, server: PublicServer, gateway: "Gateway | None") -> None:
        """NOT_SERVING first, then no new work, then no more streams, then no more requests."""
        log.info("draining")
        notify.notify(notify.STOPPING, "STATUS=draining")
        await server.say_not_serving()
        core.drain()
        forced = asyncio.create_task(self._forced.wait())
        await self._await_live_jobs(core, forced)
        core.end_streams()
        began = time.monotonic()
        waited, patience = 0.0, self._config.server.drain_seconds
        while waited < NOTICE_SECONDS or (core.streams.count and waited < patience):
            await asyncio.wait({forced}, timeout=DRAIN_LOOK_SECONDS)
            if forced.done():
                break
            waited = time.monotonic() - began
        if gateway is not None:
            await gateway.close()
        stopping = asyncio.create_task(server.close(LAST_REQUESTS_SECONDS))
        await asyncio.wait({stopping, forced}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.close(0)
        forced.cancel()
        await asyncio.gather(stopping, forced, return_exceptions=True)


def _now() -> datetime:
    return datetime.now(UTC)


def _parts(core: Core) -> dict[str, Callable[[], Awaitable[object]]]:
    """On what requests wait."""
    return {
        "store": lambda: core.database.write(lambda tx: tx.revision),
        "reads": lambda: core.database.read(lambda tx: tx.revision),
        "files": lambda: core.pool.run(os.getpid),
        "threads": lambda: asyncio.to_thread(os.getpid),
    }


def _engines() -> tuple[Engine, ...]:
    """Engines that are installed. Asked without importing them: they are large."""
    modules = {
        Engine.CTRANSLATE2: "ctranslate2",
        Engine.WHISPERCPP: "pywhispercpp",
        Engine.ONNX: "onnxruntime",
    }
    return tuple(engine for engine, module in modules.items() if importlib.util.find_spec(module))
