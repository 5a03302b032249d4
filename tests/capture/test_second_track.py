# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from callsd_worker.capture.call import CallClient, End, Ending, Packet, Speaker
from callsd_worker.capture.capturing import Capture, Heard, Sound


PACKETS = 100
SESSION = "s" * 26


class Ears:
    """A captioner that writes down what it is sent."""

    def __init__(self) -> None:
        self.sound: list[Sound] = []

    async def converse(self, sound: AsyncIterator[list[Sound]]) -> AsyncIterator[Heard]:
        """Hear, and say nothing."""
        async for parcel in sound:
            self.sound += parcel
        for word in list[Heard]():
            yield word


class Client(CallClient):
    """Somebody's connection to the call is made anew, with another track."""

    def __init__(self, ears: Ears) -> None:
        self.capture: Capture | None = None
        self._ears = ears

    async def run(self) -> Ending:
        assert self.capture is not None
        for track in ("one", "two"):
            self.capture.track(track, Speaker(session_id=SESSION))
            for number in range(PACKETS):
                packet = Packet(
                    sequence=number,
                    timestamp=number * 960,
                    payload=b"\xf8",
                    arrival_seconds=number / 50,
                )
                self.capture.packet(track, packet)
            self.capture.track_ended(track)
        async with asyncio.timeout(10.0):
            while len(self._ears.sound) < 2 * PACKETS:  # noqa: ASYNC110 - the capture tells nobody
                await asyncio.sleep(0.01)
        return Ending(end=End.OVER, message="")

    def request_stop(self) -> None:
        pass

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> None:
        pass

    def count(self, session_id: str, metric: str) -> None:
        pass


async def test_goes_on_counting(tmp_path: Path) -> None:
    """Sound of a second track of the same session is not taken for what was sent already."""
    ears = Ears()
    client = Client(ears)
    capture = Capture(
        tmp_path, ears, clock=lambda: 0.0, min_free_bytes=0, report=lambda _phase: None
    )
    client.capture = capture
    await capture.run(client)

    assert [one.sequence for one in ears.sound] == list(range(1, 2 * PACKETS + 1))
