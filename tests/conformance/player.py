# SPDX-License-Identifier: Apache-2.0
"""Plays a case of clients/conformance/scenario.toml with a driver."""

import hashlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2

from callsd.v1.job_pb2 import CreateJobRequest, Job, StopJobRequest
from callsd.v1.transcription_pb2 import Track, TranscriptionSpec
from callsd_daemon.tokens import TokenFile
from tests.conformance.conditions import filled, unfulfilled
from tests.conformance.driver import Command, Driver
from tests.conformance.network import Network
from tests.helpers.api import Api, health
from tests.helpers.daemon import ROOT, SAMPLE_CALL, Daemon
from tests.helpers.invariants import all_jobs, stored_changes
from tests.helpers.ports import free_port
from tests.helpers.speech import errors, speech
from tests.helpers.waiting import eventually


STEP_SECONDS = 60.0
"""How long a step may take on a machine that is busy otherwise."""

SPOKEN = (
    "There is one more thing that worries me. We only found the problem because the queue was long."
    " If the jobs had failed quietly, we would not have known until the morning."
)
SPOKEN_SECONDS = (26.0, 37.5)
SPOKEN_ERRORS = 3
"""What Kenji says, when, and how many words tiny.en may get wrong; a word lost or doubled at a cut
comes with its neighbours, so that it does not hide among these."""

LARGE_TRACKS = 200
LARGE_CHARACTERS = 190

TLS = ROOT / "tests" / "rpc" / "tls"

# What stands in a step beside the arguments of its command.
_WORDS = frozenset({"do", "start", "as", "expect", "fails"})


