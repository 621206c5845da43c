"""Render people in each other's places: the truth of every portrait that a net may be asked for.

    OMP_NUM_THREADS=1 python -m assets.mini_portraits.data --blocks 0:300     # 12 s a block; may run beside training

A block is five people in five shots (pose, expression, light, clothes, background; framed a little differently each), each also in plain light, and the
same people in each shot in the place of two others: two of their pictures laid over that reference by the five points of the faces, as the nets are
shown them, and the truth pasted into it as the page pastes, with the faults that come of it. 200 latents; 50 pairs of a person whose pictures are known
and a reference of somebody else, and of each the truth is there. Blocks that exist are skipped. People and shots of block b come from the seeds ``SEED + 10 b`` and the nine behind it; those of
``HELD_OUT`` blocks are seen by no training, and keep their pictures.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from assets.mini_sdxl2 import data, fast, train
from pipelines.core import geometry, masks
from pipelines.megaportrait import paste
from pipelines.megaportrait.align import CELL
from pipelines.worlds import portrait
from pipelines.worlds.portrait import Portrait, Shot

ROOT = Path("data/portraits")
SEED, HELD_OUT = 5_000_000, range(100_000, 100_008)
EACH = 5
"""People, and shots, of a block."""
PASTED = KNOWN = 2
"""Others whose place each person takes in each shot, and pictures of the person that are then shown."""
ASTRAY = 1.2
"""Pixels by which a point of a face is found astray, one sigma: 1 % of its width, as the parser's."""
TALL = 308
"""Rows of a render of 256 columns: a reference is higher than wide."""
ZOOM, ACROSS, DOWN = (-0.40, 0.22), (-0.10, 0.07), (-0.08, 0.02)
"""How much larger a shot is framed than a square render (its logarithm) and how far off (in sides): what 60 crops of a page's references and
60 of a person's pictures had. The references are cut wider."""
PLAIN = {"light_azimuth": 0.0, "light_elevation": 0.6, "light_colour": "neutral"}
HEAD = ("face", "hair", "neck", "glasses", "beard")
"""The renderer's masks that make up what is pasted."""
CELLS = data.SIZE // CELL
"""Cells of a side for which it is told where in a picture they are seen."""
FACE_WIDTH = 110
"""Of a face in a picture, about, in pixels: lengths of a paste are shares of it."""


def path(block: int, root: Path = ROOT) -> Path:
    return root / f"block-{block:06d}.pt"


def portraits(block: int) -> list[list[Portrait]]:
    """[person][shot] of a block."""
    drawn = [portrait.sample(SEED + 10 * block + n) for n in range(2 * EACH)]
    return [[replace(one, shot=other.shot) for other in drawn[EACH:]] for one in drawn[:EACH]]


def plain(shot: Shot) -> Shot:
    """The same shot in even light from the front."""
    return replace(shot, **PLAIN)


def framings(block: int) -> list[NDArray[numpy.float64]]:
    """For each shot of a block the affine map (2, 3) of its frame: a page cuts a square around a face that is never framed as a render is."""
    rng, middle, found = random.Random(f"framings of {block}"), (data.SIZE - 1) / 2, []
    for _ in range(EACH):
        scale = math.exp(rng.uniform(*ZOOM))
        across = middle - scale * middle + data.SIZE * rng.uniform(*ACROSS)
        down = middle - scale * (TALL - 1) / 2 + data.SIZE * rng.uniform(*DOWN)
        found.append(numpy.array([[scale, 0, across], [0, scale, down]]))
    return found


def points(block: int) -> NDArray[numpy.float64]:
    """(5, 5, 5, 2): of each person in each shot the five points (x, y) of the face, in pixels of the frame."""
    found = []
    for row in portraits(block):
        for one, frame in zip(row, framings(block), strict=True):
            marks = portrait.landmarks(one, (TALL, data.SIZE))[:5].flip(-1).numpy().astype(numpy.float64)
            found.append(marks @ frame[:, :2].T + frame[:, 2])
    return numpy.stack(found).reshape(EACH, EACH, 5, 2)


