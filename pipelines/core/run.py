"""A run of a paper: what it leases, how far it is, what it shows on the way, what has to be said of it, and how long it took.

    def generate(job: Job, registry: Registry, settings: Settings) -> Outcome:
        run = Run(job, registry, settings)
        return run.lease(parts, lambda **models: Paper(**models)(run), loading="SDXL")

A pipeline class gets the run beside its models, and reads as the paper's list of stages.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipelines.core import troubles
from pipelines.core.settings import Declared

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec

S = TypeVar("S", bound=Declared)
T = TypeVar("T")


class Run(Generic[S]):
    """One run with validated ``settings``. Raises ``ValueError`` for settings outside their limits."""

    def __init__(self, job: Job, registry: Registry, settings: S) -> None:
        self.job, self.registry = job, registry
        self.settings: S = settings.validated()
        self.notes: list[str] = []
        """Sentences that the page has to say before it shows the result."""
        self.seconds: dict[str, float] = {}
        """By stage."""
        self.models: list[dict[str, str]] = []
        """Those that answered: key, source, licence."""

    def progress(self, fraction: float, text: str) -> None:
        """How far the run is, in [0, 1]; ends it here when it was stopped."""
        self.job.progress(fraction, text)

    def show(self, preview: Any) -> None:
        """Something to look at before the result is there."""
        self.job.emit(preview)

    def note(self, sentence: str) -> None:
        """Say ``sentence`` with the result; once, and nothing where it is empty."""
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; two of the same name add up."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def lease(
        self,
        parts: Mapping[str, ModelSpec],
        work: Callable[..., T],
        *,
        loading: str,
        at: float = 0.0,
        unnamed: Collection[str] = (),
        sources: Mapping[str, str] = MappingProxyType({}),
        smaller: str = troubles.SMALLER,
    ) -> T:
        """``work(**models)`` with the models of ``parts``, by name. ``work`` may be called twice, where memory was short.

        Args:
            loading: what is loaded, for the line of progress; ``at``: how far the run is by then.
            unnamed: parts that answer with others, and are not named on the page (a text encoder of a named model).
            sources: of a part -> where it came from, where that is not its spec's source.
            smaller: what a visitor can do to need less memory.
        """
        self.progress(at, f"loading {loading}")
        self.models = [
            {"key": spec.key, "source": sources.get(name, spec.source), "licence": spec.licence}
            for name, spec in parts.items()
            if name not in unnamed
        ]
        return self.registry.run(parts, work, smaller)

    def measurements(self, **figures: Any) -> dict[str, Any]:
        """What every run tells, JSON-able, and ``figures`` of its own."""
        told = {"device": self.registry.device, "notes": list(self.notes), "settings": asdict(self.settings)}
        return {**told, **figures, "models": self.models}
