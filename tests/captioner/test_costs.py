# SPDX-License-Identifier: Apache-2.0
"""What each call is charged."""

import pytest

from callsd_worker.captioner.costs import Costs


def test_time_is_divided_by_work() -> None:
    """What the process used goes to the calls in proportion to their work, and to nobody twice."""
    costs = Costs(100.0)
    costs.work("a", 3.0)
    costs.work("b", 1.0)
    costs.divide(102.0)
    costs.work("b", 5.0)
    costs.divide(103.0)

    assert costs.by_call == {"a": pytest.approx(1.5), "b": pytest.approx(1.5)}


def test_idle_time_is_nobodys() -> None:
    """A call is not charged for time in which nothing was done for it."""
    costs = Costs(0.0)
    costs.divide(7.0)
    costs.work("a", 0.1)
    costs.divide(8.0)

    assert costs.by_call == {"a": pytest.approx(1.0)}


def test_a_forgotten_call_is_not_listed() -> None:
    """The list does not grow with every call there ever was."""
    costs = Costs(0.0)
    costs.work("a", 1.0)
    costs.divide(1.0)
    costs.forget("a")

    assert costs.by_call == {}


def test_real_time_factor() -> None:
    """Speech over processor time, of the last measurements only; 0 before there is any."""
    costs = Costs(0.0)
    assert costs.real_time_factor == 0.0
    costs.finish_speech(1000.0)
    for second in range(1, 12):
        costs.divide(float(second))
        costs.finish_speech(8.0)

    assert costs.real_time_factor == pytest.approx(8.0)
