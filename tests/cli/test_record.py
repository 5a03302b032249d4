# SPDX-License-Identifier: Apache-2.0
"""`callsd record`: what is typed, and what is asked for."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from callsd.v1.recording_pb2 import RecordingProfile, RecordingSpec
from callsd_daemon.cli.record import PROFILES
from callsd_daemon.cli.root import root
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.shared.params import parse_headers
from tests.cli.conftest import Command
from tests.helpers.daemon import Daemon


URL = "https://calls.example/recording?call=1"
SECRET = "s3cret"

CHECK = ("--validate-only",)

Asked = list[RecordingSpec]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The specs that the command asks for, as they leave it: no answer shows a secret."""
    specs: Asked = []

    def create_job(_: object, spec: RecordingSpec, **options: object) -> None:
        specs.append(spec)
        raise KeyboardInterrupt

    monkeypatch.setattr("callsd.Client.create_job", create_job)
    return specs


class TestOptions:
    """Every option has its field."""

    def test_all_settings_arrive(self, callsd_up: Command) -> None:
        """Every option reaches its field; nothing is created."""
        job = callsd_up.json(
            *("record", f"{URL}#{SECRET}", *CHECK, "--profile", "high", "--duration", "90m"),
            *("--size", "1600x900", "--fps", 25, "--video-kbps", 3000, "--audio-kbps", 96),
            *("--audio-only", "--header", f"X-Token={SECRET}", "--header", f"X-B: {SECRET}"),
            *("--header-origin", "https://api.example"),
            *("--ready", "window.ready", "--over", "window.over", "--leave", "leave()"),
            *("--ready-timeout", "45s", "--label", "call=one"),
        )["job"]

        assert job["recording"] == {
            "url": URL,
            "url_fragment": "",
            "headers": {"X-Token": "", "X-B": ""},
            "header_origins": ["https://api.example"],
            "profile": "RECORDING_PROFILE_HIGH",
            "width": 1600,
            "height": 900,
            "frame_rate": 25,
            "video_kbps": 3000,
            "audio_kbps": 96,
            "audio_only": True,
            "ready_expression": "window.ready",
            "over_expression": "window.over",
            "leave_expression": "leave()",
            "ready_timeout": "45s",
        }
        assert (job["kind"], job["name"]) == ("JOB_KIND_RECORDING", "")
        assert (job["labels"], job["max_duration"]) == ({"call": "one"}, "5400s")

    def test_nothing_but_the_page(self, callsd_up: Command) -> None:
        """What is not said is left to the server."""
        job = callsd_up.json("record", URL, *CHECK)["job"]

        assert job["recording"]["profile"] == "RECORDING_PROFILE_MEDIUM"
        assert (job["recording"]["width"], job["recording"]["ready_timeout"]) == (1280, "20s")
        assert job["max_duration"] == "14400s"

    def test_every_profile_has_its_word(self) -> None:
        """What can be typed are the API's profiles, in lower case."""
        assert set(PROFILES) == {"low", "medium", "high"}
        assert set(PROFILES.values()) == set(RecordingProfile.keys()) - {
            "RECORDING_PROFILE_UNSPECIFIED"
        }

    def test_for_people(self, callsd_up: Command) -> None:
        """Without --json the verdict is one line, with what it takes."""
        assert callsd_up("record", URL, *CHECK).stdout.startswith("valid: it would start now (0.")

    def test_detached(self, callsd_up: Command, running: Daemon) -> None:
        """With --detach the name of the job stands alone on stdout, and the job is there."""
        name = callsd_up("record", URL, "--detach", "--label", "call=left").stdout.strip()

        assert running.client().get_job(name).recording.url == URL

    def test_followed_to_the_end(self, callsd_up: Command, tmp_path: Path) -> None:
        """Without --detach it stays until there is a recording, and fetches it when asked to."""
        target = tmp_path / "new" / "call.mp4"
        out = callsd_up("record", URL, "-o", target).stdout.splitlines()

        assert out[0].startswith("job:        jobs/")
        assert out[-1] == f"{target}  {target.stat().st_size} B"

    @pytest.mark.parametrize("text", ["", "1280", "1280x", "x720", "axb", "1280x720x1", "-2x720"])
    def test_garbage_for_a_size(self, callsd: Command, text: str) -> None:
        """A size that is none is told with the form that is expected, before anybody is asked."""
        said = callsd("record", URL, "--size", text, exit_code=Exit.USAGE).stderr

        assert "must be WIDTHxHEIGHT, such as 1280x720" in said

    def test_size_in_capitals(self, callsd_up: Command) -> None:
        """1280X720 is a size, too."""
        spec = callsd_up.json("record", URL, *CHECK, "--size", "1920X1080")["job"]["recording"]

        assert (spec["width"], spec["height"]) == (1920, 1080)

    def test_out_of_range(self, callsd_up: Command) -> None:
        """What the server refuses is told field by field."""
        said = callsd_up(
            "record", "ftp://a", "--size", "100x100", "--fps", 1, *CHECK, exit_code=Exit.USAGE
        ).stderr

        for field in ("url", "width", "height", "frame_rate"):
            assert f"job.recording.{field}" in said

    @pytest.mark.parametrize("option", ["--duration", "--ready-timeout"])
    def test_garbage_for_a_span(self, callsd_up: Command, option: str) -> None:
        """A length of time that is none is told with the form that is expected."""
        said = callsd_up("record", URL, *CHECK, option, "soon", exit_code=Exit.USAGE).stderr

        assert "expected a length such as" in said


