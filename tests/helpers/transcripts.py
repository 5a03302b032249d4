# SPDX-License-Identifier: Apache-2.0
"""Real transcriptions by a real daemon."""

from pathlib import Path

from callsd.v1.job_pb2 import CreateJobRequest, Job
from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon


JOB_SECONDS = 90.0


def request(*paths: Path, **spec: object) -> CreateJobRequest:
    """Asks for these files to be transcribed, one speaker each."""
    tracks = [Track(path=str(path), speaker=path.stem) for path in paths]
    job = Job(transcription=TranscriptionSpec(tracks=tracks, **spec))  # type: ignore[arg-type]
    return CreateJobRequest(job=job)


def submit(server: Daemon, api: Api, *paths: Path, **spec: object) -> str:
    """Begin a transcription; returns the job's name."""
    name = api(api.jobs.CreateJob, request(*paths, **spec)).job.name
    server.acknowledged.add(name)
    return name


def transcribe(server: Daemon, api: Api, *paths: Path, **spec: object) -> Job:
    """Transcribe files to the job's end, whichever that is."""
    return server.wait(api, submit(server, api, *paths, **spec), seconds=JOB_SECONDS)


def transcript(server: Daemon, job: Job, suffix: str = "txt") -> str:
    """What a job wrote."""
    directory = server.job_directory(job.name) / "artifacts"
    return (directory / f"transcript.{suffix}").read_text()
