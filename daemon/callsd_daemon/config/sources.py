# SPDX-License-Identifier: Apache-2.0
"""Reads settings: defaults ← TOML file ← environment; writes them as TOML."""

import difflib
import errno
import getpass
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import tomlkit

from callsd_daemon.config.check import check
from callsd_daemon.config.settings import SETTINGS, Config, ConfigError


DEFAULT_PATH = Path("/etc/callsd/callsd.toml")
ENVIRONMENT_PREFIX = "CALLSD_"

_TWICE = "twice"
"""In what tomllib says of a section that is there already, as all are in the file of `install`."""


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file (None: the default one, if it exists) and the environment; fill in defaults.

    Raises ConfigError, which names the key and the nearest known one.
    """
    values: dict[str, Any] = {}
    try:
        if path is None and DEFAULT_PATH.exists():
            path = DEFAULT_PATH
    except OSError as problem:
        raise ConfigError(f"{DEFAULT_PATH} cannot be read: {problem.strerror}") from None
    if path is not None:
        try:
            # Editors of other systems put a byte order mark before the text.
            values = tomllib.loads(_read(path).decode("utf-8-sig"))
        except OSError as problem:
            hint = ": let everybody read it" if isinstance(problem, PermissionError) else ""
            raise ConfigError(f"{path} cannot be read: {problem.strerror}{hint}") from None
        except (ValueError, RecursionError) as problem:
            # Not only TOMLDecodeError: endless digits or brackets raise other errors.
            hint = ": each section stands once" if _TWICE in str(problem) else ""
            raise ConfigError(f"{path} is not valid TOML: {problem}{hint}") from None
    where = str(path) if path is not None else "the configuration"
    _refuse_unknown(values, where)
    for key, text in _from_environment(environ):
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = text
    try:
        # strict=False: numbers from the environment are texts.
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{where}: {problem}".replace("`$.", "`")) from None
    config = _with_defaults(config, environ)
    check(config, where)
    return config


def _read(path: Path) -> bytes:
    """The content of a file that whoever runs callsd names, links followed; raises OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        return file.read()


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
    """The default of `state.runtime_directory`."""
    if "RUNTIME_DIRECTORY" in environ:
        return Path(environ["RUNTIME_DIRECTORY"].partition(":")[0])
    if os.geteuid() == 0:
        return Path("/run/callsd")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "callsd"
    return Path(f"/tmp/callsd-{getpass.getuser()}")  # noqa: S108 - made 0700 and checked at start


def secret_file(value: str, environ: Mapping[str, str]) -> Path:
    """The file behind a setting: a path, or `credential:NAME` in $CREDENTIALS_DIRECTORY."""
    kind, _, name = value.partition(":")
    if kind != "credential":
        return Path(value)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise ConfigError(f"{value}: there are no credentials here (LoadCredential= in the unit)")
    return Path(directory) / name


def read_secret(setting: str) -> bytes:
    """A file that a setting names; raises ConfigError."""
    path = secret_file(setting, os.environ)
    try:
        return _read(path)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None


def sample(settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """A file with every setting explained: those in `settings` set, the others commented out."""
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