def render(
    block: int, plainly: bool = True
) -> tuple[NDArray[numpy.uint8], NDArray[numpy.bool_], list[list[portrait.PortraitTruth]]]:
    """(L, 5, 5, 256, 256, 3): as they are and, if ``plainly``, in plain light, person, shot; their heads, (5, 5, 256, 256); and the truth of
    the renders before they were framed, [person][shot]."""
    made, heads, truths, frames, size = [], [], [], framings(block), (data.SIZE, data.SIZE)
    with fast.renderer():
        for even in (False, True)[: 1 + plainly]:
            for row in portraits(block):
                for one, frame in zip(row, frames, strict=True):
                    one = replace(one, shot=plain(one.shot)) if even else one
                    drawn = portrait.render([one], (TALL, data.SIZE), truth=not even)
                    picture = data.to_bytes(drawn.image)[0].transpose(1, 2, 0)
                    flags = cv2.INTER_AREA if frame[0, 0] < 1 else cv2.INTER_CUBIC
                    made.append(cv2.warpAffine(picture, frame, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))
                    if not even:
                        head = numpy.logical_or.reduce([drawn.masks[name][0].numpy() for name in HEAD])
                        heads.append(cv2.warpAffine(head.astype(numpy.float32), frame, size) >= 0.5)
                        truths.append(drawn)
    pictures = numpy.stack(made).reshape(-1, EACH, EACH, *size, 3)
    rows = [truths[first : first + EACH] for first in range(0, len(truths), EACH)]
    return pictures, numpy.stack(heads).reshape(EACH, EACH, *size), rows


