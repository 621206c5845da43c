"""The FreeU tab: the same prompt and seed, plain and with FreeU."""

from __future__ import annotations

from pipelines.freeu import PAPER, Settings, generate

from demos.core.page import PicturesPage
from demos.core.tabs import Tab
from pipelines.core.registry import Registry
from pipelines.models.sdxl import BASES


def build(registry: Registry, model_set: str) -> None:
    """The page."""
    PicturesPage(
        "freeu",
        PAPER,
        Settings("a red cube left of a blue ball", steps=BASES[model_set].steps, model_set=model_set),
        generate,
        BASES[model_set].named,
        {"plain": "Plain", "freed": "FreeU"},
        "Two pictures of one prompt, plain and with FreeU.",
        story="The decoder of a UNet gets **backbone** features from below and **skips** from beside.",
    ).build(registry)


TAB = Tab("FreeU", "freeu", 50, build, PAPER, ("freeu",))
