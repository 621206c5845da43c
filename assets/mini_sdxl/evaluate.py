"""Measure ``mini-sdxl`` from the shipped weights: are the pictures what the prompts say, and like the renders?

    python -m assets.mini_sdxl.evaluate --prompts 150            # under 10 minutes on two cores
    torchrun --nproc-per-node 2 -m assets.mini_sdxl.evaluate --prompts 1000 --sheet --write  # the card

Pictures are drawn in chunks that are kept under ``data/evaluation``, so that a killed run goes on and processes share
the work. ``--validation`` uses other prompts and seeds: settings may be chosen there, and only there.

Prompts come from their own random stream, noise from its own seeds, neither used in training. Every picture is judged
by the ``judge`` verifier, which nothing was trained against. Shares come with Wilson 95 % intervals; the kernel and
Fréchet distances between drawn pictures and renders (in the judge's features) stand beside the same distance between
two halves of the renders. The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from assets.lab import chunks
from assets.verifier.train import accuracy, held_out
from pipelines import golden_noise
from pipelines.core.registry import Registry
from pipelines.core.scores import wilson
from pipelines.core.weights import manifest
from pipelines.golden_noise.arms import start_noise
from pipelines.models import judges, sdxl, sdxl_tiny, verifier
from pipelines.worlds import grammar, portrait, tabletop
from pipelines.worlds.prompts import read_prompt

HERE = Path(__file__).parent
KINDS = ("one object", "two objects", "portrait")
STREAMS = {"test": ("test prompts", 750_000_000), "validation": ("held-out prompts", 700_000_000)}
DONE = Path("data/evaluation")
CHUNK = 25


def prompts(kind: str, count: int, stream: str = "test") -> list[str]:
    """The first ``count`` held-out prompts of a kind; the same list for everybody."""
    rng, texts = random.Random(f"{STREAMS[stream][0]} {kind}"), []
    while len(texts) < count:
        if kind == "portrait":
            texts.append(portrait.caption(portrait.sample(rng.randrange(10**9) + 10**10), rng))
        else:
            texts.append(grammar.phrase(grammar.random_request(rng, KINDS.index(kind) + 1), rng))
    return texts


def share(hits: int, total: int) -> dict[str, object]:
    return {
        "share": round(hits / max(total, 1), 4),
        "interval": [round(x, 4) for x in wilson(hits, total)],
        "of": total,
    }


def frechet(first: Tensor, second: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (N, D), float64."""
    means = [x.mean(0) for x in (first, second)]
    covariances = [torch.cov(x.T) for x in (first, second)]
    product = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * product
    return distance.item()


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased squared MMD with KID's cubic kernel (Bińkowski et al. 2018) between feature sets (N, D)."""
    width = first.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    def within(a: Tensor) -> Tensor:
        table = kernel(a, a)
        return (table.sum() - table.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(first) + within(second) - 2 * kernel(first, second).mean()).item()


@torch.inference_mode()
def draw(pipe, texts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
    """One picture per prompt from standard noise, (N, 3, 128, 128) in [0, 1]."""
    golden = golden_noise.GoldenNoise(pipe, None)
    return golden.draw(start_noise(seeds, pipe), golden.embed(texts), steps, guidance)


def drawn(kinds, count: int, stream: str, steps: int, guidance: float, start: int) -> dict[str, Tensor]:
    """Pictures of the first ``count`` prompts of each kind, uint8 (count, 3, 128, 128), drawn or found."""
    facts = json.dumps([manifest("assets/mini_sdxl").get("sha256"), steps, guidance, start], sort_keys=True)
    folder = DONE / f"sdxl-{stream}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    texts, opened = {kind: prompts(kind, count, stream) for kind in kinds}, []

    def make(item: tuple[str, int]) -> Tensor:
        kind, first = item
        if not opened:
            opened.append(open_models(start)[0])
        part = texts[kind][first : first + CHUNK]
        seeds = [STREAMS[stream][1] + first + i for i in range(len(part))]
        return (draw(opened[0], part, seeds, steps, guidance) * 255).round().to(torch.uint8)

    work = [(kind, first) for first in range(0, count, CHUNK) for kind in kinds]
    name = "{}-{:05d}-{}".format
    found = chunks.complete(
        folder, work, lambda item: name(item[0].replace(" ", "-"), item[1], min(CHUNK, count - item[1])), make
    )
    return {kind: torch.cat([found[item] for item in work if item[0] == kind]) for kind in kinds}


def open_models(start: int = sdxl_tiny.SCHEDULE_STEPS) -> tuple[object, verifier.SceneVerifier]:
    """The pipeline, its sampling beginning at noise level ``start``, and the judge, from the shipped weights."""
    with Registry("cpu").lease(*sdxl.FIRST["mini"].parts, judges.JUDGE) as (*parts, judge):
        pipe = sdxl.build(parts)
        pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, **sdxl_tiny.sampler(start)})
        return pipe, judge


