# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from click.testing import CliRunner

from callsd import AsyncClient, Bookmark, JobChanged
from callsd_bench.cli import bench
from callsd_bench.daemon import bench as module
from callsd_bench.daemon import inside
from callsd_bench.daemon.inside import fill_store
from callsd_bench.daemon.strangers import is_refused
from callsd_bench.daemon.watchers import Tally, Watchers
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.subject import Subject
from tests.weights import MODELS_DIRECTORY


KEYS = {
    "idle": {"rss_mb", "pss_mb"},
    "start": {"empty_seconds", "history_jobs", "history_seconds"},
    "submit_to_running": {"jobs", "p50_seconds", "p99_seconds"},
    "create_job_paced": {"calls", "p50_ms", "p99_ms"},
    "create_job_back_to_back": {"calls", "p50_ms", "p99_ms"},
    "watch": {
        "watchers",
        "changes",
        "changes_per_second",
        "events_per_second",
        "lost",
        "repeated",
        "delay_p50_seconds",
        "delay_p99_seconds",
        "daemon_cores",
        "client_cores",
        "daemon_rss_mb",
    },
}

ANSWERS = {
    *("health_p50_ms", "health_p99_ms", "create_p50_ms", "create_p99_ms"),
    *("rss_mb", "daemon_cores"),
}
YEAR = {
    *("store_mb", "start_seconds", "rss_mb"),
    *("list_page_ms", "list_label_ms", "list_all_seconds"),
}


class TestStrangers:
    """Clients that go on whatever they are told."""

    @pytest.mark.parametrize(
        ("codes", "expected"),
        [
            (["RESOURCE_EXHAUSTED"], True),
            (["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"], True),
            (["RESOURCE_EXHAUSTED", "CANCELLED"], False),
            (["INTERNAL"], False),
            (["INTERNAL: Internal error from Core"], True),
        ],
    )
    def test_only_refusals_are_taken(self, codes: list[str], *, expected: bool) -> None:
        """Who is told that it asks for too much goes on; whatever else happens is a finding."""
        nothing = grpc.aio.Metadata()
        errors = [
            grpc.aio.AioRpcError(grpc.StatusCode[code], nothing, nothing, details)
            for code, _, details in (code.partition(": ") for code in codes)
        ]

        assert is_refused(ExceptionGroup("at once", [ExceptionGroup("one", errors)])) is expected


