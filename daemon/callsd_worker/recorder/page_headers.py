# SPDX-License-Identifier: Apache-2.0
"""Headers that a page is asked for with: secrets, which only the sites they are meant for get."""

import contextlib
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit


_PORTS = {"http": 80, "https": 443}


class PageHeaders:
    """Headers for the origins of some addresses.

    They are added to what the browser is about to send. Were the page's requests made with them
    (Network.setExtraHTTPHeaders), third parties would get them too, and the browser would ask each
    of these for its leave to send them (CORS), which few give.
    """

    def __init__(self, headers: Mapping[str, str], urls: Iterable[str]) -> None:
        self._headers = dict(headers)
        self.patterns = [{"urlPattern": f"{origin(url)}/*"} for url in urls]
        """Which requests are to be held up for them, for Fetch.enable."""

    def __bool__(self) -> bool:
        return bool(self._headers)

    def added_to(self, headers: Mapping[str, str]) -> list[dict[str, str]]:
        """These headers and ours, for Fetch.continueRequest. Ours replace those of their names."""
        names = {name.lower() for name in self._headers}
        others = {name: value for name, value in headers.items() if name.lower() not in names}
        return [
            {"name": name, "value": value} for name, value in {**others, **self._headers}.items()
        ]


def origin(url: str) -> str:
    """The origin of an address, as the browser spells it: without a port that is understood."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with contextlib.suppress(UnicodeError):  # no name of a host: the browser says so
        host = host.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
