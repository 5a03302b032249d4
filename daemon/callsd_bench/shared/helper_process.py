# SPDX-License-Identifier: Apache-2.0
"""A process that helps to measure: it takes one order, and answers line by line."""

import json
import select
import subprocess
import sys
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from callsd_bench.shared.errors import BenchError


if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class HelperProcess:
    """`python -m MODULE`; a context manager that ends it."""

    def __init__(self, module: str, order: "DataclassInstance") -> None:
        """Prepare a process; `order` reaches its stdin as one line of JSON."""
        self._module = module
        self._order = order

    def __enter__(self) -> Self:
        # Unbuffered: a line that waits in a buffer would not be seen by select.
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        try:
            self.tell(json.dumps(asdict(self._order)))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Send it a line. BenchError: it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise self._fell_out() from None

    def answer(self, timeout_seconds: float) -> str:
        """Its next line. BenchError: none came in time, or it has ended."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise self._fell_out()
        return line.decode()

    def answer_json(self, timeout_seconds: float) -> Any:
        """Its next line, which is JSON."""
        return json.loads(self.answer(timeout_seconds))

    def _fell_out(self) -> BenchError:
        return BenchError(f"{self._module} fell out: look at what is written above")

    def _end(self) -> None:
        with self._process:
            self._process.kill()
