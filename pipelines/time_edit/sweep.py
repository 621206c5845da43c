"""What λ costs: efficacy, generality and specificity of the same edits at several λ, from the same noises. Module level is free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines import time_edit
from pipelines.core.run import Run
from pipelines.core.scores import wilson
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.models import sdxl
from pipelines.time_edit import EVERYTHING, LAYERS, Settings
from pipelines.time_edit.cases import cases

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.time_edit.editing import TimeEdit

LAMBDAS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
MEASURES = ("efficacy", "generality", "specificity")
SOURCES = {"random": "random edits of one attribute", "mine": "my edit above, seed after seed"}
Drawn = Mapping[str, Mapping[str, list["Image"]]]


@dataclass(frozen=True)
class SweepSettings(Declared):
    """``count`` edits, one picture a prompt, at every λ of :data:`LAMBDAS`."""

    source: str = choice("What is edited", "random", SOURCES)
    count: int = whole("Number of edits", 3, 1, 100, offered=(1, 24), name="number of edits")
    protect: float = real("Protect other prompts, μ", 1.0, 0.0, 100.0, step=0.1, name="μ")
    layers: str = choice("Which matrices", EVERYTHING, LAYERS)
    seed: int = seed(1)
    steps: int = whole("Steps", 16, 1, 100, name="number of steps")
    edits: str = text("Edits", 600, name="edits", default="", shown=False)
    related: str = text("Prompts that should change", 1200, default="", shown=False)
    unrelated: str = text("Prompts that should not change", 1200, default="", shown=False)
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)

    @property
    def cases(self) -> list[Settings]:
        """The edits, as the settings of runs."""
        how: dict[str, Any] = {"protect": self.protect, "layers": self.layers, "steps": self.steps, "count": 1}
        if self.source == "random":
            return [replace(one, **how, contradicting="") for one in cases(f"lab {self.seed}", self.count, self.seed)]
        start = Settings(self.edits, self.related, self.unrelated, **how)
        return [replace(start, seed=(self.seed + n) % 2**31) for n in range(self.count)]

    def validated(self) -> SweepSettings:
        made = super().validated()
        if made.model_set != "mini":
            raise ValueError(
                f"The lab was asked to judge the model set {made.model_set}, but only the mini set's world has a judge: choose mini."
            )
        for one in made.cases:
            one.validated()
        return made


@dataclass
class Tally:
    """What was counted so far: [right, of] of each measure at each λ, and before."""

    settings: SweepSettings
    found: dict[float, dict[str, list[int]]] = field(default_factory=dict)
    before: dict[str, list[int]] = field(default_factory=dict)
    done: int = 0

    def add(self, measured: Mapping[float, Mapping[str, Any]]) -> None:
        """Count an edit: λ -> what :meth:`pipelines.time_edit.editing.TimeEdit.measure` says."""
        for number, (strength, one) in enumerate(measured.items()):
            for name in MEASURES:
                _count(self.found.setdefault(strength, {}), name, one[name]["after"])
                if number == 0 and "before" in one[name]:
                    _count(self.before, name, one[name]["before"])
        self.done += 1


def _count(into: dict[str, list[int]], name: str, came: list[int]) -> None:
    into[name] = [a + b for a, b in zip(into.get(name, [0, 0]), came, strict=True)]


def share(counted: list[int]) -> tuple[float, float, float]:
    """A share and its 95 % interval, of [right, of]."""
    right, of = counted
    return (right / max(of, 1), *wilson(right, of))


def best(found: Mapping[float, Mapping[str, list[int]]]) -> float:
    """The λ whose worst measure is best; of equals the firmest."""
    return max(found, key=lambda strength: (min(share(found[strength][name])[0] for name in MEASURES), strength))


def measure(job: Job, registry: Registry, settings: SweepSettings) -> Tally:
    """Edit after edit at every λ; called on the lane's thread. Emits the :class:`Tally` after each edit.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)

    def work(judge: Any, **models: Any) -> Tally:
        from pipelines.time_edit.editing import TimeEdit

        tally, editor = Tally(run.settings), TimeEdit(models, judge)
        for number, case in enumerate(run.settings.cases):
            tally.add(_swept(run, editor, case, number))
            run.show(tally)
        return tally

    return run.lease(time_edit.parts("mini"), work, loading="the models")


def _swept(run: Run[SweepSettings], editor: TimeEdit, case: Settings, number: int) -> dict[float, dict[str, Any]]:
    """λ -> what was counted of one edit."""
    import torch

    from pipelines.time_edit.editing import wearing

    prompts = {kind: list(found) for kind, found in case.prompts.items()}
    everything = [prompt for found in prompts.values() for prompt in found]
    # A picture's noise goes by its place among the prompts of its own kind, as in a run.
    places = [place for found in prompts.values() for place in range(len(found))]
    rounds, measured = len(LAMBDAS) + 1, {}

    def drawn(turn: int, words: str) -> dict[str, list[Image]]:
        def report(fraction: float) -> None:
            at = (number + (turn + fraction) / rounds) / run.settings.count
            run.progress(at, f"edit {number + 1} of {run.settings.count}, {words}")

        made = iter(editor.painted(case, everything, places, report))
        return {kind: [next(made) for _ in found] for kind, found in prompts.items()}

    with torch.inference_mode():
        before = drawn(0, "before")
        for turn, strength in enumerate(LAMBDAS, 1):
            edit = editor.edit(replace(case, regularisation=strength))
            with wearing(editor.unet, editor.weights([edit])):
                after = drawn(turn, f"λ = {strength:g}")
            rows: Drawn = {kind: {"before": before[kind], "after": after[kind]} for kind in prompts}
            measured[strength] = editor.measure(case, rows)
    return measured
