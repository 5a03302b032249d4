# SPDX-License-Identifier: Apache-2.0
"""The weights to measure with: those of the daemon, fetched first where they are missing."""

import os
import sys
from pathlib import Path

from callsd_bench.shared.errors import BenchError
from callsd_daemon import config
from callsd_daemon.models.errors import ModelError
from callsd_daemon.models.measured import LANGUAGE, engine_for
from callsd_daemon.models.pull import PullPhase, PullProgress, pull
from callsd_daemon.models.store import ModelState, ModelStore


def ensure_model(name: str, models: Path | None) -> Path:
    """The models directory, in which the model `name` is present now.

    `models` None = the daemon's own. BenchError: it cannot be had.
    """
    try:
        directory = models or Path(config.load(None, os.environ).models.directory)
        store = ModelStore(directory)
        if store.get(name).state is not ModelState.PRESENT:
            pull(store, name, on_progress=_Telling())
    except (config.ConfigError, ModelError) as problem:
        raise BenchError(str(problem)) from None
    return directory


def engine_of(model: Path, engine: str) -> str:
    """The engine itself, or for "auto" the one that jobs take. BenchError: there is no model."""
    if engine != "auto":
        return engine
    try:
        return engine_for(ModelStore(model.parent).require(model.name), LANGUAGE)
    except ModelError as problem:
        raise BenchError(str(problem)) from None


class _Telling:
    """Says on stderr what a pull is doing, a line for each phase."""

    def __init__(self) -> None:
        self._phase: PullPhase | None = None

    def __call__(self, progress: PullProgress) -> None:
        if progress.phase is not self._phase:
            self._phase = progress.phase
            sys.stderr.write(f"{progress.phase}: {progress.message}\n")
            sys.stderr.flush()
