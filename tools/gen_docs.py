# SPDX-License-Identifier: Apache-2.0
"""Write the parts of the handbook that the code knows best: settings, methods, states, reference.

    make gen                                    renew them
    .venv/bin/python tools/gen_docs.py --check  exit 1, naming each part that is not current

A part stands in its file between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import tomlkit
from google.protobuf import descriptor_pool

from callsd_daemon.config import ENVIRONMENT_PREFIX, SETTINGS, Config
from callsd_daemon.domain.jobs import FINAL_STATES, TRANSITIONS
from callsd_daemon.models.measured import MEASURED, Hearing
from callsd_daemon.rpc.public import SERVICES
from callsd_daemon.usecases.access import SCOPE_OF
from reference import reference


DOCS = Path(__file__).resolve().parent.parent / "docs"


def settings() -> str:
    """A table for each section: key, default, environment variable, meaning."""
    defaults = msgspec.to_builtins(Config())
    lines: list[str] = []
    section = ""
    for key, meaning in SETTINGS.items():
        group, _, name = key.partition(".")
        if group != section:
            section = group
            lines += ["", f"### `[{section}]`", "", "| Key | Default | Meaning |", "|---|---|---|"]
        default = tomlkit.item(defaults[group][name]).as_string()
        variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "_")
        lines.append(f"| `{name}`<br>`{variable}` | `{default}` | {meaning} |")
    return "\n".join(lines[1:])


def methods() -> str:
    """A table of the public methods: name, and the scope that its caller needs."""
    rows = [
        f"| {service.rpartition('.')[2]} | `{method.name}` | "
        f"{f'`{scope}`' if (scope := SCOPE_OF[method.name]) else 'any valid token'} |"
        for service in SERVICES
        for method in descriptor_pool.Default().FindServiceByName(service).methods
    ]
    return "\n".join(["| Service | Method | Scope |", "|---|---|---|", *rows])


def states() -> str:
    """The life of a job, as a Mermaid diagram."""
    arrows = [
        f"    {state.name} --> {following.name}"
        for state, all_following in TRANSITIONS.items()
        for following in sorted(all_following, key=list(TRANSITIONS).index)
    ]
    ends = [f"    {state.name} --> [*]" for state in TRANSITIONS if state in FINAL_STATES]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> QUEUED", *arrows, *ends, "```"])


def media() -> str:
    """A table of the formats that are tried out: containers, and codecs in them."""
    sys.path.append(str(DOCS.parent))
    from tests.zoo.forms import table

    return table()


def measured() -> str:
    """A table of the models with each engine: errors by how it is heard, time and memory."""
    lines = [
        f"| Model | Engine | {' | '.join(Hearing)} | CPU for a minute | Memory | Trial |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, engine), figures in MEASURED.items():
        errors = [
            f"{100 * figures.word_errors[hearing]:.1f} %" if hearing in figures.word_errors else ""
            for hearing in Hearing
        ]
        lines.append(
            f"| `{model}` | `{engine}` | {' | '.join(errors)} | {60 * figures.cpu_seconds:.1f} s "
            f"| {figures.memory_bytes / 1e6:.0f} MB | {figures.trial_cpu_seconds:.2f} s |"
        )
    return "\n".join(lines)


PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("configuration.md", "settings", settings),
    ("api.md", "methods", methods),
    ("architecture.md", "states", states),
    ("reference.md", "reference", reference),
    ("models.md", "measured", measured),
    ("media.md", "formats", media),
)
"""File, name of the part, what writes it."""


def renewed(text: str, name: str, content: str) -> str:
    """The text with the part `name` replaced; exits when it has no such part."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        sys.exit(f"gen_docs: there must be one part between {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", text)


def main() -> int:
    """Renew, or compare with what is committed; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check: bool = parser.parse_args().check
    stale: list[str] = []
    for file, name, write in PARTS:
        path = DOCS / file
        old = path.read_text(encoding="utf-8")
        new = renewed(old, name, write())
        if new != old:
            stale.append(f"docs/{file}: {name}")
            if not check:
                path.write_text(new, encoding="utf-8")
    for line in stale:
        print(f"gen_docs: {line} {'is not current' if check else 'renewed'}")
    if check and stale:
        print("gen_docs: run `make gen` and commit the result")
        return 1
    print("gen_docs: current" if not stale else f"gen_docs: {len(stale)} parts renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
