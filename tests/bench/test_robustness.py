# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from callsd_bench.cli import bench
from callsd_bench.robustness.bench import Report, Row, Side
from callsd_bench.robustness.bench import Result as Measured
from callsd_bench.robustness.chart import draw
from callsd_bench.shared.accuracy import Errors
from callsd_bench.shared.call import SAMPLE_CALL, load_call, write_wav
from tests.helpers.speech import speech
from tests.weights import MODELS_DIRECTORY


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A turn of each of two speakers of the sample call."""
    rows = ["file\ttranscript"]
    turns = load_call(SAMPLE_CALL).turns
    for speaker in ("nina", "maya"):
        turn = next(turn for turn in turns if turn.speaker == speaker)
        pcm = speech(speaker, turn.start_seconds, turn.end_seconds)
        write_wav(tmp_path / f"{speaker}.wav", pcm)
        rows.append(f"{speaker}.wav\t{turn.text}")
    (tmp_path / "transcripts.tsv").write_text("\n".join([*rows, ""]))
    return tmp_path


def run(clips: Path, *arguments: str) -> Result:
    """Run `bench robustness` with the smallest model."""
    return CliRunner().invoke(
        bench,
        [
            *("robustness", "--clips", str(clips), "--models-dir", str(MODELS_DIRECTORY)),
            *("--model", "tiny.en", *arguments),
        ],
    )


def report(*rates: tuple[str, float, float]) -> Report:
    """Of (condition, errors of the baseline, errors of ours) in 100 words each."""
    sides = (
        Side(is_ours=False, engine="faster-whisper", model="base"),
        Side(is_ours=True, engine="ctranslate2", model="<mine>"),
    )
    return Report(
        clips="clips",
        clips_seconds=10,
        threads=1,
        rows=tuple(
            Row(
                condition=condition,
                results=tuple(
                    Measured(
                        condition=condition,
                        side=side,
                        errors=Errors(
                            words=100, substitutions=round(100 * rate), deletions=0, insertions=0
                        ),
                        cpu_seconds=1,
                        peak_pss_bytes=300_000_000,
                    )
                    for side, rate in zip(sides, both, strict=True)
                ),
            )
            for condition, *both in rates
        ),
    )


class TestCommand:
    """`callsd bench robustness`, with real engines on seconds of speech."""

    def test_json_and_plot(self, clips: Path, tmp_path: Path) -> None:
        """Ours and the baseline hear each condition, and are counted alike."""
        plot = tmp_path / "plot.svg"

        done = run(clips, "--conditions", "pink-5,clean", "--json", "--plot", str(plot))

        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        results = document["results"]
        assert [(each["condition"], each["system"], each["engine"]) for each in results] == [
            ("clean", "baseline", "faster-whisper"),
            ("clean", "callsd", "ctranslate2"),
            ("pink-5", "baseline", "faster-whisper"),
            ("pink-5", "callsd", "ctranslate2"),
        ]
        for each in results:
            errors = each["substitutions"] + each["deletions"] + each["insertions"]
            assert each["wer"] == pytest.approx(errors / each["words"], abs=0.0001)
            assert each["words_per_minute"] is None
            assert each["cpu_seconds"] > 0
        assert max(each["wer"] for each in results[:2]) < 0.25
        theirs, ours = (sum(each["cpu_seconds"] for each in results[at::2]) for at in (0, 1))
        (ratio,) = document["cpu_ratio"]
        assert ratio["ratio"] == pytest.approx(theirs / ours, abs=0.02)
        assert len(ET.parse(plot).findall(f"{SVG}polyline")) == 4  # noqa: S314 - ours
        assert "pink-5, ours, tiny.en: " in done.stderr

    def test_table_where_nobody_speaks(self, clips: Path, tmp_path: Path) -> None:
        """Words a minute are told of noise alone, also when the plot finds no place to be."""
        plot = tmp_path / "nowhere" / "plot.svg"

        done = run(
            clips, *("--conditions", "noise-alone", "--baseline", "none", "--plot", str(plot))
        )

        assert "0 words/min" in done.stdout
        assert "callsd" in done.stdout
        assert "baseline" not in done.stdout
        assert "less CPU" not in done.stdout
        assert done.exit_code == 1
        assert f"{plot} cannot be written" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--conditions", "clean,underwater"], "no condition 'underwater'"),
            (["--model", "enormous"], "no model 'enormous'"),
            (["--clips", str(SAMPLE_CALL)], "transcripts.tsv"),
            (["--threads", "0"], "--threads"),
        ],
        ids=["no such condition", "no such model", "no clips", "no threads"],
    )
    def test_refusals(self, clips: Path, arguments: list[str], complaint: str) -> None:
        """What cannot be measured is refused with what to do, before anything is measured."""
        done = run(clips, *arguments)

        assert done.exit_code != 0
        assert complaint in done.stderr
        assert "robustness …" not in done.stderr


class TestDraw:
    """The picture of error rates."""

    def test_worse_is_higher(self) -> None:
        """Each side has a line for each kind of noise, with a point for each condition."""
        picture = ET.fromstring(  # noqa: S314 - ours
            draw(report(("clean", 0.05, 0.04), ("pink-10", 0.2, 0.1), ("pink-5", 0.35, 0.3)))
        )

        lines = [
            [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
            for line in picture.findall(f"{SVG}polyline")
        ]
        pink = [line for line in lines if len(line) == 3]
        assert len(pink) == 2
        for line in pink:
            assert [x for x, _ in line] == sorted(x for x, _ in line)
            assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
        assert all(baseline[1] < ours[1] for baseline, ours in zip(*pink, strict=True))
        labels = [text.text for text in picture.findall(f"{SVG}text")]
        assert "<mine>, callsd, ctranslate2, pink" in labels
        assert "40%" in labels

    def test_nothing_to_draw(self) -> None:
        """Without any noise there are axes and no lines."""
        picture = ET.fromstring(draw(report(("reverb", 0.1, 0.1))))  # noqa: S314 - ours

        assert picture.findall(f"{SVG}polyline") == []
