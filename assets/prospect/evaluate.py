"""Which attribute is decided when? Pairs of prompts at every border between the stages, judged by the network that taught nobody.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.prospect.evaluate --write      # about 10 minutes of two cores, mini set
    OMP_NUM_THREADS=1 python -m assets.prospect.evaluate --pairs 20 --stream validation    # to look at while something is changed

Both prompts of a pair name one thing with its colour, a floor and a backdrop, all different. A speaks in the first k of ten stages, B in the
others, k from 0 to 10, all eleven pictures from one noise. Each finished piece of a few pairs is a file under ``data/evaluation``.

    OMP_NUM_THREADS=1 python -m assets.prospect.evaluate --inversions 20 --write           # about a minute and a half of one core each

A rendered scene nobody looked at before, of one to three things, is inverted into ten tokens, which draw two pictures; all attributes of the
scene should be back in them. Beside it the same noises with the scene's full description in words. The two measurements are written one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from assets.lab import chunks, training
from pipelines import prospect
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.core.scores import wilson
from pipelines.core.weights import ROOT
from pipelines.models import sdxl
from pipelines.prospect import STAGES, curve, inversion, stages
from pipelines.prospect.curve import LabSettings, Tally
from pipelines.prospect.inversion import DRAWN, KEPT, InversionSettings
from pipelines.worlds import grammar, tabletop
from pipelines.worlds.rolled import rolled

HERE = Path(__file__).parent
DONE = ROOT / "data/evaluation"
SEEDS = {"validation": 10_000, "test": 70_000}
PIECE = 5
SCENES = {"validation": 910_000, "test": 970_000}
BAR = 0.8
"""Share of the pictures that should have all attributes of the scene that was inverted."""


def mark(settings: LabSettings | InversionSettings) -> str:
    """Short hash over the settings and all weights that decide a result."""
    judge = json.loads((ROOT / "assets/verifier/judge/manifest.json").read_text()).get("sha256", {})
    told = json.dumps([sdxl.mark(sdxl.MINI), judge, settings.steps, settings.guidance], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def measure(stream: str, pairs: int, settings: LabSettings) -> Tally:
    """The pairs of a stream, made or found."""
    models: list[Any] = []

    def make(start: int) -> list[dict[str, str]]:
        if not models:
            models.extend(open_models())
        seeds = range(SEEDS[stream] + start, SEEDS[stream] + min(start + PIECE, pairs))
        return [stages.look(*models, curve.pair(seed), seed, settings, lambda step: None)[0] for seed in seeds]

    pieces = chunks.complete(
        DONE / f"prospect-{stream}-{mark(settings)}",
        range(0, pairs, PIECE),
        lambda start: f"{start:05d}-{min(PIECE, pairs - start)}",
        make,
    )
    tally = Tally(settings)
    for start in range(0, pairs, PIECE):
        for whose in pieces[start]:
            tally.add(whose)
    return tally


def recovered(stream: str, scenes: int, settings: InversionSettings) -> list[dict[str, Any]]:
    """What came back of each scene of a stream, made or found."""
    registry = Registry("cpu")
    folder = f"inversion-{stream}-{mark(settings)}-{settings.learn_steps}-{settings.rate:g}-{KEPT:g}"
    first = SCENES[stream]
    pieces = chunks.complete(
        DONE / folder,
        range(first, first + scenes),
        lambda seed: f"{seed:07d}",
        lambda seed: look(registry, seed, settings),
    )
    return [pieces[seed] for seed in range(first, first + scenes)]


def look(registry: Registry, seed: int, settings: InversionSettings) -> dict[str, Any]:
    """What the pictures of a scene's tokens have not of it, and those of its description in words."""
    scene = tabletop.sample(seed)
    wanted = truth(scene)
    made = inversion.invert(Job(1e9), registry, replace(settings, seed=seed), rolled(seed))
    words = described(scene)
    said = prospect.Settings(words, "A" * STAGES, borders=False, count=DRAWN, seed=seed, steps=settings.steps)

    def draw(judge: Any, **parts: Any) -> list[dict[str, str]]:
        from pipelines.models.verifier import answers
        from pipelines.prospect.stages import Painter

        painter = Painter(sdxl.build(parts))
        spectra = {"A": painter.spectrum(words)}
        noises = [painter.noise(seed + n) for n in range(DRAWN)]
        drawn = [painter.draw(one, [said.plan], spectra, said.steps, said.guidance) for one in noises]
        return [one for picture in drawn for one in answers(judge, picture)]

    found = {"tokens": made.measurements["seen_again"], "words": registry.run(prospect.parts("mini"), draw)}
    missed = {
        way: [[head for head in wanted if seen.get(head) != wanted[head]] for seen in each]
        for way, each in found.items()
    }
    return {
        "seed": seed,
        "things": len(scene.solids),
        "wanted": wanted,
        "missed": missed,
        "read right": [head for head in wanted if made.tokens.seen.get(head) == wanted[head]],
        "seconds": made.measurements["learning_seconds"],
    }


