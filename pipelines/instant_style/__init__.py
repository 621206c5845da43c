"""InstantStyle (Wang et al., 2024, arXiv 2404.02733): speak to single layers of the model, because layers paint different things.

A UNet hears what is wanted in its cross-attentions. The paper lets a *picture* (through IP-Adapter) speak in one of SDXL's eleven
attention blocks only, ``up_blocks.0.attentions.1`` for its style and ``down_blocks.2.attentions.1`` for its layout (section 3.2.2), and takes
the text feature of the picture's content out of the picture's feature (section 3.2.1). What holds for pictures holds for prompts, and is
easier to measure: :func:`generate` draws a prompt A while a prompt B speaks in chosen attentions (``layers.speaking``), and
``matrix.measure`` says which attribute each of them paints. The pooled embedding, which reaches every layer with the time, counts as a place.

What is ours: prompts in place of pictures, the measurement, the small model and the judge that reads it. Module level is free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from pipelines.core import asset_files, limits
from pipelines.core.paper import Paper
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, seed, text, whole
from pipelines.core.weights import ROOT, ModelSpec
from pipelines.instant_style.measured import carriers
from pipelines.models import judges, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier

PAPER = Paper(
    title="InstantStyle: Free Lunch towards Style-Preserving in Text-to-Image Generation",
    authors=("Haofan Wang", "Matteo Spinelli", "Qixun Wang", "Xu Bai", "Zekui Qin", "Anthony Chen"),
    venue="arXiv 2024",
    url="https://arxiv.org/abs/2404.02733",
    summary="Layers paint different things: say in which of them a second prompt speaks, and it changes just that.",
    idea=(
        "A diffusion model hears its prompt in many cross-attentions. One of them decides the colour, another the shape: whoever speaks only "
        "there changes only that. The paper uses it to take the style of a picture without its content."
    ),
    ours="The code, a prompt for each attention, the measurement of who paints what, the embedded model and its judge.",
    theirs="The finding that single blocks of SDXL carry style and layout, and the method built on it.",
    licence="Code and embedded weights Apache-2.0; Stable Diffusion XL is openrail++; the authors' code is Apache-2.0.",
    code_url="https://github.com/instantX-research/InstantStyle",
)

POOLED = "pooled"
"""The place that is no attention: the pooled embedding of the prompt, which every layer hears with the time."""
A, MIXED, B = "A everywhere", "B where it is chosen", "B everywhere"
HALVES, WORDS = "half of each", "said in words"
"""Columns of the sheet."""
STYLE, LAYOUT = "up_blocks.0.attentions.1", "down_blocks.2.attentions.1"
"""The paper's two blocks of SDXL."""
_MINI = {
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
}
"""Stands in where the file that says it cannot be read: then the model cannot be loaded either, and that is said."""
_SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
}


def places_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a prompt speaks in a UNet of this configuration, in the order of the picture's way through it, and :data:`POOLED`."""
    layers = config["layers_per_block"]

    def listed(side: str, count: int) -> list[str]:
        kinds = config[f"{side}_block_types"]
        return [
            f"{side}_blocks.{n}.attentions.{m}" for n, kind in enumerate(kinds) if "Cross" in kind for m in range(count)
        ]

    return (*listed("down", layers), "mid_block.attentions.0", *listed("up", layers + 1), POOLED)


@cache
def places(model_set: str) -> tuple[str, ...]:
    """:func:`places_of` the model set's UNet."""
    if model_set == "full":
        return places_of(_SDXL)
    return places_of(asset_files.facts(ROOT / sdxl.FIRST["mini"].source / "unet" / "config.json", *_MINI) or _MINI)


