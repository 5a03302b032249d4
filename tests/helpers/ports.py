# SPDX-License-Identifier: Apache-2.0
"""Ports of this machine."""

import socket


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
