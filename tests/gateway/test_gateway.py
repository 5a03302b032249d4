# SPDX-License-Identifier: Apache-2.0
"""The HTTP gateway, as Mattermost's plugin and other clients of a job service use it.

The names in brackets are the lines of the conformance checklist that a test proves.
"""

import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import Job, JobFilter, JobState, ListJobsRequest, StopJobRequest
from callsd_daemon.domain.admission import Host
from callsd_daemon.usecases.jobs import job_id_of
from tests.conftest import StartDaemon
from tests.helpers.daemon import CALM, GIB, Daemon
from tests.helpers.job_service import TOKEN, Http, identifier, recording, transcribing
from tests.helpers.models import NAME
from tests.helpers.ports import free_port
from tests.helpers.waiting import eventually


CERTIFICATE = Path(__file__).parents[1] / "rpc" / "tls" / "cert.pem"
VAST = replace(
    CALM,
    cores_total=256.0,
    memory_total_bytes=1024 * GIB,
    disk_total_bytes=10_000 * GIB,
    disk_free_bytes=10_000 * GIB,
)
"""Room for the jobs of all tests: what they leave goes on for a while."""

ADMIN_KEY = "the administrator's own key, which is long"
RUNNERS = ["mattermost/calls-recorder:v0.8.13", "mattermost/calls-transcriber:v0.7.2"]

SCRIPTS = {
    "recorder": "film 0.1",
    "captioner": "caption",
    "capturer": "print heard; capture 1",
    "transcriber": "read media/0; transcribe 1",
}
"""What workers do."""


def begin(
    daemon: StartDaemon, *, machine: Host = VAST, **config: Mapping[str, object]
) -> tuple[Daemon, Http]:
    """A daemon with a gateway, and a client of it; `config` by section."""
    port = free_port()
    gateway = {"listen": f"127.0.0.1:{port}", "self_registration": True}
    server = daemon(is_started=False, config={"gateway": gateway} | config, machine=machine)
    for name, script in SCRIPTS.items():
        (server.root / "tmp" / name).write_text(script)
    return server.start(), Http(port=port)


def ask_for_both(http: Http, own: str, **wish: object) -> tuple[str, str]:
    """Have a call of its own recorded, and transcribed as is wished; names of both jobs."""
    call = {"call_id": own, "post_id": own}
    asked = recording(recording_id=own, **call), transcribing(transcription_id=own, **call, **wish)
    answers = [http("POST", "/jobs", one) for one in asked]
    assert [answer.status for answer in answers] == [200, 200], answers
    assert all(TOKEN.encode() not in answer.body for answer in answers)
    film, capture = (f"jobs/{answer.json['id']}" for answer in answers)
    return film, capture


@pytest.fixture(scope="module")
def gateway(shared_daemon: StartDaemon) -> tuple[Daemon, Http]:
    """A daemon that lets everybody in who comes with a key."""
    return begin(shared_daemon)


class TestVersion:
    """What the plugin asks first."""

    def test_is_new_enough(self, gateway: tuple[Daemon, Http]) -> None:
        """[J1] Without a key it tells a version that the plugin takes: at least 0.9.0."""
        _, http = gateway
        answer = http("GET", "/version", is_known=False)
        assert answer.status == 200
        version = answer.json["buildVersion"]
        assert tuple(map(int, version.removeprefix("v").split("."))) >= (0, 9, 0)
        assert all(
            isinstance(answer.json[key], str) for key in ("buildDate", "buildHash", "goVersion")
        )

    def test_other_methods(self, gateway: tuple[Daemon, Http]) -> None:
        """Another method is not found; on a job's own routes it is not allowed."""
        _, http = gateway
        assert http("POST", "/version").status == 404
        assert http("GET", "/login").status == 404
        assert http("PUT", "/jobs").status == 405
        assert http("GET", "/debug/pprof/heap").status == 404


