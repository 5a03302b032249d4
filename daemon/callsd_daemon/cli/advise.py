# SPDX-License-Identifier: Apache-2.0
"""`callsd advise`."""

from collections.abc import Sequence
from pathlib import Path

import click

from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.shared.output import figure, print_json, print_table, size
from callsd_daemon.domain.languages import LANGUAGES
from callsd_daemon.host.probe import Limits, limits
from callsd_daemon.models.advice import ALIKE, Choice, Load, best, choices
from callsd_daemon.models.measured import LANGUAGE, Hearing, slowness_here
from callsd_daemon.models.store import ModelStore


_MAX_CALLS, _MAX_HOURS = 10_000, 100_000.0


@click.command()
@click.option(
    "--calls",
    type=click.IntRange(0, _MAX_CALLS),
    default=0,
    show_default=True,
    help="Calls that are captioned at once.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0, _MAX_HOURS),
    default=8,
    show_default=True,
    help="Hours of speech that are transcribed in a day.",
)
@click.option("--language", metavar="CODE", default=LANGUAGE, show_default=True)
@click.option(
    "--heard",
    type=click.Choice([hearing.value for hearing in Hearing]),
    default=Hearing.CLOSE.value,
    show_default=True,
    help="How most speakers are heard.",
)
@click.option(
    "--models-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the models are. Default: the daemon's.",
)
@json_option
@pass_cli
def advise(
    cli: Cli, *, calls: int, hours: float, language: str, heard: str, models_dir: Path | None
) -> int:
    """Tell which model hears best on this machine, at the load that it is to carry.

    By what was measured (docs/models.md), and by how fast the models that are here transcribed a
    sample when they were pulled or verified. It asks no daemon and changes nothing.
    """
    if language not in LANGUAGES:
        raise click.BadParameter(f"{language!r} is no language of a model", param_hint="--language")
    models = ModelStore(models_dir or Path(loaded(None).models.directory)).list()
    found = choices(models, language, Load(calls=calls, hours=hours), Hearing(heard))
    here = limits()
    chosen = best(found, cores=here.cores, memory_bytes=here.memory_bytes)
    slowness = slowness_here(models)
    if cli.json:
        print_json(
            {
                "cores": here.cores,
                "memory_bytes": here.memory_bytes,
                "slowness": slowness,
                "chosen": None if chosen is None else chosen.model,
                "models": [_as_json(choice) for choice in found],
            }
        )
        return Exit.OK if chosen else Exit.REFUSED
    _show_table(found, chosen)
    for line in _lines(found, chosen, here):
        click.echo(line)
    click.echo(_source(language, slowness))
    shown = {choice.model for choice in found}
    unmeasured = [
        model.name
        for model in models
        if model.name not in shown and (model.is_multilingual or language == LANGUAGE)
    ]
    if unmeasured:
        click.echo(f"not measured: {', '.join(unmeasured)}; callsd bench robustness does it")
    return Exit.OK if chosen else Exit.REFUSED


def _show_table(found: Sequence[Choice], chosen: Choice | None) -> None:
    columns = ("", "MODEL", "ENGINE", *(hearing.upper() for hearing in Hearing))
    rows = [
        (
            "→" if choice is chosen else "",
            choice.model if choice.is_present else f"{choice.model} (absent)",
            choice.engine,
            *(
                f"{choice.word_errors[hearing]:.1%}" if hearing in choice.word_errors else "–"
                for hearing in Hearing
            ),
            f"{60 * choice.cpu_seconds:.1f} s",
            f"{choice.cores:.2f}",
            size(choice.memory_bytes),
        )
        for choice in found
    ]
    print_table(
        (*columns, "CPU/MIN", "CORES", "MEMORY"),
        rows,
        right=" ".join([*columns[3:], "CPU/MIN", "CORES", "MEMORY"]),
    )


def _lines(found: Sequence[Choice], chosen: Choice | None, here: Limits) -> list[str]:
    """What to take, what hears better and what it costs, what is cheaper and what it loses."""
    there = f"of {figure(here.cores)} cores and {size(here.memory_bytes)} that are here"
    if not found:
        return ["no model that was measured knows this language"]
    if chosen is None:
        least = min(found, key=lambda choice: choice.cores)
        return [f"no model carries that; the least is {_price(least)}, {there}"]
    lines = [f"take {_price(chosen)}, {there}"]
    if not chosen.is_present:
        lines.append(f"fetch it: callsd models pull {chosen.model}")
    errors = chosen.errors
    better = [choice for choice in found if choice.errors <= errors - ALIKE]
    cheaper = [
        choice for choice in found if choice.cores < chosen.cores and choice.errors >= errors
    ]
    if better:
        next_one = max(better, key=lambda choice: choice.errors)
        lines.append(
            f"{_difference(next_one, chosen)} more words of 100 would be right: {_price(next_one)}"
        )
    else:
        lines.append("hears best of all that was measured")
    if cheaper:
        next_one = min(cheaper, key=lambda choice: choice.errors)
        lines.append(
            f"{_difference(chosen, next_one)} fewer words of 100 would be right: {_price(next_one)}"
        )
    return lines


def _difference(better: Choice, worse: Choice) -> str:
    return f"{100 * (worse.errors - better.errors):.1f}"


def _price(choice: Choice) -> str:
    return f"{choice.model}: {choice.cores:.2f} cores, {size(choice.memory_bytes)}"


def _source(language: str, slowness: float | None) -> str:
    where = (
        "no model is here: figures are those of the machine that they were measured on"
        if slowness is None
        else f"a sample takes {slowness:.2f} × the time here that it took where this was measured"
    )
    note = "" if language == LANGUAGE else "; errors are those in English, no other was measured"
    return where + note


def _as_json(choice: Choice) -> dict[str, object]:
    return {
        "model": choice.model,
        "engine": choice.engine,
        "present": choice.is_present,
        "word_errors": {hearing.value: rate for hearing, rate in choice.word_errors.items()},
        "cpu_seconds": round(choice.cpu_seconds, 4),
        "cores": round(choice.cores, 3),
        "memory_bytes": choice.memory_bytes,
    }
