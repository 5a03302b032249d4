# SPDX-License-Identifier: Apache-2.0
"""Pages that ask, open, print, download and want leave: none of it stops or spoils a recording."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from callsd_worker.recorder import web_source as module
from callsd_worker.recorder.program_host import program
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource
from tests.helpers.waiting import eventually


SMALL = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)

PAGE = b"""<!doctype html><title>call</title><body style="margin:0;background:#00f"><script>
window.ticks = 0; setInterval(() => ticks++, 20); window.said = {};
if (parent !== window && location.pathname === "/printing")
  setTimeout(() => { print(); parent.postMessage("printed", "*") }, 500);
const tell = (name, promise) => promise.then(x => said[name] = x, e => said[name] = `${e}`);
async function microphoneAndCamera() {
  const audio = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  const stream = await navigator.mediaDevices.getUserMedia({video: true, audio});
  const context = new AudioContext(), ear = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(ear);
  const eye = document.createElement("video");
  const board = new OffscreenCanvas(64, 64).getContext("2d");
  eye.srcObject = stream; eye.muted = true; await eye.play();
  const samples = new Float32Array(ear.fftSize); let loudest = 0, brightest = 0;
  for (let i = 0; i < 100; i++) {
    await new Promise(done => setTimeout(done, 20));
    ear.getFloatTimeDomainData(samples); loudest = Math.max(loudest, ...samples.map(Math.abs));
    board.drawImage(eye, 0, 0, 64, 64);
    const seen = board.getImageData(0, 0, 64, 64).data.filter((_, at) => at % 4 < 3);
    brightest = Math.max(brightest, ...seen);
  }
  stream.getTracks().forEach(track => track.stop());
  return {loudest, brightest, width: eye.videoWidth, state: context.state};
}
</script>"""


class Site(BaseHTTPRequestHandler):
    """A page, and a file for download that never ends."""

    sent: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        """Send either, or ask who wants to know."""
        if self.path == "/login":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/file":
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)
            return
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", "attachment; filename=x.bin")
        self.end_headers()
        try:
            while True:
                self.sent.append(self.wfile.write(bytes(1 << 16)))
        except OSError:
            self.sent.append(-1)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def source() -> Iterator[WebSource]:
    """The page, shown."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = Page(url=f"http://127.0.0.1:{server.server_port}/", over_expression="window.isOver")
    try:
        with WebSource(page, SMALL) as source:
            source.open(should_stop=lambda: False)
            yield source
    finally:
        server.shutdown()
        server.server_close()


def value(source: WebSource, expression: str) -> object:
    """What an expression is in the page."""
    text = f"JSON.stringify({expression})"
    answer = source._browser._page("Runtime.evaluate", expression=text, returnByValue=True)
    said = answer["result"].get("value")
    return None if said is None else json.loads(said)


def do(source: WebSource, statement: str) -> None:
    """Have the page do something by itself, a moment later."""
    source._browser.scripts.run(f"void setTimeout(() => {{ {statement} }}, 0)")


def windows(source: WebSource) -> list[str]:
    """All pages that the browser has."""
    targets = source._browser._cdp.call("Target.getTargets")["targetInfos"]
    return [one["url"] for one in targets if one["type"] == "page"]


@pytest.fixture(autouse=True)
def goes_on(source: WebSource) -> Iterator[None]:
    """Whatever was done, the page lives, alone, and answers."""
    yield
    before = value(source, "ticks")
    eventually(lambda: value(source, "ticks") != before, "the page goes on", seconds=5)
    eventually(lambda: len(windows(source)) == 1, "there is one window", seconds=5)
    assert source.is_over() is False
    assert source.problem() == ""


class TestAsking:
    """A page that asks."""

    @pytest.mark.parametrize(
        ("call", "answer"),
        [("alert('x')", None), ("confirm('still there?')", True), ("prompt('name?', 'me')", "me")],
    )
    def test_dialogs_are_answered(self, source: WebSource, call: str, answer: object) -> None:
        """The page goes on at once, with yes and with what it proposes itself."""
        do(source, f"said.dialog = [{call}]")

        assert eventually(lambda: value(source, "said.dialog"), "an answer", seconds=5) == [answer]
        source._browser.scripts.run("delete said.dialog")

    def test_leaving_is_not_asked_about(self, source: WebSource) -> None:
        """A page that wants to be asked before it goes does not hold up where it goes itself."""
        source._browser.scripts.run(
            "window.onbeforeunload = e => { e.preventDefault(); return 'no' }"
        )
        do(source, "location.search = '?again'")

        eventually(lambda: value(source, "location.search") == "?again", "the page has gone on")

    def test_printing_does_nothing(self, source: WebSource) -> None:
        """No preview covers the page."""
        do(source, "window.print(); said.printed = 1")

        eventually(lambda: value(source, "said.printed"), "printing returns", seconds=5)

    def test_frames_of_another_site_print_nothing_either(self, source: WebSource) -> None:
        """The preview of a frame would cover the page as well."""
        do(
            source,
            "const frame = document.createElement('iframe');"
            "onmessage = e => { said.frame = e.data; frame.remove() };"
            "frame.src = `http://localhost:${location.port}/printing`; document.body.append(frame)",
        )

        eventually(lambda: value(source, "said.frame"), "printing returns")
        assert len(windows(source)) == 1

    def test_nobody_is_asked_for_a_password(self, source: WebSource) -> None:
        """What a login protects is missing, and the page goes on without it."""
        do(
            source,
            "const frame = document.createElement('iframe'); frame.src = '/login';"
            "frame.onload = () => { said.login = 1; frame.remove() };"
            "document.body.append(frame)",
        )

        eventually(lambda: value(source, "said.login"), "the frame has loaded")

    def test_leave_is_refused_without_a_prompt(self, source: WebSource) -> None:
        """Nobody could answer; what a call does not need it does not get."""
        do(source, "navigator.geolocation.getCurrentPosition(() => {}, e => said.place = e.code)")
        do(source, "tell('midi', navigator.requestMIDIAccess({sysex: true}))")

        eventually(lambda: value(source, "said.place && said.midi"), "both answers", seconds=5)
        assert value(source, "said.place") == 1  # PERMISSION_DENIED
        assert str(value(source, "said.midi")).startswith("NotAllowedError")


