# SPDX-License-Identifier: Apache-2.0

import json
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from callsd_bench.cli import bench
from callsd_bench.shared.call import load_call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.measure import run_measured
from callsd_bench.transcription.bench import bench_transcription
from tests.weights import MODELS_DIRECTORY


SAMPLE_CALL = Path(__file__).parents[2] / "daemon" / "callsd_bench" / "sample_call"
FIGURES = {"x_realtime", "cpu_seconds", "wall_seconds", "wer", "peak_pss_mb"}


def run(*arguments: str, call: Path = SAMPLE_CALL, models: Path = MODELS_DIRECTORY) -> Result:
    """Run `bench transcription` with the smallest model."""
    return CliRunner().invoke(
        bench,
        [
            *("transcription", "--call", str(call), "--models-dir", str(models)),
            *("--model", "tiny.en", *arguments),
        ],
    )


class TestCommand:
    """`callsd bench transcription`, with real engines on the sample call."""

    def test_json(self) -> None:
        """Ours and the baseline are measured alike, and the ratios are those of the figures."""
        result = run("--seconds", "20", "--json")

        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        ours, baseline = report["ours"], report["baseline"]
        assert set(ours) == set(baseline) == FIGURES
        assert set(report["ratio"]) == {"throughput", "cpu"}
        assert report["ratio"]["throughput"] == pytest.approx(
            ours["x_realtime"] / baseline["x_realtime"], abs=0.01
        )
        assert (report["model"], report["threads"], report["call_seconds"]) == ("tiny.en", 1, 20)
        assert ours["x_realtime"] == pytest.approx(20 / ours["wall_seconds"], rel=0.02)
        assert ours["wer"] < 0.25
        assert baseline["wer"] < 0.25
        assert 50 < ours["peak_pss_mb"] < 700
        assert "baseline, tiny.en, 1 thread(s)" in result.stderr

    def test_table_without_baseline(self) -> None:
        """Without a baseline the table has one row, and the engine asked for is used."""
        result = run("--seconds", "20", "--baseline", "none", "--engine", "whispercpp")

        assert result.exit_code == 0, result.output
        assert "× real time" in result.stdout
        assert "whispercpp" in result.stdout
        assert "baseline" not in result.stdout

    def test_clips(self, tmp_path: Path) -> None:
        """Clips are transcribed each on its own and scored together."""
        shutil.copy(SAMPLE_CALL / "nina.ogg", tmp_path)
        turns = json.loads((SAMPLE_CALL / "turns.json").read_text())["turns"]
        text = " ".join(turn["text"] for turn in turns if turn["speaker"] == "nina")
        (tmp_path / "transcripts.tsv").write_text(f"file\ttranscript\nnina.ogg\t{text}\n")

        result = CliRunner().invoke(
            bench,
            [
                *("transcription", "--clips", str(tmp_path), "--models-dir", str(MODELS_DIRECTORY)),
                *("--model", "tiny.en", "--baseline", "none", "--json"),
            ],
        )

        report = json.loads(result.stdout)
        assert report["ours"]["wer"] < 0.25
        assert (report["baseline"], report["ratio"]) == (None, None)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--model", "enormous"], "no model 'enormous'"),
            (["--seconds", "1"], "take more seconds"),
            (["--threads", "0"], "--threads"),
            (["--clips", "."], "either --call or --clips"),
        ],
        ids=["no such model", "too short", "no threads", "both"],
    )
    def test_refusals(self, arguments: list[str], complaint: str) -> None:
        """What cannot be measured is refused with what to do, before anything is measured."""
        result = run(*arguments)

        assert result.exit_code != 0
        assert complaint in result.stderr
        assert "ours, tiny.en" not in result.stderr

    def test_baseline_needs_its_weights(self, tmp_path: Path) -> None:
        """A model without f16 weights cannot have a baseline, and the message says so."""
        (tmp_path / "mine").mkdir()

        with pytest.raises(BenchError, match="--baseline none"):
            bench_transcription(
                [load_call(SAMPLE_CALL)],
                name="sample",
                models_directory=tmp_path,
                model="mine",
                threads=1,
                engine="auto",
                baseline=True,
            )


class TestRunMeasured:
    """What is charged to a process."""

    def test_memory_and_time(self) -> None:
        """Memory, processor time and duration of a child and its children are seen."""
        burn = (
            "import os, subprocess, sys, time\n"
            "data = bytearray(os.urandom(1 << 20) * 100)\n"
            "end = time.process_time() + 0.5\n"
            "while time.process_time() < end: pass\n"
            "subprocess.run([sys.executable, '-c', "
            "'import time\\nend = time.process_time() + 0.3\\n"
            "while time.process_time() < end: pass'])\n"
        )
        started = time.monotonic()

        cost = run_measured([sys.executable, "-c", burn], b"")

        assert 0.8 <= cost.cpu_seconds < 5
        assert cost.cpu_seconds <= cost.wall_seconds + 0.5
        assert cost.wall_seconds <= time.monotonic() - started
        assert 100e6 < cost.peak_pss_bytes < 300e6

    def test_failure_is_quoted(self) -> None:
        """A child that fails is an error with its last words."""
        with pytest.raises(BenchError, match="no such luck"):
            run_measured([sys.executable, "-c", "raise SystemExit('no such luck')"], b"")

    def test_killed_when_the_caller_gives_up(self) -> None:
        """A child does not outlive a measurement that is broken off."""
        seen: list[int] = []

        def give_up(elapsed_seconds: float, memory_bytes: int) -> None:
            seen.append(running("callsd-bench-test"))
            raise KeyboardInterrupt

        command = [sys.executable, "-c", "import time; time.sleep(600)", "callsd-bench-test"]
        with pytest.raises(KeyboardInterrupt):
            run_measured(command, b"", on_sample=give_up)

        assert seen == [1]
        assert running("callsd-bench-test") == 0


def running(marker: str) -> int:
    """How many processes carry the marker in their command line."""
    return sum(
        marker in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )
