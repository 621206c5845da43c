"""A run whose stages are kept by what they depend on, so that none is computed twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipelines.core.run import Run, S
from pipelines.core.stages import Cache, Preview, Stored

if TYPE_CHECKING:
    from pipelines.core.images import Picture
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

OnStep = Callable[[int, int, Callable[[], "Picture"]], None]
"""Called after each step with its number, the number of steps, and a function that makes a small picture of it."""


class KeptRun(Run[S]):
    """A run that keeps its stages in ``cache`` and takes ``total`` steps."""

    def __init__(self, job: Job, registry: Registry, settings: S, cache: Cache | None, total: float) -> None:
        super().__init__(job, registry, settings)
        self.cache, self.total = Cache() if cache is None else cache, total
        self.current = "loading"
        """The stage that is computed, for whoever says where a run failed."""
        self.done = 0.0
        self.identity: tuple[Any, ...] = ()
        self._loading_since: float | None = time.monotonic()

    def begin(self, *identity: Any) -> None:
        """The models are there; also for a second time, after they ran out of memory. ``identity``: of the models, for what is kept."""
        if self._loading_since is not None and self.job.started is not None:
            # The limit is for the work: a first run may have to fetch 35 GB.
            self.job.started += time.monotonic() - self._loading_since
        self._loading_since = None
        self.notes, self.seconds, self.done, self.identity = [], {}, 0.0, identity

    def say(self, *sentences: str | None) -> None:
        """:meth:`note` each that is not None."""
        for sentence in sentences:
            self.note(sentence or "")

    def kept(self, name: str, compute: Callable[[], Any], *inputs: Any) -> Any:
        """The stage ``name`` from the cache, or computed and put there; its seconds are 0 if it was there."""
        key = Cache.key(name, self.identity, *inputs)
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
        start = self.done

        def on_step(step: int, steps: int, look: Callable[[], Picture]) -> None:
            self.done = start + weight * step
            if step == steps:  # only decoding is left: a stop now would throw the whole stage away
                return
            self.progress(0.02 + 0.95 * self.done / self.total, f"{name}: step {step} of {steps}")
            if step % max(1, steps // 4) == 0:
                self.show(Preview(name, step, steps, Image.fromarray(look())))

        yield on_step
        self.done = start + weight * count

    def finished(self, name: str, steps: int, picture: Picture) -> None:
        """Show the picture of a stage that is done."""
        self.show(Preview(name, steps, steps, Image.fromarray(picture)))
