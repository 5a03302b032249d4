# SPDX-License-Identifier: Apache-2.0
"""Requests to the HTTP gateway, as Mattermost's plugin makes them."""

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of the gateway."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """What it says."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """One client of a gateway; each request has a connection of its own."""

    port: int
    client_id: str = "n7c4i6u1tjyr5bmq3dk8xw2esh"
    key: str = "k" * 32
    authorization: str = ""
    """Instead of client and key."""

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        is_known: bool = True,
    ) -> Answer:
        """Make a request; like the plugin's, its body has no content type."""
        sent = dict(headers or {})
        if is_known:
            pair = base64.b64encode(f"{self.client_id}:{self.key}".encode()).decode()
            sent["Authorization"] = self.authorization or f"Basic {pair}"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, content, sent)
            response = connection.getresponse()
            return Answer(
                status=response.status, body=response.read(), headers=dict(response.getheaders())
            )
        finally:
            connection.close()


def identifier(letter: str) -> str:
    """An identifier as Mattermost makes them."""
    return letter * 26


def recording(**changes: Any) -> dict[str, Any]:
    """What the plugin posts for a recording; `changes` are of its `input_data`."""
    return {
        "type": "recording",
        "max_duration_sec": 3600,
        "runner": "mattermost/calls-recorder:v0.8.13",
        "input_data": {
            "site_url": "http://127.0.0.1:9",
            "call_id": identifier("c"),
            "post_id": identifier("p"),
            "recording_id": identifier("r"),
            "auth_token": TOKEN,
            "width": 1280,
            "height": 720,
            "video_rate": 1500,
            "audio_rate": 64,
            "frame_rate": 20,
            "video_preset": "veryfast",
            "output_format": "mp4",
        }
        | changes,
    }


def transcribing(**changes: Any) -> dict[str, Any]:
    """What the plugin posts for a transcription."""
    return {
        "type": "transcribing",
        "max_duration_sec": 7200,
        "runner": "mattermost/calls-transcriber:v0.7.2",
        "input_data": {
            "site_url": "http://127.0.0.1:9",
            "call_id": identifier("c"),
            "post_id": identifier("p"),
            "transcription_id": identifier("t"),
            "auth_token": TOKEN,
            "transcribe_api": "whisper.cpp",
            "transcribe_api_options": "null",
            "model_size": "base",
            "output_format": "vtt",
            "num_threads": 2,
            "live_captions_on": True,
            "live_captions_model_size": "tiny",
            "live_captions_num_transcribers": 1,
            "live_captions_num_threads_per_transcriber": 2,
            "live_captions_language": "en",
            "webvtt_omit_speaker": False,
            "text_compact_silence_threshold_ms": 2000,
            "text_compact_max_segment_duration_ms": 10000,
        }
        | changes,
    }


TOKEN = "qj75unbsef83ik9p7ueypb6iyw"
