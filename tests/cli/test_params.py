# SPDX-License-Identifier: Apache-2.0
"""What people write on the command line."""

import json
from pathlib import Path

import click
import pytest

from callsd_daemon.cli.shared.output import figure, size, span
from callsd_daemon.cli.shared.params import (
    TrackFile,
    call_tracks,
    parse_labels,
    parse_span,
    parse_track,
)


TURNS = [{"speaker": name} for name in ("nina", "joe", "nina")]


class TestTracks:
    """SPEAKER=FILE[@OFFSET] and call directories."""

    @pytest.mark.parametrize(
        ("offset", "seconds"),
        [("", 0.0), ("@12.5", 12.5), ("@12s", 12.0), ("@1:30", 90.0), ("@1:02:03.5", 3723.5)],
    )
    def test_offset(self, tmp_path: Path, offset: str, seconds: float) -> None:
        """An offset is seconds, minutes and seconds, or hours too."""
        (tmp_path / "a.ogg").touch()

        assert parse_track(f"Ada={tmp_path}/a.ogg{offset}") == TrackFile(
            speaker="Ada", path=tmp_path / "a.ogg", start_offset_seconds=seconds
        )

    def test_file_that_looks_like_an_offset(self, tmp_path: Path) -> None:
        """A file whose name ends like an offset is that file."""
        (tmp_path / "a@12").touch()

        assert parse_track(f"Ada={tmp_path}/a@12").path == tmp_path / "a@12"

    def test_equals_sign_in_a_path(self, tmp_path: Path) -> None:
        """The speaker ends at the first equals sign."""
        (tmp_path / "a=b.ogg").touch()

        assert parse_track(f"Ada={tmp_path}/a=b.ogg").speaker == "Ada"

    @pytest.mark.parametrize("text", ["Ada", "=a.ogg", "Ada=", "Ada=/nowhere/a.ogg"])
    def test_bad_tracks(self, text: str) -> None:
        """Each is refused with the form expected, or the file that is missing."""
        with pytest.raises(click.BadParameter, match=r"expected|no such file"):
            parse_track(text)

    def test_call_directory(self, tmp_path: Path) -> None:
        """One track for each speaker of turns.json, in its order; other sound is left out."""
        (tmp_path / "turns.json").write_text(json.dumps({"speakers": {"nina": "", "joe": ""}}))
        for name in ("joe.flac", "nina.ogg", "mix.wav"):
            (tmp_path / name).touch()

        assert [(track.speaker, track.path.name) for track in call_tracks(tmp_path)] == [
            ("nina", "nina.ogg"),
            ("joe", "joe.flac"),
        ]

    @pytest.mark.parametrize("document", [TURNS, {"turns": TURNS}], ids=["list", "object"])
    def test_speakers_of_turns(self, tmp_path: Path, document: object) -> None:
        """What a benchmark can read needs no list of speakers: those of the turns are taken."""
        (tmp_path / "turns.json").write_text(json.dumps(document))
        for name in ("joe.flac", "nina.ogg"):
            (tmp_path / name).touch()

        assert [track.speaker for track in call_tracks(tmp_path)] == ["nina", "joe"]

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"speakers": ["ada"]}', "[1]"])
    def test_bad_call_directories(self, tmp_path: Path, content: str | None) -> None:
        """What is missing or wrong is named."""
        if content is not None:
            (tmp_path / "turns.json").write_text(content)

        with pytest.raises(click.BadParameter, match=str(tmp_path)):
            call_tracks(tmp_path)


class TestWords:
    """Labels, spans, sizes."""

    def test_labels(self) -> None:
        """A value may hold an equals sign, and may be empty."""
        assert parse_labels(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
        with pytest.raises(click.BadParameter):
            parse_labels(["=x"])

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("90", 90), ("90s", 90), ("15min", 900), ("12h", 43200), ("30d", 2_592_000)],
    )
    def test_spans(self, text: str, seconds: float) -> None:
        """Lengths of time have a unit, or are seconds."""
        assert parse_span(text) == seconds

    @pytest.mark.parametrize("text", ["", "h", "-1s", "1.5h", "90x"])
    def test_bad_spans(self, text: str) -> None:
        """What is no length is not guessed at."""
        with pytest.raises(click.BadParameter):
            parse_span(text)

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (999_600, "1 MB"), (2.5e13, "25 TB")],
    )
    def test_sizes(self, count: float, text: str) -> None:
        """Three digits and a unit."""
        assert size(count) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(0.12345, "0.123"), (7, "7"), (999.4, "999"), (1234.5, "1234")]
    )
    def test_figures(self, value: float, text: str) -> None:
        """Three digits, more only before the point, and no exponent."""
        assert figure(value) == text

    @pytest.mark.parametrize(
        ("seconds", "text"), [(7.25, "7.2 s"), (42, "42 s"), (245, "4:05"), (3723, "1:02:03")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        """As a clock shows them."""
        assert span(seconds) == text
