# SPDX-License-Identifier: Apache-2.0
"""Commands that work on files: config, tokens, models, doctor."""

import errno
import os
import pwd
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from callsd import AccessError, Client
from callsd_daemon.cli.doctor.checks import (
    all_findings,
    check_models,
    check_modules,
    check_state,
)
from callsd_daemon.cli.doctor.finding import Status
from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.config import Config
from callsd_daemon.config.settings import Models
from callsd_daemon.kinds.stored import codec
from callsd_daemon.models.store import ModelStore
from callsd_daemon.store.database import Database
from tests.cli.conftest import Command
from tests.helpers import models
from tests.helpers.daemon import Daemon


NOBODY = pwd.getpwnam("nobody").pw_uid

ONLY_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make what is somebody else's"
)


def _refuse(store: ModelStore) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "models")


def spoil(path: Path) -> None:
    """Overwrite the second half of a file."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))


class TestConfig:
    """`callsd config`."""

    def test_sample_is_valid(self, callsd: Command, tmp_path: Path) -> None:
        """What `sample` prints, `check` accepts."""
        (tmp_path / "c.toml").write_text(callsd("config", "sample").stdout)

        assert callsd.json("config", "check", tmp_path / "c.toml") == {"valid": True}

    def test_check_names_the_nearest_key(self, callsd: Command, tmp_path: Path) -> None:
        """A wrong key is exit code 1 and names the key that was probably meant."""
        (tmp_path / "c.toml").write_text('[transcription]\nmodle = "base"\n')
        result = callsd("config", "check", tmp_path / "c.toml", exit_code=Exit.FAILED)

        assert "modle" in result.stderr
        assert "model" in result.stderr

    def test_show(self, callsd: Command, tmp_path: Path) -> None:
        """The file's settings are among those in force, in both forms."""
        (tmp_path / "c.toml").write_text('[transcription]\nmodel = "tiny"\n')
        shown = tomllib.loads(callsd("config", "show", "--config", tmp_path / "c.toml").stdout)

        assert shown["transcription"]["model"] == "tiny"
        assert callsd.json("config", "show", "--config", tmp_path / "c.toml") == shown

    def test_serve_with_a_wrong_file(self, callsd: Command, tmp_path: Path) -> None:
        """A daemon with a wrong configuration does not start, with the code that systemd knows."""
        (tmp_path / "c.toml").write_text("nonsense")

        callsd("serve", "--config", tmp_path / "c.toml", exit_code=Exit.CONFIG)


