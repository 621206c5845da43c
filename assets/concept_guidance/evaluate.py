"""What guiding the small language model does: every concept and probe over a scan of strengths, read by the parser.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.concept_guidance.evaluate --write   # the card's figures
    python -m assets.concept_guidance.evaluate --prompts 24 --concepts humour --probes dim       # a look, under a minute
    python -m assets.concept_guidance.evaluate --choose                                          # places and layers

For each of 6 concepts x 3 probes: the same 200 held-out questions at 9 strengths from -0.6 to 0.6 (shares of each token's
norm), temperature 0.7, top-p 0.95, seed 0. The parser gives the trait rate, whether an answer is grammatical, and whether its
facts are right; perplexity is that of 64 fixed answers under the guided model; PNES and its fit are the paper's
(``pipelines/concept_guidance/pnes.py``), their intervals from 200 bootstrap samples over questions. Pieces are files under
``data/evaluation``, marked with a hash over the weights, so that a killed run goes on and processes share the work.
``--choose`` looks at other questions (another seed), for places and layers; the choice stands in ``vectors.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from assets.lab import chunks, training
from assets.mini_llama import train, vectors
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.concepts import PROBES
from pipelines.concept_guidance.files import read_concept
from pipelines.concept_guidance.lab import SweepSettings
from pipelines.concept_guidance.layers import choose_layers
from pipelines.concept_guidance.pnes import pnes
from pipelines.concept_guidance.sweep import GRAMMAR, SweepPoint
from pipelines.core.lane import Job, run_blocking
from pipelines.core.scores import wilson
from pipelines.models.language import MODELS
from pipelines.worlds import crumpet

HERE, MODEL = Path(__file__).parent, vectors.HERE
DONE = Path("data/evaluation")
BAR = 0.30
"""Change of the trait rate between two fluent strengths from which a concept counts as guidable."""
BATCH = 100
RESAMPLES = 200


def mark(concept: str, probe: str, prompts: int, layers: str) -> str:
    """Short hash over everything that decides a piece."""
    manifest = training.read_json(MODEL / "manifest.json")
    files = ("model.safetensors", f"vectors/{concept}.{probe}.safetensors")
    facts = [{name: manifest["sha256"].get(name) for name in files}, prompts, layers]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def scan(
    model: Any,
    tokenizer: Any,
    vector: Any,
    concept: str,
    prompts: int,
    layers: str,
    seed: int = 0,
    limit: float = SweepSettings.limit,
    points: int = 9,
) -> dict[str, Any]:
    """The points of one sweep, with the score of every answer."""
    settings = SweepSettings(concept, limit=limit, points=points, prompts=prompts, layers=layers, seed=seed).validated()

    def work(job: Job) -> list[SweepPoint]:
        return lab.measure(job, model, tokenizer, vector, settings, lambda point: None, BATCH)

    found = run_blocking(work, limit_s=math.inf)  # nobody waits, and a busy machine may be slow
    return {
        "points": [lab.point(point) for point in found],
        "values": [list(point.values) for point in found],
        "layers": list(choose_layers(layers, vector.layers, vector.validation_accuracy)),
    }


def fluent_range(points: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """The largest change of the trait rate between two strengths that stay grammatical, and these strengths."""
    base = min(points, key=lambda p: abs(p["strength"]))["grammatical"]
    kept = [p for p in points if p["grammatical"] >= GRAMMAR * base and p["score"] is not None]
    low, high = min(kept, key=lambda p: p["score"]), max(kept, key=lambda p: p["score"])
    return round(high["score"] - low["score"], 4), [low["strength"], high["strength"]]


def bootstrap(points: list[dict[str, Any]], values: list[list[float]], seed: int = 0) -> list[float]:
    """95 % interval of PNES over resampled answers; strengths at which no answer showed the trait are left out."""
    rng, found = random.Random(f"pnes {seed}"), []
    scored = [(p["strength"], scores, p["perplexity"]) for p, scores in zip(points, values, strict=True) if scores]
    strengths, answers, perplexities = zip(*scored, strict=True)
    for _ in range(RESAMPLES):
        drawn = [statistics.fmean(rng.choices(scores, k=len(scores))) for scores in answers]
        found.append(pnes(strengths, drawn, perplexities).value)
    found.sort()
    return [round(found[int(0.025 * RESAMPLES)], 4), round(found[int(0.975 * RESAMPLES) - 1], 4)]


def row(vector: Any, piece: dict[str, Any]) -> dict[str, Any]:
    """Everything that is told of one concept and probe."""
    points, layers = piece["points"], piece["layers"]
    fitted = lab.fit(points)
    change, at = fluent_range(points)
    accuracy = statistics.fmean(vector.validation_accuracy[layer] for layer in layers)
    answers = vector.facts.get("examples", {}).get("validation", 0)
    return {
        "representation": vector.representation,
        "layers": layers,
        "accuracy": round(accuracy, 4),
        "accuracy_interval": [round(end, 4) for end in wilson(accuracy * answers, answers)],
        "accuracies": [round(value, 4) for value in vector.validation_accuracy],
        "train_accuracies": [round(value, 4) for value in vector.train_accuracy],
        "points": points,
        "safe": list(lab.safe(points)),
        "pnes": None if fitted is None else lab.pnes_dict(fitted),
        "pnes_interval": bootstrap(points, piece["values"]),
        "range": change,
        "range_at": at,
    }


def best_of(rows: dict[str, dict[str, Any]]) -> str:
    """The probe that moves a concept most while the answers stay grammatical; of equals, the one of higher PNES."""
    return max(rows, key=lambda probe: (rows[probe]["range"], rows[probe]["pnes"]["value"]))


def report(found: dict[tuple[str, str], dict[str, Any]], known: dict[str, Any], prompts: int) -> dict[str, Any]:
    """What the page and the card show (see ``lab.measured``)."""
    rows: dict[str, dict[str, Any]] = {}
    for (concept, probe), piece in found.items():
        rows.setdefault(concept, {})[probe] = row(known[f"{concept}.{probe}"], piece)
    best = {concept: best_of(probes) for concept, probes in rows.items()}
    return {
        "prompts": prompts,
        "strengths": [p["strength"] for p in next(iter(found.values()))["points"]],
        "concepts": rows,
        "best": best,
        "resist": sorted(concept for concept, probe in best.items() if rows[concept][probe]["range"] < BAR),
    }


def in_words(figures: dict[str, Any]) -> str:
    """A table for the log."""
    lines = []
    for concept, probes in figures["concepts"].items():
        for probe, facts in probes.items():
            star = "*" if figures["best"][concept] == probe else " "
            low, high = facts["pnes_interval"]
            lines.append(
                f"{star} {concept:13} {probe:9} accuracy {facts['accuracy']:.3f}  PNES {facts['pnes']['value']:.3f} "
                f"[{low:.3f}, {high:.3f}] r² {facts['pnes']['r_squared'] or 0:.2f}  range {facts['range']:.3f} at "
                f"{facts['range_at']}  safe {facts['safe']}"
            )
    return "\n".join(lines)


def choose(prompts: int, concepts: list[str]) -> None:
    """Print how far places and layers move each concept by the dim probe, on other questions than the card's."""
    model, tokenizer = vectors.open_model()
    for concept in concepts:
        for place, limit in (("hiddens", 0.6), ("pre-attn", 1.0)):
            vector = vectors.fit(model, tokenizer, concept, "dim", place)
            for layers in ("best 1", "best 2", "best 3") if place == "hiddens" else ("best 3", "all"):
                piece = scan(model, tokenizer, vector, concept, prompts, layers, seed=77, limit=limit, points=5)
                print(json.dumps([concept, place, layers, *fluent_range(piece["points"])]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--concepts", default=",".join(crumpet.CONCEPTS))
    parser.add_argument("--probes", default=",".join(PROBES))
    parser.add_argument("--layers", default=MODELS["mini"][0].layers)
    parser.add_argument("--choose", action="store_true", help="try places and layers on other questions, write nothing")
    parser.add_argument("--write", action="store_true", help="write the figures for the card and the page")
    arguments = chunks.arguments_of(parser)
    concepts = arguments.concepts.split(",")
    if arguments.choose:
        choose(min(arguments.prompts, 40), concepts)
        return
    model, tokenizer = vectors.open_model()
    known = {path.stem: read_concept(path) for path in sorted((MODEL / "vectors").glob("*.safetensors"))}
    work = [(concept, probe) for concept in concepts for probe in arguments.probes.split(",")]
    found = chunks.complete(
        DONE / "concepts",
        work,
        lambda item: "-".join((*item, mark(*item, arguments.prompts, arguments.layers))),
        lambda item: scan(model, tokenizer, known[".".join(item)], item[0], arguments.prompts, arguments.layers),
    )
    if not chunks.is_main():
        return
    figures = report(found, known, arguments.prompts)
    figures["unguided"] = train.evaluate(model, arguments.prompts, seed=2)
    if arguments.write:
        training.write_json(HERE / "evaluation.json", figures)
        training.write_manifest(MODEL, {"best": figures["best"]})
    print(in_words(figures))
    print(train.in_words(figures["unguided"]))


if __name__ == "__main__":
    main()
