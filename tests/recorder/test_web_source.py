# SPDX-License-Identifier: Apache-2.0

import itertools
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from callsd_bench.recording.pages import PageServer
from callsd_bench.shared.errors import BenchError
from callsd_worker.recorder import browser, page_scripts
from callsd_worker.recorder.cdp import CdpError
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource
from tests.helpers.ports import free_port
from tests.helpers.waiting import eventually


READY = "window.callsClient && window.callsClient.connected"
FRAGMENT = "token-6b1d0f2e-of-the-fragment"
HEADER = "token-93ac7714-of-the-header"

SMALL = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)


def never() -> bool:
    """Do not stop."""
    return False


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """Serves the test pages."""
    with PageServer() as server:
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A page that is shown."""

    source: WebSource
    opened_seconds: float
    """How long it took to be ready."""


@pytest.fixture(scope="module")
def shown(pages: PageServer) -> Iterator[Shown]:
    """A page that was asked for with secrets, and is ready a second after it was loaded."""
    page = Page(
        url=f"{pages.url('typical', ready=1)}#{FRAGMENT}",
        headers={"X-Callsd-Test": HEADER},
        ready_expression=READY,
        over_expression="window.isOver",
        leave_expression="fetch('/left')",
    )
    quality = Quality(width=1280, height=720, fps=20, video_kbps=1500, audio_kbps=64)
    # As long as the daemon's names of jobs: the path of a socket in there must not be too long.
    with WebSource(page, quality, name=secrets.token_hex(10)) as source:
        began = time.monotonic()
        source.open(should_stop=never)
        yield Shown(source=source, opened_seconds=time.monotonic() - began)


def value(source: WebSource, expression: str) -> object:
    """What an expression is in the page."""
    answer = source._browser._page("Runtime.evaluate", expression=expression, returnByValue=True)
    return answer["result"].get("value")


def is_renderer(process: psutil.Process) -> bool:
    """Whether it shows a page."""
    # Some of the browser's helpers end by themselves meanwhile.
    with suppress(psutil.NoSuchProcess):
        return "--type=renderer" in process.cmdline()
    return False


def browser_processes(source: WebSource) -> list[psutil.Process]:
    """The browser and all that it has started."""
    parent = psutil.Process(source._browser.process.pid)
    return [parent, *parent.children(recursive=True)]


class TestShownPage:
    """A page that is ready."""

    def test_it_is_ready_when_it_says_so(self, shown: Shown) -> None:
        """Opening returns once ready_expression holds, not before, and all is well then."""
        assert value(shown.source, READY) is True
        assert shown.opened_seconds >= 1
        assert shown.source.problem() == ""

    def test_it_fills_the_display_exactly(self, shown: Shown) -> None:
        """The page covers all that is recorded, and a pixel more, as its window has an edge."""
        size = value(shown.source, "`${innerWidth}x${innerHeight}`")
        assert size == "1281x721"
        assert value(shown.source, "`${screenX},${screenY}`") == "0,0"

    def test_its_address_is_whole(self, shown: Shown) -> None:
        """The page gets its fragment."""
        assert value(shown.source, "location.hash") == f"#{FRAGMENT}"

    def test_it_may_use_what_calls_need(self, shown: Shown) -> None:
        """The page has a secure context, and sound plays without a click."""
        assert value(shown.source, "isSecureContext") is True
        assert value(shown.source, "new AudioContext().state") in ("running", "suspended")
        shown.source._browser.scripts.run("new AudioContext().resume()")

    def test_headers_are_sent_with_every_request(self, shown: Shown, pages: PageServer) -> None:
        """The page, what belongs to it, and what it asks for later all come with the headers."""
        shown.source._browser.scripts.run("fetch('/later')")
        # A page that was not shown by this source has no part in this.
        seen = list(pages.requests)
        assert {one.target.partition("?")[0] for one in seen} >= {
            "/typical.html",
            "/common.css",
            "/common.js",
            "/later",
        }
        assert {one.headers.get("x-callsd-test") for one in seen} == {HEADER}
        assert not [one for one in seen if FRAGMENT in one.target]

    def test_secrets_are_nowhere_to_be_seen(self, shown: Shown) -> None:
        """Neither fragment nor header is in the command line or environment of any process."""
        found = []
        for path in itertools.chain(
            Path("/proc").glob("[0-9]*/cmdline"), Path("/proc").glob("[0-9]*/environ")
        ):
            with suppress(OSError):
                data = path.read_bytes()
                found += [path for secret in (FRAGMENT, HEADER) if secret.encode() in data]
        assert found == []

    def test_secrets_are_not_on_the_disk(self, shown: Shown) -> None:
        """Nothing that the browser writes down holds a secret."""
        found = []
        for path in shown.source.host.directory.rglob("*"):
            if path.is_file():
                with suppress(OSError):
                    data = path.read_bytes()
                    found += [path for secret in (FRAGMENT, HEADER) if secret.encode() in data]
        assert found == []

    def test_nobody_else_can_reach_the_browser(self, shown: Shown) -> None:
        """None of its processes listens on a port."""
        listening = [
            (process.name(), connection.laddr)
            for process in browser_processes(shown.source)
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == []

    def test_no_process_of_it_is_root(self, shown: Shown) -> None:
        """Whatever shows the page is an ordinary user's."""
        users = {process.uids().effective for process in browser_processes(shown.source)}
        assert 0 not in users

    def test_it_says_when_it_is_over(self, shown: Shown) -> None:
        """The page is over when over_expression holds, and not before."""
        assert shown.source.is_over() is False
        shown.source._browser.scripts.run("window.isOver = true")
        assert shown.source.is_over() is True
        shown.source._browser.scripts.run("window.isOver = false")

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            ("1 + 1;", True),
            ("const one = 1; let two = 2; one + two", True),
            ("const one = 1; one - 1", False),
            ("function yes() { return true } yes()", True),
            ("if (isSecureContext) { 1 } else { 0 }", True),
            ("{a: 1}", True),
            ("(() => ({}))()", True),
            ("", False),
            ("isSecureContext // a remark", True),
            ("({})", True),
            ("Promise.resolve(true)", True),
            ("new Promise(done => setTimeout(done, 50, 'yes'));", True),
            ("0n", False),
            ("NaN", False),
            ("null", False),
            ("void 0", False),
            ("''", False),
            ("Promise.resolve(false)", False),
            ("Promise.reject(new Error('no'))", False),
            ("throw new Error('no')", False),
        ],
    )
    def test_what_holds(self, shown: Shown, script: str, expected: object) -> None:
        """Each time it holds as in JavaScript, and a promise by what it is kept with."""
        scripts = shown.source._browser.scripts
        assert scripts.syntax_error(script) == ""
        assert [scripts.is_true(script) for _ in range(2)] == [expected] * 2

    def test_a_promise_without_an_end(self, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
        """It does not hold, and it is not the page that does not answer."""
        monkeypatch.setattr(page_scripts, "EVALUATE_SECONDS", 0.5)
        shown.source._browser.scripts.run("window.isOver = new Promise(() => {}); 0")
        assert [shown.source.is_over() for _ in range(3)] == [False] * 3
        assert shown.source.problem() == ""
        shown.source._browser.scripts.run("window.isOver = false")

    def test_it_may_take_its_leave(self, shown: Shown, pages: PageServer) -> None:
        """What leave_expression does is done, and waited for, when the recording ends."""
        shown.source.leave()
        assert "/left" in [one.target for one in pages.requests]


class FailsTwice(PageServer):
    """A page server whose page cannot be had at first."""

    failures = 0

    def find(self, path: str) -> bytes | Path | None:
        """Answer with status 500 two times."""
        if path.endswith(".html") and self.failures < 2:
            self.failures += 1
            raise BenchError("not yet")
        return super().find(path)


class TestUnavailable:
    """Pages that cannot be recorded."""

    @staticmethod
    def refusal(page: Page) -> RecordingError:
        """What is said of a page that does not become ready."""
        with WebSource(page, SMALL) as source:
            with pytest.raises(RecordingError) as caught:
                source.open(should_stop=never)
            assert source.problem() == ""
        return caught.value

    def test_http_status(self, pages: PageServer) -> None:
        """A page that answers with an error is refused with its status."""
        error = self.refusal(Page(url=pages.url("nothing"), ready_timeout_seconds=0.5))
        assert error.reason is Reason.PAGE_UNAVAILABLE
        assert "HTTP status 404" in error.message

    def test_nobody_there(self) -> None:
        """An address at which nobody answers is tried until its time is up, and then refused."""
        began = time.monotonic()
        error = self.refusal(Page(url=f"http://127.0.0.1:{free_port()}/", ready_timeout_seconds=2))
        assert error.reason is Reason.PAGE_UNAVAILABLE
        assert "ERR_CONNECTION_REFUSED" in error.message
        assert time.monotonic() - began > 1

    def test_never_ready(self, pages: PageServer) -> None:
        """A page that does not become ready in time is refused; it is said what to check."""
        page = Page(
            url=pages.url("typical"), ready_expression="window.nothing", ready_timeout_seconds=1
        )
        error = self.refusal(page)
        assert error.reason is Reason.PAGE_UNAVAILABLE
        assert "was not ready within 1 s" in error.message
        assert "ready_expression" in error.message

    def test_an_expression_that_throws_does_not_hold(self, pages: PageServer) -> None:
        """A mistake in ready_expression is the same as a page that is not ready."""
        page = Page(
            url=pages.url("typical"), ready_expression="no.where", ready_timeout_seconds=0.5
        )
        assert "was not ready within 0.5 s" in self.refusal(page).message

    @pytest.mark.parametrize("name", ["ready_expression", "over_expression", "leave_expression"])
    def test_an_expression_that_is_no_javascript(self, pages: PageServer, name: str) -> None:
        """It is refused before the page is asked for, whenever it would have been needed."""
        before = len(pages.requests)
        wrong: dict[str, Any] = {name: "window.client?.(connected"}
        error = self.refusal(Page(url=pages.url("typical"), **wrong))
        assert error.reason is Reason.FIELD_INVALID
        assert error.message.startswith(f"{name} is not JavaScript: SyntaxError: missing )")
        assert len(pages.requests) == before

    def test_stopped_while_it_loads(self, pages: PageServer) -> None:
        """Who is told to stop before the page is ready stops at once."""
        looks = itertools.count()
        page = Page(url=pages.url("typical", ready=600), ready_expression=READY)
        with WebSource(page, SMALL) as source:
            with pytest.raises(RecordingError) as caught:
                source.open(should_stop=lambda: next(looks) > 2)
            assert next(looks) == 4
        assert caught.value.reason is Reason.CANCELLED

    def test_a_browser_that_is_slow_to_answer_is_asked_again(
        self, pages: PageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is looked at before the page is shown costs no recording on a busy machine."""
        answers = [CdpError("no answer in 10 s")]
        understood = page_scripts.PageScripts.syntax_error

        def answer(scripts: page_scripts.PageScripts, script: str) -> str:
            if answers:
                raise answers.pop()
            return understood(scripts, script)

        monkeypatch.setattr(page_scripts.PageScripts, "syntax_error", answer)
        with WebSource(Page(url=pages.url("typical"), ready_expression=READY), SMALL) as source:
            source.open(should_stop=never)
            assert answers == []
            assert value(source, READY) is True

    def test_a_page_that_comes_back_is_shown(self) -> None:
        """A page that fails at first is tried again while there is time."""
        with (
            FailsTwice() as server,
            WebSource(Page(url=server.url("typical"), ready_expression=READY), SMALL) as source,
        ):
            source.open(should_stop=never)
            assert [one.target for one in server.requests if "html" in one.target] == [
                "/typical.html"
            ] * 3
            assert source.problem() == ""


class TestDeath:
    """What is said of what has died; and that nothing is left of a source."""

    def test_a_page_that_is_killed_is_noticed(self, pages: PageServer) -> None:
        """When the page's process dies it is said that the page has crashed."""
        with WebSource(Page(url=pages.url("typical"), ready_expression=READY), SMALL) as source:
            source.open(should_stop=never)
            for process in filter(is_renderer, browser_processes(source)):
                process.kill()
            assert eventually(source.problem, "a problem") == "the page has crashed"

    def test_a_page_that_is_killed_over_a_question(
        self, pages: PageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who has asked a page that dies over it is told at once, and does not wait for it."""
        monkeypatch.setattr(page_scripts, "EVALUATE_SECONDS", 120.0)
        with WebSource(Page(url=pages.url("typical"), ready_expression=READY), SMALL) as source:
            source.open(should_stop=never)
            (page,) = (one for one in browser_processes(source) if is_renderer(one))
            page.suspend()
            with ThreadPoolExecutor() as pool:
                asked = pool.submit(source.is_over)
                eventually(lambda: source._browser._cdp._waiting, "it is asked")
                page.kill()
                assert asked.result(timeout=60) is False
            assert source.problem() == "the page has crashed"

    def test_a_browser_that_is_killed_before_the_page_is_shown(self, pages: PageServer) -> None:
        """It is the page that is unavailable then, and the browser that has ended: no bug."""
        page = Page(url=pages.url("typical"), ready_expression=READY)
        with WebSource(page, SMALL) as source:
            source._browser.process.kill()
            source._browser.process.wait(30)
            with pytest.raises(RecordingError) as caught:
                source.open(should_stop=never)
            assert caught.value.reason is Reason.PAGE_UNAVAILABLE
            assert source.problem() == "the browser has ended (exit code -9)"

    def test_a_browser_that_is_killed_is_noticed(
        self, pages: PageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the browser dies it is said so; closing does not wait for it, and leaves nothing."""
        monkeypatch.setattr(browser, "CLOSE_SECONDS", 120.0)
        with WebSource(Page(url=pages.url("typical"), ready_expression=READY), SMALL) as source:
            source.open(should_stop=never)
            started = browser_processes(source)
            source._browser.process.kill()
            found = eventually(source.problem, "a problem")
            assert found == "the browser has ended (exit code -9)"
            assert source.is_over() is False
            began = time.monotonic()
        assert time.monotonic() - began < 30
        assert not source.host.directory.exists()
        eventually(lambda: not [one for one in started if one.is_running()], "no process is left")

    def test_a_page_that_hangs_is_noticed(
        self, pages: PageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page that does not answer two times is a problem; one time is none."""
        monkeypatch.setattr(page_scripts, "EVALUATE_SECONDS", 0.3)
        with WebSource(Page(url=pages.url("typical"), ready_expression=READY), SMALL) as source:
            source.open(should_stop=never)
            source._browser.scripts.run("void setTimeout(() => { for (;;); }, 0)")
            assert source.is_over() is False
            assert source.problem() == ""
            assert source.is_over() is False
            assert source.problem() == "the page does not answer"

    @pytest.mark.parametrize(
        ("part", "name"), [("_display", "the display"), ("_sound", "the sound server")]
    )
    def test_display_and_sound_that_die_are_noticed(self, part: str, name: str) -> None:
        """What the browser needs is looked after as well; nothing of it is left at the end."""
        with WebSource(Page(url="http://127.0.0.1/"), SMALL) as source:
            started = browser_processes(source)
            getattr(source, part).process.kill()
            assert eventually(source.problem, "a problem").startswith(f"{name} has ended")
        assert not source.host.directory.exists()
        eventually(lambda: not [one for one in started if one.is_running()], "no process is left")
