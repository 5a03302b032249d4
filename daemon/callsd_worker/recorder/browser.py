# SPDX-License-Identifier: Apache-2.0
"""A browser with one page, which fills the display: Chromium, controlled through pipes."""

import contextlib
import logging
import os
import subprocess
import threading
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from callsd_worker.recorder.cdp import Cdp, CdpError
from callsd_worker.recorder.certificates import trust
from callsd_worker.recorder.console import Console
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.program_host import BROWSERS, ProgramHost, program


log = logging.getLogger(__name__)

START_SECONDS = 15.0
CLOSE_SECONDS = 5.0
EVALUATE_SECONDS = 5.0

MAX_LOGGED = 20
"""A page may open dialogs and windows without end; only so many are logged."""

NO_PRINTING = "window.print = () => {}"
"""A print preview covers the page, and only a person can close it."""

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
    # _write_silence. All other permissions are denied without a prompt.
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--deny-permission-prompts",
    # Buffers of 43 ms instead of 10: latency does not matter, and they cost half as much.
    "--audio-buffer-size=2048",
    # There is no GPU, and the search for one costs time and a process.
    "--disable-gpu",
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
        self.status = 0
        """HTTP status of the page; 0 before there is one."""
        self._host = host
        self._session = ""
        self._target = ""
        self._logged = 0
        self._console = Console(secrets)
        self._frame = ""
        self._loaded = threading.Event()
        to_browser, from_browser = os.pipe(), os.pipe()
        profile_directory = host.private_directory("profile")
        if certificates:
            trust(host, profile_directory, certificates)
        microphone, camera = _write_silence(host)
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
        self._page("Page.addScriptToEvaluateOnNewDocument", source=NO_PRINTING)
        # No downloads. The method of the same name in the domain Browser does not cover incognito.
        self._page("Page.setDownloadBehavior", behavior="deny")
        self._cdp.call("Target.setDiscoverTargets", discover=True)

    def open(self, url: str, headers: Mapping[str, str]) -> None:
        """Go to the page. Its address and the headers are secrets: they appear nowhere else."""
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
        """Whether the load event has fired."""
        return self._loaded.is_set()

    def is_true(self, expression: str) -> bool:
        """Whether a JavaScript expression is true in the page; raises CdpError.

        An expression that throws counts as false.
        """
        answer = self._page(
            "Runtime.evaluate",
            expression=f"Boolean({expression})",
            returnByValue=True,
            timeout_seconds=EVALUATE_SECONDS,
        )
        return answer.get("result", {}).get("value") is True

    def run(self, expression: str) -> None:
        """Evaluate an expression, and wait for its promise if it returns one; raises CdpError."""
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
        self._host.end(self.process)
        self._cdp.close()

    def _page(self, method: str, **params: Any) -> dict[str, Any]:
        return self._cdp.call(method, session=self._session, **params)

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Inspector.targetCrashed" | "Inspector.detached":
                self.has_crashed.set()
                self._cdp.end_session(self._session, "the page has crashed")
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.consoleAPICalled":
                if not self._console.log(params):
                    with contextlib.suppress(CdpError):
                        self._cdp.notify("Runtime.disable", session=self._session)
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
            case "Network.responseReceived" if (
                params.get("type") == "Document" and params.get("frameId") == self._frame
            ):
                self.status = int(params["response"]["status"])
            case _:
                pass

    def _answer(self, text: str, method: str, *, session: str = "", **params: Any) -> None:
        """React to an event, on the connection's thread, and log it."""
        self._logged += 1
        if self._logged <= MAX_LOGGED:
            log.info("%s", text)
        with contextlib.suppress(CdpError):
            self._cdp.notify(method, session=session, **params)


def _write_silence(host: ProgramHost) -> tuple[Path, Path]:
    """Files for a silent microphone and a black camera: Chromium's own fakes beep and blink."""
    directory = host.private_directory("silence")
    microphone, camera = directory / "microphone.wav", directory / "camera.y4m"
    with wave.open(str(microphone), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(48_000)
        sound.writeframes(bytes(2 * 48_000))
    width, height = 320, 180
    black = bytes([16]) * (width * height) + bytes([128]) * (width * height // 2)
    header = f"YUV4MPEG2 W{width} H{height} F5:1 Ip A1:1 C420\n".encode()
    camera.write_bytes(header + b"FRAME\n" + black)
    for path in (microphone, camera):
        host.share(path)
    return microphone, camera
