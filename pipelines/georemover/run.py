"""One removal on its way: what it has said, how long its stages took, and stages that are kept by their inputs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipelines.core.stages import Cache, Preview, Stored

if TYPE_CHECKING:
    from pipelines.core.images import Picture
    from pipelines.core.lane import Job

OnStep = Callable[[int, int, Callable[[], "Picture"]], None]
"""Called after each step with its number, the number of steps, and a function that makes a small picture of it."""


class Run:
    """What stages need of the run that they belong to; ``total`` is how many steps it will take."""

    def __init__(self, job: Job, cache: Cache, total: float, notes: Sequence[str] = ()) -> None:
        self.job, self.cache, self.total = job, cache, total
        self.given_notes = notes
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        """Per stage; 0 for what came from the cache."""
        self.stage = "loading"
        """The one that is computed, for whoever says where a run failed."""
        self.done = 0.0
        self.identity: tuple[Any, ...] = ()
        self.loading_since: float | None = time.monotonic()

    def begin(self, identity: tuple[Any, ...]) -> None:
        """The models are there; also for a second time, after they ran out of memory. ``identity``: of the models, for what is kept."""
        if self.loading_since is not None and self.job.started is not None:
            # The limit is for the work: a first run may have to fetch 35 GB.
            self.job.started += time.monotonic() - self.loading_since
        self.loading_since = None
        self.notes, self.seconds, self.done, self.identity = list(self.given_notes), {}, 0.0, identity

    def note(self, *sentences: str | None) -> None:
        """Say each that is none of None and not said yet."""
        self.notes += [one for one in dict.fromkeys(sentences) if one is not None and one not in self.notes]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to those of a stage."""
        self.job.check()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def kept(self, name: str, compute: Callable[[], Any], *inputs: Any) -> Any:
        """The stage ``name`` from the cache, or computed and put there."""
        key = Cache.key(name, self.identity, *inputs)
        value = self.cache.get(key)
        self.seconds.setdefault(name, 0.0)
        if value is None:
            self.stage = name
            with self.timed(name):
                value = compute()
            self.cache.put(key, value)
            self.job.emit(Stored(key, value))
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
            self.job.progress(0.02 + 0.95 * self.done / self.total, f"{name}: step {step} of {steps}")
            if step % max(1, steps // 4) == 0:
                self.job.emit(Preview(name, step, steps, Image.fromarray(look())))

        yield on_step
        self.done = start + weight * count

    def show(self, name: str, steps: int, picture: Picture) -> None:
        """Send the finished picture of a stage."""
        self.job.emit(Preview(name, steps, steps, Image.fromarray(picture)))
