# SPDX-License-Identifier: Apache-2.0

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomlkit
from hypothesis import example, given
from hypothesis import strategies as st

from callsd_daemon.config import (
    SETTINGS,
    Config,
    ConfigError,
    default_runtime_directory,
    load,
    sample,
    secret_file,
    show,
    sources,
)


Load = Callable[..., Config]

TLS = 'tls_certificate = "/c.pem"\ntls_key = "/k.pem"\n'
ENVIRONMENT = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/home/maya/state"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the configuration file lies."""
    return tmp_path / "callsd.toml"


@pytest.fixture(autouse=True)
def _no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEFAULT_PATH", tmp_path / "default.toml")


@pytest.fixture
def load_text(path: Path) -> Load:
    """Loads a configuration from its text and variables of the environment."""

    def load_(text: str = "", **environ: str) -> Config:
        path.write_text(text, encoding="utf-8")
        return load(path, {**ENVIRONMENT, **environ})

    return load_


def leaves(value: Any) -> dict[str, Any]:
    """Every setting by its dotted name."""
    return {
        f"{section}.{name}": content
        for section, settings in msgspec.to_builtins(value).items()
        for name, content in settings.items()
    }


class TestSources:
    """Defaults ← file ← environment."""

    def test_nothing_set(self) -> None:
        """Without a file and variables all is at its default."""
        config = load(None, ENVIRONMENT)

        assert config.jobs == Config().jobs
        assert config.admission == Config().admission
        assert config.transcription == Config().transcription

    def test_default_file(self, tmp_path: Path) -> None:
        """The default file is read when there is one."""
        (tmp_path / "default.toml").write_text("[jobs]\nmax_attempts = 7\n")

        assert load(None, ENVIRONMENT).jobs.max_attempts == 7

    def test_file(self, load_text: Load) -> None:
        """A file sets what it names and nothing else."""
        config = load_text('[jobs]\nmax_attempts = 5\n[media]\nroots = ["/calls", "/more"]\n')

        assert (config.jobs.max_attempts, config.media.roots) == (5, ("/calls", "/more"))
        assert config.jobs.max_queued_jobs == Config().jobs.max_queued_jobs

    def test_environment_goes_before_the_file(self, load_text: Load) -> None:
        """Numbers, text and lists of the environment replace those of the file."""
        config = load_text(
            '[jobs]\nmax_attempts = 5\nretention_seconds = 9\n[media]\nroots = ["/calls"]\n',
            CALLSD_JOBS_MAX_ATTEMPTS="2",
            CALLSD_ADMISSION_HEADROOM_CORES="0.25",
            CALLSD_LOG_LEVEL="debug",
            CALLSD_MEDIA_ROOTS="/a,/b",
            CALLSD_SERVER_LISTEN="unix:/s,tcp:[::1]:7",
        )

        assert (config.jobs.max_attempts, config.jobs.retention_seconds) == (2, 9.0)
        assert config.admission.headroom_cores == 0.25
        assert config.log.level == "debug"
        assert config.media.roots == ("/a", "/b")
        assert config.server.listen == ("unix:/s", "tcp:[::1]:7")

    def test_every_setting_has_its_variable(self, load_text: Load) -> None:
        """What the file can say the environment can say, too."""
        base = leaves(load_text())
        environ = {
            "CALLSD_" + key.upper().replace(".", "_"): (
                ",".join(value) if isinstance(value, list | tuple) else str(value)
            )
            for key, value in base.items()
        }

        assert leaves(load_text(**environ)) == base

    @pytest.mark.parametrize(
        ("profile", "seconds", "grace"), [("low", 1, 1), ("medium", 60, 60), ("high", 604800, 3600)]
    )
    def test_recording(self, load_text: Load, profile: str, seconds: int, grace: int) -> None:
        """Each quality, and each length up to the bounds."""
        recording = load_text(
            f"[recording]\nprofile = '{profile}'\nmax_duration_seconds = {seconds}\n",
            CALLSD_RECORDING_STOP_GRACE_SECONDS=str(grace),
        ).recording

        assert (
            recording.profile,
            recording.max_duration_seconds,
            recording.stop_grace_seconds,
        ) == (
            profile,
            seconds,
            grace,
        )

    def test_empty_list(self, load_text: Load) -> None:
        """An empty variable is an empty list."""
        config = load_text('[media]\nroots = ["/calls"]\n', CALLSD_MEDIA_ROOTS="")

        assert config.media.roots == ()


