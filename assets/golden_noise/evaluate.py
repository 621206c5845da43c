"""Does golden noise help? Every arm on the same held-out prompts and seeds, judged by the verifier that taught nobody.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.golden_noise.evaluate --pairs 75    # about a quarter of an hour
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.golden_noise.evaluate --pairs 400 --others 100 --write
                                                                                # the card's figures, about an hour

The plan (PLAN.md) was written down before the full run: what is compared, on what, and what counts as success. Work is
cut into chunks of ``CHUNK`` prompts; each finished chunk of an arm is a file under ``data/evaluation``, marked with a
hash over the weights, so that a killed run goes on and several processes share the work. The last line of the output
is one JSON document. ``--stream validation`` has other prompts and seeds:
settings may be chosen there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path

import torch

from assets.lab import chunks, training
from assets.mini_npnet.train import base_hashes
from pipelines import golden_noise
from pipelines.core.registry import Registry
from pipelines.core.scores import Paired
from pipelines.core.weights import manifest
from pipelines.golden_noise import GoldenNoise, lab
from pipelines.golden_noise import arms as golden_noise_arms
from pipelines.models import judges, sdxl, sdxl_tiny
from pipelines.worlds import prompts as words

HERE = Path(__file__).parent
DONE = Path("data/evaluation")
CHUNK = 25
STREAMS = {
    "test": ("golden final test", 940_000_000),
    "first": ("golden test", 920_000_000),  # looked at before the networks were final
    "validation": ("golden validation", 910_000_000),
}


def cases(stream: str, pairs: int) -> list[tuple[str, int]]:
    """Prompt and seed of the first ``pairs`` cases; more pairs begin with the same ones."""
    name, first = STREAMS[stream]
    rng = random.Random(name)
    return [(words.surprise(10**9 + rng.randrange(10**9)), first + i) for i in range(pairs)]


DECIDING = ("standard", "npnet", "npnet_paper", "first_step", "guidance")
"""The arms on which the bar stands: golden noise from a network, and what costs no more."""
NETWORKS = {"npnet": ["film"], "npnet_paper": ["paper"], "shuffled": ["film"], "random": ["film"]}
"""Arms that use a network of ours, and which."""
NPNET_OF = {"npnet": "film", "npnet_paper": "paper"}


def mark(arm: str, steps: int, guidance: float, strength: float) -> str:
    """Short hash over the settings and all weights that decide an arm's results; a new network leaves other arms valid."""
    facts = [manifest(folder).get("sha256", {}) for folder in ("assets/verifier/reward", "assets/verifier/judge")]
    facts.insert(0, base_hashes())
    networks = manifest("assets/mini_npnet").get("sha256", {})
    facts += [{k: v for k, v in networks.items() if k.split("/")[0] == part} for part in NETWORKS.get(arm, ())]
    settings = [sdxl_tiny.SCHEDULE_STEPS, steps, guidance, strength, lab.STRONGER, lab.MORE_STEPS]
    return hashlib.sha256(json.dumps([facts, settings], sort_keys=True).encode()).hexdigest()[:16]


def run_chunk(
    models: golden_noise_arms.Models, judge, arm: str, part, steps: int, guidance: float, strength: float
) -> dict:
    """Right or wrong of every case of a chunk in one arm, and the seconds it took."""
    prompts, seeds = [text for text, _ in part], [seed for _, seed in part]
    with torch.inference_mode():
        started = time.perf_counter()
        pictures = golden_noise_arms.draw_arm(arm, models, prompts, seeds, steps, guidance, strength)
        seconds = time.perf_counter() - started
        return {"right": golden_noise_arms.fully_right(judge, pictures, prompts), "seconds": seconds}


def measure(
    arms: list[str], stream: str, pairs: int, others: int, steps: int, guidance: float, strength: float
) -> dict[str, list[dict]]:
    """The results of every chunk of every arm, made or found; arms that decide nothing draw the first ``others`` pairs."""
    listed, models = cases(stream, pairs), []
    marks = {arm: mark(arm, steps, guidance, strength) for arm in arms}
    starts = {arm: range(0, pairs if arm in DECIDING else min(others, pairs), CHUNK) for arm in arms}

    def make(item: tuple[str, int]) -> dict:
        arm, start = item
        if not models:
            models.extend(open_models(arms))
        return run_chunk(*models, arm, listed[start : start + CHUNK], steps, guidance, strength)

    found = chunks.complete(
        DONE / f"golden-{stream}",
        # What the bar stands on comes first, in chunks of all its arms.
        sorted(
            ((arm, start) for arm in arms for start in starts[arm]),
            key=lambda item: (item[0] not in DECIDING, item[1], arms.index(item[0])),
        ),
        lambda item: f"{item[0]}-{marks[item[0]]}-{item[1]:06d}-{len(listed[item[1] : item[1] + CHUNK])}",
        make,
    )
    return {arm: [found[arm, start] for start in starts[arm]] for arm in arms}


