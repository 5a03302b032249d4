# SPDX-License-Identifier: Apache-2.0
"""A delivery that has been tried for as long as the administrator allows."""

import sqlite3
from contextlib import closing

from callsd.v1.job_pb2 import GetJobRequest, PublishJobRequest
from callsd.v1.mattermost_pb2 import DELIVERY_STATE_GIVEN_UP
from tests.outbox.deliveries import name_of
from tests.outbox.world import World


WAITED_SECONDS = 1e8


async def test_given_up_and_published_after_all(world: World) -> None:
    """It is told why, its file stays here and its token does not; a person can have it delivered.

    The post had been made when its answer was lost, and a person's wish makes no second one.
    """
    faults, one = world.server.faults, world.daemon
    call = await world.record(6)
    faults.lost_answer.once()
    faults.internal_error.always("nobody can say", path="/info")
    await world.stop(call)
    await world.problem(call, "nobody can say")
    await world.asked(one.stop)
    age(world)
    await world.asked(one.start)
    await world.delivered(call)

    name = name_of(call.recording)
    api = one.api()
    job = await world.asked(lambda: api(api.jobs.GetJob, GetJobRequest(name=name)).job)
    assert job.delivery.state == DELIVERY_STATE_GIVEN_UP
    assert "nobody can say" in job.delivery.problem
    assert world.film(call).stat().st_size == job.artifacts[0].size_bytes
    assert secrets_count(world) == 0

    faults.reset()
    wish = PublishJobRequest(name=name, token=world.server.bot_token)
    await world.asked(lambda: api(api.jobs.PublishJob, wish))
    await world.published(call)
    assert world.asks("POST", "/recordings") == 1


def age(world: World) -> None:
    """Have a daemon that is not running find that it has tried for years."""
    with closing(sqlite3.connect(world.daemon.state / "callsd.db")) as database, database:
        changed = database.execute(
            """UPDATE jobs SET body = CAST(json_replace(
                CAST(body AS TEXT), '$.delivery.waited_seconds', ?) AS BLOB)
            WHERE json_extract(CAST(body AS TEXT), '$.delivery.failures') > 0""",
            (WAITED_SECONDS,),
        )
        assert changed.rowcount == 1


def secrets_count(world: World) -> int:
    """For how many jobs the database keeps secrets."""
    database = world.daemon.state / "callsd.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM secrets")
    return int(count)
