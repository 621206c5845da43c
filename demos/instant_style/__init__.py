"""The InstantStyle tab: two prompts, and a map that says which of them speaks where in the model."""

from __future__ import annotations

import gradio as gr

from demos.core.page import PicturesPage, how_it_works
from demos.core.tabs import Tab
from demos.core.widgets import paper_card, words_of
from demos.instant_style import picture, unet_map, who
from demos.instant_style.shown import figures
from demos.instant_style.talk import TALK
from pipelines import instant_style
from pipelines.core.registry import Registry
from pipelines.instant_style import PAPER, Preview, Settings
from pipelines.instant_style.measured import claim
from pipelines.instant_style.picture import claim as pictures_claim

SLUG = "instant_style"
ABOUT = "Pictures of prompt A with prompt B speaking in the places named, beside A, B, half of each, and the same said in words."


def prompts(model_set: str) -> PicturesPage:
    """The part of two prompts."""
    return PicturesPage(
        SLUG,
        PAPER,
        Settings.of(model_set),
        instant_style.generate,
        instant_style.parts(model_set),
        {"sheet": "Each column from one noise"},
        ABOUT,
        shows={Preview: lambda seen: {"sheet": seen.sheet}},
        figures=figures,
        examples=instant_style.examples(model_set),
        first=("prompt_a", "prompt_b"),
        widgets={"places": unet_map.of(model_set)},
        opens=True,
    )


def build(registry: Registry, model_set: str) -> None:
    """The page."""
    paper_card(PAPER)
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap"):
        with gr.Tab("Two prompts", render_children=True):
            prompts(model_set).pictures_part(registry)
        with gr.Tab("Style of a picture", render_children=True):
            picture.page(SLUG, model_set).pictures_part(registry)
        with gr.Tab("Who paints what", render_children=True):
            who.build(registry, model_set)
    how_it_works(words_of(__package__, "story.md").replace("{claim}", claim()).replace("{pictures}", pictures_claim()))


TAB = Tab("InstantStyle", SLUG, 70, build, PAPER, (SLUG, picture.NAME), talk=TALK)
