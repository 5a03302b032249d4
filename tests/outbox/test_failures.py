# SPDX-License-Identifier: Apache-2.0
"""Whatever fails between a finished recording and its thread, it gets there once, and whole.

In brackets is what people have reported of other recorders: 2.1a, a restarted plugin revoked the
token; 2.1c, an upload had to fit into the time that a job was given; 2.2, limits and cuts of
proxies.
"""

import random
from collections.abc import Callable

import pytest

from tests.mattermost.faults import Faults
from tests.mattermost.state import MIB
from tests.outbox.fixtures import StartWorld
from tests.outbox.world import World, name_of


UPLOADS = "/bot/uploads"
FEW = 3

CUTS = [
    0,
    1,
    5 * MIB - 1,
    5 * MIB,
    5 * MIB + 1,
    8 * MIB - 1,  # all but the last byte
    *random.Random(2026).sample(range(8 * MIB), 4),  # noqa: S311 - no secret
]
"""Of a recording of 8 MiB, which goes in one piece unless it is cut."""


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
        self, world: World, fail: Callable[[Faults], None], text: str
    ) -> None:
        """[2.1a] It is tried again until the plugin is back, and delivered then."""
        call = await world.record(6)
        fail(world.server.faults)
        await world.stop(call)
        await world.problem(call, text)
        await world.asked_more_than(call, FEW)
        world.server.faults.reset()
        await world.published(call)
        assert world.asks("POST", "/recordings") == 1

    @pytest.mark.parametrize(
        "fail",
        [
            lambda faults: faults.plugin_disabled.always(path="/recordings"),
            lambda faults: faults.plugin_crashed.always(path="/recordings"),
            lambda faults: faults.too_many_requests.always(path="/recordings"),
        ],
        ids=["disabled-404", "crashed-500", "limited-429"],
    )
    async def test_away_before_the_post(self, world: World, fail: Callable[[Faults], None]) -> None:
        """[2.1a] The file that is there already is posted, and not sent a second time."""
        call = await world.record(6)
        fail(world.server.faults)
        await world.stop(call)
        await world.asked_more_than(call, FEW)
        world.server.faults.reset()
        await world.published(call)
        assert len(world.server.state.files) == 1
        # Who refuses has made no post that would have to be looked for.
        looks = world.asks("GET", "/info")
        assert (looks == 0) == (not world.problems_with(call, " 500 "))

    async def test_away_in_the_upload(self, world: World) -> None:
        """[2.1a] A plugin that goes while data comes has not made a second session necessary."""
        world.server.uploads.max_file_size = 5 * MIB
        call = await world.record(12)
        faults = world.server.faults
        faults.plugin_disabled.times(FEW, path=f"{UPLOADS}/")
        await world.stop(call)
        await world.published(call)
        assert faults.plugin_disabled.uses == FEW
        assert world.asks("POST", UPLOADS) == 1

    async def test_server_is_down(self, world: World) -> None:
        """[2.1c] Nobody answers at the site's address for a while."""
        call = await world.record(6)
        await world.server.stop_listening()
        await world.stop(call)
        await world.problem(call, "cannot be reached")
        await world.asked_more_than(call, FEW)
        await world.server.start_listening()
        await world.published(call)

    async def test_slow_answers(self, start_world: StartWorld) -> None:
        """[2.1c] An answer that comes after our patience is at an end has still been acted on."""
        world = await start_world(constants={"callsd_daemon.mattermost.site.ANSWER_SECONDS": 0.5})
        call = await world.record(6)
        slow = world.server.faults.slow
        slow.times(1, 1.0, path=UPLOADS)
        await world.stop(call)
        await world.problem(call, "cannot be reached")
        slow.times(1, 1.0, path="/recordings")
        await world.published(call)
        await world.server.until(lambda: world.asks("POST", "/recordings"), "it is answered")
        assert slow.uses == 2
        world.only_file(call)


