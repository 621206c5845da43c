"""Who paints what, on pairs of prompts that nobody looked at before, and what a sceptic would do instead.

    OMP_NUM_THREADS=1 python -m assets.instant_style.evaluate --pairs 40 --write    # 15 seconds a pair on a free core, mini set
    OMP_NUM_THREADS=1 python -m assets.instant_style.evaluate --pairs 2             # a look

Of each pair (``matrix.Pair``), from one noise: A, B, A with B in one place, B with A in one place: 18 pictures in our model. The bar: for
each attribute the place that carries it changes it in 90 % by itself, and all others together in at most 10 %. Of the first ``--words``
pairs of each world also half of each prompt everywhere, and A's prompt with B's value of each attribute said in words; compared by clean
changes: the attribute is B's, and all else still A's. With ``--write`` every pair is written, and a later start goes on behind the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from assets.lab import training
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.instant_style import measured, places, short
from pipelines.instant_style.matrix import WORLDS, LabSettings, Tally, measure

FILE = Path(__file__).with_name("evaluation.json")
SEED = 700_000


def record_of(tallies: dict[str, Tally], steps: int) -> dict[str, Any]:
    """The whole evaluation, JSON-able."""
    worlds = {name: {**tally.table(), "bars": measured.bars(tally.table())} for name, tally in tallies.items()}
    return {"base": measured.base_model(), "claim": claim(worlds), "steps": steps, "worlds": worlds}


def claim(worlds: dict[str, Any]) -> str:
    """What was found, in two sentences."""
    rows = [(name.replace("_", " "), row) for world in worlds.values() for name, row in world["bars"].items()]
    met = [f"{name} ({short(row['place'])})" for name, row in rows if row["met"]]
    missed = [
        f"{name} ({row['alone']['share']:.0%} by {short(row['place'])} alone, {row['all others']['share']:.0%} by all others)"
        for name, row in rows
        if not row["met"]
    ]
    pairs = " and ".join(f"{world['pairs']} of {WORLDS[name]}" for name, world in worlds.items())
    told = f"Over unseen pairs of prompts ({pairs}), one place alone changes in at least 90 %, and all others together in at most 10 %: {', '.join(met) or 'nothing'}."
    return told + (f" Not so: {', '.join(missed)}." if missed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="of each world")
    parser.add_argument(
        "--words", type=int, default=8, help="pairs of each world that are also drawn the sceptic's ways"
    )
    parser.add_argument("--steps", type=int, default=LabSettings.steps)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    registry, earlier = Registry("cpu"), training.read_json(FILE) if arguments.write else {}
    kept: Any = earlier.get("worlds", {}) if earlier.get("base") == measured.base_model() else {}
    tallies = {}
    for world in WORLDS:
        settings = LabSettings(world, arguments.pairs, SEED, arguments.steps)
        known = world in kept and earlier["steps"] == arguments.steps
        tallies[world] = Tally.read(settings, places("mini"), kept[world]) if known else Tally(settings, places("mini"))
    while any(tally.done < arguments.pairs for tally in tallies.values()):
        for world, tally in tallies.items():
            if tally.done < arguments.pairs:
                more = dataclasses.replace(tally.settings, count=tally.done + 1, words=tally.done < arguments.words)
                tallies[world] = measure(Job(1e9), registry, more, tally)
        record = record_of(tallies, arguments.steps)
        if arguments.write:
            training.write_json(FILE, record)
        print(json.dumps({name: tally.done for name, tally in tallies.items()}), record["claim"], flush=True)


if __name__ == "__main__":
    main()
