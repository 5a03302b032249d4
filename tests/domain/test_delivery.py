# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace
from datetime import timedelta

import pytest

from callsd_daemon.domain.delivery import (
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    Delivery,
    DeliveryState,
    Upload,
)
from callsd_daemon.domain.mattermost import MattermostCall
from tests.helpers.jobs import NOW


WEEK = timedelta(days=7)
DELIVERY = Delivery(
    call=MattermostCall(
        site_url="https://a.example", call_id="c" * 26, post_id="p" * 26, job_id="r" * 26
    )
)


def failed(delivery: Delivery, *, jitter: float = 1.0, after: timedelta = timedelta()) -> Delivery:
    """After one more failure, so long after NOW."""
    return delivery.failed("it rains", NOW + after, jitter=jitter, budget=WEEK)


def pause_seconds(delivery: Delivery) -> float:
    """How long after NOW it is tried again."""
    assert delivery.try_time is not None
    return (delivery.try_time - NOW).total_seconds()


class TestFailures:
    """What comes of a try that has failed."""

    def test_pauses_are_doubled(self) -> None:
        """From the first to the longest, and no further, however often it fails."""
        delivery, pauses = DELIVERY, list[float]()
        for _ in range(40):
            delivery = failed(delivery)
            pauses.append(pause_seconds(delivery))
        assert pauses[0] == FIRST_PAUSE_SECONDS
        assert pauses[1] == 2 * FIRST_PAUSE_SECONDS
        assert pauses == sorted(pauses)
        assert pauses[-1] == MAX_PAUSE_SECONDS
        assert delivery.failures == 40

    @pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
    def test_pauses_are_spread(self, jitter: float, share: float) -> None:
        """By the half of their length, so that not all come back at once."""
        assert pause_seconds(failed(DELIVERY, jitter=jitter)) == share * FIRST_PAUSE_SECONDS

    def test_given_up_after_the_budget(self) -> None:
        """When the pauses together are longer than it, whatever clocks say."""
        # As if the clock had been set by years in between.
        years = timedelta(days=1000)
        delivery, tries = failed(DELIVERY, after=years), 1
        while delivery.is_pending:
            delivery, tries = failed(delivery, after=years), tries + 1
        assert WEEK.total_seconds() / MAX_PAUSE_SECONDS < tries < 2100
        assert delivery.state is DeliveryState.GIVEN_UP
        assert delivery.problem == "it rains"

    def test_never_given_up_for_want_of_a_token(self) -> None:
        """The next job at the site brings one, be it weeks later."""
        delivery = replace(DELIVERY, waited_seconds=WEEK.total_seconds() * 10)
        refused = delivery.failed("401", NOW, jitter=0, budget=WEEK, is_token_refused=True)
        assert refused.is_pending

    def test_refused_token(self) -> None:
        """It is known whether the last failure was about the token."""
        refused = DELIVERY.failed("401", NOW, jitter=0, budget=WEEK, is_token_refused=True)
        assert refused.is_token_refused
        assert not failed(refused).is_token_refused


class TestSteps:
    """What comes of a step that was done."""

    @pytest.mark.parametrize(
        "step",
        [
            Delivery.went_on,
            Delivery.again,
            lambda delivery: delivery.with_upload("a.mp4", Upload(session_id="s")),
            lambda delivery: delivery.done(DeliveryState.DELIVERED),
        ],
        ids=["went_on", "again", "with_upload", "done"],
    )
    def test_failures_are_forgotten(self, step: object) -> None:
        """The next step is done at once, and its first failure is the first one again."""
        assert callable(step)
        after = step(failed(failed(DELIVERY)))
        assert (after.failures, after.problem, after.try_time) == (0, "", None)
        assert not after.is_token_refused

    def test_uploads_are_kept_apart(self) -> None:
        """How far one file is says nothing of another."""
        one = DELIVERY.with_upload("a.vtt", Upload(session_id="s", file_id="f"))
        both = one.with_upload("a.txt", Upload(session_id="t"))
        assert both.uploads == {
            "a.vtt": Upload(session_id="s", file_id="f"),
            "a.txt": Upload(session_id="t"),
        }
        assert one.uploads == {"a.vtt": Upload(session_id="s", file_id="f")}

    def test_done(self) -> None:
        """What is done is not pending, whichever way it ended."""
        assert DELIVERY.is_pending
        for state in (DeliveryState.DELIVERED, DeliveryState.NOTHING, DeliveryState.GIVEN_UP):
            assert DELIVERY.done(state).state is state
            assert not DELIVERY.done(state).is_pending

    def test_again(self) -> None:
        """Who wants it tried again gives it its whole time anew; what is done stays done."""
        title = replace(DELIVERY, title="Call", is_posting=True)
        given_up = failed(replace(title, waited_seconds=2 * WEEK.total_seconds()))
        assert given_up.state is DeliveryState.GIVEN_UP
        again = given_up.again()
        assert again.is_pending
        assert (again.title, again.is_posting) == ("Call", True)
        assert failed(again).is_pending
