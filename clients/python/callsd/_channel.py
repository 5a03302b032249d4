# SPDX-License-Identifier: Apache-2.0
"""How channels are set up: keepalive, flow control, retries, encryption."""

import json
from typing import Any

import grpc

from callsd._endpoint import MAX_CA_FILE_BYTES, Endpoint, read_file
from callsd._errors import SettingsError


DEFAULT_TIMEOUT_SECONDS = 10.0
"""Deadline of a unary request that gives none."""

VERIFY_TIMEOUT_SECONDS = 600.0
"""Deadline of VerifyModel: it hashes gigabytes and transcribes a sample."""

# A dead peer is noticed after 40 s. The server accepts a ping every 10 s.
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10

# A daemon that restarts is back within seconds: gRPC's own 1 s … 120 s would hide it.
FIRST_RECONNECT_SECONDS = 0.1
MAX_RECONNECT_SECONDS = 2

# The server sends at most 256 KiB a message; the rest is room for a page of large jobs.
MAX_RECEIVE_BYTES = 16 << 20

# What a stream may hold unread on a watching connection. gRPC's default lets the server send some
# 6 MB to a reader that never reads, which hides a slow reader from both ends for hours.
WATCH_WINDOW_BYTES = 64 << 10

# Only what may safely happen twice: reads, and CreateJob by its request id.
_RETRIED = {
    "callsd.v1.JobService": ("CreateJob", "GetJob", "ListJobs"),
    "callsd.v1.MediaService": ("GetUpload",),
    "callsd.v1.ModelService": ("ListModels",),
    "callsd.v1.ServerService": ("GetServerInfo", "GetCapacity"),
}
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _RETRIED.items()
                    for method in methods
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ]
    }
)


def channel_options(endpoint: Endpoint, *, watching: bool) -> tuple[tuple[str, Any], ...]:
    """Options of a channel.

    Watches get a connection of their own with a small window: a slow watcher is noticed at once,
    and the other connection keeps gRPC's growing window, which downloads over a long way need.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for long
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_RECONNECT_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_SECONDS * 1000),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.service_config", SERVICE_CONFIG),
        # Other channels of this process must not share a connection with this client: closing
        # the client closes the connection, and the windows above hold for it alone.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if watching:
        options += [
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", WATCH_WINDOW_BYTES),
        ]
    if endpoint.local:
        options.append(("grpc.enable_http_proxy", 0))
    return tuple(options)


def tls_credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """Credentials for TLS; None for a connection in the clear.

    Raises:
        SettingsError: The CA file cannot be read.
    """
    if not endpoint.secure:
        return None
    if endpoint.ca_file is None:
        return grpc.ssl_channel_credentials()
    try:
        certificates = read_file(endpoint.ca_file, MAX_CA_FILE_BYTES)
    except OSError as error:
        raise SettingsError(f"CA file {endpoint.ca_file}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(root_certificates=certificates)
