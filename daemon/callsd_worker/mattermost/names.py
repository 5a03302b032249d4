# SPDX-License-Identifier: Apache-2.0
"""Looks up who speaks, in the background: the session is only known while it is in the call."""

import asyncio
import logging
from collections.abc import Callable

from callsd_worker.mattermost.rest import Profile, Rest, RestError


log = logging.getLogger(__name__)

LOOKERS = 4
"""People that are looked up at once."""

TRIES = 5
PAUSE_SECONDS = 1.0
MAX_WAITING = 512


class Names:
    """People to look up. Whoever owns it runs `run` LOOKERS times."""

    def __init__(self, rest: Rest, on_profile: Callable[[str, Profile], None]) -> None:
        self._rest = rest
        self._on_profile = on_profile
        self._asked: set[str] = set()
        self._waiting: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MAX_WAITING)

    def ask(self, session_id: str, user_id: str) -> None:
        """Look somebody up; the user's id is empty when it is not known."""
        if session_id in self._asked:
            return
        try:
            self._waiting.put_nowait((session_id, user_id))
            self._asked.add(session_id)
        except asyncio.QueueFull:
            log.warning("too many people to look up: session %s stays without a name", session_id)

    async def run(self) -> None:
        """Look people up."""
        while True:
            session_id, user_id = await self._waiting.get()
            profile = await self._find(session_id, user_id)
            self._asked.discard(session_id)
            if profile is None:
                log.warning("session %s stays without a name", session_id)
            else:
                self._on_profile(session_id, profile)

    async def _find(self, session_id: str, user_id: str) -> Profile | None:
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            try:
                return await self._rest.profile(session_id)
            except RestError as problem:
                log.info("the profile of session %s: %s", session_id, problem)
            if not user_id:
                continue
            # Who has left already has no session, but is a user still.
            try:
                return await self._rest.user(user_id)
            except RestError as problem:
                log.info("the user of session %s: %s", session_id, problem)
        return None
