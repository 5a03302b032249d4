# SPDX-License-Identifier: Apache-2.0
"""Notifies systemd of the daemon's state. Source: sd_notify(3)."""

import contextlib
import os
import socket


READY = "READY=1"
STOPPING = "STOPPING=1"
RELOADING = "RELOADING=1"
ALIVE = "WATCHDOG=1"


def notify(*lines: str) -> None:
    """Send to the service manager; does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # "@" stands for the abstract namespace.
        name = "\0" + address[1:] if address.startswith("@") else address
        # A service manager that does not listen must not end the daemon.
        with contextlib.suppress(OSError):
            sender.sendto("\n".join(lines).encode(), name)
