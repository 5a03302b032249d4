# SPDX-License-Identifier: Apache-2.0
"""Files that jobs read by path."""

import os
from pathlib import Path

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import PASSING_ERRNOS, open_beneath


class MediaRoots:
    """The directories from which jobs may read."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)

    def open(self, path: str) -> int:
        """Open the file behind `path` for reading, and return its descriptor.

        Raises PATH_FORBIDDEN when it is outside the roots, symbolic links followed, and only after
        that MEDIA_NOT_FOUND: clients must not learn which files exist elsewhere. Raises OSError
        when that cannot be told now.
        """
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # a NUL, which no file name can contain
            real = Path("/")
        root = next((root for root in self._roots if real.is_relative_to(root)), None)
        if root is None:
            roots = ", ".join(map(str, self._roots)) or "none"
            raise CallsdError(
                Reason.PATH_FORBIDDEN,
                f"{path} is outside the media roots ({roots}): upload the file, or add its "
                "directory to media.roots",
                metadata={"path": path},
            )
        try:
            # `real` has no links: if a part of it has become one since, opening fails.
            return open_beneath(root, real.relative_to(root))
        except OSError as problem:
            if problem.errno in PASSING_ERRNOS:
                raise
            raise CallsdError(
                Reason.MEDIA_NOT_FOUND,
                f"{path} is not a file that callsd can read",
                metadata={"path": path},
            ) from None

    def check(self, path: str) -> None:
        """Raise as `open` does."""
        os.close(self.open(path))
