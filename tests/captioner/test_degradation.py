# SPDX-License-Identifier: Apache-2.0

from callsd_worker.captioner.degradation import (
    HIGH_FOR_SECONDS,
    HIGH_LAG_SECONDS,
    LOW_FOR_SECONDS,
    LOW_LAG_SECONDS,
    Degradation,
    Step,
)


def watch(degradation: Degradation, lag_seconds: float, *, begin: float, seconds: float) -> Step:
    """Observe a lag four times a second; returns the step at the end."""
    step = degradation.step
    for quarter in range(int(seconds * 4) + 1):
        step = degradation.observe(lag_seconds, begin + quarter / 4)
    return step


class TestDegradation:
    """Steps are announced one by one and taken back with hysteresis."""

    def test_a_hiccup_changes_nothing(self) -> None:
        """A lag that is high for a moment is no reason."""
        degradation = Degradation(has_smaller_model=True)

        watch(degradation, HIGH_LAG_SECONDS + 1, begin=0, seconds=HIGH_FOR_SECONDS - 0.5)

        assert degradation.observe(0.0, HIGH_FOR_SECONDS) is Step.NONE
        assert degradation.text == ""

    def test_goes_down_step_by_step(self) -> None:
        """Each step is given its time before the next is taken."""
        degradation = Degradation(has_smaller_model=True)

        first = watch(degradation, 5.0, begin=0, seconds=HIGH_FOR_SECONDS)
        second = watch(degradation, 5.0, begin=10, seconds=HIGH_FOR_SECONDS)

        assert (first, second) == (Step.CADENCE, Step.SMALLER_MODEL)
        assert degradation.text != ""

    def test_without_a_smaller_model_cadence_is_the_last_step(self) -> None:
        """A step that cannot be taken is not announced."""
        degradation = Degradation(has_smaller_model=False)

        assert watch(degradation, 9.0, begin=0, seconds=60) is Step.CADENCE

    def test_a_lag_in_between_holds_the_step(self) -> None:
        """Neither high nor low: nothing changes, however long."""
        degradation = Degradation(has_smaller_model=True)
        watch(degradation, 5.0, begin=0, seconds=HIGH_FOR_SECONDS)
        between = (LOW_LAG_SECONDS + HIGH_LAG_SECONDS) / 2

        assert watch(degradation, between, begin=10, seconds=100) is Step.CADENCE

    def test_recovers_after_a_long_good_time(self) -> None:
        """Not at the first good moment, but after a while, and then the text is empty."""
        degradation = Degradation(has_smaller_model=True)
        watch(degradation, 5.0, begin=0, seconds=HIGH_FOR_SECONDS)

        early = watch(degradation, 0.5, begin=10, seconds=LOW_FOR_SECONDS - 1)
        late = watch(degradation, 0.5, begin=10 + LOW_FOR_SECONDS - 0.5, seconds=1)

        assert (early, late) == (Step.CADENCE, Step.NONE)
        assert degradation.text == ""
