# SPDX-License-Identifier: Apache-2.0
"""Sends a call's sound from asyncio; `_caption_sender` is its counterpart."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from callsd._caption_sender import CLOSE_SECONDS
from callsd._errors import CallsdError, SettingsError, typed_error
from callsd._resume import Backoff
from callsd._sent_audio import SentAudio, ended_early, is_early, not_worked_off
from callsd._sound import Sound, pieces
from callsd.v1.caption_pb2 import (
    SPEAKER_EVENT_TYPE_JOINED,
    SPEAKER_EVENT_TYPE_LEFT,
    SPEAKER_EVENT_TYPE_MUTED,
    SPEAKER_EVENT_TYPE_UNMUTED,
    AudioAck,
    CaptionsConfig,
    SpeakerEventType,
    StreamCaptionsRequest,
    StreamCaptionsResponse,
)


# The task sees at once that it is to end; this is for a server that does not let go of a stream.
_END_SECONDS = 5.0

Dial = Callable[
    [AsyncIterator[StreamCaptionsRequest]],
    "grpc.aio.StreamStreamCall[StreamCaptionsRequest, StreamCaptionsResponse]",
]


class AsyncCaptionSender:
    """`CaptionSender` for asyncio: the same promises; what may wait is awaited.

    Made by `AsyncClient.stream_captions`; belongs to the event loop it was made in.
    """

    def __init__(
        self,
        dial: Dial,
        config: CaptionsConfig,
        *,
        audio: SentAudio,
        backoff: Backoff,
        patience_seconds: float,
    ) -> None:
        self._dial = dial
        self._config = config
        self._audio = audio
        self._backoff = backoff
        self._patience_seconds = patience_seconds
        self._changed = asyncio.Condition()
        self._connection: object | None = None
        self._is_resumed = False
        self._is_finished = False
        self._error: CallsdError | SettingsError | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> Self:
        """Connect; returns when the server has told what it has of the call."""
        self._task = asyncio.create_task(self._run(), name="callsd-captions")
        try:
            await self._wait(lambda: self._is_resumed, self._patience_seconds)
        except BaseException:
            await self.abort()
            raise
        return self

    async def send(self, speaker: str, data: bytes, start_offset_seconds: float) -> None:
        """Send some of a speaker's sound, as `CaptionSender.send`."""
        await self.send_batch(
            [Sound(speaker=speaker, data=data, start_offset_seconds=start_offset_seconds)]
        )

    async def send_batch(self, sounds: Iterable[Sound]) -> None:
        """Send sound of several speakers, in one message if possible."""
        self._check()
        for sound in sounds:
            for piece in pieces(sound, self._config.encoding):
                if not self._audio.has_room(piece):
                    await self._wait(partial(self._audio.has_room, piece), self._patience_seconds)
                self._audio.add(piece)
        await self._notify()

    async def joined(self, speaker: str, *, display_name: str = "") -> None:
        """A speaker joined, or has another name to show."""
        await self._change(speaker, SPEAKER_EVENT_TYPE_JOINED, display_name=display_name)

    async def muted(self, speaker: str) -> None:
        """A speaker's microphone is off: what was said is worked off at once."""
        await self._change(speaker, SPEAKER_EVENT_TYPE_MUTED)

    async def unmuted(self, speaker: str) -> None:
        """A speaker's microphone is on again."""
        await self._change(speaker, SPEAKER_EVENT_TYPE_UNMUTED)

    async def left(self, speaker: str) -> None:
        """A speaker has left the call."""
        await self._change(speaker, SPEAKER_EVENT_TYPE_LEFT)

    @property
    def lag_seconds(self) -> float:
        """Sound from the oldest that is not worked off to the newest, of the slowest speaker."""
        return self._audio.lag_seconds

    @property
    def acks(self) -> Mapping[str, AudioAck]:
        """What the server has of each speaker, by its last word."""
        return self._audio.acks

    async def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """End, as `CaptionSender.close`."""
        try:
            if self._is_finished:
                return
            self._audio.end_speech()
            await self._wait(lambda: self._audio.is_worked_off, timeout_seconds)
            self._is_finished = True
            await self._notify()
            if self._task is not None:
                await asyncio.wait([self._task], timeout=_END_SECONDS)
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Disconnect at once. What is not worked off yet may be lost."""
        self._is_finished = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.abort()

    async def _change(
        self, speaker: str, type_: SpeakerEventType.ValueType, *, display_name: str = ""
    ) -> None:
        self._check()
        self._audio.change(speaker, type_, display_name=display_name)
        await self._notify()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_finished:
            raise ValueError("the sender is closed")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, is_reached: Callable[[], bool], timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._error is not None or is_reached())
        except TimeoutError:
            raise not_worked_off(self._audio, timeout_seconds) from None
        self._check()

    # The task that keeps a connection

    async def _run(self) -> None:
        while True:
            try:
                await self._converse()
            except SettingsError as error:
                self._error = error
            except (grpc.RpcError, CallsdError) as error:
                typed = typed_error(error)
                try:
                    delay_seconds = self._backoff.failed(typed, is_passing=is_early(typed))
                except CallsdError as last:
                    self._error = last
                else:
                    await asyncio.sleep(delay_seconds)
                    continue
            await self._notify()
            return

    async def _converse(self) -> None:
        """One stream, to its end; returns when that is the end of all."""
        if self._is_finished:
            return
        connection = self._connection = object()
        self._is_resumed = False
        call = self._dial(self._messages(connection))
        try:
            async for response in call:
                self._backoff.answered()
                self._audio.learn(response.acks, is_first=not self._is_resumed)
                self._is_resumed = True
                await self._notify()
        except grpc.RpcError:
            if not self._is_finished:
                raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not this task, but its stream was cancelled: the client was closed.
            raise ended_early() from None
        finally:
            self._connection = None
            call.cancel()
            await self._notify()
        if not self._is_finished:
            raise ended_early()

    async def _messages(self, connection: object) -> AsyncIterator[StreamCaptionsRequest]:
        """What to send on a connection."""
        yield StreamCaptionsRequest(config=self._config)
        while True:
            async with self._changed:
                # Without a limit: a connection always ends, and wakes us then.
                await self._changed.wait_for(lambda: self._has_work(connection))
            if self._connection is not connection:
                return
            message = self._audio.next_message()
            if message is None:
                return
            yield message

    def _has_work(self, connection: object) -> bool:
        return self._connection is not connection or (
            self._is_resumed and (self._audio.has_unsent or self._is_finished)
        )
