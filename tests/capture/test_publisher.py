# SPDX-License-Identifier: Apache-2.0
"""Which captions a call is shown, and when."""

import itertools
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from callsd_worker.capture.caption_text import CUT, MAX_CHARACTERS, Words
from callsd_worker.capture.publisher import (
    BURST,
    HIDDEN_SECONDS,
    KEPT_FOR_CAPTIONS,
    MAX_SPEAKERS,
    RATE,
    REPEAT_SECONDS,
    Count,
    Message,
    Metric,
    Publisher,
    Show,
)


SERVER_RATE, SERVER_BURST = 10, 100
LONG = "These are enough words that nobody has read them all within a few seconds, is it not so"


def words(
    text: str,
    *,
    session: str = "a",
    segment: str = "1",
    revision: int = 1,
    final: bool = False,
    end: bool = False,
    start: float = 0.0,
    heard: float = 1.0,
) -> Words:
    """What a captioner says."""
    return Words(
        session_id=session,
        segment=segment,
        revision=revision,
        text=text,
        is_final=final,
        is_end_of_utterance=end,
        start_seconds=start,
        heard_seconds=heard,
    )


def texts(messages: list[Message]) -> list[str]:
    """Those that are shown."""
    return [one.text for one in messages if isinstance(one, Show)]


class Viewer:
    """Asks a publisher whenever it wants to be asked, as the real one does."""

    def __init__(self) -> None:
        self.publisher = Publisher()
        self.now = 100.0
        self.sent: list[tuple[float, Message]] = []

    def say(self, *args: Words) -> list[str]:
        """Words come; returns what is shown for them at once."""
        for one in args:
            self.publisher.words(one)
        return texts(self.ask())

    def ask(self) -> list[Message]:
        """Now."""
        messages = self.publisher.take(self.now)
        self.sent += [(self.now, one) for one in messages]
        return messages

    def wait(self, seconds: float) -> list[str]:
        """Time passes; returns what is shown meanwhile."""
        end, shown = self.now + seconds, list[str]()
        for _ in range(10_000):
            at = self.publisher.next_seconds()
            if at is None or at > end:
                self.now = end
                return shown
            self.now = max(at, self.now)
            shown += texts(self.ask())
        raise AssertionError("wants to be asked for ever")


class TestText:
    """What is shown of what was recognised."""

    def test_growing(self) -> None:
        """The whole utterance, as it is known; its cut off beginning stays in front."""
        viewer = Viewer()
        assert viewer.say(words("hello")) == ["hello"]
        assert viewer.say(words("hello every", revision=2)) == ["hello every"]
        assert viewer.say(words("Hello everybody.", final=True, revision=3)) == ["Hello everybody."]
        assert viewer.say(words("how", segment="2")) == ["Hello everybody. how"]
        assert viewer.say(words("How are you?", segment="2", final=True, end=True)) == [
            "Hello everybody. How are you?"
        ]
        assert viewer.say(words("I", segment="3")) == ["I"]

    def test_unchanged(self) -> None:
        """The same text is not sent again, nor what comes too late."""
        viewer = Viewer()
        assert viewer.say(words("hello", revision=5)) == ["hello"]
        assert viewer.say(words("hello", revision=6)) == []
        assert viewer.say(words("hell", revision=4)) == []
        assert viewer.say(words("hello", final=True, end=True)) == []
        assert viewer.say(words("no", revision=9)) == []
        assert viewer.say(words("new", segment="2")) == ["new"]
        assert viewer.say(words("old", revision=9)) == []

    def test_withdrawn(self) -> None:
        """Never an empty text: what was shown is hidden by itself."""
        viewer = Viewer()
        assert viewer.say(words("uh")) == ["uh"]
        assert viewer.say(words("", revision=2)) == []
        assert viewer.say(words(" \n ", revision=3, final=True)) == []
        assert viewer.wait(20) == []

    def test_said_again(self) -> None:
        """The same words in the next utterance are shown again."""
        viewer = Viewer()
        assert viewer.say(words("Yes.", final=True, end=True)) == ["Yes."]
        assert viewer.say(words("Yes.", segment="2")) == ["Yes."]

    def test_a_monologue(self) -> None:
        """Of long utterances the end is shown, from a whole word on."""
        viewer = Viewer()
        (shown,) = viewer.say(words(" ".join(f"word{number}" for number in range(100))))

        assert len(shown) <= MAX_CHARACTERS
        assert shown.startswith(CUT + "word")
        assert shown.endswith(" word99")
        (shown,) = viewer.say(words("x" * 1000, session="b"))
        assert len(shown) == MAX_CHARACTERS

    def test_a_monologue_of_many_parts(self) -> None:
        """Also when it comes in any number of segments."""
        viewer = Viewer()
        shown = ""
        for number in range(500):
            viewer.now += 1
            (shown,) = viewer.say(words(f"part {number}", segment=str(number), final=True))
        assert len(shown) <= MAX_CHARACTERS
        assert shown.endswith("part 498 part 499")

    def test_without_spaces(self) -> None:
        """Chinese and Japanese parts are joined as they are written."""
        viewer = Viewer()
        viewer.say(words("今日は。", final=True))
        assert viewer.say(words("元気ですか", segment="2")) == ["今日は。元気ですか"]

    def test_the_last_words(self) -> None:
        """The end of an utterance that nobody could be shown comes with the next words."""
        viewer = Viewer()
        viewer.publisher.words(words("nearly"))
        assert texts(viewer.publisher.take(viewer.now)) == ["nearly"]
        viewer.publisher.words(words("nearly the end.", revision=2, final=True, end=True))
        assert viewer.say(words("then", segment="2")) == ["nearly the end. then"]
        assert viewer.say(words("then more", segment="2", revision=2)) == ["then more"]

    def test_a_late_end(self) -> None:
        """A correction that comes when the next words have begun is shown with them, once."""
        viewer = Viewer()
        viewer.say(words("I shed", end=True))
        assert viewer.say(words("and", segment="2")) == ["I shed and"]
        assert viewer.say(words("I said.", final=True, end=True, revision=2)) == ["I said. and"]
        assert viewer.say(words("and then", segment="2", revision=2)) == ["and then"]


