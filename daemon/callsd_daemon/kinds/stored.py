# SPDX-License-Identifier: Apache-2.0
"""How the jobs of kinds are stored."""

from collections.abc import Iterable
from typing import Any

from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.capture import Capture
from callsd_daemon.kinds.kind import JobKind
from callsd_daemon.kinds.recording import Recording
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.store.codec import JobCodec, KindTypes


def codec(
    kinds: Iterable[JobKind[Any] | type[JobKind[Any]]] = (
        Transcription,
        Captions,
        Recording,
        Capture,
    ),
) -> JobCodec:
    """For a database that holds jobs of these kinds."""
    return JobCodec(
        {
            kind.name: KindTypes(
                spec=kind.spec_type, result=kind.result_type, secrets=kind.secrets_type
            )
            for kind in kinds
        }
    )
