# SPDX-License-Identifier: Apache-2.0
"""Following a call's captions: each final one once, over any number of connections."""

from collections.abc import Iterable, Iterator

import grpc

from callsd._errors import CallsdError, IntegrityError
from callsd._resume import Backoff, Resumable
from callsd._sent_audio import is_early
from callsd.v1.caption_pb2 import WatchCaptionsRequest, WatchCaptionsResponse


class CaptionWatch(Resumable[WatchCaptionsRequest, WatchCaptionsResponse, WatchCaptionsResponse]):
    """One call's captions over any number of connections: each final caption once, in order."""

    def __init__(
        self, job: str, *, resume_sequence: int | None, finals_only: bool, backoff: Backoff
    ) -> None:
        super().__init__(backoff)
        self._job = job
        self._last = resume_sequence
        self._has_begun = False
        self._finals_only = finals_only

    def request(self) -> WatchCaptionsRequest:
        """After the last final caption seen; after a beginning without one, all are news."""
        after = 0 if self._last is None and self._has_begun else self._last
        return WatchCaptionsRequest(
            job=self._job, resume_sequence=after, finals_only=self._finals_only
        )

    def receive(self, response: WatchCaptionsResponse) -> Iterator[WatchCaptionsResponse]:
        """The message, unless it is a final caption that was seen before."""
        self._has_begun = True
        caption = response.caption
        if caption.is_final:
            due = caption.sequence if self._last is None else self._last + 1
            if caption.sequence < due:
                return
            if caption.sequence > due:
                raise IntegrityError(
                    f"{self._job}: the server sent caption {caption.sequence} where {due} was due",
                    code=grpc.StatusCode.DATA_LOSS,
                )
            self._last = caption.sequence
        yield response

    def failed(self, error: CallsdError) -> tuple[float, Iterable[WatchCaptionsResponse]]:
        """As the base class; a job that is not open yet after a restart will be."""
        return self.backoff.failed(error, is_passing=is_early(error)), ()

    def ended(self) -> None:
        """The call is over."""