REFUSALS = [
    ("[job]\n", "unknown section [job]; did you mean jobs?"),
    ("[zebra]\n", "unknown section [zebra]; `callsd config sample` shows them all"),
    ("jobs = 3\n", "jobs must be a section: [jobs]"),
    ("[[jobs]]\n", "jobs must be a section: [jobs]"),
    ("max_attempts = 3\n", "unknown section [max_attempts]"),
    (
        "[jobs]\nmax_concurent_jobs = 3\n",
        "unknown key jobs.max_concurent_jobs; did you mean jobs.max_concurrent_jobs?",
    ),
    ("[jobs]\nmax_attempts = 'many'\n", "`jobs.max_attempts`"),
    ("[jobs]\nmax_attempts = 2.5\n", "`jobs.max_attempts`"),
    ("[jobs]\nmax_attempts = true\n", "`jobs.max_attempts`"),
    ("[jobs.max_attempts]\n", "`jobs.max_attempts`"),
    ("[media]\nroots = '/calls'\n", "`media.roots`"),
    ("[media]\nroots = [3]\n", "`media.roots[0]`"),
    ("[state]\ndirectory = 2026-01-01\n", "`state.directory`"),
    ("[jobs]\nmax_attempts = 0\n", "jobs.max_attempts is 0, but must be 1 to 100"),
    ("[jobs]\nmax_attempts = 1" + "0" * 400 + "\n", "jobs.max_attempts"),
    ("[jobs]\nretention_seconds = nan\n", "jobs.retention_seconds is nan, but must be"),
    ("[jobs]\nretention_seconds = inf\n", "jobs.retention_seconds is inf, but must be"),
    ("[jobs]\nstart_timeout_seconds = -1\n", "jobs.start_timeout_seconds is -1"),
    ("[transcription]\nengine = 'magic'\n", "must be one of auto, ctranslate2, whispercpp"),
    ("[log]\nlevel = 'loud'\n", "must be one of debug, info, warning, error"),
    ("[jobs]\nmax_recording_jobs = -1\n", "jobs.max_recording_jobs is -1, but must be 0 to"),
    ("[recording]\nprofile = 'huge'\n", "must be one of low, medium, high"),
    ("[recording]\nprofile = ''\n", "must be one of low, medium, high"),
    ("[recording]\nmax_duration_seconds = 0.9\n", "recording.max_duration_seconds is 0.9"),
    ("[recording]\nmax_duration_seconds = 604801\n", "but must be 1 to 604800"),
    ("[recording]\nstop_grace_seconds = 0.9\n", "recording.stop_grace_seconds is 0.9"),
    ("[recording]\nstop_grace_seconds = 3601\n", "but must be 1 to 3600"),
    ("[recording]\nprofil = 'low'\n", "did you mean recording.profile?"),
    ("[media]\nroots = ['calls']\n", "media.roots: calls is not an absolute path"),
    ("[server]\ntls_key = '/k.pem'\n", "server.tls_key belong together: set both"),
    ("[server]\ntls_certificate = '/c.pem'\n", "server.tls_key belong together: set both"),
    ("[server]\ntls_client_ca = '/ca.pem'\n", "server.tls_client_ca needs server.tls_certificate"),
    ("[metrics]\nlisten = 'everywhere'\n", 'metrics.listen: everywhere must be "HOST:PORT"'),
    ("[metrics]\nlisten = '127.0.0.1:70000'\n", 'must be "HOST:PORT"'),
    ("[gateway]\nlisten = 'here'\n", 'gateway.listen: here must be "HOST:PORT"'),
    ("[gateway]\nlisten = '0.0.0.0:4545'\n", "gateway.allow_plaintext = true"),
    ("[gateway]\nbusy_status = 502\n", "must be one of 500, 503"),
    ("[gateway]\ndelivery_seconds = 59\n", "gateway.delivery_seconds is 59"),
    ("[jobs\n", "is not valid TOML"),
    (f"{sample()}\n[metrics]\nlisten = '127.0.0.1:9464'\n", "each section stands once"),
    ("[jobs]\nmax_attempts = 3\nmax_attempts = 3\n", "is not valid TOML"),
    ("a = " + "[" * 5000, "is not valid TOML"),
    ("a = " + "9" * 5000, "is not valid TOML"),
]


