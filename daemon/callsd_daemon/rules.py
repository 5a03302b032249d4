# SPDX-License-Identifier: Apache-2.0
"""What the configuration means for each part of the daemon."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec

from callsd_daemon.config import Config
from callsd_daemon.domain.admission import Policy
from callsd_daemon.domain.jobs import Kind
from callsd_daemon.domain.recording import Profile
from callsd_daemon.host.probe import limits
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import UploadLimits
from callsd_daemon.rpc import validate
from callsd_daemon.rpc.intake import IntakeRules
from callsd_daemon.workers.attempt import Bounds
from callsd_daemon.workers.captions.attempt import CallRules
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.launchers.process import ProcessLauncher
from callsd_daemon.workers.launchers.systemd import SystemdLauncher
from callsd_daemon.workers.runner import Rules


RELOADED = (
    "admission.",
    "captions.",
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
            Kind.TRANSCRIPTION: jobs.max_transcription_jobs,
            Kind.CAPTIONS: jobs.max_captions_jobs,
            Kind.RECORDING: jobs.max_recording_jobs,
        },
        max_queued_jobs=jobs.max_queued_jobs,
        patience_seconds=jobs.queue_patience_seconds,
        is_enforced=admission.enforced,
    )


def _max_threads(config: Config, policy: Policy) -> int:
    """As many as admission could ever grant, unless the administrator sets another limit."""
    grantable = max(1, int(limits().cores - policy.headroom_cores))
    return config.transcription.max_threads or grantable


def upload_limits(config: Config) -> UploadLimits:
    """How much clients may upload."""
    media = config.media
    return UploadLimits(
        max_bytes=media.max_upload_bytes,
        max_client_bytes=media.max_client_upload_bytes,
        max_client_uploads=media.max_client_uploads,
    )


def supervision(config: Config) -> Rules:
    """What the life of jobs goes by."""
    jobs = config.jobs
    bounds = Bounds(
        start_timeout_seconds=jobs.start_timeout_seconds,
        silence_timeout_seconds=jobs.silence_timeout_seconds,
        stop_grace_seconds=jobs.stop_grace_seconds,
        max_log_bytes=jobs.max_log_bytes,
    )
    retention = timedelta(seconds=jobs.retention_seconds) if jobs.retention_seconds else None
    return Rules(
        end=EndRules(max_attempts=jobs.max_attempts, retention=retention),
        bounds=bounds,
        recording_bounds=replace(
            bounds, stop_grace_seconds=config.recording.stop_grace_seconds, is_live=True
        ),
        calls=CallRules(abandoned_seconds=config.captions.abandoned_seconds),
    )


def intake(config: Config) -> IntakeRules:
    """What requests are judged and completed by."""
    return IntakeRules(
        roots=MediaRoots(config.media.roots),
        defaults=validate.Defaults(
            model=config.transcription.model,
            caption_model=config.captions.model,
            engine=config.transcription.engine,
            profile=Profile(config.recording.profile),
            max_duration_seconds=config.jobs.max_duration_seconds,
            max_recording_seconds=config.recording.max_duration_seconds,
        ),
        default_threads=config.transcription.threads,
        max_threads=_max_threads(config, policy(config)),
        caption_workers=config.captions.workers or max(1, round(limits().cores)),
        caption_fallback=config.captions.fallback_model,
        min_free_bytes=config.admission.headroom_disk_bytes,
    )
