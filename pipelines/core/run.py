"""A run of a paper: what it leases, how far it is, what it shows on the way, what has to be said of it, and how long it took.

    def generate(job: Job, registry: Registry, settings: Settings) -> Outcome:
        run = Run(job, registry, settings)
        return run.lease(parts, lambda **models: Paper(**models)(run), loading="SDXL")

A pipeline class gets the run beside its models, and reads as the paper's list of stages. Of a :class:`KeptRun`, none of them is computed
twice from the same inputs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PIL import Image

from pipelines.core import troubles
from pipelines.core.settings import Declared
from pipelines.core.stages import Cache, Preview, Stored

if TYPE_CHECKING:
    from pipelines.core.images import Picture
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec

S = TypeVar("S", bound=Declared)
T = TypeVar("T")

OnStep = Callable[[int, int, Callable[[], "Picture"]], None]
"""Called after each step with its number, the number of steps, and a function that makes a picture of it."""
AGAIN = "The memory ran out once: what was idle was let go, and the run began again."


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

    def show(self, preview: object) -> None:
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

        The time that loading takes does not count towards the job's limit: a first run may have to fetch 35 GB.

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
        loading_since: float | None = time.monotonic()
        self.job.loading = True

        def loaded(**models: object) -> T:
            nonlocal loading_since
            self.job.loading = False
            if loading_since is not None and self.job.started is not None:
                self.job.started += time.monotonic() - loading_since
            loading_since = None
            return work(**models)

        try:
            return self.registry.run(parts, loaded, smaller)
        finally:
            self.job.loading = False

    def measurements(self, **figures: object) -> dict[str, Any]:
        """What every run tells, JSON-able, and ``figures`` of its own."""
        told = {"device": self.registry.device, "notes": list(self.notes), "settings": asdict(self.settings)}
        return {**told, **figures, "models": self.models}


class KeptRun(Run[S]):
    """A run that keeps its stages in ``cache`` by what they depend on, and begins them again where memory ran out."""

    def __init__(self, job: Job, registry: Registry, settings: S, cache: Cache | None = None) -> None:
        super().__init__(job, registry, settings)
        self.cache = Cache() if cache is None else cache
        self.current = "loading"
        """The stage that is computed, for whoever says where a run failed."""
        self._attempts = 0
        self._before: tuple[list[str], dict[str, float]] = [], {}
        self._identity: tuple[Any, ...] = ()
        self._total, self._done, self._computed, self._spent = 1.0, 0.0, 0.0, 0.0

    def begin(self, total: float, *identity: object) -> None:
        """``total`` steps begin; perhaps once more, and then with what was said and timed before the first.

        Args:
            identity: what decides every stage beside its own inputs, such as the models.
        """
        self._attempts += 1
        if self._attempts == 1:
            self._before = self.notes, self.seconds
        self.notes, self.seconds = list(self._before[0]), dict(self._before[1])
        self._identity, self._total = identity, max(1.0, total)
        self._done = self._computed = self._spent = 0.0
        self.say(AGAIN if self._attempts > 1 else None)

    def retry(self, settings: S, why: str) -> None:
        """The run is made anew with other settings; ``why`` is said first."""
        self.settings, self.notes, self.seconds, self._attempts = settings, [why], {}, 0

    def say(self, *sentences: str | None) -> None:
        """:meth:`note` each that is not None."""
        for sentence in sentences:
            self.note(sentence or "")

    def kept(self, name: str, compute: Callable[[], Any], *inputs: object) -> Any:
        """The stage ``name`` from the cache, or computed and put there; its seconds are 0 if it was there."""
        key = Cache.key(name, self._identity, *inputs)
        value = self.cache.get(key)
        self.seconds.setdefault(name, 0.0)
        if value is None:
            self.current = name
            self.job.check()
            with self.stage(name):
                value = compute()
            self.cache.put(key, value)
            self.show(Stored(key, value))
        return value

    @contextlib.contextmanager
    def steps(self, name: str, count: int, weight: float = 1.0) -> Iterator[OnStep]:
        """The progress and previews of a stage of ``count`` steps, each worth ``weight`` of the total. After the block they count as done,
        also where the stage was kept."""
        start, computed, spent, began = self._done, self._computed, self._spent, time.monotonic()

        def on_step(step: int, steps: int, look: Callable[[], Picture]) -> None:
            self._done, self._computed = start + weight * step, computed + weight * step
            self._spent = spent + time.monotonic() - began
            if step == steps:  # only decoding is left: a stop now would throw the whole stage away
                return
            left = math.ceil(self._spent / self._computed * (self._total - self._done))
            self.progress(
                0.02 + 0.95 * self._done / self._total, f"{name}: step {step} of {steps}, about {left} s left"
            )
            if step % max(1, steps // 4) == 0:
                self.show(Preview(name, step, steps, Image.fromarray(look())))

        yield on_step
        self._done = start + weight * count

    def finished(self, name: str, picture: Picture) -> None:
        """Show the picture of a stage that is done."""
        self.show(Preview(name, 1, 1, Image.fromarray(picture)))
