# SPDX-License-Identifier: Apache-2.0
"""Word error rate over the ratio of speech to noise, as an SVG picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from callsd_bench.robustness.bench import Report


# Kinds of noise, and the dashes of their lines.
_NOISES = {"pink": "none", "babble": "6 4"}
_PLACES = ("clean", "20 dB", "10 dB", "5 dB")

# Told apart by the colour-blind too (Okabe and Ito); more sides begin anew.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_WIDTH, _HEIGHT = 820, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 460, 20, 330
_LEGEND_X, _LEGEND_STEP = 490, 22
_STEP_RATE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    label: str
    colour: str
    dashes: str
    rates: dict[int, float]
    """Word error rate by place on the x axis."""


def draw(report: Report) -> str:
    """A line for each side and kind of noise that was measured."""
    lines = list(_lines(report))
    highest = max((rate for line in lines for rate in line.rates.values()), default=0.0)
    steps = max(1, math.ceil(highest / _STEP_RATE))
    box, font = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"', 'font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {font}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_axes(steps),
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, steps, legend_y=_TOP + 10 + number * _LEGEND_STEP)
    return "\n".join([*parts, "</svg>\n"])


def _lines(report: Report) -> Iterator[_Line]:
    results = {row.condition: row.results for row in report.rows}
    for noise, dashes in _NOISES.items():
        conditions = ("clean", *(f"{noise}-{place.removesuffix(' dB')}" for place in _PLACES[1:]))
        for at, side in enumerate(report.sides):
            rates = {
                place: results[condition][at].errors.rate
                for place, condition in enumerate(conditions)
                if condition in results
            }
            if rates:
                yield _Line(
                    label=f"{side.model}, {side.system}, {side.engine}, {noise}",
                    colour=_COLOURS[at % len(_COLOURS)],
                    dashes=dashes,
                    rates=rates,
                )


def _axes(steps: int) -> Iterator[str]:
    for step in range(steps + 1):
        y = _y(step * _STEP_RATE, steps)
        yield f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#ddd"/>'
        yield _text(_LEFT - 8, y + 4, f"{step * _STEP_RATE:.0%}", anchor="end")
    for place, name in enumerate(_PLACES):
        yield _text(_x(place), _BOTTOM + 20, name, anchor="middle")
    middle = (_LEFT + _RIGHT) / 2
    yield _text(middle, _BOTTOM + 42, "word error rate over speech to noise", anchor="middle")


def _drawn(line: _Line, steps: int, *, legend_y: float) -> Iterator[str]:
    style = f'stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"'
    points = [(_x(place), _y(rate, steps)) for place, rate in sorted(line.rates.items())]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" {style}/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.colour}"/>'
    yield f'<path d="M{_LEGEND_X} {legend_y}h30" {style}/>'
    yield _text(_LEGEND_X + 38, legend_y + 4, line.label, anchor="start")


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _x(place: int) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (place + 0.5) / len(_PLACES)


def _y(rate: float, steps: int) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * rate / (steps * _STEP_RATE)
