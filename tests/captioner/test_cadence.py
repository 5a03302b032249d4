# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_worker.captioner.cadence import Cadence
from callsd_worker.captioner.rules import Rules, rules_for


RULES = Rules()


def after(*pass_seconds: float, rules: Rules = RULES) -> float:
    """The cadence after passes that took so long, each many times."""
    cadence = Cadence(rules)
    for seconds in pass_seconds:
        for _ in range(100):
            cadence.take(seconds)
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


def test_tiny_models_are_there_to_be_quick() -> None:
    """With a tiny model the same passes come more often; with others the rules are the usual."""
    assert after(0.1, rules=rules_for("tiny.en")) == pytest.approx(0.25)
    assert rules_for("tiny") == rules_for("tiny.en")
    assert rules_for("base") == RULES


def test_slower_passes_never_come_more_often() -> None:
    """The slower the passes, the longer the time between them."""
    cadences = [after(hundredths / 1000) for hundredths in range(10, 200)]
    assert cadences == sorted(cadences)


def test_it_follows_the_machine() -> None:
    """A machine that gets busy, and is free again, is believed."""
    assert after(0.05, 0.3) == pytest.approx(0.72)
    assert after(0.3, 0.04) == pytest.approx(0.25, abs=0.001)
