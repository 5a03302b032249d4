# SPDX-License-Identifier: Apache-2.0

from callsd_daemon.rpc.hub import Hub


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
