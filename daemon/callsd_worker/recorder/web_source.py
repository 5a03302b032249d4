# SPDX-License-Identifier: Apache-2.0
"""What is recorded: a display, a sound server, and a browser that shows the page."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from callsd_worker.recorder.browser import Browser
from callsd_worker.recorder.cdp import CdpError
from callsd_worker.recorder.display import start_display
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.page_headers import PageHeaders
from callsd_worker.recorder.program_host import ProgramHost
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.sound import start_sound


log = logging.getLogger(__name__)

READY_CHECK_SECONDS = 0.1
REOPEN_SECONDS = 1.0
MAX_REOPEN_SECONDS = 8.0
"""Pause before the next try to open a page: doubled each time, up to the longest."""

UNANSWERED_LIMIT = 2
"""A page that does not answer so often in a row, each time for 5 s, counts as crashed."""

MAX_DISK_BYTES = 1024**3
"""Limit of a browser's disk space. In incognito mode it takes 20 MB, however long a call is."""

IS_LOADED = "document.readyState === 'complete'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What to show. Expressions are JavaScript; empty means none."""

    url: str = field(repr=False)
    """With its fragment, which is a secret."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """They go to the page's own origin, and to `header_origins`."""
    header_origins: tuple[str, ...] = ()
    ready_expression: str = ""
    over_expression: str = ""
    leave_expression: str = ""
    ready_timeout_seconds: float = 20.0
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must not stand in the log, whatever the page prints."""
    patience_seconds: float = 0.0
    """A page that is not ready by then is opened anew, in another browser, and is then given twice
    the time; 0: never."""
    begun_expression: str = ""
    """True once the page is on its way to be ready: it is not opened anew then."""
    open_delay_seconds: float = 0.0
    certificates: bytes = b""
    """Whose certificates the page may have besides those the system trusts; PEM."""


class WebSource:
    """Runs display, sound server and browser. A context manager."""

    def __init__(self, page: Page, quality: Quality, *, name: str = "") -> None:
        """Start all of them, with an empty page; raises CAPTURE_UNAVAILABLE."""
        self.host = ProgramHost(name)
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(self.host.close)
        self._page = page
        self._unanswered = 0
        self._is_disk_full = False
        try:
            self._display = start_display(
                self.host, width=quality.width, height=quality.height, fps=quality.fps
            )
            self._cleanup.callback(self._display.close)
            self._sound = start_sound(self.host)
            self._quality = quality
            self._browser = self._start_browser()
        except BaseException:
            self._cleanup.close()
            raise

    def _start_browser(self) -> Browser:
        return Browser(
            self.host,
            width=self._quality.width,
            height=self._quality.height,
            url=self._page.url,
            environment=self.environment,
            secrets=self._page.secrets,
            certificates=self._page.certificates,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs need to connect to display and sound server."""
        return {**self._display.environment, **self._sound.environment}

    @property
    def framebuffer(self) -> int:
        """Descriptor of the display's screen."""
        return self._display.framebuffer

    def open(self, *, should_stop: Callable[[], bool]) -> None:
        """Show the page and wait until it is ready.

        Tries again until `ready_timeout_seconds` are over. Raises FIELD_INVALID for expressions and
        addresses that are none, PAGE_UNAVAILABLE, or CANCELLED when `should_stop` is true.
        """
        page = self._page
        headers: PageHeaders | None = None
        pause_until_stopped(page.open_delay_seconds, should_stop)
        deadline = time.monotonic() + page.ready_timeout_seconds
        patience = page.patience_seconds or page.ready_timeout_seconds
        pause = REOPEN_SECONDS
        while True:
            try:
                if headers is None:
                    headers = self._check()
                self._browser.open(page.url, headers)
                self._await_ready(deadline, patience, should_stop)
            except RecordingError as problem:
                if problem.reason is not Reason.PAGE_UNAVAILABLE or self.problem():
                    raise
                if (left := deadline - time.monotonic()) <= 0:
                    raise
                if page.patience_seconds:
                    log.warning("%s; it is opened in another browser", problem.message)
                    patience *= 2
                    self._browser.close()
                    self._browser = self._start_browser()
                pause_until_stopped(min(pause, left), should_stop)
                pause = min(2 * pause, MAX_REOPEN_SECONDS)
            else:
                # What it could not reach before is in no picture.
                self._browser.outages.restart()
                return

    def _check(self) -> PageHeaders:
        """Raise FIELD_INVALID for what the browser does not understand, before the page is shown.

        An expression would never be true, and headers would go nowhere. Returns the headers.
        """
        try:
            self._check_expressions()
            return PageHeaders(self._page.headers, self._header_origins())
        except CdpError as problem:
            raise RecordingError(
                Reason.PAGE_UNAVAILABLE, f"the browser does not answer: {problem}"
            ) from None

    def _check_expressions(self) -> None:
        for name in ("ready_expression", "over_expression", "leave_expression"):
            if error := self._browser.scripts.syntax_error(getattr(self._page, name)):
                raise RecordingError(Reason.FIELD_INVALID, f"{name} is not JavaScript: {error}")

    def _header_origins(self) -> list[str]:
        """Who gets the headers, as the browser spells it."""
        if not self._page.headers:
            return []
        urls = [("url", self._page.url)]
        urls += [("header_origins", origin) for origin in self._page.header_origins]
        origins = []
        for name, url in urls:
            origin = self._browser.scripts.origin(url.partition("#")[0])
            if not origin:
                raise RecordingError(
                    Reason.FIELD_INVALID, f"{name} is no address that a browser understands"
                )
            origins.append(origin)
        return origins

    def _await_ready(
        self, deadline: float, patience: float, should_stop: Callable[[], bool]
    ) -> None:
        """Wait until `deadline`, but only for `patience` seconds for a page that has not begun."""
        began = time.monotonic()
        ready = self._page.ready_expression or IS_LOADED
        while True:
            is_ready = False
            with contextlib.suppress(CdpError):
                # The page may be between two documents.
                is_ready = self._browser.is_shown and self._browser.scripts.is_true(ready)
            if error := self._browser.error:
                raise RecordingError(
                    Reason.PAGE_UNAVAILABLE,
                    f"{error}: check its address, its token, its headers and the network",
                )
            if is_ready:
                return
            if problem := self.problem():
                raise RecordingError(Reason.PAGE_UNAVAILABLE, problem)
            now = time.monotonic()
            if now > deadline or (now - began > patience and not self._has_begun()):
                waited = self._page.ready_timeout_seconds if now > deadline else patience
                raise RecordingError(
                    Reason.PAGE_UNAVAILABLE,
                    f"the page was not ready within {waited:g} s: "
                    "check ready_expression, or raise ready_timeout",
                )
            pause_until_stopped(READY_CHECK_SECONDS, should_stop)

    def _has_begun(self) -> bool:
        """Whether the page is on its way to be ready."""
        try:
            return self._browser.scripts.is_true(self._page.begun_expression or "false")
        except CdpError:
            return False

    def problem(self) -> str:
        """What has crashed, for a person; empty while all is well."""
        for name, process in (
            ("the display", self._display.process),
            ("the sound server", self._sound.process),
            ("the browser", self._browser.process),
        ):
            if process.poll() is not None:
                return f"{name} has ended (exit code {process.returncode})"
        if self._browser.has_crashed.is_set():
            return "the page has crashed"
        if self._is_disk_full:
            return f"the page has filled the browser's disk ({MAX_DISK_BYTES >> 20} MiB)"
        return "the page does not answer" if self._unanswered >= UNANSWERED_LIMIT else ""

    @property
    def unreachable_seconds(self) -> float:
        """How long the page has reached nobody since it was ready."""
        return self._browser.outages.seconds

    def loss(self) -> str:
        """Why the page must be shown again, for a person: it has crashed, or an error is shown."""
        return self.problem() or self._browser.error

    def is_over(self) -> bool:
        """Whether `over_expression` is true. See `problem` for a page that does not answer."""
        try:
            is_over = self._browser.scripts.is_true(self._page.over_expression or "false")
        except CdpError:
            self._unanswered += 1
            return False
        self._unanswered = 0
        # Of an error in the page's place most expressions hold that say that a call is over.
        return is_over and not self._browser.error

    def measure_disk(self) -> None:
        """Measure the browser's disk space. See `problem` for too much of it."""
        self._is_disk_full = self.host.size_bytes() > MAX_DISK_BYTES

    def leave(self) -> None:
        """Run `leave_expression`; errors are ignored."""
        if self._page.leave_expression:
            with contextlib.suppress(CdpError):
                self._browser.scripts.run(self._page.leave_expression)

    def close(self) -> None:
        """End everything. A browser that is not well is not asked: the next one waits for it."""
        if self.problem():
            self._browser.process.kill()
        self._browser.close()
        self._cleanup.close()


def pause_until_stopped(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Wait; raises CANCELLED as soon as `should_stop` is true."""
    end = time.monotonic() + seconds
    while True:
        if should_stop():
            raise RecordingError(Reason.CANCELLED, "stopped before the page was shown")
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(left, READY_CHECK_SECONDS))
