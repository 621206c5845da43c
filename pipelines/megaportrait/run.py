"""A run of MegaPortrait: each net's picture is kept by what it depends on, and memory that ran out begins the stages again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.core.geometry import Picture
from pipelines.core.run import Run
from pipelines.core.stages import Cache, Preview, Stored
from pipelines.megaportrait.results import to_pil
from pipelines.megaportrait.settings import Settings

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.megaportrait.nets import OnStep


class KeptRun(Run[Settings]):
    """A run that keeps what its nets paint in ``cache``."""

    def __init__(self, job: Job, registry: Registry, settings: Settings, cache: Cache | None) -> None:
        super().__init__(job, registry, settings)
        self.cache = Cache() if cache is None else cache
        self.current = "loading"
        """What it is at, for a sentence about an error."""
        self.steps: dict[str, int] = {}
        """Steps that each net took, per candidate."""
        self.attempts = 0
        """How often its stages began."""
        self._first: list[str] = []
        self._loading = time.monotonic()
        self._total, self._done, self._ran, self._spent = 1, 0, 0, 0.0

    def load(self) -> None:
        """From here on models are loaded. The limit is for the work, and a first run may have to fetch them."""
        self._loading = time.monotonic()

    def loaded(self) -> None:
        """All models are there."""
        if self.job.started is not None:
            self.job.started += time.monotonic() - self._loading
        self._loading = time.monotonic()

    def settle_for(self, preset: str, why: str) -> None:
        """Once more with another preset; ``why`` is said first."""
        self.settings = replace(self.settings, preset=preset)
        self._first.append(why)
        self.attempts = 0
        self.load()

    def begin(self, notes: Sequence[str | None]) -> None:
        """The stages begin, perhaps once more."""
        nets = self.settings.effective()
        self.attempts += 1
        self.notes = list(dict.fromkeys(note for note in (*self._first, *notes) if note))
        self.seconds = {name: value for name, value in self.seconds.items() if name == "analysis"}
        self.steps = dict.fromkeys(nets, 0)
        self._total = max(1, self.settings.candidates * sum(nets.values()))
        self._done, self._ran, self._spent = 0, 0, 0.0

    def picture(self, name: str, picture: Picture) -> None:
        """Show a stage's finished picture."""
        self.show(Preview(name, 1, 1, to_pil(picture)))

    def net(self, name: str, steps: int, inputs: Sequence[Any], paint: Callable[[OnStep], Picture]) -> Picture:
        """A net's picture: kept from before by its ``inputs``, or painted and kept."""
        key = Cache.key(name, *inputs)
        painted, start = self.cache.get(key), self._done
        self.seconds.setdefault(name, 0.0)
        self.steps[name] = steps
        if painted is None:
            self.current = f"the stage {name}"
            self.job.check()
            with self.stage(name):
                painted = paint(self._watcher(name, start))
            self.cache.put(key, painted)
            self.show(Stored(key, painted))
        self._done = start + steps
        self.picture(name, painted)
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
            self.progress(0.03 + 0.92 * self._done / self._total, text)
            if step % max(1, count // 3) == 0:
                self.show(Preview(name, step, count, to_pil(picture())))

        return on_step
