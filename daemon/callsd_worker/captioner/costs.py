# SPDX-License-Identifier: Apache-2.0
"""What each call costs of a process that serves all of them."""

from collections import defaultdict, deque
from collections.abc import Mapping


RATE_STEPS = 10
"""How many of the last measurements the real-time factor is taken over."""


class Costs:
    """Divides the process' time among calls by the work done for each of them.

    Work of recognising is counted by the clock: an engine works on threads of its own, whose
    processor time cannot be told apart.
    """

    def __init__(self, cpu_seconds: float) -> None:
        """What the process has used so far is nobody's."""
        self._charged_cpu_seconds = cpu_seconds
        self._work_seconds: dict[str, float] = defaultdict(float)
        self._cpu_seconds: dict[str, float] = defaultdict(float)
        self._speech_seconds = 0.0
        self._rates: deque[tuple[float, float]] = deque(maxlen=RATE_STEPS)

    def work(self, call: str, seconds: float) -> None:
        """Time spent on a call since the last `divide`."""
        self._work_seconds[call] += seconds

    def finish_speech(self, seconds: float) -> None:
        """Speech of any call that is in final words now."""
        self._speech_seconds += seconds

    def divide(self, cpu_seconds: float) -> None:
        """Charge what the process has used since the last time; without work it is nobody's."""
        spent = cpu_seconds - self._charged_cpu_seconds
        self._charged_cpu_seconds = cpu_seconds
        whole = sum(self._work_seconds.values())
        for call, seconds in self._work_seconds.items():
            self._cpu_seconds[call] += spent * seconds / whole if whole else 0.0
        self._work_seconds.clear()
        self._rates.append((self._speech_seconds, spent))
        self._speech_seconds = 0.0

    def forget(self, call: str) -> None:
        self._work_seconds.pop(call, None)
        self._cpu_seconds.pop(call, None)

    @property
    def by_call(self) -> Mapping[str, float]:
        """Processor time charged so far, in seconds."""
        return dict(self._cpu_seconds)

    @property
    def real_time_factor(self) -> float:
        """Speech in one second of processor time, lately; 0 = there was none."""
        speech_seconds = sum(speech for speech, _ in self._rates)
        cpu_seconds = sum(cpu for _, cpu in self._rates)
        return speech_seconds / cpu_seconds if cpu_seconds else 0.0