class TestInit:
    """POST /jobs/init."""

    def test_runners(self, gateway: tuple[Daemon, Http]) -> None:
        """[J3] Any runners are taken, under either spelling; the body is empty."""
        _, http = gateway
        for key in ("Runners", "runners"):
            answer = http("POST", "/jobs/init", {key: ["my.reg:5000/x/calls-recorder:v9.9.9-dev2"]})
            assert (answer.status, answer.body) == (200, b"")

    @pytest.mark.parametrize("body", [{"Runners": []}, {}])
    def test_without_runners(self, gateway: tuple[Daemon, Http], body: object) -> None:
        """None at all is the error that clients know."""
        _, http = gateway
        answer = http("POST", "/jobs/init", body)
        assert answer.status == 400
        assert answer.json == {
            "error": "invalid job service config: invalid empty Runners",
            "code": "400",
        }


class TestRecording:
    """POST /jobs with a recording."""

    def test_becomes_a_job(self, gateway: tuple[Daemon, Http]) -> None:
        """[J4] It is answered by 200 with an id, and is the same job by gRPC."""
        server, http = gateway
        answer = http("POST", "/jobs", recording())
        assert answer.status == 200
        assert answer.json["type"] == "recording"
        assert answer.json["runner"] == "mattermost/calls-recorder:v0.8.13"
        job = server.job(server.api(), f"jobs/{answer.json['id']}")
        assert job.labels["mattermost.call"] == identifier("c")
        assert job.recording.frame_rate == 20
        assert job.max_duration.seconds == 3600

    def test_token_is_shown_nowhere(self, gateway: tuple[Daemon, Http]) -> None:
        """The bot's token is in no answer, in no log, and in no job as others see it."""
        server, http = gateway
        made = http("POST", "/jobs", recording(recording_id=identifier("s")))
        seen = http("GET", f"/jobs/{made.json['id']}")
        assert seen.json["input_data"]["auth_token"] == "***"
        assert TOKEN.encode() not in made.body + seen.body
        assert TOKEN not in str(server.job(server.api(), f"jobs/{made.json['id']}"))
        wrong = http("POST", "/jobs", recording(site_url=f"ftp://{TOKEN}"))
        assert TOKEN not in wrong.body.decode()
        assert TOKEN not in server.log

    def test_same_one_again(self, gateway: tuple[Daemon, Http]) -> None:
        """Who asks again for the same recording, as its answer was lost, gets the same job."""
        _, http = gateway
        asked = recording(recording_id=identifier("a"))
        first, second = http("POST", "/jobs", asked), http("POST", "/jobs", asked)
        assert first.status == second.status == 200
        assert first.json["id"] == second.json["id"]

    def test_texts_for_numbers(self, gateway: tuple[Daemon, Http]) -> None:
        """[J4] Numbers may be texts, keys may be unknown, figures may be out of range."""
        server, http = gateway
        asked = recording(
            recording_id=identifier("b"), width="1920", height="99999", extra_chromium_args="--x"
        )
        made = http("POST", "/jobs", asked)
        assert made.status == 200
        job = server.job(server.api(), f"jobs/{made.json['id']}")
        assert (job.recording.width, job.recording.height) == (1920, 2160)
        notices = {notice.code: notice.message for notice in job.notices}
        assert "extra_chromium_args" in notices["INPUT_IGNORED"]
        assert notices["INPUT_CHANGED"] == "height: 99999 was asked for, 2160 is used"

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"type": ""}, "invalid Type value: should not be empty"),
            ({"runner": ""}, "invalid Runner value"),
            ({"max_duration_sec": 0}, "invalid MaxDurationSec value: should be positive"),
            ({"max_duration_sec": "60"}, "invalid MaxDurationSec value: should be positive"),
            ({"type": "dancing"}, 'invalid Type value: "dancing"'),
            ({"input_data": []}, "invalid InputData value"),
        ],
    )
    def test_what_is_wrong(
        self, gateway: tuple[Daemon, Http], change: dict[str, object], text: str
    ) -> None:
        """[J5] What is wrong is told by 400, in the words that clients know."""
        _, http = gateway
        answer = http("POST", "/jobs", recording() | change)
        assert answer.status == 400
        assert answer.json["code"] == "400"
        assert answer.json["error"].startswith(text)

    @pytest.mark.parametrize(
        "changes",
        [
            {"site_url": "https://mm.example.com/chat"},
            {"site_url": "file:///etc/passwd"},
            {"site_url": "http://user:pass@mm.example.com"},
            {"site_url": None},
            {"call_id": "../../etc/passwd"},
            {"post_id": ""},
            {"recording_id": "A" * 26},
            {"auth_token": ""},
            {"auth_token": "a\r\nHost: elsewhere"},
            {"auth_token": {"a": 1}},
        ],
    )
    def test_odd_input(self, gateway: tuple[Daemon, Http], changes: dict[str, object]) -> None:
        """Nothing odd becomes part of an address, a header or a path."""
        _, http = gateway
        answer = http("POST", "/jobs", recording(**changes))
        assert answer.status == 400
        assert answer.json["error"].startswith("invalid InputData value: ")

    def test_force(self, gateway: tuple[Daemon, Http]) -> None:
        """A running job is not deleted, unless it is forced to: then it is stopped first."""
        server, http = gateway
        made = http("POST", "/jobs", recording(recording_id=identifier("k")))
        job_id = made.json["id"]
        answer = http("DELETE", f"/jobs/{job_id}")
        assert (answer.status, answer.json["error"]) == (400, "job is running")
        assert http("DELETE", f"/jobs/{job_id}?force=1").status in (200, 500)
        assert server.job(server.api(), f"jobs/{job_id}").end_time.seconds

    def test_body_of_a_stranger(self, gateway: tuple[Daemon, Http]) -> None:
        """Who has not proved who it is cannot have the gateway keep much of what it says."""
        _, http = gateway
        for path in ("/login", "/register"):
            answer = http("POST", path, b" " * 9000, is_known=False)
            assert (answer.status, answer.json["code"]) == (400, "400")

    def test_body_that_is_no_job(self, gateway: tuple[Daemon, Http]) -> None:
        """[J2] What is no JSON, or longer than 1 MiB, is told."""
        _, http = gateway
        for body in (b"{", b"[]", b"[" * 100_000, b'"' + b"x" * 2**20 + b'"'):
            answer = http("POST", "/jobs", body)
            assert answer.status == 400
            assert answer.json["error"].startswith("failed to decode request body: ")


