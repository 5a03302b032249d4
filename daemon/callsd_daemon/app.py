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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from callsd_daemon import logs, notify, rules
from callsd_daemon.config import Config, ConfigError
from callsd_daemon.domain.jobs import BATCH_KINDS
from callsd_daemon.domain.transcription import Engine
from callsd_daemon.files import FilePool
from callsd_daemon.host.probe import Probe
from callsd_daemon.liveness import Liveness
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStore
from callsd_daemon.rpc.auth import AuthInterceptor
from callsd_daemon.rpc.captions import CaptionService
from callsd_daemon.rpc.endpoints import MAX_MESSAGE_BYTES, read_secret
from callsd_daemon.rpc.hub import Hub
from callsd_daemon.rpc.intake import Intake
from callsd_daemon.rpc.jobs import JobService
from callsd_daemon.rpc.media import MediaService
from callsd_daemon.rpc.models import ModelService
from callsd_daemon.rpc.public import PublicServer
from callsd_daemon.rpc.server import Facts, ServerService
from callsd_daemon.startup import (
    DATABASE_FILE,
    EXIT_CONFIG,
    EXIT_FORCED,
    EXIT_OK,
    EXIT_STATE_UNUSABLE,
    StartError,
    hide,
    own_state,
)
from callsd_daemon.store.database import Database, DatabaseDamagedError
from callsd_daemon.store.migrations import SchemaTooNewError
from callsd_daemon.tokens import TokenError, TokenFile, write_owner_token
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.housekeeping import Housekeeper
from callsd_daemon.workers.runner import JobRunner
from callsd_daemon.workers.session.server import RemoteListener, WorkerServer
from callsd_daemon.workers.supervisor import Supervisor


log = structlog.get_logger(__name__)

NOTICE_SECONDS = 0.25
"""How long a daemon that ends still answers new calls, to say so: who is hung up on is told
nothing, and a call that meets the closing of the door gets a status that says nothing either."""

DRAIN_LOOK_SECONDS = 0.05

LIVE_LOOK_SECONDS = 1.0

VERIFYING_THREADS = 2
"""Uploads whose hash is computed at once: each keeps a core or a disk busy, and nothing else that
calls wait for stands behind them."""

EXTEND_STOP = "EXTEND_TIMEOUT_USEC=30000000"
"""Has systemd wait longer than TimeoutStopSec."""

