# SPDX-License-Identifier: Apache-2.0
"""What viewers find on a call's feed."""

import asyncio

import pytest

from callsd_daemon.domain.captions import Words
from callsd_daemon.workers.captions.feed import (
    RECENT_EVENTS,
    RECENT_FINALS,
    CallStatus,
    Caption,
    CaptionFeed,
    Event,
    EventType,
)


def caption(
    text: str, *, sequence: int = 0, segment: int = 1, revision: int = 1, speaker: str = "ada"
) -> Caption:
    """Words of a speaker."""
    words = Words(
        segment=segment,
        revision=revision,
        text=text,
        start_sample=0,
        end_sample=1,
        heard_sample=1,
    )
    return Caption(sequence=sequence, speaker=speaker, display_name="", words=words)


def contents(feed: CaptionFeed, sequence: int = 0, version: int = 0) -> list[Caption | Event]:
    """What a viewer has not seen."""
    return [item.content for item in feed.after(sequence, version)]


@pytest.fixture
def feed() -> CaptionFeed:
    """A new call's feed."""
    return CaptionFeed(CallStatus, last_sequence=0)


class TestInterims:
    """Words that may change."""

    def test_replaced(self, feed: CaptionFeed) -> None:
        """Only the newest of a speaker is to be seen; another speaker's stays."""
        feed.add_caption(caption("he"))
        feed.add_caption(caption("yes", speaker="eve"))
        feed.add_caption(caption("hello", revision=2))

        assert contents(feed) == [caption("yes", speaker="eve"), caption("hello", revision=2)]

    def test_replaced_by_final(self, feed: CaptionFeed) -> None:
        """The final takes the place of the interim of its utterance, and of older ones."""
        feed.add_caption(caption("hello wor", segment=1))
        feed.add_caption(caption("hello world", segment=2, sequence=1))

        assert contents(feed) == [caption("hello world", segment=2, sequence=1)]

    def test_of_the_next_utterance(self, feed: CaptionFeed) -> None:
        """A final does not remove what is said after it."""
        feed.add_caption(caption("and", segment=2))
        feed.add_caption(caption("hello", segment=1, sequence=1))

        assert contents(feed) == [
            caption("and", segment=2),
            caption("hello", segment=1, sequence=1),
        ]

    def test_withdrawn(self, feed: CaptionFeed) -> None:
        """What will never become final is taken back, once."""
        feed.add_caption(caption("hello", revision=4))
        feed.withdraw()
        feed.withdraw()

        assert contents(feed) == [caption("", revision=5)]
        assert feed.version == 2


class TestAfter:
    """What a viewer has not seen."""

    def test_order(self, feed: CaptionFeed) -> None:
        """Finals, interims and events come in the order in which they were published."""
        begin = Event(type=EventType.SPEECH_BEGIN, speaker="ada")
        end = Event(type=EventType.SPEECH_END, speaker="ada")
        feed.add_event(begin)
        feed.add_caption(caption("one", sequence=1))
        feed.add_caption(caption("two", segment=2))
        feed.add_event(end)

        shown = [begin, caption("one", sequence=1), caption("two", segment=2), end]
        assert contents(feed) == shown
        assert contents(feed, 1, 2) == shown[2:]
        assert contents(feed, 1, 4) == []
        # Finals are told by their number, whatever else was seen.
        assert contents(feed, 0, 4) == shown[1:2]

    def test_forgets(self, feed: CaptionFeed) -> None:
        """The newest are kept, and the feed says from which final on."""
        for number in range(1, RECENT_FINALS + 11):
            feed.add_caption(caption(str(number), sequence=number))
        for number in range(RECENT_EVENTS + 5):
            feed.add_event(Event(type=EventType.DEGRADED, detail=str(number)))

        assert feed.first_in_memory == 11
        assert feed.last_sequence == RECENT_FINALS + 10
        found = contents(feed, RECENT_FINALS + 7)
        assert [one.sequence for one in found if isinstance(one, Caption)] == [
            RECENT_FINALS + 8,
            RECENT_FINALS + 9,
            RECENT_FINALS + 10,
        ]
        details = [one.detail for one in found if isinstance(one, Event)]
        assert details == [str(number) for number in range(5, RECENT_EVENTS + 5)]

    def test_after_a_restart(self) -> None:
        """Numbers go on; what was before is not in memory."""
        feed = CaptionFeed(CallStatus, last_sequence=7)
        assert (feed.first_in_memory, contents(feed)) == (8, [])
        feed.add_caption(caption("eight", sequence=8))

        assert feed.first_in_memory == 8
        assert contents(feed, 3) == [caption("eight", sequence=8)]


class TestWaiting:
    """Viewers wait for update."""

    async def test_news(self, feed: CaptionFeed) -> None:
        """All who wait are woken, by update and by the end."""
        waiting = [asyncio.create_task(feed.wait(5.0)) for _ in range(3)]
        await asyncio.sleep(0)
        feed.wake()
        assert await asyncio.gather(*waiting) == [True] * 3
        last = asyncio.create_task(feed.wait(5.0))
        await asyncio.sleep(0)
        feed.close()

        assert await last
        assert feed.ended.is_set()

    async def test_no_news(self, feed: CaptionFeed) -> None:
        """Who waits in vain is told so."""
        assert not await feed.wait(0.01)
