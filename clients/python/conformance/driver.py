# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (a program, not a package)
"""Driver of the blocking client: one thread for each command."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import protocol
from protocol import Command, say

from callsd import CallsdError, Client


class Driver:
    """Does what it is told with `Client`."""

    def __init__(self) -> None:
        self._arguments: dict[str, Any] = {}
        self._client: Client | None = None
        # A blocking iterator can only be ended from another thread by closing its client: so
        # each stream has one.
        self._streams: dict[int, Client] = {}
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Read commands to the end of input."""
        threads = []
        for line in sys.stdin:
            command = json.loads(line)
            thread = threading.Thread(target=self._answer, args=(command,))
            thread.start()
            threads.append(thread)
        for client in (self._client, *list(self._streams.values())):
            if client is not None:
                client.close()
        for thread in threads:
            thread.join()

    def _answer(self, command: Command) -> None:
        act: Callable[[Command], dict[str, Any]] = getattr(self, protocol.method(command))
        try:
            say(command, result=act(command))
        except CallsdError as error:
            if command["id"] in self._cancelled:
                say(command, result={})
            else:
                protocol.say_error(command, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the runner is to know it
            protocol.say_error(command, error)

    @property
    def client(self) -> Client:
        """The client of `connect`."""
        assert self._client is not None
        return self._client

    @contextmanager
    def _stream_client(self, command: Command) -> Iterator[Client]:
        with Client(**self._arguments) as client:
            self._streams[command["id"]] = client
            try:
                yield client
            finally:
                del self._streams[command["id"]]

    def connect(self, command: Command) -> dict[str, Any]:
        if self._client is not None:
            self._client.close()
        self._arguments = protocol.connection(command)
        self._client = Client(**self._arguments)
        return {}

    def cancel(self, command: Command) -> dict[str, Any]:
        self._cancelled.add(command["target"])
        self._streams[command["target"]].close()
        return {}

    def create_job(self, command: Command) -> dict[str, Any]:
        return protocol.message(self.client.create_job(**protocol.create_arguments(command)))

    def get_job(self, command: Command) -> dict[str, Any]:
        timeout = command.get("timeoutSeconds")
        return protocol.message(self.client.get_job(command["name"], timeout_seconds=timeout))

    def list_jobs(self, command: Command) -> dict[str, Any]:
        jobs = self.client.list_jobs(
            protocol.job_filter(command), page_size=command.get("pageSize", 0)
        )
        return {"names": [job.name for job in jobs]}

    def stop_job(self, command: Command) -> dict[str, Any]:
        return protocol.message(self.client.stop_job(command["name"]))

    def delete_job(self, command: Command) -> dict[str, Any]:
        self.client.delete_job(command["name"])
        return {}

    def watch_jobs(self, command: Command) -> dict[str, Any]:
        with self._stream_client(command) as client:
            watch = client.watch_jobs(
                protocol.job_filter(command), resume=protocol.position(command)
            )
            with closing(watch) as events:
                for event in events:
                    say(command, event=protocol.watch_event(event))
                    time.sleep(command.get("slowSeconds", 0))
        return {}

    def upload(self, command: Command) -> dict[str, Any]:
        return {"name": self.client.upload_media(Path(command["path"])).name}

    def fetch_artifact(self, command: Command) -> dict[str, Any]:
        path = Path(command["path"])
        self.client.fetch_artifact(command["job"], command["artifact"], path)
        return protocol.file_result(path)

    def send_captions(self, command: Command) -> dict[str, Any]:
        began, step = time.monotonic(), protocol.STEP_SECONDS
        with self.client.stream_captions(command["job"]) as sender:
            for number, data in enumerate(protocol.sound(command)):
                if command.get("realTime"):
                    time.sleep(max(0.0, began + number * step - time.monotonic()))
                sender.send(command["speaker"], data, number * step)
        return {}

    def watch_captions(self, command: Command) -> dict[str, Any]:
        with self._stream_client(command) as client:
            watch = client.watch_captions(command["job"], resume_sequence=0)
            with closing(watch) as messages:
                for one in messages:
                    if event := protocol.final(one):
                        say(command, event=event)
        return {}

    def is_serving(self, _command: Command) -> dict[str, Any]:
        return {"serving": self.client.is_serving()}


if __name__ == "__main__":
    Driver().run()
