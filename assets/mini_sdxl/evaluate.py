"""Measure ``mini-sdxl`` from the shipped weights: are the pictures what the prompts say, and like the renders?

    python -m assets.mini_sdxl.evaluate --prompts 150            # about 10 minutes on two cores
    python -m assets.mini_sdxl.evaluate --prompts 1000 --sheet   # the figures of the card

Prompts come from their own random stream, noise from its own seeds, neither used in training. Every picture is
judged by the ``judge`` verifier, which nothing was trained against. Shares come with Wilson 95 % intervals; the
kernel and Fréchet distances between drawn pictures and renders (in the judge's features) stand beside the same
distance between two halves of the renders. The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor

from assets.verifier.train import accuracy, held_out
from pipelines import golden_noise, sdxl, verifier
from pipelines.registry import Registry
from pipelines.scenes import grammar, portrait
from pipelines.scenes.prompts import read_prompt

HERE = Path(__file__).parent
KINDS = ("one object", "two objects", "portrait")
PROMPT_STREAM = "held-out prompts"
NOISE_SEED = 700_000_000


def prompts(kind: str, count: int) -> list[str]:
    """The first ``count`` held-out prompts of a kind; the same list for everybody."""
    rng, texts = random.Random(f"{PROMPT_STREAM} {kind}"), []
    while len(texts) < count:
        if kind == "portrait":
            texts.append(portrait.caption(portrait.sample(rng.randrange(10**9) + 10**10), rng))
        else:
            texts.append(grammar.phrase(grammar.random_request(rng, KINDS.index(kind) + 1), rng))
    return texts


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson 95 % interval of a share."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)


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
def draw(pipe, texts: list[str], seeds: list[int], steps: int, guidance: float, noises: Tensor | None = None) -> Tensor:
    """One picture per prompt, (N, 3, 128, 128) in [0, 1]."""
    golden = golden_noise.GoldenNoise(pipe, None)
    if noises is None:
        side = pipe.unet.config.sample_size
        noises = torch.cat([golden_noise.draw_noise(seed, (1, 4, side, side)) for seed in seeds])
    return golden.draw(noises, golden.embed(texts), steps, guidance)


def open_models() -> tuple[object, verifier.SceneVerifier]:
    """The pipeline and the judge, from the shipped weights."""
    with Registry("cpu").lease(*sdxl.MINI.parts, golden_noise.JUDGE) as (*parts, judge):
        return sdxl.build(parts), judge


def evaluate(
    count: int, steps: int, guidance: float, batch: int, renders: int
) -> tuple[dict[str, object], dict[str, Tensor]]:
    pipe, judge = open_models()
    report: dict[str, object] = {"prompts_per_kind": count, "steps": steps, "guidance": guidance}
    pictures: dict[str, Tensor] = {}
    with torch.inference_mode():
        report["judge_accuracy_on_renders"] = accuracy(judge, renders)
        features, real = [], []
        for kind in KINDS:
            texts = prompts(kind, count)
            parts = []
            for start in range(0, count, batch):
                seeds = [NOISE_SEED + start + i for i in range(len(texts[start : start + batch]))]
                parts.append(draw(pipe, texts[start : start + batch], seeds, steps, guidance))
                print(f"{kind}: {min(start + batch, count)} of {count}", flush=True)
            pictures[kind] = torch.cat(parts)
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
            features.append(torch.cat([judge.features(p) for p in pictures[kind].split(64)]))
            world, solids = ("portrait", None) if kind == "portrait" else ("tabletop", KINDS.index(kind) + 1)
            real.append(torch.cat([judge.features(p) for p in renders_like(world, solids, count).split(64)]))
        drawn = torch.cat([x[::2] for x in features]).double()  # as many as there are renders in a half
        halves = [torch.cat([x[i::2] for x in real]).double() for i in range(2)]
        report["distance_to_renders"] = {
            "kernel": round(kernel_distance(drawn, halves[0]), 5),
            "kernel_between_renders": round(kernel_distance(*halves), 5),
            "frechet": round(frechet(drawn, halves[0]), 3),
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
    from pipelines.scenes import tabletop

    return torch.cat([tabletop.render([tabletop.sample(600_000 + i, solids)]).image for i in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=150, help="per kind")
    parser.add_argument("--steps", type=int, default=sdxl.MINI.steps)
    parser.add_argument("--guidance", type=float, default=sdxl.MINI.guidance)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--renders", type=int, default=300, help="held-out renders of each world for the judge")
    parser.add_argument(
        "--sheet", action="store_true", help="also write the first 36 pictures, uncurated, as samples.png"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    started = time.monotonic()
    report, pictures = evaluate(
        arguments.prompts, arguments.steps, arguments.guidance, arguments.batch, arguments.renders
    )
    if arguments.sheet:
        from torchvision.utils import make_grid, save_image

        save_image(make_grid(torch.cat([p[:12] for p in pictures.values()]), 6, padding=2), HERE / "samples.png")
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
