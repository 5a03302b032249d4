# SPDX-License-Identifier: Apache-2.0
"""A browser with one page, which fills the display: Chromium, controlled through pipes."""

import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from callsd_worker.recorder.cdp import Cdp, CdpError
from callsd_worker.recorder.certificates import trust
from callsd_worker.recorder.console import Console
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.outages import Outages
from callsd_worker.recorder.page_headers import PageHeaders
from callsd_worker.recorder.page_scripts import PageScripts
from callsd_worker.recorder.preferences import write_preferences
from callsd_worker.recorder.program_host import BROWSERS, ProgramHost, program
from callsd_worker.recorder.silence import write_silence


log = logging.getLogger(__name__)

START_SECONDS = 15.0
CLOSE_SECONDS = 5.0

FIRST_BAD_STATUS = 400

MAX_LOGGED = 20
"""A page may open dialogs and windows without end; only so many are logged."""

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
    # A window without tabs and address bar, which Chromium would otherwise draw out of sight.
    "--app=data:,",
    "--incognito",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--use-mock-keychain",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--window-position=0,0",
    # The page may play without a click, and gets a silent microphone and a black camera: see
    # write_silence. All other permissions are denied without a prompt.
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--deny-permission-prompts",
    # Buffers of 43 ms instead of 10: latency does not matter, and they cost half as much.
    "--audio-buffer-size=2048",
    # There is no GPU, and the search for one costs time and a process. WebGL is computed: without
    # the second flag pages have none. A process of its own would be outside of the sandbox, too.
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    # The page must not be throttled because no person is looking at it.
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
    "--disable-prompt-on-repost",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-pings",
    # One page needs no separate processes for GPU and network.
    "--in-process-gpu",
    # No template process for processes outside of the sandbox: there are none.
    "--no-unsandboxed-zygote",
    "--enable-features=NetworkServiceInProcess2",
    f"--disable-features={','.join(UNUSED_FEATURES)}",
)

_SECURE_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

READ_FD, WRITE_FD = 3, 4
"""The descriptors that Chromium reads commands from and writes answers to."""


