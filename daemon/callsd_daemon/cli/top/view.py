# SPDX-License-Identifier: Apache-2.0
"""How `callsd top` looks: a header, and a line for each job, cut to the size of the terminal."""

from collections.abc import Callable, Iterator

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from callsd.v1.capacity_pb2 import ResourceCapacity
from callsd_daemon.cli.jobs.text import loudness, reason, short
from callsd_daemon.cli.jobs.text import state as state_word
from callsd_daemon.cli.shared.output import STATE_STYLES, printable, size, span, times
from callsd_daemon.cli.top.state import JobLine, TopState


COLUMNS = ("JOB", "KIND", "STATE", "FOR", "USED/RESERVED", "NOW", "PROBLEM")
"""Headings of `cells`."""

SACRIFICED = ("USED/RESERVED", "KIND", "FOR", "STATE")
"""Columns that a narrow terminal does without, the first one first."""

NAME_CHARACTERS = 8
"""Of a job's name, where the whole of it takes too much room."""

PROBLEM_CHARACTERS = 28
"""Room that a problem is given at the expense of other columns."""

GAP = 2

WORDS_FROM_WIDTH = 68
"""From here on there is room to say who has how much of a resource."""

MIN_BAR_CELLS = 8
MAX_BAR_CELLS = 32

HEALTH_STYLES = {"SERVING": "bold green", "DRAINING": "bold yellow", "LOST": "bold red"}


def frame(state: TopState, *, width: int, height: int) -> list[Text]:
    """All lines of one picture, none wider than `width`, at most `height` of them."""
    top = [*header(state, width=width), Text()]
    foot = list(_footer(state))
    lines = state.lines()
    room = max(1, height - len(top) - len(foot) - 1)
    shown = lines if len(lines) <= room else lines[: room - 1]
    table = _table(shown, width=width) if lines else [Text("no job runs or waits", style="dim")]
    if hidden := len(lines) - len(shown):
        table.append(Text(f"… and {hidden} more: callsd jobs list", style="dim"))
    picture = [*top, *table, *foot][:height]
    for line in picture:
        line.truncate(width, overflow="ellipsis")
    return picture


def header(state: TopState, *, width: int) -> Iterator[Text]:
    """How the daemon and the machine are."""
    capacity = state.capacity
    first = Text.assemble(
        ("callsd ", "bold"),
        (state.health, HEALTH_STYLES[state.health]),
        f"  {capacity.running_jobs} running, {capacity.queued_jobs} waiting",
    )
    if capacity.HasField("cpu_pressure"):
        first.append(f"  pressure {capacity.cpu_pressure:.0%}")
    first.append(f"  {state.version} at {state.address}", "dim")
    yield first
    yield _resource("cores", capacity.cores, lambda cores: f"{cores:.2f}", width=width)
    yield _resource("memory", capacity.memory_bytes, size, width=width)
    yield _resource("disk", capacity.disk_bytes, size, width=width)
    if state.lost:
        yield Text(f"connection lost, trying again: {state.lost}", style="red")
    elif quiet := state.quiet_seconds:
        yield Text(f"no answer for {quiet:.0f} s", style="red")
    elif capacity.draining:
        yield Text("the daemon is shutting down and takes no new jobs", style="yellow")


def cells(line: JobLine) -> tuple[str, ...]:
    """A job in the columns of COLUMNS."""
    return (
        line.name.removeprefix("jobs/"),
        line.kind,
        f"{line.state} {line.queue_position}" if line.queue_position else line.state,
        span(line.seconds),
        _cost(line),
        ", ".join(_now(line)),
        line.problem,
    )


def _cost(line: JobLine) -> str:
    cores, memory = f"{line.reserved_cores:.2f} cores", size(line.reserved_memory_bytes)
    if line.used_cores is None or line.used_memory_bytes is None:
        return f"{cores}, {memory}"
    return f"{line.used_cores:.2f}/{cores}, {size(line.used_memory_bytes)}/{memory}"