class TestRefusals:
    """A configuration that is wrong is refused with the key and what to do."""

    @pytest.mark.parametrize(
        ("text", "problem"), REFUSALS, ids=[str(number) for number in range(len(REFUSALS))]
    )
    def test_file(self, load_text: Load, path: Path, text: str, problem: str) -> None:
        """The message names the file, the key, and the nearest that we know."""
        with pytest.raises(ConfigError) as refused:
            load_text(text)

        assert problem in str(refused.value)
        assert str(path) in str(refused.value)

    def test_no_file(self, path: Path) -> None:
        """A file that is named must be there."""
        with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
            load(path, {})

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is no file."""
        with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
            load(tmp_path, {})

    def test_not_text(self, path: Path) -> None:
        """Bytes that are no UTF-8 are no TOML."""
        path.write_bytes(b"[jobs]\n# \xff\xfe\n")

        with pytest.raises(ConfigError, match="is not valid TOML"):
            load(path, {})

    @pytest.mark.parametrize("text", ["", "many", "3.5", "1" * 5000, "0x3", "\udcff"])
    def test_variable(self, load_text: Load, text: str) -> None:
        """A variable that holds no number is refused by the key's name."""
        with pytest.raises(ConfigError, match=r"jobs\.max_attempts"):
            load_text(CALLSD_JOBS_MAX_ATTEMPTS=text)


class TestEndpoints:
    """Where clients may connect."""

    @pytest.mark.parametrize(
        "endpoint",
        [
            "unix:/run/callsd/callsd.sock",
            "unix:/" + "s" * 106,
            "tcp:127.0.0.1:9000",
            "tcp:127.8.9.1:9000",
            "tcp:localhost:0",
            "tcp:[::1]:65535",
            "tcp:[0:0:0:0:0:0:0:1]:9000",
        ],
    )
    def test_without_tls(self, load_text: Load, endpoint: str) -> None:
        """Unix sockets and loopback need no certificate."""
        assert load_text(CALLSD_SERVER_LISTEN=endpoint).server.listen == (endpoint,)

    @pytest.mark.parametrize(
        "endpoint",
        [
            "tcp:0.0.0.0:9000",
            "tcp:[::]:9000",
            "tcp:192.0.2.7:9000",
            "tcp:[2001:DB8::7]:9000",
            "tcp:calls.example.org:9000",
            # Begins like loopback, and belongs to somebody.
            "tcp:127.0.0.1.example.org:9000",
            "tcp:localhost.example.org:9000",
        ],
    )
    def test_with_tls(self, load_text: Load, endpoint: str) -> None:
        """What others can reach needs TLS, and with TLS it is allowed."""
        with pytest.raises(ConfigError, match="is reachable from other machines and needs TLS"):
            load_text(CALLSD_SERVER_LISTEN=endpoint)

        config = load_text(f"[server]\n{TLS}", CALLSD_SERVER_LISTEN=endpoint)

        assert config.server.listen == (endpoint,)

    @pytest.mark.parametrize(
        "endpoint",
        [
            "9000",
            "127.0.0.1:9000",
            "tcp:",
            "tcp:127.0.0.1",
            "tcp::9000",
            "tcp:127.0.0.1:",
            "tcp:127.0.0.1:65536",
            "tcp:127.0.0.1:٣",
            "tcp:::1:9000",
            "tcp:[::1:9000",
            "tcp:127.0.0.1:9000/path",
            "unix:relative.sock",
            "http://127.0.0.1:9000",
        ],
    )
    def test_no_endpoint(self, load_text: Load, endpoint: str) -> None:
        """What is neither is refused with both forms."""
        with pytest.raises(ConfigError, match='must be "unix:/path" or "tcp:HOST:PORT"'):
            load_text(CALLSD_SERVER_LISTEN=endpoint)

    @pytest.mark.parametrize("socket", ["/" + "s" * 107, "/" + "ß" * 54])
    def test_path_too_long(self, load_text: Load, socket: str) -> None:
        """A socket's path has the kernel's limit, in bytes."""
        with pytest.raises(ConfigError, match="is longer than 107 bytes"):
            load_text(CALLSD_SERVER_LISTEN=f"unix:{socket}")


