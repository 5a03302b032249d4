# SPDX-License-Identifier: Apache-2.0
"""Live captions of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callsd_daemon.domain.captions import CAPTIONS, CaptionsResult, CaptionsSpec
from callsd_daemon.domain.costs import captioner_cost, captions_cost, captions_cost_key
from callsd_daemon.domain.jobs import Notice, Reservation, Usage
from callsd_daemon.kinds.kind import Bounds, JobKind, ModelFile, Opener, SharedWorker
from callsd_daemon.kinds.models import model_files, require
from callsd_daemon.models.measured import engine_for
from callsd_daemon.models.store import ModelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerAssignment:
    """The model that a captioner serves, and with how many threads."""

    model: str
    model_files: tuple[ModelFile, ...]
    engine: str
    workers: int
    fallback_files: tuple[ModelFile, ...] = ()
    """Of a smaller model for interim captions while this one falls behind; none = no such."""
    fallback_engine: str = ""

    @property
    def files(self) -> Mapping[str, Opener]:
        """What the captioner may read, by the names it asks with."""
        return {f"model/{file.path}": file.open for file in self.model_files} | {
            f"fallback/{file.path}": file.open for file in self.fallback_files
        }


@dataclass(frozen=True, kw_only=True)
class Captions(JobKind[CaptionsSpec]):
    """Captions a call while it goes on; one captioner serves all calls with its model."""

    name = CAPTIONS
    is_batch = False
    spec_type = CaptionsSpec
    result_type = CaptionsResult
    role = None
    may_share = True

    models: ModelStore
    bounds: Bounds
    max_duration_seconds: float
    default_model: str
    fallback_model: str
    workers: int
    """Threads of a captioner."""
    abandoned_seconds: float
    """A call to which nobody sends is over after so long."""

    def check(self, spec: CaptionsSpec, creator: str) -> tuple[Notice, ...]:
        """The model must be there and know the language."""
        require(self.models, spec.model, {spec.language})
        return ()

    def cost_key(self, spec: CaptionsSpec) -> str:
        """By model and speakers."""
        return captions_cost_key(spec)

    def cost(
        self, spec: CaptionsSpec, max_duration_seconds: float, observed: Sequence[Usage]
    ) -> Reservation:
        """What the call adds to its captioner."""
        return captions_cost(spec, observed)

    def shared_worker(self, spec: CaptionsSpec) -> SharedWorker:
        """The captioner of its model."""
        return SharedWorker(name=spec.model, reservation=captioner_cost(spec.model))

    def captioner(self, model: str) -> CaptionerAssignment:
        """All that a captioner must know; raises CallsdError when its model is not there."""
        fallback: tuple[ModelFile, ...] = ()
        fallback_engine = ""
        if self.fallback_model not in ("", model):
            smaller = self.models.require(self.fallback_model)
            fallback, fallback_engine = model_files(smaller), engine_for(smaller, "")
        found = self.models.require(model)
        return CaptionerAssignment(
            model=model,
            model_files=model_files(found),
            # One captioner serves calls of all languages.
            engine=engine_for(found, ""),
            workers=self.workers,
            fallback_files=fallback,
            fallback_engine=fallback_engine,
        )
