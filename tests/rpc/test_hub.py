# SPDX-License-Identifier: Apache-2.0

from callsd_daemon.rpc.hub import Hub
from callsd_daemon.store.read_transaction import Change
from tests.helpers.jobs import make_job


class TestStreams:
    """The places for streams."""

    def test_numbers_differ(self) -> None:
        """Streams that are open together have numbers of their own: by these they take turns."""
        hub = Hub(0, max_streams=3)
        with hub.stream() as first, hub.stream() as second:
            with hub.stream() as third:
                assert len({first, second, third}) == 3
                assert hub.streams == 3
            with hub.stream() as fourth:
                assert fourth not in {first, second}
        assert hub.streams == 0


class TestChanges:
    """What watchers are told."""

    def test_ahead_of_the_hub(self) -> None:
        """Who has read of a change before the hub heard of it is told of the next one only."""
        hub = Hub(0, max_streams=1)
        changes = [Change(revision=number, job_id=f"job{number}", job=None) for number in (1, 2, 3)]
        hub.publish(changes[:1])
        assert hub.after(2) == []

        hub.publish(changes[1:2])
        assert hub.after(2) == []

        hub.publish(changes[2:])
        items = hub.after(2)
        assert items is not None
        assert [item.revision for item in items] == [3]

    def test_bounded_by_bytes(self) -> None:
        """Large changes are forgotten early: their watchers are sent to the store for them."""
        hub, labels = Hub(0, max_streams=1), {"long": "x" * 1024**2}
        large = [
            Change(revision=number, job_id="large", job=make_job(revision=number, labels=labels))
            for number in range(1, 21)
        ]
        hub.publish(large)
        oldest = next(number for number in range(20) if hub.after(number) is not None)

        assert 20 - 8 <= oldest <= 20 - 7
        assert hub.after(oldest - 1) is None

    def test_message(self) -> None:
        """A message has some hundreds of small events, or few large ones, or a single huge one."""
        hub = Hub(0, max_streams=1)
        sizes = [100_000, 100_000, 100_000, 500_000, *[10] * 600]
        hub.publish(
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
        while items := hub.after(cursor):
            assert [item.revision for item in items] == list(
                range(cursor + 1, cursor + 1 + len(items))
            )
            cursor = items[-1].revision
            messages.append(len(items))

        assert cursor == len(sizes)
        assert messages[:4] == [2, 1, 1, 500]
