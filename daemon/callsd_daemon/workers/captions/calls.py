# SPDX-License-Identifier: Apache-2.0
"""All calls that are being captioned, and the captioners that serve them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import FilePool
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import captioner_name


ARRIVAL_SECONDS = 10.0
"""How long a client waits for a call that is about to be opened."""


@dataclass(slots=True)
class _Service:
    captioner: Captioner
    calls: int = 0


class Calls:
    """Belongs to one event loop. A captioner runs for as long as a call needs it."""

    def __init__(
        self,
        *,
        server: WorkerServer,
        launcher: Launcher,
        directory: Path,
        pool: FilePool,
        kind: Callable[[], Captions],
        owner: str,
        max_log_bytes: int,
    ) -> None:
        """`directory` holds the captioners' logs; `owner` marks the processes of this daemon."""
        self._server = server
        self._launcher = launcher
        self._directory = directory
        self._pool = pool
        self.kind = kind
        """The kind as the administrator wants it now."""
        self._owner = owner
        self._max_log_bytes = max_log_bytes
        self._calls: dict[str, Call] = {}
        self._services: dict[str, _Service] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        """The task of each model's latest captioner, which may have ended."""
        self._opened = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held while a call's files are written: for 20,000 captions that takes 50 MB and a second,
        and all calls may end at once."""

    async def open(
        self, job_id: str, spec: CaptionsSpec, directory: Path
    ) -> tuple[Call, Captioner]:
        """Open or reopen a call. Raises CallsdError when the model is gone."""
        work = await asyncio.to_thread(self.kind().captioner, spec.model)
        service = self._services.get(spec.model)
        if service is None or service.captioner.failed.is_set():
            captioner = Captioner(
                work,
                server=self._server,
                launcher=self._launcher,
                directory=self._directory / spec.model,
                pool=self._pool,
                tag=f"captioner.{spec.model}:{self._owner}",
                max_log_bytes=self._max_log_bytes,
            )
            self._lives[spec.model] = asyncio.create_task(
                _live(captioner, self._lives.get(spec.model)), name=f"captioner {spec.model}"
            )
            service = self._services[spec.model] = _Service(captioner)
        captioner = service.captioner
        service.calls += 1
        sink = AudioSink(
            send=captioner.send_audio,
            end_speech=captioner.end_speech,
            has_room=captioner.has_room,
        )
        try:
            call = await asyncio.to_thread(
                Call, job_id, spec, directory, sink, max_log_bytes=self._max_log_bytes
            )
        except BaseException:
            self._release(spec.model, captioner)
            raise
        captioner.add(call)
        self._calls[job_id] = call
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()
        return call, captioner

    def close(self, call: Call, captioner: Captioner) -> None:
        """Close a call, and end its captioner when it was the last.

        Raises OSError when the last of it could not be written.
        """
        del self._calls[call.job_id]
        captioner.remove(call)
        try:
            call.close()
        finally:
            self._release(call.spec.model, captioner)

    def _release(self, model: str, captioner: Captioner) -> None:
        service = self._services.get(model)
        if service is None or service.captioner is not captioner:
            return
        service.calls -= 1
        if service.calls == 0:
            captioner.close()
            del self._services[model]

    def get(self, job_id: str) -> Call | None:
        """The call, if it is open."""
        return self._calls.get(job_id)

    async def find(self, job_id: str) -> Call:
        """The call; waits for one that is about to be opened."""
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                while job_id not in self._calls:
                    await self._opened.wait()
        except TimeoutError:
            raise CallsdError(
                Reason.JOB_STATE_CONFLICT,
                f"the captions job {job_id} is not open yet: try again",
                retry_after_seconds=1.0,
            ) from None
        return self._calls[job_id]

    def wake(self) -> None:
        """Wake all streams: they may have to end."""
        for call in self._calls.values():
            call.acks.set()
            call.feed.wake()

    def names(self) -> frozenset[str]:
        """Names of all captioners so far, as their directories have them."""
        return frozenset(map(captioner_name, self._lives))

    async def end(self) -> None:
        """End all captioners; clients send unprocessed audio again to the next daemon."""
        for life in self._lives.values():
            life.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)


async def _live(captioner: Captioner, previous: "asyncio.Task[None] | None") -> None:
    """Run a captioner once the previous one of its model has ended.

    They have the same name, and the one that ends removes everything of that name.
    """
    if previous is not None:
        await asyncio.gather(previous, return_exceptions=True)
    await captioner.run()
