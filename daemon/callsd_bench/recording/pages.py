# SPDX-License-Identifier: Apache-2.0
"""Pages to record: they stand for the recording view of a call, and can be measured.

The pages lie in `site/`; `common.js` says what can be asked of them.
"""

import json
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlencode, urlsplit

from callsd_bench.shared.call import Call, load_call
from callsd_bench.shared.errors import BenchError


SITE = Path(__file__).with_name("site")

MAX_REQUESTS = 1_000
"""So many are remembered; a page makes some ten."""

_CLIP_MAKING_SECONDS = 60.0
_SHUTDOWN_POLL_SECONDS = 0.05
_BLOCK_BYTES = 64 * 1024

_CONTENT_TYPES = {
    ".css": "text/css",
    ".flac": "audio/flac",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webm": "video/webm",
}

# Size and rate of the cameras of a call, soft and a little noisy as these are; 10 s are decoded
# as often as the page lives.
_AS_CAMERAS = "gblur=sigma=2.5,noise=alls=4:allf=t"
_CLIPS = {
    "pattern": f"testsrc2=size=640x360:rate=25:duration=10,{_AS_CAMERAS}",
    "fractal": f"mandelbrot=size=640x360:rate=25,trim=duration=10,{_AS_CAMERAS}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """One request that reached the server."""

    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """Names in lower case."""


class PageServer:
    """Serves the pages on a free port of 127.0.0.1; a context manager that stops it.

    `call` = a call directory that the pages can play. BenchError: it is none.
    """

    def __init__(self, call: Path | None = None) -> None:
        self._call = None if call is None else load_call(call)
        self.requests: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        """What was asked for, the oldest first."""

    def __enter__(self) -> Self:
        self._clips = tempfile.TemporaryDirectory(prefix="callsd-bench-")
        self._making = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_SHUTDOWN_POLL_SECONDS,),
            name="pages",
            daemon=True,
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._clips.cleanup()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def url(self, page: str, **query: str | float) -> str:
        """Address of the page `typical` or `busy`; `common.js` lists what can be asked for."""
        asked = f"?{urlencode(query)}" if query else ""
        return f"http://127.0.0.1:{self.port}/{page}.html{asked}"

    def make_clips(self) -> None:
        """Make the films of `busy`, which takes seconds; else the first visit does."""
        for name in _CLIPS:
            self._clip(name)

    def find(self, path: str) -> bytes | Path | None:
        """What is at this path: a document, a file, or nothing."""
        match path.strip("/").split("/"):
            case ["call", "turns.json"] if self._call is not None:
                return json.dumps(_call_document(self._call)).encode()
            case ["call", speaker] if self._call is not None:
                return next((one.path for one in self._call.tracks if one.speaker == speaker), None)
            case ["clips", name] if name.removesuffix(".webm") in _CLIPS:
                return self._clip(name.removesuffix(".webm"))
            case [name] if (file := SITE / name).suffix in _CONTENT_TYPES and file.is_file():
                return file
            case _:
                return None

    def _clip(self, name: str) -> Path:
        path = Path(self._clips.name) / f"{name}.webm"
        with self._making:
            if not path.exists():
                _make_clip(_CLIPS[name], path)
        return path


def _call_document(call: Call) -> dict[str, Any]:
    return {
        "speakers": [track.speaker for track in call.tracks],
        "turns": [
            {"speaker": turn.speaker, "start": turn.start_seconds, "end": turn.end_seconds}
            for turn in call.turns
        ],
    }


def _make_clip(source: str, path: Path) -> None:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", source]
    coding = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "800k"]
    try:
        subprocess.run(
            [*command, *coding, "-pix_fmt", "yuv420p", str(path)],
            check=True,
            capture_output=True,
            timeout=_CLIP_MAKING_SECONDS,
        )
    except OSError as error:
        raise BenchError(f"ffmpeg cannot be started: {error.strerror}") from error
    except subprocess.SubprocessError as error:
        path.unlink(missing_ok=True)
        raise BenchError(f"ffmpeg could not make a film for the page: {error}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, pages: PageServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that was closed in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer with what is at the path."""
        pages = self.server.pages
        headers = {name.lower(): value for name, value in self.headers.items()}
        pages.requests.append(SeenRequest(target=self.path, headers=headers))
        try:
            found = pages.find(unquote(urlsplit(self.path).path))
        except BenchError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        match found:
            case None:
                self.send_error(HTTPStatus.NOT_FOUND)
            case bytes() as document:
                self._begin("application/json", len(document))
                self.wfile.write(document)
            case Path() as path:
                self._begin(_CONTENT_TYPES[path.suffix], path.stat().st_size)
                with path.open("rb") as file:
                    while block := file.read(_BLOCK_BYTES):
                        self.wfile.write(block)

    def _begin(self, content_type: str, length_bytes: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length_bytes))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by http.server
        """Say nothing."""
