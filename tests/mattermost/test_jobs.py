# SPDX-License-Identifier: Apache-2.0


import pytest

from tests.mattermost.client import SUCCESS, Client, status_path
from tests.mattermost.job_client import JobServiceError, basic
from tests.mattermost.job_service import JobService
from tests.mattermost.server import HostError, MattermostServer
from tests.mattermost.state import JobType


class TestJobService:
    """What the plugin asks of a job service, and what it makes of the answers."""

    async def test_what_is_sent_at_activation(
        self, server: MattermostServer, service: JobService
    ) -> None:
        """/version without credentials, then the runners with Basic and without Content-Type."""
        await server.activate(service.url, "client", "secret", transcriptions=True)
        (version, init) = service.seen
        assert version[0] == "/version"
        assert "Authorization" not in version[1]
        assert version[1]["User-Agent"] == "Go-http-client/1.1"
        assert init[0] == "/jobs/init"
        assert init[1]["Authorization"] == basic("client", "secret")
        assert "Content-Type" not in init[1]
        assert init[2] == (
            b'{"Runners":["mattermost/calls-recorder:v0.8.13",'
            b'"mattermost/calls-transcriber:v0.7.2"]}\n'
        )

    async def test_credentials_of_the_url(
        self, server: MattermostServer, service: JobService
    ) -> None:
        """They are used and stripped; without transcriptions there is one runner."""
        url = f"http://some:key@127.0.0.1:{service.port}/"
        await server.activate(url, transcriptions=False)
        expected = basic("some", "key")
        assert service.seen[1][1]["Authorization"] == expected
        assert service.bodies("/jobs/init") == [{"Runners": ["mattermost/calls-recorder:v0.8.13"]}]

    @pytest.mark.parametrize("version", ["", "master", "dev-1", "v0.9.0", "1.2.3"])
    async def test_versions_that_are_accepted(
        self, server: MattermostServer, service: JobService, version: str
    ) -> None:
        """Nothing, `master`, `dev…` and what is not below 0.9.0."""
        service.version = {"buildVersion": version}
        await server.activate(service.url)
        assert len(service.bodies("/jobs/init")) == 1

    @pytest.mark.parametrize("version", ["callsd-1.0", "v0.8.9", "1.0"])
    async def test_versions_that_are_refused(
        self, server: MattermostServer, service: JobService, version: str
    ) -> None:
        """All else: the job service is not initialised then."""
        service.version = {"buildVersion": version}
        with pytest.raises(JobServiceError, match="failed to create job service"):
            await server.activate(service.url)
        with pytest.raises(HostError, match="Job service is not initialized"):
            await server.start_recording(server.start_call())

    async def test_jobs(self, server: MattermostServer, service: JobService) -> None:
        """A recording and then a transcription of twice the duration, with what each needs."""
        await server.activate(service.url, "client", "k" * 32)
        call = server.start_call()
        job = await server.start_recording(
            call, recorder_extras={"width": "1920", "language": "de"}
        )
        recording, transcription = service.bodies("/jobs")
        assert recording == {
            "type": "recording",
            "max_duration_sec": 3600,
            "runner": "mattermost/calls-recorder:v0.8.13",
            "input_data": {
                "site_url": server.url,
                "call_id": call.channel_id,
                "post_id": call.post_id,
                "recording_id": job.id,
                "auth_token": server.bot_token,
                "width": "1920",
                "height": 720,
                "video_rate": 1500,
                "audio_rate": 64,
                "frame_rate": 20,
                "video_preset": "veryfast",
                "output_format": "mp4",
                "language": "de",
            },
        }
        assert transcription["type"] == "transcribing"
        assert transcription["max_duration_sec"] == 7200
        assert transcription["input_data"]["transcription_id"] == call.transcription.id
        assert transcription["input_data"]["transcribe_api_options"] == "null"
        assert job.job_id == "abcdefghijkl"
        assert [one.type for one in call.jobs] == list(JobType)
        with pytest.raises(HostError, match="recording already in progress"):
            await server.start_recording(call)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ((401, "{}"), "failed to create recording job: unauthorized"),
            (
                (500, '{"error":"no room","code":"500"}'),
                "failed to create recording job: request failed: no room",
            ),
            (
                (201, '{"id":"x"}'),
                "failed to create recording job: request failed with status 201 Created",
            ),
            (
                (502, "<html>"),
                (
                    "failed to create recording job: decoding http response failed: "
                    "invalid character '<' looking for beginning of value"
                ),
            ),
        ],
        ids=["401", "500", "201", "html"],
    )
    async def test_a_refused_recording(
        self, server: MattermostServer, service: JobService, answer: tuple[int, str], message: str
    ) -> None:
        """The host sees the text; nothing is active, and no transcription was asked for."""
        await server.activate(service.url)
        service.answers["recording"] = answer
        call = server.start_call()
        with pytest.raises(HostError) as error:
            await server.start_recording(call)
        assert (error.value.status, error.value.message) == (500, message)
        assert call.active(JobType.RECORDING) is None
        assert len(service.bodies("/jobs")) == 1

    async def test_a_refused_transcription(
        self, server: MattermostServer, service: JobService, client: Client
    ) -> None:
        """The host sees an error, yet the recording is active and its recorder may start."""
        await server.activate(service.url)
        service.answers["transcribing"] = (500, '{"error":"no room","code":"500"}')
        call = server.start_call()
        with pytest.raises(HostError, match="request failed: no room"):
            await server.start_recording(call)
        with pytest.raises(HostError, match="recording already in progress"):
            await server.start_recording(call)
        report = {"JobType": "recording", "Status": "started", "omitempty": ""}
        assert await client.post(status_path(call, call.recording.id), report) == SUCCESS

    @pytest.mark.parametrize("started", [JobType.RECORDING, JobType.TRANSCRIBING])
    async def test_start_check(self, service: JobService, started: JobType) -> None:
        """A job that does not start in time fails, and the other one is stopped, too."""
        async with MattermostServer(start_check_seconds=0.2) as server:
            await server.activate(service.url)
            call = server.start_call()
            await server.start_recording(call)
            job = call.newest(started)
            await server.plugin.report(
                call.channel_id, job.id, {"jobtype": started, "status": "started"}
            )
            other = next(one for one in (call.recording, call.transcription) if one is not job)
            await server.until(lambda: not other.is_active, "the check")
            name = "recording" if other is call.recording else "transcriber"
            assert other.err == (
                f"failed to start {name} job: timed out waiting for bot to join call"
            )
            if other is call.recording:
                assert not job.is_active
