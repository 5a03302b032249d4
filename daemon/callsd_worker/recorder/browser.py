# SPDX-License-Identifier: Apache-2.0
"""A browser with one page, which fills the display: Chromium, told what to do over pipes."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from callsd_worker.recorder.cdp import Cdp, CdpError
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.workshop import BROWSERS, Workshop, program


START_SECONDS = 15.0
CLOSE_SECONDS = 5.0
EVALUATE_SECONDS = 5.0

UNUSED_FEATURES = (
    "AudioServiceOutOfProcess",
    "GlobalMediaControls",
    "MediaRouter",
    "OptimizationHints",
    "SpareRendererForSitePerProcess",
    "Translate",
)

FLAGS = (
    "--kiosk",
    # A window without tabs and address: else a second page draws these where nobody sees them.
    "--app=data:,",
    "--incognito",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--use-mock-keychain",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--window-position=0,0",
    # The page plays without a click, and joins its call with a microphone and a camera that give
    # nothing.
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    # Sound in pieces of 43 ms instead of 10: nobody waits for it, and it costs half as much.
    "--audio-buffer-size=2048",
    # There is no graphics card, and asking for one costs time and a process.
    "--disable-gpu",
    # What is recorded must not be slowed down because nobody looks at it.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    # Nothing that is not the page: no crash bubbles, no updates, no calls home.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-infobars",
    "--disable-notifications",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-pings",
    # What serves one page may serve it in one process.
    "--in-process-gpu",
    # Processes outside of the sandbox, of which there are none, need no template.
    "--no-unsandboxed-zygote",
    "--enable-features=NetworkServiceInProcess2",
    f"--disable-features={','.join(UNUSED_FEATURES)}",
)

_SECURE_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

READ_FD, WRITE_FD = 3, 4
"""By these Chromium hears and answers."""


class Browser:
    """One browser with one page. `has_crashed` is set when the page or the browser is gone."""

    def __init__(
        self,
        workshop: Workshop,
        *,
        width: int,
        height: int,
        url: str,
        environment: Mapping[str, str],
    ) -> None:
        """Start it with an empty page; `url` says which site shall count as secure.

        Raises CAPTURE_UNAVAILABLE.
        """
        self.has_crashed = threading.Event()
        self.status = 0
        """HTTP status of the page itself; 0 while there is none."""
        self._workshop = workshop
        self._session = ""
        self._frame = ""
        self._loaded = threading.Event()
        to_browser, from_browser = os.pipe(), os.pipe()
        profile_directory = workshop.private_directory("profile")
        flags = [
            *FLAGS,
            # In kiosk mode a window has an odd size: a pixel less than the display, or one more.
            f"--window-size={width + 1},{height + 1}",
            f"--user-data-dir={profile_directory}",
            "--remote-debugging-pipe",
        ]
        site = urlsplit(url)
        if site.scheme == "http" and site.hostname not in _SECURE_HOSTS:
            # Calls need a secure context. The administrator has chosen to serve without TLS.
            flags.append(f"--unsafely-treat-insecure-origin-as-secure=http://{site.netloc}")
        try:
            self.process: subprocess.Popen[bytes] = workshop.start(
                [program(*BROWSERS), *flags],
                environment={
                    **environment,
                    "HOME": str(profile_directory),
                    "TMPDIR": str(profile_directory),
                    "XDG_RUNTIME_DIR": str(profile_directory),
                },
                is_browser=True,
                pass_fds=(to_browser[0], from_browser[1]),
                as_fds=(READ_FD, WRITE_FD),
            )
        except RecordingError:
            os.close(to_browser[1])
            os.close(from_browser[0])
            raise
        finally:
            os.close(to_browser[0])
            os.close(from_browser[1])
        self._cdp = Cdp(reading=from_browser[0], writing=to_browser[1], on_event=self._on_event)
        try:
            self._attach()
        except CdpError as problem:
            self.close()
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                f"the browser did not start ({problem}): `callsd doctor` tells what it lacks",
            ) from None

    def _attach(self) -> None:
        targets = self._cdp.call("Target.getTargets", timeout_seconds=START_SECONDS)["targetInfos"]
        page = next((one["targetId"] for one in targets if one["type"] == "page"), None)
        if page is None:
            raise CdpError("there is no page")
        attached = self._cdp.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Inspector"):
            self._page(f"{domain}.enable")

    def open(self, url: str, headers: Mapping[str, str]) -> None:
        """Go to the page; neither its address nor the headers appear anywhere else."""
        try:
            if headers:
                self._page("Network.setExtraHTTPHeaders", headers=dict(headers))
            self._frame = self._page("Page.getFrameTree")["frameTree"]["frame"]["id"]
            answer = self._page("Page.navigate", url=url, timeout_seconds=START_SECONDS)
        except CdpError as problem:
            raise RecordingError(
                Reason.PAGE_UNAVAILABLE, f"the page did not load: {problem}"
            ) from None
        if error := answer.get("errorText"):
            raise RecordingError(
                Reason.PAGE_UNAVAILABLE,
                f"the page cannot be reached ({error}): check the address and the network",
            )

    def is_loaded(self) -> bool:
        """Whether the page and all that belongs to it has been fetched."""
        return self._loaded.is_set()

    def is_true(self, expression: str) -> bool:
        """Whether a JavaScript expression holds in the page; raises CdpError.

        An expression that throws does not hold.
        """
        answer = self._page(
            "Runtime.evaluate",
            expression=f"Boolean({expression})",
            returnByValue=True,
            timeout_seconds=EVALUATE_SECONDS,
        )
        return answer.get("result", {}).get("value") is True

    def run(self, expression: str) -> None:
        """Evaluate an expression, and wait for its promise if it gives one; raises CdpError."""
        self._page(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            timeout_seconds=EVALUATE_SECONDS,
        )

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(CdpError):
            self._cdp.call("Browser.close", timeout_seconds=1.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSE_SECONDS)
        self._workshop.end(self.process)
        self._cdp.close()

    def _page(self, method: str, **params: Any) -> dict[str, Any]:
        return self._cdp.call(method, session=self._session, **params)

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Inspector.targetCrashed" | "Inspector.detached":
                self.has_crashed.set()
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.responseReceived" if (
                params.get("type") == "Document" and params.get("frameId") == self._frame
            ):
                self.status = int(params["response"]["status"])
            case _:
                pass