def truth(scene: tabletop.Scene) -> dict[str, str]:
    """Head of the judge -> what is true of the scene."""
    facts = tabletop.attributes(scene)
    wanted = {"count": str(len(scene.solids)), "floor": facts["floor"], "backdrop": facts["backdrop"]}
    for place, thing in enumerate(facts["things"]):
        told = {"shape": thing.shape, "colour": thing.colour, "finish": thing.finish}
        wanted |= {f"{place} {name}": value for name, value in told.items() if value}
    sides = ("left", "right")
    return wanted | {f"{n} nearer": sides[which] for n, which in enumerate(facts["nearer"]) if which is not None}


def described(scene: tabletop.Scene) -> str:
    """All that words can say of it at once: of two things which is where, not also which is nearer."""
    facts = tabletop.attributes(scene)
    relation = {1: None, 2: "left", 3: "row"}[len(scene.solids)]
    return grammar.phrase(grammar.Request(facts["things"], relation, scene.floor, scene.backdrop), random.Random(0))


def summed(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures have everything, and how many of the attributes come back, by tokens and said in words; intervals as of so many
    scenes."""
    table: dict[str, list[bool]] = {}
    for one in found:
        for way, pictures in one["missed"].items():
            for missed in pictures:
                table.setdefault(f"all, {way}", []).append(not missed)
                table.setdefault(f"all of {one['things']}, {way}", []).append(not missed)
                for head in one["wanted"]:
                    table.setdefault(f"{head.split()[-1]}, {way}", []).append(head not in missed)
    rows = {}
    for name, each in sorted(table.items()):
        low, high = wilson(
            round(sum(each) / DRAWN), len(each) // DRAWN
        )  # the pictures of a scene stand or fall together
        rows[name] = {"right": sum(each), "of": len(each), "share": sum(each) / len(each), "interval": [low, high]}
    return rows


def inversion_claim(scenes: int, table: Mapping[str, Any], seconds: float) -> str:
    """The sentence of what was measured."""
    tokens, words = (
        f"{one['share']:.0%} [{one['interval'][0]:.0%}, {one['interval'][1]:.0%}]"
        for one in (table["all, tokens"], table["all, words"])
    )
    by_things = ", ".join(
        f"{one['right']} of {one['of']} with {words}"
        for number, words in ((1, "one thing"), (2, "two"), (3, "three"))
        if (one := table.get(f"all of {number}, tokens"))
    )
    met = "met" if table["all, tokens"]["share"] >= BAR else "missed"
    return (
        f"Over {scenes} unseen scenes, two pictures each, the tokens of ten stages bring back all attributes in {tokens} of the pictures ({by_things}); the "
        f"same in words does in {words}. Aim: {BAR:.0%}, {met}. Learning took {seconds:.0f} s, the median, on a core that other work shared."
    )


def open_models() -> tuple[Any, Any]:
    """The painter and the judge."""
    from pipelines.prospect.stages import Painter

    def kept(judge: Any, **parts: Any) -> tuple[Any, Any]:
        return Painter(sdxl.build(parts)), judge

    return Registry("cpu").run(prospect.parts("mini"), kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--stream", choices=tuple(SEEDS), default="test")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inversions", type=int, help="so many scenes are inverted, in place of the pairs")
    arguments = chunks.arguments_of(parser)
    if arguments.inversions:
        inversions(arguments.stream, arguments.inversions, arguments.write)
        return
    settings = LabSettings()
    tally = measure(arguments.stream, arguments.pairs, settings)
    if not chunks.is_main():
        return
    claim = curve.sentence(tally.found, tally.done)
    print(claim)
    if arguments.write:
        facts = {"claim": claim, "pairs": tally.done, "steps": settings.steps, "guidance": settings.guidance}
        spans = {name: curve.needed(letters) for name, letters in curve.told(tally.found).items()}
        needed = {name: dict(zip(("mean", "low", "high"), span, strict=True)) for name, span in spans.items()}
        write({**facts, "needed": needed, "found": tally.found})


def inversions(stream: str, scenes: int, writes: bool) -> None:
    """Measure the inversion of scenes."""
    settings = InversionSettings()
    found = recovered(stream, scenes, settings)
    if not chunks.is_main():
        return
    table = summed(found)
    seconds = sorted(one["seconds"] for one in found)[len(found) // 2]
    claim = inversion_claim(scenes, table, seconds)
    for name, row in table.items():
        print(f"{name}: {row['right']} of {row['of']}, {row['share']:.0%}")
    print(claim)
    if writes:
        settings_told = {
            "learn_steps": settings.learn_steps,
            "rate": settings.rate,
            "kept": KEPT,
            "guidance": settings.guidance,
        }
        write(
            {
                "inversion": {
                    "claim": claim,
                    "scenes": scenes,
                    "seconds": seconds,
                    **settings_told,
                    "table": table,
                    "found": found,
                }
            }
        )


def write(facts: Mapping[str, Any]) -> None:
    """Put what was measured into the evaluation, beside what is there."""
    path = HERE / "evaluation.json"
    training.write_json(path, {**(json.loads(path.read_text()) if path.is_file() else {}), **facts})


if __name__ == "__main__":
    main()
