# SPDX-License-Identifier: Apache-2.0
"""How the processor time of the captioner is divided among its calls."""

from collections import defaultdict, deque
from collections.abc import Mapping


RATE_STEPS = 10
"""How many recent measurements the real-time factor covers."""


class Costs:
    """Divides the processor time among calls by the work done for each of them.

    Recognition is counted in wall-clock time: engines have threads of their own, whose processor
    time cannot be attributed.
    """

    def __init__(self, cpu_seconds: float) -> None:
        """`cpu_seconds`, used so far, are charged to no call."""
        self._charged_cpu_seconds = cpu_seconds
        self._work_seconds: dict[str, float] = defaultdict(float)
        self._cpu_seconds: dict[str, float] = defaultdict(float)
        self._speech_seconds = 0.0
        self._rates: deque[tuple[float, float]] = deque(maxlen=RATE_STEPS)

    def work(self, call: str, seconds: float) -> None:
        """Count time spent on a call."""
        self._work_seconds[call] += seconds

    def finish_speech(self, seconds: float) -> None:
        """Count speech of any call that is now in final words."""
        self._speech_seconds += seconds

    def divide(self, cpu_seconds: float) -> None:
        """Charge what the process has used since the last time; to no call if there was no work."""
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
        """Seconds of recent speech per second of processor time; 0 = there was none."""
        speech_seconds = sum(speech for speech, _ in self._rates)
        cpu_seconds = sum(cpu for _, cpu in self._rates)
        return speech_seconds / cpu_seconds if cpu_seconds else 0.0
