"""Render people in each other's places: the truth of every portrait that a net may be asked for.

    OMP_NUM_THREADS=1 python -m assets.mini_portraits.data --blocks 0:300     # 5 s a block; may run beside training

A block is five people in five shots (pose, expression, light, clothes, background; framed a little differently each), each also in plain light: latents of 50 pictures. Of its
people and shots 400 pairs can be drawn, a person whose pictures are known and a reference of somebody else, and of each the truth
is there. Blocks that exist are skipped. People and shots of block b come from the seeds ``SEED + 10 b`` and the nine behind it; those of
``HELD_OUT`` blocks are seen by no training, and keep their pictures.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy
import torch
from torch import Tensor

from assets.mini_sdxl2 import data, fast, train
from pipelines.worlds import portrait
from pipelines.worlds.portrait import Portrait, Shot, clay

ROOT = Path("data/portraits")
SEED, HELD_OUT = 5_000_000, range(100_000, 100_008)
EACH = 5
"""People, and shots, of a block."""
ZOOM, SHIFT = 0.15, 0.06
"""How much larger or smaller (its logarithm) and how far off (in sides) a shot is framed than a render, at most."""
PLAIN = {"light_azimuth": 0.0, "light_elevation": 0.6, "light_colour": "neutral"}


def path(block: int, root: Path = ROOT) -> Path:
    return root / f"block-{block:06d}.pt"


def portraits(block: int) -> list[list[Portrait]]:
    """[person][shot] of a block."""
    drawn = [portrait.sample(SEED + 10 * block + n) for n in range(2 * EACH)]
    return [[replace(one, shot=other.shot) for other in drawn[EACH:]] for one in drawn[:EACH]]


def plain(shot: Shot) -> Shot:
    """The same shot in even light from the front."""
    return replace(shot, **PLAIN)


def framings(block: int) -> list[numpy.ndarray]:
    """For each shot of a block the affine map (2, 3) of its frame: a page cuts a square around a face that is never framed as a render is."""
    rng, middle, found = random.Random(f"framings of {block}"), (data.SIZE - 1) / 2, []
    for _ in range(EACH):
        scale = math.exp(rng.uniform(-ZOOM, ZOOM))
        across, down = (middle - scale * middle + data.SIZE * rng.uniform(-SHIFT, SHIFT) for _ in range(2))
        found.append(numpy.array([[scale, 0, across], [0, scale, down]]))
    return found


def render(block: int) -> numpy.ndarray:
    """(2, 5, 5, 3, 256, 256) uint8: as they are and in plain light, person, shot."""
    made, frames = [], framings(block)
    with fast.renderer():
        for rows in portraits(block), [[replace(one, shot=plain(one.shot)) for one in row] for row in portraits(block)]:
            for row in rows:
                for one, frame in zip(row, frames, strict=True):
                    picture = data.to_bytes(clay.render([one], data.SIZE).image)[0].transpose(1, 2, 0)
                    size, flags = (data.SIZE, data.SIZE), cv2.INTER_AREA if frame[0, 0] < 1 else cv2.INTER_CUBIC
                    made.append(cv2.warpAffine(picture, frame, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))
    return numpy.stack(made).transpose(0, 3, 1, 2).reshape(2, EACH, EACH, 3, data.SIZE, data.SIZE)


def make(block: int, latents: train.Latents, root: Path = ROOT) -> None:
    """Write a block, unless it is there and of this autoencoder."""
    if path(block, root).exists() and torch.load(path(block, root), weights_only=True)["mark"] == latents.mark:
        return
    root.mkdir(parents=True, exist_ok=True)
    pictures = render(block)
    encoded = latents.encode(pictures.reshape(-1, *pictures.shape[3:]))
    kept = {"mark": latents.mark, "latents": encoded.view(*pictures.shape[:3], *encoded.shape[1:])}
    if block in HELD_OUT:
        kept["pictures"] = torch.from_numpy(pictures)
    scratch = path(block, root).with_suffix(f".{os.getpid()}.tmp")
    torch.save(kept, scratch)
    scratch.rename(path(block, root))


@dataclass(frozen=True)
class Pair:
    """One portrait that is asked for, in a block: whose, like which reference of whom, and the two shots in which the person is known."""

    person: int
    other: int
    shot: int
    known: tuple[int, int]

    @classmethod
    def draw(cls, rng: random.Random) -> Pair:
        person, other = rng.sample(range(EACH), 2)
        shot, *known = rng.sample(range(EACH), 3)
        return cls(person, other, shot, (known[0], known[1]))

    def given(self, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (C, H, W) of both pictures of the person and of the reference, of a block's (5, 5, C, H, W)."""
        return block[self.person, self.known[0]], block[self.person, self.known[1]], block[self.other, self.shot]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="0:300", help="first:end; those that are held out are made, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    latents = train.Latents(train.load_autoencoder())
    first, end = (int(part) for part in arguments.blocks.split(":"))
    for block in (*HELD_OUT, *range(first, end)):
        make(block, latents)
        if block % 20 == 0:
            print(path(block), flush=True)


if __name__ == "__main__":
    main()