class TestTime:
    """How long it can be read."""

    def test_a_long_text_stays(self) -> None:
        """What cannot be read in 5 s is shown again before it is hidden, once."""
        viewer = Viewer()
        viewer.say(words(LONG, final=True, end=True))
        assert viewer.wait(REPEAT_SECONDS - 0.1) == []
        assert viewer.wait(0.2) == [LONG]
        assert viewer.wait(60) == []

    def test_a_short_text_does_not(self) -> None:
        """What is read at once is not kept on the screen when it is over."""
        viewer = Viewer()
        viewer.say(words("Yes.", final=True, end=True))
        assert viewer.wait(60) == []

    def test_while_somebody_speaks(self) -> None:
        """While the utterance goes on its text stays, if short too; newer words replace it."""
        viewer = Viewer()
        viewer.say(words("I think"))
        assert viewer.wait(3) == []
        viewer.say(words("I think that", revision=2))
        assert viewer.wait(3.9) == []
        assert viewer.wait(0.2) == ["I think that"]
        assert viewer.wait(60) == []

    def test_too_late_to_stay(self) -> None:
        """What is hidden already does not flicker up again."""
        viewer = Viewer()
        viewer.say(words(LONG))
        viewer.now += HIDDEN_SECONDS
        assert viewer.ask() == []
        assert viewer.wait(60) == []

    def test_new_audio(self) -> None:
        """Each message tells how much sound is new in it, and a pause is none."""
        viewer = Viewer()
        for one in (
            words("a", start=0.5, heard=1.5),
            words("a b", revision=2, start=0.5, heard=2.75),
            words("a b c", revision=3, final=True, end=True, start=0.5, heard=3.75),
            words("d", segment="2", start=63.0, heard=64.5),
        ):
            viewer.say(one)
        found = [one.new_audio_seconds for _, one in viewer.sent if isinstance(one, Show)]

        assert found == [1.0, 1.25, 1.0, 1.5]


