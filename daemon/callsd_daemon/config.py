# SPDX-License-Identifier: Apache-2.0
"""One schema for every setting: defaults ← TOML file ← environment.

Each field's comment in `SETTINGS` is its documentation; the sample file is made from it.
"""

import difflib
import getpass
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import tomlkit


DEFAULT_PATH = Path("/etc/callsd/callsd.toml")
ENVIRONMENT_PREFIX = "CALLSD_"

UNIT_DIRECTORIES = {"directory": "/var/lib/callsd", "runtime_directory": "/run/callsd"}
"""What [state] must say for workers that are units of systemd."""


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and says what to do."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: a key that we do not know is an error."""


class State(Section, frozen=True):
    """Where things are kept."""

    directory: str = ""
    runtime_directory: str = ""


class Server(Section, frozen=True):
    """How clients reach the daemon."""

    listen: tuple[str, ...] = ()
    socket_group: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    max_watches: int = 2000
    drain_seconds: float = 30.0
    drain_live_seconds: float = 0.0


class Media(Section, frozen=True):
    """Where jobs may read from."""

    roots: tuple[str, ...] = ()
    max_upload_bytes: int = 4 * 1024**3
    upload_retention_seconds: float = 86400.0


class Jobs(Section, frozen=True):
    """Life and limits of jobs."""

    max_concurrent_jobs: int = 0
    max_transcription_jobs: int = 0
    max_captions_jobs: int = 0
    max_recording_jobs: int = 0
    max_queued_jobs: int = 1000
    queue_patience_seconds: float = 30.0
    max_duration_seconds: float = 86400.0
    max_attempts: int = 3
    retention_seconds: float = 30 * 86400.0
    max_log_bytes: int = 16 * 1024**2
    start_timeout_seconds: float = 30.0
    silence_timeout_seconds: float = 60.0
    stop_grace_seconds: float = 10.0


class Admission(Section, frozen=True):
    """What is kept free."""

    headroom_cores: float = -1.0
    headroom_memory_bytes: int = 512 * 1024**2
    headroom_disk_bytes: int = 1024**3
    enforced: bool = True


class Models(Section, frozen=True):
    """Speech models."""

    directory: str = ""


class Transcription(Section, frozen=True):
    """Defaults of transcriptions."""

    model: str = "base"
    threads: int = 1
    max_threads: int = 0
    engine: str = "auto"


class Captions(Section, frozen=True):
    """Live captions."""

    model: str = "base"
    workers: int = 0
    fallback_model: str = ""
    abandoned_seconds: float = 600.0


class Recording(Section, frozen=True):
    """Recordings of pages."""

    profile: str = "medium"
    max_duration_seconds: float = 4 * 3600.0
    stop_grace_seconds: float = 300.0


class Workers(Section, frozen=True):
    """How workers are started."""

    launcher: str = "process"


class Metrics(Section, frozen=True):
    """Prometheus."""

    listen: str = ""


class Log(Section, frozen=True):
    """The daemon's own log."""

    level: str = "info"
    format: str = "auto"


class Config(Section, frozen=True):
    """Everything that can be set."""

    state: State = State()
    server: Server = Server()
    media: Media = Media()
    jobs: Jobs = Jobs()
    admission: Admission = Admission()
    models: Models = Models()
    transcription: Transcription = Transcription()
    captions: Captions = Captions()
    recording: Recording = Recording()
    workers: Workers = Workers()
    metrics: Metrics = Metrics()
    log: Log = Log()


