# SPDX-License-Identifier: Apache-2.0
"""Answers in the shapes that a Go server, the plugin, the core and a proxy give them."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.mattermost.state import new_id


_NGINX = """<html>\r
<head><title>413 Request Entity Too Large</title></head>\r
<body>\r
<center><h1>413 Request Entity Too Large</h1></center>\r
<hr><center>nginx/1.22.1</center>\r
</body>\r
</html>\r
"""

TOO_MANY_REQUESTS = '{"message": "too many requests", "status_code": 429}'


def encode(document: Any) -> bytes:
    """JSON as Go's encoder writes it: without spaces, and with a newline."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def json_answer(document: Any, status: int = 200) -> web.Response:
    """A JSON document that says it is one."""
    return web.Response(status=status, body=encode(document), content_type="application/json")


def text_error(status: int, text: str) -> web.Response:
    """As Go's http.Error writes it, with a newline."""
    return web.Response(
        status=status,
        body=text.encode() + b"\n",
        headers={"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"},
    )


def page_not_found() -> web.Response:
    """What Go's router says."""
    return text_error(404, "404 page not found")


def status_answer(status: int, message: str) -> web.Response:
    """The plugin's answer. An error is JSON that says it is text: its header comes too late."""
    document = {"message": message, "status_code": status}
    if status == 200:
        return json_answer(document)
    return web.Response(
        status=status,
        body=encode(document),
        headers={"Content-Type": "text/plain; charset=utf-8"},
    )


def core_error(status: int, error_id: str, message: str, detail: str = "") -> web.Response:
    """An error of the core API."""
    document = {
        "id": error_id,
        "message": message,
        "detailed_error": detail,
        "request_id": new_id(),
        "status_code": status,
    }
    return json_answer(document, status)


def no_permission() -> web.Response:
    """The core's 403."""
    return core_error(
        403,
        "api.context.permissions.app_error",
        "You do not have the appropriate permissions.",
    )


def proxy_too_large() -> web.Response:
    """The 413 of nginx, which closes the connection afterwards."""
    answer = web.Response(status=413, body=_NGINX.encode(), content_type="text/html")
    answer.force_close()
    return answer


def bearer_token(headers: Mapping[str, str]) -> str:
    """The token of the Authorization header; its scheme may be written in any case."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.upper() in {"BEARER", "TOKEN"} else ""


def fold(document: Any) -> dict[str, Any]:
    """Keys in lower case, as Go's decoder takes any case.

    TypeError: this is no object.
    """
    if not isinstance(document, dict):
        raise TypeError("json: cannot unmarshal into Go value")
    return {key.lower(): value for key, value in document.items()}
