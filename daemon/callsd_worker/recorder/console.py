# SPDX-License-Identifier: Apache-2.0
"""What a page prints on its console, for the log: without secrets, and not without end."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any


log = logging.getLogger(__name__)

MAX_LINES = 200
MAX_LINE_CHARACTERS = 500

MIN_SECRET_CHARACTERS = 6
"""Shorter ones are no secrets, and cutting them out would leave nothing to read."""

_ICE_PASSWORD = re.compile(r"ice-pwd:\S+")


class Console:
    """Of one page."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = [one for one in secrets if len(one) >= MIN_SECRET_CHARACTERS]
        self._left = MAX_LINES

    def log(self, event: Mapping[str, Any]) -> bool:
        """Log what was printed (`Runtime.consoleAPICalled`); False when it has been enough."""
        if self._left <= 0:
            return False
        self._left -= 1
        words = " ".join(map(_word, event.get("args", ())))
        log.info("the page prints (%s): %s", event.get("type", "log"), self.redacted(words))
        if not self._left:
            log.warning("the page prints more, which is not logged")
        return self._left > 0

    def redacted(self, text: str) -> str:
        """One line without secrets, and not too long."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _ICE_PASSWORD.sub("ice-pwd:***", text)
        # Cut afterwards: half a secret would not be found.
        return " ".join(text.split())[:MAX_LINE_CHARACTERS]


def _word(argument: Mapping[str, Any]) -> str:
    """What was printed, as far as the browser tells it: of an object its first fields."""
    if "value" in argument:
        return str(argument["value"])
    fields = argument.get("preview", {}).get("properties", ())
    shown = ", ".join(f"{one.get('name')}: {one.get('value')}" for one in fields)
    return f"{{{shown}}}" if shown else str(argument.get("description", argument.get("type", "")))
