# SPDX-License-Identifier: Apache-2.0
"""The kinds of jobs: each is one object that decides all that differs between kinds."""

from callsd_daemon.kinds.kind import (
    Assignment,
    Bounds,
    JobKind,
    Kinds,
    ModelFile,
    Opener,
    Role,
    SharedWorker,
)


__all__ = (
    "Assignment",
    "Bounds",
    "JobKind",
    "Kinds",
    "ModelFile",
    "Opener",
    "Role",
    "SharedWorker",
)
