# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys
from collections.abc import Iterator

import pytest

from callsd_bench.recording.cost import CostMeter
from callsd_bench.shared.errors import BenchError


# Works for a second before the first line it is sent, and has a child work after that.
WORK = """
import subprocess, sys, time
def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
ballast = bytearray(b"x" * 50_000_000)
work(1.0)
print("ready", flush=True)
sys.stdin.readline()
work(0.5)
again = "import time\\nwhile time.process_time() < 0.7: pass"
subprocess.run([sys.executable, "-S", "-c", again])
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[str]"]:
    """A process that has worked, and works again when told to."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_between(worker: "subprocess.Popen[str]") -> None:
    """What is used between the two moments counts, and that of children who have ended with it."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    meter = CostMeter([worker.pid])

    meter.start()
    worker.stdin.write("go\n")
    assert worker.stdout.readline() == "done\n"
    cost = meter.stop()

    assert cost.cpu_seconds == pytest.approx(1.2, abs=0.1)
    assert cost.cpu_seconds_by_program["python"] == pytest.approx(cost.cpu_seconds)
    assert cost.wall_seconds > 1.1
    assert cost.cpu_seconds_per_minute == pytest.approx(60 * cost.cpu_seconds / cost.wall_seconds)
    assert 50e6 < cost.mean_pss_bytes <= cost.peak_pss_bytes < 150e6


def test_idle(worker: "subprocess.Popen[str]") -> None:
    """What was used before does not count, and measuring is not counted at all."""
    meter = CostMeter([worker.pid])

    meter.start()
    cost = meter.stop()

    assert cost.cpu_seconds == 0


def test_overlapping_roots(worker: "subprocess.Popen[str]") -> None:
    """A process that is asked for twice counts once."""
    meter = CostMeter([worker.pid, worker.pid])

    meter.start()
    cost = meter.stop()

    assert cost.mean_pss_bytes < 100e6


def test_ended(worker: "subprocess.Popen[str]") -> None:
    """A process that ends while it is measured spoils the figure, which is said."""
    meter = CostMeter([worker.pid])
    meter.start()
    worker.kill()
    worker.wait()

    with pytest.raises(BenchError, match="has ended"):
        meter.stop()
