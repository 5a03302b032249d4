# SPDX-License-Identifier: Apache-2.0
"""A worker that does what the job's prompt says, to see what the daemon makes of it.

The daemon runs this file instead of the real worker when CALLSD_WORKER_PROGRAM names it. The
session with the daemon is the real one. The prompt, or what a recording waits for, is a script; for
a recording of a Mattermost call it is in the file `recorder` in TMPDIR, for a capture in `capturer`
and for transcriptions in `transcriber` if these are there:
commands separated by ";", of which "2: exit 1" only counts for the second worker of a job. A worker
that comes to the end of its script has done its work, and so has one that shall save what is left
of a recording; before that as many of these die as the file `deaths-at-salvage` in TMPDIR says.
What shall happen before hello is in the file `before-hello` in TMPDIR, and what a
captioner shall do in `captioner`.
"""

import hashlib
import importlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from callsd_ipc import names
from callsd_ipc.names import ARTIFACTS, OUTCOME, VIDEO_FILE
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.files import write_whole
from callsd_worker.session import bootstrap, client
from callsd_worker.session.client import Session
from callsd_worker.session.inputs import Inputs
from callsd_worker.session.outcome import (
    artifact_of,
    has_outcome,
    write_artifact,
    write_outcome,
)


TEMPORARY = Path(os.environ["TMPDIR"])
TRANSCRIPT = b"WEBVTT\n"
FOREVER_SECONDS = 600.0
POLL_SECONDS = 0.02
MIB = 1024**2
FILM = "film"
"""Name of the piece that `film` records."""

VAST_BYTES = 15 * 1024**4
"""Longer than the disk, and short enough for its file system."""


def write_film(path: Path, size_bytes: int) -> None:
    """Write a file, random in the beginning and then in one block of each megabyte.

    So it takes little of the disk, and no part of it can stand in another one's place unseen.
    """
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        file.write(os.urandom(min(size_bytes, 8 * MIB)))
        for offset in range(8 * MIB, size_bytes, MIB):
            file.seek(offset)
            file.write(os.urandom(min(4096, size_bytes - offset)))
        file.truncate(size_bytes)
    draft.replace(path)


