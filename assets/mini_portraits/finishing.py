"""Teach MegaPortrait's last net: what the drawing nets leave soft, drawn at full size from the person's own pictures.

    export OMP_NUM_THREADS=1 PYTHONPATH=.
    python -m assets.mini_portraits.finishing data --blocks 300:400       # of people that the drawing nets have not seen; 19 s a block
    python -m assets.mini_portraits.aligning train                        # the net that lays pictures over what was drawn: see there
    python -m assets.mini_portraits.finishing lay --blocks 300:400        # the person's pictures, laid by it
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor
from torchvision.utils import save_image

from assets.lab import training
from assets.mini_portraits import data, train
from assets.mini_portraits.data import EACH, HELD_OUT, KNOWN, PASTED
from assets.mini_sdxl2 import models, optimisers
from assets.mini_sdxl2.autoencoder import Discriminator, Perceptual, against, edges_loss
from assets.mini_sdxl2.loop import Schedule, autocast, learn
from assets.mini_sdxl2.train import Latents
from pipelines.megaportrait.align import Align
from pipelines.megaportrait.finish import CELL, SHOWN, Finish, load
from pipelines.megaportrait.onestep import OneStep
from pipelines.megaportrait.parts import TAUGHT

Taught = TypeVar("Taught", Finish, Align)
HERE, RUNS, ROOT = Path(__file__).parent, Path("data/runs_portraits"), Path("data/portraits-finish")
SEED = 0
CROP = 128
CRITIC = 0.1
"""Weight of the critic's loss."""
DRAWN = {"shading": 3, "harmonise": 1}
"""What is finished, and its part in the samples: a face that is asked for is the Shading Net's, the Harmonization Net's is the ring around it."""
LAID = {name: f"over-{name}" for name in DRAWN}
"""The person's pictures as the net of correspondence lays them over what was drawn."""
LAST = "harmonise"
"""What is written last: with it a block is whole."""
NAMES = ("pictures", "heads", "laid", "shifts", *DRAWN, *LAID.values())
"""Of what a block may have."""


