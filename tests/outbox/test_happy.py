# SPDX-License-Identifier: Apache-2.0
"""A recording on its way to the thread of its call when nothing goes wrong.

The names in brackets are the lines of the conformance checklist that a test proves.
"""

import sqlite3

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.helpers.waiting import eventually
from tests.outbox.deliveries import name_of
from tests.outbox.fixtures import StartWorld
from tests.outbox.world import World


async def test_recording_reaches_its_thread(world: World) -> None:
    """It is in the thread once, byte for byte, and the job says that it has succeeded."""
    call = await world.record(6)
    assert world.server.thread(call) == []
    await world.stop(call)
    file = await world.published(call)
    assert file.size == 6 * 1024**2
    assert file.name.startswith("Call_Town_Square_")
    assert file.name.endswith(".mp4")
    job = await world.asked(lambda: world.daemon.job(world.daemon.api(), name_of(call.recording)))
    assert job.state == JOB_STATE_SUCCEEDED
    assert world.asks("POST", "/recordings") == 1
    assert world.server.state.uploads == {}
    assert world.problems(call) == []


async def test_started_is_told_with_the_first_picture(world: World) -> None:
    """[J6, J7] The plugin hears of the beginning once, when there is something to see."""
    call = await world.begin("say joining; until picture; film 0.1")
    name, api = name_of(call.recording), world.daemon.api()
    await world.asked(
        lambda: eventually(
            lambda: world.daemon.job(api, name).progress.phase == "joining", "it is joining"
        )
    )
    assert world.asks("POST", "/status") == 0
    (world.daemon.root / "tmp" / "picture").touch()
    await world.server.until(lambda: call.recording.start_at, "`started` has been told")
    await world.stop(call)
    await world.published(call)
    assert world.asks("POST", "/status") == 1


async def test_token_is_forgotten(start_world: StartWorld) -> None:
    """After the delivery the bot's token is in no file of the daemon's, and never was in its log.

    The server repeats it in a refusal on the way, as real ones do in developer mode.
    """
    world = await start_world(is_developer_mode=True)
    call = await world.record()
    token = world.server.bot_token
    assert token in str(secrets_of(world))
    assert {"callsd.db", "callsd.db-wal"} & set(files_with(world, token))
    world.server.revoke_tokens()
    await world.stop(call)
    await world.problem(call, "answers 401")
    world.server.state.tokens[token] = world.server.state.bot.id
    await world.published(call)
    answer = await world.asked(lambda: world.http("GET", f"/jobs/{call.recording.job_id}"))
    assert answer.status == 200
    assert token.encode() not in answer.body
    assert secrets_of(world) == []
    job = await world.asked(lambda: world.daemon.job(world.daemon.api(), name_of(call.recording)))
    assert token not in str(job)
    assert token not in world.daemon.log
    # Who reads the database just now, as this test does, puts the wiping of its log off.
    await world.asked(
        lambda: eventually(lambda: not files_with(world, token), "the token is in no file")
    )


def files_with(world: World, token: str) -> list[str]:
    """Names of all files that the daemon keeps and that hold the token."""
    kept = [file for file in world.daemon.state.rglob("*") if file.is_file()]
    return [file.name for file in kept if token.encode() in file.read_bytes()]


def secrets_of(world: World) -> list[bytes]:
    """What the database keeps apart for all jobs."""
    database = sqlite3.connect(f"file:{world.daemon.state / 'callsd.db'}?mode=ro", uri=True)
    try:
        return [body for (body,) in database.execute("SELECT body FROM secrets")]
    finally:
        database.close()
