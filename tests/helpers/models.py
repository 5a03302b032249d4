# SPDX-License-Identifier: Apache-2.0
"""Models that only look like some: for daemons whose workers read none."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from callsd_daemon.models.manifest import Manifest, Trial
from callsd_daemon.models.store import ModelStore


NAME = "tiny.test"
"""Charged as the smallest models are, and not in the catalogue."""

_NONE: Mapping[str, float] = MappingProxyType({})


def install(
    directory: Path,
    name: str = NAME,
    *,
    engines: tuple[str, ...] = ("ctranslate2", "whispercpp"),
    is_multilingual: bool = True,
    cpu_seconds: Mapping[str, float] = _NONE,
) -> Path:
    """Install a model of a few bytes; returns the file that its manifest vouches for.

    `cpu_seconds` is what an engine's trial took.
    """
    store = ModelStore(directory)
    with store.staging(name, should_stop=lambda: False) as staging:
        build = staging / "model"
        build.mkdir()
        (build / "model.bin").write_bytes(b"weights")
        store.install(
            build,
            Manifest(
                name=name,
                source="test",
                is_multilingual=is_multilingual,
                files=(store.record(build / "model.bin", relative_to=build),),
                trials=tuple(
                    Trial(
                        engine=engine,
                        file="model.bin",
                        words_right=1.0,
                        cpu_seconds=cpu_seconds.get(engine, 0.1),
                    )
                    for engine in engines
                ),
                verified_unix_seconds=1.7e9,
            ),
        )
    return directory / name / "model.bin"
