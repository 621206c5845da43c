"""Train the two scene verifiers on renders: the reward and, apart from it, the judge.

    python -m assets.verifier.train reward --minutes 14
    python -m assets.verifier.train judge  --minutes 14

``reward`` is a ResNet with seed 11, ``judge`` a RegNet with seed 23; they see different pictures (even and odd
shards). Pictures are blurred, brightened and made noisy at random, because drawn pictures are never as crisp as
renders. Resumes after a kill; writes float16 weights and the accuracy per attribute on held-out renders.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from assets import data, training
from pipelines import verifier
from pipelines.scenes import portrait, tabletop

HERE = Path(__file__).parent
RUNS = Path("data/runs")
SETTINGS = {
    "reward": {"architecture": "resnet", "widths": (32, 64, 96, 128), "seed": 11, "shards": 0},
    "judge": {"architecture": "regnet", "widths": (32, 64, 96, 144), "seed": 23, "shards": 1},
}
HELD_OUT_SEED = 500_000


def labels(scene) -> dict[str, int]:
    """Head -> index of the right answer; heads that do not apply are left out."""
    if isinstance(scene, portrait.Portrait):
        facts = {"world": "portrait", **portrait.attributes(scene)}
    else:
        seen = tabletop.attributes(scene)
        facts = {"world": "tabletop", "count": str(len(seen["things"])), "floor": seen["floor"], "backdrop": seen["backdrop"]}
        for slot, thing in enumerate(seen["things"]):
            facts |= {f"{slot} shape": thing.shape, f"{slot} colour": thing.colour, f"{slot} finish": thing.finish}
        for slot, nearer in enumerate(seen["nearer"]):
            facts |= {f"{slot} nearer": ("left", "right")[nearer]} if nearer is not None else {}
    return {head: verifier.HEADS[head].index(value) for head, value in facts.items()}


def stacked(rows: list[dict[str, int]]) -> dict[str, Tensor]:
    return {head: torch.tensor([row.get(head, -100) for row in rows]) for head in verifier.HEADS}


def loss_of(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Cross entropy, averaged over the answers that apply."""
    total, count = 0.0, 0
    for head, target in wanted.items():
        if (target >= 0).any():
            total = total + F.cross_entropy(logits[head].float(), target, ignore_index=-100, label_smoothing=0.02)
            count += 1
    return total / max(count, 1)


def worn(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, exposure and noise at random, picture by picture."""
    draw = torch.rand(4, len(image), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image = torch.where(draw[0] < 0.4, image.lerp(soft, draw[1].clamp_min(0.3)), image)
    image = image * (0.9 + 0.2 * draw[2]) + (draw[3] - 0.5) * 0.08
    strength = 0.04 * torch.rand(len(image), 1, 1, 1, generator=generator)
    return image + strength * torch.randn(image.shape, generator=generator)


def held_out(world: str, count: int, size: int = data.SIZE) -> tuple[Tensor, list]:
    """Renders that no training has seen, and their scenes."""
    module = data.world(world)
    scenes = [module.sample(HELD_OUT_SEED + i) for i in range(count)]
    return torch.cat([module.render([scene], size).image for scene in scenes]), scenes


@torch.no_grad()
def accuracy(model: verifier.SceneVerifier, count: int) -> dict[str, float]:
    """Share of right answers per kind of attribute on held-out renders of both worlds (count of each)."""
    right, total = {}, {}
    for world in ("tabletop", "portrait"):
        images, scenes = held_out(world, count)
        logits = {}
        for part in images.split(64):
            for head, value in model(part).items():
                logits.setdefault(head, []).append(value)
        for head, target in stacked([labels(scene) for scene in scenes]).items():
            applies = target >= 0
            if applies.any():
                hits = (torch.cat(logits[head]).argmax(1) == target)[applies]
                name = head.split(" ")[-1]
                right[name] = right.get(name, 0) + int(hits.sum())
                total[name] = total.get(name, 0) + int(applies.sum())
    return {name: round(right[name] / total[name], 4) for name in sorted(total)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=SETTINGS)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--held-out", type=int, default=1000)
    arguments = parser.parse_args()
    settings, device = SETTINGS[arguments.which], arguments.device
    seed = settings["seed"]
    torch.manual_seed(seed)
    model = verifier.SceneVerifier(settings["architecture"], settings["widths"]).to(device, memory_format=torch.channels_last)
    worlds = [training.Pictures(Path("data"), name) for name in ("tabletop", "portrait")]
    known: dict[tuple[str, int], dict[str, int]] = {}

    def step(number: int) -> Tensor:
        if number % 200 == 0:
            for world in worlds:
                world.refresh()
        rng, generator = random.Random(f"{arguments.which} {number}"), torch.Generator().manual_seed(number + 7919 * seed)
        pictures, rows = [], []
        filled = [world for world in worlds if len(world)]
        for place in range(48):
            world = filled[-1] if place % 3 == 0 else filled[0]
            mine = [i for i, n in enumerate(world.numbers) if n % 2 == settings["shards"]] or [0]
            index = rng.choice(mine) * data.PER_SHARD + rng.randrange(data.PER_SHARD)
            scene_seed = world.seed(index)
            if (world.name, scene_seed) not in known:
                known[world.name, scene_seed] = labels(data.world(world.name).sample(scene_seed))
            pictures.append(world.picture(index))
            rows.append(known[world.name, scene_seed])
        image = worn(torch.from_numpy(numpy.stack(pictures)).float() / 255, generator).to(device)
        wanted = {head: target.to(device) for head, target in stacked(rows).items()}
        with training.autocast(device):
            logits = model(image.contiguous(memory_format=torch.channels_last))
        return loss_of(logits, wanted)

    def report(average: torch.nn.Module) -> str:
        return json.dumps(accuracy(average, 150))

    checkpoint = RUNS / f"verifier-{arguments.which}.pt"
    model, facts = training.train(
        model, step, arguments.minutes, checkpoint, 2e-3, seed, report=report, report_every=600, weight_decay=0.02
    )
    model = model.cpu().half()
    folder = HERE / arguments.which
    model.save_pretrained(folder)
    facts |= {"held_out_renders": 2 * arguments.held_out, "accuracy": accuracy(model.float(), arguments.held_out)}
    training.write_manifest(folder, {"training": facts})
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
