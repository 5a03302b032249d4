# SPDX-License-Identifier: Apache-2.0
"""Runs the worker's model tool: a process of its own, because a bad model may crash it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models.errors import ModelError, PullInterrupted


# A `large` model on one slow core; the tool is given up after that.
_TOOL_SECONDS = 900.0
_POLL_SECONDS = 0.2
# How much of a failed tool's output is quoted.
_STDERR_TAIL_BYTES = 2_000


# Reasons of the tool that are not the model's fault.
_TOOL_REASONS = {reason.value: reason for reason in (Reason.ENGINE_UNAVAILABLE, Reason.DISK_FULL)}


class ToolRequest(msgspec.Struct, frozen=True):
    """A request to the tool."""

    action: Literal["convert", "rebuild", "transcribe"]
    directory: str
    """A model's directory, with ctranslate2/ and ggml/, or onnx/, in it."""
    engine: str = ""
    file: str = ""
    """The GGML file for whispercpp, relative to the directory."""


class ToolResult(msgspec.Struct, frozen=True):
    """The tool's answer. With a reason the request has failed."""

    reason: str = ""
    message: str = ""
    text: str = ""
    words_right: float = 0.0
    cpu_seconds: float = 0.0
    is_multilingual: bool = False


def run_tool(request: ToolRequest, *, should_stop: Callable[[], bool]) -> ToolResult:
    """Run one request to its end.

    Raises:
        ModelError: MODEL_INVALID when the tool refuses the model or crashes with it,
            ENGINE_UNAVAILABLE when the engine is not installed, DISK_FULL.
        PullInterrupted: `should_stop` became true; the tool is gone.
    """
    with tempfile.TemporaryFile() as stderr:
        with subprocess.Popen(
            [sys.executable, "-m", "callsd_worker.speech.model_tool"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        ) as process:
            try:
                output = _communicate(
                    process, msgspec.json.encode(request), should_stop=should_stop
                )
            finally:
                process.kill()
        stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
        last_words = stderr.read().decode(errors="replace").strip()
    what = f"{request.engine or request.action} on {request.directory}"
    if process.returncode != 0:
        raise ModelError(
            Reason.MODEL_INVALID,
            f"{what} {_manner_of_death(process.returncode)}"
            + (f": {last_words.splitlines()[-1]}" if last_words else ""),
        )
    try:
        result = msgspec.json.decode(output, type=ToolResult)
    except msgspec.DecodeError as error:
        raise ModelError(Reason.MODEL_INVALID, f"{what}: invalid answer: {error}") from error
    if result.reason:
        reason = _TOOL_REASONS.get(result.reason, Reason.MODEL_INVALID)
        raise ModelError(reason, result.message)
    return result


def _communicate(
    process: subprocess.Popen[bytes], request: bytes, *, should_stop: Callable[[], bool]
) -> bytes:
    deadline = time.monotonic() + _TOOL_SECONDS
    unsent: bytes | None = request
    while True:
        try:
            return process.communicate(unsent, timeout=_POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            unsent = None  # the input is sent; calling `communicate` again only waits
            if should_stop():
                raise PullInterrupted from None
            if time.monotonic() > deadline:
                raise ModelError(
                    Reason.MODEL_INVALID,
                    f"the model did not transcribe a few seconds within {_TOOL_SECONDS:.0f} s",
                ) from None


def _manner_of_death(return_code: int) -> str:
    if return_code >= 0:
        return f"failed with exit code {return_code}"
    try:
        return f"died of {signal.Signals(-return_code).name}"
    except ValueError:
        return f"died of signal {-return_code}"
