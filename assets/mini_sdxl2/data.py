"""Render what the second generation learns from: pictures of 256 pixels and, of each, what the renderer knows.

    python -m assets.mini_sdxl2.data --shards 0:20

A shard holds 500 pictures (uint8, 3 x 256 x 256, ``.npy``) and beside it their truth maps (uint8, 12 x 16 x 16).
Picture i of shard s comes from seed ``1_000_000 + 500 s + i``: captions are drawn again from the seed and need no
storage, and a fresh machine makes the same shards again. Cubes are turned less than in the world's own scenes
(:func:`scene`). Shards that exist are skipped, and each is written to a
temporary name first: kill it and start it again, or give two processes two ranges.
Seeds below 1,000,000 are kept for examples, tests and evaluation; shard ``HELD_OUT`` has the seeds from 900,000 on.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from assets.mini_sdxl2 import fast
from pipelines.worlds import portrait, tabletop
from pipelines.worlds.portrait import clay

WORLDS = {"tabletop": tabletop, "portrait": portrait}
TRAINING_SEED = 1_000_000
PER_SHARD = 500
HELD_OUT = 9999
HELD_OUT_PICTURES = 100
SIZE = 256
CELLS = 16  # side of the truth maps, which is that of the latents
ROOT = Path("data")

TRUTHS = {
    "tabletop": ("nearness", "normal x", "normal y", "normal z", *tabletop.SHAPES, "shadow", "sky", "wall", "mirrored"),
    "portrait": ("nearness", "normal x", "normal y", "normal z", *portrait.MASKS, "shading"),
}
"""The twelve truth maps of each world. Normals are stored as (n + 1) / 2; the rest is a share of a cell, or in [0, 1]."""


def seeds(shard: int) -> range:
    """Seeds of the pictures in a shard."""
    if shard == HELD_OUT:
        return range(900_000, 900_000 + HELD_OUT_PICTURES)
    return range(TRAINING_SEED + PER_SHARD * shard, TRAINING_SEED + PER_SHARD * (shard + 1))


def scene(name: str, seed: int) -> tabletop.Scene | portrait.Portrait:
    """What training sees of a seed: the world's own scene, in three of four its cubes within 15 degrees of showing the camera an edge.

    No caption says how a cube is turned. Over all angles, what a small UNet expects of a cube is a drum, and it drew
    drums after 770,000 samples; over a third of them it is a cube. Without the fourth scene it cannot draw one face on.
    """
    drawn = WORLDS[name].sample(seed)
    if isinstance(drawn, portrait.Portrait) or seed % 4 == 0:
        return drawn
    edge = math.pi / 4  # the other solids are round: their turn is not seen
    return replace(drawn, solids=tuple(replace(s, turn=edge + (s.turn - edge) / 3) for s in drawn.solids))


def picture_path(name: str, shard: int, root: Path = ROOT) -> Path:
    return root / f"{name}-{SIZE}-{shard:04d}.npy"


def truth_path(name: str, shard: int, root: Path = ROOT) -> Path:
    return root / f"{name}-truth-{shard:04d}.npy"


def truth_maps(name: str, truth, scenes: Sequence) -> Tensor:
    """The maps of :data:`TRUTHS`, (B, 12, CELLS, CELLS) float in [0, 1], from a render with ``truth=True``."""
    if name == "portrait":
        near = torch.where(truth.valid, (8.6 - truth.depth) / 3.4, 0.0)
        masks = torch.stack([truth.masks[mask].float() for mask in portrait.MASKS], 1)
        maps = torch.cat((near, truth.normals / 2 + 0.5, masks, truth.shading / 1.2), 1)
    else:
        shapes = truth.depth.new_zeros(len(scenes), len(tabletop.SHAPES), *truth.depth.shape[2:])
        for row, scene in enumerate(scenes):
            for slot, solid in enumerate(scene.solids):
                shapes[row, tabletop.SHAPES.index(solid.shape)] += truth.instances[row, slot].float()
        sky = (truth.depth >= tabletop.FAR).float()
        wall = ((truth.normals[:, 2:] > 0.999) & ~truth.instances.any(1, keepdim=True)).float()
        shadow, mirrored = (mask.any(1, keepdim=True).float() for mask in (truth.shadows, truth.reflections))
        maps = torch.cat((4 / truth.depth, truth.normals / 2 + 0.5, shapes, shadow, sky, wall, mirrored), 1)
    return F.adaptive_avg_pool2d(maps.clamp(0, 1), CELLS)


def mirrored_maps(maps: Tensor) -> Tensor:
    """The truth maps (..., 12, CELLS, CELLS) in [0, 1] of the mirror image."""
    flipped = maps.flip(-1).clone()
    flipped[..., 1, :, :] = 1 - flipped[..., 1, :, :]  # a normal's x changes its sign
    return flipped


def to_bytes(values: Tensor) -> numpy.ndarray:
    """[0, 1] to uint8."""
    return (values * 255).round().to(torch.uint8).cpu().numpy()


def render(name: str, seeds: Sequence[int], device: str = "cpu") -> tuple[numpy.ndarray, numpy.ndarray]:
    """Pictures (N, 3, SIZE, SIZE) and truth maps (N, 12, CELLS, CELLS), both uint8; one at a time is best on a CPU."""
    scenes = [scene(name, seed) for seed in seeds]
    module = tabletop if name == "tabletop" else clay
    with fast.renderer() if device == "cpu" else contextlib.nullcontext():
        image = module.render(scenes, SIZE, device).image
    # What is known changes slowly between neighbours: a sixteenth of the rays suffices for means of cells.
    truth = module.render(scenes, SIZE // 4, device, supersample=1, truth=True)
    return to_bytes(image), to_bytes(truth_maps(name, truth, scenes))


def make_shard(name: str, shard: int, root: Path = ROOT, device: str = "cpu") -> None:
    """Write the pictures and truth maps of a shard, unless they are there."""
    if picture_path(name, shard, root).exists() and truth_path(name, shard, root).exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    every, batch = seeds(shard), 1 if device == "cpu" else 50
    parts = [render(name, every[first : first + batch], device) for first in range(0, len(every), batch)]
    pictures, maps = zip(*parts, strict=True)
    for path, rows in ((truth_path(name, shard, root), maps), (picture_path(name, shard, root), pictures)):
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            numpy.save(file, numpy.concatenate(rows))
        scratch.rename(path)
    print(picture_path(name, shard, root), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=(*WORLDS, "both"), default="both")
    parser.add_argument("--shards", default="0:20", help="first:end")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--device", default="cpu", help="on a GPU the public renderer draws in batches")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    first, end = (int(part) for part in arguments.shards.split(":"))
    for shard in range(first, end):
        for name in WORLDS if arguments.world == "both" else (arguments.world,):
            make_shard(name, shard, arguments.root, arguments.device)


if __name__ == "__main__":
    main()
