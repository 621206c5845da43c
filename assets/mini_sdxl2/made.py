"""What the UNet makes: latents for the decoder to be taught on, because they are not those of the encoder.

    python -m assets.mini_sdxl2.made --pairs 1000 --drawn 400

A *pair* is the latent of a picture that was noised up to a random level and denoised again by the UNet with the picture's own caption:
it still shows that picture, as the UNet would have it. *Drawn* are latents from noise alone, which show no picture that there is.
Both are kept in ``data/runs2/made-<world>.pt`` and go on where they stopped.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from assets.mini_sdxl2 import data, train
from assets.mini_sdxl2.autoencoder import RUNS, WORLDS
from assets.mini_sdxl2.evaluate import open_pipeline
from pipelines import golden_noise
from pipelines.models import sdxl

BATCH = 10
STEPS = sdxl.MINI.steps
LEAST, MOST = 4, 14
"""Of the steps, how many the UNet takes over a pair: with more of them the picture becomes another one."""


def path(world: str) -> Path:
    return RUNS / f"made-{world}.pt"


@torch.inference_mode()
def denoised(pipe, clean: Tensor | None, captions: list[str], steps: int, seed: int) -> Tensor:
    """Scaled latents (B, 16, 16, 16), float16, from ``clean`` ones noised to where ``steps`` steps are left, or from noise."""
    embeds, negative, pooled, negative_pooled = golden_noise.GoldenNoise(pipe, None).embed(captions)
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    noise = torch.randn((len(captions), channels, side, side), generator=torch.Generator().manual_seed(seed))
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps[STEPS - steps :]
    latents = noise if clean is None else scheduler.add_noise(clean, noise, timesteps[:1])
    size = float(side * pipe.vae_scale_factor)
    ids = torch.tensor([size, size, 0.0, 0.0, size, size]).expand(2 * len(captions), -1)
    added = {"text_embeds": torch.cat((negative_pooled, pooled)), "time_ids": ids}
    for timestep in timesteps:
        both = torch.cat((latents, latents)), timestep, torch.cat((negative, embeds))
        predicted = pipe.unet(*both, added_cond_kwargs=added).sample
        without, with_prompt = predicted.chunk(2)
        velocity = without + sdxl.MINI.guidance * (with_prompt - without)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents.half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="of each world")
    parser.add_argument("--drawn", type=int, default=400, help="of each world")
    parser.add_argument("--world", choices=(*WORLDS, "both"), default="both")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = open_pipeline()
    latents = train.Latents(train.load_autoencoder())
    latents.refresh()
    for world in WORLDS if arguments.world == "both" else (arguments.world,):
        kept = {"pairs": [], "drawn": []}
        if path(world).exists():
            kept = torch.load(path(world), weights_only=True)
        while (done := len(kept["pairs"]) * BATCH) < arguments.pairs or len(kept["drawn"]) * BATCH < arguments.drawn:
            of_pairs = done < arguments.pairs and (
                len(kept["drawn"]) * BATCH >= arguments.drawn
                or done * arguments.drawn <= len(kept["drawn"]) * BATCH * arguments.pairs
            )
            kind = "pairs" if of_pairs else "drawn"
            seed = 880_000_000 + 100_000 * WORLDS.index(world) + 50_000 * of_pairs + len(kept[kind])
            rng = random.Random(seed)
            rows = [latents.draw_at(world, rng) for _ in range(BATCH)]
            steps = rng.randint(LEAST, MOST) if of_pairs else STEPS
            clean = torch.stack([row[0] for row in rows]) if of_pairs else None
            found = denoised(pipe, clean, [row[1] for row in rows], steps, seed)
            kept[kind].append({"latents": found, "places": [row[2] for row in rows]})
            if len(kept[kind]) % 10 == 0:
                torch.save(kept, path(world))
        torch.save(kept, path(world))
        print(path(world), data.WORLDS[world].__name__, flush=True)


if __name__ == "__main__":
    main()
