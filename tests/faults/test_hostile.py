# SPDX-License-Identifier: Apache-2.0
"""Workers that somebody has taken over: what they leave, and what they say."""

import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from callsd import duration
from callsd.v1.caption_pb2 import AudioChunk
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    GetJobRequest,
    StopJobRequest,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.faults.flood_pool import write_pool
from tests.helpers.api import Api, log_of
from tests.helpers.captions import Sender, Viewer, ask_for_call, end_call
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.history import Pulse
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.alone

AT_ONCE = 7
MIB = 1024 * 1024

KINDS = ("pipe", "link", "directory", "name", "vast")
"""What is left instead of a file: a pipe, a symbolic link to the owner's token, a directory, a
second name of that token, and a file that is longer than the disk."""

LENGTHS = pytest.mark.parametrize(
    "seconds", [5, pytest.param(60, marks=pytest.mark.slow)], ids=["short", "long"]
)
MOST_GROWTH_BYTES = 48 * MIB
SPEAKER = "ada"
END_SECONDS = 5.0


@pytest.fixture(scope="module")
def pool(seed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What floods are made of; to draw it takes as long as to send it."""
    path = tmp_path_factory.mktemp("pool") / "flood.json"
    write_pool(path, random.Random(seed))  # noqa: S311 - no secret
    return path


class Flood:
    """What a flood does to a daemon and to its other jobs while it goes on."""

    def __init__(self, one: Daemon) -> None:
        assert one.process is not None
        self._one = one
        self._process = psutil.Process(one.process.pid)
        self._before = self._most = self._process.memory_info().rss
        self.pulse = Pulse(one)
        self._done = 0

    def await_begin(self) -> None:
        """Wait until messages come."""
        eventually((self._one.root / "tmp" / "flooding").exists, "it begins", seconds=30)

    @property
    def _sent(self) -> Path:
        return self._one.root / "tmp" / "flooded"

    @property
    def is_over(self) -> bool:
        """Whether all is sent."""
        return self._sent.exists()

    def do_other_work(self, api: Api) -> None:
        """See another one's job done."""
        name = self._one.create(api, "read media/0").job.name
        assert self._one.wait(api, name).state == JOB_STATE_SUCCEEDED
        self._done += 1
        self._most = max(self._most, self._process.memory_info().rss)

    def check(self, *, seconds: float) -> str:
        """Nobody was harmed; returns the figures."""
        healthy = self.pulse.assert_regular()
        grown = self._most - self._before
        assert self._done > 2
        assert grown < MOST_GROWTH_BYTES
        sent = json.loads(self._sent.read_text())
        megabytes = sent.pop("bytes") / 1e6
        return (
            f"{seconds:g} s, {sum(sent.values())} messages of {megabytes:.0f} MB: "
            f"health p99 {healthy * 1000:.0f} ms, {grown / MIB:.0f} MiB more, "
            f"{self._done} jobs of others meanwhile"
        )


def chunk(sequence: int) -> AudioChunk:
    """A tenth of a second of sound."""
    start = duration((sequence - 1) / 10)
    return AudioChunk(speaker=SPEAKER, sequence=sequence, start_offset=start, data=bytes(2 * 1600))


def kept_files(one: Daemon) -> bytes:
    """All that is in the files that are kept of jobs."""
    found = b""
    for path in sorted((one.state / "jobs").rglob("*")):
        assert not path.is_symlink(), path
        assert path.is_dir() or path.is_file(), path
        found += path.read_bytes() if path.is_file() else b""
    return found


@pytest.mark.scenario(50, "pipes, links, directories, vast files: a clear failure, nobody waits")
@pytest.mark.reason("WORKER_KILLED")
def test_what_is_no_file(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """Whatever a worker leaves where its files should be, only its own job fails.

    Seven of them at once, by five kinds in three places: in all that the daemon opens by itself;
    in the outcome, which another worker is to bring; and as a finished file that is reported.
    """
    one = daemon(
        machine=replace(CALM, cores_total=16.0),
        config={"jobs": {"max_attempts": 1, "max_concurrent_jobs": AT_ONCE}},
    )
    api, other = one.api(), one.api()
    token = one.token.encode()
    scripts = [
        script
        for kind in KINDS
        for script in (
            f"leave {kind} log.txt exit outcome.binpb; exit 7",
            f"leave {kind} outcome.binpb; exit 7",
            f"offer {kind}",
        )
    ]
    with Pulse(one) as pulse:
        names = {one.create(api, script).job.name: script for script in scripts}
        mine = one.create(other).job.name
        ended = {name: one.wait(api, name, seconds=60) for name in names}
        assert one.wait(other, mine).state == JOB_STATE_SUCCEEDED
    healthy = pulse.assert_regular()

    for name, script in names.items():
        assert failure(ended[name]) == "WORKER_KILLED", script
        assert ended[name].failure.message
        assert not ended[name].artifacts
        assert token not in log_of(api, name), script
        if script.startswith("offer"):
            assert b"the outcome cannot be used: " in log_of(api, name), script
    assert token not in kept_files(one)
    assert one.token.encode() == token
    assert_invariants(one)
    record_figure(f"{len(names)} such workers: health p99 {healthy * 1000:.0f} ms")
    asked_at = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - asked_at < END_SECONDS


@pytest.mark.scenario(50, "files that take hours to look at: it ends in time, and so do they")
def test_files_that_take_long(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """While long files are being looked at, the daemon answers, ends when told, and goes on."""
    one = daemon(
        machine=replace(CALM, cores_total=16.0),
        config={"jobs": {"max_concurrent_jobs": AT_ONCE, "start_timeout_seconds": 5.0}},
    )
    api = one.api()
    names = [one.create(api, "offer sparse").job.name for _ in range(AT_ONCE)]
    drafts = [one.job_directory(name) / "artifacts" / ".transcript.vtt.part" for name in names]
    with Pulse(one) as pulse:
        for draft in drafts:
            eventually(draft.exists, "it was taken", seconds=30)
        asked_at = time.monotonic()
        assert one.stop() == 0
        took = time.monotonic() - asked_at
    assert took < END_SECONDS
    api = one.start().api()
    for name in names:
        one.wait(api, name, JOB_STATE_RUNNING)
    record_figure(f"the end takes {took:.1f} s, with {AT_ONCE} such files")
    for name in names:
        api(api.jobs.StopJob, StopJobRequest(name=name))
    for name in names:
        assert one.wait(api, name).state == JOB_STATE_CANCELLED
    assert len(pulse.seconds) > 1
    assert_invariants(one)


@pytest.mark.scenario(50, "anything, as fast as it is taken: health p99 < 250 ms, memory bounded")
@LENGTHS
@pytest.mark.timeout(240)
def test_flood(
    daemon: StartDaemon,
    pool: Path,
    chance: random.Random,
    record_figure: RecordFigure,
    seconds: int,
) -> None:
    """A worker that sends anything it can harms nobody, and what is kept of it can be read."""
    one = daemon(config={"jobs": {"max_attempts": 1, "max_log_bytes": MIB}})
    os.link(pool, one.root / "tmp" / "flood.json")
    api, other = one.api(), one.api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    flood = Flood(one)
    flooding = one.create(api, f"flood-session {seconds} {chance.getrandbits(32)}").job
    flood.await_begin()
    with flood.pulse:
        while not flood.is_over:
            flood.do_other_work(other)
            assert one.job(api, flooding.name).name == flooding.name
    ended = one.wait(api, flooding.name)

    assert ended.state == JOB_STATE_SUCCEEDED
    assert ended.transcription_result.tracks
    assert len(ended.notices) == 64
    assert api(api.jobs.GetJob, GetJobRequest(name=flooding.name)).job == ended
    assert ended in all_jobs(api)
    assert len(log_of(api, flooding.name)) <= MIB + 100
    figures = flood.check(seconds=seconds)
    assert_invariants(one)
    api = one.restart().api()
    assert one.job(api, flooding.name) == ended
    record_figure(figures)


@pytest.mark.scenario(50, "captions of anything: health p99 < 250 ms, streams go on, all bounded")
@LENGTHS
@pytest.mark.timeout(240)
def test_flood_of_captions(
    daemon: StartDaemon,
    pool: Path,
    chance: random.Random,
    record_figure: RecordFigure,
    seconds: int,
) -> None:
    """A captioner that reports anything it can harms nobody, and another one goes on after it."""
    one = daemon()
    os.link(pool, one.root / "tmp" / "flood.json")
    seed = chance.getrandbits(32)
    (one.root / "tmp" / "captioner").write_text(
        f"1: flood-session {seconds} {seed}; 1: exit 7; caption"
    )
    api, other = one.api(), one.api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    flood = Flood(one)
    name = ask_for_call(one, api)
    flood.await_begin()
    with Viewer(api, name) as viewer, Sender(api, name) as sender:
        sent = 0
        with flood.pulse:
            while not flood.is_over:
                sent += 1
                sender.send(audio=chunk(sent))
                flood.do_other_work(other)
        sender.wait_received(SPEAKER, sent)
        ended = end_call(one, api, name)
        sender.join()
        viewer.join()
    with Viewer(api, name, resume_sequence=0) as kept:
        kept.join()

    assert ended.state == JOB_STATE_SUCCEEDED
    assert ended.captions_result.restart_count == 1
    assert kept.sequences == list(range(1, ended.captions_result.caption_count + 1))
    assert viewer.sequences == kept.sequences
    assert len(one.job_directory(name).joinpath("captions.jsonl").read_bytes()) < MIB
    assert len(log_of(api, name)) < MIB
    figures = flood.check(seconds=seconds)
    assert_invariants(one)
    record_figure(figures)