class TestMicrophoneAndCamera:
    """What the recorder brings into the call itself."""

    def test_they_are_silent_and_black(self, source: WebSource) -> None:
        """A page that asks gets both, and nobody in the call hears or sees anything of it."""
        do(source, "tell('media', microphoneAndCamera())")

        said = eventually(lambda: value(source, "said.media"), "sound and picture", seconds=15)
        assert said == {"loudest": 0, "brightest": 0, "width": 320, "state": "running"}


class TestWindows:
    """A page that opens others."""

    @pytest.mark.parametrize(
        "statement",
        [
            "said.popup = 1; open('/popup', '_blank')",
            "said.popup = 1; open('/popup', 'x', 'width=300,height=200')",
            """said.popup = 1; const a = document.createElement('a'); a.href = '/popup';
            a.target = '_blank'; a.click()""",
        ],
    )
    def test_they_are_kept_out_of_the_picture(self, source: WebSource, statement: str) -> None:
        """Only the page is shown."""
        do(source, statement)

        eventually(lambda: value(source, "said.popup"), "the page has tried", seconds=5)
        source._browser.scripts.run("delete said.popup")

    def test_one_that_a_click_opens_is_closed(self, source: WebSource) -> None:
        """What no popup blocker holds up is closed at once."""
        source._browser._page(
            "Runtime.evaluate", expression="open('/popup', 'y')", userGesture=True
        )

        eventually(lambda: len(windows(source)) == 1, "there is one window", seconds=5)


class TestDisk:
    """A page that fills the disk."""

    def test_downloads_are_refused(self, source: WebSource) -> None:
        """What a page sends as a file is not taken."""
        do(
            source,
            "const a = document.createElement('a'); a.href = '/file'; a.download = 'x.bin';"
            "document.body.append(a); a.click()",
        )

        eventually(lambda: -1 in Site.sent, "the browser hangs up")
        assert sum(Site.sent) < 20 << 20
        assert not [path for path in Path(source.host.directory).rglob("*.bin*") if path.is_file()]

    def test_what_it_leaves_in_the_profile_is_bounded(
        self, source: WebSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the browser keeps too much on the disk, the page is to be shown afresh."""
        source.measure_disk()
        assert source.problem() == ""
        monkeypatch.setattr(module, "MAX_DISK_BYTES", 64 << 20)
        path = source.host.directory / "profile" / "large"
        path.write_bytes(bytes(65 << 20))
        source.measure_disk()
        path.unlink()
        try:
            assert source.problem() == "the page has filled the browser's disk (64 MiB)"
        finally:
            source.measure_disk()


class TestLongMessages:
    """A page with long addresses."""

    def test_an_address_of_any_length_is_survived(self, source: WebSource) -> None:
        """The browser tells of it, and that is passed over."""
        do(
            source,
            "const i = new Image(); i.onerror = i.onload = () => said.image = 1;"
            "i.src = 'data:image/svg+xml,' + 'x'.repeat(30e6)",
        )

        eventually(lambda: value(source, "said.image"), "the image has been tried", seconds=20)


INTRUDER = """
import os, socket, sys
top, found = sys.argv[1], []
for place, directories, files in os.walk(top, onerror=lambda error: None):
    found.append(place + " is listed")
for path in sys.argv[2:]:
    try:
        if path.endswith("sock"):
            socket.socket(socket.AF_UNIX).connect(path)
        else:
            open(path, "rb")
        found.append(path + " is open")
    except OSError:
        pass
print("\\n".join(found))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nobody_else_hears_or_sees_what_is_recorded(source: WebSource) -> None:
    """Another user of the machine reaches neither the sound, nor the display, nor the browser."""
    top = source.host.directory
    paths = [path for path in top.rglob("*") if not path.is_dir() and not path.is_symlink()]
    assert top / "sound" / "pulse.sock" in paths
    assert top / "xauthority" in paths
    settings = top / "pulse.conf"  # holds a sample rate
    as_other = [program("setpriv"), "--reuid", "12345", "--regid", "12345", "--clear-groups"]

    done = subprocess.run(
        [
            *(*as_other, sys.executable, "-I", "-S", "-c", INTRUDER, str(top)),
            *(str(path) for path in paths if path != settings),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert done.stdout.split() == []
