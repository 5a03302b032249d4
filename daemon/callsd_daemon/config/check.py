# SPDX-License-Identifier: Apache-2.0
"""Checks values of settings, one by one and in combination."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from callsd_daemon.config.settings import Config, ConfigError
from callsd_daemon.domain.work import MAX_DURATION_SECONDS


UNIT_DIRECTORIES = {"directory": "/var/lib/callsd", "runtime_directory": "/run/callsd"}
"""Values of [state] that workers.launcher = "systemd" requires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    key: str
    low: float
    high: float


_BOUNDS = (
    _Bound(key="server.max_watches", low=1, high=100_000),
    _Bound(key="server.drain_seconds", low=0, high=3600),
    _Bound(key="server.drain_live_seconds", low=0, high=MAX_DURATION_SECONDS),
    _Bound(key="media.max_upload_bytes", low=1, high=2**50),
    _Bound(key="media.max_client_upload_bytes", low=1, high=2**50),
    _Bound(key="media.max_client_uploads", low=1, high=1_000_000),
    _Bound(key="media.upload_retention_seconds", low=60, high=3650 * 86400),
    _Bound(key="jobs.max_concurrent_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_transcription_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_captions_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_recording_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_queued_jobs", low=0, high=1_000_000),
    _Bound(key="jobs.queue_patience_seconds", low=0, high=MAX_DURATION_SECONDS),
    _Bound(key="jobs.max_duration_seconds", low=1, high=MAX_DURATION_SECONDS),
    _Bound(key="jobs.max_attempts", low=1, high=100),
    _Bound(key="jobs.retention_seconds", low=0, high=3650 * 86400),
    _Bound(key="jobs.max_log_bytes", low=4096, high=2**40),
    _Bound(key="jobs.start_timeout_seconds", low=0.1, high=600),
    _Bound(key="jobs.silence_timeout_seconds", low=1, high=3600),
    _Bound(key="jobs.stop_grace_seconds", low=0, high=600),
    _Bound(key="admission.headroom_cores", low=-1, high=4096),
    _Bound(key="admission.headroom_memory_bytes", low=0, high=2**50),
    _Bound(key="admission.headroom_disk_bytes", low=0, high=2**60),
    _Bound(key="transcription.threads", low=1, high=1024),
    _Bound(key="transcription.max_threads", low=0, high=1024),
    _Bound(key="captions.workers", low=0, high=256),
    _Bound(key="captions.abandoned_seconds", low=1, high=MAX_DURATION_SECONDS),
    _Bound(key="recording.max_duration_seconds", low=1, high=MAX_DURATION_SECONDS),
    _Bound(key="recording.stop_grace_seconds", low=1, high=3600),
    _Bound(key="gateway.delivery_seconds", low=60, high=365 * 86400),
)

_CHOICES: dict[str, tuple[object, ...]] = {
    "gateway.busy_status": (500, 503),
    "transcription.engine": ("auto", "ctranslate2", "whispercpp", "onnx"),
    "recording.profile": ("low", "medium", "high"),
    "workers.launcher": ("process", "systemd"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("auto", "json", "console"),
}


def check(config: Config, where: str) -> None:
    """Raise ConfigError for invalid settings; `where` names their source."""
    values = msgspec.to_builtins(config)
    for bound in _BOUNDS:
        section, _, name = bound.key.partition(".")
        value = values[section][name]
        if not bound.low <= value <= bound.high:
            raise ConfigError(
                f"{where}: {bound.key} is {value}, but must be {bound.low:g} to {bound.high:g}"
            )
    for key, choices in _CHOICES.items():
        section, _, name = key.partition(".")
        if values[section][name] not in choices:
            raise ConfigError(
                f"{where}: {key} is {values[section][name]!r}, but must be one of "
                f"{', '.join(map(str, choices))}"
            )
    for root in config.media.roots:
        if not Path(root).is_absolute():
            raise ConfigError(f"{where}: media.roots: {root} is not an absolute path")
    if config.workers.launcher == "systemd":
        for key, value in UNIT_DIRECTORIES.items():
            if values["state"][key] != value:
                raise ConfigError(
                    f'{where}: with workers.launcher = "systemd", state.{key} must be {value}, as '
                    "the units have it"
                )
    _check_endpoints(config, where)


def _check_endpoints(config: Config, where: str) -> None:
    if bool(config.server.tls_certificate) != bool(config.server.tls_key):
        raise ConfigError(
            f"{where}: server.tls_certificate and server.tls_key belong together: set both"
        )
    if config.server.tls_client_ca and not config.server.tls_certificate:
        raise ConfigError(f"{where}: server.tls_client_ca needs server.tls_certificate as well")
    for endpoint in config.server.listen:
        _check_endpoint(endpoint, config, where)
    if config.workers.listen:
        if _host_and_port(config.workers.listen) is None:
            raise ConfigError(
                f'{where}: workers.listen: {config.workers.listen} must be "HOST:PORT"'
            )
        if not config.server.tls_certificate:
            raise ConfigError(f"{where}: workers.listen needs server.tls_certificate")
    if config.gateway.listen:
        _check_gateway(config, where)
    if config.metrics.listen and _host_and_port(config.metrics.listen) is None:
        raise ConfigError(f'{where}: metrics.listen: {config.metrics.listen} must be "HOST:PORT"')


def _check_gateway(config: Config, where: str) -> None:
    endpoint = config.gateway.listen
    place = _host_and_port(endpoint)
    if place is None:
        raise ConfigError(f'{where}: gateway.listen: {endpoint} must be "HOST:PORT"')
    if _is_loopback(place[0]) or config.server.tls_certificate or config.gateway.allow_plaintext:
        return
    raise ConfigError(
        f"{where}: gateway.listen: {endpoint} is reachable from other machines, to which keys and "
        "tokens would go unencrypted: set server.tls_certificate and server.tls_key, or "
        "gateway.allow_plaintext = true in a network that is yours alone"
    )


def _check_endpoint(endpoint: str, config: Config, where: str) -> None:
    if endpoint.startswith("unix:/"):
        # The kernel's own limit, sun_path.
        if len(os.fsencode(endpoint.removeprefix("unix:"))) > 107:  # noqa: PLR2004 - see above
            raise ConfigError(f"{where}: server.listen: {endpoint} is longer than 107 bytes")
        return
    kind, _, address = endpoint.partition(":")
    place = _host_and_port(address)
    if kind != "tcp" or place is None:
        raise ConfigError(
            f'{where}: server.listen: {endpoint} must be "unix:/path" or "tcp:HOST:PORT"'
        )
    if not _is_loopback(place[0]) and not config.server.tls_certificate:
        raise ConfigError(
            f"{where}: server.listen: {endpoint} is reachable from other machines and needs TLS: "
            "set server.tls_certificate and server.tls_key"
        )


def _host_and_port(text: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:  # noqa: PLR2004 - the highest port there is
        return None
    return match[1] or match[2], int(match[3])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, and only this one is certain to be loopback
        return host == "localhost"
