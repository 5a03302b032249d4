# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace
from typing import cast

from callsd.v1.job_pb2 import WatchJobsResponse
from callsd_daemon.rpc.jobs import render_change
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change
from callsd_daemon.usecases.changes import Changes
from callsd_daemon.usecases.streams import Streams
from tests.helpers.jobs import make_job


def new_changes() -> Changes:
    """Nothing has happened yet."""
    empty = cast(Database, SimpleNamespace(revision=0))
    return Changes(empty, Streams(limit=1), render_change)


class TestStreams:
    """The places for streams."""

    def test_numbers_differ(self) -> None:
        """Streams that are open together have numbers of their own: by these they take turns."""
        streams = Streams(limit=3)
        with streams.open() as first, streams.open() as second:
            with streams.open() as third:
                assert len({first, second, third}) == 3
                assert streams.count == 3
            with streams.open() as fourth:
                assert fourth not in {first, second}
        assert streams.count == 0


class TestChanges:
    """What watchers are told."""

    def test_ahead_of_the_feed(self) -> None:
        """Who has read of a change before it was published is told of the next one only."""
        feed = new_changes()
        three = [Change(revision=number, job_id=f"job{number}", job=None) for number in (1, 2, 3)]
        feed.publish(three[:1])
        assert feed._after(2) == []

        feed.publish(three[1:2])
        assert feed._after(2) == []

        feed.publish(three[2:])
        items = feed._after(2)
        assert items is not None
        assert [item.revision for item in items] == [3]

    def test_made_once(self) -> None:
        """What tells of a change is serialised once, and sent to all who watch as it is."""
        feed = new_changes()
        feed.publish([Change(revision=1, job_id="job1", job=None)])
        one, other = feed._after(0), feed._after(0)

        assert one is not None
        assert other is not None
        assert one[0].message is other[0].message
        told = WatchJobsResponse.FromString(one[0].message)
        assert [(event.revision, event.job_deleted) for event in told.events] == [(1, "jobs/job1")]

    def test_bounded_by_bytes(self) -> None:
        """Large changes are forgotten early: their watchers are sent to the store for them."""
        feed, labels = new_changes(), {"long": "x" * 1024**2}
        large = [
            Change(revision=number, job_id="large", job=make_job(revision=number, labels=labels))
            for number in range(1, 21)
        ]
        feed.publish(large)
        oldest = next(number for number in range(20) if feed._after(number) is not None)

        assert 20 - 8 <= oldest <= 20 - 7
        assert feed._after(oldest - 1) is None

    def test_message(self) -> None:
        """A message has some hundreds of small events, or few large ones, or a single huge one."""
        feed = new_changes()
        sizes = [100_000, 100_000, 100_000, 500_000, *[10] * 600]
        feed.publish(
            [
                Change(
                    revision=number,
                    job_id="job",
                    job=make_job(revision=number, labels={"long": "x" * size}),
                )
                for number, size in enumerate(sizes, start=1)
            ]
        )
        cursor, messages = 0, list[int]()
        while items := feed._after(cursor):
            assert [item.revision for item in items] == list(
                range(cursor + 1, cursor + 1 + len(items))
            )
            cursor = items[-1].revision
            messages.append(len(items))

        assert cursor == len(sizes)
        assert messages[:4] == [2, 1, 1, 500]