def net_of_pixels(given: int, made: int, widths: tuple[int, ...]) -> UNet2DModel:
    """A net without attention, of ``given`` channels in and ``made`` out, that begins by saying 0."""
    torch.manual_seed(SEED)
    net = UNet2DModel(
        in_channels=given,
        out_channels=made,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    torch.nn.init.zeros_(net.conv_out.weight)
    torch.nn.init.zeros_(net.conv_out.bias)
    return net


def new_net() -> UNet2DModel:
    return net_of_pixels(SHOWN * 3 * CELL**2, 3 * CELL**2, (32, 64, 96, 128))


def going_on(name: str, model: Taught) -> Taught:
    """``model``, to be taught, with the weights that are shipped in the folder ``name``, if there are any."""
    if (HERE / name).is_dir():
        model.net.load_state_dict(load(TAUGHT[name]).state_dict())
    return model.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------- data


def path(block: int, name: str) -> Path:
    return ROOT / f"{name}-{block:06d}.npy"


def drawn(model: OneStep, latents: Latents, block: int, pictures, composites, over) -> dict[str, numpy.ndarray]:
    """Task -> (5, 5, 2, 256, 256, 3): what the nets draw of each person in each shot in the place of each other."""
    into = data.others(block)
    known, pasted, lit = (data.encoded(latents, some).float() for some in (over, composites, pictures))
    made: dict[str, list[numpy.ndarray]] = {name: [] for name in DRAWN}
    for p in range(EACH):
        first, second = known[p].flatten(0, 1).unbind(1)
        reference = lit[into[p], numpy.arange(EACH)[:, None]].flatten(0, 1)
        composite = pasted[p].flatten(0, 1)
        seed = torch.Generator().manual_seed(EACH * block + p)
        with torch.no_grad(), autocast():
            even = model.draw("identity", torch.cat((first, second, reference), 1), reference, seed)
            shaded = model.draw("shading", torch.cat((even.float(), first, reference), 1), reference, seed)
            melted = model.draw("harmonise", torch.cat((composite, first, reference), 1), composite, seed)
            for name, one in zip(DRAWN, (shaded, melted), strict=True):
                pixels = (train.decoded(latents.vae, one.float()) * 255).round().to(torch.uint8)
                made[name].append(pixels.permute(0, 2, 3, 1).numpy())
    return {name: numpy.stack(some).reshape(over.shape[:3] + over.shape[4:]) for name, some in made.items()}


def make(block: int, model: OneStep, latents: Latents) -> None:
    """Write a block, unless it is there."""
    if path(block, LAST).exists():
        return
    ROOT.mkdir(parents=True, exist_ok=True)
    (pictures,), heads, truths = data.render(block, plainly=False)
    over = data.laid(block, pictures)
    made = drawn(model, latents, block, pictures, data.pastes(block, pictures[None], heads), over)
    known = {"pictures": pictures, "heads": heads, "laid": over, "shifts": data.shifts(block, truths)}
    for name, some in {**known, **made}.items():
        write(block, name, some)


def write(block: int, name: str, some: numpy.ndarray) -> None:
    scratch = path(block, name).with_suffix(f".{os.getpid()}.npy")
    numpy.save(scratch, some)
    scratch.rename(path(block, name))


def make_all(first: int, end: int) -> None:
    model, latents = train.shipped(), Latents(train.train.load_autoencoder())
    for block in (*HELD_OUT, *range(first, end)):
        make(block, model, latents)
        if block % 10 == 0:
            print(block, flush=True)


def lay_all(first: int, end: int) -> None:
    """Lay the person's pictures over what was drawn, in every block that is there, as the page does."""
    model = Align(load(TAUGHT["align"])).to(memory_format=torch.channels_last)
    for block in (*HELD_OUT, *range(first, end)):
        if not path(block, LAST).exists() or path(block, LAID[LAST]).exists():
            continue
        pictures = numpy.load(path(block, "laid")).reshape(-1, KNOWN, models.SIZE, models.SIZE, 3)
        for task, name in LAID.items():
            soft, made = numpy.load(path(block, task)).reshape(-1, models.SIZE, models.SIZE, 3), []
            for drawn, known in zip(soft, pictures, strict=True):
                over, under = (
                    torch.from_numpy(one).permute(0, 3, 1, 2).float() / 127.5 - 1 for one in (known, drawn[None])
                )
                with torch.no_grad(), autocast():
                    laid = model.laid(under.expand_as(over), over).float()
                made.append(((laid + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
            write(block, name, numpy.stack(made).reshape(EACH, EACH, PASTED, KNOWN, *soft.shape[1:]))
        if block % 10 == 0:
            print(block, flush=True)


@dataclass(frozen=True)
class Some:
    """One of what the nets drew."""

    rows: Mapping[str, numpy.ndarray]
    """Of its block, by name."""
    task: str
    place: tuple[int, int, int]
    """Person, shot, reference."""


class Blocks:
    """The blocks that are there, read through the page cache; more join at :meth:`refresh`."""

    def __init__(self, held_out: bool = False, last: str = LAST) -> None:
        """``last``: what a block must have to count as there."""
        self.held_out, self.last, self.known = held_out, last, {}
        self.refresh()

    def refresh(self) -> None:
        for file in sorted(ROOT.glob(f"{self.last}-??????.npy")):
            block = int(file.stem.split("-")[-1])
            if block not in self.known and (block in HELD_OUT) is self.held_out:
                names = [one for one in NAMES if path(block, one).exists()]
                self.known[block] = {name: numpy.load(path(block, name), mmap_mode="r") for name in names}
                self.known[block]["others"] = data.others(block)

    def draw(self, rng: random.Random, block: int | None = None) -> Some:
        number = rng.choice(sorted(self.known)) if block is None else block
        place = rng.randrange(EACH), rng.randrange(EACH), rng.randrange(PASTED)
        return Some(self.known[number], rng.choices([*DRAWN], DRAWN.values())[0], place)

    def pair(self, rng: random.Random, block: int | None = None) -> tuple[list[numpy.ndarray], numpy.ndarray]:
        """What is shown and the truth, (256, 256, 3), and where the head is, (256, 256), as the last."""
        some = self.draw(rng, block)
        rows, (p, s, r) = some.rows, some.place
        first, second = rows[LAID[some.task]][p, s, r]
        if rng.random() < 0.5:
            first, second = second, first
        if rng.random() < data.ALONE:
            second = first
        reference = rows["pictures"][rows["others"][p, s, r], s]
        return [rows[some.task][p, s, r], first, second, reference, rows["pictures"][p, s]], rows["heads"][p, s]


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
    """Goes on from the checkpoint, or else from ``finish/``. Two processes have a critic each."""
    model = going_on("finish", Finish(new_net()))
    critic, beside = Discriminator().to(memory_format=torch.channels_last), RUNS / "finish-critic.pt"
    if beside.exists():
        critic.load_state_dict(torch.load(beside, weights_only=True))
    critic_optimiser = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    perceptual = Perceptual().to(memory_format=torch.channels_last)
    blocks, held_out = Blocks(last=LAID[LAST]), HeldOut()

    def loss_of_step(number: int) -> Tensor:
        if training.turn(number) % 50 == 0:
            blocks.refresh()
            if training.rank_and_size()[0] == 0:
                torch.save(critic.state_dict(), beside)
        *shown, truth = batch_of(blocks, arguments.batch, random.Random(f"finish {SEED} {number}"))
        with autocast():
            made = model(shown)
            seen = perceptual(made, truth)
        fooled = against(critic, critic_optimiser, made, truth)
        loss = (made - truth).abs().mean() + F.mse_loss(made, truth) + edges_loss(made, truth) + 0.2 * seen
        return loss + arguments.critic * min(1.0, number / 1000) * fooled

    schedule = Schedule(arguments.minutes, warmup=50, cool=arguments.cool, power=16, report_seconds=300)
    average, progress = learn(
        model,
        optimisers.muon(model, arguments.rate),
        loss_of_step,
        schedule,
        RUNS / "finish.pt",
        arguments.batch,
        held_out,
        train.counted("finish_samples"),
    )
    print(progress, held_out(average, progress.step))


class HeldOut:
    """PSNR where the head is, and sharpness, over pairs of people and shots that no training sees; beside them what was drawn."""

    def __init__(self, pairs: int = 24) -> None:
        self.blocks, self.pairs = Blocks(held_out=True, last=LAID[LAST]), pairs

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
    parser.add_argument("stage", choices=("data", "lay", "train", "look", "ship"))
    parser.add_argument("--blocks", default="300:400", help="first:end")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cool", type=float, default=0.2)
    parser.add_argument("--critic", type=float, default=CRITIC)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.stage in ("data", "lay"):
        {"data": make_all, "lay": lay_all}[arguments.stage](*(int(part) for part in arguments.blocks.split(":")))
        return
    if arguments.stage == "train":
        train_finish(arguments)
        return
    look_or_ship(arguments.stage, "finish", Finish(new_net()), HeldOut)


def look_or_ship(stage: str, name: str, model: Finish | Align, held_out: Callable[[], Callable[..., str]]) -> None:
    """Measure the average of the run ``name`` on what is held out, with a sheet; or write it into the folder of that name."""
    kept = torch.load(RUNS / f"{name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(kept["average"])
    if stage == "look":
        print(held_out()(model.eval(), 0, RUNS / f"{name}.png"))
    else:
        model.net.half().save_pretrained(HERE / name)
        training.write_manifest(HERE, {f"{name}_samples": kept["progress"]["samples"]})


if __name__ == "__main__":
    main()
