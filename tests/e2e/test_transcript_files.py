# SPDX-License-Identifier: Apache-2.0
"""What is asked for of a transcript's files, through the whole system."""

import re

import pytest
from google.protobuf.duration_pb2 import Duration

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from callsd.v1.transcription_pb2 import (
    TRANSCRIPT_FORMAT_TEXT,
    TRANSCRIPT_FORMAT_VTT,
    TextCompaction,
)
from tests.e2e.media import GOOD
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.transcripts import transcribe, transcript


FILES = [TRANSCRIPT_FORMAT_VTT, TRANSCRIPT_FORMAT_TEXT]


def seconds(text: str) -> list[tuple[int, int]]:
    """When each block begins and ends."""
    stamps = re.findall(r"^(\d\d):(\d\d):(\d\d) -> (\d\d):(\d\d):(\d\d)$", text, re.MULTILINE)
    return [
        (3600 * int(h) + 60 * int(m) + int(s), 3600 * int(eh) + 60 * int(em) + int(es))
        for h, m, s, eh, em, es in stamps
    ]


@pytest.fixture(scope="module")
def usual(server: Daemon) -> Job:
    """A transcript as it is made unless something else is asked for."""
    job = transcribe(server, server.api(), GOOD, formats=FILES)
    assert job.state == JOB_STATE_SUCCEEDED
    return job


def test_never_joined(server: Daemon, api: Api, usual: Job) -> None:
    """With both limits 0 every segment is a block; otherwise some are joined.

    Without speakers the subtitles are the words alone, and the text has them nevertheless.
    """
    never = TextCompaction(silence=Duration(), max_duration=Duration())
    job = transcribe(
        server, api, GOOD, formats=FILES, text_compaction=never, webvtt_omit_speaker=True
    )

    segments = job.transcription_result.segment_count
    assert segments == usual.transcription_result.segment_count
    assert len(seconds(transcript(server, job))) == segments
    assert len(seconds(transcript(server, usual))) < segments
    assert transcript(server, job, "vtt") == transcript(server, usual, "vtt").replace(
        "<v joe>(joe) ", ""
    )
    assert transcript(server, job).splitlines().count("joe") == segments


def test_limits(server: Daemon, api: Api, usual: Job) -> None:
    """An hour for both joins all that one speaker says without another between."""
    hour = Duration(seconds=3600)
    asked = TextCompaction(silence=hour, max_duration=hour)
    job = transcribe(server, api, GOOD, formats=FILES, text_compaction=asked)

    (block,) = seconds(transcript(server, job))
    assert block == (
        seconds(transcript(server, usual))[0][0],
        seconds(transcript(server, usual))[-1][1],
    )
    assert job.transcription.text_compaction == asked