class TestSecrets:
    """What the page alone may know, and how it gets there."""

    @pytest.mark.parametrize(
        ("address", "fragment"),
        [(URL, ""), (f"{URL}#", ""), (f"{URL}#{SECRET}", SECRET), (f"{URL}#a#b", "a#b")],
    )
    def test_behind_the_address(
        self, callsd_up: Command, asked: Asked, address: str, fragment: str
    ) -> None:
        """What stands behind "#" is sent apart from the address."""
        callsd_up("record", address, exit_code=Exit.INTERRUPTED)

        assert [(spec.url, spec.url_fragment) for spec in asked] == [(URL, fragment)]

    def test_from_files(self, callsd_up: Command, asked: Asked, tmp_path: Path) -> None:
        """Headers are read line by line beside those given, a fragment whole, without its end."""
        headers, fragment = tmp_path / "headers", tmp_path / "fragment"
        headers.write_text(f"X-Token={SECRET}\n\n  X-B: b=c  \n")
        fragment.write_text(f"{SECRET}\n")
        callsd_up(
            *("record", f"{URL}#given", "--header", "X-A=a"),
            *("--headers-file", headers, "--fragment-file", fragment),
            exit_code=Exit.INTERRUPTED,
        )

        assert [(spec.url_fragment, dict(spec.headers)) for spec in asked] == [
            (SECRET, {"X-A": "a", "X-Token": SECRET, "X-B": "b=c"})
        ]

    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ("--headers-file", ("", {"X-Token": SECRET})),
            ("--fragment-file", (f"X-Token={SECRET}", {})),
        ],
    )
    def test_from_stdin(
        self, running: Daemon, asked: Asked, option: str, expected: tuple[str, dict[str, str]]
    ) -> None:
        """Either of them may come from stdin."""
        CliRunner(env={"CALLSD_ADDRESS": running.address}).invoke(
            root, ["record", URL, option, "-"], input=f"X-Token={SECRET}\n"
        )

        assert [(spec.url_fragment, dict(spec.headers)) for spec in asked] == [expected]

    def test_never_shown(self, callsd_up: Command) -> None:
        """Neither an answer nor a refusal shows them."""
        arguments = ("record", f"{URL}#{SECRET}", "--header", f"X-A={SECRET}", *CHECK)
        good = callsd_up(*arguments, "--json")
        bad = callsd_up(*arguments, "--header", f"X-B={SECRET}\a", exit_code=Exit.USAGE)

        assert "job.recording.headers[X-B]" in bad.stderr
        assert SECRET not in good.output + bad.output

    def test_missing_file(self, callsd: Command, tmp_path: Path) -> None:
        """A file that is not there is named."""
        for option in ("--headers-file", "--fragment-file"):
            said = callsd("record", URL, option, tmp_path / "none", exit_code=Exit.USAGE).stderr
            assert "none" in said


class TestHeaders:
    """NAME=VALUE, or as they stand in a request."""

    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("X-A=b", "X-A", "b"),
            ("X-A: b", "X-A", "b"),
            ("Authorization: Bearer a=b", "Authorization", "Bearer a=b"),
            ("X-A=http://b", "X-A", "http://b"),
            ("  X-A  =  b c  ", "X-A", "b c"),
            ("X-A=", "X-A", ""),
        ],
    )
    def test_forms(self, text: str, name: str, value: str) -> None:
        """The first "=" or ":" ends the name; blanks around name and value do not count."""
        assert parse_headers([text]) == {name: value}

    def test_several(self) -> None:
        """Of two with one name the last one counts."""
        assert parse_headers([]) == {}
        assert parse_headers(["A=1", "B=2", "A=3"]) == {"A": "3", "B": "2"}

    @pytest.mark.parametrize("text", ["", SECRET, f"={SECRET}", f" : {SECRET}"])
    def test_bad(self, text: str) -> None:
        """What is no header is told without showing it: it may be the secret itself."""
        with pytest.raises(click.BadParameter, match="expected NAME=VALUE") as refused:
            parse_headers([text])

        assert SECRET not in str(refused.value)
