# SPDX-License-Identifier: Apache-2.0
"""Pages that go wrong, each in its own way, served on a free port of this machine."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.helpers.ports import free_port


_HEAD = """<!doctype html><meta charset="utf-8"><title>call</title>
<style>body { margin: 0; background: #060; color: #fff; font: 28px sans-serif }
h1, p { margin: 6px 12px } </style>
<h1>%(name)s</h1><p id="clock"></p><script>
const visit = %(visit)d, dead = "http://127.0.0.1:%(dead)d/";
const began = performance.now(), say = text => document.querySelector("h1").textContent = text;
const told = work => fetch("/go").then(work);
const later = (seconds, work) => setTimeout(work, 1000 * seconds);
setInterval(() => clock.textContent = Math.round((performance.now() - began) / 100) / 10, 50);
window.isReady = true;
%(script)s
</script>%(body)s"""

GO_SECONDS = 60.0

SCRIPTS = {
    # Goes wrong at the first visit, and is well at the second.
    "dead": "if (visit === 1) told(() => location = dead)",
    "broken": "if (visit === 1) told(() => location = '/error/500')",
    # Goes wrong, and is gone.
    "gone": "told(() => location.reload())",
    # Goes wrong each time.
    "hopeless": "told(() => location = '/error/503')",
    # Its own affair.
    "moves": "later(1, () => location = '/moved')",
    "moved": "",
    "frame": "later(1, () => document.body.insertAdjacentHTML('beforeend',"
    " `<iframe src=/error/404></iframe><iframe src=${dead}></iframe>`))",
    # What a person would have to answer, or to see to.
    "asks": "later(1, () => say(confirm('Still there?') ? 'asks: yes' : 'asks: no'))",
    "prints": "later(1, () => window.print())",
    "opens": "later(1, () => window.open('/moved', 'other', 'width=300,height=200'))",
    "busy": "later(1, () => { const end = performance.now() + 4000;"
    " while (performance.now() < end); })",
    # What a page needs from the machine.
    "webgl": """const canvas = document.createElement("canvas"), gl = canvas.getContext("webgl");
canvas.style = "position: fixed; inset: 120px 0 0 0; width: 100%; height: 100%";
document.body.append(canvas);
if (gl) { gl.clearColor(0, 0, 1, 1); setInterval(() => gl.clear(gl.COLOR_BUFFER_BIT), 50) }
else say("webgl: none")""",
    "scripts": "",
}

BODIES = {
    "scripts": "<p>English Ελληνικά Русский</p><p>中文会议 日本語の会議 한국어 회의</p>"
    "<p>العربية עברית हिन्दी বাংলা தமிழ் ไทย</p><p>😀 👍🏽 🎉 ✅</p>"
}


class Zoo:
    """Serves all of them; a context manager. `/error/NNN` answers with that status."""

    def __init__(self) -> None:
        self.visits: Counter[str] = Counter()
        self.go = threading.Event()
        """Set: the next page that goes wrong does so, once it is shown."""
        zoo = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, page = zoo._answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._dead = free_port()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, name: str) -> str:
        """Address of a page."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def _answer(self, path: str) -> tuple[int, bytes]:
        name = path.strip("/")
        self.visits[name] += 1
        if name == "go":
            self.go.wait(GO_SECONDS)
            self.go.clear()
            return 204, b""
        if name.startswith("error/"):
            return int(name.removeprefix("error/")), b""
        if name not in SCRIPTS or (name == "gone" and self.visits[name] > 1):
            return 404, b"<h1>not found</h1>"
        page = _HEAD % {
            "name": name,
            "visit": self.visits[name],
            "dead": self._dead,
            "script": SCRIPTS[name],
            "body": BODIES.get(name, ""),
        }
        return 200, page.encode()
