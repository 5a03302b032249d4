# SPDX-License-Identifier: Apache-2.0
"""What all work at a site needs."""

from pathlib import Path

from callsd_daemon.domain.errors import CallsdError, Reason


def certificates(ca_file: str, site_url: str) -> bytes:
    """Whose certificates a site may have besides those the system trusts; PEM.

    Raises CAPTURE_UNAVAILABLE.
    """
    if not ca_file or not site_url.startswith("https:"):
        return b""
    try:
        return Path(ca_file).read_bytes()
    except OSError as problem:
        raise CallsdError(
            Reason.CAPTURE_UNAVAILABLE,
            f"gateway.ca_file: {ca_file} cannot be read: {problem.strerror}",
        ) from None
