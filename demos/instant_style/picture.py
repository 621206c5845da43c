"""The part in which a picture speaks instead of prompt B: the paper's own use."""

from __future__ import annotations

from collections.abc import Mapping

from demos.core.page import PicturesPage
from demos.instant_style.who import grid
from pipelines.instant_style import PAPER, Outcome, Preview
from pipelines.instant_style.picture import ENCODERS, PictureSettings, generate, parts_of

NAME = "instant_style_picture"
ABOUT = "Pictures of a prompt in the style of a picture (a file) that speaks in chosen blocks only, beside IP-Adapter everywhere."
SCENE = 912_795
"""A green cube on tiles."""
GIVEN = {
    "mini": "Picture whose style is wanted, of our world: PNG, JPEG or WebP",
    "full": "Picture whose style is wanted: PNG, JPEG or WebP",
}


def table(outcome: Outcome) -> str:
    """Whose each attribute is, of those in which prompt and picture differ."""
    rows = outcome.measurements["attributes"]
    if not rows:
        return ""
    columns = list(next(iter(rows.values())))
    cells = {name: [f"<td>{whose(row[column])}</td>" for column in columns] for name, row in rows.items()}
    return grid("Whose each attribute is", "attribute", columns, cells)


def whose(one: Mapping[str, int]) -> str:
    """Of one attribute in one column."""
    counts = {"the picture’s": one["picture"], "the prompt’s": one["prompt"]}
    counts["neither’s"] = one["of"] - sum(counts.values())
    return ", ".join(
        f"{who} {count} of {one['of']}" if one["of"] > 1 else who for who, count in counts.items() if count
    )


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
        table=table,
        name=NAME,
        given={"picture": GIVEN[model_set]},
        rolls=SCENE if model_set == "mini" else None,
        limit_s=900.0,
    )