class TestCommand:
    """`callsd bench daemon`, with real workers on the sample call."""

    @pytest.fixture
    def scratch(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Where the command makes its temporary directory; short, for the sockets' sake."""
        with tempfile.TemporaryDirectory(prefix="cb-") as directory:
            monkeypatch.setattr(tempfile, "tempdir", directory)
            yield Path(directory)

    def test_json(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A short run has every figure, loses nothing, and leaves nothing behind."""
        monkeypatch.setattr(module, "STARTS", 1)
        monkeypatch.setattr(module, "HISTORY_JOBS", 500)
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0.2)
        result = CliRunner().invoke(
            bench,
            [
                *("daemon", "--models-dir", str(MODELS_DIRECTORY), "--jobs", "1", "--calls", "5"),
                *("--watchers", "30", "--seconds", "2", "--json"),
            ],
        )

        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        decisions = report.pop("decisions_per_second")
        assert {name: set(part) for name, part in report.items()} == KEYS
        watch = report["watch"]
        assert (watch["watchers"], watch["changes"]) == (30, 100)
        assert (watch["lost"], watch["repeated"]) == (0, 0)
        assert 0 < report["idle"]["pss_mb"] <= report["idle"]["rss_mb"]
        assert report["submit_to_running"]["p50_seconds"] > 0
        assert decisions > 1000
        assert "30 watchers" in result.stderr
        assert list(scratch.iterdir()) == []
        assert not _processes_in(scratch)

    def test_hostile(self, scratch: Path) -> None:
        """Beside strangers all is measured that is measured without, and watchers lose nothing."""
        report = self._run("--hostile", "--history-jobs", "300", "--watchers", "20")

        assert set(report["alone"]) == set(report["hostile"]) == ANSWERS
        for answers in (report["alone"], report["hostile"]):
            assert min(*answers.pop("rss_mb"), *answers.values()) > 0
        assert (report["history_jobs"], report["watchers"]) == (300, 20)
        assert min(report[what] for what in ("lists", "sound_messages", "uploads")) > 0
        assert report["events_lost"] == 0
        assert list(scratch.iterdir()) == []
        assert not _processes_in(scratch)

    def test_year(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the jobs that come those are kept whose time is not up."""
        monkeypatch.setattr(inside, "RETENTION", timedelta(minutes=120))
        report = self._run("--year", "--history-jobs", "500")

        assert (report.pop("jobs"), report.pop("kept_jobs")) == (500, 120)
        assert set(report) == YEAR
        assert min(report.values()) > 0
        assert list(scratch.iterdir()) == []

    def _run(self, *options: str) -> dict[str, Any]:
        arguments = ["daemon", "--models-dir", str(MODELS_DIRECTORY), "--seconds", "2", "--json"]
        result = CliRunner().invoke(bench, [*arguments, *options])
        assert result.exit_code == 0, result.output
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def test_no_model(self, tmp_path: Path) -> None:
        """A model that is nowhere to be had is named, and nothing is started."""
        arguments = ["daemon", "--models-dir", str(tmp_path), "--model", "enormous"]
        result = CliRunner().invoke(bench, arguments)

        assert result.exit_code == 1
        assert "no model 'enormous'" in result.output


class TestWatchers:
    """What the watchers count."""

    def test_all_there(self) -> None:
        """Every revision once and in order, in whatever batches, is no fault."""
        watchers = Watchers([0, 0])
        watchers.receive(0, [1, 2], 1.0)
        watchers.receive(0, [], 2.0)
        watchers.receive(0, [3], 3.0)
        watchers.receive(1, [1, 2, 3], 4.0)

        assert watchers.tally == Tally(lost=0, repeated=0)
        assert watchers.seen == [3, 3]
        assert sorted(watchers.arrivals) == [
            (1, 1.0),
            (1, 4.0),
            (2, 1.0),
            (2, 4.0),
            (3, 3.0),
            (3, 4.0),
        ]

    def test_gap_and_repetition(self) -> None:
        """A revision that was left out and one that came twice are both told."""
        watchers = Watchers([0])
        watchers.receive(0, [1, 4, 4, 3], 1.0)

        assert watchers.tally == Tally(lost=2, repeated=2)
        assert watchers.seen == [4]


class TestSubject:
    """The benchmark's own daemon."""

    def test_does_not_start(self, tmp_path: Path) -> None:
        """What the daemon says when it cannot start is the benchmark's error."""
        settings = {"jobs.max_attempts": "0"}
        with (
            pytest.raises(BenchError, match="max_attempts is 0"),
            Subject(tmp_path, models=tmp_path, settings=settings),
        ):
            pass

    def test_many_watchers_on_a_long_history(self) -> None:
        """Watchers that begin at once get all jobs, and not each a copy in the daemon's memory."""
        watchers, jobs = 20, 1000
        with tempfile.TemporaryDirectory(prefix="cb-") as directory:
            fill_store(Path(directory) / "state", jobs, ProgressLine("a store"))
            with Subject(Path(directory), models=Path(directory), settings={}) as subject:
                before = subject.process.memory_info().rss
                told = asyncio.run(_initial_states(subject, watchers))
                after = subject.process.memory_info().rss

        assert told == [jobs] * watchers
        # All copies together would be more than three times as much.
        assert after - before < 30_000_000


async def _initial_states(subject: Subject, watchers: int) -> list[int]:
    """How many jobs each of some watchers is told of at its beginning."""

    async def count(client: AsyncClient) -> int:
        jobs = 0
        async for event in client.watch_jobs():
            if isinstance(event, Bookmark):
                break
            jobs += isinstance(event, JobChanged)
        return jobs

    async with AsyncClient(subject.address, token_file=subject.token_file) as client:
        return list(await asyncio.gather(*(count(client) for _ in range(watchers))))


def _processes_in(directory: Path) -> list[psutil.Process]:
    """Processes that work in a directory, removed or not."""
    found = []
    for process in psutil.process_iter():
        try:
            where = str(Path(f"/proc/{process.pid}/cwd").readlink())
            spoken = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            continue
        if str(directory) in where or str(directory) in spoken:
            found.append(process)
    return found
