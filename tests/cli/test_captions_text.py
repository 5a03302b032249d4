# SPDX-License-Identifier: Apache-2.0
"""What viewers of captions are shown, and where the sound comes from: without a daemon."""

import io
import json
from pathlib import Path

import click
import pytest
from rich.console import Console

from callsd import duration
from callsd.v1.caption_pb2 import (
    CAPTION_EVENT_TYPE_AUDIO_SKIPPED,
    CAPTION_EVENT_TYPE_DEGRADED,
    CAPTION_EVENT_TYPE_RECOVERED,
    CAPTION_EVENT_TYPE_SPEECH_BEGIN,
    CAPTION_EVENT_TYPE_SPEECH_END,
    Caption,
    CaptionEvent,
    CaptionsResult,
    CaptionsSpec,
    WatchCaptionsResponse,
)
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job, Progress
from callsd.v1.kind_pb2 import JOB_KIND_CAPTIONS
from callsd_daemon.cli.captions.state import CaptionState, line, stamp
from callsd_daemon.cli.captions.view import CaptionView, tail
from callsd_daemon.cli.jobs.text import describe, job_row
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import printable
from callsd_daemon.cli.shared.sound import opened
from tests.captioner.sound import decoded
from tests.cli.conftest import Command
from tests.helpers.daemon import SAMPLE_CALL


def caption(
    text: str, *, speaker: str = "u1", sequence: int = 0, at: float = 65.0, name: str = "Ada"
) -> WatchCaptionsResponse:
    """A caption of a second; final when it has a number."""
    return WatchCaptionsResponse(
        caption=Caption(
            segment_id="1",
            is_final=sequence > 0,
            sequence=sequence,
            speaker=speaker,
            display_name=name,
            text=text,
            start_offset=duration(at),
            end_offset=duration(at + 1),
        ),
        processed_offset=duration(at + 1),
        lag=duration(0.5),
        real_time_factor=12.0,
    )


def event(type_: int, **fields: object) -> WatchCaptionsResponse:
    """Something that viewers should know."""
    return WatchCaptionsResponse(event=CaptionEvent(type=type_, **fields))  # type: ignore[arg-type]


def picture(view: CaptionView, *, width: int = 60) -> list[str]:
    """The live area of a terminal."""
    out = io.StringIO()
    view._console = Console(file=out, width=width, highlight=False)
    view._console.print(view._picture())
    return out.getvalue().splitlines()


class TestState:
    """Who says what."""

    def test_interims_replace_each_other_and_become_final(self) -> None:
        """One line for each speaker, until its words are final or withdrawn."""
        state = CaptionState()
        seen = []
        for message in (
            caption("so"),
            caption("so the"),
            caption("Hi.", speaker="u2", name=""),
            caption("So the plan.", sequence=1),
            caption("", speaker="u2", name=""),
        ):
            state.learn(message)
            seen.append([one.text for one in state.interims.values()])

        assert seen == [["so"], ["so the"], ["so the", "Hi."], ["Hi."], []]
        assert (state.caption_count, state.last_sequence) == (1, 1)

    def test_words_behind_a_final_stay(self) -> None:
        """A final of what was said before does not hide what is being said."""
        state = CaptionState()
        state.learn(caption("and then", at=70.0))
        state.learn(caption("So the plan.", sequence=1, at=60.0))

        assert [one.text for one in state.interims.values()] == ["and then"]

    def test_speech_without_words_yet(self) -> None:
        """Who begins to talk is shown at once, and no longer when nothing came of it."""
        state = CaptionState()
        state.learn(event(CAPTION_EVENT_TYPE_SPEECH_BEGIN, speaker="u1"))
        begun = list(state.interims)
        state.learn(event(CAPTION_EVENT_TYPE_SPEECH_END, speaker="u1"))

        assert (begun, list(state.interims)) == (["u1"], [])

    def test_names(self) -> None:
        """A speaker without a name is known by the identity; places are kept."""
        state = CaptionState()
        state.learn(caption("a", name=""))
        state.learn(caption("b", speaker="u2", name="Bob"))
        state.learn(caption("c"))

        assert [state.name(one) for one in ("u1", "u2")] == ["Ada", "Bob"]
        assert [state.index(one) for one in ("u1", "u2")] == [0, 1]

    def test_text_does_not_steer_the_terminal(self) -> None:
        """Control characters of names and words are not passed on."""
        state = CaptionState()
        message = caption("a\x1b[2Jb\nc", name="\x1b]0;x\x07Ada", sequence=1)
        state.learn(message)

        assert line(message.caption, state) == "[01:05] ]0;x Ada: a [2Jb c"
        assert printable("Grüße, 世界") == "Grüße, 世界"

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.9, "00:00"), (65, "01:05"), (3723.5, "1:02:03")]
    )
    def test_stamps(self, seconds: float, text: str) -> None:
        """As a clock shows them; hours only when there are any."""
        assert stamp(seconds) == text


