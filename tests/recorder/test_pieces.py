# SPDX-License-Identifier: Apache-2.0

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from callsd_ipc.names import PIECES
from callsd_worker.recorder import pieces
from callsd_worker.recorder.pieces import find_pieces, keep, next_piece


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock."""
    monkeypatch.setattr(pieces, "time", SimpleNamespace(time=lambda: seconds))


class TestNames:
    """What a piece is called."""

    def test_a_name_says_number_and_beginning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A piece has its number and the millisecond in which it began in its name."""
        at(monkeypatch, 1_764_120_000.1236)
        piece = next_piece(tmp_path)
        assert piece.path == tmp_path / PIECES / "0001-1764120000124.mkv"
        assert piece.number == 1
        assert piece.start_seconds == 1_764_120_000.1236
        assert not piece.path.exists()

    def test_what_is_named_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever finds a piece reads from its name what its maker knew."""
        at(monkeypatch, 1_764_120_000.125)
        piece = next_piece(tmp_path)
        piece.path.touch()
        assert find_pieces(tmp_path) == [piece]

    def test_numbers_go_on_from_the_highest(self, tmp_path: Path) -> None:
        """A later worker does not take the name of a piece that is there, even after a gap."""
        for name in ("0001-1764120000000.mkv", "0007-1764120010000.mkv"):
            (tmp_path / PIECES).mkdir(exist_ok=True)
            (tmp_path / PIECES / name).touch()
        assert next_piece(tmp_path).number == 8

    def test_a_clock_that_was_set_back_does_not_change_the_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pieces are in the order in which they were recorded, whatever the clock says."""
        for seconds in (1_764_120_100.0, 1_764_120_000.0, 1_764_120_050.0):
            at(monkeypatch, seconds)
            next_piece(tmp_path).path.touch()
        assert [piece.number for piece in find_pieces(tmp_path)] == [1, 2, 3]
        assert [piece.start_seconds for piece in find_pieces(tmp_path)] == [
            1_764_120_100.0,
            1_764_120_000.0,
            1_764_120_050.0,
        ]


class TestFinding:
    """What is found."""

    def test_nothing_of_a_job_that_recorded_nothing(self, tmp_path: Path) -> None:
        """A job without a directory of pieces has none, and asking for them makes none."""
        assert find_pieces(tmp_path) == []
        assert list(tmp_path.iterdir()) == []

    def test_foreign_files_are_ignored(self, tmp_path: Path) -> None:
        """What does not have a piece's name is no piece."""
        folder = tmp_path / PIECES
        folder.mkdir()
        for name in (
            "0001-1764120000000.mkv.part",
            "0001-1764120000000.mp4",
            "001-1764120000000.mkv",
            "0001-176412000000.mkv",
            "0002-1764120000000.mkv~",
            ".0002-1764120000000.mkv",
            "core",
            "0003-1764120000000.mkv",
        ):
            (folder / name).touch()
        assert [piece.path.name for piece in find_pieces(tmp_path)] == ["0003-1764120000000.mkv"]


class TestKeep:
    """What is put on the disk."""

    def test_a_file_that_is_being_written_is_synced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The very file is given to fdatasync, and no descriptor stays open."""
        path = tmp_path / "piece.mkv"
        path.write_bytes(b"what there is so far")
        synced = []
        monkeypatch.setattr(
            os,
            "fdatasync",
            lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()),
        )
        before = psutil.Process().num_fds()
        keep(path)
        assert synced == [path]
        assert psutil.Process().num_fds() == before

    def test_what_cannot_be_synced_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error of the disk is not swallowed, and no descriptor stays open."""

        def fail(number: int) -> None:
            raise OSError(5, "Input/output error")

        path = tmp_path / "piece.mkv"
        path.touch()
        monkeypatch.setattr(os, "fdatasync", fail)
        before = psutil.Process().num_fds()
        with pytest.raises(OSError, match="Input/output error"):
            keep(path)
        assert psutil.Process().num_fds() == before
