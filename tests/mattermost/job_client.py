# SPDX-License-Identifier: Apache-2.0
"""The plugin as a client of a job service: what it sends, in Go's manner, and what it accepts."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from tests.mattermost.answers import encode
from tests.mattermost.state import Call, Job, new_id


RECORDER = "calls-recorder:v0.8.13"
TRANSCRIBER = "calls-transcriber:v0.7.2"
MIN_VERSION = (0, 9, 0)

PROFILES: dict[str, dict[str, int | str]] = {
    "low": {
        "width": 1280,
        "height": 720,
        "video_rate": 1000,
        "audio_rate": 64,
        "frame_rate": 15,
        "video_preset": "ultrafast",
    },
    "medium": {
        "width": 1280,
        "height": 720,
        "video_rate": 1500,
        "audio_rate": 64,
        "frame_rate": 20,
        "video_preset": "veryfast",
    },
    "high": {
        "width": 1920,
        "height": 1080,
        "video_rate": 2500,
        "audio_rate": 64,
        "frame_rate": 20,
        "video_preset": "veryfast",
    },
}
"""Of the setting RecordingQuality."""

_ANSWER_SECONDS = 120.0
_DIAL_SECONDS = 5.0
_SEMVER = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


class JobServiceError(Exception):
    """The job service refused or could not be reached; the text is the plugin's."""


def basic(client_id: str, auth_key: str) -> str:
    """The value of the Authorization header."""
    return "Basic " + base64.b64encode(f"{client_id}:{auth_key}".encode()).decode()


class JobClient:
    """Speaks to one job service; `open` makes one. A connection is kept, as Go keeps it."""

    def __init__(self, url: str, client_id: str, auth_key: str, registry: str) -> None:
        parts = urlsplit(url.removesuffix("/"))
        if not client_id:
            # Credentials in the URL come after those of the environment; else the plugin makes
            # a key, and its id is that of the server's telemetry.
            client_id = unquote(parts.username or "") or new_id()
            auth_key = unquote(parts.password or "") or new_id() + new_id()[:6]
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit(parts._replace(netloc=host))
        self.client_id = client_id
        self.registry = registry
        self._auth = {"Authorization": basic(client_id, auth_key)}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_DIAL_SECONDS, sock_read=_ANSWER_SECONDS
        )
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            headers={"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"},
            skip_auto_headers=["Content-Type", "Accept"],  # Go sends neither
        )

    @classmethod
    async def open(
        cls,
        url: str,
        client_id: str,
        auth_key: str,
        *,
        registry: str,
        transcriptions: bool,
    ) -> Self:
        """Check the version and announce the runners, as at activation. JobServiceError."""
        client = cls(url, client_id, auth_key, registry)
        try:
            await client._check_version()
            runners = [f"{registry}/{RECORDER}"]
            if transcriptions:
                runners.append(f"{registry}/{TRANSCRIBER}")
            await client._post("/jobs/init", {"Runners": runners}, has_answer=False)
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    async def create(self, job: Job, runner: str, max_duration_seconds: int) -> None:
        """Ask for this job: its `input_data` is sent, its `job_id` set. JobServiceError."""
        document = {
            "type": str(job.type),
            "input_data": dict(sorted(job.input_data.items())),
            "max_duration_sec": max_duration_seconds,
            "runner": f"{self.registry}/{runner}",
        }
        answer = await self._post("/jobs", document)
        job.job_id = str(answer.get("id", ""))

    async def _check_version(self) -> None:
        _, answer = await self._request("GET", "/version", None, has_auth=False)
        version = str(answer.get("buildVersion", ""))
        if version in {"", "master"} or version.startswith("dev"):
            return
        found = _SEMVER.fullmatch(version)
        if found is None:
            raise JobServiceError(f"failed to parse build version: {version}")
        if tuple(int(part) for part in found.groups()[:3]) < MIN_VERSION:
            raise JobServiceError(
                f"current version ({version}) is lower than minimum supported version (v0.9.0)"
            )

    async def _post(
        self, path: str, document: dict[str, Any], *, has_answer: bool = True
    ) -> dict[str, Any]:
        status, answer = await self._request(
            "POST", path, encode(document), has_auth=True, has_answer=has_answer
        )
        assert status == 200
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        has_auth: bool,
        has_answer: bool = True,
    ) -> tuple[int, dict[str, Any]]:
        url = URL(self.url + path, encoded=True)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=self._auth if has_auth else None,
                allow_redirects=False,
            ) as response:
                text = await response.text(errors="replace")
                status, reason = response.status, response.reason
        except (aiohttp.ClientError, OSError) as error:
            raise JobServiceError(f'{method.capitalize()} "{url}": {error}') from error
        if status == 401:
            raise JobServiceError("unauthorized")
        if status == 200 and not has_answer:
            return status, {}
        answer = _decoded(text)
        if status != 200:
            if message := answer.get("error"):
                raise JobServiceError(f"request failed: {message}")
            raise JobServiceError(f"request failed with status {status} {reason}")
        return status, answer


def _decoded(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        stripped = text.lstrip()
        why = (
            f"invalid character '{stripped[0]}' looking for beginning of value"
            if stripped
            else "EOF"
        )
        raise JobServiceError(f"decoding http response failed: {why}") from error
    if not isinstance(document, dict):
        raise JobServiceError("decoding http response failed: json: cannot unmarshal into Go value")
    return document


def recording_input(
    call: Call, job: Job, *, site_url: str, token: str, quality: str, extras: Mapping[str, str]
) -> dict[str, Any]:
    """`input_data` of a recording. `extras` come from the environment and win, as strings."""
    return {
        "site_url": site_url,
        "call_id": call.channel_id,
        "post_id": call.post_id,
        "recording_id": job.id,
        "auth_token": token,
        **PROFILES[quality],
        "output_format": "mp4",
        **extras,
    }


def transcribing_input(
    call: Call,
    job: Job,
    *,
    site_url: str,
    token: str,
    live_captions: bool,
    extras: Mapping[str, str],
) -> dict[str, Any]:
    """`input_data` of a transcription."""
    return {
        "site_url": site_url,
        "call_id": call.channel_id,
        "post_id": call.post_id,
        "transcription_id": job.id,
        "auth_token": token,
        "transcribe_api": "whisper.cpp",
        "transcribe_api_options": "null",
        "model_size": "base",
        "output_format": "vtt",
        "num_threads": 2,
        "live_captions_on": live_captions,
        "live_captions_model_size": "tiny",
        "live_captions_num_transcribers": 1,
        "live_captions_num_threads_per_transcriber": 2,
        "live_captions_language": "en",
        "webvtt_omit_speaker": False,
        "text_compact_silence_threshold_ms": 2000,
        "text_compact_max_segment_duration_ms": 10000,
        **extras,
    }
