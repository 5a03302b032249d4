# SPDX-License-Identifier: Apache-2.0

from callsd_daemon.domain.mattermost import PAGE_SECONDS, PAGES_AT_ONCE
from callsd_daemon.kinds.recording import MAX_SITES, Pace


class TestPace:
    """Pages at one site."""

    def test_some_at_once_others_in_their_turn(self) -> None:
        """The first ones need not wait; those after them come as often as the site answers."""
        pace = Pace(now_seconds=lambda: 100.0)
        delays = [pace.delay("https://a") for _ in range(PAGES_AT_ONCE + 3)]
        assert delays[:PAGES_AT_ONCE] == [0.0] * PAGES_AT_ONCE
        assert delays[PAGES_AT_ONCE:] == [PAGE_SECONDS, 2 * PAGE_SECONDS, 3 * PAGE_SECONDS]

    def test_sites_do_not_wait_for_each_other(self) -> None:
        """Each site has a limit of its own."""
        pace = Pace(now_seconds=lambda: 100.0)
        assert all(pace.delay("https://a") == 0 for _ in range(PAGES_AT_ONCE))
        assert pace.delay("https://b") == 0

    def test_after_a_while(self) -> None:
        """Who comes late enough does not wait for those that have been served."""
        now = [100.0]
        pace = Pace(now_seconds=lambda: now[0])
        for _ in range(5):
            pace.delay("https://a")
        now[0] += 60.0
        assert pace.delay("https://a") == 0

    def test_forgets(self) -> None:
        """However many sites there have been, only those that matter are kept."""
        now = [100.0]
        pace = Pace(now_seconds=lambda: now[0])
        for number in range(MAX_SITES):
            pace.delay(f"https://{number}")
        now[0] += 60.0
        pace.delay("https://last")
        assert len(pace._due) == 1
