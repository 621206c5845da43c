"""Render the training pictures of the face models: many people, each in a few shots, once.

    python -m assets.mini_faces.data --shards 0:80

A shard holds 50 people in 4 shots each. Person ``p`` is ``portrait.sample_identity(p)`` with ``p`` from 1,000,000 upward, her shot ``j``
is ``portrait.sample_shot(4 p + j)``: captions and every other truth are drawn again from the two numbers. A ``.npz`` with N = 200 rows:
``images`` (N, 128, 128, 3) uint8, ``labels`` (N, 128, 128) uint8 (place in ``face_models.LABELS``), ``points`` (N, 5, 2) and ``outline``
(N, 13, 2) float32, (x, y) in pixels, 0.5 being the middle of the first pixel, ``identity`` and ``shot`` (N,) int64 seeds. Eyes, brows,
nose and mouth are no labels of their own, because the renderer paints them on the face.

About 0.12 s a picture on one CPU core, 25 s a shard. Shards that exist are skipped; each is written to a temporary name first, so
kill it and start it again, or give two processes two ranges. People below 1,000,000 are kept for examples, tests and evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from assets.lab.shards import make_shards
from pipelines.core.geometry import POINTS
from pipelines.models.faces import LABELS, RENDERED
from pipelines.worlds import portrait
from pipelines.worlds.portrait import Portrait

TRAINING_SEED = 1_000_000
PEOPLE, SHOTS = 50, 4
"""People in a shard, and shots of each."""
SIZE = 128


def path(root: Path, shard: int) -> Path:
    return root / f"faces-{shard:03d}.npz"


def person(identity: int, shot: int) -> Portrait:
    """The portrait of a row, from its two seeds."""
    return Portrait(portrait.sample_identity(identity), portrait.sample_shot(shot))


def seeds(shard: int) -> list[tuple[int, int]]:
    """(identity, shot) of every row of a shard."""
    people = range(TRAINING_SEED + PEOPLE * shard, TRAINING_SEED + PEOPLE * (shard + 1))
    return [(identity, SHOTS * identity + place) for identity in people for place in range(SHOTS)]


def render_rows(
    rows: Sequence[tuple[int, int]], device: str = "cpu", size: int | tuple[int, int] = SIZE
) -> dict[str, NDArray]:
    """Pictures and truth of (identity, shot) pairs, laid out as in a shard."""
    truth = portrait.render([person(*row) for row in rows], size, device=device, truth=True)
    assert truth.landmarks is not None
    labels = numpy.zeros(truth.image[:, 0].shape, numpy.uint8)
    for name, rendered in RENDERED.items():
        labels[truth.masks[rendered].cpu().numpy()] = LABELS.index(name)
    places = truth.landmarks.cpu().numpy()[..., ::-1].astype(numpy.float32)  # the renderer gives (row, column)
    return {
        "images": (truth.image * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy(),
        "labels": labels,
        "points": places[:, : len(POINTS)],
        "outline": places[:, len(POINTS) :],
        "identity": numpy.array([row[0] for row in rows], numpy.int64),
        "shot": numpy.array([row[1] for row in rows], numpy.int64),
    }


class Faces:
    """The rendered shards in memory, joined by name; new shards join at :meth:`refresh`. See the module for the names."""

    NAMES = ("images", "labels", "points", "outline", "identity", "shot")

    def __init__(self, root: Path, most: int | None = None) -> None:
        self.root, self.most, self.taken = root, most, set[Path]()
        self.table: dict[str, NDArray] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in shards that have come since the last look."""
        paths = sorted(self.root.glob("faces-[0-9][0-9][0-9].npz"))[: self.most]
        fresh = [path for path in paths if path not in self.taken]
        if not fresh:
            return
        parts = [self.table] if self.table else []
        for found in fresh:
            with numpy.load(found) as file:
                parts.append({name: file[name] for name in self.NAMES})
        self.table = {name: numpy.concatenate([part[name] for part in parts]) for name in self.NAMES}
        self.taken.update(fresh)

    def __len__(self) -> int:
        return len(self.table["images"]) if self.table else 0

    def __getitem__(self, name: str) -> NDArray:
        if not self.table:
            raise FileNotFoundError(f"no faces in {self.root}: run `python -m assets.mini_faces.data` first")
        return self.table[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="0:80", help="first:end")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    make_shards(
        arguments.shards,
        arguments.root,
        path,
        lambda file, shard: numpy.savez(file, **render_rows(seeds(shard), arguments.device)),
    )


if __name__ == "__main__":
    main()
