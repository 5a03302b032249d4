# SPDX-License-Identifier: Apache-2.0

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from callsd_worker.recorder import cdp as cdp_module
from callsd_worker.recorder.cdp import Cdp, CdpError
from tests.helpers.waiting import eventually


Message = dict[str, Any]


class Peer:
    """The browser's end of the pipes: what it is asked it answers by `script`."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.events: list[tuple[str, Message]] = []
        self.script: Callable[[Message], None] = lambda message: self.say(
            {"id": message["id"], "result": {"method": message["method"]}}
        )
        self.on_event: Callable[[str, Message], None] = lambda method, params: self.events.append(
            (method, params)
        )
        self._hearing, to_browser = os.pipe()
        from_browser, self._saying = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="peer", daemon=True)
        self._thread.start()
        self.cdp = Cdp(
            reading=from_browser,
            writing=to_browser,
            on_event=self._take,
        )

    def say(self, message: object) -> None:
        """Say something in the form of the protocol."""
        self.say_bytes(json.dumps(message).encode() + b"\0")

    def say_bytes(self, data: bytes) -> None:
        """Say anything."""
        while data:
            data = data[os.write(self._saying, data) :]

    def hang_up(self) -> None:
        """Say nothing more."""
        if self._saying >= 0:
            os.close(self._saying)
            self._saying = -1

    def close(self) -> None:
        """End both ends."""
        self.hang_up()
        self.cdp.close()
        self._thread.join()

    def _take(self, method: str, params: Message) -> None:
        self.on_event(method, params)

    def _listen(self) -> None:
        with os.fdopen(self._hearing, "rb") as stream:
            said = b""
            while piece := stream.read1(65_536):
                *messages, said = (said + piece).split(b"\0")
                for message in map(json.loads, messages):
                    self.asked.append(message)
                    self.script(message)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A peer that answers each call with its method."""
    peer = Peer()
    try:
        yield peer
    finally:
        peer.close()


def silent(message: Message) -> None:
    """Say nothing."""


def call_in_threads(
    peer: Peer, count: int, *, session: str = ""
) -> tuple[list[threading.Thread], list[object]]:
    """Have so many threads call at once; what each gets or raises is in the list."""
    got: list[object] = []

    def call(number: int) -> None:
        try:
            got.append(peer.cdp.call("Call", session=session, timeout_seconds=60, number=number))
        except CdpError as error:
            got.append(str(error))

    asked = len(peer.asked)
    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(peer.asked) == asked + count, "all have asked")
    return threads, got


