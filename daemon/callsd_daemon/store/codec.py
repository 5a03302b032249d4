# SPDX-License-Identifier: Apache-2.0
"""Jobs as they are stored: JSON, in which what a kind brings has that kind's own shape."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.work import Result, Secrets, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTypes:
    """What a kind stores."""

    spec: type[Spec]
    result: type[Result]
    secrets: type[Secrets]


class _Parts(msgspec.Struct):
    """What is read by the kind's own shape."""

    kind: str
    spec: msgspec.Raw
    results: dict[str, msgspec.Raw]


_decode_job = msgspec.json.Decoder(Job).decode
_decode_parts = msgspec.json.Decoder(_Parts).decode
_encode = msgspec.json.Encoder().encode


class JobCodec:
    """Knows the kinds whose jobs may be stored."""

    def __init__(self, types: Mapping[str, KindTypes]) -> None:
        self._types = types
        self._specs = {kind: msgspec.json.Decoder(known.spec) for kind, known in types.items()}
        self._results = {kind: msgspec.json.Decoder(known.result) for kind, known in types.items()}
        self._secrets = {kind: msgspec.json.Decoder(known.secrets) for kind, known in types.items()}

    def encode(self, job: Job) -> bytes:
        """Raises msgspec.ValidationError when the job holds NaN or infinity."""
        body = _encode(job)
        # They have no JSON: better no change than a job that nobody can read again.
        self.decode(body)
        return body

    def decode(self, body: bytes) -> Job:
        """The job that was encoded."""
        job, parts = _decode_job(body), _decode_parts(body)
        results = {kind: self._results[kind].decode(raw) for kind, raw in parts.results.items()}
        # Nobody else has this job yet, and a copy of its thirty fields would cost more than all.
        object.__setattr__(job, "spec", self._specs[parts.kind].decode(parts.spec))
        object.__setattr__(job, "results", results)
        return job

    def encode_secrets(self, secrets: Secrets) -> bytes:
        """What a job's work needs and nobody may read."""
        return _encode(secrets)

    def decode_secrets(self, kind: str, body: bytes | None) -> Secrets:
        """Those of a job of this kind; without a body it has none."""
        return self._types[kind].secrets() if body is None else self._secrets[kind].decode(body)
