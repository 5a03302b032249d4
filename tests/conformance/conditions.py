# SPDX-License-Identifier: Apache-2.0
"""The small language of scenario.toml: ${values} and conditions."""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


_VALUE = re.compile(r"\$\{([^}]+)\}")
_CONDITION = re.compile(r"(\S+) (==|!=|<=|>=|<|>|in|matches|is set|is not set)(?: (.+))?")

_NUMBERS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": lambda actual, wanted: actual == wanted or str(actual) == str(wanted),
    "!=": operator.ne,
    "in": lambda actual, wanted: actual in wanted,
    "matches": lambda actual, wanted: re.fullmatch(wanted, str(actual)) is not None,
    "is set": lambda actual, _: actual is not None,
    "is not set": lambda actual, _: actual is None,
}


def at(tree: Any, path: str) -> Any:
    """What lies at a path, such as `job.artifacts.0.name`; None where there is nothing."""
    for step in path.split("."):
        if step == "length" and isinstance(tree, list):
            tree = len(tree)
        elif isinstance(tree, list) and step.isdecimal() and int(step) < len(tree):
            tree = tree[int(step)]
        elif isinstance(tree, dict):
            tree = tree.get(step)
        else:
            return None
    return tree


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The same with each ${path} replaced by its value, of whatever type where it stands alone."""
    match template:
        case str():
            return _filled_text(template, values)
        case list():
            return [filled(one, values) for one in template]
        case dict():
            return {key: filled(one, values) for key, one in template.items()}
        case _:
            return template


def _filled_text(template: str, values: Mapping[str, Any]) -> Any:
    def value(found: re.Match[str]) -> Any:
        what = at(values, found[1])
        assert what is not None, f"the scenario has no value {found[0]}"
        return what

    if whole := _VALUE.fullmatch(template):
        return filled(value(whole), values)
    return _VALUE.sub(lambda found: str(value(found)), template)


def unfulfilled(
    conditions: Sequence[str], answer: Mapping[str, Any], values: Mapping[str, Any]
) -> list[str]:
    """Those of the conditions that do not hold, each with what there is instead."""
    found = []
    for condition in conditions:
        parts = _CONDITION.fullmatch(condition)
        assert parts is not None, f"not a condition: {condition}"
        path, name, text = parts.groups()
        actual = at(answer, path)
        if not _holds(actual, name, _wanted(text, values)):
            found.append(f"{condition}, but it is {json.dumps(actual)}")
    return found


def _wanted(text: str | None, values: Mapping[str, Any]) -> Any:
    if text is None:
        return None
    return filled(text, values) if _VALUE.fullmatch(text) else json.loads(text)


def _holds(actual: Any, name: str, wanted: Any) -> bool:
    if name in _NUMBERS:
        return actual is not None and _NUMBERS[name](float(actual), float(wanted))
    return bool(_TESTS[name](actual, wanted))
