# SPDX-License-Identifier: Apache-2.0
"""What a worker is told when it is started, and how it reaches the daemon by it."""

import grpc
from google.protobuf.message import DecodeError

from callsd_ipc.v1 import worker_pb2


PROTOCOL_VERSION = 2

Bootstrap = worker_pb2.Bootstrap


def read_bootstrap(data: bytes) -> worker_pb2.Bootstrap | None:
    """The launcher's bootstrap; None when it is none, or one of another release."""
    try:
        bootstrap = worker_pb2.Bootstrap.FromString(data)
    except DecodeError:
        return None
    return bootstrap if bootstrap.token and bootstrap.endpoint else None


def is_captioner(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether to serve live captions, not one job."""
    return bootstrap.role == worker_pb2.ROLE_CAPTIONER


def is_recorder(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether to do a recording."""
    return bootstrap.role == worker_pb2.ROLE_RECORDER


def hello(bootstrap: worker_pb2.Bootstrap, *, is_assigned: bool = False) -> worker_pb2.Hello:
    """How a worker presents itself to the daemon."""
    return worker_pb2.Hello(
        job_id=bootstrap.job_id,
        generation=bootstrap.generation,
        token=bootstrap.token,
        protocol_version=PROTOCOL_VERSION,
        is_assigned=is_assigned,
    )


def channel(bootstrap: worker_pb2.Bootstrap) -> grpc.Channel:
    """A connection to the daemon."""
    if bootstrap.endpoint.startswith("unix:"):
        return grpc.insecure_channel(bootstrap.endpoint)
    return grpc.secure_channel(
        bootstrap.endpoint, grpc.ssl_channel_credentials(root_certificates=bootstrap.tls_roots)
    )