def evaluate(
    count: int, steps: int, guidance: float, renders: int, stream: str, start: int, kinds=KINDS
) -> tuple[dict[str, object], dict[str, Tensor]] | None:
    """Report and pictures; None in all but the first of several processes."""
    pictures = drawn(kinds, count, stream, steps, guidance, start)
    if not chunks.is_main():
        return None
    pictures = {kind: found.float() / 255 for kind, found in pictures.items()}
    pipe, judge = open_models(start)
    report: dict[str, object] = {
        "prompts_per_kind": count, "stream": stream, "steps": steps, "guidance": guidance, "start": start
    }  # fmt: skip
    with torch.inference_mode():
        report["judge_accuracy_on_renders"] = accuracy(judge, renders) if renders else {}
        features, real = [], []
        for kind in kinds:
            texts = prompts(kind, count, stream)
            right, attributes = 0, {}
            for text, picture in zip(texts, pictures[kind].split(1), strict=True):
                (verdicts,) = verifier.judge(judge(picture), read_prompt(text))
                right += verifier.fully_right(verdicts)
                for verdict in verdicts:
                    name = verdict.attribute.split(" of the ")[0]
                    hits, total = attributes.get(name, (0, 0))
                    attributes[name] = (hits + verdict.right, total + 1)
            report[kind] = {"fully_right": share(right, count)}
            report[kind]["attributes"] = {name: share(*value) for name, value in sorted(attributes.items())}
            if kind == "portrait":
                named = [attributes[name] for name in ("hair colour", "glasses", "beard")]
                report[kind]["hair colour, glasses, beard"] = [share(*value)["share"] for value in named]
            if not renders:
                continue
            features.append(torch.cat([judge.features(p) for p in pictures[kind].split(64)]))
            world, solids = ("portrait", None) if kind == "portrait" else ("tabletop", KINDS.index(kind) + 1)
            real.append(torch.cat([judge.features(p) for p in renders_like(world, solids, count).split(64)]))
        if not renders:
            return report, pictures
        made = torch.cat([x[::2] for x in features]).double()  # as many as there are renders in a half
        halves = [torch.cat([x[i::2] for x in real]).double() for i in range(2)]
        report["distance_to_renders"] = {
            "kernel": round(kernel_distance(made, halves[0]), 5),
            "kernel_between_renders": round(kernel_distance(*halves), 5),
            "frechet": round(frechet(made, halves[0]), 3),
            "frechet_between_renders": round(frechet(*halves), 3),
        }
        times = []
        for _ in range(5):
            started = time.perf_counter()
            draw(pipe, prompts("one object", 1), [1], 25, guidance)
            times.append(time.perf_counter() - started)
        report["seconds_for_one_picture_25_steps"] = round(sorted(times)[2], 3)
        report["threads"] = torch.get_num_threads()
    return report, pictures


def renders_like(world: str, solids: int | None, count: int) -> Tensor:
    """Held-out renders to compare with drawn pictures of the same kind."""
    if world == "portrait":
        return held_out(world, count)[0]
    return torch.cat([tabletop.render([tabletop.sample(600_000 + i, solids)]).image for i in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=150, help="per kind")
    parser.add_argument("--steps", type=int, default=sdxl.FIRST["mini"].steps)
    parser.add_argument("--guidance", type=float, default=sdxl.FIRST["mini"].guidance)
    parser.add_argument(
        "--renders", type=int, default=300, help="held-out renders of each world for the judge; 0: quick look"
    )
    parser.add_argument(
        "--sheet", action="store_true", help="also write the first 36 pictures, uncurated, as samples.png"
    )
    parser.add_argument("--write", action="store_true", help="keep the figures for the card, as evaluation.json")
    parser.add_argument("--validation", action="store_true", help="other prompts and seeds, to choose settings on")
    parser.add_argument("--start", type=int, default=sdxl_tiny.SCHEDULE_STEPS, help="noise level sampling starts at")
    parser.add_argument("--kinds", default=",".join(KINDS))
    arguments = chunks.arguments_of(parser)
    started = time.monotonic()
    found = evaluate(
        arguments.prompts,
        arguments.steps,
        arguments.guidance,
        arguments.renders,
        "validation" if arguments.validation else "test",
        arguments.start,
        tuple(arguments.kinds.split(",")),
    )
    if found is None:
        return
    report, pictures = found
    if arguments.sheet:
        save_image(make_grid(torch.cat([p[:12] for p in pictures.values()]), 6, padding=2), HERE / "samples.png")
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    if arguments.write:
        (HERE / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