class TestView:
    """How it looks."""

    def test_lines_for_programs(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Off a terminal stdout has final captions alone; what went wrong is on stderr."""
        with CaptionView(as_json=False) as view:
            view.show(caption("so"))
            view.show(caption("So.", sequence=1))
            view.show(event(CAPTION_EVENT_TYPE_DEGRADED, detail="slower"))
            view.show(event(CAPTION_EVENT_TYPE_RECOVERED))
            view.show(event(CAPTION_EVENT_TYPE_AUDIO_SKIPPED, speaker="u1", skipped=duration(2.04)))
        said = capsys.readouterr()

        assert said.out == "[01:05] Ada: So.\n"
        assert said.err.splitlines() == [
            "less than asked for: slower",
            "captions are as asked for again",
            "2.0 s of sound of Ada left out",
        ]
        assert view.lags_seconds == [0.5]

    def test_json_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each message on a line, with the field names of the API."""
        with CaptionView(as_json=True) as view:
            view.show(caption("So.", sequence=1))
            view.show(event(CAPTION_EVENT_TYPE_RECOVERED))
        first, second = (json.loads(text) for text in capsys.readouterr().out.splitlines())

        assert set(first) == {"caption", "processed_offset", "lag", "real_time_factor"}
        assert (first["caption"]["text"], first["caption"]["is_final"]) == ("So.", True)
        assert second["event"]["type"] == "CAPTION_EVENT_TYPE_RECOVERED"

    def test_quiet(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Captions are counted, not shown."""
        with CaptionView(as_json=False, is_quiet=True) as view:
            view.show(caption("So.", sequence=1))

        assert capsys.readouterr().out == ""
        assert view.state.caption_count == 1

    def test_live_area(self) -> None:
        """One line for each who talks, the end of it where it is long, and one of figures."""
        view = CaptionView(as_json=False, status=lambda: "sent 01:06")
        view.show(event(CAPTION_EVENT_TYPE_DEGRADED, detail="slower"))
        view.show(caption("word " * 20 + "and the end"))
        view.show(caption("Hi.", speaker="u2", name="Bob"))
        long, short, figures = picture(view, width=80)

        assert long.startswith("Ada: …")
        assert long.endswith("and the end")
        assert len(long) <= 80
        assert short == "Bob: Hi."
        assert figures == "  sent 01:06 · captioned to 01:06 · lag 0.5 s · 12 × real time · slower"

    def test_live_area_is_never_wider(self) -> None:
        """On a narrow terminal lines are cut, not wrapped."""
        view = CaptionView(as_json=False, status=lambda: "sent 01:06")
        view.show(caption("word " * 20))

        lines = picture(view, width=24)

        assert len(lines) == 2
        assert max(len(text) for text in lines) <= 24

    @pytest.mark.parametrize(
        ("text", "shown"),
        [("one two", "one two"), ("one two three", "…two three"), ("x" * 20, "…" + "x" * 20)],
    )
    def test_tail(self, text: str, shown: str) -> None:
        """A text that is too long loses whole words at its beginning, but never the last one."""
        assert tail(text, 11) == shown


class TestJobText:
    """Captions jobs in `callsd jobs`."""

    def test_row_and_description(self) -> None:
        """How much sound has come stands for the progress; the result is told in one line."""
        job = Job(
            name="jobs/a",
            kind=JOB_KIND_CAPTIONS,
            state=JOB_STATE_SUCCEEDED,
            captions=CaptionsSpec(model="base", language="en"),
            progress=Progress(fraction=0.5, processed=duration(60), phase="listening"),
            captions_result=CaptionsResult(
                caption_count=7,
                word_count=40,
                speaker_count=1,
                audio_duration=duration(61),
                skipped_duration=duration(2),
                restart_count=1,
            ),
        )
        job.create_time.GetCurrentTime()
        job.start_time.GetCurrentTime()
        text = "\n".join(describe(job))

        assert job_row(job)[1:3] == ("succeeded", "captions")
        assert job_row(job)[4] == "1:01"
        assert "model:      base" in text
        assert "result:     1:01 of sound from 1 speaker, 7 captions, 40 words" in text
        assert "missing:    2.0 s of sound that never arrived" in text
        assert "started again 1 time" in text


class TestSound:
    """Where the sound of a call comes from."""

    def test_directory(self) -> None:
        """One source for each speaker of turns.json, with its length, whole."""
        with opened(str(SAMPLE_CALL), speaker=None) as sources:
            found = {source.speaker: source.seconds for source in sources}
            size = 0
            while data := sources[0].read(100_000):
                size += len(data)

        assert set(found) == {"maya", "joe", "kenji", "nina"}
        assert size == decoded(sources[0].speaker).size * 2

    def test_directory_without_turns(self, tmp_path: Path) -> None:
        """Each file of sound is a speaker, by its name."""
        for name in ("nina.ogg", "joe.ogg"):
            (tmp_path / name).write_bytes((SAMPLE_CALL / name).read_bytes())
        (tmp_path / "notes.txt").touch()
        with opened(str(tmp_path), speaker=None) as sources:
            assert [source.speaker for source in sources] == ["joe", "nina"]

    def test_one_file(self) -> None:
        """Its speaker has the file's name, or the one given."""
        for speaker, name in ((None, "nina"), ("Nina S.", "Nina S.")):
            with opened(str(SAMPLE_CALL / "nina.ogg"), speaker=speaker) as sources:
                assert [source.speaker for source in sources] == [name]

    def test_no_sound(self, tmp_path: Path) -> None:
        """What cannot be decoded is named, before anything is asked of the daemon."""
        (tmp_path / "a.ogg").write_bytes(b"text")

        with (
            pytest.raises(Problem, match=r"a\.ogg: not a media file"),
            opened(str(tmp_path), speaker=None),
        ):
            pass

    @pytest.mark.parametrize("call", ["/nowhere", "."])
    def test_nothing_there(
        self, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A directory without sound, and a path that leads nowhere, are mistakes of usage."""
        monkeypatch.chdir(tmp_path)

        with pytest.raises(click.BadParameter), opened(call, speaker=None):
            pass

    def test_mistakes_of_usage(self, callsd: Command) -> None:
        """They are told before anybody is asked."""
        callsd(
            *("captions", "stream", "--call", SAMPLE_CALL, "--speaker", "x"), exit_code=Exit.USAGE
        )
        callsd(
            *("captions", "stream", "--call", SAMPLE_CALL, "--job", "a", "--model", "base"),
            exit_code=Exit.USAGE,
        )
        callsd("captions", "watch", "a", "--from", "0", exit_code=Exit.USAGE)
