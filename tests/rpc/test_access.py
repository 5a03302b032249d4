# SPDX-License-Identifier: Apache-2.0
"""Who may do what, and how one gets in at all."""

import socket
import ssl
import time
import urllib.request
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from callsd import Client
from callsd.v1.job_pb2 import GetJobRequest, ListJobsRequest, WatchJobsRequest
from callsd.v1.model_pb2 import ListModelsRequest, PullModelRequest, VerifyModelRequest
from callsd.v1.server_pb2 import GetCapacityRequest, GetServerInfoRequest
from callsd_daemon.rpc.public import SERVICES
from callsd_daemon.rpc.scraping import MAX_CONNECTIONS
from callsd_daemon.tokens import SCOPES, TokenFile
from callsd_daemon.usecases.access import SCOPE_OF
from tests.conftest import StartDaemon
from tests.helpers import models
from tests.helpers.api import Api, health
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import footprint
from tests.helpers.ports import free_port
from tests.helpers.reasons import refused, status
from tests.helpers.waiting import eventually


UNKNOWN = "jobs/0123456789abcdef0123"


def tokens(one: Daemon) -> TokenFile:
    """The daemon's tokens, as the command line edits them."""
    return TokenFile(one.state / "tokens.json")


class TestTokens:
    """Bearer tokens."""

    @pytest.mark.reason("TOKEN_MISSING")
    def test_none(self, server: Daemon) -> None:
        """Without a token nothing is told, not even what exists."""
        api = server.api("")
        with refused("TOKEN_MISSING", grpc.StatusCode.UNAUTHENTICATED):
            api(api.server.GetServerInfo, GetServerInfoRequest())
        with refused("TOKEN_MISSING"):
            next(api.stream(api.jobs.WatchJobs, WatchJobsRequest()))

    @pytest.mark.reason("TOKEN_INVALID")
    @pytest.mark.parametrize("secret", ["wrong", "callsd_", "x" * 7000, "a b", "ä".encode().hex()])
    def test_wrong(self, server: Daemon, secret: str) -> None:
        """An unknown token is refused, whatever it looks like."""
        api = server.api(secret)
        with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED):
            api(api.server.GetServerInfo, GetServerInfoRequest())

    @pytest.mark.reason("TOKEN_INVALID")
    @pytest.mark.parametrize("scheme", ["Basic ", "", "Bearer  ", "bearer:"])
    def test_scheme(self, api: Api, scheme: str) -> None:
        """Only bearer tokens are taken."""
        metadata = (("authorization", f"{scheme}{api.token}"),)
        with refused("TOKEN_INVALID"):
            api.server.GetServerInfo(GetServerInfoRequest(), metadata=metadata, timeout=10)

    @pytest.mark.reason("TOKEN_INVALID")
    def test_no_file_to_look_in(self, daemon: StartDaemon) -> None:
        """While the tokens cannot be read nobody is let in, and told so; then all are as before."""
        one = daemon()
        api, file = one.api(), one.state / "tokens.json"
        good = file.read_bytes()
        file.write_bytes(b"{")
        with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED) as refusal:
            api(api.jobs.ListJobs, ListJobsRequest())
        with refused("TOKEN_INVALID"):
            api(api.jobs.ListJobs, ListJobsRequest())
        assert "file of tokens cannot be used" in str(refusal.error)
        file.unlink()
        file.mkdir()
        with refused("TOKEN_INVALID"):
            api(api.jobs.ListJobs, ListJobsRequest())
        file.rmdir()
        file.write_bytes(good)

        assert api(api.jobs.ListJobs, ListJobsRequest()) is not None
        assert len(one.events("tokens_unusable")) == 2
        assert one.bugs() == []

    @pytest.mark.reason("TOKEN_INVALID")
    def test_expired(self, server: Daemon) -> None:
        """A token is worth nothing after its time."""
        api = server.api(tokens(server).create("brief", ("jobs.read",), 1.0))
        made = time.time()
        assert api(api.jobs.ListJobs, ListJobsRequest()) is not None
        eventually(lambda: time.time() > made + 1.0, "its time is over")
        with refused("TOKEN_INVALID"):
            api(api.jobs.ListJobs, ListJobsRequest())

    @pytest.mark.reason("TOKEN_INVALID")
    def test_revoked(self, server: Daemon) -> None:
        """A token is worth nothing from the moment it is revoked."""
        api = server.api(tokens(server).create("gone", ("jobs.read",)))
        api(api.jobs.ListJobs, ListJobsRequest())
        tokens(server).revoke("gone")
        with refused("TOKEN_INVALID"):
            api(api.jobs.ListJobs, ListJobsRequest())

    def test_never_in_the_log(self, server: Daemon) -> None:
        """Neither good nor bad tokens are written down."""
        secret = tokens(server).create("quiet", ("jobs.read",))
        for token in (secret, "callsd_guessed-by-somebody"):
            api = server.api(token)
            with pytest.raises(grpc.RpcError) as caught:
                api(api.models.VerifyModel, VerifyModelRequest(name=models.NAME))
            assert token not in str(caught.value)
        assert secret not in server.log
        assert "guessed-by-somebody" not in server.log
        assert server.token not in server.log


