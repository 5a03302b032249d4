# SPDX-License-Identifier: Apache-2.0
"""The one exception of this package."""

from collections.abc import Mapping


class HttpError(Exception):
    """An HTTP status and its text; the plugin shows the text to the host of the call."""

    def __init__(self, status: int, text: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})
