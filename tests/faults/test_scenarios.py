# SPDX-License-Identifier: Apache-2.0
"""The list of scenarios itself."""

import re
from pathlib import Path

from tests.faults.scenarios import ELSEWHERE, TITLES
from tests.helpers.daemon import ROOT


MARK = re.compile(r"mark\.scenario\((\d+),")


def test_each_has_a_test() -> None:
    """Every scenario that is named has a test here or elsewhere, and no test has another one."""
    here = {
        int(number)
        for path in Path(__file__).parent.glob("test_*.py")
        for number in MARK.findall(path.read_text())
    }

    assert here | {number for number, _ in ELSEWHERE.values()} == set(TITLES)


def test_elsewhere_is_there() -> None:
    """What is named of other directories is there."""
    for beginning in ELSEWHERE:
        file, *names = beginning.split("::")
        text = (ROOT / file).read_text()
        assert all(re.search(rf"(class|def) {name}\b", text) for name in names), beginning
