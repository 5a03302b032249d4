# SPDX-License-Identifier: Apache-2.0
"""A recording gets to its thread once, and whole, whatever is done to its upload and its post.

In brackets is what people have reported of other recorders: 2.2, limits and cuts of proxies.
"""

import asyncio
import random

import pytest

from tests.mattermost.state import MIB
from tests.outbox.fixtures import StartOutbox
from tests.outbox.outbox_world import OutboxWorld


UPLOADS = "/bot/uploads"

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


class TestLimits:
    """Something takes no bodies of this size."""

    @pytest.mark.parametrize("limit_mib", [60, 20, 6])
    async def test_proxy(self, outbox: OutboxWorld, limit_mib: int) -> None:
        """[2.2] A 413 is no failure: smaller parts are sent at once."""
        outbox.server.uploads.max_file_size = 200 * MIB
        call = await outbox.record(70)
        outbox.server.faults.too_large.always(limit_mib * MIB)
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.problems(call) == []
        assert all(one.size <= 32 * MIB for one in outbox.server.requests)

    async def test_hopeless_proxy(self, outbox: OutboxWorld) -> None:
        """[2.2] No part that Mattermost begins a file with fits through: it is told what to do.

        When that has been done the file is delivered.
        """
        outbox.server.faults.too_large.always(4 * MIB)
        call = await outbox.record(12)
        await outbox.stop(call)
        text = await outbox.problem(call, "answers 413")
        assert "raise client_max_body_size of the proxy" in text
        assert "5242880 bytes" in text
        assert "<" not in text
        outbox.server.faults.too_large.always(6 * MIB)
        await outbox.published(call)

    async def test_small_file_and_small_limit(self, outbox: OutboxWorld) -> None:
        """[2.2] A file that fits goes, however small the limit is."""
        outbox.server.faults.too_large.always(4 * MIB)
        call = await outbox.record(3)
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.problems(call) == []

    @pytest.mark.parametrize("max_mib", [5, 7, 20])
    async def test_max_file_size(self, outbox: OutboxWorld, max_mib: int) -> None:
        """[2.2] MaxFileSize limits each part, and a recording may be longer."""
        outbox.server.uploads.max_file_size = max_mib * MIB
        call = await outbox.record(23)
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.problems(call) == []
        parts = [one for one in outbox.server.requests if f"{UPLOADS}/" in one.path and one.size]
        assert max(part.size for part in parts) == max_mib * MIB

    async def test_hopeless_max_file_size(self, outbox: OutboxWorld) -> None:
        """[2.2] One below the least first part lets nothing longer through: it is told what to do.

        When that has been done the file is delivered.
        """
        outbox.server.uploads.max_file_size = MIB
        call = await outbox.record(6)
        await outbox.stop(call)
        assert "raise FileSettings.MaxFileSize" in await outbox.problem(call, "1048576 bytes")
        outbox.server.uploads.max_file_size = 100 * MIB
        await outbox.published(call)


class TestCuts:
    """The connection breaks."""

    @pytest.mark.parametrize("cut", CUTS)
    async def test_upload_is_cut(self, outbox: OutboxWorld, cut: int) -> None:
        """[2.2] What the server has is not sent again, what it has not is; the file is whole."""
        outbox.server.uploads.max_file_size = 100 * MIB
        call = await outbox.record(8)
        outbox.server.faults.cut_upload.once(cut)
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.server.faults.cut_upload.uses == 1
        assert outbox.asks("POST", UPLOADS) == 1

    async def test_cut_again_and_again(self, outbox: OutboxWorld) -> None:
        """[2.2] Parts get smaller while they are cut: with the first one through it goes on."""
        call = await outbox.record(40)
        cut = outbox.server.faults.cut_upload
        cut.times(8, 6 * MIB)
        await outbox.stop(call)
        await outbox.published(call)
        assert cut.uses > 1

    async def test_answer_of_the_last_part_is_lost(self, outbox: OutboxWorld) -> None:
        """The session is gone with its end, and the file's id with the answer: it is sent again.

        The first file stays at the server, in no thread.
        """
        call = await outbox.record(8)
        lost = outbox.server.faults.lost_answer
        lost.once(path=f"{UPLOADS}/")
        await outbox.stop(call)
        file = await outbox.published(call)
        assert lost.uses == 1
        others = [one for one in outbox.server.state.files.values() if one.id != file.id]
        assert [one.post_id for one in others] == [""]
        assert outbox.asks("POST", UPLOADS) == 2

    @pytest.mark.parametrize("times", [1, 2])
    async def test_answer_of_the_post_is_lost(self, outbox: OutboxWorld, times: int) -> None:
        """Posting twice makes two posts: it is looked first whether there is one."""
        call = await outbox.record(6)
        lost = outbox.server.faults.lost_answer
        lost.times(times)
        await outbox.stop(call)
        await outbox.published(call)
        assert lost.uses == 1
        assert outbox.asks("POST", "/recordings") == 1

    async def test_post_that_is_made_late(self, start_outbox: StartOutbox) -> None:
        """A post may be in the making when we lose patience: it is waited for, not repeated."""
        outbox = await start_outbox(constants={"callsd_daemon.mattermost.site.ANSWER_SECONDS": 0.5})
        call = await outbox.record(6)
        late, is_due = outbox.server.faults.late_post, asyncio.Event()
        late.once(is_due)
        await outbox.stop(call)
        await outbox.server.until(lambda: outbox.asks("GET", "/info"), "it was looked for")
        assert outbox.server.thread(call) == []
        is_due.set()
        await outbox.published(call)
        assert late.uses == 1
        # By the first look it was not there yet.
        assert outbox.asks("GET", "/info") >= 2
        assert outbox.asks("POST", "/recordings") == 1

    async def test_post_that_never_arrived(self, outbox: OutboxWorld) -> None:
        """When the look finds no post, it is made."""
        call = await outbox.record(6)
        outbox.server.faults.internal_error.once("nothing was made", path="/recordings")
        await outbox.stop(call)
        await outbox.published(call)
        assert outbox.asks("GET", "/info") == 2