class Browser:
    """One browser with one page. `has_crashed` is set when the page or the browser is gone."""

    def __init__(
        self,
        host: ProgramHost,
        *,
        width: int,
        height: int,
        url: str,
        environment: Mapping[str, str],
        secrets: Sequence[str] = (),
        certificates: bytes = b"",
    ) -> None:
        """Start it with an empty page; the site of `url` counts as secure.

        What the page prints is logged without `secrets`. `certificates` (PEM) are trusted besides
        those of the system. Raises CAPTURE_UNAVAILABLE.
        """
        self.has_crashed = threading.Event()
        self.is_shown = False
        """Whether the page, or an error in its place, is there at all."""
        self.error = ""
        """What is shown in the page's place, for a person; empty while it is the page."""
        self.outages = Outages()
        """Of the page that is open."""
        self._host = host
        self._session = ""
        self.scripts = PageScripts(self._page)
        self._headers: PageHeaders | None = None
        self._target = ""
        self._logged = 0
        self._console = Console(secrets)
        self._frame = ""
        to_browser, from_browser = os.pipe(), os.pipe()
        profile_directory = host.private_directory("profile")
        if certificates:
            trust(host, profile_directory, certificates)
        write_preferences(host, profile_directory)
        microphone, camera = write_silence(host)
        flags = [
            *FLAGS,
            # In kiosk mode the window gets an odd size, one pixel off: better too large.
            f"--window-size={width + 1},{height + 1}",
            f"--user-data-dir={profile_directory}",
            "--remote-debugging-pipe",
            f"--use-file-for-fake-audio-capture={microphone}",
            f"--use-file-for-fake-video-capture={camera}",
        ]
        site = urlsplit(url)
        if site.scheme == "http" and site.hostname not in _SECURE_HOSTS:
            # WebRTC needs a secure context, and this site is served without TLS on purpose.
            flags.append(f"--unsafely-treat-insecure-origin-as-secure=http://{site.netloc}")
        try:
            self.process: subprocess.Popen[bytes] = host.start(
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
                f"the browser did not start ({problem}): `callsd doctor` shows what is missing",
            ) from None

    def _attach(self) -> None:
        targets = self._cdp.call("Target.getTargets", timeout_seconds=START_SECONDS)["targetInfos"]
        page = next((one for one in targets if one["type"] == "page"), None)
        if page is None:
            raise CdpError("there is no page")
        self._target = page["targetId"]
        attached = self._cdp.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Inspector", "Runtime"):
            self._page(f"{domain}.enable")
        # No downloads. The method of the same name in the domain Browser does not cover incognito.
        self._page("Page.setDownloadBehavior", behavior="deny")
        self._cdp.call("Target.setDiscoverTargets", discover=True)

    def open(self, url: str, headers: PageHeaders) -> None:
        """Go to the page. Its address and the headers are secrets: they appear nowhere else."""
        self.is_shown, self.error, self.outages = False, "", Outages()
        try:
            if headers:
                self._headers = headers
                self._page("Fetch.enable", patterns=headers.patterns)
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

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(CdpError):
            self._cdp.call("Browser.close", timeout_seconds=1.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSE_SECONDS)
        self._host.end(self.process)
        self._cdp.close()

    def _page(self, method: str, **params: Any) -> dict[str, Any]:
        return self._cdp.call(method, session=self._session, **params)

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        self.outages.watch(method, params)
        match method:
            case "Inspector.targetCrashed" | "Inspector.detached":
                self.has_crashed.set()
                self._cdp.end_session(self._session, "the page has crashed")
            case "Network.responseReceived" | "Page.frameNavigated":
                self._on_document(params)
            case "Runtime.consoleAPICalled":
                if not self._console.log(params):
                    with contextlib.suppress(CdpError):
                        self._cdp.notify("Runtime.disable", session=self._session)
            case "Fetch.requestPaused" if self._headers is not None:
                with contextlib.suppress(CdpError):
                    self._cdp.notify(
                        "Fetch.continueRequest",
                        session=self._session,
                        requestId=params["requestId"],
                        headers=self._headers.added_to(params["request"]["headers"]),
                    )
            case "Page.javascriptDialogOpening":
                # The page is blocked until the dialog is answered; "yes" keeps most calls going.
                self._answer(
                    f"a dialog of the page ({params['type']}) was answered with yes",
                    "Page.handleJavaScriptDialog",
                    session=self._session,
                    accept=True,
                    promptText=params.get("defaultPrompt", ""),
                )
            case "Target.targetCreated" if (target := params["targetInfo"])[
                "type"
            ] == "page" and target["targetId"] != self._target:
                self._answer(
                    "a window that the page opened was closed",
                    "Target.closeTarget",
                    targetId=target["targetId"],
                )
            case _:
                pass

    def _on_document(self, params: dict[str, Any]) -> None:
        """Notice what is shown, if it is an answer for the page's frame, or what came of one."""
        match params:
            case {"type": "Document", "frameId": self._frame, "response": {"status": status}}:
                self.is_shown = True
                if status >= FIRST_BAD_STATUS:
                    self.error = f"the page answers with HTTP status {status}"
            case {"frame": {"id": self._frame, "unreachableUrl": _}}:
                # Such as after the network was lost: the browser shows a page of its own.
                self.error = self.error or "the page cannot be reached"
            case _:
                pass

    def _answer(self, text: str, method: str, *, session: str = "", **params: Any) -> None:
        """React to an event, on the connection's thread, and log it."""
        self._logged += 1
        if self._logged <= MAX_LOGGED:
            log.info("%s", text)
        with contextlib.suppress(CdpError):
            self._cdp.notify(method, session=session, **params)
