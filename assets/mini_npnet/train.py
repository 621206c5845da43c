"""Train the small NPNets of ``mini-sdxl`` by three recipes: the paper's, the signal that the noise lacks, and the reward.

    torchrun --nproc-per-node 2 -m assets.mini_npnet.train collect --recipe paper  --shards 0:4
    python -m assets.mini_npnet.train fit --recipe paper --network npnet --minutes 2
    torchrun --nproc-per-node 2 -m assets.mini_npnet.train collect --recipe signal --shards 0:24
    python -m assets.mini_npnet.train fit --recipe signal --network film --minutes 6
    torchrun --nproc-per-node 2 -m assets.mini_npnet.train collect --recipe reward --shards 0:12
    python -m assets.mini_npnet.train fit --recipe reward --network film --minutes 6
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_npnet.train teach --minutes 20

**The paper's recipe.** *collect* draws a noise and makes its golden twin by re-denoise sampling
(``golden_noise.redenoise``), draws both pictures in ``DRAW_STEPS`` steps and notes how the ``reward`` verifier likes
each. *fit* keeps the pairs that the reward prefers (the paper's filter, margin 0) and trains a network to predict the
golden noise: NPNet in the published architecture at small size (``paper/``).

**The signal that the noise lacks** (ours). At the first level training shows noised pictures, sampling starts from noise
alone. *collect* adds what the prompt lets one expect of the picture (``GoldenNoise.signalled``), *fit* trains our FiLM
U-Net on all pairs (``film/``): it learns in one pass what takes the model several looks.

**The reward, not shipped** (TRIED.md). *collect* moves the noise along the gradient of the reward's log-probability of the prompt, through a sampler
of ``TAUGHT_STEPS`` steps: ``CLIMBS`` steps, the change's root mean square at most ``BOUND``, the noise's norm kept.
*fit* trains a FiLM U-Net (``pipelines/golden_noise/film.py``) on all pairs. *teach* then sends the reward's gradient
through the sampler into the network itself, on new prompts and noises, with a penalty on channel means that a
standard normal noise would not have.

*collect* can run on a cluster as well: ``python -m assets.mini_npnet.train collect --shards 0:400 --on ray``.
Shard i holds ``PER_SHARD`` pairs and depends on nothing but i, the recipe and the weights it was made with; processes
(``torchrun`` on CPUs, ``accelerate launch`` on several GPUs) share the shards out and skip those that exist. Every stage resumes after a kill. Seed 5; runs on CPU and CUDA.
How well it works is measured by ``assets.golden_noise.evaluate``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from assets.lab import chunks, training
from pipelines import golden_noise
from pipelines.core.registry import Registry
from pipelines.core.weights import manifest
from pipelines.golden_noise import GoldenNoise, arms
from pipelines.golden_noise.film import FilmNPNet
from pipelines.golden_noise.inspection import rms
from pipelines.golden_noise.npnet import SMALL, NPNet
from pipelines.models import judges, sdxl, sdxl_tiny
from pipelines.worlds import prompts as words

HERE = Path(__file__).parent
PAIRS = Path("data/pairs")
RUNS = Path("data/runs")
SEED = 5
PER_SHARD = 250
DRAW_STEPS = 8  # steps of the two pictures that the filter compares
TAUGHT_STEPS = 4  # steps of the sampler through which the reward's gradient runs
CLIMBS, STRIDE, BOUND = 2, 0.08, 0.15
COLLECT_NOISE = 800_000_000
TEACH_NOISE = 850_000_000
BATCH = 25
RECIPES = ("paper", "signal", "reward")
SHIPPED = {("paper", "npnet"): "paper", ("signal", "film"): "film", ("reward", "film"): "reward"}
"""Folder of a recipe and a network; other pairings are trials and get a folder named after both."""


def models(device: str = "cpu") -> tuple[GoldenNoise, Any]:
    """The pipeline and the reward verifier, from the shipped weights."""
    with Registry(device).lease(*sdxl.MINI.parts, judges.REWARD) as (*parts, reward):
        return GoldenNoise(sdxl.build(parts), None), reward


def base_hashes() -> dict[str, str]:
    """Hashes of what reads a prompt and draws."""
    return {f"{spec.key}/{name}": value for spec in sdxl.MINI.parts for name, value in spec.sha256.items()}


def marks(recipe: str) -> dict[str, str]:
    """What decides a pair, besides its number: hashes of the weights and settings. Others are made anew."""
    found = base_hashes()
    found["start"] = str(sdxl_tiny.SCHEDULE_STEPS)
    if recipe == "signal":  # in which the reward has no part
        return found | {"signal": f"{golden_noise.LOOKS} looks, factor {golden_noise.SIGNAL:g}"}
    return found | {f"reward/{k}": v for k, v in manifest("assets/verifier/reward").get("sha256", {}).items()}


def sample(golden: GoldenNoise, noises: Tensor, embeds: tuple[Tensor, ...], steps: int, guidance: float) -> Tensor:
    """DDIM with gradients: pictures (B, 3, H, W) in [0, 1] as the pipeline draws them, activations recomputed per step."""
    pipe = golden.pipe
    predict = golden_noise.guided_prediction(pipe, embeds)
    pipe.scheduler.set_timesteps(steps)
    times = [int(t) for t in pipe.scheduler.timesteps]
    table = pipe.scheduler.alphas_cumprod
    for now, after in zip(times, [*times[1:], -1], strict=True):
        high, low = table[now].item(), table[after].item() if after >= 0 else 1.0
        epsilon = checkpoint(predict, noises, now, guidance, use_reentrant=False)
        clean = (noises - (1 - high) ** 0.5 * epsilon) / high**0.5
        noises = low**0.5 * clean + (1 - low) ** 0.5 * epsilon
    return (pipe.vae.decode(noises / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def climb(golden: GoldenNoise, reward: Any, noises: Tensor, texts: list[str]) -> Tensor:
    """Noises moved by ``CLIMBS`` bounded steps along the reward's gradient; mean square change at most BOUND squared."""
    with torch.no_grad():
        embeds = golden.embed(texts)
    start, now = noises.clone(), noises.clone()
    for _ in range(CLIMBS):
        moving = now.detach().requires_grad_()
        score = arms.rewards(reward, sample(golden, moving, embeds, TAUGHT_STEPS, sdxl.MINI.guidance), texts)
        (slope,) = torch.autograd.grad(score.sum(), moving)
        now = now + STRIDE * slope / rms(slope)
        change = now - start
        change = change * (BOUND / rms(change)).clamp_max(1.0)
        now = start + change
        now = now * (start.flatten(1).norm(dim=1) / now.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return now.detach()


def prompts_of(shard: int) -> list[str]:
    """The prompts of a shard's pairs."""
    rng = random.Random(f"pairs {SEED} {shard}")
    return [words.surprise(rng.randrange(10**9)) for _ in range(PER_SHARD)]


def collect(recipe: str, shards: list[int], device: str) -> None:
    """Write the pairs of those shards that are not there yet, or were made with other weights."""
    folder, mark = PAIRS / recipe, marks(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    opened: list[Any] = []

    def make(shard: int) -> dict[str, Any]:
        if not opened:
            opened.extend(models(device))
        return pairs_of(recipe, shard, *opened) | {"base": mark}

    def wanted(shard: int) -> bool:
        path = folder / f"{shard:03d}.pt"
        return not path.exists() or torch.load(path, weights_only=True)["base"] != mark

    for shard, content in chunks.made(make, [shard for shard in shards if wanted(shard)]):
        path = folder / f"{shard:03d}.pt"
        chunks.write(path, content)
        found = torch.load(path, weights_only=True)
        told = f"change {rms(found['change'].float()).mean():.3f}"
        if "before" in found:
            gain = found["after"] - found["before"]
            told += (
                f", median gain of the reward {gain.median():+.3f}, better in {(gain > 0).float().mean():.2f} of pairs"
            )
        print(f"{path}: {told}", flush=True)


def pairs_of(recipe: str, shard: int, golden: GoldenNoise, reward: Any) -> dict[str, Any]:
    """The pairs of a shard: prompts, seeds, changes of the noise, and what the reward says of both pictures."""
    texts = prompts_of(shard)
    seeds = [COLLECT_NOISE + shard * PER_SHARD + i for i in range(PER_SHARD)]
    changes, before, after = [], [], []
    for start in range(0, PER_SHARD, BATCH):
        part = texts[start : start + BATCH]
        noises = arms.start_noise(seeds[start : start + BATCH], golden.pipe)
        if recipe == "reward":
            twins = climb(golden, reward, noises, part)
        with torch.no_grad():
            embeds = golden.embed(part)
            if recipe == "paper":
                twins = golden.redenoised(noises, embeds)
            if recipe == "signal":
                twins = golden.signalled(noises, embeds, sdxl.MINI.steps, seed=seeds[start])
            changes.append((twins - noises).half().cpu())
            if recipe == "signal":
                continue  # nothing is filtered, so nothing needs to be drawn
            for noise, scores in ((noises, before), (twins, after)):
                drawn = golden.draw(noise, embeds, DRAW_STEPS, sdxl.MINI.guidance)
                scores.append(arms.rewards(reward, drawn, part).cpu())
    found = {"texts": texts, "seeds": seeds, "change": torch.cat(changes)}
    if before:
        found |= {"before": torch.cat(before), "after": torch.cat(after)}
    return found


def new_network(
    network: str, channels: int, resolution: int, tokens: int, text_dim: int, bound: float = 0.0
) -> NPNet | FilmNPNet:
    torch.manual_seed(SEED)
    if network == "npnet":
        sizes = {"channels": channels, "resolution": resolution, "tokens": tokens, "text_dim": text_dim}
        return NPNet(**{**SMALL, **sizes})
    return FilmNPNet(resolution, tokens, text_dim, channels, bound=bound)


def fit(recipe: str, network: str, minutes: float, device: str) -> None:
    """Regression onto the collected pairs; of the paper's recipe only those that the reward prefers."""
    golden, _ = models(device)
    mark = marks(recipe)
    found = [torch.load(path, weights_only=True) for path in sorted((PAIRS / recipe).glob("*.pt"))]
    found = [part for part in found if part["base"] == mark]
    if not found:
        raise SystemExit(f"There are no pairs in {PAIRS / recipe} for the present weights: run collect first.")
    texts = [text for part in found for text in part["texts"]]
    seeds = [seed for part in found for seed in part["seeds"]]
    change = torch.cat([part["change"] for part in found]).float().to(device)
    keep, told = torch.ones(len(texts), dtype=torch.bool), {"pairs": len(texts)}
    if "after" in found[0]:
        better = torch.cat([part["after"] > part["before"] for part in found])
        keep, told = better if recipe == "paper" else keep, told | {"better": int(better.sum())}
    with torch.no_grad():
        embeds = torch.cat([golden.embed(texts[i : i + 100])[0] for i in range(0, len(texts), 100)])
        noises = torch.cat([arms.start_noise(seeds[i : i + 100], golden.pipe) for i in range(0, len(seeds), 100)])
    held = torch.arange(len(texts)) % 10 == 9
    use, check = (keep & ~held).nonzero().flatten(), held.nonzero().flatten()
    net = new_network(network, *noises.shape[1:3], *embeds.shape[1:]).to(device)
    folder = SHIPPED.get((recipe, network), f"{recipe}-{network}")
    size = change[use].square().mean()

    def step(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        rows = use[torch.randint(len(use), (64,), generator=generator)]
        golden_twin = noises[rows] + change[rows]
        # The plain loss is dominated by the identity; dividing by the change's size keeps it near 1.
        return F.mse_loss(net(noises[rows], embeds[rows]), golden_twin) / size

    @torch.no_grad()
    def explained(average) -> float:
        predicted = average(noises[check], embeds[check]) - noises[check]
        return (1 - (predicted - change[check]).square().sum() / change[check].square().sum()).item()

    net, facts = training.train(
        net, step, minutes, RUNS / f"npnet-{folder}.pt", 2e-3, SEED,
        report=lambda average: f"explained share of the change on held-out pairs: {explained(average):.3f}",
        report_every=300, weight_decay=1e-2, decay=0.99,
    )  # fmt: skip
    facts |= told | {"recipe": recipe, "explained": round(explained(net), 4)}
    save(folder, "fit", net, facts | {"change_rms": round(change.square().mean().sqrt().item(), 4)})


def teach(minutes: float, device: str, batch: int = 12) -> None:
    """Our recipe's second half: the reward's gradient through the sampler into the network, on new prompts each step."""
    golden, reward = models(device)
    with torch.no_grad():
        shape = golden.embed(["a red ball"])[0].shape[1:]
    side, channels = golden.pipe.unet.config.sample_size, golden.pipe.unet.config.in_channels
    fitted = HERE / "reward"
    start = (
        FilmNPNet.from_pretrained(fitted, low_cpu_mem_usage=False)
        if (fitted / "config.json").exists()
        else new_network("film", channels, side, *shape, bound=BOUND)
    )
    net = start.to(device).requires_grad_(True)

    def step(number: int) -> Tensor:
        rng = random.Random(f"teach {SEED} {number}")
        texts = [words.surprise(rng.randrange(10**9)) for _ in range(batch)]
        noises = arms.start_noise([TEACH_NOISE + number * batch + i for i in range(batch)], golden.pipe)
        with torch.no_grad():
            embeds = golden.embed(texts)
        changed = net(noises, embeds[0])
        scores = arms.rewards(reward, sample(golden, changed, embeds, TAUGHT_STEPS, sdxl.MINI.guidance), texts)
        # A channel's mean times the side is standard normal for white noise: more than that costs.
        unlikely = (changed.mean((2, 3)) * side).square().mean() / 2
        return -scores.clamp_min(-12.0).mean() + 0.02 * unlikely

    net, facts = training.train(
        net, step, minutes, RUNS / "npnet-teach.pt", 1e-3, SEED, warmup=20, weight_decay=1e-3, decay=0.98
    )
    if training.rank_and_size()[0] == 0:
        save("reward", "teach", net, facts | {"batch": batch, "processes": training.rank_and_size()[1]})


def save(folder: str, stage: str, net: NPNet | FilmNPNet, facts: dict[str, object]) -> None:
    """Weights into their folder, facts of this stage into the common manifest."""
    net.cpu().save_pretrained(HERE / folder)
    settings = json.loads((HERE / folder / "config.json").read_text())
    settings.pop("_name_or_path", None)  # a path of this machine
    training.write_json(HERE / folder / "config.json", settings)
    before = training.read_json(HERE / "manifest.json").get("training", {})
    stages = before.get(folder, {}) | {stage: facts}
    training.write_manifest(HERE, {"training": before | {folder: stages}})
    print(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("collect", "fit", "teach"))
    parser.add_argument("--recipe", choices=RECIPES, default="paper")
    parser.add_argument("--network", choices=("npnet", "film"), default="npnet", help="what fit trains")
    parser.add_argument("--shards", default="0:12", help="first:end")
    parser.add_argument("--minutes", type=float, default=6, help="of training in all, over every start")
    parser.add_argument("--device", default="cpu")
    arguments = chunks.arguments_of(parser)
    if arguments.stage == "collect":
        state = PartialState(cpu=arguments.device == "cpu")
        every = list(range(*(int(part) for part in arguments.shards.split(":"))))
        with state.split_between_processes(every) as mine:
            collect(arguments.recipe, mine, arguments.device if arguments.device == "cpu" else str(state.device))
    elif arguments.stage == "fit":
        fit(arguments.recipe, arguments.network, arguments.minutes, arguments.device)
    else:
        teach(arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
