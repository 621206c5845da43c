"""Train the small NPNet of ``mini-sdxl`` by the paper's recipe: collect pairs, filter them, learn, compare.

    python -m assets.mini_npnet.train collect  --shards 0:8       # 250 pairs each
    python -m assets.mini_npnet.train fit      --minutes 6
    python -m assets.mini_npnet.train evaluate --pairs 1000

*collect* draws a noise, makes its golden twin by re-denoise sampling (``redenoise``: one step down with guidance
5.5, one exact step back with guidance 1, on a grid of ``GRID`` steps), draws both pictures and notes how the
``reward`` verifier likes each. *fit* keeps the pairs that the reward prefers (the paper's filter, margin 0) and
trains NPNet in the published architecture at small size to predict the golden noise. *evaluate* compares
standard and golden noise on other prompts and seeds with the ``judge`` verifier and an exact McNemar test; it
writes the figures and the one sentence that the page shows. Every stage resumes after a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from math import comb
from pathlib import Path

import torch
from torch import Tensor

from assets import training
from assets.mini_sdxl import evaluate as judged
from pipelines import golden_noise, sdxl, verifier
from pipelines.npnet import SMALL, NPNet, golden_with_strength, training_loss
from pipelines.registry import Registry
from pipelines.scenes import prompts as words

HERE = Path(__file__).parent
PAIRS = Path("data/pairs")
RUNS = Path("data/runs")
SEED = 5
PER_SHARD = 250
GRID = 10  # steps of the grid on which a pair is made, as in the paper's code
DRAW_STEPS = 8  # steps of the two pictures that the filter compares
STRONG, WEAK = 5.5, 1.0
COLLECT_NOISE = 800_000_000
BATCH = 25


def models():
    """Pipeline, reward and judge from the shipped weights."""
    with Registry("cpu").lease(*sdxl.MINI.parts, golden_noise.REWARD, golden_noise.JUDGE) as (*parts, reward, judge):
        return sdxl.build(parts), reward, judge


def noise_batch(seeds: list[int], side: int) -> Tensor:
    return torch.cat([golden_noise.draw_noise(seed, (1, 4, side, side)) for seed in seeds])


@torch.inference_mode()
def golden_twins(pipe, noises: Tensor, texts: list[str], grid: int = GRID, strong: float = STRONG) -> Tensor:
    """Re-denoise sampling for a batch: golden noise (B, 4, h, w)."""
    embeds = golden_noise.GoldenNoise(pipe, None).embed(texts)
    pipe.scheduler.set_timesteps(grid)
    return golden_noise.redenoise(noises, golden_noise.guided_prediction(pipe, embeds), pipe.scheduler, strong, WEAK)


@torch.inference_mode()
def rewards(reward, pictures: Tensor, texts: list[str]) -> Tensor:
    """Log-probability of each picture's own prompt, (B,)."""
    logits = reward(pictures)
    rows = [{head: value[i : i + 1] for head, value in logits.items()} for i in range(len(texts))]
    return torch.cat(
        [verifier.log_likelihood(row, words.read_prompt(text)) for row, text in zip(rows, texts, strict=True)]
    )


def collect(shards: range) -> None:
    pipe, reward, _ = models()
    PAIRS.mkdir(parents=True, exist_ok=True)
    mark = sdxl.manifest("assets/mini_sdxl").get("sha256", {})
    for shard in shards:
        path = PAIRS / f"{shard:03d}.pt"
        if path.exists() and torch.load(path, weights_only=True)["base"] == mark:
            continue
        rng = random.Random(f"pairs {SEED} {shard}")
        texts = [words.surprise(rng.randrange(10**9)) for _ in range(PER_SHARD)]
        seeds = [COLLECT_NOISE + shard * PER_SHARD + i for i in range(PER_SHARD)]
        changes, before, after = [], [], []
        for start in range(0, PER_SHARD, BATCH):
            part = texts[start : start + BATCH]
            noises = noise_batch(seeds[start : start + BATCH], pipe.unet.config.sample_size)
            golden = golden_twins(pipe, noises, part)
            changes.append((golden - noises).half())
            both = [judged.draw(pipe, part, [], DRAW_STEPS, sdxl.MINI.guidance, noises=n) for n in (noises, golden)]
            before.append(rewards(reward, both[0], part))
            after.append(rewards(reward, both[1], part))
        found = {"texts": texts, "seeds": seeds, "change": torch.cat(changes), "base": mark}
        found |= {"before": torch.cat(before), "after": torch.cat(after)}
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(found, scratch)
        scratch.rename(path)
        kept = (found["after"] > found["before"]).float().mean()
        print(
            f"{path}: reward {found['before'].mean():.3f} -> {found['after'].mean():.3f}, kept {kept:.2f}", flush=True
        )