def short(place: str) -> str:
    """A place as the page calls it: "up 1.0" for ``up_blocks.1.attentions.0``."""
    if place == POOLED:
        return "pooled"
    side, _, rest = place.partition("_block")
    return "middle" if side == "mid" else f"{side} {rest[2:].replace('.attentions.', '.')}"


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run; the same settings give the same pictures, byte for byte, on the same machine."""

    prompt_a: str = text(
        "Prompt A", 300, "Prompt A is empty: describe a picture, or press an example.", name="prompt A"
    )
    prompt_b: str = text(
        "Prompt B", 300, "Prompt B is empty: describe a picture, or press an example.", name="prompt B"
    )
    places: str = text(
        "Where prompt B speaks",
        600,
        name="list of places",
        default="",
        info="Click an attention: B speaks there, A in all others.",
    )
    words: str = text(
        "The same, said in words",
        300,
        name="prompt in words",
        default="",
        info="One prompt for the same picture: the obvious alternative, drawn beside it. May be empty.",
    )
    count: int = whole("Pictures", 2, 1, 4, name="number of pictures")
    seed: int = seed()
    steps: int = whole("Steps", 16, 1, 100, name="number of steps")
    model_set: str = choice("Model set", "mini", sdxl.FIRST, shown=False)

    @classmethod
    def of(cls, model_set: str) -> Settings:
        """The defaults of a model set, with the first example."""
        steps = 16 if model_set == "mini" else sdxl.FIRST[model_set].steps
        first = next(iter(examples(model_set).values()))
        return cls(**first, steps=steps, model_set=model_set)

    @property
    def where(self) -> tuple[str, ...]:
        """The places at which B speaks."""
        return tuple(re.findall(r"[\w.]+", self.places))

    def validated(self) -> Self:
        made = super().validated()
        known = places(made.model_set)
        for place in made.where:
            if place not in known:
                raise ValueError(
                    f"There is no place called {limits.described(place)} in this model: choose among {', '.join(known)}."
                )
        return replace(made, places=" ".join(place for place in known if place in made.where))


@dataclass
class Outcome:
    """A finished run: a sheet, and what was measured (JSON-able)."""

    settings: Any
    """:class:`Settings`, or those of a picture (``picture.PictureSettings``)."""
    sheet: Image
    """Rows are seeds; columns are A everywhere, A with B in the chosen places, B everywhere, half of each, and said in words."""
    measurements: dict[str, Any]


@dataclass
class Preview:
    """The sheet so far."""

    sheet: Image


def parts(model_set: str) -> dict[str, ModelSpec]:
    """The parts that a run leases, by name."""
    return judges.judged(sdxl.FIRST[model_set])


def generate(job: Job, registry: Registry, settings: Settings) -> Outcome:
    """Draw prompt A with prompt B in the chosen places, and what a sceptic would put beside it; called on the lane's thread.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)

    def draw(models: dict[str, Any], judge: SceneVerifier | None) -> Outcome:
        from pipelines.instant_style.layers import InstantStyle

        return InstantStyle(models, judge)(run)

    return judges.draw(run, sdxl.FIRST[run.settings.model_set], draw)


# ------------------------------------------------------------------------------------------- examples

_ASKED = {
    "mini": (
        ("a red cube on a wooden floor", "a blue ball on tiles", "colour", "a blue cube on a wooden floor"),
        ("a red cube on a wooden floor", "a blue ball on tiles", "shape", "a red ball on a wooden floor"),
        ("a red cube on a wooden floor", "a blue ball on tiles", "floor", "a red cube on tiles"),
        (
            "a smiling person with black hair, no glasses and no beard",
            "a serious person with blond hair, glasses and a beard",
            "glasses",
            "a smiling person with black hair, glasses and no beard",
        ),
    ),
}
"""Prompt A, prompt B, the attribute that is taken from B, and that in words."""


def examples(model_set: str) -> dict[str, dict[str, Any]]:
    """Title -> the settings that it sets. Where an attribute is painted is read from the evaluation."""
    if model_set == "full":
        pair = {"prompt_a": "a cat in a meadow, photograph", "prompt_b": "a watercolour painting in soft blue tones"}
        both = f"{LAYOUT} {STYLE}"
        said = "a cat in a meadow, watercolour painting in soft blue tones"
        return {
            "B in the style block": {**pair, "places": STYLE, "words": said},
            "B in style and layout blocks": {**pair, "places": both, "words": said},
        }
    found = carriers()
    made = {}
    for a, b, attribute, words in _ASKED["mini"]:
        place = found.get(attribute, places("mini")[-2])
        made[f"{attribute} of B: {short(place)}"] = {"prompt_a": a, "prompt_b": b, "places": place, "words": words}
    return made
