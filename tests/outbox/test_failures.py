# SPDX-License-Identifier: Apache-2.0
"""Whatever fails between a finished recording and its thread, it gets there once, and whole.

In brackets is what people have reported of other recorders: 2.1a, a restarted plugin revoked the
token; 2.1c, an upload had to fit into the time that a job was given.
"""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job
from callsd_daemon.mattermost.courier import TELL_FAILURE_TRIES
from tests.mattermost.faults import Faults
from tests.mattermost.state import MIB
from tests.outbox.deliveries import name_of
from tests.outbox.fixtures import StartOutbox
from tests.outbox.outbox_world import OutboxWorld
from tests.outbox.world import World


UPLOADS = "/bot/uploads"
FEW = 3
FOREVER_SECONDS = 600.0
"""Longer than any test."""

FAILED = Failure(reason=Reason.PAGE_UNAVAILABLE, message="the page is not there")


async def test_damaged_store(start_outbox: StartOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written down any more is not begun again and again at the site."""
    world = await start_outbox(constants={"callsd_daemon.mattermost.outbox.LOOK_SECONDS": 0.05})
    outbox, looks, pending = world._outbox, [], world._outbox._pending

    async def look() -> tuple[Job, ...]:
        looks.append(outbox)
        return await pending()

    monkeypatch.setattr(outbox, "_pending", look)
    world.server.faults.plugin_crashed.always(path="/status")
    call = await world.begin()
    await world.problem(call, "500")
    world._database._damage.problem = "a page is not what it was"
    await world.server.until(lambda: not outbox._couriers, "the courier cannot go on")
    asked, looked = len(world.server.requests), len(looks)
    await world.server.until(lambda: len(looks) > looked + FEW, "it was looked for work")

    assert len(world.server.requests) == asked


class TestPlugin:
    """The plugin, or all of the server, is away or in trouble for a while."""

    @pytest.mark.parametrize(
        ("fail", "text"),
        [
            (lambda faults: faults.plugin_disabled.always(), "404 page not found"),
            (lambda faults: faults.plugin_crashed.always(), "500 internal server error"),
            (lambda faults: faults.too_many_requests.always(), "too many requests"),
            (lambda faults: faults.internal_error.always(), "failed to lock call"),
        ],
        ids=["disabled-404", "crashed-500", "limited-429", "locked-500"],
    )
    async def test_away_before_the_upload(
        self, outbox: OutboxWorld, fail: Callable[[Faults], None], text: str
    ) -> None:
        """[2.1a] It is tried again until the plugin is back, and delivered then."""
        call = await outbox.record(6)
        fail(outbox.server.faults)
        await outbox.stop(call)
        await outbox.problem(call, text)
        await outbox.asked_more_than(call, FEW)
        outbox.server.faults.reset()
        await outbox.published(call)
        assert outbox.asks("POST", "/recordings") == 1

    @pytest.mark.parametrize(
        "fail",
        [
            lambda faults: faults.plugin_disabled.always(path="/recordings"),
            lambda faults: faults.plugin_crashed.always(path="/recordings"),
            lambda faults: faults.too_many_requests.always(path="/recordings"),
        ],
        ids=["disabled-404", "crashed-500", "limited-429"],
    )
    async def test_away_before_the_post(
        self, outbox: OutboxWorld, fail: Callable[[Faults], None]
    ) -> None:
        """[2.1a] The file that is there already is posted, and not sent a second time."""
        call = await outbox.record(6)
        fail(outbox.server.faults)
        await outbox.stop(call)
        await outbox.asked_more_than(call, FEW)
        outbox.server.faults.reset()
        await outbox.published(call)
        assert len(outbox.server.state.files) == 1
        # Who refuses has made no post that would have to be looked for.
        looks = outbox.asks("GET", "/info")
        assert (looks == 0) == (not any(" 500 " in one for one in outbox.problems(call)))

    async def test_away_in_the_upload(self, outbox: OutboxWorld) -> None:
        """[2.1a] A plugin that goes while data comes has not made a second session necessary."""
        outbox.server.uploads.max_file_size = 5 * MIB
        call = await outbox.record(12)
        faults = outbox.server.faults
        faults.plugin_disabled.times(FEW, path=f"{UPLOADS}/")
        await outbox.stop(call)
        await outbox.published(call)
        assert faults.plugin_disabled.uses == FEW
        assert outbox.asks("POST", UPLOADS) == 1

    async def test_server_is_down(self, world: World) -> None:
        """[2.1c] Nobody answers at the site's address for a while."""
        call = await world.record(6)
        await world.server.stop_listening()
        await world.stop(call)
        await world.problem(call, "cannot be reached")
        await world.asked_more_than(call, FEW)
        await world.server.start_listening()
        await world.published(call)

    async def test_slow_answers(self, start_outbox: StartOutbox) -> None:
        """[2.1c] An answer that comes after our patience is at an end has still been acted on."""
        outbox = await start_outbox(constants={"callsd_daemon.mattermost.site.ANSWER_SECONDS": 0.5})
        call = await outbox.record(6)
        slow = outbox.server.faults.slow
        slow.once(FOREVER_SECONDS, path=UPLOADS)
        await outbox.stop(call)
        await outbox.server.until(lambda: slow.uses, "an upload is begun")
        slow.once(FOREVER_SECONDS, path="/recordings")
        await outbox.published(call)
        assert slow.uses == 2
        outbox.only_file(call)


class TestTokens:
    """The plugin has been restarted: its old token is worth nothing."""

    async def test_later_job_brings_a_token(self, outbox: OutboxWorld) -> None:
        """[2.1a] A later job of the same site brings the token that delivers the older recording.

        It does so as soon as it is there, while its own recording goes on.
        """
        call = await outbox.record(6)
        outbox.server.restart_plugin()
        await outbox.stop(call)
        await outbox.problem(call, "answers 401")
        later = await outbox.record(channel="Another one")
        await outbox.published(call)
        assert later.recording.is_active
        await outbox.stop(later)
        await outbox.published(later)

    async def test_token_comes_while_something_else_fails(self, start_outbox: StartOutbox) -> None:
        """[2.1a] A delivery that waits after another failure is tried at once, and with the token.

        The later job may be over before the older one would have been tried again.
        """
        outbox = await start_outbox(
            constants={
                "callsd_daemon.domain.delivery.FIRST_PAUSE_SECONDS": 100.0,
                "callsd_daemon.domain.delivery.MAX_PAUSE_SECONDS": 100.0,
            }
        )
        call = await outbox.record(6)
        outbox.server.faults.plugin_disabled.once(path=UPLOADS)
        await outbox.stop(call)
        await outbox.problem(call, "404 page not found")
        outbox.server.restart_plugin()
        later = await outbox.record(channel="Another one")
        await outbox.published(call)
        await outbox.stop(later)
        await outbox.published(later)

    async def test_two_refused_tokens(self, outbox: OutboxWorld) -> None:
        """Between tokens of several later jobs that are refused, too, nobody runs in circles."""
        server = outbox.server
        call = await outbox.record(6)
        server.faults.plugin_disabled.always(path=UPLOADS)
        await outbox.stop(call)
        await outbox.problem(call, "404 page not found")
        later = []
        with capture_logs() as said:
            for channel in ("One", "Two"):
                server.new_token()
                later.append(await outbox.record(channel=channel))
            # Both go on, and so do not notice that their tokens are worth nothing.
            server.revoke_tokens()
            server.faults.reset()
            await outbox.problem(call, "answers 401")
            await outbox.asked_more_than(call, 2 * FEW)
        taken = [one for one in said if one["event"] == "newer_token_taken"]
        assert len(taken) in (1, 2)
        server.new_token()
        last = await outbox.record(channel="Three")
        await outbox.published(call)
        for one in (*later, last):
            await outbox.stop(one)
            await outbox.published(one)

    async def test_later_token_that_is_refused(self, outbox: OutboxWorld) -> None:
        """[2.1a] Of later jobs the latest counts whose own token the site has not refused."""
        server = outbox.server
        call = await outbox.record(6)
        good = server.new_token()
        await outbox.record(channel="One")
        server.new_token()
        refused = await outbox.record(channel="Two")
        server.revoke_tokens()
        server.state.tokens[good] = server.state.bot.id
        await outbox.stop(refused)
        await outbox.problem(refused, "answers 401")
        await outbox.stop(call)
        await outbox.published(call)

    async def test_token_of_another_client(self, world: World) -> None:
        """Who has handed in a job for a site gets nobody else's token for it."""
        call = await world.record(6)
        world.server.restart_plugin()
        await world.stop(call)
        await world.problem(call, "answers 401")
        url = f"http://127.0.0.1:{world.http.port}"
        await world.server.activate(url, "stranger", "s" * 32, transcriptions=False)
        other = await world.record(channel="Another one")
        await world.asked_more_than(call, FEW)
        await world.stop(other)
        await world.published(other)
        assert world.server.thread(call) == []
        await world.activate()
        await world.record(channel="Our own again")
        await world.published(call)


class TestStates:
    """What the plugin is told of a job."""

    async def test_status_fails_for_a_while(self, outbox: OutboxWorld) -> None:
        """`started` is told again until it is taken, then no more."""
        outbox.server.faults.internal_error.times(FEW, path="/status")
        call = await outbox.record()
        assert outbox.server.faults.internal_error.uses == FEW
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.asks("POST", "/status") == FEW + 1

    async def test_call_is_over_before_the_start_is_told(self, outbox: OutboxWorld) -> None:
        """`no call ongoing` costs nothing: what is recorded is delivered."""
        call = await outbox.begin(6, has_begun=False)
        await outbox.server.end_call(call)
        await outbox.go_on(call.recording)
        await outbox.server.until(lambda: outbox.asks("POST", "/status"), "it is told")
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.asks("POST", "/status") == 1
        assert call.recording.start_at == 0
        assert outbox.problems(call) == []

    async def test_call_has_ended(self, outbox: OutboxWorld) -> None:
        """A recording gets to its thread after the call's end as well."""
        call = await outbox.record(6)
        await outbox.server.end_call(call)
        await outbox.stop(call)
        await outbox.published(call)

    async def test_cancelled_before_it_began(self, outbox: OutboxWorld) -> None:
        """The host is told at once, and need not wait for the plugin's own minute."""
        call = await outbox.begin(has_begun=False)
        await outbox.cancel(name_of(call.recording))
        await outbox.server.until(lambda: call.recording.err, "`failed` has been told")
        assert call.recording.err == "it was stopped before it had begun"
        await outbox.delivered(call)
        assert outbox.server.thread(call) == []

    async def test_recording_fails(self, outbox: OutboxWorld) -> None:
        """[J6, J7] The host reads why, in the words of the job."""
        call = await outbox.begin(has_begun=False)
        await outbox.end(name_of(call.recording), failure=FAILED)
        await outbox.server.until(lambda: call.recording.err, "`failed` has been told")
        assert call.recording.err == FAILED.message
        await outbox.delivered(call)
        assert outbox.server.thread(call) == []
        assert outbox.asks("POST", "/recordings") == 0

    async def test_failure_that_nobody_hears(self, outbox: OutboxWorld) -> None:
        """A failure is told some times only: the plugin finds out by itself."""
        outbox.server.faults.internal_error.always(path="/status")
        call = await outbox.begin(has_begun=False)
        await outbox.end(name_of(call.recording), failure=FAILED)
        await outbox.delivered(call)
        assert outbox.server.faults.internal_error.uses == TELL_FAILURE_TRIES
