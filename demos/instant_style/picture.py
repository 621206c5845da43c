"""The part in which a picture speaks instead of prompt B: the paper's own use."""

from __future__ import annotations

from collections.abc import Mapping

from demos.core.page import PicturesPage
from pipelines.instant_style import PAPER, Outcome, Preview
from pipelines.instant_style.picture import ENCODERS, STRATEGIES, PictureSettings, generate, parts_of

NAME = "instant_style_picture"
ABOUT = "Pictures of a prompt in the style of a picture (a file) that speaks in chosen blocks only, beside IP-Adapter everywhere."
GIVEN = {
    "mini": "Picture whose style is wanted, of our world: PNG, JPEG or WebP",
    "full": "Picture whose style is wanted: PNG, JPEG or WebP",
}


def figures(outcome: Outcome) -> Mapping[str, str]:
    """In how many pictures an attribute is the picture's, of each in which prompt and picture differ."""
    return {
        f"{name.capitalize()} is the picture’s": " · ".join(
            f"{words} {columns[column]['picture']}/{columns[column]['of']}"
            for column, words in (("IP-Adapter everywhere", "everywhere"), *((one, one) for one in STRATEGIES.values()))
            if column in columns
        )
        for name, columns in outcome.measurements["attributes"].items()
    }


def page(slug: str, model_set: str) -> PicturesPage:
    """The part of the page."""
    return PicturesPage(
        slug,
        PAPER,
        PictureSettings.of(model_set),
        generate,
        {**parts_of(model_set), "encoder": ENCODERS[model_set]},
        {"sheet": "Each column from one noise"},
        ABOUT,
        shows={Preview: lambda seen: {"sheet": seen.sheet}},
        figures=figures,
        name=NAME,
        given={"picture": GIVEN[model_set]},
        rolls=model_set == "mini",
        limit_s=900.0,
    )
