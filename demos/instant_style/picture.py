"""The part of the full set in which a picture speaks instead of prompt B: the paper's own use."""

from __future__ import annotations

from demos.core.page import PicturesPage
from pipelines.instant_style import PAPER, Preview, parts
from pipelines.instant_style.picture import ADAPTER, ENCODER, PictureSettings, generate

NAME = "instant_style_picture"
ABOUT = "Pictures of a prompt in the style of a picture (a file) that speaks in chosen blocks only, beside IP-Adapter everywhere."


def page(slug: str) -> PicturesPage:
    """The part of the page, of the full set."""
    return PicturesPage(
        slug,
        PAPER,
        PictureSettings(),
        generate,
        {**parts("full"), "adapter": ADAPTER, "encoder": ENCODER},
        {"sheet": "Each column from one noise"},
        ABOUT,
        shows={Preview: lambda seen: {"sheet": seen.sheet}},
        name=NAME,
        given={"picture": "Picture whose style is wanted: PNG, JPEG or WebP"},
        limit_s=900.0,
    )
