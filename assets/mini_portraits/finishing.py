"""Teach MegaPortrait's last net: what the drawing nets leave soft, drawn at full size from the person's own pictures.

    export OMP_NUM_THREADS=1 PYTHONPATH=.
    python -m assets.mini_portraits.finishing data --blocks 300:400       # of people that the drawing nets have not seen; 20 s a block
    python -m assets.mini_portraits.finishing train --minutes 60
    python -m assets.mini_portraits.finishing look                        # PSNR and sharpness of held-out pairs before and after, and a sheet
    python -m assets.mini_portraits.finishing ship                        # writes finish/

A block is as in ``data.py``, in pixels: five people in five shots, two of the person's pictures laid over each of two references, and what the nets draw there:
the Shading Net of what the Identity Net drew, and the Harmonization Net of a paste with its faults. All are to become the rendered truth. The losses
are those of the autoencoder's decoder: differences of pixels, of edges and of what verifier and face parser see, and a critic of patches that does
not know which half is drawn. Seed 0; goes on after a kill.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor
from torchvision.utils import save_image

from assets.lab import training
from assets.mini_portraits import data, train
from assets.mini_portraits.data import EACH, HELD_OUT, PASTED
from assets.mini_sdxl2 import models, optimisers
from assets.mini_sdxl2.autoencoder import Discriminator, Perceptual, against, edges_loss
from assets.mini_sdxl2.loop import Schedule, autocast, learn
from assets.mini_sdxl2.train import Latents
from pipelines.megaportrait.finish import CELL, SHOWN, Finish
from pipelines.megaportrait.onestep import OneStep

HERE, RUNS, ROOT = Path(__file__).parent, Path("data/runs_portraits"), Path("data/portraits-finish")
SEED = 0
CROP = 128
CRITIC = 0.1
"""Weight of the critic's loss."""
DRAWN = {"shading": 3, "harmonise": 1}
"""What is finished, and its part in the samples: a face that is asked for is the Shading Net's, the Harmonization Net's is the ring around it."""
LAST = "harmonise"
"""What is written last: with it a block is whole."""


