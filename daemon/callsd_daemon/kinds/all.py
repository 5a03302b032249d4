# SPDX-License-Identifier: Apache-2.0
"""All kinds there are, for what has to know each of them before there is a configuration."""

from collections.abc import Iterable
from typing import Any

from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.kind import JobKind
from callsd_daemon.kinds.recording import Recording
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.store.codec import JobCodec, KindTypes


def codec(kinds: "Iterable[type[JobKind[Any]]]" = (Transcription, Captions, Recording)) -> JobCodec:
    """How jobs of these kinds are stored."""
    return JobCodec(
        {
            kind.name: KindTypes(
                spec=kind.spec_type, result=kind.result_type, secrets=kind.secrets_type
            )
            for kind in kinds
        }
    )
