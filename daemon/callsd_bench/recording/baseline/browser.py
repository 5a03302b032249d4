# SPDX-License-Identifier: Apache-2.0
"""The browser of the baseline: started and driven as today's recorder does."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from callsd_bench.shared.errors import BenchError
from callsd_worker.recorder.cdp import Cdp, CdpError
from callsd_worker.recorder.program_host import BROWSERS, ProgramHost, program


START_SECONDS = 15.0
READY_SECONDS = 20.0
"""From the page's address to a connected call."""
READY_POLL_SECONDS = 1.0
LEAVE_SECONDS = 10.0

CONNECTED = "window.callsClient && window.callsClient.connected && !window.callsClient.closed"
OVER = "!window.callsClient || window.callsClient.closed"

_FLAGS = (
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-infobars",
    "--disable-background-networking",
    "--enable-features=NetworkService,NetworkServiceInProcess",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-features=site-per-process,TranslateUI,BlinkGenPropertyTrees",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--metrics-recording-only",
    "--safebrowsing-disable-auto-update",
    "--password-store=basic",
    "--use-mock-keychain",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--incognito",
    "--kiosk",
    "--autoplay-policy=no-user-gesture-required",
    "--window-position=0,0",
)

_READ_FD, _WRITE_FD = 3, 4
"""By these Chromium hears and answers."""


class BaselineBrowser:
    """A browser in kiosk mode with one page. CdpError from any method: it is gone or stuck."""

    def __init__(
        self, host: ProgramHost, *, width: int, height: int, environment: Mapping[str, str]
    ) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        profile = host.private_directory("profile")
        self._host = host
        self.process: subprocess.Popen[bytes] = host.start(
            [
                *(program(*BROWSERS), *_FLAGS, f"--window-size={width},{height}"),
                *(f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
            ],
            environment={**environment, "HOME": str(profile), "TMPDIR": str(profile)},
            is_browser=True,
            pass_fds=(to_browser[0], from_browser[1]),
            as_fds=(_READ_FD, _WRITE_FD),
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._cdp = Cdp(
            reading=from_browser[0], writing=to_browser[1], on_event=lambda _method, _params: None
        )
        self._session = ""

    def join(self, url: str) -> None:
        """Open the page and wait until its call is connected. BenchError: it is not in time."""
        targets = self._cdp.call("Target.getTargets", timeout_seconds=START_SECONDS)["targetInfos"]
        page = next((one["targetId"] for one in targets if one["type"] == "page"), "")
        attached = self._cdp.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        self._call("Network.enable")
        self._call("Network.setExtraHTTPHeaders", headers={"X-Calls-Recorder": "true"})
        self._call("Page.navigate", url=url)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_true(CONNECTED):
            if time.monotonic() > deadline:
                raise BenchError(f"{url} was not connected within {READY_SECONDS:g} s")
            time.sleep(READY_POLL_SECONDS)

    def is_over(self) -> bool:
        """Whether the page has left its call."""
        return self._is_true(OVER)

    def leave(self) -> None:
        """Have the page leave its call."""
        self._call(
            "Runtime.evaluate",
            expression="window.callsClient && window.callsClient.disconnect()",
            awaitPromise=True,
            timeout_seconds=LEAVE_SECONDS,
        )

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(CdpError):
            self._cdp.call("Browser.close", timeout_seconds=1.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVE_SECONDS)
        self._host.end(self.process)
        self._cdp.close()

    def _is_true(self, expression: str) -> bool:
        answer = self._call(
            "Runtime.evaluate", expression=f"Boolean({expression})", returnByValue=True
        )
        return answer["result"].get("value") is True

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._cdp.call(method, session=self._session, **params)
