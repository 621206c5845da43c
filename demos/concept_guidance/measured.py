"""Detect is not guide: the measured sweeps of all concepts and probes as a table, a chart and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demos.core.figures import Place, safe, scatter, signed
from demos.core.quantities import Quantity, ways
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.concepts import PROBES

NOT_MEASURED = "The shipped vectors have not been measured yet: use the sweep lab on a concept of your choice."
SHAPES = {"dim": "circle", "logistic": "square", "pca": "triangle"}
SHORT = {"dim": "means", "logistic": "logistic", "pca": "principal"}
INTRO = """<p>A probe that <b>detects</b> a concept well tells held-out answers with it from those without. Does its direction
then also <b>guide</b> well? The paper found: not always. Here is every concept and probe of the small model, measured on
{prompts} new questions at each of {strengths} strengths. <b>PNES</b> is the paper’s effect for its price in fluency.</p>"""


def measured_html(model_set: str, found: Mapping[str, Any] | None = None) -> str:
    """The part of the page; one sentence where nothing was measured."""
    found = lab.measured() if found is None else found
    if not found.get("concepts"):
        return f"<p class='remark'>{NOT_MEASURED}</p>"
    other = "" if model_set == "mini" else "<p class='remark'>These are figures of the mini set’s model.</p>"
    intro = INTRO.format(prompts=found["prompts"], strengths=len(found["strengths"]))
    sentences = "".join(f"<li>{safe(sentence)}</li>" for sentence in findings(found))
    return (
        f"<div class='board'>{other}<div class='lab-intro'>{intro}</div><ul class='meaning'>{sentences}</ul>"
        f"<div class='scattered'>{chart(found)}</div>{table(found)}</div>"
    )


def leaders(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Concept -> (probe of the highest accuracy, probe of the highest PNES)."""
    return {
        name: (
            max(probes, key=lambda probe: probes[probe]["accuracy"]),
            max(probes, key=lambda probe: probes[probe]["pnes"]["value"]),
        )
        for name, probes in found["concepts"].items()
    }


def findings(found: Mapping[str, Any]) -> list[str]:
    """What the figures say, in sentences made from them."""
    best = leaders(found)
    same = [name for name, (detector, guide) in best.items() if detector == guide]
    other = [name for name in best if name not in same]
    sentences = [
        f"For {len(same)} of {len(best)} concepts the best detector is also the best guide"
        f"{': ' + ', '.join(same) if same else ''}."
    ]
    if other:
        pairs = "; ".join(
            f"{name}: {PROBES[best[name][0]]} detects best (accuracy {_accuracy(found['concepts'][name][best[name][0]])}), "
            f"{PROBES[best[name][1]]} guides best (PNES {_pnes(found['concepts'][name][best[name][1]])})"
            for name in other
        )
        sentences.append(f"For {len(other)} it is not. {pairs}.")
    unsure = [name for name in best if _overlap(found["concepts"][name])]
    if unsure:
        sentences.append(
            f"The PNES intervals of the first two probes overlap for {', '.join(unsure)}: there the order may be chance."
        )
    resist = list(found.get("resist", ()))
    sentences.append(
        f"Resisting guidance, with less than 0.30 to move while the text stays fluent: {', '.join(resist)}."
        if resist
        else "Every concept moves by 0.30 or more while the text stays fluent."
    )
    probes = next(iter(found["concepts"].values()))
    plain = min(next(iter(probes.values()))["points"], key=lambda point: abs(point["strength"]))
    if plain.get("grammatical") is not None and plain.get("facts_right") is not None:
        sentences.append(
            f"Without guidance {100 * plain['grammatical']:.1f} % of the answers are grammatical and "
            f"{100 * plain['facts_right']:.1f} % of their facts are right (half of the speakers it learned from fib)."
        )
    return sentences


def _accuracy(row: Mapping[str, Any]) -> str:
    return ACCURACY.text(row["accuracy"], row["accuracy_interval"])


def _pnes(row: Mapping[str, Any]) -> str:
    return PNES.text(row["pnes"]["value"], row["pnes_interval"])


def _overlap(probes: Mapping[str, Any]) -> bool:
    """Whether the two best guides cannot be told apart."""
    ordered = sorted(probes.values(), key=lambda row: -row["pnes"]["value"])[:2]
    return len(ordered) == 2 and ordered[0]["pnes_interval"][0] <= ordered[1]["pnes_interval"][1]


def chart(found: Mapping[str, Any]) -> str:
    """Accuracy against PNES; shapes are probes, words are concepts."""
    best = leaders(found)
    places = [
        Place(
            name[:3],
            row["accuracy"],
            row["pnes"]["value"],
            SHAPES[probe],
            f"{name}, {PROBES[probe]}: accuracy {row['accuracy']:.2f}, PNES {row['pnes']['value']:.2f}",
        )
        for name, probes in found["concepts"].items()
        for probe, row in probes.items()
    ]
    same = sum(detector == guide for detector, guide in best.values())
    facts = (
        "Each mark is a concept (its first three letters) found by a probe (its shape). If detecting were guiding, the marks "
        f"would rise from left to right. The best detector is the best guide for {same} of {len(best)} concepts."
    )
    shapes = {SHAPES[probe]: SHORT[probe] for probe in SHAPES}
    return scatter(
        "Detecting against guiding",
        facts,
        places,
        ("held-out accuracy, higher is better", "PNES, higher is better"),
        shapes,
    )


ACCURACY = Quantity("Accuracy", "higher", about="of 1")
PNES = Quantity("PNES", "higher")
COLUMNS = (
    ACCURACY,
    PNES,
    Quantity("Fit r²", "higher", about="of 1"),
    Quantity("Moves by", "higher", about="of 1"),
    Quantity("Safe strengths", "neither", about="wider is better"),
)


def table(found: Mapping[str, Any]) -> str:
    """A row per concept and probe; on a phone each becomes a card, so every cell carries the name of its column."""
    best, lines = leaders(found), []
    for name, probes in found["concepts"].items():
        for probe, row in probes.items():
            notes = [
                word
                for word, there in (
                    ("best detector", best[name][0] == probe),
                    ("best guide", best[name][1] == probe),
                    ("used by the chat", found.get("best", {}).get(name) == probe),
                    ("resists", name in found.get("resist", ())),
                )
                if there
            ]
            fit = row["pnes"].get("r_squared")
            poor = "<span>poor fit: read the points</span>" if fit is None or fit < 0.5 else ""
            cells = (
                ACCURACY.write(row["accuracy"], row["accuracy_interval"]),
                PNES.write(row["pnes"]["value"], row["pnes_interval"]),
                ("–" if fit is None else f"{fit:.2f}") + poor,
                f"{row['range']:.2f} <span>{_ends(sorted(row['range_at'])) if row.get('range_at') else '–'}</span>",
                _ends(row["safe"]),
            )
            lines.append((f"{safe(name)} · {PROBES[probe]}<span>{', '.join(notes)}</span>", cells))
    told = (
        "In brackets: 95 % intervals. Accuracy: on held-out answers, mean of the guided layers. Moves by: the largest "
        "change of the parsed trait rate between two strengths that keep 0.9 of the unguided grammatical share, and those strengths. "
        "Safe: that much grammar is left, and perplexity is at most 1.25 times the unguided."
    )
    return ways(lines, COLUMNS, "Every concept and probe", told, "tally measured", "Concept and probe")


def _ends(ends: Sequence[float] | None) -> str:
    return f"{signed(ends[0], 2)} to {signed(ends[1], 2)}" if ends else "–"
