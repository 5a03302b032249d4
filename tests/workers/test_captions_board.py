# SPDX-License-Identifier: Apache-2.0
"""What viewers find on a call's board."""

import asyncio

import pytest

from callsd_daemon.domain.captions import Words
from callsd_daemon.workers.captions.board import (
    RECENT_EVENTS,
    RECENT_FINALS,
    Board,
    Caption,
    Event,
    EventType,
    Pulse,
)


def caption(
    text: str, *, sequence: int = 0, segment: int = 1, revision: int = 1, speaker: str = "ada"
) -> Caption:
    """Words of a speaker."""
    words = Words(
        segment=segment, revision=revision, text=text, start_sample=0, end_sample=1, heard_sample=1
    )
    return Caption(sequence=sequence, speaker=speaker, display_name="", words=words)


def contents(board: Board, sequence: int = 0, version: int = 0) -> list[Caption | Event]:
    """What a viewer has not seen."""
    return [item.content for item in board.after(sequence, version)]


@pytest.fixture
def board() -> Board:
    """A new call's board."""
    return Board(Pulse, last_sequence=0)


class TestInterims:
    """Words that may change."""

    def test_replaced(self, board: Board) -> None:
        """Only the newest of a speaker is to be seen; another speaker's stays."""
        board.show(caption("he"))
        board.show(caption("yes", speaker="eve"))
        board.show(caption("hello", revision=2))

        assert contents(board) == [caption("yes", speaker="eve"), caption("hello", revision=2)]

    def test_replaced_by_final(self, board: Board) -> None:
        """The final takes the place of the interim of its utterance, and of older ones."""
        board.show(caption("hello wor", segment=1))
        board.show(caption("hello world", segment=2, sequence=1))

        assert contents(board) == [caption("hello world", segment=2, sequence=1)]

    def test_of_the_next_utterance(self, board: Board) -> None:
        """A final does not remove what is said after it."""
        board.show(caption("and", segment=2))
        board.show(caption("hello", segment=1, sequence=1))

        assert contents(board) == [
            caption("and", segment=2),
            caption("hello", segment=1, sequence=1),
        ]

    def test_withdrawn(self, board: Board) -> None:
        """What will never become final is taken back, once."""
        board.show(caption("hello", revision=4))
        board.withdraw()
        board.withdraw()

        assert contents(board) == [caption("", revision=5)]
        assert board.version == 2


class TestAfter:
    """What a viewer has not seen."""

    def test_order(self, board: Board) -> None:
        """Finals, interims and events come in the order in which they were published."""
        begin = Event(type=EventType.SPEECH_BEGIN, speaker="ada")
        end = Event(type=EventType.SPEECH_END, speaker="ada")
        board.tell(begin)
        board.show(caption("one", sequence=1))
        board.show(caption("two", segment=2))
        board.tell(end)

        shown = [begin, caption("one", sequence=1), caption("two", segment=2), end]
        assert contents(board) == shown
        assert contents(board, 1, 2) == shown[2:]
        assert contents(board, 1, 4) == []
        # Finals are told by their number, whatever else was seen.
        assert contents(board, 0, 4) == shown[1:2]

    def test_forgets(self, board: Board) -> None:
        """The newest are kept, and the board says from which final on."""
        for number in range(1, RECENT_FINALS + 11):
            board.show(caption(str(number), sequence=number))
        for number in range(RECENT_EVENTS + 5):
            board.tell(Event(type=EventType.DEGRADED, detail=str(number)))

        assert board.first_in_memory == 11
        assert board.last_sequence == RECENT_FINALS + 10
        found = contents(board, RECENT_FINALS + 7)
        assert [one.sequence for one in found if isinstance(one, Caption)] == [
            RECENT_FINALS + 8,
            RECENT_FINALS + 9,
            RECENT_FINALS + 10,
        ]
        details = [one.detail for one in found if isinstance(one, Event)]
        assert details == [str(number) for number in range(5, RECENT_EVENTS + 5)]

    def test_after_a_restart(self) -> None:
        """Numbers go on; what was before is not in memory."""
        board = Board(Pulse, last_sequence=7)
        assert (board.first_in_memory, contents(board)) == (8, [])
        board.show(caption("eight", sequence=8))

        assert board.first_in_memory == 8
        assert contents(board, 3) == [caption("eight", sequence=8)]


class TestWaiting:
    """Viewers wait for news."""

    async def test_news(self, board: Board) -> None:
        """All who wait are woken, by news and by the end."""
        waiting = [asyncio.create_task(board.wait(5.0)) for _ in range(3)]
        await asyncio.sleep(0)
        board.wake()
        assert await asyncio.gather(*waiting) == [True] * 3
        last = asyncio.create_task(board.wait(5.0))
        await asyncio.sleep(0)
        board.close()

        assert await last
        assert board.ended.is_set()

    async def test_no_news(self, board: Board) -> None:
        """Who waits in vain is told so."""
        assert not await board.wait(0.01)