def fit(minutes: float) -> None:
    pipe, *_ = models()
    found = [torch.load(path, weights_only=True) for path in sorted(PAIRS.glob("*.pt"))]
    texts = [text for part in found for text in part["texts"]]
    seeds = [seed for part in found for seed in part["seeds"]]
    change = torch.cat([part["change"] for part in found]).float()
    keep = torch.cat([part["after"] > part["before"] for part in found])
    with torch.inference_mode():
        golden = golden_noise.GoldenNoise(pipe, None)
        embeds = torch.cat([golden.embed(texts[i : i + 100])[0] for i in range(0, len(texts), 100)]).clone()
    noises = noise_batch(seeds, pipe.unet.config.sample_size)
    held = torch.arange(len(texts)) % 10 == 9
    use, check = (keep & ~held).nonzero().flatten(), held.nonzero().flatten()
    torch.manual_seed(SEED)
    net = NPNet(**{**SMALL, "resolution": noises.shape[-1], "tokens": embeds.shape[1], "text_dim": embeds.shape[2]})

    def step(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        rows = use[torch.randint(len(use), (64,), generator=generator)]
        # Predicting the noise itself is dominated by the identity; dividing by the change's size keeps the loss near 1.
        return training_loss(net, noises[rows], embeds[rows], noises[rows] + change[rows]) / change[use].square().mean()

    @torch.no_grad()
    def report(average: NPNet) -> str:
        predicted = average(noises[check], embeds[check]) - noises[check]
        explained = 1 - (predicted - change[check]).square().sum() / change[check].square().sum()
        return f"explained share of the change on held-out pairs: {explained:.3f}"

    net, facts = training.train(
        net, step, minutes, RUNS / "npnet.pt", 2e-3, SEED, report=report, report_every=300, weight_decay=1e-3
    )
    facts |= {"pairs": len(texts), "kept": int(keep.sum()), "check": report(net)}
    facts |= {"change_rms": round(change.square().mean().sqrt().item(), 4)}
    net.save_pretrained(HERE)
    training.write_json(RUNS / "npnet.json", facts)
    training.write_manifest(HERE, {"training": facts})
    print(json.dumps(facts))


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of ``wins`` against ``losses`` under a fair coin."""
    total, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(comb(total, k) for k in range(fewer + 1)) / 2**total) if total else 1.0


def compare(pairs: int, steps: int) -> dict[str, object]:
    """Standard noise against each kind of golden noise on held-out prompts, the same seeds, judged by the judge."""
    pipe, _, judge = models()
    with Registry("cpu").lease(golden_noise.NPNETS["mini"]) as (npnet,):
        pass
    rng = random.Random("golden evaluation")
    texts = [words.surprise(10**9 + rng.randrange(10**9)) for _ in range(pairs)]
    shuffled = random.Random("shuffle").sample(texts, pairs)
    right: dict[str, list[bool]] = {}
    for start in range(0, pairs, BATCH):
        part = texts[start : start + BATCH]
        noises = noise_batch([900_000_000 + start + i for i in range(len(part))], pipe.unet.config.sample_size)
        with torch.inference_mode():
            embeds = golden_noise.GoldenNoise(pipe, None).embed(part)[0]
            others = golden_noise.GoldenNoise(pipe, None).embed(shuffled[start : start + BATCH])[0]
            arms = {
                "standard": noises,
                "NPNet": golden_with_strength(noises, npnet(noises, embeds), 1.0),
                "re-denoise": golden_twins(pipe, noises, part),
                "NPNet, shuffled prompts": npnet(noises, others),
            }
            for name, start_noise in arms.items():
                pictures = judged.draw(pipe, part, [], steps, sdxl.MINI.guidance, noises=start_noise)
                for text, picture in zip(part, pictures.split(1), strict=True):
                    (verdicts,) = verifier.judge(judge(picture), words.read_prompt(text))
                    right.setdefault(name, []).append(verifier.fully_right(verdicts))
        print(
            f"{start + len(part)} of {pairs}: " + ", ".join(f"{n} {sum(r) / len(r):.3f}" for n, r in right.items()),
            flush=True,
        )
    table = {"standard": judged.share(sum(right["standard"]), pairs)}
    for name, hits in right.items():
        if name != "standard":
            wins = sum(a and not b for a, b in zip(hits, right["standard"], strict=True))
            losses = sum(b and not a for a, b in zip(hits, right["standard"], strict=True))
            points = 100 * (sum(hits) - sum(right["standard"])) / pairs
            table[name] = judged.share(sum(hits), pairs) | {
                "wins": wins, "losses": losses, "p": float(f"{mcnemar(wins, losses):.3g}"), "points": round(points, 2),
            }  # fmt: skip
    return table


def sentence(table: dict[str, object], steps: int) -> str:
    """What the page says, whatever came out."""
    ours, plain = table["NPNet"], table["standard"]
    verdict = "more" if ours["points"] > 0 else "fewer" if ours["points"] < 0 else "as many"
    sure = "a difference unlikely to be chance" if ours["p"] < 0.01 else "a difference that may be chance"
    return (
        f"Measured on {plain['of']:,} held-out prompts with {steps} steps: all attributes right in "
        f"{100 * plain['share']:.1f} % of pictures from standard noise and {100 * ours['share']:.1f} % from NPNet's golden noise "
        f"({ours['wins']} pictures won, {ours['losses']} lost, p = {ours['p']:.2g}): {verdict} right pictures, {sure}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("collect", "fit", "evaluate"))
    parser.add_argument("--shards", default="0:8")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=sdxl.MINI.steps)
    parser.add_argument("--dry", action="store_true", help="evaluate without writing the manifest")
    arguments = parser.parse_args()
    if arguments.stage == "collect":
        collect(range(*(int(part) for part in arguments.shards.split(":"))))
    elif arguments.stage == "fit":
        fit(arguments.minutes)
    else:
        table = compare(arguments.pairs, arguments.steps)
        if not arguments.dry:
            training.write_manifest(HERE, {"evaluation": table, "claim": sentence(table, arguments.steps)})
        print(json.dumps(table))


if __name__ == "__main__":
    main()
