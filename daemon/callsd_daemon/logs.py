# SPDX-License-Identifier: Apache-2.0
"""The daemon's own log: one event a line, for people on a terminal and for programs elsewhere."""

import contextlib
import logging
import os
import sys
from typing import Any, TextIO, cast

import structlog


class _Stderr:
    """Standard error that ignores errors: a full disk behind it must not end any work.

    Unbuffered: Python would write the rest of a buffer at exit, and a failure of that would change
    the daemon's exit code.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), text.encode())

    def flush(self) -> None:
        """Do nothing, as nothing is buffered."""


def configure(level: str, style: str) -> None:
    """Set up structlog. `style` is "json", "console" or "auto": console on a terminal.

    A line that goes to journald begins with its priority, as `journalctl --priority` wants it.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    # Never the values of variables: tokens, a page's cookies and the words of a call are in them.
    readable = structlog.dev.plain_traceback
    listed = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=readable)
        if console
        else structlog.processors.JSONRenderer()
    )
    tracebacks: list[structlog.types.Processor] = (
        [] if console else [structlog.processors.ExceptionRenderer(listed)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
            *([_with_priority] if _is_journal() else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )


_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}


def _with_priority(_logger: Any, method: str, line: Any) -> str:
    """Source: sd-daemon(3)."""
    return f"<{_PRIORITIES.get(method, 6)}>{line}"


def _is_journal() -> bool:
    """Whether standard error is journald's. Source: systemd.exec(5), $JOURNAL_STREAM."""
    found = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
