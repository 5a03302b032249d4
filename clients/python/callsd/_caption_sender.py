# SPDX-License-Identifier: Apache-2.0
"""Sends a call's sound from blocking code; `_caption_sender_async` is its counterpart."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import grpc

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


CLOSE_SECONDS = 30.0
"""How long `close` waits, by default, for the last sound to be worked off."""

# The thread sees at once that it is to end; this is for a server that does not let go of a stream.
_JOIN_SECONDS = 5.0

Dial = Callable[
    [Iterator[StreamCaptionsRequest]],
    "grpc._CallIterator[StreamCaptionsResponse]",  # noqa: SLF001 - so the stubs call it
]


class CaptionSender:
    """Sends the sound of one call, whatever happens to the connection or the daemon.

    Sound that was given to `send` is numbered, kept until it is worked off, and sent again where a
    daemon has lost it: none is left out and none comes twice. When more waits than the sender may
    keep, `send` blocks. A context manager: leaving it is `close`, or `abort` after an exception.

    Every method raises what ended the sender, once something has: STREAM_REPLACED when another
    sender took over the call, JOB_STATE_CONFLICT when the call is over, UNAVAILABLE when the daemon
    stayed away for longer than the client's patience. Safe to use from several threads.
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
        """Connect; returns when the server has told what it has of the call."""
        self._dial = dial
        self._config = config
        self._audio = audio
        self._backoff = backoff
        self._patience_seconds = patience_seconds
        self._changed = threading.Condition()
        # All below belong to the holder of the condition.
        self._connection: object | None = None
        """Identity of the connection that there is; what others still ask for is not theirs."""
        self._is_resumed = False
        """Whether the server has told what it has, on this connection."""
        self._call: grpc.Call | None = None
        self._is_finished = False
        self._error: CallsdError | SettingsError | None = None
        self._thread = threading.Thread(target=self._run, name="callsd-captions", daemon=True)
        self._thread.start()
        try:
            with self._changed:
                self._wait(lambda: self._is_resumed, self._patience_seconds)
        except BaseException:
            self.abort()
            raise

    def send(self, speaker: str, data: bytes, start_offset_seconds: float) -> None:
        """Send some of a speaker's sound.

        Args:
            speaker: The speaker; the same text each time.
            data: s16le: whole samples, of any length; Opus: one packet.
            start_offset_seconds: When it was made, from the start of the call. A pause is silence.

        Raises:
            DeadlineError: There was no room for it within the client's patience.
        """
        self.send_batch(
            [Sound(speaker=speaker, data=data, start_offset_seconds=start_offset_seconds)]
        )

    def send_batch(self, sounds: Iterable[Sound]) -> None:
        """Send sound of several speakers, in one message if possible; as `send`."""
        with self._changed:
            self._check()
            for sound in sounds:
                for piece in pieces(sound, self._config.encoding):
                    if not self._audio.has_room(piece):
                        self._changed.notify_all()
                        self._wait(partial(self._audio.has_room, piece), self._patience_seconds)
                    self._audio.add(piece)
            self._changed.notify_all()

    def joined(self, speaker: str, *, display_name: str = "") -> None:
        """A speaker joined, or has another name to show."""
        self._change(speaker, SPEAKER_EVENT_TYPE_JOINED, display_name=display_name)

    def muted(self, speaker: str) -> None:
        """A speaker's microphone is off: what was said is worked off at once."""
        self._change(speaker, SPEAKER_EVENT_TYPE_MUTED)

    def unmuted(self, speaker: str) -> None:
        """A speaker's microphone is on again."""
        self._change(speaker, SPEAKER_EVENT_TYPE_UNMUTED)

    def left(self, speaker: str) -> None:
        """A speaker has left the call."""
        self._change(speaker, SPEAKER_EVENT_TYPE_LEFT)

    @property
    def lag_seconds(self) -> float:
        """Sound from the oldest that is not worked off to the newest, of the slowest speaker."""
        with self._changed:
            return self._audio.lag_seconds

    @property
    def acks(self) -> Mapping[str, AudioAck]:
        """What the server has of each speaker, by its last word."""
        with self._changed:
            return self._audio.acks

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """End: everybody stops talking, everything is worked off. The job goes on.

        Raises:
            DeadlineError: It was not all worked off in time; the server goes on with what it has.
        """
        try:
            with self._changed:
                if self._is_finished:
                    return
                self._audio.end_speech()
                self._changed.notify_all()
                self._wait(lambda: self._audio.is_worked_off, timeout_seconds)
                self._is_finished = True
                self._changed.notify_all()
            self._thread.join(_JOIN_SECONDS)
        finally:
            self.abort()

    def abort(self) -> None:
        """Disconnect at once. What is not worked off yet may be lost."""
        with self._changed:
            self._is_finished = True
            self._connection = None
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _change(
        self, speaker: str, type_: SpeakerEventType.ValueType, *, display_name: str = ""
    ) -> None:
        with self._changed:
            self._check()
            self._audio.change(speaker, type_, display_name=display_name)
            self._changed.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_finished:
            raise ValueError("the sender is closed")

    def _wait(self, is_reached: Callable[[], bool], timeout_seconds: float) -> None:
        self._changed.wait_for(lambda: self._error is not None or is_reached(), timeout_seconds)
        self._check()
        if not is_reached():
            raise not_worked_off(self._audio, timeout_seconds)

    # The thread that keeps a connection

    def _run(self) -> None:
        while True:
            try:
                self._converse()
            except SettingsError as error:
                self._fail(error)
                return
            except (grpc.RpcError, CallsdError) as error:
                typed = typed_error(error)
                try:
                    delay_seconds = self._backoff.failed(typed, is_passing=is_early(typed))
                except CallsdError as last:
                    self._fail(last)
                    return
            else:
                return
            with self._changed:
                if self._changed.wait_for(lambda: self._is_finished, delay_seconds):
                    return

    def _converse(self) -> None:
        """One stream, to its end; returns when that is the end of all."""
        connection = object()
        with self._changed:
            if self._is_finished:
                return
            self._connection = connection
            self._is_resumed = False
            call = self._call = self._dial(self._messages(connection))
        try:
            for response in call:
                self._backoff.answered()
                with self._changed:
                    self._audio.learn(response.acks, is_first=not self._is_resumed)
                    self._is_resumed = True
                    self._changed.notify_all()
        except grpc.RpcError:
            if not self._is_finished:
                raise
        finally:
            with self._changed:
                self._call = self._connection = None
                self._changed.notify_all()
            call.cancel()
        if not self._is_finished:
            raise ended_early()

    def _messages(self, connection: object) -> Iterator[StreamCaptionsRequest]:
        """What to send on a connection; it is gRPC's own thread that asks for it."""
        yield StreamCaptionsRequest(config=self._config)
        while True:
            with self._changed:
                # Without a limit: a connection always ends, and wakes us then.
                self._changed.wait_for(lambda: self._has_work(connection))
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

    def _fail(self, error: CallsdError | SettingsError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
