"""What is said of MegaPortrait where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.talk import Evidence, Talk, spread
from pipelines.megaportrait.results import MEASURED

SHOWN = {
    "ours": "All three nets",
    "drawn": "Drawn, nobody trained",
    "instant": "Without the fine-tune",
    "no_identity": "Without the person’s pictures",
}


def evidence(found: dict[str, Any]) -> Evidence:
    passes = found["rows"]["ours"]["passes"]
    low, high = (100 * end for end in passes["interval"])
    headline = (
        f"{100 * passes['share']:.0f} % of {passes['of']} results pass as the person (95 % interval {low:.0f} to {high:.0f} %); "
        f"before the swap {100 * found['before']['passes']['share']:.0f} % do."
    )
    rows = [spread("The reference before", found["before"]["identity"])]
    rows += [spread(words, found["rows"][arm]["identity"]) for arm, words in SHOWN.items() if arm in found["rows"]]
    rows += [spread("The truth, rendered", found["truth"]["identity"])]
    rule = (
        f"{found['pairs']} pairs of a person and a reference that no model has seen; spans go from the lower to the upper "
        f"quartile. From {found['threshold']:.2f} on two pictures are taken for one person."
    )
    return Evidence(headline, rows, "similarity to the person, 1 is the same face; higher is better", rule)


TALK = Talk(
    steers="conditioning",
    moves="face points, lines and light, and the paste",
    when="at every step, in three nets after one another",
    learns="small layers for each person, and three ControlNets",
    claims=(
        "A model that does everything at once has to trade: the more person, the less of the portrait.",
        "So three nets do one thing each: learn the person, take over the light, melt the seam.",
        "Each is led by ControlNets, and one can see which of them went wrong.",
    ),
    cannot=(
        "Only the abstract is public to us: the settings are ours, and no figure here is the paper’s.",
        "Side views, hats and hands before the face are hard; behind the new hair the background is invented.",
        "The small models know rendered people alone: of a photograph they paint a rendered head.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
