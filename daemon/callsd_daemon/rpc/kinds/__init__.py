# SPDX-License-Identifier: Apache-2.0
"""What clients say of each kind of job, and what they are told of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.capture import CAPTURE
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import TRANSCRIPTION
from callsd_daemon.domain.work import Secrets, Spec
from callsd_daemon.rpc.kinds import captions, capture, recording, transcription
from callsd_daemon.rpc.problems import Problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """Between the messages of one kind and its domain. A kind's name is its field in `Job`."""

    parse: Callable[[Problems, Any, Any], tuple[Spec, Secrets | None]]
    """From a request's message and the kind: what is wrong is noted, with its field."""
    spec: Callable[[Any], Message]
    result: Callable[[Any], Message]
    """Goes into the field `NAME_result`."""


TRANSLATIONS = {
    TRANSCRIPTION: Translation(
        parse=transcription.parse, spec=transcription.spec, result=transcription.result
    ),
    CAPTIONS: Translation(parse=captions.parse, spec=captions.spec, result=captions.result),
    RECORDING: Translation(parse=recording.parse, spec=recording.spec, result=recording.result),
    CAPTURE: Translation(parse=capture.parse, spec=capture.spec, result=capture.result),
}
