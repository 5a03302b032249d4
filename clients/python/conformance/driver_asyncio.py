# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (a program, not a package)
"""Driver of the asyncio client: one task for each command."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import protocol
from protocol import Command, say

from callsd import AsyncClient


class Driver:
    """Does what it is told with `AsyncClient`."""

    def __init__(self) -> None:
        self._client: AsyncClient | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Read commands to the end of input."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            self._tasks[command["id"]] = asyncio.create_task(self._answer(command))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values())
        if self._client is not None:
            await self._client.close()

    async def _answer(self, command: Command) -> None:
        act: Callable[[Command], Awaitable[dict[str, Any]]] = getattr(
            self, protocol.method(command)
        )
        try:
            say(command, result=await act(command))
        except asyncio.CancelledError:
            say(command, result={})
        except Exception as error:  # noqa: BLE001 - whatever it is, the runner is to know it
            protocol.say_error(command, error)

    @property
    def client(self) -> AsyncClient:
        """The client of `connect`."""
        assert self._client is not None
        return self._client

    async def connect(self, command: Command) -> dict[str, Any]:
        if self._client is not None:
            await self._client.close()
        self._client = AsyncClient(**protocol.connection(command))
        return {}

    async def cancel(self, command: Command) -> dict[str, Any]:
        self._tasks[command["target"]].cancel()
        return {}

    async def create_job(self, command: Command) -> dict[str, Any]:
        answer = await self.client.create_job(**protocol.create_arguments(command))
        return protocol.message(answer)

    async def get_job(self, command: Command) -> dict[str, Any]:
        timeout = command.get("timeoutSeconds")
        return protocol.message(await self.client.get_job(command["name"], timeout_seconds=timeout))

    async def list_jobs(self, command: Command) -> dict[str, Any]:
        jobs = self.client.list_jobs(
            protocol.job_filter(command), page_size=command.get("pageSize", 0)
        )
        return {"names": [job.name async for job in jobs]}

    async def stop_job(self, command: Command) -> dict[str, Any]:
        return protocol.message(await self.client.stop_job(command["name"]))

    async def delete_job(self, command: Command) -> dict[str, Any]:
        await self.client.delete_job(command["name"])
        return {}

    async def watch_jobs(self, command: Command) -> dict[str, Any]:
        watch = self.client.watch_jobs(
            protocol.job_filter(command), resume=protocol.position(command)
        )
        async with aclosing(watch) as events:
            async for event in events:
                say(command, event=protocol.watch_event(event))
                await asyncio.sleep(command.get("slowSeconds", 0))
        return {}

    async def upload(self, command: Command) -> dict[str, Any]:
        return {"name": (await self.client.upload_media(Path(command["path"]))).name}

    async def fetch_artifact(self, command: Command) -> dict[str, Any]:
        path = Path(command["path"])
        await self.client.fetch_artifact(command["job"], command["artifact"], path)
        return protocol.file_result(path)

    async def send_captions(self, command: Command) -> dict[str, Any]:
        began, step = time.monotonic(), protocol.STEP_SECONDS
        async with await self.client.stream_captions(command["job"]) as sender:
            for number, data in enumerate(protocol.sound(command)):
                if command.get("realTime"):
                    await asyncio.sleep(max(0.0, began + number * step - time.monotonic()))
                await sender.send(command["speaker"], data, number * step)
        return {}

    async def watch_captions(self, command: Command) -> dict[str, Any]:
        watch = self.client.watch_captions(command["job"], resume_sequence=0)
        async with aclosing(watch) as messages:
            async for one in messages:
                if event := protocol.final(one):
                    say(command, event=event)
        return {}

    async def is_serving(self, _command: Command) -> dict[str, Any]:
        return {"serving": await self.client.is_serving()}


if __name__ == "__main__":
    asyncio.run(Driver().run())