class TestPair:
    """A recording and its transcription."""

    def test_waits_for_its_recording(self, gateway: tuple[Daemon, Http]) -> None:
        """The call is captured at once, and transcribed after both have ended.

        Its site may be written otherwise: the call and its post make the pair.
        """
        server, http = gateway
        call = {"call_id": identifier("d"), "post_id": identifier("q")}
        first = http("POST", "/jobs", recording(recording_id=identifier("e"), **call))
        asked = transcribing(
            site_url="http://127.0.0.1:8", transcription_id=identifier("e"), **call
        )
        second = http("POST", "/jobs", asked)
        assert (first.status, second.status) == (200, 200)
        assert second.json["type"] == "transcribing"
        api, later = server.api(), follower(http, identifier("e"))
        capture = server.wait(api, f"jobs/{second.json['id']}", JobState.JOB_STATE_RUNNING)
        assert capture.WhichOneof("spec") == "capture"
        assert server.job(api, later).state == JobState.JOB_STATE_QUEUED
        (server.root / "tmp" / "over").touch()
        assert server.wait(api, later).state == JobState.JOB_STATE_SUCCEEDED
        (server.root / "tmp" / "over").unlink()

    @pytest.mark.parametrize(
        "wish",
        [
            {"language": "de", "model_size": "tiny.en"},
            {"model_size": "no-such-model"},
            {"num_threads": 3_000_000_000},
            {"num_threads": "9" * 400},
        ],
    )
    def test_is_not_refused(self, gateway: tuple[Daemon, Http], wish: dict[str, object]) -> None:
        """Once a recording goes on its transcription is taken, as it can be done: see its notices.

        The plugin would leave the recording running for ever. And whatever it asks for, the job can
        be shown to everybody.
        """
        server, http = gateway
        _film, capture = ask_for_both(http, identifier_of(wish), **wish)
        api = server.api()
        assert server.job(api, capture).name
        assert api(api.jobs.ListJobs, ListJobsRequest()).jobs

    def test_without_its_recording(self, gateway: tuple[Daemon, Http]) -> None:
        """A transcription of a call that is not recorded here is refused, and told why.

        By 503, as another machine may have the recording.
        """
        _, http = gateway
        answer = http("POST", "/jobs", transcribing(call_id=identifier("z")))
        assert answer.status == 503
        assert "no recording of this call" in answer.json["error"]


