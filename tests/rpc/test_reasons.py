# SPDX-License-Identifier: Apache-2.0
"""The closed list of reasons, against the tests."""

import re
from pathlib import Path

from callsd_daemon.domain.errors import Reason
from tests.helpers import reasons


TESTS = Path(__file__).parents[1]

_MARK = re.compile(r"mark\.reason\(([^)]*)\)")


def test_every_reason_is_produced() -> None:
    """Each reason is promised by a test, which then fails unless it has really seen it."""
    promised = {
        name
        for path in TESTS.rglob("test_*.py")
        for arguments in _MARK.findall(path.read_text())
        for name in re.findall(r'"([A-Z_]+)"', arguments)
    }

    assert promised == reasons.ALL


def test_daemon_and_api_know_the_same() -> None:
    """The daemon's words and the API's values are one list."""
    assert {reason.value for reason in Reason} == reasons.ALL
