# SPDX-License-Identifier: Apache-2.0
"""CreateJob: what is accepted, and why not."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from callsd.v1.capacity_pb2 import ADMISSION_DECISION_ADMIT, ADMISSION_DECISION_QUEUE
from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.error_pb2 import ERROR_REASON_SLOTS_EXHAUSTED
from callsd.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_STARTING,
    CreateJobRequest,
    Job,
)
from callsd.v1.server_pb2 import GetCapacityRequest, GetServerInfoRequest
from callsd.v1.transcription_pb2 import (
    SPEECH_ENGINE_WHISPERCPP,
    TRANSCRIPTION_TASK_TRANSLATE,
    TextCompaction,
    Track,
    TranscriptionSpec,
)
from callsd_daemon.domain.admission import Host
from callsd_daemon.tokens import TokenFile
from tests.conftest import StartDaemon
from tests.helpers import models
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, GIB, Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure, refused
from tests.helpers.speech import seconds
from tests.helpers.waiting import eventually


def content(one: Daemon) -> set[str]:
    """Names of all files in the state directory, but for the database's own."""
    return {
        str(path.relative_to(one.state))
        for path in one.state.rglob("*")
        if not path.name.startswith("callsd.db")
    }


@pytest.fixture(scope="module")
def described(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that keeps half of its memory free, for machines that tests describe."""
    return shared_daemon(config={"admission": {"headroom_memory_bytes": 8 * GIB}})


def show(one: Daemon, machine: Host) -> None:
    """Describe a machine, and wait until the daemon has looked at it."""
    one.set_machine(machine)
    api = one.api()

    def is_seen() -> bool:
        capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
        cores, memory, disk = capacity.cores, capacity.memory_bytes, capacity.disk_bytes
        return (
            (cores.total, cores.external) == (machine.cores_total, machine.cores_external)
            and memory.total == machine.memory_total_bytes
            and memory.external == machine.memory_external_bytes
            and disk.external == machine.disk_total_bytes - machine.disk_free_bytes
        )

    eventually(is_seen, "the daemon has looked at the machine")


class TestFields:
    """Requests that are wrong in themselves."""

    @pytest.mark.reason("FIELD_INVALID")
    def test_all_violations_at_once(self, api: Api) -> None:
        """One answer names every field that is wrong."""
        request = CreateJobRequest(
            request_id="not-a-uuid",
            job=Job(
                labels={"Upper": "x", "long": "y" * 300},
                max_duration=Duration(seconds=8 * 86400),
                transcription=TranscriptionSpec(
                    tracks=[
                        Track(path="relative.wav", speaker="a" * 201),
                        Track(upload="uploads/../../etc"),
                        Track(speaker="nobody", start_offset=Duration(seconds=-1)),
                        Track(path="/a\0b", language="klingon"),
                    ],
                    model="../model",
                    engine=77,  # type: ignore[arg-type]
                    task=78,  # type: ignore[arg-type]
                    formats=[79],  # type: ignore[list-item]
                    language="xx",
                    initial_prompt="p" * 2001,
                    vocabulary=["fine", "w" * 101, "bell\a"],
                    text_compaction=TextCompaction(
                        silence=Duration(nanos=-1), max_duration=Duration(seconds=3601)
                    ),
                ),
            ),
        )
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            api(api.jobs.CreateJob, request)

        spec = "job.transcription"
        assert {violation.field for violation in refusal.error.field_violations} == {
            "request_id",
            "job.labels",
            "job.labels[long]",
            "job.max_duration",
            f"{spec}.tracks[0].path",
            f"{spec}.tracks[0].speaker",
            f"{spec}.tracks[1].upload",
            f"{spec}.tracks[2].media",
            f"{spec}.tracks[2].start_offset",
            f"{spec}.tracks[3].path",
            f"{spec}.tracks[3].language",
            f"{spec}.model",
            f"{spec}.engine",
            f"{spec}.task",
            f"{spec}.formats",
            f"{spec}.language",
            f"{spec}.initial_prompt",
            f"{spec}.vocabulary[1]",
            f"{spec}.vocabulary[2]",
            f"{spec}.text_compaction.silence",
            f"{spec}.text_compaction.max_duration",
        }

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize(
        ("job", "field"),
        [
            (Job(), "job.spec"),
            (Job(transcription=TranscriptionSpec()), "job.transcription.tracks"),
            (
                Job(transcription=TranscriptionSpec(tracks=[Track(path="/a")] * 257)),
                "job.transcription.tracks",
            ),
        ],
        ids=["nothing to do", "no track", "too many tracks"],
    )
    def test_missing(self, api: Api, job: Job, field: str) -> None:
        """What must be there is asked for by name."""
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.CreateJob, CreateJobRequest(job=job))

        assert [violation.field for violation in refusal.error.field_violations] == [field]

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("character", ["x", "\0", "\u202e"])
    def test_long_strings(self, api: Api, server: Daemon, character: str) -> None:
        """Strings of 900 KB are refused like others, with an answer of ordinary size."""
        request = server.request()
        size = 900_000 // len(character.encode())
        request.job.transcription.initial_prompt = character * size
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.CreateJob, request)

        assert len(refusal.error.message) < 2000

    @pytest.mark.parametrize(
        ("asked", "kept"),
        [
            (None, None),
            (TextCompaction(), (2.0, 10.0)),
            (TextCompaction(silence=Duration(nanos=500_000_000)), (0.5, 10.0)),
            (TextCompaction(silence=Duration(), max_duration=Duration()), (0.0, 0.0)),
        ],
        ids=["as usual", "defaults", "one", "never"],
    )
    def test_text_compaction(
        self,
        api: Api,
        server: Daemon,
        asked: TextCompaction | None,
        kept: tuple[float, float] | None,
    ) -> None:
        """How the text file joins segments is kept with the job, with what was not said; 0 is 0."""
        request = server.request()
        if asked is not None:
            request.job.transcription.text_compaction.CopyFrom(asked)
        name = api(api.jobs.CreateJob, request).job.name
        spec = server.job(api, name).transcription

        if kept is None:
            assert not spec.HasField("text_compaction")
        else:
            rule = spec.text_compaction
            assert (seconds(rule.silence), seconds(rule.max_duration)) == kept

    def test_clamped_threads(self, api: Api, server: Daemon) -> None:
        """Threads beyond the machine's are reduced, with a notice."""
        request = server.request(validate_only=True)
        request.job.transcription.threads = 999
        info = api(api.server.GetServerInfo, GetServerInfoRequest()).server_info
        most = info.limits.max_threads
        answer = api(api.jobs.CreateJob, request)

        assert [notice.code for notice in answer.job.notices] == ["THREADS_CLAMPED"]
        assert answer.admission.reservation.cores == most

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("speakers", [-1, 51])
    def test_captions(self, api: Api, speakers: int) -> None:
        """Everything that is wrong with a captions job is said at once too."""
        spec = CaptionsSpec(model="../x", language="klingon", max_active_speakers=speakers)
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.CreateJob, CreateJobRequest(job=Job(captions=spec)))

        assert {violation.field for violation in refusal.error.field_violations} == {
            "job.captions.model",
            "job.captions.language",
            "job.captions.max_active_speakers",
        }

    def test_captions_are_charged_by_speakers(self, described: Daemon) -> None:
        """A call says what it takes: cores for those who talk, and the default for two."""
        api = described.api()
        show(described, replace(CALM, cores_total=64.0))

        def cores(**spec: int) -> float:
            job = Job(captions=CaptionsSpec(**spec))  # type: ignore[arg-type]
            request = CreateJobRequest(job=job, validate_only=True)
            return api(api.jobs.CreateJob, request).admission.reservation.cores

        assert cores(max_active_speakers=10) == pytest.approx(5 * cores())
        assert cores() > 0


