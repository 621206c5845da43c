"""How a run stands: its progress, its previews, what it says, how long its stages took, and which of them were kept from before."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.geometry import Picture
from pipelines.core.stages import Cache, Preview, Stored
from pipelines.megaportrait.results import to_pil

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.megaportrait.nets import OnStep


class Run:
    """One run of the pipeline on the lane's thread."""

    def __init__(self, job: Job, cache: Cache) -> None:
        self.job, self.cache = job, cache
        self.stage = "loading"
        """What it is at, for a sentence about an error."""
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        """Per stage; 0 for what came from the cache."""
        self.steps: dict[str, int] = {}
        """Steps that each net took, per candidate."""
        self.attempts = 0
        """How often its stages began."""
        self._first: list[str] = []
        self._loading: float | None = None
        self._total, self._done, self._ran, self._spent = 1, 0, 0, 0.0

    def load(self) -> None:
        """From here on models are loaded. The limit is for the work, and a first run may have to fetch them."""
        self._loading = time.monotonic()

    def loaded(self) -> None:
        """All models are there."""
        if self.job.started is not None and self._loading is not None:
            self.job.started += time.monotonic() - self._loading
        self._loading = None

    def restart(self, why: str) -> None:
        """Once more with other settings; ``why`` is said first."""
        self._first.append(why)
        self.attempts = 0
        self.load()

    def begin(self, nets: dict[str, int], candidates: int, notes: Sequence[str | None]) -> None:
        """Its stages begin, perhaps once more: ``nets`` and the steps that each takes."""
        self.attempts += 1
        self.notes = list(dict.fromkeys(note for note in (*self._first, *notes) if note is not None))
        self.seconds = {name: value for name, value in self.seconds.items() if name == "analysis"}
        self.steps = dict.fromkeys(nets, 0)
        self._total, self._done, self._ran, self._spent = max(1, candidates * sum(nets.values())), 0, 0, 0.0

    def note(self, sentence: str | None) -> None:
        """Say it once; None says nothing."""
        if sentence is not None and sentence not in self.notes:
            self.notes.append(sentence)

    def show(self, name: str, picture: Picture) -> None:
        """A stage's finished picture."""
        self.job.emit(Preview(name, 1, 1, to_pil(picture)))

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count what the block takes towards a stage."""
        self.job.check()
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def net(self, name: str, steps: int, inputs: Sequence[Any], paint: Callable[[OnStep], Picture]) -> Picture:
        """A net's picture: kept from before by its ``inputs``, or painted and kept."""
        key = Cache.key(name, *inputs)
        painted, start = self.cache.get(key), self._done
        self.seconds.setdefault(name, 0.0)
        self.steps[name] = steps
        if painted is None:
            self.stage = f"the stage {name}"
            self.job.check()
            with self.timed(name):
                painted = paint(self._watcher(name, start))
            self.cache.put(key, painted)
            self.job.emit(Stored(key, painted))
        self._done = start + steps
        self.show(name, painted)
        return painted

    def _watcher(self, name: str, start: int) -> OnStep:
        """What tells progress and shows a preview after each step of a net; ``start``: steps done before it."""
        ran, spent, began = self._ran, self._spent, time.monotonic()

        def on_step(step: int, count: int, picture: Callable[[], Picture]) -> None:
            self._done, self._ran = start + step, ran + step
            self._spent = spent + time.monotonic() - began
            if step == count:  # only decoding is left: a stop now would throw the whole stage away
                return
            left = self._spent / self._ran * (self._total - self._done)
            text = f"{name}: step {step} of {count}, about {math.ceil(left)} s left"
            self.job.progress(0.03 + 0.92 * self._done / self._total, text)
            if step % max(1, count // 3) == 0:
                self.job.emit(Preview(name, step, count, to_pil(picture())))

        return on_step
