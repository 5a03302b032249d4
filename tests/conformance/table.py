# SPDX-License-Identifier: Apache-2.0
"""The table of results in docs/clients.md."""

import re
from collections.abc import Mapping, Sequence

from tests.helpers.daemon import ROOT


PAGE = ROOT / "docs" / "clients.md"

_BEGIN, _END = "<!-- conformance: written by `make test-clients` -->", "<!-- end of conformance -->"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (.*) \|$", re.MULTILINE)

Results = Mapping[tuple[str, str], str]
"""What came of a case, by title of the client and name of the case."""


def write(cases: Sequence[tuple[str, str]], titles: Sequence[str], results: Results) -> None:
    """Put results in their places; those of clients that were not tried stay as they are."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.index(_BEGIN), page.index(_END)
    known = {**_read(page[before:after]), **results}
    lines = [
        _row("Case", "What is promised", *titles),
        _row(*["---"] * (len(titles) + 2)),
        *(
            _row(f"`{name}`", promise, *(known.get((title, name), "–") for title in titles))
            for name, promise in cases
        ),
    ]
    text = "\n".join([_BEGIN, "", *lines, "", ""])
    PAGE.write_text(page[:before] + text + page[after:], encoding="utf-8")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _read(table: str) -> dict[tuple[str, str], str]:
    header = re.search(r"^\| Case \| [^|]+ \| (.*) \|$", table, re.MULTILINE)
    titles = header[1].split(" | ") if header else []
    return {
        (title, name): result
        for name, cells in _ROW.findall(table)
        for title, result in zip(titles, cells.split(" | ")[1:], strict=False)
    }
