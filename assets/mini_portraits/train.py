"""Train MegaPortrait's nets on rendered truth, in the very step in which they run.

    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train parent --minutes 120        # anybody in anybody's place, as a whole
    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train identity --minutes 30       # each goes on from the parent
    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train shading --minutes 30
    OMP_NUM_THREADS=1 python -m assets.mini_portraits.train parent --look               # a sheet, and PSNR of the held-out pairs

Each net is a ``ControlNetModel`` on the frozen UNet of ``assets/mini_sdxl2``, drawn in one step: the reference's latents with noise up to
``LEVEL`` go in, the UNet's guess of the clean latents comes out, and its squared error against the rendered truth is the loss. What a net is
shown are latents of three pictures, side by side in its channels:

    parent     both pictures of the person, the reference                     -> the person in the reference's place
    identity   the same                                                       -> the same in plain light
    shading    what the Identity Net makes, one picture of the person, the reference -> the same in the reference's light

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
from assets.mini_sdxl2.loop import Schedule, autocast, learn
from pipelines.models.sdxl_tiny import POOLED, WIDTHS

RUNS = Path("data/runs_portraits")
SEED = 0
LEVEL = 600
"""Of the 1,000 levels of noise: a sixth of the signal is left."""
SHOWN = 3
"""Pictures that a net is shown."""
ROLES = ("parent", "identity", "shading")
FACE = slice(48, 208)
"""Rows and columns of a picture of 256 pixels in which a head is."""
EMPTY_PROMPT = 40
"""Tokens of the prompt that says nothing, which the nets are drawn with."""


def new_net(unet: UNet2DConditionModel) -> ControlNetModel:
    """A net that begins as the UNet's own first half, and reads latents instead of a picture."""
    torch.manual_seed(SEED)
    net = ControlNetModel.from_unet(
        unet, conditioning_channels=SHOWN * models.CHANNELS, conditioning_embedding_out_channels=(128,)
    )
    nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.02)  # closed at one end is enough
    net.set_attn_processor(AttnProcessor())
    return net


def frozen_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(train.HERE / "unet", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())
    return unet.eval().requires_grad_(False)


