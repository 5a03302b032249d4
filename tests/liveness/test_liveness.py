# SPDX-License-Identifier: Apache-2.0

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from callsd_daemon import liveness
from tests.helpers.waiting import until


async def test_unusable_and_standing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that cannot be used says as well when it stands still, once."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr(liveness, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(liveness, "PATIENCE_SECONDS", 0.1)
    goes, told, turns = asyncio.Event(), list[bool](), 0
    goes.set()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        await goes.wait()

    async def tell(is_well: bool) -> None:  # noqa: FBT001 - as it is called
        told.append(is_well)

    one = liveness.Liveness({"store": turn}, tell, is_usable=lambda: False)
    with capture_logs() as logs:
        task = asyncio.create_task(one.run())
        await until(lambda: told, "it is told that it cannot be used")
        goes.clear()
        before = turns
        await until(lambda: turns > before + 3, "it has stood still for some checks")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert told == [False]
    assert [(log["event"], log["parts"]) for log in logs] == [("standing_still", ["store"])]
