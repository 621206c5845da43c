"""A picture becomes ten token embeddings, one a stage of denoising: textual inversion, a stage at a time (Section 4 of the paper).

The prompt is a single word whose embedding is learnt, another one in each stage,

    v* = argmin_v  Σ_s E_{t in stage s, ε} ‖ε - ε_θ(α_t z + σ_t ε, t, c(v_s))‖²

with c the text encoders and all models frozen: gradients are only for the ten embeddings. A step of ours draws one level of noise in each stage,
so that all ten learn at once, and one that predicts velocities has their error in place of the noise's. The authors' code makes the ten from one
word by a small transformer and trains that; we learn the ten themselves, in units of the spread of the vocabulary.

What is ours: the words that it begins with. One word that says nothing becomes a scene of one thing in a minute, but two things are
mixed up; so each stage may begin with the words that a network reads in the picture, and what is learnt is how far each stage's own go from those.
Module level is free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pipelines import prospect
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, whole
from pipelines.models import sdxl
from pipelines.models.judges import REWARD
from pipelines.prospect.tokens import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier

DRAWN = 2
"""Pictures that are drawn from the finished tokens."""
LOOKS_EVERY = 15
"""Steps between two previews."""
LOOK_STEPS = 8
"""Steps of denoising of a preview."""
KEPT = 0.6
"""Of what was learnt from words, this share is kept. Learning has no guidance, and drawing with it exaggerates what was learnt: on validation
scenes the whole of it lost shapes that the words had brought (``assets/prospect/README.md``)."""
STARTS = {
    "caption": "the words that our reader finds in the picture",
    "word": "one word that says nothing, as in the paper",
}


@dataclass(frozen=True)
class InversionSettings(Declared):
    """Everything but the picture that decides an inversion."""

    start: str = choice("What learning begins with", "caption", STARTS)
    learn_steps: int = whole(
        "Steps of learning",
        120,
        1,
        2000,
        offered=(10, 200),
        name="number of steps of learning",
        info="About a second each on a CPU.",
    )
    rate: float = real(
        "Rate",
        0.05,
        0.001,
        2.0,
        step=0.01,
        offered=(0.01, 1.0),
        name="rate",
        info="Of the vocabulary’s spread, a step.",
    )
    seed: int = seed(1)
    steps: int = whole("Steps", 20, 1, 100, name="number of steps")
    guidance: float = real("Guidance", 5.5, 1.0, 20.0, step=0.5)
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)

    @classmethod
    def of(cls, model_set: str) -> InversionSettings:
        """The defaults of a model set."""
        if model_set == "mini":
            return cls()
        base = sdxl.BASES[model_set]
        return cls("word", 300, steps=base.steps, guidance=base.guidance, model_set=model_set)

    def validated(self) -> Self:
        made = super().validated()
        if made.start == "caption" and made.model_set != "mini":
            raise ValueError(
                f"Learning was to begin with the words of a reader, and only the mini set has one, not {made.model_set}: begin with one word."
            )
        return made


@dataclass
class Inverted:
    """A finished inversion."""

    settings: InversionSettings
    tokens: Tokens
    drawn: Image
    """The picture, and what the tokens draw from two noises."""
    measurements: dict[str, Any]


@dataclass
class Look:
    """The picture, and what the tokens draw so far."""

    drawn: Image
    step: int


def invert(job: Job, registry: Registry, settings: InversionSettings, picture: Image) -> Inverted:
    """Learn the ten tokens of ``picture`` (RGB; its largest square in the middle is read); called on the lane's thread.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)
    base = sdxl.BASES[run.settings.model_set]

    reader = {"reader": REWARD} if run.settings.start == "caption" else {}

    def work(judge: SceneVerifier | None = None, reader: SceneVerifier | None = None, **models: Any) -> Inverted:
        from pipelines.prospect.learning import inverted

        return inverted(run, models, (reader, judge), picture)

    return run.lease(
        {**prospect.parts(run.settings.model_set), **reader},
        work,
        loading=base.title,
        unnamed=set(base.named) - {"unet"},
        smaller="close other programs",
    )
