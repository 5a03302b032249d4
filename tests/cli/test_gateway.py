# SPDX-License-Identifier: Apache-2.0
"""`callsd gateway import`: what becomes of the settings of a container-based service."""

from pathlib import Path

import pytest

from callsd_daemon.cli.gateway.container_settings import DEFAULTS, VARIABLES, variable
from callsd_daemon.cli.gateway.translation import NOT_NEEDED
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.config import Config, load
from tests.cli.conftest import Command


SECRET = "the-administrators-own-key-which-is-long"

EVERYTHING = f"""
[api]
http.listen_address = "10.0.0.1:4545"
http.tls.enable = true
http.tls.cert_file = "/etc/site.pem"
http.tls.cert_key = "/etc/site.key"
security.allow_self_registration = true
security.enable_admin = true
security.admin_secret_key = "{SECRET}"
security.session_cache.expiration_minutes = 60

[store]
data_source = "/tmp/calls-offloader-db"

[jobs]
api_type = "kubernetes"
max_concurrent_jobs = 100
failed_jobs_retention_time = "12h"
image_registry = "registry.example"
docker.output_logs = true
kubernetes.persistent_volume_claim_name = "claim"
kubernetes.node_sysctls = "kernel.unprivileged_userns_clone=1"

[jobs.kubernetes.jobs_resource_requirements]
transcribing.limits.cpu = "4000m"

[logger]
enable_console = true
console_json = true
console_level = "WARN"
enable_file = true
file_json = true
file_level = "DEBUG"
file_location = "calls-offloader.log"
enable_color = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test puts a container-based service's settings."""
    return tmp_path / "config.toml"


def imported(callsd: Command, file: Path, text: str) -> tuple[Config, str]:
    """What the printed part means for a daemon, and the part itself."""
    file.write_text(text)
    printed = callsd("gateway", "import", file).stdout
    ours = file.with_name("callsd.toml")
    ours.write_text(printed)
    return load(ours, {}), printed


class TestImport:
    """Settings that have an equivalent."""

    def test_everything(self, callsd: Command, file: Path) -> None:
        """The printed part is valid, and means what the old settings meant."""
        config, _ = imported(callsd, file, EVERYTHING)

        assert config.gateway.listen == "10.0.0.1:4545"
        assert not config.gateway.allow_plaintext
        assert config.gateway.self_registration
        assert config.gateway.admin_key == "/etc/callsd/gateway-admin.key"
        assert config.server.tls_certificate == "/etc/site.pem"
        assert config.server.tls_key == "/etc/site.key"
        assert config.jobs.retention_seconds == 12 * 3600
        assert (config.log.level, config.log.format) == ("warning", "json")

    def test_every_key_is_spoken_of(self, callsd: Command, file: Path) -> None:
        """Each key of the file is named: with its setting, or with why it has none."""
        _, printed = imported(callsd, file, EVERYTHING)

        assert [key for key in DEFAULTS if key not in printed] == []
        assert set(NOT_NEEDED) <= DEFAULTS.keys() | set(VARIABLES)

    def test_no_secret(self, callsd: Command, file: Path) -> None:
        """The administrator's key is not printed: it is told where to put it."""
        _, printed = imported(callsd, file, EVERYTHING)

        assert SECRET not in printed
        assert "not printed: put it into this file, owner callsd, mode 0600" in printed

    def test_admin_is_off(self, callsd: Command, file: Path) -> None:
        """A key that counted for nothing counts for nothing."""
        config, printed = imported(callsd, file, f'[api]\nsecurity.admin_secret_key = "{SECRET}"')

        assert config.gateway.admin_key == ""
        assert SECRET not in printed

    def test_number_of_jobs(self, callsd: Command, file: Path) -> None:
        """The ceiling is shown, but not set: admission knows what fits."""
        config, printed = imported(callsd, file, "[jobs]\nmax_concurrent_jobs = 2\n")

        assert config.jobs.max_concurrent_jobs == 0
        assert "admission knows what fits" in printed
        assert "\n# max_concurrent_jobs = 2\n" in printed

    @pytest.mark.parametrize("time", ["0", "", "0d", "99999d", "a while"])
    def test_kept_for_ever(self, callsd: Command, file: Path, time: str) -> None:
        """What was kept for ever, or for no time that is understood, gets our own default."""
        config, printed = imported(callsd, file, f'[jobs]\nfailed_jobs_retention_time = "{time}"')

        assert config.jobs.retention_seconds == Config().jobs.retention_seconds
        assert "# retention_seconds = 0.0" in printed

    @pytest.mark.parametrize(
        ("address", "listen", "is_plain"),
        [
            (":4545", "0.0.0.0:4545", True),
            ("0.0.0.0:80", "0.0.0.0:80", True),
            ("localhost:4545", "localhost:4545", False),
            ("[::1]:4545", "[::1]:4545", False),
        ],
    )
    def test_without_tls(
        self, callsd: Command, file: Path, *, address: str, listen: str, is_plain: bool
    ) -> None:
        """Without TLS other machines are let in only where they were, and that is said."""
        config, printed = imported(callsd, file, f'[api]\nhttp.listen_address = "{address}"')

        assert config.gateway.listen == listen
        assert config.gateway.allow_plaintext is is_plain
        assert ("readable on the way" in printed) is is_plain

    def test_empty_file(self, callsd: Command, file: Path) -> None:
        """What is not set is as it was by default."""
        config, _ = imported(callsd, file, "")

        assert config.gateway.listen == "0.0.0.0:4545"
        assert not config.gateway.self_registration


