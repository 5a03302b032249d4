# SPDX-License-Identifier: Apache-2.0
"""Headers that a page is asked for with: secrets, which only the sites they are meant for get."""

from collections.abc import Iterable, Mapping


class PageHeaders:
    """Headers for some origins, which are spelled as the browser does.

    They are added to what the browser is about to send. Were the page's requests made with them
    (Network.setExtraHTTPHeaders), third parties would get them too, and the browser would ask each
    of these for its leave to send them (CORS), which few give.
    """

    def __init__(self, headers: Mapping[str, str], origins: Iterable[str]) -> None:
        self._headers = dict(headers)
        self.patterns = [{"urlPattern": f"{origin}/*"} for origin in origins]
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
