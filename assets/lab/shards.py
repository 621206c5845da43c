"""Render the training sets of the embedded models into shards, once.

    python -m assets.lab.shards --world tabletop --shards 0:24
    python -m assets.lab.shards --world portrait --shards 0:12

A shard holds 1,000 pictures (uint8, 3 x 128 x 128, as ``.npy``); picture i of shard s comes from seed
``1_000_000 + 1000 s + i``, so captions and truth are drawn again from the seed and need no storage.
Shards that exist are skipped and each is written to a temporary name first: kill it and start it again,
or give two processes two ranges. About 65 ms a picture on one CPU core; with ``--device cuda`` in batches.
Seeds below 1,000,000 are kept for examples, tests and evaluation.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy
import torch

from pipelines.worlds import portrait, tabletop

TRAINING_SEED = 1_000_000
PER_SHARD = 1000
SIZE = 128


def world(name: str):
    """The scene module called ``name``."""
    if name == "tabletop":
        return tabletop
    return portrait


def seeds(shard: int) -> range:
    """Seeds of the pictures in a shard."""
    return range(TRAINING_SEED + PER_SHARD * shard, TRAINING_SEED + PER_SHARD * (shard + 1))


def shard_path(root: Path, name: str, shard: int) -> Path:
    return root / f"{name}-{SIZE}-{shard:03d}.npy"


def render_shard(name: str, shard: int, device: str, batch: int) -> numpy.ndarray:
    """Pictures of one shard, (1000, 3, 128, 128) uint8."""
    scenes, module, pictures = [world(name).sample(seed) for seed in seeds(shard)], world(name), []
    for start in range(0, PER_SHARD, batch):
        image = module.render(scenes[start : start + batch], SIZE, device=device).image
        pictures.append((image * 255).round().to(torch.uint8).cpu().numpy())
    return numpy.concatenate(pictures)


def make_shards(
    asked: str, root: Path, path: Callable[[Path, int], Path], write: Callable[[BinaryIO, int], None]
) -> None:
    """Write the shards ``asked`` ("first:end") that do not exist yet, each to a temporary name first."""
    root.mkdir(parents=True, exist_ok=True)
    first, end = (int(part) for part in asked.split(":"))
    for shard in range(first, end):
        target = path(root, shard)
        if target.exists():
            continue
        scratch = target.with_suffix(f".{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            write(file, shard)
        scratch.rename(target)
        print(target, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("tabletop", "portrait"), required=True)
    parser.add_argument("--shards", default="0:24", help="first:end")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=0, help="0: 1 on CPU, 64 on CUDA")
    arguments = parser.parse_args()
    batch = arguments.batch or (1 if arguments.device == "cpu" else 64)
    make_shards(
        arguments.shards,
        arguments.root,
        lambda root, shard: shard_path(root, arguments.world, shard),
        lambda file, shard: numpy.save(file, render_shard(arguments.world, shard, arguments.device, batch)),
    )


if __name__ == "__main__":
    main()