class Script:
    """The commands. Each is a method; `_` in its name is "-" in the script."""

    def __init__(self, told: worker_pb2.Bootstrap) -> None:
        self.bootstrap = told
        self.session = Session(told)
        self.telling = threading.Lock()
        self.is_mute = False
        original = client.LogTail.next

        def next_of_log(tail: client.LogTail) -> worker_pb2.LogData | None:
            with self.telling:
                return None if self.is_mute else original(tail)

        client.LogTail.next = next_of_log  # type: ignore[assignment, method-assign]
        self.directory = Path.cwd()
        self.is_deaf = False
        self.failure: tuple[str, str] | None = None
        self.lies: list[worker_pb2.ArtifactFile] = []
        self.outcome: worker_pb2.Outcome | None = None
        """What else it says of its work in the end."""
        self.has_no_files = False
        """It is all right that nothing was made."""
        self.is_of_release_before = False

    def run(self, text: str) -> None:
        """Follow a script."""
        for line in filter(None, map(str.strip, text.split(";"))):
            generation, _, command = line.rpartition(":")
            if int(generation or self.bootstrap.generation) == self.bootstrap.generation:
                name, *arguments = command.split()
                getattr(self, name.replace("-", "_"))(*arguments)

    def finish(self) -> None:
        """Leave what a worker leaves that has done its work."""
        good = [] if self.failure else self.lies
        if not (self.failure or self.lies or self.has_no_files):
            good = [write_artifact(self.directory, "transcript.vtt", "text/vtt", TRANSCRIPT)]
        write_outcome(
            self.directory, self.bootstrap.generation, failure=self.failure, artifacts=good
        )
        if self.outcome is not None:
            del self.outcome.artifacts[:]
            self.outcome.artifacts.extend(good)
            write_whole(self.directory / OUTCOME, self.outcome.SerializeToString())
        if not self.is_of_release_before:
            self.session.deliver()

    def salvage(self) -> None:
        """Bring what a worker has left that is gone, or make something of its pieces."""
        is_there = has_outcome(self.directory, self.bootstrap.generation)
        if not is_there and (self.directory / "pieces").exists():
            if self._has_filmed():
                self._join()
            self.finish()
        else:
            self.session.deliver()

    def _wait(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            if self.session.should_stop() and not self.is_deaf:
                self.failure = ("CANCELLED", "asked to stop")
                self.finish()
                sys.exit(0)
            time.sleep(POLL_SECONDS)

    # Behaving well

    def succeed(self) -> None:
        """Nothing remarkable."""

    def say(self, phase: str, fraction: str = "0") -> None:
        """Report a phase, and give the report time to arrive."""
        self.session.report(worker_pb2.Status(phase=phase, fraction=float(fraction)))
        time.sleep(0.3)

    def sleep(self, seconds: str = str(FOREVER_SECONDS)) -> None:
        """Work for a while."""
        end = time.monotonic() + float(seconds)
        self._wait(lambda: time.monotonic() > end)

    def until(self, name: str) -> None:
        """Work until there is a file of this name in TMPDIR."""
        self._wait((TEMPORARY / name).exists)

    def touch(self, name: str) -> None:
        """Tell the test how far the script is, by a file in TMPDIR."""
        (TEMPORARY / name).touch()

    def print(self, text: str) -> None:
        """Write a line into the log."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def read(self, name: str) -> None:
        """Ask for a file of the assignment."""
        os.close(Inputs(self.bootstrap, self.directory).open(name))

    def piece(self) -> None:
        """Have recorded something."""
        (self.directory / "pieces").mkdir()
        (self.directory / "pieces" / "1").write_bytes(b"pictures")

    def film(self, megabytes: str) -> None:
        """Record until it is stopped, or there is a file `over` in TMPDIR.

        What is recorded lies in a piece, as a real recorder's does, from the first picture on.
        """
        piece = self.directory / "pieces" / FILM
        if not self._has_filmed():
            piece.parent.mkdir(exist_ok=True)
            write_film(piece, round(float(megabytes) * MIB))
        picture = worker_pb2.RecordingStatus(frame_count=1)
        self.session.report(worker_pb2.Status(phase="recording", recording=picture))
        while not self.session.should_stop() and not (TEMPORARY / "over").exists():
            time.sleep(POLL_SECONDS)
        self._join()

    def _has_filmed(self) -> bool:
        """Whether there is a film, be it joined or not."""
        places = (Path("pieces", FILM), Path(ARTIFACTS, VIDEO_FILE))
        return any((self.directory / place).exists() for place in places)

    def _join(self) -> None:
        """Make a file of what is recorded."""
        piece, video = self.directory / "pieces" / FILM, self.directory / ARTIFACTS / VIDEO_FILE
        video.parent.mkdir(exist_ok=True)
        if piece.exists():
            piece.replace(video)
        self.lies = [artifact_of(self.directory, VIDEO_FILE, "video/mp4")]

    def transcribe(self, count: str) -> None:
        """Make a transcript of so many segments, in the forms that Mattermost wants."""
        files = {"transcript.vtt": "text/vtt", "transcript.txt": "text/plain"}
        self.lies = [
            write_artifact(self.directory, name, media_type, TRANSCRIPT + os.urandom(100))
            for name, media_type in files.items()
        ]
        made = worker_pb2.TranscriptionOutcome(segment_count=int(count), language="de")
        generation = self.bootstrap.generation
        self.outcome = worker_pb2.Outcome(generation=generation, transcription=made)

    def capture(self, count: str, *problem: str) -> None:
        """Hear so many speakers, until it is stopped or there is a file `over` in TMPDIR.

        With a problem it is cut short at once.
        """
        self.session.report(worker_pb2.Status(phase="capturing"))
        while not (problem or self.session.should_stop() or (TEMPORARY / "over").exists()):
            time.sleep(POLL_SECONDS)
        self.has_no_files = True
        names_of_tracks = [f"{number}.ogg" for number in range(int(count))]
        self.lies = [
            write_artifact(self.directory, name, "audio/ogg", os.urandom(100))
            for name in names_of_tracks
        ]
        began_ms = round(time.time() * 1000)
        tracks = [
            worker_pb2.CapturedTrack(
                file_name=name, speaker=f"Speaker {name}", start_ms=began_ms, duration_seconds=1.0
            )
            for name in names_of_tracks
        ]
        made = worker_pb2.CaptureOutcome(
            tracks=tracks, recording_start_ms=began_ms, problem=" ".join(problem)
        )
        self.outcome = worker_pb2.Outcome(generation=self.bootstrap.generation, capture=made)

    def note(self, name: str) -> None:
        """Add this job to a list in TMPDIR: one write, which kills cannot tear."""
        with (TEMPORARY / name).open("a") as file:
            file.write(f"{self.bootstrap.job_id}\n")

    def fail(self, reason: str) -> None:
        """End with this failure."""
        self.failure = (reason, "as the script says")

    # Dying

    def crash(self, name: str) -> None:
        """Die by a signal."""
        os.kill(os.getpid(), signal.Signals[name])

    def exit(self, code: str) -> None:
        """End without an outcome."""
        os._exit(int(code))

    def die_before(self, call: str, count: str) -> None:
        """Be killed instead of doing this call of `write_whole` (fsync, replace) this time."""
        owner = os if call == "fsync" else Path
        original, left = getattr(owner, call), itertools.count(int(count) - 1, -1)

        def counted(*arguments: object) -> object:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(owner, call, counted)

    # Misbehaving

    def ignore_term(self) -> None:
        """Neither obey the daemon's order nor SIGTERM; only SIGKILL helps."""
        self.is_deaf = True
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def hang(self) -> None:
        """Say nothing any more, and hear nothing."""
        self.is_deaf = True
        with self.session._changed:
            time.sleep(FOREVER_SECONDS)

    def stopped(self) -> None:
        """Be frozen, as by a debugger."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def fork_grandchild(self) -> None:
        """Leave a process behind in a session of its own, whose parent is gone."""
        sleeper = f"import time; time.sleep({FOREVER_SECONDS})"
        middle = (
            "import subprocess, sys;"
            f"subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=True)"
        )
        subprocess.run([sys.executable, "-c", middle], start_new_session=True, check=True)

    def flood_log(self, megabytes: str) -> None:
        """Write a lot, without a line break, and bytes that are no text."""
        for _ in range(int(megabytes)):
            os.write(1, b"\xff\x00spam" * (1024 * 1024 // 6))
            time.sleep(POLL_SECONDS)

    def flood_at(self, megabytes_per_second: str, seconds: str) -> None:
        """Write so much, for so long, whatever becomes of it."""
        piece = b"\xff\x00spam" * (1024 * 1024 // 6)
        began, written = time.monotonic(), 0
        while (passed := time.monotonic() - began) < float(seconds):
            if written < passed * float(megabytes_per_second) * 1e6:
                written += os.write(1, piece)
            else:
                time.sleep(0.001)

    def eat(self, megabytes: str) -> None:
        """Use so much memory, a little at a time."""
        eaten = []
        for _ in range(int(megabytes)):
            eaten.append(os.urandom(1000) * 1000)
            time.sleep(0.001)

    def leave(self, kind: str, *names: str) -> None:
        """Tell no more of the log, and leave in the own directory what is no file of ours."""
        # What is left shall be found, not told.
        with self.telling:
            self.is_mute = True
        for name in names:
            self._leave(kind, self.directory / name)

    def offer(self, kind: str) -> None:
        """Report a finished file that is no file of ours, with the size and hash of what it is."""
        (self.directory / "artifacts").mkdir()
        size_bytes, content = self._leave(kind, self.directory / "artifacts" / "transcript.vtt")
        offered = worker_pb2.ArtifactFile(
            file_name="transcript.vtt",
            media_type="text/vtt",
            size_bytes=size_bytes,
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self.lies = [offered]

    def _leave(self, kind: str, path: Path) -> tuple[int, bytes]:
        path.unlink(missing_ok=True)
        token = Path(self.bootstrap.endpoint.removeprefix("unix:")).parents[1] / "owner.token"
        content = token.read_bytes() if kind in ("link", "name") else b""
        size_bytes = len(content)
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
                (path / "something").touch()
            case "link":
                path.symlink_to(token)
            case "name":
                path.hardlink_to(token)
            case "sparse" | "vast":
                disk = shutil.disk_usage(path.parent)
                size_bytes = VAST_BYTES if kind == "vast" else disk.total // 2
                path.touch()
                os.truncate(path, size_bytes)
            case _:
                raise ValueError(kind)
        return size_bytes, content

    def lie_artifact(self) -> None:
        """Report a file that is not there."""
        self.lies = [worker_pb2.ArtifactFile(file_name="transcript.vtt", size_bytes=7)]

    # Before hello

    def never_hello(self) -> None:
        """Start, and never dial the daemon."""
        time.sleep(FOREVER_SECONDS)

    def wrong_token(self) -> None:
        """Be somebody else."""
        self.bootstrap.token = "guessed"

    def old_generation(self) -> None:
        """Be the worker of the attempt before."""
        self.bootstrap.generation -= 1

    # Of other releases

    def version(self, number: str) -> None:
        """Speak another version of the protocol, from the next session on.

        Version 1 had a disk in common with the daemon: it wrote all that it made, and its log,
        into the job's own directory, said nothing of that, and did not wait.
        """
        names.PROTOCOL_VERSION = int(number)
        if number == "1":
            self.is_of_release_before = True
            (self.directory / "log.txt").unlink()
            self.directory = self.directory.parents[1] / "jobs" / self.bootstrap.job_id
            log = os.open(self.directory / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            for output in (1, 2):
                os.dup2(log, output)

    def flood_session(self, seconds: str, seed: str) -> None:
        """Send the daemon whatever the protocol has words for, as fast as it takes it."""
        flood = importlib.import_module("flood")
        pool = flood.Pool(TEMPORARY / "flood.json", self.bootstrap)
        (TEMPORARY / "flooding").touch()
        sent = flood.run(self.bootstrap, pool, seconds=float(seconds), seed=seed)
        write_whole(TEMPORARY / "flooded", json.dumps(sent).encode())
        self.outcome = worker_pb2.Outcome.FromString(pool.outcome)
        self.outcome.generation = self.bootstrap.generation

    # As a captioner

    def caption(self) -> None:
        """Hear nothing but silence, for as long as the daemon wants."""
        reports: queue.SimpleQueue[worker_pb2.CaptionRequest] = queue.SimpleQueue()
        reports.put(worker_pb2.CaptionRequest(hello=bootstrap.hello(self.bootstrap)))

        def report() -> Iterator[worker_pb2.CaptionRequest]:
            while True:
                try:
                    yield reports.get(timeout=client.STATUS_SECONDS)
                except queue.Empty:
                    yield worker_pb2.CaptionRequest(status=worker_pb2.CaptionerStatus())

        stub = worker_pb2_grpc.WorkerServiceStub(bootstrap.channel(self.bootstrap))
        for order in stub.Caption(report()):
            match order.WhichOneof("order"):
                case "end":
                    news = worker_pb2.TrackNews(
                        track=order.end.track, processed_sample=2**40, is_drained=True
                    )
                    reports.put(worker_pb2.CaptionRequest(news=news))
                case _:
                    pass


def main() -> None:
    """Do a job as its script says."""
    script = Script(worker_pb2.Bootstrap.FromString(sys.stdin.buffer.read()))
    if bootstrap.is_captioner(script.bootstrap):
        script.run((TEMPORARY / "captioner").read_text())
        return
    if script.bootstrap.HasField("salvage"):
        if (deaths := TEMPORARY / "deaths-at-salvage").exists():
            left = int(deaths.read_text()) - 1
            deaths.write_text(str(left)) if left else deaths.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        script.salvage()
        return
    before = TEMPORARY / "before-hello"
    if before.exists():
        script.run(before.read_text())
    if script.session.start(FOREVER_SECONDS):
        assert script.session.assignment is not None
        work = script.session.assignment
        transcriber = TEMPORARY / "transcriber"
        if "recording.html" in work.recording.url:
            script.run((TEMPORARY / "recorder").read_text())
        elif work.HasField("capture"):
            capturer = TEMPORARY / "capturer"
            script.run(capturer.read_text() if capturer.exists() else "capture 1")
        elif work.HasField("transcription") and transcriber.exists():
            script.run(transcriber.read_text())
        else:
            script.run(work.transcription.initial_prompt or work.recording.ready_expression)
    else:
        script.failure = ("CANCELLED", "stopped before it began")
    script.finish()


if __name__ == "__main__":
    main()