class TestIdempotency:
    """request_id."""

    def test_same_request(self, api: Api, server: Daemon) -> None:
        """Repeated, a request returns its job as it is now, and no second verdict."""
        request_id = str(uuid.uuid4())
        first = server.create(api, request_id=request_id)
        server.wait(api, first.job.name)
        second = server.create(api, request_id=request_id)

        assert second.job == server.job(api, first.job.name)
        assert not second.HasField("admission")

    @pytest.mark.reason("REQUEST_ID_REUSED")
    def test_other_request(self, api: Api, server: Daemon) -> None:
        """The same id for something else is refused, naming the job it made."""
        request_id = str(uuid.uuid4())
        first = server.create(api, request_id=request_id)
        with refused("REQUEST_ID_REUSED", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            server.create(api, "sleep 0", request_id=request_id)

        assert refusal.error.metadata["job"] == first.job.name

    def test_fields_of_the_server_do_not_count(self, api: Api, server: Daemon) -> None:
        """A client that sends back the job it was given asks for the same."""
        request = server.request(request_id=str(uuid.uuid4()))
        first = api(api.jobs.CreateJob, request).job
        request.job.CopyFrom(first)
        request.job.transcription.CopyFrom(server.request().job.transcription)
        request.job.ClearField("max_duration")

        assert api(api.jobs.CreateJob, request).job.name == first.name

    def test_of_another_client(self, api: Api, server: Daemon) -> None:
        """Two clients that choose the same id do not meet."""
        secret = TokenFile(server.state / "tokens.json").create("twin", ("jobs.write",))
        request_id = str(uuid.uuid4())
        ours = server.create(api, request_id=request_id).job
        theirs = server.create(server.api(secret), request_id=request_id).job

        assert ours.name != theirs.name
        assert (ours.creator, theirs.creator) == ("owner", "twin")

    def test_concurrent_duplicates(self, api: Api, server: Daemon) -> None:
        """However many arrive at once, one job is made."""
        before = len(all_jobs(api))
        request_id = str(uuid.uuid4())
        with ThreadPoolExecutor(20) as threads:
            answers = list(
                threads.map(lambda _: server.create(server.api(), request_id=request_id), range(20))
            )

        assert len({answer.job.name for answer in answers}) == 1
        assert sum(answer.HasField("admission") for answer in answers) == 1
        assert len(all_jobs(api)) == before + 1
        server.wait(api, answers[0].job.name)
        assert_invariants(server)


class TestValidateOnly:
    """validate_only."""

    def test_changes_nothing(self, daemon: StartDaemon) -> None:
        """It tells what would happen, and nothing happens."""
        # Of its own: jobs of other tests would still be changing.
        server = daemon()
        api = server.api()
        jobs, files = all_jobs(api), content(server)
        request_id = str(uuid.uuid4())
        answer = server.create(api, validate_only=True, request_id=request_id)

        assert answer.job.name == ""
        assert answer.admission.decision == ADMISSION_DECISION_ADMIT
        assert answer.admission.reservation.cores == 1.0
        assert all_jobs(api) == jobs
        assert content(server) == files

    def test_id_is_not_used_up(self, api: Api, server: Daemon) -> None:
        """After trying a request, the same one can be made."""
        request_id = str(uuid.uuid4())
        api(api.jobs.CreateJob, server.request(validate_only=True, request_id=request_id))

        assert server.create(api, request_id=request_id).job.state == JOB_STATE_STARTING

    @pytest.mark.reason("FIELD_INVALID")
    def test_uploads_may_still_come(self, api: Api, server: Daemon) -> None:
        """What has no name yet may be asked about, and no job can be made of it."""
        request = server.request(validate_only=True)
        request.job.transcription.tracks[0].upload = "uploads/-"
        answer = api(api.jobs.CreateJob, request)
        request.validate_only = False
        with refused("FIELD_INVALID"):
            api(api.jobs.CreateJob, request)

        assert answer.admission.decision == ADMISSION_DECISION_ADMIT

    @pytest.mark.reason("MODEL_UNKNOWN")
    def test_refuses_alike(self, api: Api, server: Daemon) -> None:
        """What would be refused is refused."""
        request = server.request(validate_only=True)
        request.job.transcription.model = "gigantic"
        with refused("MODEL_UNKNOWN", grpc.StatusCode.NOT_FOUND):
            api(api.jobs.CreateJob, request)


class TestMedia:
    """Paths and uploads in tracks."""

    @pytest.fixture
    def ask(self, api: Api, server: Daemon) -> Callable[[str], None]:
        """Ask for a job that reads a path."""

        def create(path: str) -> None:
            request = server.request()
            request.job.transcription.tracks[0].path = path
            api(api.jobs.CreateJob, request)

        return create

    @pytest.mark.reason("PATH_FORBIDDEN")
    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "/etc/no-such", "{media}/../daemon.log", "/", "/proc/self/fd/0"]
    )
    def test_outside(self, ask: Callable[[str], None], server: Daemon, path: str) -> None:
        """Outside of the roots nothing is read, and nothing is told of what is there."""
        with refused("PATH_FORBIDDEN", grpc.StatusCode.PERMISSION_DENIED):
            ask(path.format(media=server.media))

    @pytest.mark.reason("PATH_FORBIDDEN")
    def test_link_out(self, ask: Callable[[str], None], server: Daemon) -> None:
        """A symbolic link inside a root opens nothing outside of it."""
        (server.media / "link.wav").symlink_to("/etc/passwd")
        (server.media / "linked").symlink_to("/etc")
        for path in ("link.wav", "linked/passwd"):
            with refused("PATH_FORBIDDEN"):
                ask(str(server.media / path))

    @pytest.mark.reason("MEDIA_NOT_FOUND")
    @pytest.mark.parametrize("name", ["missing.wav", "", "pipe"])
    def test_no_file(self, ask: Callable[[str], None], server: Daemon, name: str) -> None:
        """What is missing, or is a directory or a pipe, is no media."""
        if name == "pipe":
            os.mkfifo(server.media / "pipe")
        with refused("MEDIA_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            ask(str(server.media / name))

    @pytest.mark.reason("UPLOAD_NOT_FOUND")
    def test_no_upload(self, api: Api, server: Daemon) -> None:
        """An upload that is not there is named."""
        request = server.request()
        request.job.transcription.tracks[0].upload = f"uploads/{uuid.uuid4()}"
        with refused("UPLOAD_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            api(api.jobs.CreateJob, request)


class TestModels:
    """Models, languages and engines."""

    @pytest.mark.reason("MODEL_MISSING")
    def test_missing(self, api: Api, server: Daemon) -> None:
        """A model of the catalogue that is not here says how to get it."""
        request = server.request()
        request.job.transcription.model = "small"
        with refused("MODEL_MISSING", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            api(api.jobs.CreateJob, request)

        assert "models pull" in refusal.error.message

    @pytest.mark.reason("MODEL_INVALID")
    @pytest.mark.parametrize("content", [b"weight", b"WEIGHTS", b""])
    def test_damaged(self, api: Api, server: Daemon, content: bytes) -> None:
        """A file cut short, with other bytes or empty is seen before any worker starts."""
        name = f"tiny.damaged{len(content)}{content[:1].decode()}".lower()
        models.install(server.models, name).write_bytes(content)
        request = server.request()
        request.job.transcription.model = name
        with refused("MODEL_INVALID", grpc.StatusCode.FAILED_PRECONDITION):
            api(api.jobs.CreateJob, request)

    @pytest.mark.reason("LANGUAGE_UNSUPPORTED")
    def test_language(self, api: Api, server: Daemon) -> None:
        """An English model takes neither another language nor translation."""
        models.install(server.models, "tiny.english", is_multilingual=False)
        for spec in (
            TranscriptionSpec(language="de"),
            TranscriptionSpec(task=TRANSCRIPTION_TASK_TRANSLATE),
        ):
            request = server.request()
            request.job.transcription.model = "tiny.english"
            request.job.transcription.MergeFrom(spec)
            with refused("LANGUAGE_UNSUPPORTED", grpc.StatusCode.INVALID_ARGUMENT):
                api(api.jobs.CreateJob, request)

    @pytest.mark.reason("ENGINE_UNAVAILABLE")
    def test_engine(self, api: Api, server: Daemon) -> None:
        """An engine that has no files of the model is refused, and others are named."""
        models.install(server.models, "tiny.one", engines=("ctranslate2",))
        request = server.request()
        request.job.transcription.model = "tiny.one"
        request.job.transcription.engine = SPEECH_ENGINE_WHISPERCPP
        with refused("ENGINE_UNAVAILABLE", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            api(api.jobs.CreateJob, request)

        assert refusal.error.metadata["engines"] == "ctranslate2"

    def test_gone_while_waiting(self, daemon: StartDaemon) -> None:
        """A model that vanishes while a job waits for its turn ends the job, not the daemon."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
        api = one.api()
        first, second = one.create(api, "until go").job, one.create(api).job
        (one.models / models.NAME / "model.bin").write_bytes(b"other")
        (one.root / "tmp" / "go").touch()
        one.wait(api, first.name)

        assert failure(one.wait(api, second.name)) == "MODEL_INVALID"
        assert_invariants(one)


class TestCapacity:
    """Admission's answers."""

    @pytest.mark.parametrize(
        ("machine", "reason"),
        [
            pytest.param(
                replace(CALM, cores_external=3.5),
                "CPU_EXHAUSTED",
                marks=pytest.mark.reason("CPU_EXHAUSTED"),
                id="cores",
            ),
            pytest.param(
                replace(CALM, memory_external_bytes=8 * GIB - 1),
                "MEMORY_EXHAUSTED",
                marks=pytest.mark.reason("MEMORY_EXHAUSTED"),
                id="memory",
            ),
            pytest.param(
                replace(CALM, disk_free_bytes=GIB),
                "DISK_EXHAUSTED",
                marks=pytest.mark.reason("DISK_EXHAUSTED"),
                id="disk",
            ),
            pytest.param(
                replace(CALM, memory_total_bytes=8 * GIB),
                "CANNOT_FIT",
                marks=pytest.mark.reason("CANNOT_FIT"),
                id="budget",
            ),
        ],
    )
    def test_no_queue(self, described: Daemon, machine: Host, reason: str) -> None:
        """Who does not want to wait is told the resource, what it takes and what is left."""
        api = described.api()
        show(described, machine)
        with refused(reason) as refusal:
            described.create(api, no_queue=True)

        assert float(refusal.error.metadata["required"]) > float(
            refusal.error.metadata["available"]
        )
        assert all_jobs(api) == []

    @pytest.mark.reason("SLOTS_EXHAUSTED", "QUEUE_FULL")
    def test_slots_and_queue(self, daemon: StartDaemon) -> None:
        """A ceiling of one running and one waiting job is held, and each refusal says when."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1, "max_queued_jobs": 1}})
        api = one.api()
        assert one.create(api, "sleep").admission.decision == ADMISSION_DECISION_ADMIT
        with refused("SLOTS_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as slots:
            one.create(api, no_queue=True)
        waiting = one.create(api)
        with refused("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED) as full:
            one.create(api)

        assert waiting.job.state == JOB_STATE_QUEUED
        assert waiting.admission.decision == ADMISSION_DECISION_QUEUE
        assert waiting.admission.waiting_for == ERROR_REASON_SLOTS_EXHAUSTED
        assert waiting.admission.queue_position == 1
        assert slots.error.retry_after_seconds == full.error.retry_after_seconds == 10.0
        assert_invariants(one)

    def test_the_machine_as_it_is(self, daemon: StartDaemon) -> None:
        """Without a described machine the daemon finds one that can exist."""
        one = daemon(machine=None)
        api = one.api()
        capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity

        assert capacity.cores.total > 0
        assert capacity.memory_bytes.total > capacity.memory_bytes.headroom
        for account in (capacity.cores, capacity.memory_bytes, capacity.disk_bytes):
            used = account.headroom + account.reserved + account.external
            assert account.available == pytest.approx(account.total - used)


def test_state_directory_is_private(server: Daemon) -> None:
    """Nobody else can read what is kept of jobs, and least of all the token."""
    assert _mode(server.token_file) == 0o600
    assert _mode(server.state / "callsd.db") == 0o600
    assert _mode(server.state) & 0o007 == 0
    assert _mode(server.runtime / "workers" / "door.sock") == 0o600
    assert _mode(server.runtime / "callsd.sock") == 0o660


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