class TestTokens:
    """`callsd tokens`."""

    def test_create_use_revoke(self, callsd: Command, running: Daemon, tmp_path: Path) -> None:
        """A token works at once, shows its scopes, and is worthless at once when revoked."""
        state = ("--state-directory", running.state)
        secret = callsd.json("tokens", "create", "bot", "--scope", "jobs.read", *state)["token"]
        (tmp_path / "token").write_text(secret)
        with Client(running.address, token_file=tmp_path / "token") as client:
            assert client.get_capacity().cores.total == 4.0
            listed = {one["name"]: one for one in callsd.json("tokens", "list", *state)}
            callsd("tokens", "revoke", "bot", *state)
            with pytest.raises(AccessError):
                client.get_capacity()

        assert listed["bot"]["scopes"] == ["jobs.read"]
        assert listed["bot"]["expire_time"] is None

    def test_errors(self, callsd: Command, tmp_path: Path) -> None:
        """A taken or bad name is wrong usage; an unknown one is not found."""
        state = ("--state-directory", tmp_path)
        callsd("tokens", "create", "bot", "--expires", "30d", *state)
        callsd("tokens", "create", "bot", *state, exit_code=Exit.USAGE)
        callsd("tokens", "create", "no name", *state, exit_code=Exit.USAGE)
        callsd("tokens", "create", "b", "--expires", "soon", *state, exit_code=Exit.USAGE)
        callsd("tokens", "revoke", "nobody", *state, exit_code=Exit.NOT_FOUND)
        callsd("tokens", "list", "--state-directory", tmp_path / "none", exit_code=Exit.FAILED)

        assert callsd.json("tokens", "list", *state)[0]["expire_time"] is not None

    @pytest.mark.parametrize("command", [("create", "bot"), ("revoke", "bot"), ("list",)])
    def test_a_file_that_cannot_be_used(
        self, callsd: Command, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        """A damaged or planted file is told plainly, whatever was wanted of it, and stays."""
        state, file = ("--state-directory", tmp_path), tmp_path / "tokens.json"
        file.write_text("{")
        said = callsd("tokens", *command, *state, exit_code=Exit.FAILED).stderr
        assert "tokens.json is damaged" in said
        file.unlink()
        file.symlink_to("/etc/hostname")
        said = callsd("tokens", *command, *state, exit_code=Exit.FAILED).stderr
        assert "tokens.json is a link" in said

        assert file.is_symlink()


class TestModels:
    """`callsd models`, with a daemon and without."""

    def test_same_list_either_way(self, callsd_up: Command, running: Daemon) -> None:
        """The daemon and its directory tell the same of the same models."""
        here = callsd_up.json("models", "list", "--models-dir", running.models)

        assert callsd_up.json("models", "list") == here
        assert {one["name"]: one["state"] for one in here}[models.NAME] == "MODEL_STATE_PRESENT"

    def test_unknown_model(self, callsd_up: Command, running: Daemon) -> None:
        """The same exit code either way."""
        callsd_up("models", "pull", "nothing", exit_code=Exit.NOT_FOUND)
        callsd_up("models", "verify", "nothing", exit_code=Exit.NOT_FOUND)
        callsd_up(
            *("models", "pull", "nothing", "--models-dir", running.models), exit_code=Exit.NOT_FOUND
        )

    def test_path_needs_a_directory(self, callsd_up: Command) -> None:
        """The daemon does not read paths of a client's machine."""
        callsd_up("models", "pull", "x", "--from", "/x", exit_code=Exit.USAGE)

    def test_damaged_model_is_found(self, callsd: Command, tmp_path: Path) -> None:
        """A file that has changed is told by `verify`, with exit code 1."""
        models.install(tmp_path).write_bytes(b"other")
        verified = callsd(
            *("models", "verify", models.NAME, "--models-dir", tmp_path), exit_code=Exit.FAILED
        )

        assert "invalid" in verified.stdout

    def test_convert(self, callsd: Command, models_directory: Path, tmp_path: Path) -> None:
        """A CTranslate2 model becomes the GGML files that a pull makes of it."""
        made = callsd.json(
            *("models", "convert", models_directory / "tiny.en" / "ctranslate2", tmp_path)
        )
        known = models_directory / "tiny.en" / "ggml"

        assert {Path(one["path"]).name: one["size_bytes"] for one in made} == {
            path.name: path.stat().st_size for path in known.iterdir()
        }
        assert not list(tmp_path.glob(".convert-*"))

    def test_convert_nothing(self, callsd: Command, tmp_path: Path) -> None:
        """A directory without a model is refused."""
        callsd("models", "convert", tmp_path, tmp_path / "out", exit_code=Exit.FAILED)


class TestDoctor:
    """`callsd doctor`."""

    def test_all_is_well(self, callsd_up: Command, running: Daemon) -> None:
        """With a daemon that runs, its model and all parts, nothing keeps callsd from working."""
        found = callsd_up.json("doctor", "--config", running.config_file)

        assert found["healthy"], found
        assert {"python", "av", "clock", "state directory", "models", "daemon"} <= {
            check["name"] for check in found["checks"]
        }

    def test_what_is_missing_has_a_fix(self, callsd: Command, tmp_path: Path) -> None:
        """Without model and daemon: exit code 1, and what to do about each."""
        (tmp_path / "c.toml").write_text(f'[state]\ndirectory = "{tmp_path}/state"\n')
        found = callsd.json("doctor", "--config", tmp_path / "c.toml", exit_code=Exit.FAILED)
        problems = {
            check["name"]: check["fix"] for check in found["checks"] if check["status"] == "problem"
        }

        assert problems.keys() == {"models", "daemon"}
        assert problems["models"].startswith("callsd models pull base")
        assert "callsd serve" in problems["daemon"]

    def test_wrong_configuration_is_a_finding(self, tmp_path: Path) -> None:
        """A wrong configuration is told like everything else."""
        (tmp_path / "c.toml").write_text("nonsense")
        last = list(all_findings(Cli(), tmp_path / "c.toml"))[-1]

        assert (last.name, last.status) == ("configuration", Status.PROBLEM)

    def test_module_that_dies(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A module whose import kills its process is told, and the doctor lives."""
        (tmp_path / "deadly.py").write_text("import os\nos.abort()\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(
            "callsd_daemon.cli.doctor.checks.WORKER_MODULES",
            (("deadly", "dying", "daemon", True), ("nowhere", "absence", "bench", False)),
        )
        deadly, nowhere = check_modules()

        assert (deadly.status, deadly.found) == (
            Status.PROBLEM,
            "dying: its import died by signal 6",
        )
        assert nowhere.status is Status.ADVICE
        assert nowhere.fix == f"{Path(sys.executable).with_name('pip')} install 'callsd[bench]'"

    def test_damaged_tokens(self, tmp_path: Path) -> None:
        """A file of tokens that cannot be used lets nobody in, the owner neither."""
        (tmp_path / "tokens.json").write_text('{"owner": ')
        finding = list(check_state(tmp_path))[-1]

        assert (finding.name, finding.status) == ("tokens", Status.PROBLEM)
        assert "is damaged" in finding.found

    @ONLY_ROOT
    def test_files_of_somebody_else(self, tmp_path: Path) -> None:
        """What is not the owner's of the state directory is named, with the command for it."""
        for name in ("jobs", "uploads"):
            (tmp_path / name).mkdir()
        os.chown(tmp_path, NOBODY, -1)
        os.chown(tmp_path / "jobs", NOBODY, -1)
        finding = list(check_state(tmp_path))[-1]

        assert (finding.name, finding.status) == ("owner", Status.PROBLEM)
        assert finding.fix == f"chown -R nobody {tmp_path / 'uploads'}"

    @ONLY_ROOT
    def test_state_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who may not look is told who may, about state and models."""
        os.chown(tmp_path, NOBODY, -1)
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr(ModelStore, "list", _refuse)
        config = Config(models=Models(directory=f"{tmp_path}/models"))
        findings = [*check_state(tmp_path), *check_models(config)]

        assert [finding.name for finding in findings] == ["state directory", "models"]
        for finding in findings:
            assert finding.status is Status.PROBLEM
            assert finding.fix == "look as its owner: runuser -u nobody -- callsd doctor"

    def test_full_disk(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Too little room for a recording is a problem."""
        monkeypatch.setattr("callsd_daemon.cli.doctor.checks.MIN_FREE_BYTES", 1 << 60)
        (finding,) = check_state(tmp_path)

        assert finding.status is Status.PROBLEM

    def test_damaged_database(self, tmp_path: Path) -> None:
        """A database that is in use is read as a whole, and what to do with a damaged one told."""
        path = tmp_path / "callsd.db"
        with closing(Database(path, codec())):
            whole = list(check_state(tmp_path))[-1]
            spoil(path)
            damaged = list(check_state(tmp_path))[-1]

        assert (whole.name, whole.status, whole.found) == ("database", Status.OK, "whole")
        assert damaged.status is Status.PROBLEM
        assert damaged.found.startswith("damaged: ")
        assert "\n" not in damaged.found
        assert "copy jobs/ and workers/ away, callsd restore" in damaged.fix

    def test_database_that_nobody_uses(self, tmp_path: Path) -> None:
        """Damage is told before the daemon is started, and no file made that it could not use."""
        path = tmp_path / "callsd.db"
        Database(path, codec()).close()
        whole = list(check_state(tmp_path))[-1]
        spoil(path)
        damaged = list(check_state(tmp_path))[-1]

        assert (whole.name, whole.status, whole.found) == ("database", Status.OK, "whole")
        assert (damaged.name, damaged.status) == ("database", Status.PROBLEM)
        assert damaged.found.startswith("damaged: ")
        assert list(tmp_path.iterdir()) == [path]

    def test_newer_database(self, tmp_path: Path) -> None:
        """A database of a newer release wants that release, not another disk."""
        path = tmp_path / "callsd.db"
        Database(path, codec()).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        finding = list(check_state(tmp_path))[-1]

        assert finding.status is Status.PROBLEM
        assert "has schema 99" in finding.found
        assert "newer release" in finding.fix

    def test_doctor_imports_no_engine(self) -> None:
        """The doctor asks other processes: it holds no engine itself."""
        code = (
            "import sys\n"
            "import callsd_daemon.cli.doctor.command, callsd_daemon.cli.models\n"
            "import callsd_daemon.cli.jobs.command\n"
            "print([m for m in sys.modules if m.partition('.')[0] in"
            " ('callsd_worker', 'numpy', 'ctranslate2', 'av', 'pywhispercpp')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )

        assert done.stdout.strip() == "[]"
