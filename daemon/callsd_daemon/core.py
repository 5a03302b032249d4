# SPDX-License-Identifier: Apache-2.0
"""All of callsd but its servers for clients: what is stored, who works, and what can be asked."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from callsd_daemon import rules
from callsd_daemon.config import Config, read_secret
from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.files import FilePool
from callsd_daemon.host.probe import Probe
from callsd_daemon.kinds import Kinds
from callsd_daemon.kinds.captions import Captions as CaptionsKind
from callsd_daemon.kinds.stored import codec
from callsd_daemon.mattermost.outbox import Outbox
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStore
from callsd_daemon.startup import (
    DATABASE_FILE,
    EXIT_CONFIG,
    EXIT_STATE_UNUSABLE,
    TOKENS_FILE,
    StartError,
)
from callsd_daemon.store.database import Database, DatabaseDamagedError
from callsd_daemon.store.migrations import SchemaTooNewError
from callsd_daemon.store.read_transaction import Change
from callsd_daemon.tokens import TokenError, TokenFile, write_owner_token
from callsd_daemon.usecases.captions import Captions
from callsd_daemon.usecases.changes import Changes, Render
from callsd_daemon.usecases.deliveries import Deliveries
from callsd_daemon.usecases.jobs import Jobs
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.housekeeping import Housekeeper
from callsd_daemon.workers.runner import JobRunner
from callsd_daemon.workers.session.server import RemoteListener, WorkerServer
from callsd_daemon.workers.supervisor import Supervisor


log = structlog.get_logger(__name__)

MakeKinds = Callable[[Config, ModelStore, Uploads], Kinds]


class Core:
    """Built at once; then `open`, `run` as long as it is needed, and `close`.

    Belongs to the event loop that runs when it is built.
    """

    def __init__(
        self,
        config: Config,
        render: Render,
        *,
        now: Callable[[], datetime],
        make_kinds: MakeKinds = rules.kinds,
    ) -> None:
        """`render` makes messages of changes for those who watch. Raises StartError."""
        state, runtime = Path(config.state.directory), Path(config.state.runtime_directory)
        self._make_kinds = make_kinds
        self.tokens = TokenFile(state / TOKENS_FILE)
        self.models = ModelStore(Path(config.models.directory))
        self.uploads = Uploads(
            state / "uploads",
            limits=rules.upload_limits(config),
            retention=timedelta(seconds=config.media.upload_retention_seconds),
            sees_all=lambda client: self.tokens.has_scope(client, "admin"),
        )
        self.kinds = dict(make_kinds(config, self.models, self.uploads))
        """All who look a kind up have this one dictionary."""
        self.database = _open_database(state / DATABASE_FILE, self.kinds)
        try:
            write_owner_token(self.tokens, runtime / "owner.token")
            launcher = rules.launcher(config)
        except (TokenError, OSError) as problem:
            raise StartError(str(problem), EXIT_STATE_UNUSABLE) from None
        if weakness := rules.weakness(config):
            log.warning("workers_not_shut_in", because=weakness)
        self.streams = Streams(limit=config.server.max_watches)
        self.changes = Changes(self.database, self.streams, render)
        loop = asyncio.get_running_loop()
        self.database.on_commit(lambda changes: loop.call_soon_threadsafe(self._tell, changes))
        self._delivery_budget = rules.delivery_budget(config)
        try:
            self._outbox = Outbox(
                database=self.database,
                directory=state / "jobs",
                ca_file=config.gateway.ca_file,
                now=now,
                budget=lambda: self._delivery_budget,
            )
        except OSError as problem:
            raise StartError(f"gateway.ca_file: {problem}", EXIT_CONFIG) from None
        self.pool = FilePool()
        # In a directory of its own: all of it that a worker under systemd gets to see.
        self._server = WorkerServer(runtime / "workers", self.pool, _remote_listener(config))
        self.admission = AdmissionController(
            Probe(state),
            rules.policy(config),
            self.kinds,
            launcher.spent,
            awaited_bytes=lambda: self.uploads.left_bytes,
        )
        self._calls = Calls(
            server=self._server,
            launcher=launcher,
            directory=state / "captioners",
            pool=self.pool,
            kind=self._captions_kind,
            owner=self.database.database_id,
            max_log_bytes=config.jobs.max_log_bytes,
        )
        self._runner = JobRunner(
            database=self.database,
            server=self._server,
            launcher=launcher,
            directory=state / "jobs",
            pool=self.pool,
            kinds=self.kinds,
            calls=self._calls,
            now=now,
            end_rules=rules.end(config),
        )
        self._supervisor = Supervisor(
            database=self.database,
            admission=self.admission,
            runner=self._runner,
            calls=self._calls,
            now=now,
        )
        self._housekeeper = Housekeeper(
            database=self.database,
            kinds=self.kinds,
            admission=self.admission,
            supervisor=self._supervisor,
            calls=self._calls,
            uploads=self.uploads,
            launcher=launcher,
            directory=state / "jobs",
            now=now,
        )
        self.jobs = Jobs(
            database=self.database,
            kinds=self.kinds,
            admission=self.admission,
            supervisor=self._supervisor,
            streams=self.streams,
            directory=state / "jobs",
            now=now,
        )
        self.deliveries = Deliveries(self.database)
        self.captions = Captions(
            calls=self._calls,
            database=self.database,
            streams=self.streams,
            directory=state / "jobs",
        )

    def reload(self, config: Config) -> None:
        """Go by a new configuration, as far as that needs no restart."""
        self.admission.policy = rules.policy(config)
        self._runner.end_rules = rules.end(config)
        self._delivery_budget = rules.delivery_budget(config)
        self.kinds.update(self._make_kinds(config, self.models, self.uploads))

    async def open(self) -> None:
        """Take up what an earlier daemon has begun, and let workers in. Raises StartError."""
        await self._supervisor.recover()
        try:
            await self._server.open()
        except (OSError, RuntimeError) as problem:
            raise StartError(f"the server for workers: {problem}", EXIT_STATE_UNUSABLE) from None

    async def run(self) -> None:
        """Do what is done again and again, until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._housekeeper.run(), name="housekeeper")
            group.create_task(self._outbox.run(), name="outbox")

    async def live_jobs(self) -> int:
        """How many recordings and calls are going on."""
        running = await self.database.read(lambda tx: tx.running())
        return sum(count for kind, count in running.items() if not self.kinds[kind].is_batch)

    def drain(self) -> None:
        """Take no more work, and start nothing more of the queue; what runs goes on."""
        self.streams.drain()
        self._supervisor.pause()

    def end_streams(self) -> None:
        """Have all streams end now."""
        self.streams.close()
        self.changes.wake()
        self._calls.wake()

    async def close(self) -> None:
        """Let go of all workers; they go on, and the next daemon takes them up."""
        await self._supervisor.close()
        await self._server.close()
        await asyncio.to_thread(self.database.close)
        self.pool.close()

    def _tell(self, changes: list[Change]) -> None:
        self._outbox.notice(changes)
        self.changes.publish(changes)

    def _captions_kind(self) -> CaptionsKind:
        kind = self.kinds[CAPTIONS]
        assert isinstance(kind, CaptionsKind)
        return kind


def _open_database(path: Path, kinds: Kinds) -> Database:
    try:
        return Database(path, codec(kinds.values()))
    except (DatabaseDamagedError, SchemaTooNewError) as problem:
        code = EXIT_CONFIG if isinstance(problem, SchemaTooNewError) else EXIT_STATE_UNUSABLE
        raise StartError(str(problem), code) from None


def _remote_listener(config: Config) -> RemoteListener | None:
    if not config.workers.listen:
        return None
    return RemoteListener(
        address=config.workers.listen,
        certificate=read_secret(config.server.tls_certificate),
        key=read_secret(config.server.tls_key),
    )
