# SPDX-License-Identifier: Apache-2.0
"""The server by hand, with a call that goes on: for clients that are no test."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.mattermost.job_client import JobServiceError
from tests.mattermost.server import HostError, MattermostServer
from tests.mattermost.state import Call


COMMANDS = (
    "start, stop, end, leave, jobs, thread, files, down, up, restart, fault NAME, reset, "
    "speak NAME FILE, mute NAME, unmute NAME, captions, quit"
)


def main() -> None:
    """Serve until *quit* or the end of the input; answers are lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"commands: {COMMANDS}")
    parser.add_argument("--port", type=int, default=8065)
    parser.add_argument("--sample", type=Path, help="sound that the recording page plays")
    parser.add_argument("--job-service", help="URL, which may hold client id and key")
    parser.add_argument("--no-transcriptions", action="store_true")
    asyncio.run(_serve(parser.parse_args()))


def _say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def _serve(options: argparse.Namespace) -> None:
    async with MattermostServer(port=options.port, sample=options.sample) as server:
        call = server.start_call()
        _say(
            url=server.url,
            bot_token=server.bot_token,
            call_id=call.channel_id,
            post_id=call.post_id,
            user_token=server.state.users[call.owner_id].token,
        )
        if options.job_service:
            try:
                await server.activate(
                    options.job_service, transcriptions=not options.no_transcriptions
                )
            except JobServiceError as error:
                _say(error=str(error))
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "quit":
                break
            try:
                await _obey(server, call, line.split())
            except HostError as error:
                _say(error=error.message, status=error.status)
            except OSError as error:
                _say(error=str(error))  # a file that cannot be read


def _jobs(call: Call) -> list[dict[str, Any]]:
    return [{"id": job.id, "job_id": job.job_id, **job.state()} for job in call.jobs]


def _files(server: MattermostServer) -> list[dict[str, Any]]:
    """What was uploaded, whole."""
    return [
        {
            "id": file.id,
            "name": file.name,
            "path": str(file.path),
            "sha256": sha256(file.path.read_bytes()).hexdigest(),
        }
        for file in server.state.files.values()
    ]


async def _have(
    server: MattermostServer, call: Call, word: str, name: str, files: list[str]
) -> None:
    """Have somebody speak or be silent; who is not in the call joins it."""
    room = server.plugin.media.room(call.channel_id)
    users = server.state.users
    people = {users[one.user_id].username: one for one in room.participants}
    person = people.get(name) or await server.participant(call, server.add_user(name, name))
    if word == "speak" and files:
        await person.play(Path(files[0]))
    elif word == "mute":
        await person.mute()
    else:
        await person.unmute()


async def _obey(server: MattermostServer, call: Call, words: list[str]) -> None:
    plain: dict[str, Callable[[], Awaitable[Any]]] = {
        "start": lambda: server.start_recording(call),
        "stop": lambda: server.stop_recording(call),
        "end": lambda: server.end_call(call),
        "leave": lambda: server.all_leave(call),
        "down": server.stop_listening,
        "up": server.start_listening,
    }
    match words:
        case [word] if word in plain:
            await plain[word]()
            _say(done=word, jobs=_jobs(call))
        case ["speak" | "mute" | "unmute" as word, name, *files]:
            await _have(server, call, word, name, files)
            _say(done=f"{word} {name}")
        case ["captions"]:
            _say(captions=[asdict(caption) for caption in call.captions])
        case ["jobs"]:
            _say(jobs=_jobs(call))
        case ["files"]:
            _say(files=await asyncio.to_thread(_files, server))
        case ["thread"]:
            _say(thread=[post.document() for post in server.thread(call)])
        case ["restart"]:
            _say(bot_token=server.restart_plugin())
        case ["fault", name] if name in server.faults.switches():
            getattr(server.faults, name).always()
            _say(done=f"fault {name}")
        case ["reset"]:
            server.faults.reset()
            _say(done="reset")
        case _:
            _say(commands=COMMANDS, faults=sorted(server.faults.switches()))
