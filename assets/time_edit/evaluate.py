"""Does an edit change what it should, and nothing else? The paper's three measures on edits that nobody looked at before.

    OMP_NUM_THREADS=1 python -m assets.time_edit.evaluate --edits 24 --write        # about 15 minutes of one core, mini set
    OMP_NUM_THREADS=1 python -m assets.time_edit.evaluate --edits 24 --stream validation    # where μ and λ were chosen

Each edit gives one thing a colour, a floor or a backdrop, or a person one attribute; drawn from a seeded list of all. For each, two pictures of the
source, of three prompts that contain it, and of four that do not (other things that say nothing of it, and one that says another value), before and
after, from the same noises. Arms: the formula with μ = 1, the paper's own (μ = 0), and the destination said in words (baseline of efficacy).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from assets.lab import training
from pipelines import time_edit
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.core.scores import wilson
from pipelines.time_edit import Settings
from pipelines.time_edit.cases import cases

HERE = Path(__file__).parent
SEEDS = {"validation": 30_000, "test": 50_000}
PROTECTED, PAPERS = "protected", "the paper's"
ARMS = {PROTECTED: Settings.protect, PAPERS: 0.0}


def measure(settings: Settings, registry: Registry) -> dict[str, Any]:
    """The counts of one edit."""
    measured = time_edit.generate(Job(1e9), registry, settings).measurements
    return {
        name: measured[name]
        for name in ("efficacy", "generality", "specificity", "contradiction", "edit_seconds")
        if name in measured
    }


def summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """[right, of, share, its 95 % interval] of each measure and row."""
    right, of = Counter[str](), Counter[str]()
    for one in found:
        for name in ("efficacy", "generality", "specificity", "contradiction"):
            for row, (a, b) in one.get(name, {}).items():
                right[f"{name}, {row}"] += a
                of[f"{name}, {row}"] += b
    table = {}
    for name in of:
        low, high = wilson(right[name], of[name])
        share = right[name] / max(of[name], 1)
        table[name] = {
            "right": right[name],
            "of": of[name],
            "share": round(share, 4),
            "interval": [round(low, 3), round(high, 3)],
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=24)
    parser.add_argument("--stream", choices=tuple(SEEDS), default="test")
    parser.add_argument("--protect", type=float, help="only this μ")
    parser.add_argument("--regularisation", type=float, default=Settings.regularisation)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    registry = Registry("cpu")
    arms = ARMS if arguments.protect is None else {f"μ = {arguments.protect:g}": arguments.protect}
    told: dict[str, Any] = {}
    for arm, protect in arms.items():
        found = []
        for settings in cases(arguments.stream, arguments.edits, SEEDS[arguments.stream]):
            asked = dataclasses.replace(settings, protect=protect, regularisation=arguments.regularisation)
            found.append({"edit": settings.edits, **measure(asked, registry)})
            print(arm, json.dumps(found[-1], ensure_ascii=False), flush=True)
        told[arm] = {"table": summed(found), "edit_seconds": max(one["edit_seconds"] for one in found), "edits": found}
        print(arm, json.dumps(told[arm]["table"], ensure_ascii=False), flush=True)
    if arguments.write:
        best = told[PROTECTED]["table"]
        shares = {name: f"{best[f'{name}, after']['share']:.0%}" for name in ("efficacy", "generality", "specificity")}
        paper = f"{told[PAPERS]['table']['specificity, after']['share']:.0%}"
        claim = (
            f"Over {arguments.edits} edits drawn by a seed, two pictures a prompt: efficacy {shares['efficacy']} "
            f"(before {best['efficacy, before']['share']:.0%}, said in words {best['efficacy, said in words']['share']:.0%}), "
            f"generality {shares['generality']}, specificity {shares['specificity']} ({paper} with the paper's own formula, μ = 0); higher is better."
        )
        training.write_json(HERE / "evaluation.json", {"claim": claim, "arms": told})
        print(claim)


if __name__ == "__main__":
    main()