SETTINGS: dict[str, str] = {
    "state.directory": "Jobs, their files and the database. Default: /var/lib/callsd for root, "
    "otherwise ~/.local/state/callsd.",
    "state.runtime_directory": "Sockets and the owner's token. Default: /run/callsd for root, "
    "otherwise $XDG_RUNTIME_DIR/callsd.",
    "server.listen": 'Endpoints: "unix:/path" or "tcp:HOST:PORT". Beyond loopback, TCP needs TLS. '
    "Default: callsd.sock in the runtime directory.",
    "server.socket_group": "Group that may use the unix socket. Default: the daemon's own.",
    "server.tls_certificate": 'PEM file, or "credential:NAME" for a systemd credential.',
    "server.tls_key": 'PEM file, or "credential:NAME".',
    "server.tls_client_ca": "PEM file; clients must then show a certificate signed by it.",
    "server.max_watches": "Streams that may be open at once.",
    "server.drain_seconds": "On shutdown: how long calls under way may take to end.",
    "server.drain_live_seconds": "On shutdown: how long to wait for recordings and captions to end "
    "by themselves, while no new work is taken. 0 = they go on without the daemon, and the next "
    "one takes them up.",
    "media.roots": "Directories from which jobs may read files by path. Default: none, "
    "clients upload.",
    "media.max_upload_bytes": "Largest upload.",
    "media.upload_retention_seconds": "How long an upload is kept that no job needs.",
    "jobs.max_concurrent_jobs": "Ceiling on running jobs. 0 = none: admission knows what fits.",
    "jobs.max_transcription_jobs": "Ceiling on running transcriptions. 0 = none.",
    "jobs.max_captions_jobs": "Ceiling on calls that are captioned at once. 0 = none.",
    "jobs.max_recording_jobs": "Ceiling on recordings that run at once. 0 = none.",
    "jobs.max_queued_jobs": "How many jobs may wait.",
    "jobs.queue_patience_seconds": "How long the processor load of other programs may hold a "
    "waiting transcription back; it gives way to them anyway.",
    "jobs.max_duration_seconds": "Longest run of a job that does not say so itself.",
    "jobs.max_attempts": "How often a transcription is begun anew after its worker has died.",
    "jobs.retention_seconds": "How long a finished job and its files are kept. 0 = until deleted.",
    "jobs.max_log_bytes": "Longest log of a job; a longer one loses its beginning.",
    "jobs.start_timeout_seconds": "How long a worker may take to report for duty.",
    "jobs.silence_timeout_seconds": "A worker that says nothing for so long is ended.",
    "jobs.stop_grace_seconds": "How long a worker may take to end when asked.",
    "admission.headroom_cores": "Cores kept free for everything else. -1 = a tenth of them, none "
    "on a single core.",
    "admission.headroom_memory_bytes": "Memory kept free.",
    "admission.headroom_disk_bytes": "Disk space kept free; below it nothing is accepted.",
    "admission.enforced": "false = only the ceilings in [jobs] hold, whatever the machine can "
    "carry. For measuring that.",
    "models.directory": "Where models lie. Default: models in the state directory.",
    "transcription.model": "Model of jobs that name none.",
    "transcription.threads": "Threads of jobs that do not say.",
    "transcription.max_threads": "Most threads of one job. 0 = the cores less those kept free.",
    "transcription.engine": 'Engine of jobs that do not say: "auto", "ctranslate2" or '
    '"whispercpp".',
    "captions.model": "Model of captions jobs that name none.",
    "captions.workers": "Windows of sound that one model recognises side by side, a thread each. "
    "0 = as many as there are cores.",
    "captions.fallback_model": "Smaller model for the words that may still change, while captions "
    "fall behind. Empty = none.",
    "captions.abandoned_seconds": "A captions job ends when nobody has been connected to send "
    "sound for so long.",
    "recording.profile": 'Quality of recordings that name none: "low", "medium" or "high".',
    "recording.max_duration_seconds": "Longest recording when its job does not say; disk space is "
    "set aside for all of it.",
    "recording.stop_grace_seconds": "How long a recording that is asked to end may take to put its "
    "file together.",
    "workers.launcher": '"process" = children of the daemon; "systemd" = units of their own, which '
    "outlive it and are held to limits, as `callsd install` sets them up.",
    "metrics.listen": 'Prometheus endpoint, such as "127.0.0.1:9464". Empty = off.',
    "log.level": '"debug", "info", "warning" or "error".',
    "log.format": '"json", "console", or "auto": console on a terminal.',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    key: str
    low: float
    high: float


_BOUNDS = (
    _Bound(key="server.max_watches", low=1, high=100_000),
    _Bound(key="server.drain_seconds", low=0, high=3600),
    _Bound(key="server.drain_live_seconds", low=0, high=7 * 86400),
    _Bound(key="media.max_upload_bytes", low=1, high=2**50),
    _Bound(key="media.upload_retention_seconds", low=60, high=3650 * 86400),
    _Bound(key="jobs.max_concurrent_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_transcription_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_captions_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_recording_jobs", low=0, high=100_000),
    _Bound(key="jobs.max_queued_jobs", low=0, high=1_000_000),
    _Bound(key="jobs.queue_patience_seconds", low=0, high=7 * 86400),
    _Bound(key="jobs.max_duration_seconds", low=1, high=7 * 86400),
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
    _Bound(key="captions.abandoned_seconds", low=1, high=7 * 86400),
    _Bound(key="recording.max_duration_seconds", low=1, high=7 * 86400),
    _Bound(key="recording.stop_grace_seconds", low=1, high=3600),
)

_CHOICES = {
    "transcription.engine": ("auto", "ctranslate2", "whispercpp"),
    "recording.profile": ("low", "medium", "high"),
    "workers.launcher": ("process", "systemd"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("auto", "json", "console"),
}


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file (None: the default one, if it exists) and the environment; fill in defaults.

    Raises ConfigError, which names the key and the nearest one we know.
    """
    values: dict[str, Any] = {}
    try:
        if path is None and DEFAULT_PATH.exists():
            path = DEFAULT_PATH
    except OSError as problem:
        raise ConfigError(f"{DEFAULT_PATH} cannot be read: {problem.strerror}") from None
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as problem:
            raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
        except (ValueError, RecursionError) as problem:
            # Not only TOMLDecodeError: digits without end and brackets without end are others.
            raise ConfigError(f"{path} is not valid TOML: {problem}") from None
    where = str(path) if path is not None else "the configuration"
    _refuse_unknown(values, where)
    for key, text in _from_environment(environ):
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = text
    try:
        # strict=False: numbers from the environment come as text.
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{where}: {problem}".replace("`$.", "`")) from None
    config = _with_defaults(config, environ)
    _check(config, where)
    return config


def _refuse_unknown(values: Mapping[str, Any], where: str) -> None:
    sections = {key.partition(".")[0] for key in SETTINGS}
    for section, content in values.items():
        if section not in sections:
            raise ConfigError(f"{where}: unknown section [{section}]{_nearest(section, sections)}")
        if not isinstance(content, Mapping):
            raise ConfigError(f"{where}: {section} must be a section: [{section}]")
        for name in content:
            key = f"{section}.{name}"
            if key not in SETTINGS:
                raise ConfigError(f"{where}: unknown key {key}{_nearest(key, SETTINGS)}")


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; `callsd config sample` shows them all"


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Settings in the environment: CALLSD_JOBS_MAX_CONCURRENT_JOBS is jobs.max_concurrent_jobs."""
    found: list[tuple[str, Any]] = []
    for key in SETTINGS:
        name = ENVIRONMENT_PREFIX + key.upper().replace(".", "_")
        if name in environ:
            is_list = key in ("server.listen", "media.roots")
            text = environ[name]
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise ConfigError(f"{name} ({key}) is not valid UTF-8")
            found.append((key, [item for item in text.split(",") if item] if is_list else text))
    return found


def _with_defaults(config: Config, environ: Mapping[str, str]) -> Config:
    """Fill in what depends on who runs the daemon and where."""
    directory = config.state.directory or _default_state_directory(environ)
    runtime = config.state.runtime_directory or str(default_runtime_directory(environ))
    replace = msgspec.structs.replace
    return replace(
        config,
        state=replace(config.state, directory=directory, runtime_directory=runtime),
        server=replace(
            config.server, listen=config.server.listen or (f"unix:{runtime}/callsd.sock",)
        ),
        models=replace(config.models, directory=config.models.directory or f"{directory}/models"),
    )


def _default_state_directory(environ: Mapping[str, str]) -> str:
    if "STATE_DIRECTORY" in environ:
        return environ["STATE_DIRECTORY"].partition(":")[0]
    if os.geteuid() == 0:
        return "/var/lib/callsd"
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return f"{base}/callsd"


def default_runtime_directory(environ: Mapping[str, str]) -> Path:
    """Where the socket lies when nothing else is said."""
    if "RUNTIME_DIRECTORY" in environ:
        return Path(environ["RUNTIME_DIRECTORY"].partition(":")[0])
    if os.geteuid() == 0:
        return Path("/run/callsd")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "callsd"
    return Path(f"/tmp/callsd-{getpass.getuser()}")  # noqa: S108 - made 0700 and checked at start


def _check(config: Config, where: str) -> None:
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
                f"{', '.join(choices)}"
            )
    for root in config.media.roots:
        if not Path(root).is_absolute():
            raise ConfigError(f"{where}: media.roots: {root} is not an absolute path")
    if config.workers.launcher == "systemd":
        for key, value in UNIT_DIRECTORIES.items():
            if values["state"][key] != value:
                raise ConfigError(
                    f'{where}: with workers.launcher = "systemd", state.{key} must be {value}, as '
                    "callsd-worker@.service has it"
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
    if config.metrics.listen and _host_and_port(config.metrics.listen) is None:
        raise ConfigError(f'{where}: metrics.listen: {config.metrics.listen} must be "HOST:PORT"')


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
    except ValueError:  # a name, and only this one is ours for certain
        return host == "localhost"


def secret_file(value: str, environ: Mapping[str, str]) -> Path:
    """The file behind a setting: a path, or `credential:NAME` in $CREDENTIALS_DIRECTORY."""
    kind, _, name = value.partition(":")
    if kind != "credential":
        return Path(value)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise ConfigError(f"{value}: there are no credentials here (LoadCredential= in the unit)")
    return Path(directory) / name


def sample(settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """A file with every setting explained: `settings` as they are, the others commented out."""
    defaults = msgspec.to_builtins(Config())
    lines = ["# callsd's configuration: every setting, with its default.", ""]
    section = ""
    for key, comment in SETTINGS.items():
        group, _, name = key.partition(".")
        if group != section:
            section = group
            lines += [f"[{section}]", ""]
        is_set = name in settings.get(group, ())
        value = settings[group][name] if is_set else defaults[group][name]
        mark = "" if is_set else "# "
        lines += [f"# {comment}", f"{mark}{name} = {tomlkit.item(value).as_string()}", ""]
    return "\n".join(lines)


def show(config: Config) -> str:
    """The settings in force, as TOML."""
    return tomlkit.dumps(msgspec.to_builtins(config))
