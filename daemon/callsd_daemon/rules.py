# SPDX-License-Identifier: Apache-2.0
"""What the configuration means for each part of the daemon."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec

from callsd_daemon.config import Config
from callsd_daemon.domain.admission import Policy
from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.recording import RECORDING, Profile
from callsd_daemon.domain.transcription import TRANSCRIPTION, Engine
from callsd_daemon.host.probe import limits
from callsd_daemon.kinds import Bounds, Kinds
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.capture import Capture
from callsd_daemon.kinds.recording import Recording
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import UploadLimits, Uploads
from callsd_daemon.models.store import ModelStore
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.launchers.process import ProcessLauncher
from callsd_daemon.workers.launchers.systemd import SystemdLauncher


RELOADED = (
    "admission.",
    "captions.",
    "gateway.delivery_seconds",
    "jobs.",
    "media.roots",
    "recording.",
    "server.drain_",
    "transcription.",
)
"""Beginnings of the keys that take effect on SIGHUP; the others do so at the next start."""


def changed_keys(old: Config, new: Config) -> Iterator[str]:
    """Keys whose values differ."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    for section, values in after.items():
        for name, value in values.items():
            if before[section][name] != value:
                yield f"{section}.{name}"


def launcher(config: Config) -> Launcher:
    """How workers are started; raises OSError when it cannot be so here."""
    state = Path(config.state.directory)
    directories, trash = state / "workers", state / "trash"
    if config.workers.launcher == "process":
        return ProcessLauncher(directories, trash)
    return SystemdLauncher(directories, trash, Path(config.state.runtime_directory))


def weakness(config: Config) -> str:
    """What is weaker than it could be in how workers are started; empty if nothing is."""
    if config.workers.launcher == "systemd":
        return ""
    return (
        "workers are children of the daemon and of its own user: what takes one over reaches the "
        "daemon's files, and nothing limits what it takes; `callsd install` shuts them in"
    )


def policy(config: Config) -> Policy:
    """What admission goes by."""
    admission, jobs, cores = config.admission, config.jobs, limits().cores
    headroom = admission.headroom_cores
    if headroom < 0:
        headroom = cores / 10 if cores > 1 else 0.0
    return Policy(
        headroom_cores=headroom,
        headroom_memory_bytes=admission.headroom_memory_bytes,
        headroom_disk_bytes=admission.headroom_disk_bytes,
        max_concurrent_jobs=jobs.max_concurrent_jobs,
        max_per_kind={
            TRANSCRIPTION: jobs.max_transcription_jobs,
            CAPTIONS: jobs.max_captions_jobs,
            RECORDING: jobs.max_recording_jobs,
        },
        max_queued_jobs=jobs.max_queued_jobs,
        patience_seconds=jobs.queue_patience_seconds,
        is_enforced=admission.enforced,
    )


def max_threads(config: Config) -> int:
    """As many as admission could ever grant, unless the administrator sets another limit."""
    grantable = max(1, int(limits().cores - policy(config).headroom_cores))
    return config.transcription.max_threads or grantable


def upload_limits(config: Config) -> UploadLimits:
    """How much clients may upload."""
    media = config.media
    return UploadLimits(
        max_bytes=media.max_upload_bytes,
        max_client_bytes=media.max_client_upload_bytes,
        max_client_uploads=media.max_client_uploads,
    )


def end(config: Config) -> EndRules:
    """What the ends of jobs go by."""
    jobs = config.jobs
    retention = timedelta(seconds=jobs.retention_seconds) if jobs.retention_seconds else None
    return EndRules(max_attempts=jobs.max_attempts, retention=retention)


def delivery_budget(config: Config) -> timedelta:
    """For how long it is tried to deliver something."""
    return timedelta(seconds=config.gateway.delivery_seconds)


def kinds(config: Config, models: ModelStore, uploads: Uploads) -> Kinds:
    """The kinds of jobs that are served, with the administrator's settings for each."""
    jobs = config.jobs
    bounds = Bounds(
        start_timeout_seconds=jobs.start_timeout_seconds,
        silence_timeout_seconds=jobs.silence_timeout_seconds,
        stop_grace_seconds=jobs.stop_grace_seconds,
        max_log_bytes=jobs.max_log_bytes,
    )
    transcription = Transcription(
        models=models,
        upload_store=uploads,
        roots=MediaRoots(config.media.roots),
        jobs_directory=Path(config.state.directory) / "jobs",
        bounds=bounds,
        max_duration_seconds=jobs.max_duration_seconds,
        default_model=config.transcription.model,
        default_engine=Engine(config.transcription.engine),
        default_threads=config.transcription.threads,
        max_threads=max_threads(config),
    )
    captions = Captions(
        models=models,
        bounds=bounds,
        max_duration_seconds=jobs.max_duration_seconds,
        default_model=config.captions.model,
        fallback_model=config.captions.fallback_model,
        workers=config.captions.workers or max(1, round(limits().cores)),
        abandoned_seconds=config.captions.abandoned_seconds,
    )
    capture = Capture(
        captions=captions,
        bounds=replace(bounds, stop_grace_seconds=config.recording.stop_grace_seconds),
        max_duration_seconds=config.recording.max_duration_seconds,
        min_free_bytes=config.admission.headroom_disk_bytes,
        ca_file=config.gateway.ca_file,
    )
    recording = Recording(
        bounds=replace(bounds, stop_grace_seconds=config.recording.stop_grace_seconds),
        max_duration_seconds=config.recording.max_duration_seconds,
        default_profile=Profile(config.recording.profile),
        min_free_bytes=config.admission.headroom_disk_bytes,
        ca_file=config.gateway.ca_file,
    )
    return {kind.name: kind for kind in (transcription, captions, recording, capture)}
