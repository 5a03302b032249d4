# SPDX-License-Identifier: Apache-2.0
"""Runs the process that records a piece, and reads its reports.

It is a process of its own so that a crash in a codec costs a second, not the recording.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callsd_worker.recorder.health import Health, Picture
from callsd_worker.recorder.piece_request import PieceRequest
from callsd_worker.recorder.program_host import ProgramHost
from callsd_worker.recorder.quality import Quality


MODULE = "callsd_worker.recorder.piece_process"

STOP_SECONDS = 5.0
"""How long it may take to write what it has."""

SILENT_SECONDS = 10.0
"""A process that has reported nothing for so long is stuck."""


class Encoder:
    """One process that records a piece."""

    def __init__(
        self,
        host: ProgramHost,
        quality: Quality,
        target: Path,
        *,
        framebuffer: int,
        environment: Mapping[str, str],
        on_health: Callable[[Health], None],
        log: int,
    ) -> None:
        """Start to record into `target`; raises CAPTURE_UNAVAILABLE when it cannot be started.

        `framebuffer` is the descriptor of the display's memory. `on_health` is called on a thread
        of its own.
        """
        self.target = target
        self.problem = ""
        """Why it has ended, as it reported; for a person."""
        self._host = host
        self._on_health = on_health
        reading, writing = os.pipe()
        request = PieceRequest(
            quality=quality, target=target, report=writing, framebuffer=framebuffer
        )
        try:
            self.process: subprocess.Popen[bytes] = host.start(
                [sys.executable, "-m", MODULE, request.text()],
                environment=environment,
                pass_fds=(writing, framebuffer),
                log=log,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._reported_at = time.monotonic()
        self._thread = threading.Thread(
            target=self._read, args=(reading,), name="encoder", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it still records."""
        is_stuck = time.monotonic() - self._reported_at >= SILENT_SECONDS
        return self.process.poll() is None and not is_stuck

    def stop(self) -> None:
        """Have it write what it has, and exit."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # The file is complete up to the last cluster.
                self.process.kill()
        self._host.end(self.process)
        self._thread.join(STOP_SECONDS)

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                report: dict[str, Any] = json.loads(line)
                self._reported_at = time.monotonic()
                if "problem" in report:
                    self.problem = report["problem"]
                else:
                    self._on_health(Health(**{**report, "picture": Picture(report["picture"])}))