def follower(http: Http, own: str) -> str:
    """Name of the job that transcribes what is captured for this transcription."""
    return f"jobs/{job_id_of(f'gateway/{http.client_id}', f'transcription/{own}')}"


class TestCapture:
    """What the plugin takes for its transcription, while the call goes on."""

    def test_same_pair_again(self, gateway: tuple[Daemon, Http]) -> None:
        """Who asks again gets the same job: there is one of each."""
        server, http = gateway
        own = identifier("g")
        film, capture = ask_for_both(http, own)
        assert ask_for_both(http, own) == (film, capture)
        api = server.api()
        of_call = ListJobsRequest(filter=JobFilter(labels={"mattermost.call": own}))
        names = {job.name for job in api(api.jobs.ListJobs, of_call).jobs}
        assert names == {film, capture, follower(http, own)}

    def test_another_wish_by_the_same_name(self, gateway: tuple[Daemon, Http]) -> None:
        """The same transcription cannot be asked for in other words, and the first one goes on."""
        server, http = gateway
        own = identifier("h")
        ask_for_both(http, own)
        wish = transcribing(transcription_id=own, call_id=own, post_id=own, model_size="small")
        answer = http("POST", "/jobs", wish)
        assert answer.status == 500
        assert "the request id was used for another job" in answer.json["error"]
        assert server.job(server.api(), follower(http, own)).state == JobState.JOB_STATE_QUEUED

    @pytest.mark.parametrize(
        ("wish", "language", "told"),
        [
            ({"live_captions_model_size": NAME}, "en", []),
            ({"live_captions_model_size": "", "live_captions_language": ""}, "", []),
            (
                {"live_captions_language": "de-AT"},
                "de",
                [f"captions by tiny cannot be had here, {NAME} makes them"],
            ),
            (
                {"live_captions_model_size": NAME, "live_captions_language": "klingon"},
                "",
                ["live_captions_language: klingon is not known, what is spoken is detected"],
            ),
        ],
        ids=["as wanted", "as usual", "another model", "no such language"],
    )
    def test_captions(
        self,
        gateway: tuple[Daemon, Http],
        wish: dict[str, object],
        language: str,
        told: list[str],
    ) -> None:
        """Captions are made as they are wanted, or else as they can be: see the notices."""
        job = self.captured(gateway, wish)
        assert job.capture.captions.model == NAME
        assert job.capture.captions.language == language
        assert [one.message for one in job.notices if one.code == "INPUT_CHANGED"] == told

    def test_no_captions(self, gateway: tuple[Daemon, Http]) -> None:
        """Who wants none gets none."""
        job = self.captured(gateway, {"live_captions_on": "false"})
        assert job.HasField("capture")
        assert not job.capture.HasField("captions")

    def captured(self, gateway: tuple[Daemon, Http], wish: dict[str, object]) -> Job:
        """The capture that is made of a wish, in a call of its own."""
        server, http = gateway
        _film, capture = ask_for_both(http, identifier_of(wish), **wish)
        return server.job(server.api(), capture)

    def test_no_model_for_captions(self, daemon: StartDaemon) -> None:
        """Without a model for captions the call is recorded and captured all the same."""
        server, http = begin(daemon, captions={"model": "missing"})
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        _film, capture = ask_for_both(http, identifier("a"))
        job = server.wait(server.api(), capture, JobState.JOB_STATE_RUNNING)
        assert not job.capture.HasField("captions")
        told = "there are no captions: neither tiny nor missing can be used here"
        assert told in [one.message for one in job.notices]

    @pytest.mark.parametrize(("cores", "statuses"), [(0.6, [503, 200]), (0.7, [200, 503])])
    def test_room_for_both(self, daemon: StartDaemon, cores: float, statuses: list[int]) -> None:
        """A recording that will be transcribed needs room for its capture, one that will not none.

        And the room of a capture that has not come yet is not given to others.
        """
        small = replace(VAST, cores_total=cores)
        _server, http = begin(daemon, machine=small, admission={"headroom_cores": 0.0})
        found = []
        for letter, runners in (("a", RUNNERS), ("b", RUNNERS[:1])):
            assert http("POST", "/jobs/init", {"Runners": runners}).status == 200
            own = identifier(letter)
            found.append(http("POST", "/jobs", recording(recording_id=own, call_id=own)))
        assert [answer.status for answer in found] == statuses
        refused = found[statuses.index(503)]
        assert "max concurrent jobs reached: the job needs" in refused.json["error"]
        assert "cores" in refused.json["error"]
        second = http("POST", "/jobs", transcribing(call_id=identifier("a")))
        assert second.status == (200 if statuses[0] == 200 else 503)

    def test_is_the_plugins_job(self, gateway: tuple[Daemon, Http]) -> None:
        """It is answered for as for the transcription: looked at, read of, and not deleted."""
        server, http = gateway
        own = identifier("i")
        _film, capture = ask_for_both(http, own)
        seen = http("GET", f"/{capture}")
        assert (seen.status, seen.json["type"]) == (200, "transcribing")
        assert seen.json["input_data"]["transcription_id"] == own
        assert seen.json["max_duration_sec"] == 7200
        assert TOKEN.encode() not in seen.body
        eventually(lambda: b"heard" in http("GET", f"/{capture}/logs").body, "the log is told")
        answer = http("DELETE", f"/{capture}")
        assert (answer.status, answer.json["error"]) == (400, "job is running")
        assert server.job(server.api(), follower(http, own)).state == JobState.JOB_STATE_QUEUED

    @pytest.mark.parametrize("way", ["delete", "stop"])
    def test_stopped(self, gateway: tuple[Daemon, Http], way: str) -> None:
        """However it is stopped, what was captured is kept, and transcribed with the recording."""
        server, http = gateway
        own = identifier_of(way)
        film, capture = ask_for_both(http, own)
        api, later = server.api(), follower(http, own)
        eventually(
            lambda: server.job(api, capture).progress.phase == "capturing", "it is in the call"
        )
        if way == "stop":
            api(api.jobs.StopJob, StopJobRequest(name=capture))
        else:
            # The plugin is told of it still: it cannot be gone yet.
            assert http("DELETE", f"/{capture}?force=1").status == 500
        assert len(server.wait(api, capture).capture_result.tracks) == 1
        assert server.job(api, later).state == JobState.JOB_STATE_QUEUED
        api(api.jobs.StopJob, StopJobRequest(name=film))
        done = server.wait(api, later)
        assert done.state == JobState.JOB_STATE_SUCCEEDED, done.failure
        assert done.transcription_result.segment_count == 1