class TestTokens:
    """The plugin has been restarted: its old token is worth nothing."""

    async def test_later_job_brings_a_token(self, world: World) -> None:
        """[2.1a] A later job of the same site brings the token that delivers the older recording.

        It does so as soon as it is there, while its own recording goes on.
        """
        call = await world.record(6)
        world.server.restart_plugin()
        await world.stop(call)
        await world.problem(call, "answers 401")
        later = await world.record(channel="Another one")
        await world.published(call)
        assert later.recording.is_active
        await world.stop(later)
        await world.published(later)

    async def test_token_comes_while_something_else_fails(self, start_world: StartWorld) -> None:
        """[2.1a] A delivery that waits after another failure is tried at once, and with the token.

        The later job may be over before the older one would have been tried again.
        """
        world = await start_world(
            constants={
                "callsd_daemon.domain.delivery.FIRST_PAUSE_SECONDS": 100.0,
                "callsd_daemon.domain.delivery.MAX_PAUSE_SECONDS": 100.0,
            }
        )
        call = await world.record(6)
        world.server.faults.plugin_disabled.once(path=UPLOADS)
        await world.stop(call)
        await world.problem(call, "404 page not found")
        world.server.restart_plugin()
        later = await world.record(channel="Another one")
        await world.published(call)
        await world.stop(later)
        await world.published(later)

    async def test_two_refused_tokens(self, world: World) -> None:
        """Between tokens of several later jobs that are refused, too, nobody runs in circles."""
        server = world.server
        call = await world.record(6)
        server.faults.plugin_disabled.always(path=UPLOADS)
        await world.stop(call)
        await world.problem(call, "404 page not found")
        later = []
        for channel in ("One", "Two"):
            server.new_token()
            later.append(await world.record(channel=channel))
        # Both go on, and so do not notice that their tokens are worth nothing.
        server.revoke_tokens()
        server.faults.reset()
        await world.problem(call, "answers 401")
        await world.asked_more_than(call, 2 * FEW)
        events = world.daemon.events("newer_token_taken")
        assert len([one for one in events if one["job_id"] == call.recording.job_id]) <= 2
        server.new_token()
        last = await world.record(channel="Three")
        await world.published(call)
        for one in (*later, last):
            await world.stop(one)
            await world.published(one)

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


class TestLimits:
    """Something takes no bodies of this size."""

    @pytest.mark.parametrize("limit_mib", [60, 20, 6])
    async def test_proxy(self, world: World, limit_mib: int) -> None:
        """[2.2] A 413 is no failure: smaller parts are sent at once."""
        world.server.uploads.max_file_size = 200 * MIB
        call = await world.record(70)
        world.server.faults.too_large.always(limit_mib * MIB)
        await world.stop(call)
        await world.published(call)
        assert world.problems(call) == []
        assert all(one.size <= 32 * MIB for one in world.server.requests)

    async def test_hopeless_proxy(self, world: World) -> None:
        """[2.2] No part that Mattermost begins a file with fits through: it is told what to do.

        When that has been done the file is delivered.
        """
        world.server.faults.too_large.always(4 * MIB)
        call = await world.record(12)
        await world.stop(call)
        text = await world.problem(call, "answers 413")
        assert "raise client_max_body_size of the proxy" in text
        assert "5242880 bytes" in text
        assert "<" not in text
        world.server.faults.too_large.always(6 * MIB)
        await world.published(call)

    async def test_small_file_and_small_limit(self, world: World) -> None:
        """[2.2] A file that fits goes, however small the limit is."""
        world.server.faults.too_large.always(4 * MIB)
        call = await world.record(3)
        await world.stop(call)
        await world.published(call)
        assert world.problems(call) == []

    @pytest.mark.parametrize("max_mib", [5, 7, 20])
    async def test_max_file_size(self, world: World, max_mib: int) -> None:
        """[2.2] MaxFileSize limits each part, and a recording may be longer."""
        world.server.uploads.max_file_size = max_mib * MIB
        call = await world.record(23)
        await world.stop(call)
        await world.published(call)
        assert world.problems(call) == []
        parts = [one for one in world.server.requests if f"{UPLOADS}/" in one.path and one.size]
        assert max(part.size for part in parts) == max_mib * MIB

    async def test_hopeless_max_file_size(self, world: World) -> None:
        """[2.2] One below the least first part lets nothing longer through: it is told what to do.

        When that has been done the file is delivered.
        """
        world.server.uploads.max_file_size = MIB
        call = await world.record(6)
        await world.stop(call)
        assert "raise FileSettings.MaxFileSize" in await world.problem(call, "1048576 bytes")
        world.server.uploads.max_file_size = 100 * MIB
        await world.published(call)


