# SPDX-License-Identifier: Apache-2.0
"""Output for people and for programs."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def as_dict(message: Message) -> dict[str, Any]:
    """A message as protobuf JSON with the field names of the .proto file, defaults included."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def json_line(value: Any) -> str:
    """A value on one line."""
    return json.dumps(value, ensure_ascii=False)


def print_json(value: Any) -> None:
    """A value for programs; a message as `as_dict`. Over several lines on a terminal."""
    value = as_dict(value) if isinstance(value, Message) else value
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> None:
    """A table without boxes; tab-separated and whole where the reader is a program.

    Args:
        columns: Headings.
        rows: As many cells each.
        right: Headings of the columns aligned to the right, separated by spaces.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right.split() else "left")
    for row in rows:
        table.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


STATE_STYLES = {
    "queued": "yellow",
    "starting": "cyan",
    "running": "cyan",
    "stopping": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "present": "green",
    "invalid": "red",
    "absent": "dim",
}
"""Colours of states, wherever one is shown."""


def size(count: float) -> str:
    """Bytes for people: 1.4 MB. Powers of 1000, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:  # noqa: PLR2004 - what is rounded to the step between units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{figure(count)} TB"


def figure(value: float) -> str:
    """A number for people: three digits, or as many as stand before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"  # noqa: PLR2004 - as above


def span(seconds: float) -> str:
    """A duration for people: 7.3 s, 4:05, 1:02:03."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def times(real_time_factor: float) -> str:
    """A speed for people: 12 × real time."""
    return f"{figure(real_time_factor)} ×"


def ago(stamp: Timestamp) -> str:
    """How long ago something was: 5 min ago."""
    seconds = (datetime.now(UTC) - stamp.ToDatetime(tzinfo=UTC)).total_seconds()
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) / divisor:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} d ago"


def word(enum_name: str, *, prefix: str) -> str:
    """An enum value's name for people: JOB_STATE_RUNNING → running."""
    return enum_name.removeprefix(prefix).lower()


def printable(text: str) -> str:
    """Text from others, without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()