class TestCalls:
    """What is asked and answered."""

    def test_a_call_has_the_form_of_the_protocol(self, peer: Peer) -> None:
        """Method, parameters and session are sent; a call without a session names none."""
        assert peer.cdp.call("Page.navigate", session="S1", url="x") == {"method": "Page.navigate"}
        peer.cdp.call("Browser.close")
        assert peer.asked == [
            {"id": 1, "method": "Page.navigate", "params": {"url": "x"}, "sessionId": "S1"},
            {"id": 2, "method": "Browser.close", "params": {}},
        ]

    def test_each_caller_gets_its_own_answer(self, peer: Peer) -> None:
        """Answers that come in another order reach those who asked."""
        peer.script = silent
        threads, got = call_in_threads(peer, 5)
        for message in reversed(peer.asked):
            peer.say({"id": message["id"], "result": {"number": message["params"]["number"]}})
        for thread in threads:
            thread.join()
        assert sorted(str(one) for one in got) == [f"{{'number': {n}}}" for n in range(5)]

    def test_an_answer_to_nobody_is_passed_over(self, peer: Peer) -> None:
        """An answer that nobody waits for disturbs nobody."""
        peer.say({"id": 77, "result": {}})
        assert peer.cdp.call("One") == {"method": "One"}

    def test_an_error_is_said_to_whom_it_concerns(self, peer: Peer) -> None:
        """The browser's refusal is raised, with the method and its words."""
        peer.script = lambda message: peer.say(
            {"id": message["id"], "error": {"code": -32601, "message": "'Nope' wasn't found"}}
        )
        with pytest.raises(CdpError, match=r"^Nope: 'Nope' wasn't found$"):
            peer.cdp.call("Nope")

    def test_no_answer_in_time_is_an_error_and_the_next_call_works(self, peer: Peer) -> None:
        """A call ends when its time is up; its late answer is not taken for another's."""
        answering, peer.script = peer.script, silent
        with pytest.raises(CdpError, match=r"^Slow: no answer in 0\.05 s$"):
            peer.cdp.call("Slow", timeout_seconds=0.05)
        peer.say({"id": 1, "result": {"method": "Slow"}})
        peer.script = answering
        assert peer.cdp.call("Quick") == {"method": "Quick"}
        assert peer.cdp._waiting == {}

    def test_messages_that_come_in_parts_are_put_together(self, peer: Peer) -> None:
        """A message may come byte by byte, and two may come at once."""

        def answer(message: Message) -> None:
            text = json.dumps({"id": message["id"], "result": {"text": "äöü"}}, ensure_ascii=False)
            for byte in text.encode() + b"\0":
                peer.say_bytes(bytes([byte]))

        peer.script = answer
        assert peer.cdp.call("Parts") == {"text": "äöü"}
        peer.say_bytes(b'{"method":"A"}\0{"method":"B","params":{"x":1}}\0')
        eventually(lambda: len(peer.events) == 2, "both events")
        assert peer.events == [("A", {}), ("B", {"x": 1})]

    def test_what_is_told_is_not_waited_for(self, peer: Peer) -> None:
        """Who tells something goes on at once; its answer disturbs nobody."""
        peer.cdp.notify("Quick", session="S1", x=1)
        assert peer.cdp.call("One") == {"method": "One"}
        assert peer.asked[0] == {"id": 1, "method": "Quick", "params": {"x": 1}, "sessionId": "S1"}
        assert peer.cdp._waiting == {}

    def test_a_large_answer_is_read(self, peer: Peer) -> None:
        """What is below the limit comes through, however many pieces it is in."""
        peer.script = lambda message: peer.say(
            {"id": message["id"], "result": {"x": "y" * 500_000}}
        )
        assert len(peer.cdp.call("Large")["x"]) == 500_000


class TestSessions:
    """What is asked of one page among others."""

    def test_an_end_wakes_all_callers(self, peer: Peer) -> None:
        """Nobody waits for a page that is gone; who asks another page, or asks later, is heard."""
        answering, peer.script = peer.script, silent
        threads, got = call_in_threads(peer, 3, session="dead")
        others, answered = call_in_threads(peer, 1, session="alive")
        began = time.monotonic()
        peer.cdp.end_session("dead", "the page has crashed")
        for thread in threads:
            thread.join()
        assert got == ["Call: the page has crashed"] * 3
        assert time.monotonic() - began < 5
        with pytest.raises(CdpError, match=r"^Late: the page has crashed$"):
            peer.cdp.call("Late", session="dead")
        peer.script = answering
        peer.say({"id": peer.asked[-1]["id"], "result": {"number": 0}})
        others[0].join()
        assert answered == [{"number": 0}]
        assert peer.cdp.call("One") == {"method": "One"}
        assert peer.cdp._waiting == {}


class TestLongMessages:
    """Messages of any length, which a page decides."""

    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lower the limit."""
        monkeypatch.setattr(cdp_module, "MAX_MESSAGE_BYTES", 200_000)

    def test_a_long_event_is_passed_over(self, peer: Peer) -> None:
        """What comes before and behind it is taken; it ends nothing."""
        for length in (200_000, 262_144, 2_000_000):
            peer.say({"method": "Before"})
            peer.say({"method": "Long", "params": {"url": "x" * length}})
            peer.say({"method": "Behind"})
        assert peer.cdp.call("One") == {"method": "One"}
        assert [method for method, _ in peer.events] == ["Before", "Behind"] * 3

    def test_a_long_answer_is_told_to_who_waits(self, peer: Peer) -> None:
        """Nobody waits for an answer that is not taken."""
        peer.script = lambda message: peer.say(
            {"id": message["id"], "result": {"text": "x" * 2_000_000}}
        )
        began = time.monotonic()
        with pytest.raises(CdpError, match=r"^Long: the answer is too long$"):
            peer.cdp.call("Long", timeout_seconds=60)
        assert time.monotonic() - began < 10

    def test_it_takes_no_memory(self, peer: Peer) -> None:
        """However long a message is, no more of it than the limit is kept."""
        tracemalloc.start()
        try:
            peer.say_bytes(b'{"method":"Endless","params":{"url":"')
            for _ in range(100):
                peer.say_bytes(b"x" * 1_000_000)
            peer.say_bytes(b'"}}\0')
            peer.say({"method": "Behind"})
            eventually(lambda: peer.events, "the event behind")
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 3_000_000
        assert peer.events == [("Behind", {})]


class TestEvents:
    """What the browser says by itself."""

    def test_events_are_told_in_order_off_the_callers_thread(self, peer: Peer) -> None:
        """Events come in their order, on the connection's own thread."""
        seen: list[tuple[str, str]] = []
        peer.on_event = lambda method, params: seen.append(
            (method, threading.current_thread().name)
        )
        peer.say({"method": "Page.loadEventFired", "params": {"timestamp": 1}})
        peer.say({"method": "Inspector.targetCrashed"})
        eventually(lambda: len(seen) == 2, "both events")
        assert seen == [
            ("Page.loadEventFired", "devtools"),
            ("Inspector.targetCrashed", "devtools"),
        ]


