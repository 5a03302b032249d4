# SPDX-License-Identifier: Apache-2.0
"""Files of models, as they are opened for workers."""

import errno
import os
import stat
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.kinds.models import _open


class TestMode:
    """Workers may be of another user than the daemon, and open models by name."""

    def test_what_all_can_read_is_left_alone(self, tmp_path: Path) -> None:
        """A job changes nothing about its model: the next one need not wait for a new hash."""
        path = tmp_path / "model.bin"
        path.write_bytes(b"weights")
        path.chmod(0o644)
        before = path.stat()
        # The clock of files goes by milliseconds: what is changed now shall be seen to be.
        clock = tmp_path / "clock"
        clock.touch()
        while clock.stat().st_ctime_ns == before.st_ctime_ns:
            clock.touch()

        os.close(_open(path))

        assert path.stat().st_ctime_ns == before.st_ctime_ns

    def test_what_only_we_can_read_is_opened_to_all(self, tmp_path: Path) -> None:
        """A model that was brought with a narrow umask can be used."""
        path = tmp_path / "model.bin"
        path.write_bytes(b"weights")
        path.chmod(0o600)

        os.close(_open(path))

        assert stat.S_IMODE(path.stat().st_mode) == 0o644


class TestFailing:
    """What an error says about a model."""

    @pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
    def test_passing(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        """A disk that fails for now, and scarce descriptors, say nothing: it is asked again."""

        def fail(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "open", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            _open(Path("model.bin"))

    def test_gone(self, tmp_path: Path) -> None:
        """A file that is not there makes it invalid."""
        with pytest.raises(CallsdError) as told:
            _open(tmp_path / "model.bin")
        assert told.value.reason is Reason.MODEL_INVALID
