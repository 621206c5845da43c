"""Render the training scenes of ``mini-flux`` with and without their solids, once.

    python -m assets.mini_flux.data --shards 0:30

A shard holds 100 scenes of ``pipelines.worlds.removal`` from seeds ``1_000_000 + 100 s + i``: every scene as it is, without
each of its solids and, where there are two, empty; and for every pair of them that differs by one solid, that solid's
mask. A ``.npz`` of uint8: ``images`` (R, 128, 192, 3), ``depth`` (R, 128, 192) inverse depth by the scene's minimum and maximum,
``before`` and ``after`` (P,) rows of both, ``masks`` (P, 3072) packed bits. About 0.14 s a picture on one CPU core, 350 pictures a shard.
Shards that exist are skipped; each is written to a temporary name first, so kill it and start it again, or give two
processes two ranges. Seeds below 1,000,000 are kept for examples, tests and evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy

from assets.lab.shards import make_shards
from pipelines.core import depth as depth_maps
from pipelines.worlds import removal, tabletop
from pipelines.worlds.tabletop import Scene

TRAINING_SEED = 1_000_000
PER_SHARD = 100


def path(root: Path, shard: int) -> Path:
    return root / f"removal-{shard:03d}.npz"


def views(scene: Scene) -> tuple[list[tuple[int, ...]], list[tuple[int, int, int]]]:
    """Which solids each rendered view keeps, and the removals (view before, view after, solid) between views."""
    everything = tuple(range(len(scene.solids)))
    kept = [everything, *(tuple(i for i in everything if i != gone) for gone in everything)]
    if len(scene.solids) == 2:
        kept.append(())
    return kept, [
        (before, after, next(iter(set(kept[before]) - set(kept[after]))))
        for before in range(len(kept))
        for after in range(len(kept))
        if set(kept[after]) < set(kept[before]) and len(kept[before]) - len(kept[after]) == 1
    ]


def render_shard(shard: int) -> dict[str, numpy.ndarray]:
    images, depths, befores, afters, masks = [], [], [], [], []
    for seed in range(TRAINING_SEED + PER_SHARD * shard, TRAINING_SEED + PER_SHARD * (shard + 1)):
        scene = removal.sample(seed)
        kept, removals = views(scene)
        first, whole, covered = len(images), None, []
        for solids in kept:
            view = scene
            for gone in reversed([i for i in range(len(scene.solids)) if i not in solids]):
                view = view.without(gone)
            inverse, instances = tabletop.geometry([view], (removal.HEIGHT, removal.WIDTH))
            whole = inverse if whole is None else whole
            images.append(removal.pictures(view))
            depths.append(_levels(depth_maps.normalised(inverse[0, 0].numpy(), whole[0, 0].numpy())))
            covered.append(instances[0].numpy())
        for before, after, solid in removals:
            befores.append(first + before)
            afters.append(first + after)
            masks.append(numpy.packbits(covered[before][kept[before].index(solid)]))
    return {
        "images": numpy.stack(images),
        "depth": numpy.stack(depths),
        "before": numpy.array(befores),
        "after": numpy.array(afters),
        "masks": numpy.stack(masks),
    }


def _levels(depth: numpy.ndarray) -> numpy.ndarray:
    return (depth * 255).round().astype(numpy.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="0:30", help="first:end")
    parser.add_argument("--root", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    make_shards(arguments.shards, arguments.root, path, lambda file, shard: numpy.savez(file, **render_shard(shard)))


if __name__ == "__main__":
    main()