REFLECTION = "ServerReflectionInfo"
"""Of gRPC's own service."""

METHODS = [
    f"/{service}/{method.name}"
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
]


class TestScopes:
    """What a token is good for."""

    def test_every_method_has_one(self) -> None:
        """No method of ours is left without a decision about its scope."""
        names = [path.rpartition("/")[2] for path in METHODS]

        assert sorted([*names, REFLECTION]) == sorted(SCOPE_OF)

    @pytest.mark.reason("SCOPE_MISSING")
    @pytest.mark.parametrize(
        "method", [path for path in METHODS if SCOPE_OF[path.rpartition("/")[2]]]
    )
    def test_missing(self, server: Daemon, method: str) -> None:
        """With all scopes but the one, the method is refused, before its request is looked at."""
        needed = SCOPE_OF[method.rpartition("/")[2]]
        name = f"no-{needed}"
        if name not in {token.name for token in tokens(server).list()}:
            scopes = tuple(scope for scope in SCOPES if scope != needed)
            (server.root / name).write_text(tokens(server).create(name, scopes))
        api = server.api((server.root / name).read_text())
        call = api.raw(method)
        with refused("SCOPE_MISSING", grpc.StatusCode.PERMISSION_DENIED) as refusal:
            list(call(iter([b"\xff no message"]), timeout=10, metadata=api.metadata))

        assert refusal.error.metadata["scope"] == needed

    @pytest.mark.reason("SCOPE_MISSING")
    def test_before_not_found(self, server: Daemon) -> None:
        """Who may not look does not learn what exists."""
        api = server.api(tokens(server).create("writer", ("jobs.write",)))
        for name in (UNKNOWN, "malformed"):
            with refused("SCOPE_MISSING"):
                api(api.jobs.GetJob, GetJobRequest(name=name))

    def test_any_token(self, server: Daemon) -> None:
        """What the server is may be asked with any token."""
        api = server.api(tokens(server).create("nothing", ()))

        assert api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.version


class TestOpen:
    """Health, reflection, and services that are not there."""

    def test_health(self, server: Daemon) -> None:
        """Health is told without a token, for each service."""
        with server.channel() as channel:
            stub = health(channel)
            for service in ("", *SERVICES):
                request = health_pb2.HealthCheckRequest(service=service)
                answer = stub.Check(request, timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            unknown = health_pb2.HealthCheckRequest(service="no.such")
            code = status(lambda: stub.Check(unknown, timeout=5))
        assert code is grpc.StatusCode.NOT_FOUND

    @pytest.mark.reason("TOKEN_MISSING")
    def test_reflection(self, api: Api, server: Daemon) -> None:
        """With any token a client learns all services and their messages; without one nothing."""
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
        ]
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(api.channel)
        listed, described = stub.ServerReflectionInfo(
            iter(requests), timeout=5, metadata=api.metadata
        )
        with refused("TOKEN_MISSING"):
            list(stub.ServerReflectionInfo(iter(requests), timeout=5))

        names = {service.name for service in listed.list_services_response.service}
        assert set(SERVICES) <= names
        assert "grpc.health.v1.Health" in names
        assert described.file_descriptor_response.file_descriptor_proto

    def test_unknown_method(self, api: Api) -> None:
        """What does not exist is UNIMPLEMENTED."""
        call = api.raw("/callsd.v1.JobService/NoSuchMethod")
        code = status(lambda: list(call(iter([b""]), timeout=5, metadata=api.metadata)))

        assert code is grpc.StatusCode.UNIMPLEMENTED


