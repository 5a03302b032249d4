# SPDX-License-Identifier: Apache-2.0
"""How long the end of a recording takes is measured by the real thing, in small."""

from pathlib import Path

import pytest

from callsd_bench.recording import end as module


def test_it_is_joined_and_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is measured is whole, in the job's directory, and nowhere else."""
    monkeypatch.setattr(module, "PIECE_SECONDS", 1)
    report = module.bench_recording_end(tmp_path, 0.001)

    (taken,) = (tmp_path / "job" / "artifacts").iterdir()
    assert taken.stat().st_size == report.size_bytes
    assert list((tmp_path / "workers" / "recorder" / "artifacts").iterdir()) == []
    assert report.recorded_seconds >= 2
    assert report.ratio == pytest.approx(1 + report.take_over_seconds / report.join_seconds)
