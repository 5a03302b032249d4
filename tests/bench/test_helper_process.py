# SPDX-License-Identifier: Apache-2.0

import os
import subprocess
import sys
from dataclasses import dataclass

import psutil
import pytest

from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.helper_process import HelperProcess
from callsd_bench.shared.measure import cpu_seconds
from tests.helpers.waiting import eventually


BUSY = "import time\nwhile time.process_time() < 0.3: pass\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a helper is told first."""

    text: str


class TestHelperProcess:
    """Processes that answer line by line."""

    def test_falls_out(self) -> None:
        """A helper that ends without an answer is the benchmark's error."""
        with (
            HelperProcess("callsd_bench.no_such_module", Order(text="")) as helper,
            pytest.raises(BenchError, match="no_such_module fell out"),
        ):
            helper.answer(30.0)

    def test_says_nothing(self) -> None:
        """A helper that answers too late is given up, and is gone afterwards."""
        with HelperProcess("json.tool", Order(text="")) as helper:
            with pytest.raises(BenchError, match=r"json\.tool fell out"):
                helper.answer(0.1)
            assert psutil.pid_exists(helper.pid)

        assert not psutil.pid_exists(helper.pid)

    def test_tells_the_dead(self) -> None:
        """What is told to a helper that has ended is the benchmark's error as well."""
        with HelperProcess("callsd_bench.no_such_module", Order(text="")) as helper:
            with pytest.raises(BenchError, match="fell out"):
                helper.answer(30.0)
            helper._process.wait(30.0)
            with pytest.raises(BenchError, match="fell out"):
                helper.tell("more")


class TestCpuSeconds:
    """Processor time of a whole family."""

    def test_descendants(self) -> None:
        """The time of children counts, of those that run and of those that have ended."""
        before = cpu_seconds(os.getpid())
        subprocess.run([sys.executable, "-c", BUSY], check=True, timeout=60)
        ended = cpu_seconds(os.getpid())
        with subprocess.Popen([sys.executable, "-c", BUSY + "time.sleep(60)"]) as child:
            try:
                eventually(lambda: cpu_seconds(os.getpid()) >= ended + 0.25, "the child's time")
            finally:
                child.kill()

        assert ended >= before + 0.25

    def test_nobody(self) -> None:
        """A process that is gone takes nothing."""
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            pass

        assert cpu_seconds(child.pid) == 0.0