LAST_CALLS_SECONDS = 1.0
"""What is still open when all work has ended: calls that take milliseconds, and health watches
that never end by themselves."""


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
        self._state = Path(config.state.directory)
        self._runtime = Path(config.state.runtime_directory)
        self._start_time = datetime.now(UTC)
        self._asked_to_stop = asyncio.Event()
        self._forced = asyncio.Event()
        self._pool = FilePool()
        self._verifying = FilePool(VERIFYING_THREADS)
        self._engines = _engines()

    async def run(self) -> int:
        """From start to end."""
        self._install_signals()
        self._open()
        await self._supervisor.recover()
        try:
            await self._server.open()
        except (OSError, RuntimeError) as problem:
            raise StartError(f"the door for workers: {problem}", EXIT_STATE_UNUSABLE) from None
        server = await self._serve()
        liveness = Liveness(self._parts(), lambda is_well: server.say_well(is_well=is_well))
        pinging = asyncio.create_task(liveness.run(), name="liveness")
        ticking = asyncio.create_task(self._housekeeper.run(), name="housekeeping")
        log.info(
            "ready",
            listen=list(self._config.server.listen),
            state=str(self._state),
            start_seconds=round((datetime.now(UTC) - self._start_time).total_seconds(), 2),
        )
        notify.notify(notify.READY, f"STATUS=listening on {', '.join(self._config.server.listen)}")
        # What was built to start the daemon stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.enable()
        await self._asked_to_stop.wait()
        await self._drain(server)
        ticking.cancel()
        pinging.cancel()
        await asyncio.gather(ticking, pinging, return_exceptions=True)
        await self._supervisor.close()
        await self._server.close()
        await asyncio.to_thread(self._database.close)
        self._pool.close()
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
            self._admission.policy = rules.policy(new)
            self._runner.rules = rules.supervision(new)
            self._intake.rules = rules.intake(new)
            log.info("reloaded", changed=changed, needs_restart=later)
        notify.notify(notify.READY)

    def _open(self) -> None:
        """Open what is kept, and put the rooms together."""
        config, state = self._config, self._state
        try:
            self._database = Database(state / DATABASE_FILE)
        except (DatabaseDamagedError, SchemaTooNewError) as problem:
            code = EXIT_CONFIG if isinstance(problem, SchemaTooNewError) else EXIT_STATE_UNUSABLE
            raise StartError(str(problem), code) from None
        self._tokens = TokenFile(state / "tokens.json")
        try:
            write_owner_token(self._tokens, self._runtime / "owner.token")
        except TokenError as problem:
            raise StartError(str(problem), EXIT_STATE_UNUSABLE) from None
        self._hub = Hub(self._database.revision, max_streams=config.server.max_watches)
        loop = asyncio.get_running_loop()
        self._database.on_commit(
            lambda changes: loop.call_soon_threadsafe(self._hub.publish, changes)
        )
        self._models = ModelStore(Path(config.models.directory))
        self._uploads = Uploads(
            state / "uploads",
            limits=rules.upload_limits(config),
            retention=timedelta(seconds=config.media.upload_retention_seconds),
            sees_all=lambda client: self._tokens.has_scope(client, "admin"),
        )
        self._intake = Intake(
            database=self._database,
            models=self._models,
            uploads=self._uploads,
            rules=rules.intake(config),
            now=_now,
        )
        try:
            launcher = rules.launcher(config)
        except OSError as problem:
            raise StartError(str(problem), EXIT_STATE_UNUSABLE) from None
        if weakness := rules.weakness(config):
            log.warning("workers_not_shut_in", because=weakness)
        # In a directory of its own: all of it that a worker under systemd gets to see.
        self._server = WorkerServer(self._runtime / "workers", self._pool, _remote_listener(config))
        self._admission = AdmissionController(
            Probe(state),
            rules.policy(config),
            launcher.spent,
            awaited_bytes=lambda: self._uploads.left_bytes,
        )
        self._calls = Calls(
            server=self._server,
            launcher=launcher,
            directory=state / "captioners",
            pool=self._pool,
            resolve=self._intake.captioner,
            owner=self._database.database_id,
            max_log_bytes=config.jobs.max_log_bytes,
        )
        self._runner = JobRunner(
            database=self._database,
            server=self._server,
            launcher=launcher,
            directory=state / "jobs",
            pool=self._pool,
            resolve=self._intake.assignment,
            calls=self._calls,
            now=_now,
            rules=rules.supervision(config),
        )
        self._supervisor = Supervisor(
            database=self._database,
            admission=self._admission,
            runner=self._runner,
            calls=self._calls,
            now=_now,
        )
        self._housekeeper = Housekeeper(
            database=self._database,
            admission=self._admission,
            supervisor=self._supervisor,
            calls=self._calls,
            uploads=self._uploads,
            launcher=launcher,
            directory=state / "jobs",
            now=_now,
        )

    async def _serve(self) -> PublicServer:
        """Open the public server."""
        server = PublicServer(
            AuthInterceptor(self._tokens),
            jobs=JobService(
                database=self._database,
                hub=self._hub,
                admission=self._admission,
                supervisor=self._supervisor,
                intake=self._intake,
                directory=self._state / "jobs",
            ),
            media=MediaService(
                uploads=self._uploads,
                database=self._database,
                admission=self._admission,
                hub=self._hub,
                pool=self._verifying,
            ),
            models=ModelService(self._models, self._hub),
            captions=CaptionService(
                calls=self._calls,
                database=self._database,
                hub=self._hub,
                directory=self._state / "jobs",
            ),
            server=ServerService(
                facts=self._facts,
                database=self._database,
                admission=self._admission,
                hub=self._hub,
            ),
        )
        await server.open(self._config)
        return server

    def _parts(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """On what calls wait."""
        return {
            "store": lambda: self._database.write(lambda tx: tx.revision),
            "reads": lambda: self._database.read(lambda tx: tx.revision),
            "files": lambda: self._pool.run(os.getpid),
            "threads": lambda: asyncio.to_thread(os.getpid),
        }

    def _facts(self) -> Facts:
        config = self._config
        return Facts(
            start_time=self._start_time,
            engines=self._engines,
            default_model=config.transcription.model,
            default_caption_model=config.captions.model,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_upload_bytes=config.media.max_upload_bytes,
            max_threads=self._intake.rules.max_threads,
            max_watches=config.server.max_watches,
            retention_seconds=config.jobs.retention_seconds,
        )

    async def _await_live_jobs(self, forced: "asyncio.Task[Any]") -> None:
        """Give recordings and captions time to end by themselves, if the administrator wants."""
        began = time.monotonic()
        while time.monotonic() - began < self._config.server.drain_live_seconds:
            running = await self._database.read(lambda tx: tx.running())
            live = sum(count for kind, count in running.items() if kind not in BATCH_KINDS)
            if not live or forced.done():
                return
            notify.notify(f"STATUS=draining: {live} live jobs", EXTEND_STOP)
            await asyncio.wait({forced}, timeout=LIVE_LOOK_SECONDS)

    async def _drain(self, server: PublicServer) -> None:
        """NOT_SERVING first, then no new work, then no more streams, then no more calls."""
        log.info("draining")
        notify.notify(notify.STOPPING, "STATUS=draining")
        await server.say_not_serving()
        self._hub.drain()
        self._supervisor.pause()
        forced = asyncio.create_task(self._forced.wait())
        await self._await_live_jobs(forced)
        self._hub.close()
        self._calls.wake()
        began = time.monotonic()
        waited, patience = 0.0, self._config.server.drain_seconds
        while waited < NOTICE_SECONDS or (self._hub.streams and waited < patience):
            await asyncio.wait({forced}, timeout=DRAIN_LOOK_SECONDS)
            if forced.done():
                break
            waited = time.monotonic() - began
        stopping = asyncio.create_task(server.close(LAST_CALLS_SECONDS))
        await asyncio.wait({stopping, forced}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.close(0)
        forced.cancel()
        await asyncio.gather(stopping, forced, return_exceptions=True)


def _remote_listener(config: Config) -> RemoteListener | None:
    if not config.workers.listen:
        return None
    return RemoteListener(
        address=config.workers.listen,
        certificate=read_secret(config.server.tls_certificate),
        key=read_secret(config.server.tls_key),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _engines() -> tuple[Engine, ...]:
    """Engines that are installed. Asked without importing them: they are large."""
    modules = {Engine.CTRANSLATE2: "ctranslate2", Engine.WHISPERCPP: "pywhispercpp"}
    return tuple(engine for engine, module in modules.items() if importlib.util.find_spec(module))