class TestModels:
    """ModelService, as far as it needs no weights."""

    def test_list(self, api: Api) -> None:
        """The catalogue and what is here."""
        found = {model.name for model in api(api.models.ListModels, ListModelsRequest()).models}

        assert {models.NAME, "tiny.en", "base"} <= found

    @pytest.mark.reason("FIELD_INVALID", "MODEL_UNKNOWN")
    def test_names(self, api: Api) -> None:
        """What cannot be a model, or is none, is refused."""
        for name in ("", "../x", "a" * 900_000, "A"):
            with refused("FIELD_INVALID"):
                api(api.models.VerifyModel, VerifyModelRequest(name=name))
            with refused("FIELD_INVALID"):
                list(api.stream(api.models.PullModel, PullModelRequest(name=name)))
        with refused("MODEL_UNKNOWN", grpc.StatusCode.NOT_FOUND):
            api(api.models.VerifyModel, VerifyModelRequest(name="gigantic"))
        with refused("FIELD_INVALID"):
            list(api.stream(api.models.PullModel, PullModelRequest(name="base", source="moon")))

    @pytest.mark.reason("SOURCE_UNAVAILABLE")
    def test_no_source(self, daemon: StartDaemon) -> None:
        """Where no source answers, a pull says so, and leaves nothing behind."""
        nowhere = "http://127.0.0.1:9"
        one = daemon(
            env={
                "PIP_INDEX_URL": f"{nowhere}/simple",
                "PIP_RETRIES": "0",
                "PIP_CONFIG_FILE": "/dev/null",
                "HF_ENDPOINT": nowhere,
                "http_proxy": nowhere,
                "https_proxy": nowhere,
                "no_proxy": "",
            }
        )
        api = one.api()
        with refused("SOURCE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE):
            list(api.stream(api.models.PullModel, PullModelRequest(name="tiny.en")))

        left = {path.name for path in one.models.iterdir()}
        assert left <= {models.NAME, ".lock"}


CERTIFICATE = Path(__file__).parent / "tls" / "cert.pem"
"""Self-signed, for localhost, valid for a hundred years: openssl req -x509 -newkey ec
-pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=localhost
-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"""


class TestTcp:
    """TCP, with and without TLS."""

    def test_tls(self, daemon: StartDaemon) -> None:
        """With the certificate's authority a client gets in; without it, or in the clear, not."""
        port = free_port()
        one = daemon(is_started=False)
        one.settings["server"] = {
            "listen": [one.address, f"tcp:0.0.0.0:{port}"],
            "tls_certificate": str(CERTIFICATE),
            "tls_key": str(CERTIFICATE.with_name("key.pem")),
        }
        one.start()
        with Client(
            f"tls:localhost:{port}", token_file=one.token_file, ca_file=CERTIFICATE
        ) as client:
            assert client.get_server_info().version
        for channel in (
            grpc.insecure_channel(f"localhost:{port}"),
            grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials()),
        ):
            with channel:
                stranger = Api(channel, one.token)
                call = partial(stranger, stranger.server.GetServerInfo, GetServerInfoRequest())
                assert status(call) is grpc.StatusCode.UNAVAILABLE
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            trusting.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            assert secured.version() in ("TLSv1.2", "TLSv1.3")

    def test_garbage(self, daemon: StartDaemon) -> None:
        """Whatever is sent to the port that is no HTTP/2 harms nobody."""
        port = free_port()
        one = daemon(is_started=False)
        one.settings["server"] = {"listen": [one.address, f"tcp:127.0.0.1:{port}"]}
        one.start()
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\0" * 100_000):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                try:
                    raw.sendall(garbage)
                    while raw.recv(4096):
                        pass
                except (ConnectionError, TimeoutError):
                    continue
        api = one.api()
        assert api(api.server.GetCapacity, GetCapacityRequest()).capacity.cores.total == 4


@pytest.fixture(scope="module")
def metered(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that tells its metrics."""
    return shared_daemon(config={"metrics": {"listen": f"127.0.0.1:{free_port()}"}})


@pytest.fixture
def port(metered: Daemon) -> int:
    """Where it tells them."""
    return int(metered.settings["metrics"]["listen"].rpartition(":")[2])


class TestMetrics:
    """The Prometheus endpoint."""

    def test_metrics(self, metered: Daemon, port: int) -> None:
        """What was done is counted, by names that are ours."""
        names = (
            'callsd_jobs_ended_total{kind="transcription",reason="",state="succeeded"}',
            'callsd_admission_decisions_total{decision="admit",reason=""}',
            'callsd_rpc_seconds_count{code="OK",method="CreateJob"}',
        )

        def told() -> list[float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            counts = dict(line.rsplit(" ", 1) for line in lines)
            return [float(counts.get(name, 0)) for name in names]

        api, before = metered.api(), told()
        metered.wait(api, metered.create(api).job.name)
        # An end is counted when it is on the disk, and the job's directory in order.
        eventually(lambda: told()[0] > before[0], "the end is counted")

        assert told() == [count + 1 for count in before]

    def test_idle_connections(self, daemon: StartDaemon) -> None:
        """However many connect and say nothing, or little: no thread, few descriptors, an end."""
        port = free_port()
        one = daemon(
            config={"metrics": {"listen": f"127.0.0.1:{port}"}},
            constants={"callsd_daemon.rpc.scraping.CONNECTION_SECONDS": 1.0},
        )
        before = footprint(one)
        with ExitStack() as resources:
            idle = [
                resources.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                for _ in range(5 * MAX_CONNECTIONS)
            ]
            for connection in idle[::2]:
                with suppress(ConnectionError):
                    connection.sendall(b"GET / HTTP/1.1\r\n")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                assert b"callsd_rpc_seconds" in answer.read()
            during = footprint(one)
            for connection in idle:
                with suppress(ConnectionError):
                    assert connection.recv(1) == b""

        assert during.threads <= before.threads + 1
        assert during.descriptors <= before.descriptors + MAX_CONNECTIONS + 1

    @pytest.mark.parametrize("garbage", [b"\0" * 100_000, b"POST / HTTP/1.1\r\n\r\n", b"\r\n\r\n"])
    def test_garbage(self, port: int, garbage: bytes) -> None:
        """What does not ask for metrics gets none, and harms nobody."""
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            suppress(ConnectionError),
        ):
            raw.sendall(garbage)
            while part := raw.recv(4096):
                answer += part

        assert not answer or answer.startswith(b"HTTP/1.1 405 ")
