# SPDX-License-Identifier: Apache-2.0
"""A long recording goes over a bad link, and the daemon does not grow by it."""

import time
from pathlib import Path

import pytest

from tests.faults.conftest import RecordFigure
from tests.mattermost.state import MIB
from tests.outbox.fixtures import StartWorld
from tests.outbox.world import World


MAX_GROWTH_BYTES = 20 * MIB
DELIVERY_SECONDS = 600.0


class Memory:
    """How the daemon's resident memory has grown since this was made, at its highest."""

    def __init__(self, world: World) -> None:
        assert world.daemon.process is not None
        self._directory = Path("/proc") / str(world.daemon.process.pid)
        self._before_bytes = self._bytes("VmRSS")
        # Forgets how high it has ever been (Linux, since 4.0).
        (self._directory / "clear_refs").write_text("5")

    def _bytes(self, key: str) -> int:
        lines = (self._directory / "status").read_text().splitlines()
        (line,) = (one for one in lines if one.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024

    @property
    def growth_bytes(self) -> int:
        return self._bytes("VmHWM") - self._before_bytes


async def deliver(world: World, *, size_mib: int, cuts: int) -> str:
    """Deliver a recording over a link that is cut so often; returns what was measured."""
    server = world.server
    call = await world.record(size_mib)
    memory = Memory(world)
    began = time.monotonic()
    await world.stop(call)
    await server.until(lambda: server.state.uploads, "the upload has begun")
    (upload,) = server.state.uploads.values()
    for cut in range(cuts):
        enough = (cut + 1) * size_mib * MIB // (cuts + 1)
        await server.until(
            lambda: upload.is_busy and upload.path.stat().st_size > enough,  # noqa: B023 - now
            f"{enough} bytes have arrived",
            timeout_seconds=DELIVERY_SECONDS,
        )
        server.cut_connections()
    file = await world.published(call, seconds=DELIVERY_SECONDS)
    seconds, growth_bytes = time.monotonic() - began, memory.growth_bytes
    assert file.size == size_mib * MIB
    assert file.path == upload.path  # of the one session that there was
    assert len(world.problems(call)) >= cuts
    sent_bytes = sum(
        one.size for one in server.requests if one.path.endswith(upload.id) and one.status < 300
    )
    assert growth_bytes < MAX_GROWTH_BYTES
    parts = sum(one.method == "POST" and one.path.endswith(upload.id) for one in server.requests)
    return (
        f"{size_mib} MiB over {cuts} cuts: {growth_bytes / MIB:.1f} MiB more resident memory, "
        f"{parts} parts, {sent_bytes / MIB:.0f} MiB in whole ones, {seconds:.0f} s"
    )


@pytest.mark.scenario(55, "a long file over a link that breaks: whole, in constant memory")
async def test_long_recording(start_world: StartWorld, record_figure: RecordFigure) -> None:
    """200 MiB, cut 5 times: the daemon needs no more memory for it than for a short one."""
    world = await start_world(max_file_size=100 * MIB)
    record_figure(await deliver(world, size_mib=200, cuts=5))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.scenario(55, "a long file over a link that breaks: whole, in constant memory")
async def test_very_long_recording(start_world: StartWorld, record_figure: RecordFigure) -> None:
    """2 GiB, cut 20 times: the same."""
    world = await start_world(max_file_size=100 * MIB)
    record_figure(await deliver(world, size_mib=2048, cuts=20))