def identifier_of(wish: object) -> str:
    """An identifier that is different for each wish."""
    return sha256(repr(wish).encode()).hexdigest()[:26]


class TestClients:
    """Who is let in."""

    def test_first_key_counts(self, gateway: tuple[Daemon, Http]) -> None:
        """[J2] Whoever comes first with a name has it; another key is refused by 401."""
        _, http = gateway
        one = replace(http, client_id="one")
        assert one("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        other = replace(one, key="o" * 32)
        answer = other("POST", "/jobs/init", {"Runners": RUNNERS})
        assert answer.status == 401
        assert answer.json == {"error": "authentication failed", "code": "401"}

    def test_short_key(self, gateway: tuple[Daemon, Http]) -> None:
        """A key that could be guessed is not taken."""
        _, http = gateway
        answer = replace(http, client_id="short", key="s" * 31)("GET", "/jobs/aaaaaaaaaaaa")
        assert (answer.status, answer.json["error"]) == (401, "authentication failed: unauthorized")

    @pytest.mark.parametrize(
        "header", ["", "Basic", "Basic !!", "Basic bm9jb2xvbg==", "Negotiate x"]
    )
    def test_no_header(self, gateway: tuple[Daemon, Http], header: str) -> None:
        """Without a header that can be read nobody gets in."""
        _, http = gateway
        answer = http(
            "POST", "/jobs", recording(), headers={"Authorization": header}, is_known=False
        )
        assert answer.status == 401
        assert answer.json["error"] == "authentication failed: invalid auth header"

    def test_own_jobs_only(self, gateway: tuple[Daemon, Http]) -> None:
        """A client neither sees nor stops what another one has handed in."""
        _, http = gateway
        made = http("POST", "/jobs", recording(recording_id=identifier("f")))
        stranger = replace(http, client_id="stranger")
        path = f"/jobs/{made.json['id']}"
        for method, at in (("GET", path), ("DELETE", f"{path}?force=1"), ("GET", f"{path}/logs")):
            assert stranger(method, at).status == 404
        assert http("GET", path).status == 200

    def test_login(self, gateway: tuple[Daemon, Http]) -> None:
        """A key is exchanged for a token; the next one replaces it."""
        _, http = gateway
        member = replace(http, client_id="member")
        pair = {"clientID": "member", "authKey": member.key}
        assert member("POST", "/register", pair, is_known=False).status == 201
        assert member("POST", "/register", pair, is_known=False).json == {
            "error": "registration failed: already registered",
            "code": "400",
        }
        wrong = member("POST", "/login", pair | {"authKey": "x" * 32}, is_known=False)
        assert (wrong.status, wrong.json["error"]) == (400, "login failed: authentication failed")
        tokens = [
            member("POST", "/login", pair, is_known=False).json["bearerToken"] for _ in range(2)
        ]
        old, new = (replace(member, authorization=f"Bearer {token}") for token in tokens)
        assert new("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        answer = old("POST", "/jobs/init", {"Runners": RUNNERS})
        assert (answer.status, answer.json["error"]) == (
            401,
            "authentication failed: token is invalid",
        )

    def test_unregister(self, gateway: tuple[Daemon, Http]) -> None:
        """A client can go, and takes nobody with it."""
        _, http = gateway
        leaver = replace(http, client_id="leaver")
        assert leaver("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        assert leaver("POST", "/unregister", {"clientID": http.client_id}).status == 403
        assert leaver("POST", "/unregister", {"clientID": ""}).status == 400
        gone = leaver("POST", "/unregister", {"clientID": "leaver"})
        assert (gone.status, gone.body) == (200, b"")
        assert leaver("POST", "/unregister", {"clientID": "leaver"}).status == 401


class TestConnections:
    """Those on which nothing comes."""

    def test_mute_ones_are_closed(self, gateway: tuple[Daemon, Http]) -> None:
        """Who says nothing, or not all of a request, is hung up on; others are served meanwhile."""
        _, http = gateway
        with (
            socket.create_connection(("127.0.0.1", http.port), timeout=30) as silent,
            socket.create_connection(("127.0.0.1", http.port), timeout=30) as slow,
        ):
            slow.sendall(b"POST /jobs HTTP/1.1\r\nHost: x\r\n")
            assert http("GET", "/version").status == 200
            for one in (silent, slow):
                assert _is_hung_up(one)


def _is_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


class TestAlone:
    """What needs a daemon of its own."""

    def test_closed_gateway(self, daemon: StartDaemon) -> None:
        """Without self-registration only the administrator lets somebody in."""
        server = daemon(is_started=False)
        key_file = server.root / "admin.key"
        key_file.write_text(f"{ADMIN_KEY}\n")
        http = Http(port=free_port())
        server.settings["gateway"] = {
            "listen": f"127.0.0.1:{http.port}",
            "admin_key": str(key_file),
        }
        server.start()
        pair = {"clientID": http.client_id, "authKey": http.key}
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 401
        assert http("POST", "/register", pair).status == 401
        admin = replace(http, client_id="", key=ADMIN_KEY)
        assert admin("POST", "/register", pair).status == 201
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200

    def test_tls(self, daemon: StartDaemon) -> None:
        """With the server's certificate the gateway speaks TLS alone."""
        port = free_port()
        server = daemon(is_started=False)
        server.settings["server"] = {
            "tls_certificate": str(CERTIFICATE),
            "tls_key": str(CERTIFICATE.with_name("key.pem")),
        }
        server.settings["gateway"] = {"listen": f"0.0.0.0:{port}"}
        server.start()
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        url = f"https://localhost:{port}/version"
        with urllib.request.urlopen(url, context=trusting, timeout=30) as answer:
            assert answer.status == 200
        with pytest.raises((OSError, HTTPException)):
            Http(port=port)("GET", "/version")

    def test_keys_are_kept_as_hashes(self, daemon: StartDaemon) -> None:
        """A restart forgets no client and no job of its; its key is nowhere in what is kept."""
        server, http = begin(daemon)
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        made = ask_for_both(http, identifier("a"))
        server.restart()
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        assert ask_for_both(http, identifier("a")) == made
        wrong = replace(http, key="w" * 32)
        assert wrong("POST", "/jobs/init", {"Runners": RUNNERS}).status == 401
        server.stop()
        for file in server.state.rglob("*"):
            assert not file.is_file() or http.key.encode() not in file.read_bytes()

    def test_no_room(self, daemon: StartDaemon) -> None:
        """A refusal for lack of room is 503 with Retry-After, for proxies to try another machine.

        Its text begins as clients know it, and goes on to say what is lacking.
        """
        _server, http = begin(daemon, jobs={"max_recording_jobs": 1})
        assert http("POST", "/jobs", recording()).status == 200
        began = time.monotonic()
        answer = http("POST", "/jobs", recording(recording_id=identifier("x")))
        assert time.monotonic() - began < 5
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        text = answer.json["error"]
        assert text.startswith("failed to create recording job: max concurrent jobs reached: ")
        assert "jobs.max_recording_jobs allows 1" in text

    def test_first_of_a_pair(self, daemon: StartDaemon) -> None:
        """The recording is refused when its transcription would be: the plugin cannot undo it."""
        _server, http = begin(daemon, transcription={"model": "missing"})
        assert http("POST", "/jobs/init", {"Runners": RUNNERS[:1]}).status == 200
        assert http("POST", "/jobs", recording()).status == 200
        assert http("POST", "/jobs/init", {"Runners": RUNNERS}).status == 200
        answer = http("POST", "/jobs", recording(recording_id=identifier("x")))
        assert answer.status == 500
        assert "no model 'missing'" in answer.json["error"]