def _now(line: JobLine) -> Iterator[str]:
    """What a job does and how well, in a few words."""
    if line.fraction is not None and line.state != "queued":
        yield f"{line.phase} {line.fraction:.0%}".lstrip()
    elif line.lag_seconds is not None:
        yield f"lag {line.lag_seconds:.1f} s"
    elif line.changed_frame_rate is None or line.phase != "recording":
        yield from filter(None, [line.phase])
    if line.picture is not None:
        yield f"{line.picture} {line.changed_frame_rate:.0f}/s"
    if line.audio_level_db is not None:
        yield loudness(line.audio_level_db)
    if line.drift_ms is not None:
        yield f"drift {round(line.drift_ms) or 0} ms"
    if line.real_time_factor is not None:
        yield times(line.real_time_factor)


def _resource(
    name: str, account: ResourceCapacity, text: Callable[[float], str], *, width: int
) -> Text:
    """One resource: of what there is, who has how much."""
    line = Text(f"{name:<8}")
    if (count := min(MAX_BAR_CELLS, width - WORDS_FROM_WIDTH - GAP)) >= MIN_BAR_CELLS:
        line.append(_bar(account, count))
        line.append(" " * GAP)
    if width >= WORDS_FROM_WIDTH:
        line.append(f"{text(account.reserved):>8} reserved", "cyan")
        line.append(f"{text(account.external):>9} others", "yellow")
    line.append(f"{text(account.available):>9} free", "red" if account.available <= 0 else "green")
    line.append(f" of {text(account.total)}", "dim")
    return line


def _bar(account: ResourceCapacity, cell_count: int) -> Text:
    """Shares of a resource: █ jobs, ▒ others, ░ kept free, · left."""
    bar, used = Text(), 0
    shares = (
        (account.reserved, "█", "cyan"),
        (account.external, "▒", "yellow"),
        (account.headroom, "░", "dim"),
    )
    for amount, sign, style in shares:
        share = amount / account.total if account.total > 0 else 0.0
        # What is there at all is seen, and never more than there is room for.
        count = min(cell_count - used, max(round(share * cell_count), int(amount > 0)))
        bar.append(sign * count, style)
        used += count
    bar.append("·" * (cell_count - used), "dim")
    return bar


def _table(lines: list[JobLine], *, width: int) -> list[Text]:
    """Headings and a line for each job, without the columns for which there is no room."""
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    rows += [dict(zip(COLUMNS, cells(line), strict=True)) for line in lines]
    shown = [name for name in COLUMNS if name != "PROBLEM" or any(line.problem for line in lines)]

    def is_too_wide() -> bool:
        needed = _widths(rows, shown)
        if "PROBLEM" in needed:
            needed["PROBLEM"] = min(needed["PROBLEM"], PROBLEM_CHARACTERS)
        return sum(needed.values()) + GAP * (len(shown) - 1) > width

    if is_too_wide():
        for row in rows:
            row["JOB"] = row["JOB"][:NAME_CHARACTERS]
    for name in SACRIFICED:
        if is_too_wide():
            shown.remove(name)
    widths = _widths(rows, shown)
    table = [_row(row, widths) for row in rows]
    table[0].stylize("dim")
    return table


def _widths(rows: list[dict[str, str]], shown: list[str]) -> dict[str, int]:
    return {name: max(cell_len(row[name]) for row in rows) for name in shown}


def _row(row: dict[str, str], widths: dict[str, int]) -> Text:
    text = Text()
    for name, width in widths.items():
        style = {"PROBLEM": "yellow", "STATE": STATE_STYLES.get(row[name].split(" ")[0], "")}
        text.append(set_cell_size(row[name], width + GAP), style.get(name, ""))
    text.rstrip()
    return text


def _footer(state: TopState) -> Iterator[Text]:
    """What has become of the job that ended last."""
    if (job := state.last_ended) is None:
        return
    ended = state_word(job)
    line = Text.assemble(
        ("last ended: ", "dim"), short(job), " ", (ended, STATE_STYLES.get(ended, ""))
    )
    if job.HasField("failure"):
        line.append(f": {reason(job.failure.reason)}, {printable(job.failure.message)}")
    yield Text()
    yield line