def pasted(
    rng: random.Random,
    truth: NDArray[numpy.uint8],
    reference: NDArray[numpy.uint8],
    own: NDArray[numpy.bool_],
    other: NDArray[numpy.bool_],
) -> NDArray[numpy.uint8]:
    """A person (256, 256, 3) in a reference, with the faults of a real paste: too soft, a little off in place and tone, cut too close to
    one of the heads ``own`` and ``other`` (256, 256) or too wide."""
    middle, softness = data.SIZE / 2, rng.uniform(1.2, 3.0)
    few = round(data.SIZE / softness)
    soft = cv2.resize(cv2.resize(truth, (few, few), interpolation=cv2.INTER_AREA), truth.shape[1::-1])
    frame = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-1.5, 1.5), rng.uniform(0.985, 1.015))
    frame[:, 2] += rng.uniform(-2, 2), rng.uniform(-2, 2)
    soft = cv2.warpAffine(soft, frame, truth.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    tone = [rng.uniform(0.95, 1.05) * rng.uniform(0.98, 1.02) for _ in range(3)]
    soft = numpy.clip(soft * tone, 0, 255).astype(numpy.uint8)
    heads = rng.choices((own | other, other, own), (8, 1, 1))[0]
    core = masks.grow(heads, rng.randint(-2, 18))
    return paste.blend(soft, reference, paste.feathered(core, FACE_WIDTH, 0.02, rng.uniform(0.02, 0.05)))


def others(block: int) -> NDArray[numpy.int64]:
    """(5, 5, 2): into whose pictures a person is pasted in a shot."""
    rng = random.Random(f"pastes of {block}")
    found = [
        rng.sample([n for n in range(EACH) if n != person], PASTED) for person in range(EACH) for _shot in range(EACH)
    ]
    return numpy.array(found).reshape(EACH, EACH, PASTED)


def pastes(block: int, pictures: NDArray[numpy.uint8], heads: NDArray[numpy.bool_]) -> NDArray[numpy.uint8]:
    """(5, 5, 2, 256, 256, 3): person, shot, reference."""
    rng, into = random.Random(f"faults of {block}"), others(block)
    made = [
        pasted(rng, pictures[0, p, s], pictures[0, other, s], heads[p, s], heads[other, s])
        for p in range(EACH)
        for s in range(EACH)
        for other in into[p, s]
    ]
    return numpy.stack(made).reshape(EACH, EACH, PASTED, data.SIZE, data.SIZE, 3)


def known(block: int) -> NDArray[numpy.int64]:
    """(5, 5, 2, 2): in which shots a person is shown, where it takes an other's place in a shot."""
    rng, found = random.Random(f"known of {block}"), []
    for _person in range(EACH):
        for shot in range(EACH):
            found += [rng.sample([n for n in range(EACH) if n != shot], KNOWN) for _ in range(PASTED)]
    return numpy.array(found).reshape(EACH, EACH, PASTED, KNOWN)


def lays(block: int) -> NDArray[numpy.float64]:
    """(5, 5, 2, 2, 3, 3): person, shot, reference, picture: by which map that picture is laid over that reference."""
    noise, marks, made = numpy.random.default_rng(block), points(block), []
    into, shots = others(block), known(block)
    for p, s, r, k in numpy.ndindex(EACH, EACH, PASTED, KNOWN):
        shot = shots[p, s, r, k]
        here, there = (one + noise.normal(0, ASTRAY, one.shape) for one in (marks[p, shot], marks[into[p, s, r], s]))
        made.append(geometry.similarity(here, there))
    return numpy.stack(made).reshape(EACH, EACH, PASTED, KNOWN, 3, 3)


def laid(block: int, pictures: NDArray[numpy.uint8]) -> NDArray[numpy.uint8]:
    """(5, 5, 2, 2, 256, 256, 3): person, shot, reference, picture: those that are shown, laid over the reference. ``pictures`` (5, 5, 256, 256, 3)."""
    shots, matrices, size, made = known(block), lays(block), (data.SIZE, data.SIZE), []
    for p, s, r, k in numpy.ndindex(EACH, EACH, PASTED, KNOWN):
        made.append(geometry.warp(pictures[p, shots[p, s, r, k]], matrices[p, s, r, k], size))
    return numpy.stack(made).reshape(EACH, EACH, PASTED, KNOWN, *size, 3)


def shifts(block: int, truths: list[list[portrait.PortraitTruth]]) -> NDArray[numpy.float16]:
    """(5, 5, 2, 2, 32, 32, 3): person, shot, reference, picture, cell: by how many pixels, across and down, what is there in the person in that
    shot lies off in the picture that is laid over the reference; and which share of the cell is seen there. Of what is not seen it is 0."""
    people, frames, shots, matrices = portraits(block), framings(block), known(block), lays(block)
    made, size = [], (data.SIZE, data.SIZE)
    middles = numpy.stack(numpy.meshgrid(*(numpy.arange(data.SIZE),) * 2), -1)
    for p, s, r, k in numpy.ndindex(EACH, EACH, PASTED, KNOWN):
        shot = shots[p, s, r, k]
        places, seen = portrait.seen_in(people[p][s], truths[p][s], people[p][shot], truths[p][shot])
        framed = geometry.moved(places.flip(-1).reshape(-1, 2).numpy() - 0.5, frames[shot])
        head = torch.stack([truths[p][s].masks[name][0] for name in HEAD]).any(0)  # clothes are the shot's
        seen = (seen & head).numpy() & ((framed >= 0) & (framed <= data.SIZE - 1)).all(1).reshape(seen.shape)
        there = geometry.moved(framed + 0.5, matrices[p, s, r, k]).reshape(*seen.shape, 2) - 0.5
        table = numpy.concatenate((there * seen[..., None], seen[..., None]), -1).astype(numpy.float32)
        table = cv2.warpAffine(table, frames[s], size)
        table[..., :2] -= middles * table[..., 2:]
        cells = cv2.resize(table, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        share = cells[..., 2:]
        made.append(numpy.concatenate((numpy.where(share > 0.05, cells[..., :2] / (share + 1e-6), 0), share), -1))
    return numpy.stack(made).reshape(EACH, EACH, PASTED, KNOWN, CELLS, CELLS, 3).astype(numpy.float16)


def encoded(latents: train.Latents, pictures: NDArray[numpy.uint8]) -> Tensor:
    """(..., C, h, w) of (..., 256, 256, 3)."""
    flat = pictures.reshape(-1, data.SIZE, data.SIZE, 3).transpose(0, 3, 1, 2)
    found = latents.encode(numpy.ascontiguousarray(flat))
    return found.view(*pictures.shape[:-3], *found.shape[1:])


def make(block: int, latents: train.Latents, root: Path = ROOT) -> None:
    """Write a block, unless it is there and of this autoencoder."""
    if path(block, root).exists() and torch.load(path(block, root), weights_only=True)["mark"] == latents.mark:
        return
    root.mkdir(parents=True, exist_ok=True)
    pictures, heads, _truths = render(block)
    composites = pastes(block, pictures, heads)
    kept = {"mark": latents.mark, "others": torch.from_numpy(others(block))}
    for name, some in (("latents", pictures), ("pasted", composites), ("laid", laid(block, pictures[0]))):
        kept[name] = encoded(latents, some)
    if block in HELD_OUT:
        kept |= {"pictures": torch.from_numpy(pictures), "composites": torch.from_numpy(composites)}
    scratch = path(block, root).with_suffix(f".{os.getpid()}.tmp")
    torch.save(kept, scratch)
    scratch.rename(path(block, root))


@dataclass(frozen=True)
class Pair:
    """One portrait that is asked for, in a block: whose, in which shot, in the place of which of the two others."""

    person: int
    shot: int
    which: int
    swapped: bool
    """The second of the person's pictures comes first."""
    alone: bool
    """Only one picture of the person is known, which is then shown twice."""

    @classmethod
    def draw(cls, rng: random.Random) -> Pair:
        places = rng.randrange(EACH), rng.randrange(EACH), rng.randrange(PASTED)
        return cls(*places, rng.random() < 0.5, rng.random() < ALONE)

    @property
    def place(self) -> tuple[int, int, int]:
        return self.person, self.shot, self.which

    def given(self, block: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (C, H, W) of both pictures of the person and of the reference."""
        first, second = block["laid"][self.place].float().unbind()
        first, second = (second, first) if self.swapped else (first, second)
        other = block["others"][self.place]
        return first, first if self.alone else second, block["latents"][0, other, self.shot].float()


ALONE = 0.1
"""Share of the pairs of which one picture of the person is known."""


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