class TestEnvironment:
    """Variables that override the file."""

    def test_names(self) -> None:
        """They are named as the container-based service names them."""
        assert variable("api.http.listen_address") == "API_HTTP_LISTENADDRESS"
        assert (
            variable("api.security.session_cache.expiration_minutes")
            == "API_SECURITY_SESSIONCACHE_EXPIRATIONMINUTES"
        )
        assert variable("jobs.max_concurrent_jobs") == "JOBS_MAXCONCURRENTJOBS"

    def test_override(self, callsd: Command, file: Path) -> None:
        """A variable counts more than the file; a secret one is not printed."""
        callsd.env |= {
            "API_HTTP_LISTENADDRESS": "127.0.0.1:99",
            "API_SECURITY_ENABLEADMIN": "true",
            "API_SECURITY_ADMINSECRETKEY": SECRET,
        }
        config, printed = imported(callsd, file, '[api]\nhttp.listen_address = ":4545"')

        assert config.gateway.listen == "127.0.0.1:99"
        assert config.gateway.admin_key
        assert SECRET not in printed

    def test_without_file(self, callsd: Command) -> None:
        """Who has set all by variables names no file."""
        callsd.env |= {"API_HTTP_LISTENADDRESS": "127.0.0.1:99", "K8S_NAMESPACE": "calls"}
        printed = callsd("gateway", "import").stdout

        assert 'listen = "127.0.0.1:99"' in printed
        assert "#   K8S_NAMESPACE: there are no pods" in printed


class TestBadFiles:
    """Files that are not what they should be."""

    def test_no_toml(self, callsd: Command, file: Path) -> None:
        """What is wrong is told by its place: what stands there may be the secret."""
        file.write_text(f'[api]\nsecurity.admin_secret_key = "{SECRET}')
        done = callsd("gateway", "import", file, exit_code=Exit.CONFIG)

        assert "is not valid TOML (at" in done.output
        assert SECRET not in done.output

    def test_not_there(self, callsd: Command, file: Path) -> None:
        """A file that is not there is named."""
        done = callsd("gateway", "import", file, exit_code=Exit.CONFIG)

        assert f"{file} cannot be read: No such file" in done.output

    def test_unknown_keys(self, callsd: Command, file: Path) -> None:
        """Keys that such a service does not have are named, without what they are set to."""
        _, printed = imported(callsd, file, f'["a\\nb"]\nlisten = 1\n[x]\nsecret = "{SECRET}"')

        assert "x.secret: not a key of that service" in printed
        assert SECRET not in printed
