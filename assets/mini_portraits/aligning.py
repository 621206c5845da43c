"""Teach the net of correspondence: where a picture of a person shows what was drawn of them in another pose.

    export OMP_NUM_THREADS=1 PYTHONPATH=.
    python -m assets.mini_portraits.finishing data --blocks 300:400       # what is drawn, and where each place of it lies in the person's pictures
    python -m assets.mini_portraits.aligning train --minutes 30
    python -m assets.mini_portraits.aligning look                         # pixels by which held-out places are missed, and a sheet
    python -m assets.mini_portraits.aligning ship                         # writes align/

The renderer knows where a place of a head lies in any other shot and whether it is seen there (``pipelines.worlds.portrait.seen_in``), so that the
error is of the places themselves, in pixels. Seed 0; goes on after a kill.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor
from torchvision.utils import save_image

from assets.lab import training
from assets.mini_portraits import finishing, train
from assets.mini_portraits.data import KNOWN
from assets.mini_portraits.finishing import RUNS
from assets.mini_sdxl2 import optimisers
from assets.mini_sdxl2.loop import Schedule, autocast, learn
from pipelines.megaportrait.align import CELL, Align, moved

SEED = 0
NEAR = 1.5
"""Pixels by which a place that is found may be off."""


def new_net() -> UNet2DModel:
    return finishing.net_of_pixels(2 * 3 * CELL**2, 3, (64, 96, 128))


# ---------------------------------------------------------------------------------------------- data


def batch_of(blocks: finishing.Blocks, count: int, rng: random.Random, block: int | None = None) -> list[Tensor]:
    """What was drawn and a picture of the person, both (N, 3, 256, 256) in [-1, 1], and their shifts (N, 3, 32, 32); half of them mirrored."""
    rows = []
    for _ in range(count):
        some = blocks.draw(rng, block)
        place, which = some.place, rng.randrange(KNOWN)
        drawn, laid = some.rows[some.task][place], some.rows["laid"][place][which]
        shift = numpy.asarray(some.rows["shifts"][place][which], numpy.float32)
        if rng.random() < 0.5:
            drawn, laid, shift = drawn[:, ::-1], laid[:, ::-1], shift[:, ::-1] * (-1, 1, 1)
        rows.append(
            [torch.from_numpy(numpy.ascontiguousarray(one)).permute(2, 0, 1).float() for one in (drawn, laid, shift)]
        )
    drawn, laid, shift = (torch.stack(part) for part in zip(*rows, strict=True))
    return [drawn / 127.5 - 1, laid / 127.5 - 1, shift]


# ------------------------------------------------------------------------------------------ training


def loss_of(model: Align, batch: list[Tensor], passes: int) -> Tensor:
    """Of places (pixels, where they are seen) and of what is seen."""
    drawn, laid, wanted = batch
    with autocast():
        shift, seen = model(drawn, laid, passes)
    share = wanted[:, 2:]
    missed = ((shift - wanted[:, :2]).square().sum(1, keepdim=True) + 0.01).sqrt()
    return (share * missed).sum() / share.sum().clamp_min(1) + 2 * F.binary_cross_entropy_with_logits(seen, share)


def train_align(arguments: argparse.Namespace) -> None:
    """Goes on from the checkpoint, or else from ``align/``."""
    model, blocks, held_out = finishing.going_on("align", Align(new_net())), finishing.Blocks(), HeldOut()

    def loss_of_step(number: int) -> Tensor:
        if training.turn(number) % 50 == 0:
            blocks.refresh()
        rng = random.Random(f"align {SEED} {number}")
        return loss_of(model, batch_of(blocks, arguments.batch, rng), 1 + number % 2)

    schedule = Schedule(arguments.minutes, warmup=50, cool=arguments.cool, power=16, report_seconds=240)
    optimiser = optimisers.muon(model, arguments.rate)
    checkpoint, before = RUNS / "align.pt", train.counted("align_samples")
    average, progress = learn(model, optimiser, loss_of_step, schedule, checkpoint, arguments.batch, held_out, before)
    print(progress, held_out(average, progress.step))


class HeldOut:
    """By how many pixels seen places of people that no training sees are missed, as many times as the net has looked."""

    def __init__(self, pairs: int = 48) -> None:
        blocks, rng = finishing.Blocks(held_out=True), random.Random(11)
        numbers = sorted(blocks.known)
        some = [batch_of(blocks, 1, rng, numbers[n % len(numbers)]) for n in range(pairs)]
        self.batch = [torch.cat(part) for part in zip(*some, strict=True)]

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, _step: int, sheet: Path | None = None) -> str:
        drawn, laid, wanted = self.batch
        seen, told = wanted[:, 2] > 0.9, []
        for passes in (1, 2, 3):
            with autocast():
                shift, logit = model(drawn, laid, passes)
            missed = (shift - wanted[:, :2]).square().sum(1).sqrt()[seen]
            right = ((logit[:, 0] > 0) == (wanted[:, 2] > 0.5)).float().mean()
            near = (missed < NEAR).float().mean()
            told.append(f"{passes}: {missed.mean():.2f} px, {near:.2f} within {NEAR}, seen {right:.3f}")
            if sheet and passes == 2:
                few = slice(0, 12)
                rows = (laid[few], drawn[few], model.laid(drawn[few], laid[few]), moved(laid[few], wanted[few, :2]))
                save_image(torch.cat(rows) / 2 + 0.5, sheet, nrow=12)
        none = wanted[:, :2].square().sum(1).sqrt()[seen].mean()
        return f"unmoved {none:.2f} px; " + "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "look", "ship"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cool", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "train":
        train_align(arguments)
        return
    finishing.look_or_ship(arguments.stage, "align", Align(new_net()), HeldOut)


if __name__ == "__main__":
    main()
