# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_worker.captioner.cadence import Cadence
from callsd_worker.captioner.rules import Rules, rules_for


RULES = Rules()
TINY = rules_for("tiny.en")


def after(*pass_seconds: float, rules: Rules = RULES, talkers: int = 1) -> float:
    """The cadence after passes that took so long, each many times, of so many who talk."""
    cadence, now = Cadence(rules), 0.0
    for seconds in pass_seconds:
        for number in range(100):
            now += 0.01
            cadence.take(number % talkers, seconds, now)
    return cadence.seconds


def test_nothing_is_known_at_first() -> None:
    """Before the first pass the machine is taken to be slow."""
    assert Cadence(RULES).seconds == RULES.max_cadence_seconds


@pytest.mark.parametrize(
    ("pass_seconds", "cadence_seconds"),
    [(0.01, 0.15), (0.032, 0.2), (0.08, 0.5), (0.12, 0.72), (0.5, 0.72)],
)
def test_quick_passes_come_often(pass_seconds: float, cadence_seconds: float) -> None:
    """Passes that take little come several times a second, slow ones within the limits."""
    assert after(pass_seconds) == pytest.approx(cadence_seconds, abs=0.001)


def test_slower_passes_never_come_more_often() -> None:
    """The slower the passes, the longer the time between them."""
    cadences = [after(hundredths / 1000) for hundredths in range(10, 200)]
    assert cadences == sorted(cadences)


def test_it_follows_the_machine() -> None:
    """A machine that gets busy, and is free again, is believed."""
    assert after(0.05, 0.3) == pytest.approx(0.72)
    assert after(0.3, 0.04) == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize(
    ("talkers", "cadence_seconds"), [(1, 0.25), (2, 0.5), (4, 0.625), (9, 0.625)]
)
def test_tiny_models_are_there_to_be_quick(talkers: int, cadence_seconds: float) -> None:
    """With a tiny model passes come often while few talk, and as usual when many do."""
    assert after(0.1, rules=TINY, talkers=talkers) == pytest.approx(cadence_seconds, abs=0.001)


def test_other_models_are_left_alone() -> None:
    """With other models it does not matter how many talk."""
    assert rules_for("base") == RULES
    assert after(0.1) == after(0.1, talkers=9)


def test_who_has_ended_does_not_count() -> None:
    """A speaker who said the last word a while ago leaves the time to the others."""
    cadence = Cadence(TINY)
    for second in range(10):
        for talker in range(4):
            cadence.take(talker, 0.1, float(second))
    crowded = cadence.seconds
    for second in range(10, 20):
        cadence.take("alone", 0.1, float(second))
    assert cadence.seconds < crowded
