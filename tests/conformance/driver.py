# SPDX-License-Identifier: Apache-2.0
"""A driver at work: commands in, answers and events out. See clients/conformance/README.md."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helpers.daemon import ROOT


TABLE = ROOT / "clients" / "conformance" / "drivers.toml"
END_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A line of the table of drivers."""

    name: str
    title: str
    """The client, as people call it."""
    command: tuple[str, ...]
    """What to run, in `directory`."""
    directory: Path
    build: tuple[tuple[str, ...], ...] = ()
    """What to run before, once."""


def kinds() -> dict[str, Kind]:
    """All drivers there are, by name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: Kind(
            name=name,
            title=entry["title"],
            command=tuple(_words(entry["command"])),
            directory=ROOT / entry["directory"],
            build=tuple(tuple(_words(step)) for step in entry.get("build", [])),
        )
        for name, entry in table.items()
    }


def _words(command: Sequence[str]) -> list[str]:
    places = {"root": ROOT, "python": sys.executable}
    return [word.format_map(places) for word in command]


@dataclass(slots=True)
class Command:
    """What a driver was told, and all that it has said to it."""

    sent: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    looked_at: int = 0
    """Events that a step has waited for, or has passed over."""

    @property
    def is_over(self) -> bool:
        """Whether there is an end, good or bad."""
        return self.result is not None or self.error is not None


class Driver:
    """One process of a driver. Its standard error is in `log`."""

    def __init__(self, kind: Kind, log: Path) -> None:
        self.log = log
        self._changed = threading.Condition()
        self._commands: list[Command] = []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSD_")}
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                kind.command,
                cwd=kind.directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._thread = threading.Thread(target=self._read, name="driver", daemon=True)
        self._thread.start()

    def send(self, do: str, **arguments: Any) -> Command:
        """Tell it to do something."""
        assert self._process.stdin is not None
        with self._changed:
            command = Command({"id": len(self._commands) + 1, "do": do, **arguments})
            self._commands.append(command)
        self._process.stdin.write(json.dumps(command.sent).encode() + b"\n")
        self._process.stdin.flush()
        return command

    def wait(self, is_reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until its answers make something true."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not is_reached():
                is_alive = self._thread.is_alive()
                assert is_alive, f"the driver has ended while it was waited for {what}"
                assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
                self._changed.wait(0.1)

    def finish(self) -> None:
        """Close its standard input: it ends by itself, and well."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(END_SECONDS) == 0, "the driver has not ended well"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            command = self._commands[int(said["id"]) - 1]
            with self._changed:
                assert not command.is_over, f"said after the end: {said}"
                if "event" in said:
                    command.events.append(said["event"])
                command.result = said.get("result")
                command.error = said.get("error")
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._thread.join(END_SECONDS)
        with contextlib.suppress(BrokenPipeError), self._process:
            pass  # waits for it and closes the pipes
