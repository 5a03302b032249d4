# SPDX-License-Identifier: Apache-2.0
"""Settings of a container-based job service as ours, with a word on what has no equivalent."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tomlkit

from callsd_daemon.cli.gateway.container_settings import ContainerSettings


ADMIN_KEY_FILE = "/etc/callsd/gateway-admin.key"

LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "fatal": "error",
    "panic": "error",
}

UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
MAX_RETENTION_SECONDS = 3650 * 86400

NOT_NEEDED = {
    "api.security.session_cache.expiration_minutes": "a login is for a day; the plugin uses none",
    "store.data_source": "what callsd keeps is in state.directory; clients register there anew, "
    "as of their keys only hashes of another kind are known",
    "jobs.api_type": "jobs are processes of this machine",
    "jobs.image_registry": "there are no images; every runner is accepted",
    "jobs.docker.output_logs": "each job has a log of its own: callsd jobs logs JOB",
    "jobs.kubernetes.jobs_resource_requirements": "admission knows what a job takes, and units of "
    "systemd hold it to that",
    "jobs.kubernetes.persistent_volume_claim_name": "what callsd keeps is in state.directory",
    "jobs.kubernetes.node_sysctls": "set it on this machine; callsd doctor names what is missing",
    "logger.enable_console": "the log goes to stderr, which systemd keeps in the journal",
    "logger.enable_file": "the log goes to stderr, which systemd keeps in the journal",
    "logger.file_json": "there is no log file",
    "logger.file_level": "there is no log file",
    "logger.file_location": "there is no log file",
    "logger.enable_color": "colours are for terminals, and come by themselves",
    "DEV_MODE": "there is no such mode",
    "DOCKER_NETWORK": "jobs use the network of this machine",
    "K8S_JOB_POD_TOLERATIONS": "there are no pods",
    "K8S_JOB_POD_TOLERATIONS_FILE": "there are no pods",
    "K8S_NAMESPACE": "there are no pods",
    "SECURITY_CONTEXT_PRIVILEGED": "nothing is privileged",
    "TEST_MODE": "there is no such mode",
}
"""Keys and variables without an equivalent, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A setting of ours."""

    key: str
    value: object
    why: str
    is_advice: bool = False
    """It is shown, but commented out."""


def translated(settings: ContainerSettings) -> str:
    """A part of callsd.toml."""
    lines = [
        *_listening(settings),
        *_clients(settings),
        *_jobs(settings),
        *_log(settings),
    ]
    text = [
        f"# From {settings.source}, for /etc/callsd/callsd.toml (callsd config check looks at it).",
        "# A section that is there already takes these lines in: no section may stand twice.",
    ]
    for section in ("gateway", "server", "jobs", "log"):
        own = [line for line in lines if line.key.partition(".")[0] == section]
        if own:
            text += ["", f"[{section}]", *_written(own)]
    if without := list(_without(settings)):
        text += ["", "# Without an equivalent:", *(f"#   {line}" for line in without)]
    return "\n".join(text) + "\n"


def _written(lines: Iterable[_Line]) -> Iterator[str]:
    for line in lines:
        yield f"# {line.why}"
        mark = "# " if line.is_advice else ""
        name = line.key.partition(".")[2]
        yield f"{mark}{name} = {tomlkit.item(line.value).as_string()}"


def _listening(settings: ContainerSettings) -> Iterator[_Line]:
    key = "api.http.listen_address"
    host, _, port = settings.text(key).rpartition(":")
    host = host or "0.0.0.0"  # noqa: S104 - what ":4545" means there
    yield _Line(key="gateway.listen", value=f"{host}:{port}", why=key)
    if settings.flag("api.http.tls.enable"):
        for ours, theirs in (("tls_certificate", "cert_file"), ("tls_key", "cert_key")):
            key = f"api.http.tls.{theirs}"
            why = f"{key}, api.http.tls.enable; the user callsd must be able to read it"
            yield _Line(key=f"server.{ours}", value=settings.text(key), why=why)
    elif host not in ("localhost", "127.0.0.1", "[::1]"):
        yield _Line(
            key="gateway.allow_plaintext",
            value=True,
            why="api.http.tls.enable is false: keys and the bot's token are readable on the way. "
            "Better: server.tls_certificate and server.tls_key",
        )


def _clients(settings: ContainerSettings) -> Iterator[_Line]:
    key = "api.security.allow_self_registration"
    yield _Line(key="gateway.self_registration", value=settings.flag(key), why=key)
    if settings.flag("api.security.enable_admin"):
        yield _Line(
            key="gateway.admin_key",
            value=ADMIN_KEY_FILE,
            why="api.security.enable_admin; api.security.admin_secret_key is not printed: put it "
            "into this file, owner callsd, mode 0600",
        )
    elif settings.text("api.security.admin_secret_key"):
        yield _Line(
            key="gateway.admin_key",
            value=ADMIN_KEY_FILE,
            why="api.security.admin_secret_key is set, but enable_admin is false: nobody is admin",
            is_advice=True,
        )


def _jobs(settings: ContainerSettings) -> Iterator[_Line]:
    key = "jobs.max_concurrent_jobs"
    count = settings.text(key)
    if key in settings and count.isdecimal():
        yield _Line(
            key="jobs.max_concurrent_jobs",
            value=int(count),
            why=f"{key}: leave it out, admission knows what fits (callsd capacity)",
            is_advice=True,
        )
    key = "jobs.failed_jobs_retention_time"
    if key not in settings:
        return
    match = re.fullmatch(r"(\d+)([mhd])", settings.text(key))
    seconds = int(match[1]) * UNIT_SECONDS[match[2]] if match else 0
    if 0 < seconds <= MAX_RETENTION_SECONDS:
        why = f"{key}; here it holds for all jobs and their files, not only for failed ones"
        yield _Line(key="jobs.retention_seconds", value=float(seconds), why=why)
    else:
        yield _Line(
            key="jobs.retention_seconds",
            value=0.0,
            why=f"{key} keeps failed jobs for ever; here this would keep all jobs and recordings. "
            "Without it: 30 days",
            is_advice=True,
        )


def _log(settings: ContainerSettings) -> Iterator[_Line]:
    key = "logger.console_level"
    if key in settings and (level := LEVELS.get(settings.text(key).lower())):
        yield _Line(key="log.level", value=level, why=key)
    key = "logger.console_json"
    if key in settings:
        value = "json" if settings.flag(key) else "auto"
        yield _Line(key="log.format", value=value, why=key)


def _without(settings: ContainerSettings) -> Iterator[str]:
    for key, reason in NOT_NEEDED.items():
        if key in settings or key in settings.variables:
            yield f"{key}: {reason}"
    for key in settings.unknown:
        yield f"{key if key.isprintable() else repr(key)}: not a key of that service"
