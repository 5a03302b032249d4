# SPDX-License-Identifier: Apache-2.0
"""The endpoints of the public server."""

import grp
import os
import socket
import stat
from pathlib import Path
from urllib.parse import quote

import grpc

from callsd_daemon.config import Config, read_secret
from callsd_daemon.startup import (
    EXIT_ALREADY_RUNNING,
    EXIT_CONFIG,
    EXIT_STATE_UNUSABLE,
    StartError,
)


MAX_MESSAGE_BYTES = 1024 * 1024

MAX_CONNECTION_STREAMS = 4096
"""Requests in one connection; more wait at the client. Twice as many as watches by default: a
client that opens too many watches is to get STREAMS_EXHAUSTED."""

MAX_WAITING_REQUESTS = 2 * MAX_CONNECTION_STREAMS
"""Requests of all connections that have come while the event loop was busy, some 16 KB each: 128 MB
at most. Beyond it anybody may be refused, whoever has sent the others: gRPC cuts off what is more
with a bare CANCELLED. By itself it begins to at 1,000, which is less than the watchers that come
back after a restart."""

MAX_WAITING_SECONDS = 60
"""For one of them, after which it is cut off, too. Twice what the watchdog bears."""

PROBE_TIMEOUT_SECONDS = 1.0

SERVER_OPTIONS = (
    # A second daemon on the same port must fail, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", 4 * MAX_MESSAGE_BYTES),
    # Clients ping every 30 s; the least interval allowed must be well below it.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.max_concurrent_streams", MAX_CONNECTION_STREAMS),
    # Between these two it draws lots.
    ("grpc.server.max_pending_requests", MAX_WAITING_REQUESTS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_WAITING_REQUESTS),
    ("grpc.server_max_unrequested_time_in_server", MAX_WAITING_SECONDS),
)


def listen(server: grpc.aio.Server, endpoint: str, config: Config) -> None:
    """Have the server listen on an endpoint of the configuration. Raises StartError."""
    kind, _, address = endpoint.partition(":")
    try:
        if kind == "unix":
            _make_way(Path(address))
            # As gRPC takes a path for a part of a URI.
            server.add_insecure_port(f"unix:{quote(os.fsencode(address))}")
        elif config.server.tls_certificate:
            server.add_secure_port(address, _credentials(config))
        else:
            server.add_insecure_port(address)
    except (RuntimeError, OSError) as problem:
        raise StartError(
            f"server.listen: {endpoint} cannot be used ({problem}): is something else "
            "listening there?",
            EXIT_STATE_UNUSABLE,
        ) from None


def _make_way(path: Path) -> None:
    """Remove a socket that a dead daemon has left; raises StartError if another one uses it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} is in the way: it is no socket", EXIT_STATE_UNUSABLE)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_SECONDS)
        if probe.connect_ex(str(path)) == 0:
            raise StartError(
                f"another program is listening at {path}: stop it, or choose another server.listen",
                EXIT_ALREADY_RUNNING,
            )
    path.unlink()


def _credentials(config: Config) -> grpc.ServerCredentials:
    settings = config.server
    client_ca = read_secret(settings.tls_client_ca) if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(read_secret(settings.tls_key), read_secret(settings.tls_certificate))],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def share_socket(endpoint: str, group: str) -> None:
    """Let the group use a unix socket: gRPC creates it by umask, without access for the group."""
    kind, _, address = endpoint.partition(":")
    if kind != "unix":
        return
    Path(address).chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP)
    if group:
        try:
            os.chown(address, -1, grp.getgrnam(group).gr_gid)
        except (KeyError, PermissionError):
            raise StartError(
                f"server.socket_group: {group} does not exist, or callsd's user is not in it",
                EXIT_CONFIG,
            ) from None
