# SPDX-License-Identifier: Apache-2.0
"""Settings of the container-based job service: its TOML file, and the environment over it."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


DEFAULTS: Mapping[str, object] = {
    "api.http.listen_address": ":4545",
    "api.http.tls.enable": False,
    "api.http.tls.cert_file": "",
    "api.http.tls.cert_key": "",
    "api.security.allow_self_registration": False,
    "api.security.enable_admin": False,
    "api.security.admin_secret_key": "",
    "api.security.session_cache.expiration_minutes": 1440,
    "store.data_source": "",
    "jobs.api_type": "docker",
    "jobs.max_concurrent_jobs": 2,
    "jobs.failed_jobs_retention_time": "",
    "jobs.image_registry": "",
    "jobs.docker.output_logs": False,
    "jobs.kubernetes.jobs_resource_requirements": "",
    "jobs.kubernetes.persistent_volume_claim_name": "",
    "jobs.kubernetes.node_sysctls": "",
    "logger.enable_console": True,
    "logger.console_json": False,
    "logger.console_level": "INFO",
    "logger.enable_file": False,
    "logger.file_json": False,
    "logger.file_level": "",
    "logger.file_location": "",
    "logger.enable_color": False,
}
"""Its keys, and what they are when nothing is said."""

FILE_ONLY = frozenset({"jobs.docker.output_logs"})

VARIABLES = (
    "DEV_MODE",
    "DOCKER_NETWORK",
    "K8S_JOB_POD_TOLERATIONS",
    "K8S_JOB_POD_TOLERATIONS_FILE",
    "K8S_NAMESPACE",
    "SECURITY_CONTEXT_PRIVILEGED",
    "TEST_MODE",
)
"""What it reads from the environment alone."""

TRUE = frozenset({"1", "t", "true"})


class SettingsFileError(Exception):
    """The file cannot be used; the message quotes nothing of it, as it may hold a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """What is set, by the file's keys."""

    source: str
    values: Mapping[str, object]
    """Of known keys: those that are set."""
    unknown: tuple[str, ...]
    """Keys of the file that such a service does not have either."""
    variables: tuple[str, ...]
    """Of `VARIABLES`: those that are set."""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str) -> str:
        """A value as text; its default when it is not set."""
        return str(self.values.get(key, DEFAULTS[key])).strip()

    def flag(self, key: str) -> bool:
        """Whether something is on."""
        return self.text(key).lower() in TRUE


def read(path: Path | None, environ: Mapping[str, str]) -> ContainerSettings:
    """Raises SettingsFileError."""
    found = dict(_flat(_document(path))) if path is not None else {}
    for key in DEFAULTS.keys() - FILE_ONLY:
        if (name := variable(key)) in environ:
            found[key] = environ[name]
    return ContainerSettings(
        source=str(path) if path is not None else "the environment",
        values={key: found[key] for key in DEFAULTS if key in found},
        unknown=tuple(key for key in found if key not in DEFAULTS),
        variables=tuple(name for name in VARIABLES if name in environ),
    )


def variable(key: str) -> str:
    """The name under which the environment overrides a key."""
    return key.replace("_", "").replace(".", "_").upper()


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SettingsFileError(f"{path} cannot be read: {problem.strerror}") from None
    except tomllib.TOMLDecodeError as problem:
        # Only the place: what stands there may be the secret.
        place = str(problem).rpartition("(")[2].rstrip(")")
        raise SettingsFileError(f"{path} is not valid TOML ({place})") from None
    except (ValueError, RecursionError):
        raise SettingsFileError(f"{path} is not valid TOML") from None


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in DEFAULTS:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