def new_net() -> UNet2DModel:
    torch.manual_seed(SEED)
    net = UNet2DModel(
        in_channels=SHOWN * 3 * CELL**2,
        out_channels=3 * CELL**2,
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    torch.nn.init.zeros_(net.conv_out.weight)  # it begins by changing nothing
    torch.nn.init.zeros_(net.conv_out.bias)
    return net


# ---------------------------------------------------------------------------------------------- data


def path(block: int, name: str) -> Path:
    return ROOT / f"{name}-{block:06d}.npy"


def drawn(model: OneStep, latents: Latents, decode, block: int, pictures, composites, over) -> dict[str, numpy.ndarray]:
    """Task -> (5, 5, 2, 256, 256, 3): what the nets draw of each person in each shot in the place of each other."""
    into = data.others(block)
    known, pasted, lit = (data.encoded(latents, some).float() for some in (over, composites, pictures))
    made: dict[str, list[numpy.ndarray]] = {name: [] for name in DRAWN}
    for p, s in numpy.ndindex(EACH, EACH):
        first, second = known[p, s].unbind(1)
        reference = lit[into[p, s], s]
        seed = torch.Generator().manual_seed(1000 * block + EACH * int(p) + int(s))
        with torch.no_grad(), autocast():
            even = model.draw("identity", torch.cat((first, second, reference), 1), reference, seed)
            shaded = model.draw("shading", torch.cat((even.float(), first, reference), 1), reference, seed)
            melted = model.draw("harmonise", torch.cat((pasted[p, s], first, reference), 1), pasted[p, s], seed)
            for name, one in zip(DRAWN, (shaded, melted), strict=True):
                pixels = (decode(one.float()) * 255).round().to(torch.uint8)
                made[name].append(pixels.permute(0, 2, 3, 1).numpy())
    return {name: numpy.stack(some).reshape(over.shape[:3] + over.shape[4:]) for name, some in made.items()}


def make(block: int, model: OneStep, latents: Latents, decode) -> None:
    """Write a block, unless it is there."""
    if path(block, LAST).exists():
        return
    ROOT.mkdir(parents=True, exist_ok=True)
    both, heads = data.render(block)
    pictures = both[0]
    over = data.laid(block, pictures)
    made = drawn(model, latents, decode, block, pictures, data.pastes(block, both, heads), over)
    for name, some in {"pictures": pictures, "heads": heads, "laid": over, **made}.items():
        scratch = path(block, name).with_suffix(f".{os.getpid()}.npy")
        numpy.save(scratch, some)
        scratch.rename(path(block, name))


def make_all(first: int, end: int) -> None:
    model = train.new_model()
    model.load_state_dict(torch.load(RUNS / "net.pt", map_location="cpu", weights_only=True)["average"])
    measure = train.HeldOut()
    latents = Latents(measure.vae)
    for block in (*HELD_OUT, *range(first, end)):
        make(block, model.eval(), latents, measure.decoded)
        if block % 10 == 0:
            print(block, flush=True)


class Blocks:
    """The blocks that are there, read through the page cache; more join at :meth:`refresh`."""

    def __init__(self, held_out: bool = False) -> None:
        self.held_out, self.known = held_out, {}
        self.refresh()

    def refresh(self) -> None:
        for file in sorted(ROOT.glob(f"{LAST}-??????.npy")):
            block = int(file.stem.split("-")[1])
            if block not in self.known and (block in HELD_OUT) is self.held_out:
                names = ("pictures", "heads", "laid", *DRAWN)
                self.known[block] = {name: numpy.load(path(block, name), mmap_mode="r") for name in names}
                self.known[block]["others"] = data.others(block)

    def pair(self, rng: random.Random, block: int | None = None) -> tuple[list[numpy.ndarray], numpy.ndarray]:
        """What is shown and the truth, (256, 256, 3), and where the head is, (256, 256), as the last."""
        rows = self.known[rng.choice(sorted(self.known)) if block is None else block]
        p, s, r, name = (
            rng.randrange(EACH),
            rng.randrange(EACH),
            rng.randrange(PASTED),
            rng.choices([*DRAWN], DRAWN.values())[0],
        )
        first, second = rows["laid"][p, s, r]
        if rng.random() < 0.5:
            first, second = second, first
        if rng.random() < data.ALONE:
            second = first
        shown = [
            rows[name][p, s, r],
            first,
            second,
            rows["pictures"][rows["others"][p, s, r], s],
            rows["pictures"][p, s],
        ]
        return shown, rows["heads"][p, s]


def batch_of(blocks: Blocks, count: int, rng: random.Random) -> list[Tensor]:
    """Four pictures that are shown, and the truth: (N, 3, CROP, CROP) in [-1, 1] around places of heads, half of them mirrored."""
    rows = []
    for _ in range(count):
        some, head = blocks.pair(rng)
        ys, xs = numpy.nonzero(head)
        place = rng.randrange(len(ys))
        top, left = (min(max(int(at) - CROP // 2, 0), models.SIZE - CROP) for at in (ys[place], xs[place]))
        flip = slice(None, None, -1 if rng.random() < 0.5 else None)
        rows.append([torch.from_numpy(one[top : top + CROP, left : left + CROP][:, flip].copy()) for one in some])
    stacked = (torch.stack(part).permute(0, 3, 1, 2).float() / 127.5 - 1 for part in zip(*rows, strict=True))
    return [one.contiguous(memory_format=torch.channels_last) for one in stacked]


# ------------------------------------------------------------------------------------------ training


def train_finish(arguments: argparse.Namespace) -> None:
    model = Finish(new_net()).to(memory_format=torch.channels_last)
    critic, beside = Discriminator().to(memory_format=torch.channels_last), RUNS / "finish-critic.pt"
    if beside.exists():
        critic.load_state_dict(torch.load(beside, weights_only=True))
    critic_optimiser = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    perceptual = Perceptual().to(memory_format=torch.channels_last)
    blocks, held_out = Blocks(), HeldOut()

    def loss_of_step(number: int) -> Tensor:
        if number % 50 == 0:
            blocks.refresh()
            torch.save(critic.state_dict(), beside)
        *shown, truth = batch_of(blocks, arguments.batch, random.Random(f"finish {SEED} {number}"))
        with autocast():
            made = model(shown)
            seen = perceptual(made, truth)
        fooled = against(critic, critic_optimiser, made, truth)
        loss = (made - truth).abs().mean() + F.mse_loss(made, truth) + edges_loss(made, truth) + 0.2 * seen
        return loss + arguments.critic * min(1.0, number / 500) * fooled

    schedule = Schedule(arguments.minutes, warmup=50, cool=arguments.cool, power=16, report_seconds=300)
    average, progress = learn(
        model,
        optimisers.muon(model, arguments.rate),
        loss_of_step,
        schedule,
        RUNS / "finish.pt",
        arguments.batch,
        held_out,
    )
    print(progress, held_out(average, progress.step))


class HeldOut:
    """PSNR where the head is, and sharpness, over pairs of people and shots that no training sees; beside them what was drawn."""

    def __init__(self, pairs: int = 24) -> None:
        self.blocks, self.pairs = Blocks(held_out=True), pairs

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, _step: int, sheet: Path | None = None) -> str:
        rng, rows = random.Random(7), []
        numbers = sorted(self.blocks.known)
        for number in range(self.pairs):
            some, _head = self.blocks.pair(rng, numbers[number % len(numbers)])
            rows.append([torch.from_numpy(one.copy()).permute(2, 0, 1).float() / 127.5 - 1 for one in some])
        *shown, truth = (torch.stack(part) for part in zip(*rows, strict=True))
        made = []
        for first in range(0, self.pairs, 4):
            with autocast():
                made.append(model([one[first : first + 4] for one in shown]).float())
        after, before, wanted = ((one / 2 + 0.5).clamp(0, 1) for one in (torch.cat(made), shown[0], truth))
        if sheet:
            save_image(
                torch.cat([one[:12] for one in (shown[1] / 2 + 0.5, shown[2] / 2 + 0.5, before, after, wanted)]),
                sheet,
                nrow=12,
            )
        told = []
        for name, one in (("drawn", before), ("finished", after)):
            ratio = (train.sharpness(one) / train.sharpness(wanted)).mean()
            told.append(f"{name} {train.psnr(one, wanted).mean():.2f} dB {ratio:.2f}")
        return ", ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("data", "train", "look", "ship"))
    parser.add_argument("--blocks", default="300:400", help="first:end")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cool", type=float, default=0.2)
    parser.add_argument("--critic", type=float, default=CRITIC)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "data":
        make_all(*(int(part) for part in arguments.blocks.split(":")))
        return
    if arguments.stage == "train":
        train_finish(arguments)
        return
    model, kept = Finish(new_net()), torch.load(RUNS / "finish.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(kept["average"])
    if arguments.stage == "look":
        print(HeldOut()(model.eval(), 0, RUNS / "finish.png"))
    else:
        model.net.half().save_pretrained(HERE / "finish")
        training.write_manifest(HERE, {"finish_samples": kept["progress"]["samples"]})


if __name__ == "__main__":
    main()
