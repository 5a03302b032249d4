# SPDX-License-Identifier: Apache-2.0
"""Has a browser trust certificates that the system does not: its own store, in its own home."""

import re
import subprocess
from pathlib import Path

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.program_host import ProgramHost, program


SECONDS = 20.0

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def trust(host: ProgramHost, home: Path, certificates: bytes) -> None:
    """Put certificates (PEM) into the store that Chromium reads in its home directory.

    Raises CAPTURE_UNAVAILABLE.
    """
    tool = program("certutil")
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    database = f"sql:{store}"
    _run([tool, "-d", database, "-N", "--empty-password"])
    for number, certificate in enumerate(_CERTIFICATE.findall(certificates)):
        name = f"callsd {number}"
        _run([tool, "-d", database, "-A", "-t", "C,,", "-n", name], certificate)
    for path in (home / ".pki", store, *store.iterdir()):
        host.share(path)


def _run(command: list[str], certificate: bytes = b"") -> None:
    try:
        subprocess.run(command, input=certificate, capture_output=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        text = getattr(problem, "stderr", b"") or str(problem).encode()
        raise RecordingError(
            Reason.CAPTURE_UNAVAILABLE,
            "the certificates of gateway.ca_file cannot be used: "
            f"{text.decode(errors='replace').strip()[:200]}",
        ) from None
