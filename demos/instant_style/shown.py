"""The figures of a run of two prompts."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.instant_style import MIXED, WORDS, Outcome

SHORT = {MIXED: "chosen", WORDS: "words"}
"""Column of the sheet -> how the figures call it."""


def figures(outcome: Outcome) -> Mapping[str, str]:
    """In how many pictures an attribute is B's, of each in which A and B differ: with B in the chosen places, and said in words."""
    return {
        f"{name.capitalize()} is B’s": " · ".join(
            f"{words} {columns[column]['B']}/{columns[column]['of']}"
            for column, words in SHORT.items()
            if column in columns
        )
        for name, columns in outcome.measurements["attributes"].items()
    }
