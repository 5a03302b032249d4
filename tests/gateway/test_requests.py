# SPDX-License-Identifier: Apache-2.0
"""What of a transcription's `input_data` becomes of its two jobs."""

from typing import Any

import pytest

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.jobs import Notice
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.transcription import Format, Track, TranscriptionSpec
from callsd_daemon.gateway import requests
from callsd_daemon.usecases.jobs import JobRequest
from callsd_transcript.formats import Compaction
from tests.helpers.job_service import TOKEN, recording, transcribing


def wish(**data: Any) -> JobRequest:
    """The job that is made of it."""
    asked = requests.wanted(transcribing(**data))
    return requests.transcription(asked, "capture", "recording", "tiny.en")


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

    @pytest.mark.parametrize(
        ("value", "is_set"),
        [(True, True), ("TRUE", True), (False, False), ("false", False), (None, False), (3, False)],
    )
    def test_speaker(self, value: object, is_set: bool) -> None:  # noqa: FBT001 - of a table
        """Subtitles show whose words they are, unless it is asked that they do not."""
        assert spec(webvtt_omit_speaker=value).webvtt_omit_speaker is is_set


class TestSound:
    """Of what the transcript is made."""

    def test_track(self) -> None:
        """One track stands for what will have been captured, or else for the recording."""
        (track,) = spec().tracks
        assert track == Track(speaker="Call", capture="capture", recording="recording")

    def test_is_owed(self) -> None:
        """It comes with a recording that goes on: it is not refused any more."""
        assert wish().is_owed


class TestCapture:
    """The job that begins at once: the call is captured."""

    def capture(self, **data: Any) -> JobRequest:
        """The job that is made of it."""
        return requests.capture(requests.wanted(transcribing(**data)), "recording", "base")

    def captions(self, **data: Any) -> CaptionsSpec | None:
        """The captions that it shall show."""
        found = self.capture(**data).spec
        assert isinstance(found, CaptureSpec)
        return found.captions

    def test_takes_the_room_that_is_held(self) -> None:
        """It starts at once, in the room that is held with its recording, or beyond it."""
        found = self.capture()
        assert (found.kind, found.companion_of) == (CAPTURE, "recording")
        assert found.is_owed
        assert not found.may_queue
        assert found.secrets == SiteSecrets(token=TOKEN)
        assert found.max_duration_seconds == 7200

    def test_is_as_large_as_what_is_held(self) -> None:
        """The recording was asked for with half its time: room was held for the same length."""
        plain = requests.plain_capture(requests.wanted(recording()), "base")
        assert plain.max_duration_seconds == self.capture().max_duration_seconds

    def test_longest(self) -> None:
        """However long a recording may be, nothing longer than a week is held for."""
        asked = requests.wanted(recording() | {"max_duration_sec": 1e12})
        assert requests.plain_capture(asked, "").max_duration_seconds == 7 * 86400

    @pytest.mark.parametrize("value", [True, "true"])
    def test_captions(self, value: object) -> None:
        """Captions are shown by the model and in the language that are asked for."""
        wanted = self.captions(live_captions_on=value, live_captions_language="de-AT")
        assert wanted == CaptionsSpec(model="tiny", language="de")

    def test_default_model(self) -> None:
        """Where no model is named it is the server's own."""
        assert self.captions(live_captions_model_size="") == CaptionsSpec(
            model="base", language="en"
        )

    @pytest.mark.parametrize("value", [False, "false", None])
    def test_none(self, value: object) -> None:
        """Without captions it captures alone."""
        assert self.captions(live_captions_on=value) is None

    def test_unknown_language(self) -> None:
        """A language that nobody knows is not set, and told by its key."""
        assert self.captions(live_captions_language="xx") == CaptionsSpec(model="tiny")
        assert [one.message for one in self.capture(live_captions_language="xx").notices] == [
            "live_captions_language: xx is not known, what is spoken is detected"
        ]


class TestCaptureChoices:
    """What is tried when captions cannot be had as they are wanted."""

    def choices(self, model: str, **data: Any) -> list[tuple[CaptionsSpec | None, list[str]]]:
        """What is tried in turn, and what is told of it, where captions are made by a model."""
        asked = requests.wanted(transcribing(**data))
        found = list(requests.capture_choices(requests.capture(asked, "r", model), model))
        assert {one.request_id for one in found} == {f"{CAPTURE}/{'t' * 26}"}
        specs = [one.spec for one in found]
        assert all(isinstance(one, CaptureSpec) for one in specs)
        return [
            (one.spec.captions, [notice.message for notice in one.notices])
            for one in found
            if isinstance(one.spec, CaptureSpec)
        ]

    TOLD = "captions by tiny cannot be had here, base makes them"

    def test_another_model(self) -> None:
        """Another model keeps the language; without it, and without captions, come after that."""
        assert self.choices("base", live_captions_language="de") == [
            (CaptionsSpec(model="tiny", language="de"), []),
            (CaptionsSpec(model="base", language="de"), [self.TOLD]),
            (
                CaptionsSpec(model="base"),
                [self.TOLD, "base makes no captions in de, what is spoken is detected"],
            ),
            (None, ["there are no captions: neither tiny nor base can be used here"]),
        ]

    def test_no_language(self) -> None:
        """What is detected anyway is not tried again."""
        assert self.choices("base", live_captions_language="") == [
            (CaptionsSpec(model="tiny"), []),
            (CaptionsSpec(model="base"), [self.TOLD]),
            (None, ["there are no captions: neither tiny nor base can be used here"]),
        ]

    def test_no_other_model(self) -> None:
        """Nor is the same model."""
        assert self.choices("tiny", live_captions_language="") == [
            (CaptionsSpec(model="tiny"), []),
            (None, ["there are no captions: tiny cannot be used here"]),
        ]

    def test_none_wanted(self) -> None:
        """A capture without captions can always be done."""
        assert self.choices("base", live_captions_on=False) == [(None, [])]


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
