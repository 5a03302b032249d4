# SPDX-License-Identifier: Apache-2.0
"""How a bad network treats the packets of a speaker; the same seed does the same."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What goes wrong with packets; shares are of 1."""

    loss: float = 0.0
    """Share of the packets that are lost, each by chance."""
    burst_loss: float = 0.0
    """Chance of a packet to be the first of `burst_packets` that are lost."""
    burst_packets: int = 10
    jitter_seconds: float = 0.0
    """Each packet comes up to so much later, so that some come in another order."""
    duplicates: float = 0.0
    """Share that is sent twice. Receivers of SRTP drop the second one as a replay."""
    seed: int = 0


class BadNetwork:
    """Decides for each packet in turn."""

    def __init__(self, impairment: Impairment) -> None:
        self._impairment = impairment
        self._random = random.Random(impairment.seed)  # noqa: S311 -- it is to be repeatable
        self._burst_left = 0

    def delays_seconds(self) -> list[float]:
        """How much later the packet comes, for each time that it does."""
        one, chance = self._impairment, self._random.random
        is_lost = chance() < one.loss
        if chance() < one.burst_loss:
            self._burst_left = one.burst_packets
        count = 1 + (chance() < one.duplicates)
        delays = [chance() * one.jitter_seconds for _ in range(count)]
        if self._burst_left:
            self._burst_left -= 1
            is_lost = True
        return [] if is_lost else delays