class OneStep(nn.Module):
    """A net and the frozen UNet, as one function of what is shown."""

    def __init__(self, net: ControlNetModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.net = net
        self._unet = [unet]  # not a part: it is neither trained nor averaged
        self.share = train.signal_shares()[LEVEL]

    def forward(self, shown: Tensor, reference: Tensor, noise: Tensor) -> Tensor:
        """Clean latents (B, C, H, W) from ``shown`` (B, 3 C, H, W), the ``reference`` and standard normal ``noise``, both (B, C, H, W)."""
        count, unet = len(reference), self._unet[0]
        noisy = self.share.sqrt() * reference + (1 - self.share).sqrt() * noise
        noisy, shown = (one.contiguous(memory_format=torch.channels_last) for one in (noisy, shown))
        size = float(models.SIZE)
        added = {
            "text_embeds": noisy.new_zeros(count, POOLED),
            "time_ids": noisy.new_tensor([size, size, 0.0, 0.0, size, size]).expand(count, -1),
        }
        told = (torch.full((count,), LEVEL, device=noisy.device), noisy.new_zeros(count, EMPTY_PROMPT, sum(WIDTHS)))
        with autocast(noisy.device.type):
            down, middle = self.net(noisy, *told, controlnet_cond=shown, added_cond_kwargs=added, return_dict=False)
            velocity = unet(
                noisy,
                *told,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample.float()
        return self.share.sqrt() * noisy - (1 - self.share).sqrt() * velocity


class Blocks:
    """Latents of the blocks that are there, (2, 5, 5, C, H, W) each; more join at :meth:`refresh`."""

    def __init__(self) -> None:
        self.known: dict[int, Tensor] = {}
        self.refresh()

    def refresh(self) -> None:
        for file in sorted(data.ROOT.glob("block-*.pt")):
            block = int(file.stem.split("-")[1])
            if block not in self.known and block not in HELD_OUT:
                self.known[block] = torch.load(file, weights_only=True)["latents"]

    def draw(self, rng: random.Random) -> tuple[Tensor, Pair]:
        return self.known[rng.choice(sorted(self.known))].float(), Pair.draw(rng)


def task(role: str, block: Tensor, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """What a net is shown (3 C, H, W), the reference and the truth, both (C, H, W), of one pair of a ``block`` (2, 5, 5, C, H, W).

    The Shading Net learns from the truth of the Identity Net and not from what that makes: it is shown its own light only."""
    lit, even = block
    first, second, reference = pair.given(lit)
    truth = (even if role == "identity" else lit)[pair.person, pair.shot]
    shown = (even[pair.person, pair.shot], first, reference) if role == "shading" else (first, second, reference)
    return torch.cat(shown), reference, truth


def start(role: str, unet: UNet2DConditionModel) -> OneStep:
    """The net as it was taught last, the parent, or a new one."""
    model = OneStep(new_net(unet), unet)
    parent = RUNS / "parent.pt"
    if role != "parent" and parent.exists():
        model.load_state_dict(torch.load(parent, weights_only=True)["average"])
    return model


def train_net(arguments: argparse.Namespace) -> None:
    unet = frozen_unet().to(memory_format=torch.channels_last)
    model = start(arguments.role, unet).to(memory_format=torch.channels_last)
    blocks = Blocks()
    measure = HeldOut(arguments.role)

    def loss_of_step(number: int) -> Tensor:
        if number % 50 == 0:
            blocks.refresh()
        rng = random.Random(f"{arguments.role} {SEED} {number}")
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        rows = [task(arguments.role, *blocks.draw(rng)) for _ in range(arguments.batch)]
        shown, reference, truth = (torch.stack(part) for part in zip(*rows, strict=True))
        return F.mse_loss(model(shown, reference, torch.randn(reference.shape, generator=generator)), truth)

    schedule = Schedule(arguments.minutes, warmup=50, cool=arguments.cool, power=12.0, report_seconds=300)
    optimiser = optimisers.muon(model, arguments.rate)
    average, progress = learn(
        model, optimiser, loss_of_step, schedule, RUNS / f"{arguments.role}.pt", arguments.batch, measure
    )
    facts = {**vars(arguments), **asdict(progress), "report": measure(average, progress.step)}
    training.write_json(RUNS / f"{arguments.role}.json", facts)
    print(json.dumps(facts))


class HeldOut:
    """Error of the latents, and PSNR where the head is, over pairs of people and shots that no training sees."""

    def __init__(self, role: str, pairs: int = 40) -> None:
        self.role, self.vae = role, train.load_autoencoder()
        rng = random.Random(5)
        blocks = [torch.load(data.path(block), weights_only=True) for block in HELD_OUT]
        self.pairs = [(blocks[n % len(blocks)], Pair.draw(rng)) for n in range(pairs)]

    @torch.no_grad()
    def __call__(self, model: nn.Module, _step: int, sheet: Path | None = None) -> str:
        errors, scores, before = [], [], []
        for first in range(0, len(self.pairs), 8):
            some = self.pairs[first : first + 8]
            rows = [task(self.role, block["latents"].float(), pair) for block, pair in some]
            shown, reference, truth = (torch.stack(part) for part in zip(*rows, strict=True))
            noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(first))
            made = model.eval()(shown, reference, noise)
            errors.append(F.mse_loss(made, truth).item())
            drawn = (self.vae.decode(made / self.vae.config.scaling_factor).sample.float() / 2 + 0.5).clamp(0, 1)
            light = 1 if self.role == "identity" else 0
            wanted = torch.stack([b["pictures"][light, p.person, p.shot] for b, p in some]).float() / 255
            given = torch.stack([b["pictures"][0, p.other, p.shot] for b, p in some]).float() / 255
            known = torch.stack([b["pictures"][0, p.person, p.known[0]] for b, p in some]).float() / 255
            scores.append(psnr(drawn, wanted))
            before.append(psnr(given, wanted))
            if sheet and not first:
                save_image(torch.cat((known, given, drawn, wanted)), sheet, nrow=8)
        return (
            f"latents {sum(errors) / len(errors):.4f}, head {torch.cat(scores).mean():.2f} dB "
            f"(the reference itself {torch.cat(before).mean():.2f})"
        )


def psnr(drawn: Tensor, wanted: Tensor) -> Tensor:
    """(N,) in dB, of pictures (N, 3, 256, 256) in [0, 1], where the head is."""
    return -10 * (drawn - wanted)[..., FACE, FACE].square().mean((1, 2, 3)).log10()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cool", type=float, default=0.0)
    parser.add_argument(
        "--look", action="store_true", help="no training: a sheet of held-out pairs, and what they are worth"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.look:
        model = OneStep(new_net(unet := frozen_unet()), unet)
        model.load_state_dict(torch.load(RUNS / f"{arguments.role}.pt", weights_only=True)["average"])
        print(HeldOut(arguments.role)(model, 0, RUNS / f"{arguments.role}.png"))
    else:
        train_net(arguments)


if __name__ == "__main__":
    main()
