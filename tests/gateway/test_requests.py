# SPDX-License-Identifier: Apache-2.0
"""What of a transcription's `input_data` becomes of the job."""

from typing import Any

import pytest

from callsd_daemon.domain.jobs import Notice
from callsd_daemon.domain.transcription import Format, TranscriptionSpec
from callsd_daemon.gateway import requests
from callsd_daemon.usecases.jobs import JobRequest
from callsd_transcript.formats import Compaction
from tests.helpers.job_service import transcribing


def wish(**data: Any) -> JobRequest:
    """The job that is made of it."""
    return requests.transcription(requests.wanted(transcribing(**data)), "recording", "tiny.en")


def spec(**data: Any) -> TranscriptionSpec:
    """What that job shall do."""
    found = wish(**data).spec
    assert isinstance(found, TranscriptionSpec)
    return found


def changes(**data: Any) -> list[str]:
    """What is told about values that were not taken as they are."""
    notices: tuple[Notice, ...] = wish(**data).notices
    assert {notice.code for notice in notices} <= {"INPUT_CHANGED"}
    return [notice.message for notice in notices]


class TestCompaction:
    """When the text file joins segments."""

    SILENCE, LONGEST = requests.COMPACTION_KEYS

    def test_as_the_plugin_asks(self) -> None:
        """What the plugin sends unless somebody has changed it is what is usual."""
        assert spec().text_compaction == Compaction()
        assert changes() == []

    @pytest.mark.parametrize("value", [1500, 1500.0, "1500", "1500.0"], ids=repr)
    def test_numbers_and_texts(self, value: object) -> None:
        """From the server's environment numbers come as texts."""
        asked = {self.SILENCE: value, self.LONGEST: "30000"}
        assert spec(**asked).text_compaction == Compaction(silence_seconds=1.5, max_seconds=30)

    def test_zero(self) -> None:
        """0 is a limit like others: with both of them 0 nothing is joined."""
        asked = {self.SILENCE: 0, self.LONGEST: "0"}
        assert spec(**asked).text_compaction == Compaction(silence_seconds=0, max_seconds=0)

    @pytest.mark.parametrize("value", [None, "", "soon", True, [], "inf", "nan"])
    def test_no_number(self, value: object) -> None:
        """What is no number counts as not given."""
        asked = {self.SILENCE: value}
        assert spec(**asked).text_compaction == Compaction()
        assert spec(**asked, **{self.LONGEST: value}).text_compaction is None

    @pytest.mark.parametrize(
        ("value", "seconds", "told"),
        [
            (-5, 0, "-5 was asked for, 0 is used"),
            ("3600001", 3600, "3600001 was asked for, 3600000 is used"),
            (1e300, 3600, "10000000 was asked for, 3600000 is used"),
        ],
    )
    def test_out_of_range(self, value: object, seconds: float, told: str) -> None:
        """What is out of range is clamped, and told."""
        asked = {self.LONGEST: value}
        assert spec(**asked).text_compaction == Compaction(max_seconds=seconds)
        assert changes(**asked) == [f"{self.LONGEST}: {told}"]


class TestLanguage:
    """What is spoken, if the administrator has said so."""

    @pytest.mark.parametrize("value", ["de", "DE", " de ", "de-AT", "de_CH"])
    def test_known(self, value: str) -> None:
        """However it is written, the language is set for the whole call."""
        assert spec(language=value).language == "de"
        assert changes(language=value) == []

    @pytest.mark.parametrize("value", [None, "", "auto", 5, ["de"]])
    def test_none(self, value: object) -> None:
        """Without one it is detected."""
        assert spec(language=value).language == ""
        assert changes(language=value) == []

    def test_unknown(self) -> None:
        """A language that nobody knows is not set, and told."""
        told = "language: klingon is not known, what is spoken is detected"
        assert spec(language="klingon").language == ""
        assert changes(language="klingon") == [told]


class TestFiles:
    """Which files are made."""

    @pytest.mark.parametrize("value", ["vtt", "txt", "text", "", None])
    def test_both(self, value: object) -> None:
        """A call's thread gets subtitles and text."""
        assert spec(output_format=value).formats == (Format.VTT, Format.TEXT)
        assert changes(output_format=value) == []

    def test_another(self) -> None:
        """That there is no other is told."""
        assert spec(output_format="srt").formats == (Format.VTT, Format.TEXT)
        assert changes(output_format="srt") == [
            "output_format: srt was asked for, vtt with txt is used"
        ]

    @pytest.mark.parametrize("value", [True, "true", "TRUE", False, "false", None, 3])
    def test_speaker(self, value: object) -> None:
        """Whose words they are is not shown while nobody knows, whatever is asked for."""
        assert spec(webvtt_omit_speaker=value).webvtt_omit_speaker


@pytest.mark.parametrize(
    ("value", "is_set"),
    [
        (True, True),
        ("true", True),
        (" TRUE", True),
        (False, False),
        ("false", False),
        (None, False),
    ],
)
def test_flags(value: object, is_set: bool) -> None:  # noqa: FBT001 - of a table
    """From the server's environment flags come as texts."""
    assert requests._is_set(value) is is_set
