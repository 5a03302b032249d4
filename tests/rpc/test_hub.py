# SPDX-License-Identifier: Apache-2.0

from callsd_daemon.rpc.hub import Hub
from callsd_daemon.store.reading import Change


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