class TestRate:
    """The server takes 10 messages a second."""

    def test_newest_words(self) -> None:
        """Who has to wait is shown the newest words then, and nothing piles up."""
        viewer = Viewer()
        for number in range(1000):
            viewer.publisher.words(words(f"word {number}", revision=number + 1))
        assert texts(viewer.ask()) == ["word 999"]
        assert viewer.wait(1) == []

    def test_in_turns(self) -> None:
        """One who floods has one turn among others."""
        viewer = Viewer()
        revision = itertools.count(1)
        for _ in range(200):
            viewer.say(words(f"flood {next(revision)}", session="flood", revision=next(revision)))
        for name in "bcde":
            viewer.publisher.words(words("hello", session=name))
        viewer.sent.clear()
        for _ in range(100):
            viewer.say(words(f"flood {next(revision)}", session="flood", revision=next(revision)))
            viewer.wait(0.01)
        who = [one.session_id for _, one in viewer.sent]

        assert sorted(set(who[:5])) == ["b", "c", "d", "e", "flood"]
        assert len(who) <= RATE + 1

    def test_metrics(self) -> None:
        """Figures are counted once a second for each speaker, whatever happened how often."""
        viewer = Viewer()
        for _ in range(50):
            for _ in range(10):
                viewer.publisher.count("a", Metric.PACKETS_DROPPED, viewer.now)
            viewer.ask()
            viewer.wait(0.1)
        found = [one for _, one in viewer.sent if isinstance(one, Count)]

        assert 4 <= len(found) <= 6
        assert {one.metric.value for one in found} == {"live_captions_pktPayloadCh_buf_full"}

    def test_captions_first(self) -> None:
        """Figures never use what captions need, and are dropped when it is short for long."""
        viewer = Viewer()
        for number in range(100):
            viewer.publisher.count(f"s{number}", Metric.AUDIO_SKIPPED, viewer.now)
        assert len(viewer.ask()) == BURST - KEPT_FOR_CAPTIONS
        for number in range(round(KEPT_FOR_CAPTIONS)):
            viewer.publisher.words(words("hello", session=f"c{number}"))
        assert len(texts(viewer.ask())) == KEPT_FOR_CAPTIONS
        viewer.wait(60)
        counted = [one for _, one in viewer.sent if isinstance(one, Count)]

        assert BURST - KEPT_FOR_CAPTIONS < len(counted) < 100

    def test_who_fell_behind(self) -> None:
        """That captions are late counts for those who are speaking; else for who spoke last."""
        viewer = Viewer()
        viewer.publisher.fell_behind(viewer.now)
        viewer.say(words("a", session="a"), words("b", session="b"))
        viewer.say(words("c", session="c", final=True, end=True))
        viewer.publisher.fell_behind(viewer.now)
        viewer.ask()
        viewer.now += 2
        for name in "ab":
            viewer.say(words(name, session=name, final=True, end=True, revision=2))
        viewer.publisher.fell_behind(viewer.now)
        viewer.ask()
        counted = [(one.session_id, one.metric) for _, one in viewer.sent if isinstance(one, Count)]

        assert counted == [(name, Metric.FELL_BEHIND) for name in "abb"]

    def test_gone(self) -> None:
        """Nothing is sent for who has left."""
        viewer = Viewer()
        viewer.say(words("shown and would be repeated"))
        viewer.publisher.words(words("waiting", revision=2))
        viewer.publisher.count("a", Metric.AUDIO_SKIPPED, viewer.now)
        viewer.publisher.gone("a")
        viewer.publisher.gone("never seen")

        assert viewer.ask() == []
        assert viewer.publisher.next_seconds() is None

    def test_many_speakers(self) -> None:
        """Memory is bounded, whoever speaks."""
        viewer = Viewer()
        for number in range(3 * MAX_SPEAKERS):
            viewer.publisher.words(words("hello", session=str(number)))
            viewer.publisher.count(str(number), Metric.AUDIO_SKIPPED, viewer.now)
        publisher = viewer.publisher

        assert len(publisher._speakers) == len(publisher._turns) == MAX_SPEAKERS
        assert len(publisher._metrics) <= MAX_SPEAKERS * len(Metric)


Step = Words | tuple[str, Metric] | float | str
steps = st.lists(
    st.one_of(
        st.builds(
            words,
            st.text(alphabet="ab \n", max_size=40),
            session=st.sampled_from("abcde"),
            segment=st.sampled_from("123456"),
            revision=st.integers(1, 20),
            final=st.booleans(),
            end=st.booleans(),
            start=st.floats(0, 50),
            heard=st.floats(0, 60),
        ),
        st.tuples(st.sampled_from("abcde"), st.sampled_from(Metric)),
        st.floats(min_value=0, max_value=6),
        st.sampled_from(["a", "fell behind"]),
    ),
    max_size=120,
)


def do(viewer: Viewer, step: Step, burst: int) -> None:
    """One of the steps; words come of so many speakers at once."""
    match step:
        case Words():
            for number in range(burst):
                session = f"{step.session_id}{number}"
                viewer.publisher.words(replace(step, session_id=session))
        case (session, metric):
            viewer.publisher.count(session, metric, viewer.now)
        case float(seconds):
            viewer.wait(seconds)
        case "fell behind":
            viewer.publisher.fell_behind(viewer.now)
        case str(session):
            viewer.publisher.gone(session)


class TestPromises:
    """Whatever happens."""

    @settings(max_examples=300, deadline=None)
    @given(steps=steps, burst=st.integers(1, 30))
    def test_promises(self, steps: list[Step], burst: int) -> None:
        """Never above the rate, never empty, never an older text when there is a newer one."""
        viewer = Viewer()
        for step in steps:
            do(viewer, step, burst)
            asked = {
                session: (one.utterance.text, one.utterance.number)
                for session, one in viewer.publisher._speakers.items()
            }
            for message in viewer.ask():
                if isinstance(message, Show):
                    assert message.text.endswith(asked[message.session_id][0])
        viewer.wait(60)

        for at, message in viewer.sent:
            window = [one for one, _ in viewer.sent if at <= one <= at + 10]
            assert len(window) <= BURST + RATE * 10 + 1 <= SERVER_BURST + SERVER_RATE * 10
            if isinstance(message, Show):
                assert message.text == message.text.strip() != ""
                assert len(message.text) <= MAX_CHARACTERS
                assert message.new_audio_seconds >= 0
        assert not viewer.publisher._turns
        assert not viewer.publisher._metrics
        assert viewer.publisher.next_seconds() is None
        for one in viewer.publisher._speakers.values():
            assert not one.news

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
    def test_fair(self, floods: list[int]) -> None:
        """When the rate is short, everybody who has news is shown in each round of turns."""
        viewer = Viewer()
        revision = itertools.count(1)
        viewer.publisher._tokens = 0
        for _ in range(100):
            for speaker in {*floods, 10}:
                viewer.say(
                    words(f"w {next(revision)}", session=str(speaker), revision=next(revision))
                )
            viewer.wait(0.05)
        counted = Counter(one.session_id for _, one in viewer.sent)

        assert max(counted.values()) - min(counted.values()) <= 1
