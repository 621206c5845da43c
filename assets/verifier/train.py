"""Train the two scene verifiers on renders: the reward and, apart from it, the judge.

    python -m assets.verifier.train reward --minutes 14
    python -m assets.verifier.train judge  --minutes 14

``reward`` is a ResNet with seed 11, ``judge`` a RegNet with seed 23. Pictures are mirrored (and so are their labels),
shifted, blurred, brightened and made grainy at random, because drawn pictures are never as crisp as renders. Resumes after a kill; writes float16 weights and the accuracy per attribute on held-out renders.
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

from assets.lab import shards as data
from assets.lab import training
from pipelines.models import verifier
from pipelines.worlds import portrait, tabletop

HERE = Path(__file__).parent
RUNS = Path("data/runs")
SETTINGS = {
    "reward": {"architecture": "resnet", "widths": (32, 64, 96, 128), "seed": 11},
    "judge": {"architecture": "regnet", "widths": (32, 64, 96, 144), "seed": 23},
}
HELD_OUT_SEED = 500_000


def labels(scene) -> dict[str, int]:
    """Head -> index of the right answer; heads that do not apply are left out."""
    if isinstance(scene, portrait.Portrait):
        facts = {"world": "portrait", **portrait.attributes(scene)}
    else:
        seen = tabletop.attributes(scene)
        facts = {
            "world": "tabletop",
            "count": str(len(seen["things"])),
            "floor": seen["floor"],
            "backdrop": seen["backdrop"],
        }
        for slot, thing in enumerate(seen["things"]):
            facts |= {f"{slot} shape": thing.shape, f"{slot} colour": thing.colour}
            facts |= {f"{slot} finish": thing.finish} if thing.finish else {}
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


def worn(image: Tensor, generator: torch.Generator, grain: Tensor) -> Tensor:
    """Shift by a few pixels, blur, exposure and grain at random; ``grain`` is a bank of noise pictures."""
    down, left = (int(x) for x in torch.randint(-6, 7, (2,), generator=generator))
    image = F.pad(image, (6, 6, 6, 6), mode="replicate")[..., 6 + down :, 6 + left :][..., : data.SIZE, : data.SIZE]
    draw = torch.rand(4, len(image), 1, 1, 1, generator=generator)
    if draw[0, 0] < 0.4:
        image = image.lerp(F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1), draw[1])
    rows = torch.randint(len(grain), (len(image),), generator=generator)
    return image * (0.9 + 0.2 * draw[2]) + (draw[3] - 0.5) * 0.08 + 0.04 * draw[1].flip(0) * grain[rows]


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
    parser.add_argument("--minutes", type=float, required=True, help="of training in all, over every start")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--held-out", type=int, default=1000)
    arguments = parser.parse_args()
    settings, device = SETTINGS[arguments.which], arguments.device
    seed = settings["seed"]
    torch.manual_seed(seed)
    model = verifier.SceneVerifier(settings["architecture"], settings["widths"]).to(
        device, memory_format=torch.channels_last
    )
    worlds = [training.Pictures(Path("data"), name) for name in ("tabletop", "portrait")]
    known: dict[tuple[str, int, bool], dict[str, int]] = {}
    grain = torch.randn(64, 3, data.SIZE, data.SIZE, generator=torch.Generator().manual_seed(seed))

    def step(number: int) -> Tensor:
        if training.turn(number) % 200 == 0:
            for world in worlds:
                world.refresh()
        rng, generator = (
            random.Random(f"{arguments.which} {number}"),
            torch.Generator().manual_seed(number + 7919 * seed),
        )
        pictures, rows = [], []
        filled = [world for world in worlds if len(world)]
        for place in range(48):
            world = filled[-1] if place % 3 == 0 else filled[0]
            index, mirror = rng.randrange(len(world)), rng.random() < 0.5
            key = world.name, world.seed(index), mirror
            if key not in known:
                scene = data.world(world.name).sample(key[1])
                known[key] = labels(scene.mirrored() if mirror and world.name == "tabletop" else scene)
            picture = world.picture(index)
            pictures.append(picture[..., ::-1] if mirror else picture)
            rows.append(known[key])
        image = worn(torch.from_numpy(numpy.stack(pictures)).float() / 255, generator, grain).to(device)
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
