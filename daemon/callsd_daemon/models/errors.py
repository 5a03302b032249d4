# SPDX-License-Identifier: Apache-2.0
"""Errors of models."""

from callsd_daemon.domain.errors import CallsdError


class ModelError(CallsdError):
    """A model that cannot be fetched or used.

    Its reason is one of MODEL_UNKNOWN, MODEL_MISSING, MODEL_INVALID, SOURCE_UNAVAILABLE,
    ENGINE_UNAVAILABLE, DISK_FULL, and INTERNAL where the models directory cannot be written.
    """


class PullInterrupted(Exception):  # noqa: N818 - nothing went wrong: the caller asked for it
    """The caller asked to stop; the models directory is as it was before."""