def is_over(peer: Peer) -> bool:
    """Whether the connection has ended."""
    return not peer.cdp._thread.is_alive()


class TestEnd:
    """What becomes of callers when the browser goes, or says what it may not."""

    def test_a_peer_that_hangs_up_wakes_all_callers(self, peer: Peer) -> None:
        """Nobody waits for a browser that is gone: all who wait are told at once."""
        peer.script = silent
        threads, got = call_in_threads(peer, 4)
        began = time.monotonic()
        peer.hang_up()
        for thread in threads:
            thread.join()
        assert got == ["Call: the browser is gone"] * 4
        assert time.monotonic() - began < 5

    def test_a_call_after_the_end_fails_at_once(self, peer: Peer) -> None:
        """Who calls later is told the same."""
        peer.hang_up()
        eventually(lambda: is_over(peer), "the thread ends")
        with pytest.raises(CdpError, match=r"^Late: the browser is gone$"):
            peer.cdp.call("Late")

    def test_a_peer_that_does_not_listen_any_more(self) -> None:
        """A call into a pipe that nobody reads fails at once."""
        to_nobody, writing = os.pipe()
        reading, from_nobody = os.pipe()
        os.close(to_nobody)
        cdp = Cdp(reading=reading, writing=writing, on_event=lambda method, params: None)
        with pytest.raises(CdpError, match=r"^Hello: the browser is gone$"):
            cdp.call("Hello")
        os.close(from_nobody)
        cdp.close()

    @pytest.mark.parametrize(
        "said",
        [b"garbage", b"\xff\xfe", b"[]", b"7", b"{}", b'{"id":1,"error":"no"}', b""],
        ids=["no JSON", "no text", "a list", "a number", "neither", "a strange error", "empty"],
    )
    def test_what_is_no_message_ends_the_connection(self, peer: Peer, said: bytes) -> None:
        """Who says what is not the protocol is not listened to further; callers are told so."""
        peer.script = silent
        threads, got = call_in_threads(peer, 1)
        peer.say_bytes(said + b"\0")
        eventually(lambda: is_over(peer), "the thread ends")
        eventually(lambda: not threads[0].is_alive(), "the caller is told", seconds=2)
        assert got == ["Call: the browser is gone"]

    def test_an_event_that_cannot_be_taken_ends_the_connection(self, peer: Peer) -> None:
        """An event without what it must have ends the connection, as any other nonsense does."""

        def take(method: str, params: Message) -> None:
            raise KeyError("response")

        peer.on_event = take
        peer.script = silent
        threads, got = call_in_threads(peer, 1)
        peer.say({"method": "Network.responseReceived"})
        eventually(lambda: not threads[0].is_alive(), "the caller is told", seconds=2)
        assert got == ["Call: the browser is gone"]

    def test_closing_leaves_no_thread_and_no_descriptor(self) -> None:
        """What was opened is closed, and closing twice does no harm."""
        before = psutil.Process().num_fds()
        peer = Peer()
        peer.cdp.call("One")
        peer.close()
        peer.cdp.close()
        assert is_over(peer)
        assert psutil.Process().num_fds() == before
