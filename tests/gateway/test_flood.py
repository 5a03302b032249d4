# SPDX-License-Identifier: Apache-2.0
"""Somebody tries keys at the gateway, as many as the connection takes.

That a wrong key takes as long however much of it is right needs no clock to be proved: what is
compared are hashes (`Clients._is_right`), in which nothing of a key's beginning is left.
"""

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import Http
from tests.helpers.ports import free_port
from tests.mattermost.job_client import basic


CONNECTIONS = 50
ATTEMPTS = 4000

MOST_SECONDS = 0.2
NEWCOMER_SECONDS = 10.0
MOST_GROWTH_BYTES = 48 * 1024**2
"""A key takes 16 MiB while it is hashed; of 50 at once it would be 800."""

NO_JOB = "/jobs/aaaaaaaaaaaa"
"""404 for who is let in."""


class Flood:
    """Wrong credentials from many connections, each with its next ones as soon as it is answered.

    `whom` says as which client the n-th attempt is made.
    """

    def __init__(self, http: Http, whom: Callable[[int], str]) -> None:
        self._url = f"http://127.0.0.1:{http.port}{NO_JOB}"
        self._whom = whom
        self.statuses = Counter[int]()
        self._numbers = itertools.count()

    @property
    def count(self) -> int:
        """How many were answered."""
        return self.statuses.total()

    async def until(self, count: int) -> None:
        """Wait until so many were answered."""
        deadline = time.monotonic() + 30.0
        while self.count < count:
            assert time.monotonic() < deadline, f"only {self.count} answers"
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Go on for as long as the context lasts."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(connector=connector) as session:
            tasks = [
                asyncio.create_task(self._try_keys(session, place)) for place in range(CONNECTIONS)
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    async def _try_keys(self, session: aiohttp.ClientSession, place: int) -> None:
        while True:
            # Too short to be taken from somebody new, else each would be let in as themselves.
            key = f"guess {next(self._numbers)}"
            header = {"Authorization": basic(self._whom(place), key)}
            async with session.get(self._url, headers=header) as response:
                await response.read()
                self.statuses[response.status] += 1


async def answer_seconds(http: Http, flood: Flood) -> list[float]:
    """How long somebody waits for each answer who asks until the flood is over."""
    found = []

    def ask() -> int:
        return http("GET", NO_JOB).status

    while flood.count < ATTEMPTS:
        began = time.monotonic()
        assert await asyncio.to_thread(ask) == 404
        found.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    return found


async def seconds_until_in(http: Http) -> float:
    """How long it takes somebody to be let in who asks once, as the plugin does when it starts."""
    began = time.monotonic()
    answer = await asyncio.to_thread(http, "GET", NO_JOB)
    assert (answer.status, answer.headers.get("Retry-After")) == (404, None)
    return time.monotonic() - began


def resident(daemon: Daemon, key: str) -> int:
    """The daemon's memory: VmRSS now, VmHWM at its highest."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = (one for one in status.splitlines() if one.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Three that a gateway knows, of whom it has seen one since its start."""

    server: Daemon
    seen: Http
    newcomer: Http
    victim: Http


@pytest.fixture(scope="module")
def clients(shared_daemon: StartDaemon) -> Clients:
    """Of a gateway that has just started."""
    port = free_port()
    gateway = {"listen": f"127.0.0.1:{port}", "self_registration": True}
    server = shared_daemon(config={"gateway": gateway})
    seen = Http(port=port, client_id="seen")
    newcomer = replace(seen, client_id="newcomer", key="n" * 32)
    victim = replace(seen, client_id="victim", key="v" * 32)
    for one in (seen, newcomer, victim):
        assert one("GET", NO_JOB).status == 404
    server.restart()
    assert seen("GET", NO_JOB).status == 404
    return Clients(server=server, seen=seen, newcomer=newcomer, victim=victim)


@pytest.mark.alone
async def test_wrong_credentials(clients: Clients) -> None:
    """Thousands of wrong credentials from 50 connections let everybody else work.

    Some of them are tried as clients that there are, most as clients that there are not. Who is
    known is answered as ever, who was not seen before gets in, and the daemon does not grow.
    """
    server, seen, newcomer = clients.server, clients.seen, clients.newcomer
    names = {0: seen.client_id, 1: seen.client_id, 2: newcomer.client_id, 3: newcomer.client_id}
    flood = Flood(seen, lambda place: names.get(place, f"stranger {place}"))
    before = resident(server, "VmRSS")
    async with flood.going_on():
        asking = asyncio.create_task(answer_seconds(seen, flood))
        newcomer_seconds = await seconds_until_in(newcomer)
        seconds = sorted(await asking)
    growth = resident(server, "VmHWM") - before
    median, p99 = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    print(  # noqa: T201 - for people
        f"{flood.count} wrong credentials, {dict(flood.statuses)}: {len(seconds)} answers to who "
        f"is known, median {median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; a newcomer is in after "
        f"{newcomer_seconds:.2f} s; {growth / 1024**2:.1f} MiB more memory"
    )
    assert flood.count >= ATTEMPTS
    assert set(flood.statuses) == {401}
    assert len(seconds) > 100
    assert median < MOST_SECONDS
    assert p99 < MOST_SECONDS
    assert newcomer_seconds < NEWCOMER_SECONDS
    assert growth < MOST_GROWTH_BYTES


@pytest.mark.alone
async def test_all_at_one_client(clients: Clients) -> None:
    """When all of them guess the key of one client, that one gets in all the same, at its turn.

    The plugin asks once, and does without a job service when it is refused.
    """
    seen, victim = clients.seen, clients.victim
    flood = Flood(seen, lambda _place: victim.client_id)
    async with flood.going_on():
        await flood.until(CONNECTIONS)
        first_seconds = await seconds_until_in(victim)
        other_seconds = await seconds_until_in(seen)
        again_seconds = await seconds_until_in(victim)
    print(  # noqa: T201 - for people
        f"in after {first_seconds:.2f} s, again after {again_seconds:.2f} s; another one after "
        f"{other_seconds:.2f} s"
    )
    assert first_seconds < NEWCOMER_SECONDS
    assert max(again_seconds, other_seconds) < MOST_SECONDS
    assert set(flood.statuses) == {401}
