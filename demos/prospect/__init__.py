"""The ProSpect tab: a prompt for each stage of denoising, and when what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demos.core.page import PicturesPage, how_it_works
from demos.core.quantities import Quantity, ways
from demos.core.tabs import Tab
from demos.core.widgets import paper_card, words_of
from demos.prospect import invert, lab, timeline
from demos.prospect.talk import TALK
from pipelines import prospect
from pipelines.core.registry import Registry
from pipelines.core.sheets import Preview
from pipelines.prospect import EXAMPLES, PAPER, Outcome, Settings

SLUG = "prospect"
TITLES = {
    "staged": "By stage, and what else one would try",
    "borders": "The border moves: A speaks in the first stages, B in the others",
}
TOLD = "Whose each attribute is in this run’s pictures, read by a judge that taught nobody."


def table(outcome: Outcome) -> str:
    """Whose attributes the pictures have, as the judge reads them."""
    whose: Mapping[str, Mapping[str, Mapping[str, int]]] = outcome.measurements["whose"]
    if not whose:
        return ""
    names = (head.removeprefix("0 ").replace("_", " ") for head in next(iter(whose.values())))
    heads = [Quantity(name, "neither") for name in names]
    rows = [(way.capitalize(), [owner(counts) for counts in found.values()]) for way, found in whose.items()]
    return ways(rows, heads, "Whose attributes the pictures have", TOLD, "tally")


def owner(counts: Mapping[str, int]) -> str:
    """ "A", or "A 3 of 4" where not all pictures are alike."""
    who, most = max(counts.items(), key=lambda item: item[1])
    name, total = "neither’s" if who == "none" else " or ".join(who), sum(counts.values())
    return name if most == total else f"{name} {most} of {total}"


def example(model_set: str, place: int) -> tuple[str, dict[str, Any]]:
    """Title of an example and the settings that it sets."""
    title, prompts, plan = EXAMPLES[model_set][place]
    return title, {"prompts": "\n".join(prompts), "plan": plan}


def build(registry: Registry, model_set: str) -> None:
    """The page."""
    start = Settings.of(model_set)
    page = PicturesPage(
        SLUG,
        PAPER,
        start,
        prospect.generate,
        prospect.parts(model_set),
        TITLES,
        "Pictures of a plan (ten letters, one a stage of denoising; A is the first prompt) beside its baselines. The prompt “picture 1” stands "
        "for the first file of tokens among the pictures, which /invert_picture makes.",
        shows={Preview: lambda seen: {seen.kind: seen.sheet}},
        table=table,
        examples=dict(example(model_set, place) for place in range(len(EXAMPLES[model_set]))),
        sheets=True,
        opens=True,
        first=("prompts", "plan"),
        widgets={"plan": lambda field, value: timeline.build(field.label, value)},
        files={"pictures": invert.came(model_set)},
    )
    paper_card(PAPER)
    made = page.pictures_part(registry)
    invert.build(registry, model_set, made)
    lab.build(registry, model_set)
    story = words_of(__package__, "story.md").replace("{claim}", prospect.claim())
    how_it_works(story.replace("{inversion}", prospect.inversion_claim()))


TAB = Tab("ProSpect", SLUG, 60, build, PAPER, (SLUG, invert.API), talk=TALK)