def open_models(arms: list[str]):
    """Models of these arms, and the judge."""
    parts = sorted({part for arm in arms for part in NETWORKS.get(arm, ())})
    networks = {key: golden_noise.NPNETS["mini"][key] for key, part in NPNET_OF.items() if part in parts}
    wanted = (*sdxl.MINI.parts, judges.REWARD, judges.JUDGE, *networks.values())
    with Registry("cpu").lease(*wanted) as found:
        base, (reward, judge, *npnets) = found[: len(sdxl.PARTS)], found[len(sdxl.PARTS) :]
        golden = GoldenNoise(sdxl.build(base), None)
        return golden_noise_arms.Models(golden, dict(zip(networks, npnets, strict=True)), reward), judge


def table(found: dict[str, list[dict]], steps: int) -> dict[str, dict]:
    """Figures of every arm against the standard: shares, won, lost, p, points, network evaluations, seconds a picture."""
    right = {arm: [hit for chunk in chunks for hit in chunk["right"]] for arm, chunks in found.items()}
    rows = {}
    for arm, hits in right.items():
        seconds = sum(chunk["seconds"] for chunk in found[arm]) / len(hits)
        rows[arm] = Paired.of(hits, right["standard"][: len(hits)]).as_dict() | {
            "evaluations": lab.ARMS[arm].evaluations(steps),
            "seconds": round(seconds, 4),
        }
    return rows


def sentence(rows: dict[str, dict], steps: int) -> str:
    """What the page says, whatever came out; the strongest baseline that costs no more than NPNet stands in it."""
    ours, plain = rows["npnet"], rows["standard"]
    word = "more" if ours["points"] > 0 else "fewer" if ours["points"] < 0 else "as many"
    sure = "unlikely to be chance" if ours["p"] < lab.CONVINCING else "which may be chance"
    text = (
        f"Measured on {plain['of']:,} held-out prompts with {steps} steps: all attributes right in "
        f"{100 * plain['share']:.1f} % of pictures from standard noise and in {100 * ours['share']:.1f} % from NPNet's golden "
        f"noise ({ours['wins']} won, {ours['losses']} lost, p = {ours['p']:.2g}): {word} right pictures, {sure}."
    )
    free = [arm for arm in ("first_step", "guidance") if arm in rows]
    if free:
        best = max(free, key=lambda arm: rows[arm]["points"])
        text += (
            f" {lab.ARMS[best].title}, which costs nothing, reaches {100 * rows[best]['share']:.1f} % "
            f"({rows[best]['points']:+.1f} points)"
        )
        text += ": better than golden noise." if rows[best]["points"] > ours["points"] else "."
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--others", type=int, help="pairs of the arms that decide nothing (default: as many)")
    parser.add_argument("--steps", type=int, default=sdxl.MINI.steps)
    parser.add_argument("--guidance", type=float, default=sdxl.MINI.guidance)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--arms", default=",".join(lab.ARMS), help="comma-separated; standard is always there")
    parser.add_argument("--stream", choices=STREAMS, default="test", help="which prompts and seeds")
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the manifest, for the card and the page"
    )
    arguments = chunks.arguments_of(parser)
    arms = list(dict.fromkeys(["standard", *arguments.arms.split(",")]))
    unknown = [arm for arm in arms if arm not in lab.ARMS]
    if unknown:
        raise SystemExit(f"There is no arm {unknown[0]}: choose from {', '.join(lab.ARMS)}.")
    stream = arguments.stream
    started = time.monotonic()
    others = arguments.others or arguments.pairs
    if min(others, arguments.pairs) % CHUNK and others < arguments.pairs:
        raise SystemExit(f"--others is {others}: choose a multiple of {CHUNK}.")
    found = measure(arms, stream, arguments.pairs, others, arguments.steps, arguments.guidance, arguments.strength)
    if not chunks.is_main():
        return
    rows = table(found, arguments.steps)
    report = {
        "stream": stream, "pairs": arguments.pairs, "others": others, "steps": arguments.steps, "guidance": arguments.guidance,
        "strength": arguments.strength, "arms": rows, "minutes": round((time.monotonic() - started) / 60, 1),
    }  # fmt: skip
    if arguments.write:
        training.write_json(HERE / "evaluation.json", {"evaluation": report, "claim": sentence(rows, arguments.steps)})
    print(json.dumps(report))


if __name__ == "__main__":
    main()
