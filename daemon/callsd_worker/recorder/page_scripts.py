# SPDX-License-Identifier: Apache-2.0
"""JavaScript that whoever asks for a recording has evaluated in the page."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from callsd_worker.recorder.cdp import CdpError


EVALUATE_SECONDS = 5.0
"""For an expression, and for its promise."""

_GROUP = "callsd"
"""What the browser keeps for us until we have seen it."""


class _Call(Protocol):
    def __call__(self, method: str, **params: Any) -> dict[str, Any]: ...


class PageScripts:
    """Of one page; `call` sends it a DevTools command. All methods raise CdpError.

    What is evaluated is a script, so that a semicolon at its end does no harm; its value is that of
    its last statement. It is a block of its own: what is evaluated each second may declare names.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call

    def syntax_error(self, script: str) -> str:
        """Why it is no JavaScript, by the parser that will evaluate it; empty if it is."""
        answer = self._call(
            "Runtime.compileScript", expression=_block(script), sourceURL="", persistScript=False
        )
        if (details := answer.get("exceptionDetails")) is None:
            return ""
        error = details.get("exception", {}).get("description") or details.get("text", "")
        return str(error).partition("\n")[0]

    def is_true(self, script: str) -> bool:
        """Whether its value is, or will be, true.

        A script that throws counts as false, and so does a promise without an end: the page itself
        has answered.
        """
        answer = self._evaluate(script)
        result = answer["result"]
        if result.get("subtype") == "promise":
            answer = {"exceptionDetails": "no end"}
            with contextlib.suppress(CdpError):
                answer = self._call(
                    "Runtime.awaitPromise",
                    promiseObjectId=result["objectId"],
                    timeout_seconds=EVALUATE_SECONDS,
                )
        if "objectId" in result:
            self._call("Runtime.releaseObjectGroup", objectGroup=_GROUP)
        return "exceptionDetails" not in answer and _is_truthy(answer["result"])

    def run(self, script: str) -> None:
        """Evaluate it, and wait for its promise if there is one."""
        self._evaluate(script, awaitPromise=True)

    def origin(self, url: str) -> str:
        """The origin of an address, as requests have it; empty if it is no address."""
        result = self._evaluate(f"new URL({json.dumps(url)}).origin")["result"]
        return str(result["value"]) if result["type"] == "string" else ""

    def _evaluate(self, script: str, **params: Any) -> dict[str, Any]:
        return self._call(
            "Runtime.evaluate",
            expression=_block(script),
            objectGroup=_GROUP,
            timeout_seconds=EVALUATE_SECONDS,
            **params,
        )


def _block(script: str) -> str:
    return f"{{\n{script}\n}}"


def _is_truthy(result: Mapping[str, Any]) -> bool:
    """Whether JavaScript takes a Runtime.RemoteObject for true."""
    if result["type"] == "undefined":
        return False
    if "unserializableValue" in result:
        return result["unserializableValue"] not in ("NaN", "-0", "0n")
    # All objects and functions are true, and have no value here; null is an object with one.
    return bool(result.get("value", True))
