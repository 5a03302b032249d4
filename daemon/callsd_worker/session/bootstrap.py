# SPDX-License-Identifier: Apache-2.0
"""The bootstrap that a worker reads from its stdin, and the connection that it makes with it."""

import grpc
from google.protobuf.message import DecodeError

from callsd_ipc import names
from callsd_ipc.v1 import worker_pb2


Bootstrap = worker_pb2.Bootstrap


def read_bootstrap(data: bytes) -> worker_pb2.Bootstrap | None:
    """The launcher's bootstrap; None when it is invalid, or of another release."""
    try:
        bootstrap = worker_pb2.Bootstrap.FromString(data)
    except DecodeError:
        return None
    return bootstrap if bootstrap.token and bootstrap.endpoint else None


def is_captioner(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether to run as a captioner."""
    return bootstrap.role == worker_pb2.ROLE_CAPTIONER


def is_recorder(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether to run as a recorder."""
    return bootstrap.role == worker_pb2.ROLE_RECORDER


def is_capturer(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether to capture a call."""
    return bootstrap.role == worker_pb2.ROLE_CAPTURER


def hello(bootstrap: worker_pb2.Bootstrap, *, is_assigned: bool = False) -> worker_pb2.Hello:
    """The first message of each session."""
    return worker_pb2.Hello(
        job_id=bootstrap.job_id,
        generation=bootstrap.generation,
        token=bootstrap.token,
        protocol_version=names.PROTOCOL_VERSION,
        is_assigned=is_assigned,
    )


def aio_channel(bootstrap: worker_pb2.Bootstrap) -> grpc.aio.Channel:
    """A connection to the daemon for a worker with an event loop."""
    if bootstrap.endpoint.startswith("unix:"):
        return grpc.aio.insecure_channel(bootstrap.endpoint)
    return grpc.aio.secure_channel(
        bootstrap.endpoint, grpc.ssl_channel_credentials(root_certificates=bootstrap.tls_roots)
    )


def channel(bootstrap: worker_pb2.Bootstrap) -> grpc.Channel:
    """A connection to the daemon."""
    if bootstrap.endpoint.startswith("unix:"):
        return grpc.insecure_channel(bootstrap.endpoint)
    return grpc.secure_channel(
        bootstrap.endpoint, grpc.ssl_channel_credentials(root_certificates=bootstrap.tls_roots)
    )