class TestDirectories:
    """Where things lie when nothing is said."""

    def test_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Root's daemon uses the system's directories."""
        monkeypatch.setattr(os, "geteuid", lambda: 0)

        config = load(None, ENVIRONMENT)

        assert config.state.directory == "/var/lib/callsd"
        assert config.state.runtime_directory == "/run/callsd"
        assert config.server.listen == ("unix:/run/callsd/callsd.sock",)
        assert config.models.directory == "/var/lib/callsd/models"

    def test_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Anybody else's uses the user's own."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setenv("HOME", "/home/ivo")

        own, bare = load(None, ENVIRONMENT), load(None, {"XDG_RUNTIME_DIR": ""})

        assert own.state.directory == "/home/maya/state/callsd"
        assert own.state.runtime_directory == "/run/user/7/callsd"
        assert bare.state.directory == "/home/ivo/.local/state/callsd"
        assert bare.state.runtime_directory.startswith("/tmp/callsd-")

    def test_systemd(self) -> None:
        """The directories that systemd has made come first; of several, the first one."""
        environ = {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two", "RUNTIME_DIRECTORY": "/run/one"}

        config = load(None, {**ENVIRONMENT, **environ})

        assert config.state.directory == "/var/lib/one"
        assert config.state.runtime_directory == "/run/one"
        assert default_runtime_directory(environ) == Path("/run/one")

    def test_said_otherwise(self, load_text: Load) -> None:
        """What is set is used, and what follows from it follows."""
        config = load_text("[state]\ndirectory = '/d'\nruntime_directory = '/r'\n")

        assert config.server.listen == ("unix:/r/callsd.sock",)
        assert config.models.directory == "/d/models"


class TestSecrets:
    """Files that hold secrets."""

    def test_path(self) -> None:
        """A path is itself."""
        assert secret_file("/etc/callsd/key.pem", {}) == Path("/etc/callsd/key.pem")

    def test_credential(self) -> None:
        """A credential lies where systemd has put it."""
        environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/callsd.service"}

        assert secret_file("credential:key", environ) == Path("/run/credentials/callsd.service/key")

    def test_no_credentials(self) -> None:
        """Outside of systemd there are none, and the unit's setting is named."""
        with pytest.raises(ConfigError, match="LoadCredential="):
            secret_file("credential:key", {})


class TestWriting:
    """The sample, and the settings in force."""

    def test_sample_is_the_default(self, load_text: Load) -> None:
        """The sample changes nothing, whether its lines are comments or not."""
        lines = sample().splitlines()
        keys = {key.rpartition(".")[2] for key in SETTINGS}
        uncommented = [
            line.removeprefix("# ")
            if line.startswith("# ") and line[2:].partition(" = ")[0] in keys
            else line
            for line in lines
        ]

        assert load_text(sample()) == load_text()
        assert load_text("\n".join(uncommented)) == load_text()
        assert leaves(tomllib.loads("\n".join(uncommented))).keys() == SETTINGS.keys()

    def test_every_setting_is_explained(self) -> None:
        """Each field of the schema has its words, and no words are about nothing."""
        assert list(leaves(Config())) == list(SETTINGS)
        assert all(words.strip().endswith((".", '"')) for words in SETTINGS.values())

    def test_show_reads_back(self, load_text: Load) -> None:
        """The settings in force, written down, are the same settings."""
        config = load_text(
            f"[server]\n{TLS}listen = ['tcp:0.0.0.0:7', 'unix:/s']\n[media]\nroots = ['/a \"b\"']\n"
        )

        assert load_text(show(config)) == config


VALUES = st.recursive(
    st.none().map(lambda _: "text")
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(sorted(SETTINGS)).map(lambda key: key.split("."))


@given(settings=st.lists(st.tuples(KEYS, VALUES), max_size=4))
def test_any_values(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> None:
    """Whatever a file says, it is either a configuration or an error of the one kind."""
    document: dict[str, Any] = {}
    for (section, name), value in settings:
        document.setdefault(section, {})[name] = value
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(tomlkit.dumps(document), encoding="utf-8")

    try:
        config = load(path, ENVIRONMENT)
    except ConfigError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - it may be raised, it need not
    else:
        assert isinstance(config, Config)


@given(st.text(max_size=60) | st.binary(max_size=60))
@example("[jobs]\nmax_attempts = 1e400")
@example("[jobs]\n\x00 = 1")
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    """No file makes more than a ConfigError, whatever bytes it has."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))

    try:
        config = load(path, ENVIRONMENT)
    except ConfigError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - it may be raised, it need not
    else:
        assert isinstance(config, Config)
