# SPDX-License-Identifier: Apache-2.0
"""Serves the gateway: routes, bodies and statuses as the plugin knows them."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from callsd_daemon.config import Config, read_secret, secret_file
from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import TRANSCRIPTION
from callsd_daemon.gateway import requests
from callsd_daemon.gateway.clients import Caller, Clients
from callsd_daemon.gateway.connections import Connections
from callsd_daemon.gateway.errors import HttpError
from callsd_daemon.kinds import Kinds
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.startup import EXIT_CONFIG, EXIT_STATE_UNUSABLE, StartError
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import JobFilter, ReadTransaction
from callsd_daemon.usecases.jobs import JobRequest, Jobs, job_id_of


log = structlog.get_logger(__name__)

BUILD_VERSION = "v0.9.5"
"""What we are as good as: the plugin wants a version of the job service that it knows."""

MAX_BODY_BYTES = 1024**2
MAX_STRANGER_BODY_BYTES = 8 * 1024
"""Of who has not proved who it is."""
READ_SECONDS = 30.0
WRITE_SECONDS = 60.0
"""For a part of a log: who does not read it is hung up on."""
IDLE_SECONDS = 30.0
CLOSE_SECONDS = 5.0
FORCE_SECONDS = 20.0
"""How long DELETE waits for a job that it has stopped."""

CAPACITY = frozenset(
    {
        Reason.CPU_EXHAUSTED,
        Reason.MEMORY_EXHAUSTED,
        Reason.DISK_EXHAUSTED,
        Reason.SLOTS_EXHAUSTED,
        Reason.QUEUE_FULL,
        Reason.CANNOT_FIT,
        Reason.DRAINING,
        Reason.DISK_FULL,
        Reason.DATABASE_DAMAGED,
    }
)
"""Another machine might well do it."""

JOB_ID = "{id:[a-z0-9]{12,26}}"


class Gateway:
    """Belongs to one event loop."""

    def __init__(self, *, jobs: Jobs, database: Database, kinds: Kinds, config: Config) -> None:
        """Raises ConfigError."""
        self._jobs = jobs
        self._database = database
        self._kinds = kinds
        self._config = config
        settings = config.gateway
        admin_key = read_secret(settings.admin_key).decode().strip() if settings.admin_key else ""
        self._clients = Clients(
            database, admin_key=admin_key, self_registration=settings.self_registration
        )
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen; raises StartError."""
        connections = Connections()
        app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[connections.middleware, _answer_errors]
        )
        app.add_routes(
            [
                web.get("/version", self._version),
                web.post("/login", self._login),
                web.post("/register", self._register),
                web.post("/unregister", self._unregister),
                web.post("/jobs/init", self._init),
                web.post("/jobs", self._create),
                web.get(f"/jobs/{JOB_ID}", self._get),
                web.delete(f"/jobs/{JOB_ID}", self._delete),
                web.get(f"/jobs/{JOB_ID}/logs", self._logs),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=IDLE_SECONDS, lingering_time=1.0
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._tasks = [
            asyncio.create_task(self._warm(), name="warming"),
            asyncio.create_task(connections.watch(self._runner.server), name="connections"),
        ]
        endpoint = self._config.gateway.listen
        host, _, port = endpoint.rpartition(":")
        try:
            await web.TCPSite(
                self._runner,
                host.strip("[]"),
                int(port),
                ssl_context=self._tls(),
                shutdown_timeout=CLOSE_SECONDS,
            ).start()
        except OSError as problem:
            raise StartError(
                f"gateway.listen: {endpoint} cannot be used ({problem}): is something else "
                "listening there?",
                EXIT_STATE_UNUSABLE,
            ) from None

    def _tls(self) -> ssl.SSLContext | None:
        server = self._config.server
        if not server.tls_certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(
                secret_file(server.tls_certificate, os.environ),
                secret_file(server.tls_key, os.environ),
            )
        except (OSError, ssl.SSLError) as problem:
            raise StartError(f"server.tls_certificate: {problem}", EXIT_CONFIG) from None
        return context

    async def _warm(self) -> None:
        """Look at the model once: its files are hashed then, while no host of a call waits."""
        with contextlib.suppress(CallsdError):
            await self._check_transcription("")

    async def _check_transcription(self, creator: str) -> None:
        """Raise CallsdError when no recording can be transcribed here."""
        spec = requests.plain_transcription(self._model)
        await asyncio.to_thread(self._kinds[TRANSCRIPTION].check, spec, creator)

    async def close(self) -> None:
        """Take no more requests."""
        for task in self._tasks:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        self._clients.close()

    # What needs no proof

    async def _version(self, _request: web.Request) -> web.Response:
        version = {
            "buildDate": "",
            "buildVersion": BUILD_VERSION,
            "buildHash": f"callsd {metadata.version('callsd')}",
            "goVersion": "",
        }
        return web.json_response(version)

    async def _login(self, request: web.Request) -> web.Response:
        message = await _body(request, MAX_STRANGER_BODY_BYTES)
        token = await self._clients.login(_text(message, "clientID"), _text(message, "authKey"))
        return web.json_response({"bearerToken": token, "code": "200"})

    async def _register(self, request: web.Request) -> web.Response:
        message = await _body(request, MAX_STRANGER_BODY_BYTES)
        if not self._clients.is_open and not (await self._caller(request)).is_admin:
            raise HttpError(401, "authentication failed: unauthorized")
        client_id = _text(message, "clientID")
        await self._clients.register(client_id, _text(message, "authKey"))
        return web.json_response({"clientID": client_id, "code": "201"}, status=201)

    # What needs one

    async def _caller(self, request: web.Request, *, may_register: bool = True) -> Caller:
        return await self._clients.caller(
            request.headers.get("Authorization", ""), may_register=may_register
        )

    async def _unregister(self, request: web.Request) -> web.Response:
        if not self._clients.is_open and not self._config.gateway.admin_key:
            raise HttpError(403, "unregister not enabled")
        caller = await self._caller(request, may_register=False)
        client_id = _text(await _body(request), "clientID")
        await self._clients.unregister(caller, client_id)
        log.info("gateway_client_unregistered", client=client_id)
        return web.Response()

    async def _init(self, request: web.Request) -> web.Response:
        """The plugin says what it will ask for. There is nothing to fetch for it."""
        caller = await self._caller(request)
        message = await _body(request)
        runners = message.get("Runners", message.get("runners"))
        if not isinstance(runners, list) or not runners:
            raise HttpError(400, "invalid job service config: invalid empty Runners")
        transcribes = any("transcriber" in str(runner) for runner in runners)
        await self._clients.set_transcribes(caller.client_id, transcribes=transcribes)
        log.info("gateway_client_ready", client=caller.client_id, transcribes=transcribes)
        return web.Response()

    async def _create(self, request: web.Request) -> web.Response:
        caller = await self._caller(request)
        asked = requests.wanted(await _body(request))
        try:
            job = await self._accept(caller, asked)
        except CallsdError as problem:
            raise self._refused(problem) from None
        return web.json_response(requests.answer(job))

    async def _accept(self, caller: Caller, asked: requests.Wanted) -> Job:
        creator = _creator(caller)
        if asked.kind == RECORDING:
            if await self._clients.transcribes(caller.client_id):
                # The plugin asks for the transcription in a moment, and cannot take the recording
                # back when that is refused: what would be refused then is refused now.
                await self._check_transcription(creator)
                plain = requests.plain_capture(asked, self._captions_model)
                companion = await self._fitting(
                    creator, requests.capture_choices(plain, self._captions_model)
                )
                wish = replace(requests.recording(asked), companion=companion)
                return (await self._jobs.create(creator, wish)).job
            return (await self._jobs.create(creator, requests.recording(asked))).job
        recording = await self._database.read(lambda tx: _recording(tx, creator, asked))
        if recording is None:
            raise CallsdError(
                Reason.JOB_NOT_FOUND,
                "no recording of this call is made here: has a proxy sent its two jobs to two "
                "machines?",
            )
        capture = await self._fitting(
            creator,
            requests.capture_choices(
                requests.capture(asked, recording.id, self._captions_model), self._captions_model
            ),
        )
        capture_id = job_id_of(creator, capture.request_id)
        transcription = await self._fitting(
            creator,
            requests.choices(
                requests.transcription(asked, capture_id, recording.id, self._model), self._model
            ),
        )
        wish = replace(capture, followed_by=transcription)
        return (await self._jobs.create(creator, wish)).job

    @property
    def _model(self) -> str:
        kind = self._kinds[TRANSCRIPTION]
        assert isinstance(kind, Transcription)
        return kind.default_model

    @property
    def _captions_model(self) -> str:
        kind = self._kinds[CAPTIONS]
        assert isinstance(kind, Captions)
        return kind.default_model

    async def _fitting(self, creator: str, choices: Iterator[JobRequest]) -> JobRequest:
        """The first of these that can be done here; the first one, if none can.

        The call's recording goes on: this is not refused any more, and fails in its turn if it
        must.
        """
        wish = first = next(choices)
        while True:
            try:
                await asyncio.to_thread(self._kinds[wish.kind].check, wish.spec, creator)
            except CallsdError as problem:
                log.warning("work_changed", kind=wish.kind, problem=problem.message)
            else:
                return wish
            following = next(choices, None)
            if following is None:
                return first
            wish = following

    def _refused(self, problem: CallsdError) -> HttpError:
        """A refusal as the plugin shows it to the host, and as a proxy understands it."""
        text = f"failed to create recording job: {problem.message}"
        if problem.reason is Reason.JOB_NOT_FOUND:
            # The one that makes the recording may be the next machine that a proxy asks.
            return HttpError(self._config.gateway.busy_status, text)
        if problem.reason not in CAPACITY:
            return HttpError(500, text)
        seconds = max(1, round(problem.retry_after_seconds or 1))
        return HttpError(
            self._config.gateway.busy_status,
            f"failed to create recording job: max concurrent jobs reached: {problem.message}",
            headers={"Retry-After": str(seconds)},
        )

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(requests.answer(await self._find(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if not job.is_final and request.query.get("force") not in ("1", "true"):
            raise HttpError(400, "job is running")
        try:
            if not job.is_final:
                job = await self._stopped(await self._jobs.stop(job.id))
            await self._jobs.delete(job.id)
        except CallsdError as problem:
            raise HttpError(500, f"failed to delete recording job: {problem.message}") from None
        return web.Response()

    async def _stopped(self, job: Job) -> Job:
        for _ in range(round(FORCE_SECONDS / 0.1)):
            if job.is_final:
                break
            await asyncio.sleep(0.1)
            job, _position = await self._jobs.get(job.id)
        return job

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        job = await self._find(request)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        async for _offset, data in self._jobs.log(job.id, offset=0, follow=False):
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(data)
        await response.write_eof()
        return response

    async def _find(self, request: web.Request) -> Job:
        """The job that is asked for, if it is the caller's own."""
        caller = await self._caller(request)
        job_id = request.match_info["id"]
        try:
            job, _position = await self._jobs.get(job_id)
        except CallsdError as problem:
            raise HttpError(404, f"failed to get job {job_id}: {problem.message}") from None
        is_own = job.creator == _creator(caller)
        if not is_own and not (caller.is_admin and job.creator.startswith(CREATOR_PREFIX)):
            raise HttpError(404, f"failed to get job {job_id}: there is no such job")
        return job


CREATOR_PREFIX = "gateway/"


def _creator(caller: Caller) -> str:
    return f"{CREATOR_PREFIX}{caller.client_id}"


def _recording(tx: ReadTransaction, creator: str, asked: requests.Wanted) -> Job | None:
    """The latest recording of the same call."""
    wanted = JobFilter(kinds={RECORDING}, labels=asked.pair_labels)
    page = tx.page(wanted=wanted, before=None, limit=10)
    return next((job for job in page.jobs if job.creator == creator), None)


async def _body(request: web.Request, max_bytes: int = MAX_BODY_BYTES) -> dict[str, object]:
    if (request.content_length or 0) > max_bytes or (
        request.content_length is None and max_bytes < MAX_BODY_BYTES
    ):
        raise HttpError(400, "failed to decode request body: http: request body too large")
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise HttpError(408, "failed to decode request body: it did not come") from None
    except web.HTTPRequestEntityTooLarge:
        raise HttpError(
            400, "failed to decode request body: http: request body too large"
        ) from None
    return requests.decode(body)


def _text(message: dict[str, object], key: str) -> str:
    value = message.get(key)
    return value if isinstance(value, str) else ""


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HttpError as refusal:
        log.info("gateway_refused", path=request.path, status=refusal.status, text=refusal.text)
        return _error(refusal.status, refusal.text, refusal.headers)
    except CallsdError as problem:
        log.warning("gateway_failed", path=request.path, problem=problem.message)
        return _error(500, problem.message, {})
    except web.HTTPMethodNotAllowed:
        # Only the jobs' own routes tell that another method would do.
        is_job = request.path.startswith("/jobs")
        return _error(405, "method not allowed", {}) if is_job else _error(404, "not found", {})
    except web.HTTPException as problem:
        return _error(problem.status, problem.reason.lower(), {})
    except Exception:
        log.exception("gateway_failed", path=request.path)
        return _error(500, "a bug in callsd; please report it with its log", {})


def _error(status: int, text: str, headers: dict[str, str]) -> web.Response:
    body = {"error": text, "code": str(status)}
    return web.json_response(body, status=status, headers=headers)
