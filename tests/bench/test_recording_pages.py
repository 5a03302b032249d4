# SPDX-License-Identifier: Apache-2.0

import json
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.error import HTTPError

import av
import pytest

import callsd_bench
from callsd_bench.recording.pages import MAX_REQUESTS, PageServer
from callsd_bench.shared.errors import BenchError


SAMPLE_CALL = Path(callsd_bench.__file__).with_name("sample_call")


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A server with the call that comes with the benchmarks."""
    with PageServer(SAMPLE_CALL) as server:
        yield server


def get(url: str, headers: dict[str, str] | None = None) -> tuple[str, bytes]:
    """Content type and body of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:  # noqa: S310 - http to ourselves
        return answer.headers["Content-Type"], answer.read()


class TestPages:
    """What a browser gets."""

    @pytest.mark.parametrize("page", ["typical", "busy"])
    def test_page(self, server: PageServer, page: str) -> None:
        """A page comes with all it asks for, and asks for nothing from elsewhere."""
        kind, body = get(server.url(page))

        assert kind == "text/html; charset=utf-8"
        assert b'<script src="common.js">' in body
        assert b"://" not in body
        assert get(server.url(page).replace(f"{page}.html", "common.js"))[0].startswith("text/java")
        assert get(server.url(page).replace(f"{page}.html", "common.css"))[0] == "text/css"

    def test_query(self, server: PageServer) -> None:
        """What is asked of a page is in its address."""
        url = server.url("typical", beeps=0, end=2.5)

        assert url == f"http://127.0.0.1:{server.port}/typical.html?beeps=0&end=2.5"
        assert get(url)[1] == get(server.url("typical"))[1]

    def test_headers_seen(self, server: PageServer) -> None:
        """Each request is remembered with its headers, whatever their case."""
        get(server.url("typical", beeps=0), {"X-Calls-Recorder": "true"})

        request = server.requests[-1]
        assert request.target == "/typical.html?beeps=0"
        assert request.headers["x-calls-recorder"] == "true"
        assert server.requests.maxlen == MAX_REQUESTS

    @pytest.mark.parametrize(
        "path",
        [
            "none.html",
            "",
            "../cli.py",
            "..%2fcli.py",
            "call/..%2fREADME.md",
            "call/turns",
            "clips/x",
        ],
    )
    def test_nothing_else(self, server: PageServer, path: str) -> None:
        """Nothing but the pages and the call can be had."""
        with pytest.raises(HTTPError) as caught:
            get(f"http://127.0.0.1:{server.port}/{path}")

        assert caught.value.code == 404
        caught.value.close()


class TestCall:
    """The call that a page plays."""

    def test_call(self, server: PageServer) -> None:
        """Its turns and voices are served."""
        document = json.loads(get(f"http://127.0.0.1:{server.port}/call/turns.json")[1])
        kind, voice = get(f"http://127.0.0.1:{server.port}/call/maya")

        assert document["speakers"] == ["joe", "kenji", "maya", "nina"]
        assert document["turns"][0] == {"speaker": "nina", "start": 0.827, "end": 6.134}
        assert kind == "audio/ogg"
        assert voice == (SAMPLE_CALL / "maya.ogg").read_bytes()

    def test_no_call(self) -> None:
        """Without a call there is none to be had."""
        with PageServer() as server, pytest.raises(HTTPError) as caught:
            get(f"http://127.0.0.1:{server.port}/call/turns.json")

        assert caught.value.code == 404
        caught.value.close()

    def test_not_a_call(self, tmp_path: Path) -> None:
        """A directory that is no call is refused before anything is started."""
        with pytest.raises(BenchError, match=r"turns\.json"):
            PageServer(tmp_path)


class TestClips:
    """The films of the busy page."""

    def test_clips(self, server: PageServer, tmp_path: Path) -> None:
        """They are VP8 as the cameras of a call send it."""
        kind, film = get(f"http://127.0.0.1:{server.port}/clips/pattern.webm")
        (tmp_path / "film.webm").write_bytes(film)

        assert kind == "video/webm"
        with av.open(str(tmp_path / "film.webm")) as source:
            stream = source.streams.video[0]
            assert stream.codec_context.name == "vp8"
            assert (stream.width, stream.height) == (640, 360)
            assert stream.average_rate == Fraction(25)
