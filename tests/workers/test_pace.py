# SPDX-License-Identifier: Apache-2.0
"""How fast a worker may talk, on a clock of our own."""

from types import SimpleNamespace

import pytest

from callsd_daemon.workers.session import pace as module
from callsd_daemon.workers.session.pace import Pace


class Clock:
    """Time that passes when somebody sleeps, or when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the pace goes by."""
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


async def seconds_for(pace: Pace, clock: Clock, count: int) -> float:
    """How long so many things take that all come at once."""
    before = clock.now
    for _ in range(count):
        await pace.wait()
    return clock.now - before


async def test_burst(clock: Clock) -> None:
    """As many as are allowed at once wait for nothing, from the first moment on."""
    assert await seconds_for(Pace(rate=50, burst=10), clock, 10) == 0.0


@pytest.mark.parametrize("burst", [1, 10, 50])
async def test_flood(clock: Clock, burst: int) -> None:
    """Who floods is read no faster than the rate, however long it goes on."""
    pace = Pace(rate=50, burst=burst)
    for seconds in (10, 20):
        passed = await seconds_for(pace, clock, 50 * seconds + burst)
        assert passed == pytest.approx(seconds + (burst / 50 if seconds == 20 else 0.0))


async def test_even(clock: Clock) -> None:
    """Who keeps to the rate never waits."""
    pace = Pace(rate=50, burst=1)
    waited = 0.0
    for _ in range(1000):
        waited += await seconds_for(pace, clock, 1)
        clock.now += 1 / 50

    assert waited == pytest.approx(0.0, abs=1e-6)


async def test_rest(clock: Clock) -> None:
    """Who was silent for a while may talk at once again, but a long silence buys no more."""
    pace = Pace(rate=50, burst=10)
    await seconds_for(pace, clock, 10)
    clock.now += 0.1
    assert await seconds_for(pace, clock, 6) == pytest.approx(1 / 50)

    clock.now += 10_000.0
    assert await seconds_for(pace, clock, 10) == pytest.approx(0.0, abs=1e-6)
    assert await seconds_for(pace, clock, 50) == pytest.approx(1.0)


async def test_weight(clock: Clock) -> None:
    """What counts for many holds up what comes after it for as long as they would."""
    pace = Pace(rate=50, burst=10)
    before = clock.now
    await pace.wait(60)
    assert clock.now - before == pytest.approx(1.0)

    assert await seconds_for(pace, clock, 50) == pytest.approx(1.0)
