# SPDX-License-Identifier: Apache-2.0
"""The daemon, a recorder or the server dies between the end of a recording and its post."""

import asyncio
import os
import random
import signal

import pytest

from tests.faults.conftest import RecordFigure
from tests.helpers.invariants import assert_invariants
from tests.helpers.waiting import eventually
from tests.mattermost.state import MIB, Call
from tests.outbox.deliveries import name_of
from tests.outbox.fixtures import StartWorld
from tests.outbox.world import World


KILLED = -9
FILM_MIB = 12
PART_BYTES = 5 * MIB
"""So a film goes in three parts: there is something to be in the middle of."""

STEPS = 6
"""Of a courier with such a film: a session, three parts, the post, the end."""

TRANSCRIPT_STEPS = range(STEPS + 1, STEPS + 8)
"""Those after them: the end of the capture, two sessions with a file each, the post, the end."""

FAILPOINTS = (
    "takeover.before_file",
    "takeover.after_take",
    "takeover.before_outcome",
    "takeover.after_outcome",
    "job.concluded",
    *(f"courier.before_change={number}" for number in range(1, STEPS + 1)),
    *(f"courier.after_change={number}" for number in range(1, STEPS + 1)),
)
"""Before and after the daemon has the file, and has written down each step that it has done."""


@pytest.fixture
async def world(start_world: StartWorld) -> World:
    """A server that takes little at once."""
    return await start_world(max_file_size=PART_BYTES)


@pytest.mark.scenario(54, "at each step the daemon is killed: once in its thread, and whole")
@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_at_each_step(world: World, failpoint: str) -> None:
    """Whatever the daemon was about to do: the next one neither forgets it nor does it twice."""
    call = await world.record(FILM_MIB)
    one = world.daemon
    one.env["CALLSD_FAILPOINTS"] = failpoint
    await world.asked(one.restart)
    del one.env["CALLSD_FAILPOINTS"]
    (one.root / "tmp" / "over").touch()
    assert await world.asked(one.wait_dead) == KILLED
    await world.asked(one.start)
    await world.published(call)
    await world.asked(lambda: assert_invariants(one))


@pytest.mark.scenario(54, "at each step the daemon is killed: once in its thread, and whole")
@pytest.mark.parametrize("number", TRANSCRIPT_STEPS)
async def test_transcript_at_each_step(world: World, number: int) -> None:
    """The same of a transcript, which has two files and comes after its recording."""
    await world.activate(transcriptions=True)
    call = await world.record_speech(FILM_MIB, segments=3)
    one = world.daemon
    one.env["CALLSD_FAILPOINTS"] = f"courier.before_change={number}"
    await world.asked(one.restart)
    del one.env["CALLSD_FAILPOINTS"]
    (one.root / "tmp" / "over").touch()
    assert await world.asked(one.wait_dead) == KILLED
    await world.asked(one.start)
    await world.both_published(call)
    await world.asked(lambda: assert_invariants(one))


@pytest.mark.scenario(54, "the daemon is restarted in the middle: once in its thread, and whole")
@pytest.mark.parametrize("path", ["/bot/uploads", "/config/client", "/recordings"])
async def test_restart(world: World, path: str) -> None:
    """A daemon that is asked to end while an answer is due leaves nothing behind but what is so."""
    call = await world.record(FILM_MIB)
    world.server.faults.slow.once(1.0, path=path)
    await world.stop(call)
    await world.server.until(lambda: world.server.faults.slow.uses, f"{path} is asked for")
    assert await world.asked(world.daemon.stop) == 0
    await world.asked(world.daemon.start)
    await world.published(call)


@pytest.mark.scenario(54, "the daemon is away until long after: once in its thread, and whole")
async def test_stopped_before_the_end(world: World) -> None:
    """A recording that ends while there is no daemon is delivered by the next one."""
    call = await world.record(FILM_MIB)
    await world.asked(world.daemon.stop)
    (world.daemon.root / "tmp" / "over").touch()
    outcome = world.daemon.worker_directory(name_of(call.recording)) / "outcome.binpb"
    await world.asked(lambda: eventually(outcome.exists, "the recorder has its file"))
    await world.asked(world.daemon.start)
    await world.published(call)


class Rounds:
    """Recordings, one after the other, with something being killed after the end of each."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.kills = dict.fromkeys(("daemon", "recorder", "server"), 0)
        self.unpublished = 0
        """Kills that came before there was a post."""

    async def one(self, number: int) -> Call:
        """A recording, its end, and up to three deaths at moments that nobody knows."""
        chance, world = self.chance, self.world
        call = await world.record(chance.choice((0.1, 6, FILM_MIB)), channel=f"Round {number}")
        # A server that is quick is done before anybody can die.
        world.server.faults.slow.always(chance.uniform(0.05, 0.3))
        await world.stop(call)
        for _ in range(chance.randint(1, 3)):
            await asyncio.sleep(chance.uniform(0, 1.0))
            victim = chance.choice(tuple(self.kills))
            self.unpublished += not world.server.thread(call)
            match victim:
                case "daemon":
                    await world.asked(world.daemon.kill)
                    await world.asked(world.daemon.start)
                case "recorder":
                    await world.asked(lambda: self._kill_recorders(call))
                case "server":
                    await world.server.stop_listening()
                    await asyncio.sleep(chance.uniform(0, 0.5))
                    await world.server.start_listening()
                case _:
                    raise AssertionError(victim)
            self.kills[victim] += 1
        world.server.faults.reset()
        await world.published(call)
        return call

    def _kill_recorders(self, call: Call) -> None:
        for pid in self.world.daemon.worker_pids(name_of(call.recording)):
            os.kill(pid, signal.SIGKILL)

    async def run(self, count: int) -> str:
        """So many; returns what was measured."""
        calls = [await self.one(number) for number in range(count)]
        for call in calls:
            self.world.only_file(call)
        await self.world.asked(lambda: assert_invariants(self.world.daemon))
        deaths = ", ".join(f"{many} of the {who}" for who, many in self.kills.items())
        return (
            f"{count} recordings, each once in its thread and whole; deaths: {deaths}, "
            f"{self.unpublished} of them before the post"
        )


@pytest.mark.scenario(54, "random deaths of daemon, recorder, server: once in its thread, whole")
async def test_random_deaths(
    world: World, chance: random.Random, record_figure: RecordFigure
) -> None:
    """Whoever dies, and whenever: each recording is in its thread once, byte for byte."""
    rounds = Rounds(world, chance)
    record_figure(await rounds.run(10))
    assert rounds.unpublished


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.scenario(54, "random deaths of daemon, recorder, server: once in its thread, whole")
async def test_many_random_deaths(
    world: World, chance: random.Random, record_figure: RecordFigure
) -> None:
    """The same, two hundred times."""
    rounds = Rounds(world, chance)
    record_figure(await rounds.run(200))
    assert rounds.unpublished > 50
