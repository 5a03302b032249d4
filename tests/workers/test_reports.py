# SPDX-License-Identifier: Apache-2.0
"""What is new of an attempt is stored in time, and holds nobody up who watches over it."""

import asyncio

import pytest

from callsd_daemon.domain.jobs import Progress
from callsd_daemon.workers import reports as module
from callsd_daemon.workers.reports import AttemptObserver, Reports


WAIT_SECONDS = 20.0
FIRST, SECOND, THIRD = (Progress(phase=phase) for phase in ("first", "second", "third"))


class Store:
    """Writes down what it is told, while nobody holds it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_free = asyncio.Event()
        self.is_free.set()
        self.is_asked, self.is_told = asyncio.Event(), asyncio.Event()
        self.problem: Exception | None = None
        self.observer = AttemptObserver(
            running=self.running, progress=self.progress, tick=self.running
        )

    async def running(self) -> None:
        """The job runs."""
        await self._store("running")

    async def progress(self, progress: Progress) -> None:
        """The job is so far."""
        await self._store(progress.phase)

    async def _store(self, what: str) -> None:
        self.is_asked.set()
        await self.is_free.wait()
        if self.problem is not None:
            raise self.problem
        self.told.append(what)
        self.is_told.set()

    async def asked(self) -> None:
        """Wait until somebody wants something stored."""
        await asyncio.wait_for(self.is_asked.wait(), WAIT_SECONDS)
        self.is_asked.clear()


@pytest.fixture
async def store() -> Store:
    """One that is free."""
    return Store()


async def test_start_and_progress(store: Store) -> None:
    """That a job runs is stored first, what is known already is not stored again."""
    async with Reports(store.observer, is_running=False) as reports:
        reports.tell(FIRST)
        await store.asked()
        reports.tell(None)
        reports.tell(FIRST)

    assert store.told == ["running", "first"]


async def test_newest(store: Store) -> None:
    """While the store is held reports do not queue up: the newest one follows."""
    store.is_free.clear()
    async with Reports(store.observer, is_running=True) as reports:
        reports.tell(FIRST)
        await store.asked()
        reports.tell(SECOND)
        store.is_free.set()
        await asyncio.wait_for(store.is_told.wait(), WAIT_SECONDS)
        reports.tell(THIRD)

    assert store.told == ["first", "third"]


async def test_last_report(store: Store) -> None:
    """The end waits for a store that is only slow."""
    store.is_free.clear()
    async with Reports(store.observer, is_running=False) as reports:
        reports.tell(FIRST)
        await store.asked()
        asyncio.get_running_loop().call_later(0.01, store.is_free.set)

    assert store.told == ["running", "first"]


async def test_held_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end does not wait for a store that somebody holds, and nothing is stored after it."""
    monkeypatch.setattr(module, "LAST_SECONDS", 0.01)
    store.is_free.clear()
    async with asyncio.timeout(WAIT_SECONDS), Reports(store.observer, is_running=True) as reports:
        reports.tell(FIRST)
        await store.asked()
    store.is_free.set()
    await asyncio.sleep(0)

    assert store.told == []


async def test_bug(store: Store) -> None:
    """What the store does not forgive is raised at the next report."""
    store.problem = ValueError("a bug")

    async def watch() -> None:
        async with Reports(store.observer, is_running=True) as reports:
            reports.tell(FIRST)
            await store.asked()
            reports.tell(SECOND)
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(watch(), WAIT_SECONDS)


async def test_bug_at_the_end(store: Store) -> None:
    """If there is no next report, it is raised at the end."""
    store.problem = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        async with Reports(store.observer, is_running=True) as reports:
            reports.tell(FIRST)
