"""Teach ``mini-flux`` to keep the texture of the original where stage 2 changes the light: ``pipelines/georemover/recolour.py``.

    python -m assets.mini_flux.recolour renders --shards 0:16      # two processes, two ranges: 12 minutes
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.recolour train --minutes 84

Seed 0, CPU or CUDA (``--device cuda``, no torchrun). It learns from what stage 2 paints in one step on the training scenes, so it comes
after ``train stage2`` and belongs to that adapter; shards that exist are skipped, and training resumes from ``data/runs``. Minutes,
steps and scores of what is shipped are in the card.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
from diffusers import FluxFillPipeline
from numpy.typing import NDArray
from torch import Tensor

from assets.lab import training
from assets.lab.shards import make_shards
from assets.mini_flux import perception, train
from assets.mini_flux.perception import DATA, HERE, RUNS, SEED, Scenes
from pipelines.georemover import composite, recolour
from pipelines.models.flux_tiny import HEIGHT, WIDTH

LEAST_EFFECT = 0.002
"""Added to the mean effect of a picture in the loss: a picture whose effect is smaller says less."""
ELSEWHERE = 0.2
"""Weight of what should stay as it is; the composite hardly looks there."""
VISIBLE = 5 / 255
"""Change of a pixel from which on it counts as changed in the loss."""
CROP = (96, 128)
"""Height and width of the crops that are learned from, around what changes; every fourth step sees whole pictures."""
HELD_OUT = 64
"""Removals in the report."""
REMOVED, UNCHANGED, INSERTED = range(3)
"""What a strip asks stage 2 for."""


@torch.no_grad()
def painted(model, vae, conditions: Tensor, rng: numpy.random.Generator, device: str) -> NDArray[numpy.uint8]:
    """What stage 2 paints in one step for condition strips (B, 288, 64): pictures (B, 128, 192, 3)."""
    noise = torch.from_numpy(rng.standard_normal(conditions.shape, dtype=numpy.float32)).to(device)
    count = len(conditions)
    nothing = torch.zeros(count, conditions.shape[1], 256, device=device)
    ones = torch.ones(count, device=device)
    # FLUX's first level is 1 whatever the shift, and a single Euler step goes from there to 0.
    return decoded(vae, noise - train.velocity(model, noise, conditions, nothing, ones, 30 * ones, device))


@torch.no_grad()
def decoded(vae, strips: Tensor) -> NDArray[numpy.uint8]:
    """The first panel's pictures, decoded with as much of the second as the decoder sees."""
    latents = FluxFillPipeline._unpack_latents(strips, HEIGHT, 3 * WIDTH, 8)[..., : WIDTH // 8 + 6]
    pictures = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0][..., :WIDTH]
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def make_renders(asked: str, device: str) -> None:
    """Stage 2's pictures of the training removals, beside what they should be. Every fourth strip is rendered once more with
    nothing changed, or with the object put in. ``asked``: see :func:`assets.lab.shards.make_shards`."""
    scenes, vae = Scenes(), perception.load_vae(device)
    model = train.adapted(device, start=HERE / "stage2").eval()

    def rendered(shard: int) -> dict[str, NDArray[Any]]:
        rng = numpy.random.default_rng((SEED, 10, shard))
        strips = torch.load(DATA / f"flux-strips-{shard:03d}.pt", weights_only=True, mmap=True)
        pairs = [scenes.pair(n) for n, (s, _) in enumerate(scenes.pairs) if s == shard]
        rows = [(row, REMOVED) for row in range(len(pairs))]
        rows += [(row, (UNCHANGED, INSERTED)[row // 4 % 2]) for row in range(0, len(pairs), 4)]
        found: dict[str, list[Any]] = {"picture": [], "render": [], "through": [], "wanted": [], "mask": [], "kind": []}
        for start in range(0, len(rows), 16):
            chosen = rows[start : start + 16]
            conditions = torch.stack([_condition(strips, *row) for row in chosen]).to(device).float()
            found["render"].append(painted(model, vae, conditions, rng, device))
            found["through"].append(decoded(vae, conditions))
            for row, kind in chosen:
                pair = pairs[row]
                ends = (("image", "clean"), ("image", "image"), ("clean", "image"))[kind]
                found["picture"].append(pair[ends[0]][None])
                found["wanted"].append(pair[ends[1]][None])
                found["mask"].append(numpy.packbits(pair["mask"] & (kind != UNCHANGED))[None])
                found["kind"].append(numpy.uint8([kind]))
        return {name: numpy.concatenate(parts) for name, parts in found.items()}

    make_shards(asked, DATA, path, lambda file, shard: numpy.savez(file, **rendered(shard)))


def path(root: Path, shard: int) -> Path:
    return root / f"flux-renders-{shard:03d}.npz"


def _condition(strips: dict[str, Tensor], row: int, kind: int) -> Tensor:
    strip = strips["strip_clean" if kind == INSERTED else "strip"][row : row + 1]
    return (strip, train.unchanged(strip), train.exchanged(strip))[kind][0]


def loss_of(new: Tensor, picture: Tensor, wanted: Tensor, outside: Tensor) -> Tensor:
    """Error of ``new`` outside the object as a share of what there was to change, which is the residual that the evaluation measures;
    where nothing was to change, errors count by :data:`ELSEWHERE`. Pictures (B, 3, H, W) in [0, 1], ``outside`` (B, 1, H, W)."""
    effect = (picture - wanted).abs()
    seen = (effect.amax(1, keepdim=True) > VISIBLE).float()
    weight = outside * (ELSEWHERE + (1 - ELSEWHERE) * seen)
    wrong = (weight * (new - wanted).abs()).mean((1, 2, 3))
    return (wrong / ((outside * effect).mean((1, 2, 3)) + LEAST_EFFECT)).mean()


class Renders:
    """The rendered shards in memory; the last shard is not learned from, and its first :data:`HELD_OUT` removals are for the report."""

    def __init__(self) -> None:
        files = sorted(DATA.glob("flux-renders-*.npz"))
        if not files:
            raise FileNotFoundError("no renders in data/: run `python -m assets.mini_flux.recolour renders` first")
        parts = []
        for path in files:
            with numpy.load(path) as file:
                parts.append({name: file[name] for name in file.files})
        self.table = {name: numpy.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.known = len(self.table["kind"]) - len(parts[-1]["kind"])
        self.held_out = self.known + numpy.flatnonzero(parts[-1]["kind"] == REMOVED)[:HELD_OUT]

    def batch(
        self, rows: NDArray[numpy.int64], rng: numpy.random.Generator | None, whole: bool, device: str
    ) -> tuple[Tensor, ...]:
        """Picture, render, round trip, wanted picture (B, 3, H, W) in [0, 1]; texture's weight and 1 outside the object (B, 1, H, W).
        With ``rng`` half of them are mirrored, and crops if not ``whole``."""
        made: list[list[NDArray[Any]]] = []
        for row in rows:
            parts = [self.table[name][row] for name in ("picture", "render", "through", "wanted")]
            mask = numpy.unpackbits(self.table["mask"][row]).reshape(HEIGHT, WIDTH)
            outside = 1 - cv2.dilate(mask, numpy.ones((5, 5), numpy.uint8))
            weight = composite.texture_weight(parts[1], parts[2])
            planes = [*parts, weight[..., None], outside[..., None]]
            if rng is not None and not whole:
                top, left = self._corner(parts[0], parts[3], rng)
                planes = [plane[top : top + CROP[0], left : left + CROP[1]] for plane in planes]
            turn = -1 if rng is not None and rng.random() < 0.5 else 1
            made.append([plane[:, ::turn] for plane in planes])
        columns = [
            torch.from_numpy(numpy.stack(column)).to(device).permute(0, 3, 1, 2).float()
            for column in zip(*made, strict=True)
        ]
        return (*(column / 255 for column in columns[:4]), *columns[4:])

    @staticmethod
    def _corner(picture: NDArray[Any], wanted: NDArray[Any], rng: numpy.random.Generator) -> tuple[int, int]:
        """Top and left of a crop around a pixel that changes, or anywhere."""
        changing = numpy.argwhere(numpy.abs(picture.astype(int) - wanted).max(-1) > 255 * VISIBLE)
        most = (HEIGHT - CROP[0], WIDTH - CROP[1])
        if not len(changing):
            return int(rng.integers(most[0] + 1)), int(rng.integers(most[1] + 1))
        middle = changing[rng.integers(len(changing))]
        top, left = (int(place - side * rng.uniform(0.25, 0.75)) for place, side in zip(middle, CROP, strict=True))
        return min(max(top, 0), most[0]), min(max(left, 0), most[1])


def train_recolour(minutes: float, device: str) -> None:
    renders = Renders()
    torch.manual_seed(SEED)
    model = recolour.network().to(device, memory_format=torch.channels_last)

    def loss(
        model, rows: NDArray[numpy.int64], rng: numpy.random.Generator | None = None, whole: bool = True
    ) -> Tensor:
        picture, render, through, wanted, weight, outside = renders.batch(rows, rng, whole, device)
        with training.autocast(device):
            slope, offset = recolour.predicted(model, picture, render, through, weight)
        return loss_of((1 + slope) * picture + offset, picture, wanted, outside)

    def step(number: int) -> Tensor:
        rng, rows = train.draw(number, 11, renders.known, 8)
        return loss(model, rows, rng, number // training.rank_and_size()[1] % 4 == 3)

    @torch.no_grad()
    def report(average) -> str:
        found = [loss(average, rows).item() for rows in numpy.array_split(renders.held_out, 8)]
        return f"held out {numpy.mean(found):.4f}"

    model, facts = training.train(
        model, step, minutes, RUNS / "flux-recolour.pt", 1e-3, SEED, decay=0.995, report=report, report_every=250
    )
    if training.rank_and_size()[0] == 0:
        perception.save(model, "recolour")
        perception.note("recolour", facts | {"renders": renders.known})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("renders", "train"))
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shards", default=f"0:{perception.SHARDS}", help="renders only: first:end")
    given = parser.parse_args()
    if given.what == "renders":
        make_renders(given.shards, given.device)
    else:
        train_recolour(given.minutes, given.device)


if __name__ == "__main__":
    main()
