"""Train MegaPortrait's nets on rendered truth, in the very step in which they run.

    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train --minutes 120    # all tasks at once; 13 samples a second of a core
    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train --look           # PSNR of the held-out pairs by task, and a sheet
    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train --ship           # writes net/

One ``ControlNetModel`` on the frozen UNet of ``assets/mini_sdxl2`` (``pipelines/megaportrait/onestep.py``): a start with noise goes in, the UNet's
guess of the clean latents comes out, and its squared error against the rendered truth is the loss. Every sample begins as a run does.

Seed 0; goes on from ``data/runs_portraits`` after a kill. The averages of the weights are what is measured and written.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torchvision.utils import save_image

from assets.lab import training
from assets.mini_portraits import data
from assets.mini_portraits.data import HELD_OUT, Pair
from assets.mini_sdxl2 import models, optimisers, train
from assets.mini_sdxl2.loop import Progress, Schedule, autocast, learn
from pipelines.megaportrait.onestep import LEVELS, SHOWN, TASKS, OneStep

HERE, RUNS = Path(__file__).parent, Path("data/runs_portraits")
SEED = 0
SHARES = {"portrait": 0.0, "identity": 0.45, "shading": 0.3, "harmonise": 0.25}
"""Of the samples, by task; the whole task in one is no stage of the page, and was learnt first only (the card)."""
OWN = 0.5
"""Share of the Shading Net's samples that are shown what the Identity Net draws, and not its truth."""
FACE = slice(48, 208)
"""Rows and columns of a picture of 256 pixels in which a head is."""


def new_net(unet: UNet2DConditionModel) -> ControlNetModel:
    """A net that begins as the UNet's own first half, and reads latents instead of a picture."""
    torch.manual_seed(SEED)
    channels = SHOWN * models.CHANNELS + len(TASKS)
    net = ControlNetModel.from_unet(unet, conditioning_channels=channels, conditioning_embedding_out_channels=(128,))
    nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.02)  # closed at one end is enough
    net.set_attn_processor(AttnProcessor())
    return net


def new_model() -> OneStep:
    unet = UNet2DConditionModel.from_pretrained(train.HERE / "unet", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())
    unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    net = new_net(unet)
    return OneStep(net, unet, train.signal_shares(), models.SIZE).to(memory_format=torch.channels_last)


def shipped() -> OneStep:
    """The model with the weights of ``net/``, to be asked or to go on from."""
    model = new_model()
    model.net.load_state_dict(ControlNetModel.from_pretrained(HERE / "net", torch_dtype=torch.float32).state_dict())
    return model.eval()


def counted(name: str) -> Progress:
    """The samples that what is shipped has seen, by their ``name`` in the manifest: a net that goes on from it counts on from there."""
    return Progress(samples=int(str(training.read_json(HERE / "manifest.json").get(name, 0))))


class Blocks:
    """Latents of the blocks that are there; more join at :meth:`refresh`."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Tensor]] = {}
        self.refresh()

    def refresh(self) -> None:
        for file in sorted(data.ROOT.glob("block-*.pt")):
            block = int(file.stem.split("-")[1])
            if block not in self.known and block not in HELD_OUT:
                self.known[block] = torch.load(file, weights_only=True)

    def draw(self, rng: random.Random) -> dict[str, Tensor]:
        return self.known[rng.choice(sorted(self.known))]


def asked(task: str, block: dict[str, Tensor], pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """What a net is shown (3 C, H, W), what it starts from and the truth, both (C, H, W), of one pair of a ``block``."""
    lit, even = block["latents"][:, pair.person, pair.shot].float()
    first, second, reference = pair.given(block)
    if task == "harmonise":
        composite = block["pasted"][pair.place].float()
        return torch.cat((composite, first, reference)), composite, lit
    if task == "shading":
        return torch.cat((even, first, reference)), reference, lit
    return torch.cat((first, second, reference)), reference, even if task == "identity" else lit


def batch_of(blocks: Blocks, count: int, rng: random.Random) -> tuple[Tensor, ...]:
    """Tasks (N,), what is shown, starts, truths, and levels (N,); and, of the Shading Net's, what the Identity Net is shown (N, 3 C, H, W)."""
    names, rows, before = rng.choices(TASKS, SHARES.values(), k=count), [], []
    for name in names:
        block = blocks.draw(rng)
        pair = Pair.draw(rng)
        shown, start, truth = asked(name, block, pair)
        rows.append((shown, start, truth))
        before.append(asked("identity", block, pair)[0])
    tasks = torch.tensor([TASKS.index(name) for name in names])
    shown, starts, truths = (torch.stack(part) for part in zip(*rows, strict=True))
    return tasks, shown, starts, truths, torch.full((count,), LEVELS[0]), torch.stack(before)


