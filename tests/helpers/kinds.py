# SPDX-License-Identifier: Apache-2.0
"""The kinds of jobs, for what decides about jobs without doing them."""

from pathlib import Path
from typing import cast

from callsd_daemon.domain.recording import Profile
from callsd_daemon.domain.transcription import Engine
from callsd_daemon.kinds import Bounds, Kinds
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.capture import Capture
from callsd_daemon.kinds.recording import Recording
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStore


BOUNDS = Bounds(
    start_timeout_seconds=1.0,
    silence_timeout_seconds=1.0,
    stop_grace_seconds=1.0,
    max_log_bytes=1,
)
_NO_MODELS = cast(ModelStore, None)

_CAPTIONS = Captions(
    models=_NO_MODELS,
    bounds=BOUNDS,
    max_duration_seconds=3600.0,
    default_model="base",
    fallback_model="",
    workers=1,
    abandoned_seconds=60.0,
)
_ALL = (
    Transcription(
        jobs_directory=Path("/nonexistent"),
        models=_NO_MODELS,
        upload_store=cast(Uploads, None),
        roots=MediaRoots(()),
        bounds=BOUNDS,
        max_duration_seconds=3600.0,
        default_model="base",
        default_engine=Engine.AUTO,
        default_threads=1,
        max_threads=4,
    ),
    _CAPTIONS,
    Capture(captions=_CAPTIONS, bounds=BOUNDS, max_duration_seconds=3600.0, min_free_bytes=0),
    Recording(
        bounds=BOUNDS,
        max_duration_seconds=3600.0,
        default_profile=Profile.MEDIUM,
        min_free_bytes=0,
    ),
)
KINDS: Kinds = {kind.name: kind for kind in _ALL}