def daemon_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Daemon` for the `daemon` of a case."""
    config, constants = settings.get("config", {}), settings.get("constants")
    if settings.get("workers") != "real":
        return {"config": config, "constants": constants}
    config = {**config, "admission": {"enforced": False}}
    return {"config": config, "constants": constants, "is_real": True, "machine": None}


def open_port(daemon: Daemon) -> None:
    """Have a daemon that is not started yet listen at a TCP port with TLS, too."""
    daemon.settings["server"] = {
        "listen": [daemon.address, f"tcp:127.0.0.1:{free_port()}"],
        "tls_certificate": str(TLS / "cert.pem"),
        "tls_key": str(TLS / "key.pem"),
    }


def given(daemon: Daemon, network: Network, folder: Path) -> dict[str, Any]:
    """The values that every case has, and the files they name."""
    port = daemon.settings.get("server", {"listen": [""]})["listen"][-1].rpartition(":")[2]
    tokens = TokenFile(daemon.state / "tokens.json")
    (folder / "reader.token").write_text(tokens.create("reader", ("jobs.read",)))
    (folder / "wrong.token").write_text("callsd_nobody-has-this-one")
    (folder / "kenji.pcm").write_bytes(speech("kenji", *SPOKEN_SECONDS).tobytes())
    return {
        "daemon": {
            "address": daemon.address,
            "tls": f"tls:localhost:{port}",
            "ca": str(TLS / "cert.pem"),
            "token": str(daemon.token_file),
            "reader": str(folder / "reader.token"),
            "wrong": str(folder / "wrong.token"),
            "track": str(daemon.track),
        },
        "network": {"address": network.address},
        "files": {
            "nina": str(SAMPLE_CALL / "nina.ogg"),
            "kenji": str(folder / "kenji.pcm"),
        },
        "folder": str(folder),
    }


class Player:
    """One case on its way: a daemon, a driver, and what was seen so far."""

    def __init__(
        self, *, daemon: Daemon, driver: Driver, network: Network, values: dict[str, Any]
    ) -> None:
        self._daemon = daemon
        self._driver = driver
        self._network = network
        self._values = values
        self._commands: dict[str, Command] = {}
        self._first_revisions: dict[str, int] = {}

    def play(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Do all steps; fails with the step that did not go as it should."""
        for step in steps:
            if count := step.get("repeat"):
                for _ in range(count):
                    self.play(step["steps"])
                continue
            try:
                self._take(step)
            except AssertionError as problem:
                problem.add_note(f"in the step {step}")
                problem.add_note(f"the driver's standard error: {self._driver.log.read_text()}")
                raise

    def _take(self, step: Mapping[str, Any]) -> None:
        match next(iter(step)):
            case "do":
                self._do(step)
            case "start":
                self._start(step)
            case "wait":
                self._wait(step)
            case "cancel":
                self._cancel(step)
            case "daemon":
                self._move_daemon(step["daemon"])
            case "network":
                self._move_network(step)
            case "elsewhere":
                self._elsewhere(step)
            case "check":
                self._check(step)
            case unknown:
                raise AssertionError(f"no step begins with {unknown}")

    # What the driver does

    def _start(self, step: Mapping[str, Any], word: str = "start") -> Command:
        arguments = {key: value for key, value in step.items() if key not in _WORDS}
        if step[word] == "watchJobs":
            self._first_revisions[step["as"]] = max(stored_changes(self._daemon), default=0)
        command = self._driver.send(step[word], **filled(arguments, self._values))
        if name := step.get("as"):
            self._commands[name] = command
        return command

    def _do(self, step: Mapping[str, Any]) -> None:
        command = self._start(step, "do")
        self._driver.wait(lambda: command.is_over, "its answer", STEP_SECONDS)
        self._judge(command, step)

    def _wait(self, step: Mapping[str, Any]) -> None:
        command = self._commands[step["wait"]]
        if until := step.get("until"):
            self._wait_event(command, until, step)
        else:
            self._driver.wait(lambda: command.is_over, "its end", STEP_SECONDS)
            self._judge(command, {"as": step["wait"], **step})

    def _wait_event(self, command: Command, until: Sequence[str], step: Mapping[str, Any]) -> None:
        def is_told() -> bool:
            while command.looked_at < len(command.events):
                event = command.events[command.looked_at]
                command.looked_at += 1
                if not unfulfilled(until, event, self._values):
                    if name := step.get("as"):
                        self._values[name] = event
                    return True
            assert not command.is_over, f"it ended: {command.error or command.result}"
            return False

        self._driver.wait(is_told, f"an event with {' and '.join(until)}", STEP_SECONDS)

    def _judge(self, command: Command, step: Mapping[str, Any]) -> None:
        if "fails" in step:
            assert command.error is not None, f"it succeeded: {command.result}"
            self._hold(step["fails"], command.error)
            return
        assert command.result is not None, f"it failed: {command.error}"
        self._hold(step.get("expect", ()), command.result)
        if name := step.get("as"):
            self._values[name] = command.result

    def _hold(self, conditions: Sequence[str], answer: Mapping[str, Any]) -> None:
        problems = unfulfilled(conditions, answer, self._values)
        assert not problems, "; ".join(problems) + f" in {answer}"

    def _cancel(self, step: Mapping[str, Any]) -> None:
        target = self._commands[step["cancel"]]
        cancelling = self._driver.send("cancel", target=target.sent["id"])
        self._driver.wait(
            lambda: cancelling.is_over and target.is_over, "both to end", STEP_SECONDS
        )
        assert cancelling.result is not None, f"it failed: {cancelling.error}"
        assert target.result is not None, f"the stream failed: {target.error}"

    # What happens to the daemon, between, and elsewhere

    def _move_daemon(self, action: str) -> None:
        daemon = self._daemon
        match action:
            case "kill":
                daemon.kill()
            case "start":
                daemon.start()
            case "drain":
                daemon.signal(signal.SIGTERM)
                eventually(self._is_draining, "the daemon says NOT_SERVING")
            case "end":
                daemon.wait_dead()
            case "freeze":
                daemon.signal(signal.SIGSTOP)
            case "thaw":
                daemon.signal(signal.SIGCONT)
            case _:
                raise AssertionError(f"unknown: {action}")

    def _is_draining(self) -> bool:
        with self._daemon.channel() as channel:
            answer = health(channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
        return bool(answer.status == health_pb2.HealthCheckResponse.NOT_SERVING)

    def _move_network(self, step: Mapping[str, Any]) -> None:
        match step["network"]:
            case "cut":
                self._network.cut(
                    to_daemon=step.get("to_daemon", 0), to_client=step.get("to_client", 0)
                )
            case "was cut":
                assert self._network.was_cut.wait(STEP_SECONDS), "so many bytes never passed"
            case "hold":
                self._network.hold()
            case _:
                raise AssertionError("unknown")

    def _elsewhere(self, step: Mapping[str, Any]) -> None:
        with self._daemon.channel() as channel:
            api = Api(channel, self._daemon.token)
            match step["elsewhere"]:
                case "jobs":
                    for _ in range(step["count"]):
                        self._daemon.wait(api, self._daemon.create(api).job.name)
                case "large":
                    requests = [self._large() for _ in range(step["count"])]
                    names = [api(api.jobs.CreateJob, one).job.name for one in requests]
                    for name in names:
                        api(api.jobs.StopJob, StopJobRequest(name=name))
                case "known":
                    eventually(lambda: len(all_jobs(api)) == step["count"], f"{step['count']} jobs")
                case _:
                    raise AssertionError("unknown")

    def _large(self) -> CreateJobRequest:
        tracks = [
            Track(path=str(self._daemon.track), speaker=f"{number:0{LARGE_CHARACTERS}}")
            for number in range(LARGE_TRACKS)
        ]
        spec = TranscriptionSpec(tracks=tracks, initial_prompt="succeed")
        return CreateJobRequest(job=Job(transcription=spec))

    # What takes a program to look at

    def _check(self, step: Mapping[str, Any]) -> None:
        match step["check"]:
            case "history":
                self._check_history(step["of"])
            case "captions":
                self._check_captions(self._commands[step["of"]])
            case "file":
                path, sha256 = filled([step["path"], step["sha256"]], self._values)
                assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256
            case _:
                raise AssertionError("unknown")

    def _check_history(self, names: Sequence[str]) -> None:
        """Each stored change was told once, in order, with its content."""
        stored = stored_changes(self._daemon)
        first = self._first_revisions[names[0]]
        expected = [
            (revision, f"jobs/{job}")
            for revision, job in sorted(stored.items())
            if revision > first
        ]
        assert expected, "the scenario made no change"
        last = self._commands[names[-1]]
        self._driver.wait(
            lambda: len(self._told(names)) >= len(expected),
            f"{len(expected)} changes",
            STEP_SECONDS,
        )
        # What comes twice comes after what it repeats: give it the time until the next bookmark.
        seen = len(last.events)
        self._driver.wait(
            lambda: any("bookmark" in event for event in last.events[seen - 1 :]),
            "a bookmark behind the last change",
            STEP_SECONDS,
        )
        told = self._told(names)
        assert [job for _, job in told] == [job for _, job in expected]
        assert [revision for revision, _ in told] == [
            revision and expected[place][0] for place, (revision, _) in enumerate(told)
        ]

    def _told(self, names: Sequence[str]) -> list[tuple[int | None, str]]:
        """Revision and job of each change that streams have told of; a deletion has no revision."""
        told: list[tuple[int | None, str]] = []
        for name in names:
            events = self._commands[name].events
            begin = next((n for n, one in enumerate(events) if "bookmark" in one), len(events))
            for event in events[begin:] if name == names[0] else events:
                if job := event.get("job"):
                    told.append((int(job["revision"]), job["name"]))
                elif "deleted" in event:
                    told.append((None, event["deleted"]))
        return told

    def _check_captions(self, command: Command) -> None:
        finals = [event["final"] for event in command.events if "final" in event]
        assert [int(one["sequence"]) for one in finals] == list(range(1, len(finals) + 1))
        assert {one["speaker"] for one in finals} == {"kenji"}
        said = " ".join(one["text"] for one in finals)
        assert errors(SPOKEN, said) <= SPOKEN_ERRORS, said