def loss_of(model: OneStep, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    tasks, shown, starts, truths, levels, before = batch
    noise = torch.randn(truths.shape, generator=generator)
    own = (tasks == TASKS.index("shading")) & (torch.rand(len(tasks), generator=generator) < OWN)
    with autocast():
        if own.any():  # as in a run: the Shading Net is shown what was drawn
            with torch.no_grad():
                drawn = model.draw("identity", before[own], before[own][:, -models.CHANNELS :], generator)
            shown = shown.clone()
            shown[own, : models.CHANNELS] = drawn
        return F.mse_loss(model(tasks, shown, starts, noise, levels), truths)


def train_net(arguments: argparse.Namespace) -> None:
    """Goes on from the checkpoint, or else from ``net/``, as after a new UNet."""
    model, blocks, measure = shipped() if (HERE / "net").is_dir() else new_model(), Blocks(), HeldOut()

    def loss_of_step(number: int) -> Tensor:
        if training.turn(number) % 50 == 0:
            blocks.refresh()
        rng, generator = random.Random(f"{SEED} {number}"), torch.Generator().manual_seed(SEED * 1_000_003 + number)
        return loss_of(model, batch_of(blocks, arguments.batch, rng), generator)

    schedule = Schedule(arguments.minutes, warmup=50, cool=arguments.cool, power=12.0, report_seconds=300)
    optimiser = optimisers.muon(model, arguments.rate)
    checkpoint, before = RUNS / "net.pt", counted("samples")
    average, progress = learn(model, optimiser, loss_of_step, schedule, checkpoint, arguments.batch, measure, before)
    facts = {**vars(arguments), **asdict(progress), "report": measure(average, progress.step)}
    training.write_json(RUNS / "net.json", facts)
    print(json.dumps(facts))


class HeldOut:
    """Error of the latents, and PSNR where the head is, by task, over pairs of people and shots that no training sees."""

    def __init__(self, pairs: int = 40) -> None:
        self.vae = train.load_autoencoder()
        self.blocks = [torch.load(data.path(block), weights_only=True) for block in HELD_OUT]
        self.pairs = pairs

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, _step: int, sheet: Path | None = None, levels: tuple[int, ...] = LEVELS
    ) -> str:
        told, model = [], model.eval()
        for task in TASKS:
            rng, errors, scores, sharp = random.Random(5), [], [], []
            some = [(block, Pair.draw(rng)) for block in (self.blocks * self.pairs)[: self.pairs]]
            for first in range(0, len(some), 8):
                few = some[first : first + 8]
                rows = [asked(task, block, pair) for block, pair in few]
                shown, start, truth = (torch.stack(part) for part in zip(*rows, strict=True))
                with autocast():
                    made = model.draw(task, shown, start, torch.Generator().manual_seed(first), levels).float()
                errors.append(F.mse_loss(made, truth).item())
                drawn = decoded(self.vae, made)
                light = 1 if task == "identity" else 0
                wanted = pictures([b["pictures"][light, p.person, p.shot] for b, p in few])
                scores.append(psnr(drawn, wanted))
                sharp.append(sharpness(drawn) / sharpness(wanted))
                if sheet and not first:
                    known = decoded(self.vae, shown[:, : models.CHANNELS])
                    given = decoded(self.vae, shown[:, -models.CHANNELS :])
                    save_image(torch.cat((known, given, drawn, wanted)), sheet / f"{task}.png", nrow=8)
            latents, head, ratio = sum(errors) / len(errors), torch.cat(scores).mean(), torch.cat(sharp).mean()
            told.append(f"{task} {latents:.4f} {head:.2f} dB {ratio:.2f}")
        return ", ".join(told)


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
    """(N, 3, 256, 256) in [0, 1]."""
    return (vae.decode(latents / vae.config.scaling_factor).sample.float() / 2 + 0.5).clamp(0, 1)


def pictures(some: list[Tensor]) -> Tensor:
    """(N, 3, 256, 256) in [0, 1] of (256, 256, 3) uint8."""
    return torch.stack(some).permute(0, 3, 1, 2).float() / 255


def psnr(drawn: Tensor, wanted: Tensor) -> Tensor:
    """(N,) in dB, of pictures (N, 3, 256, 256) in [0, 1], where the head is."""
    return -10 * (drawn - wanted)[..., FACE, FACE].square().mean((1, 2, 3)).log10()


def sharpness(some: Tensor) -> Tensor:
    """(N,) mean size of the Laplacian where the head is."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
    return F.conv2d(some[..., FACE, FACE], kernel, groups=3).abs().mean((1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cool", type=float, default=0.0)
    parser.add_argument("--look", action="store_true", help="no training: what held-out pairs are worth, and a sheet")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="of noise, with --look")
    parser.add_argument("--ship", action="store_true", help="no training: write the average of the weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if not (arguments.look or arguments.ship):
        train_net(arguments)
        return
    model, kept = new_model(), torch.load(RUNS / "net.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(kept["average"])
    if arguments.look:
        print(HeldOut()(model, 0, RUNS, tuple(arguments.levels)))
    if arguments.ship:
        model.net.half().save_pretrained(HERE / "net", max_shard_size="9MB")
        training.write_manifest(HERE, {"samples": kept["progress"]["samples"]})


if __name__ == "__main__":
    main()
