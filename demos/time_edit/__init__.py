"""The TIME tab: a sentence is written into the model's weights, and pictures are drawn before and after."""

from __future__ import annotations

from collections.abc import Mapping

from demos.core.page import PicturesPage, how_it_works
from demos.core.tabs import Tab
from demos.core.widgets import paper_card, words_of
from demos.time_edit import lab, saved
from demos.time_edit.talk import TALK
from pipelines import time_edit
from pipelines.core.registry import Registry
from pipelines.core.sheets import Preview
from pipelines.time_edit import EXAMPLES, PAPER, Outcome, Settings

SLUG = "time_edit"
TITLES = {
    "edited": "What is edited: before, after, and asked for in words",
    "related": "Prompts that should change",
    "unrelated": "Prompts that should not change",
}
WORDS = {
    "efficacy": "Efficacy, higher is better",
    "generality": "Generality, higher is better",
    "specificity": "Specificity, higher is better",
    "contradiction": "Prompts that say otherwise are obeyed in",
}


def figures(outcome: Outcome) -> Mapping[str, str]:
    """Counts of this run's pictures, as the judge reads them (higher is better)."""
    measured = outcome.measurements
    rows = {
        "The edit took": f"{measured['edit_seconds']:.2f} s",
        "Weights edited": f"{measured['share_of_weights']:.1%}",
    }
    for name, words in WORDS.items():
        counted = {row: f"{right} of {of}" for row, (right, of) in measured.get(name, {}).items()}
        if counted:
            before = f", before {counted['before']}" if "before" in counted else ""
            rows[words] = f"{counted['after']}{before}"
    return rows


def build(registry: Registry, model_set: str) -> None:
    """The page."""
    page = PicturesPage(
        SLUG,
        PAPER,
        Settings.of(model_set),
        time_edit.generate,
        time_edit.parts(model_set),
        TITLES,
        "Pictures of prompts before and after edits of the form “source => destination”, one a line, in the model's weights.",
        shows={Preview: lambda seen: {seen.kind: seen.sheet}},
        figures=figures,
        examples={one[0]: time_edit.example(model_set, place) for place, one in enumerate(EXAMPLES[model_set])},
        files={"saved": saved.came(model_set)},
        opens=True,
        keeps=True,
    )
    paper_card(PAPER)
    made = page.pictures_part(registry)
    saved.build(registry, made)
    lab.build(registry, model_set, made)
    how_it_works(words_of(__package__, "story.md").replace("{claim}", time_edit.claim()))


TAB = Tab("TIME", SLUG, 50, build, PAPER, (SLUG, saved.API), talk=TALK)