class TestCuts:
    """The connection breaks."""

    @pytest.mark.parametrize("cut", CUTS)
    async def test_upload_is_cut(self, world: World, cut: int) -> None:
        """[2.2] What the server has is not sent again, what it has not is; the file is whole."""
        world.server.uploads.max_file_size = 100 * MIB
        call = await world.record(8)
        world.server.faults.cut_upload.once(cut)
        await world.stop(call)
        await world.published(call)
        assert world.server.faults.cut_upload.uses == 1
        assert world.asks("POST", UPLOADS) == 1

    async def test_cut_again_and_again(self, world: World) -> None:
        """[2.2] Parts get smaller while they are cut: with the first one through it goes on."""
        call = await world.record(40)
        cut = world.server.faults.cut_upload
        cut.times(8, 6 * MIB)
        await world.stop(call)
        await world.published(call)
        assert cut.uses > 1

    async def test_answer_of_the_last_part_is_lost(self, world: World) -> None:
        """The session is gone with its end, and the file's id with the answer: it is sent again.

        The first file stays at the server, in no thread.
        """
        call = await world.record(8)
        lost = world.server.faults.lost_answer
        await world.stop_before(call, UPLOADS, lambda: lost.once(path=f"{UPLOADS}/"))
        file = await world.published(call)
        assert lost.uses == 1
        others = [one for one in world.server.state.files.values() if one.id != file.id]
        assert [one.post_id for one in others] == [""]
        assert world.asks("POST", UPLOADS) == 2

    @pytest.mark.parametrize("times", [1, 2])
    async def test_answer_of_the_post_is_lost(self, world: World, times: int) -> None:
        """Posting twice makes two posts: it is looked first whether there is one."""
        call = await world.record(6)
        lost = world.server.faults.lost_answer
        lost.times(times)
        await world.stop(call)
        await world.published(call)
        assert lost.uses == 1
        assert world.asks("POST", "/recordings") == 1

    async def test_post_that_is_made_late(self, start_world: StartWorld) -> None:
        """A post may be in the making when we lose patience: it is waited for, not repeated."""
        world = await start_world(
            constants={
                "callsd_daemon.mattermost.site.ANSWER_SECONDS": 0.5,
                "callsd_daemon.mattermost.courier.SECOND_LOOK_SECONDS": 3.0,
            }
        )
        call = await world.record(6)
        late = world.server.faults.late_post
        late.once(2.0)
        await world.stop(call)
        await world.problem(call, "cannot be reached")
        assert world.server.thread(call) == []
        await world.published(call)
        assert late.uses == 1
        assert world.asks("POST", "/recordings") == 1

    async def test_post_that_never_arrived(self, world: World) -> None:
        """When the look finds no post, it is made."""
        call = await world.record(6)
        world.server.faults.internal_error.once("nothing was made", path="/recordings")
        await world.stop(call)
        await world.published(call)
        assert world.asks("GET", "/info") == 2


class TestStates:
    """What the plugin is told of a job."""

    async def test_status_fails_for_a_while(self, world: World) -> None:
        """`started` is told again until it is taken, then no more."""
        world.server.faults.internal_error.times(FEW, path="/status")
        call = await world.record()
        assert world.server.faults.internal_error.uses == FEW
        await world.stop(call)
        await world.published(call)
        assert world.asks("POST", "/status") == FEW + 1

    async def test_call_is_over_before_the_start_is_told(self, world: World) -> None:
        """`no call ongoing` costs nothing: what is recorded is delivered."""
        world.script("until picture; film 6")
        call = world.server.start_call()
        await world.server.start_recording(call)
        await world.server.end_call(call)
        (world.daemon.root / "tmp" / "picture").touch()
        await world.until_event("start_not_wanted", call)
        await world.stop(call)
        await world.published(call)
        assert world.asks("POST", "/status") == 1
        assert call.recording.start_at == 0

    async def test_call_has_ended(self, world: World) -> None:
        """A recording gets to its thread after the call's end as well."""
        call = await world.record(6)
        await world.server.end_call(call)
        await world.stop(call)
        await world.published(call)

    async def test_cancelled_before_it_began(self, world: World) -> None:
        """The host is told at once, and need not wait for the plugin's own minute."""
        call = await world.begin("sleep")
        await world.stop(call)
        await world.server.until(lambda: call.recording.err, "`failed` has been told")
        assert call.recording.err == "it was stopped before it had begun"
        await world.delivered(call)
        assert world.server.thread(call) == []

    async def test_recording_fails(self, world: World) -> None:
        """[J6, J7] The host reads why, in the words of the job."""
        call = await world.begin("fail PAGE_UNAVAILABLE")
        await world.server.until(lambda: call.recording.err, "`failed` has been told")
        job = await world.asked(
            lambda: world.daemon.job(world.daemon.api(), name_of(call.recording))
        )
        assert call.recording.err == job.failure.message == "as the script says"
        await world.delivered(call)
        assert world.server.thread(call) == []
        assert world.asks("POST", "/recordings") == 0

    async def test_failure_that_nobody_hears(self, world: World) -> None:
        """A failure is told some times only: the plugin finds out by itself."""
        world.server.faults.internal_error.always(path="/status")
        call = await world.begin("fail PAGE_UNAVAILABLE")
        await world.delivered(call)
        assert world.server.faults.internal_error.uses == 5
