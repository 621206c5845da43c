"""Scenes from which something is to be taken away: tabletop scenes in landscape format, with and without each solid.

The picture without an object is rendered, not painted: its shadow, its mirror image and what it hid are exactly gone,
and the shadows and mirror images of the others are exactly there. Floors mirror up to 2.6 times more than in
``tabletop`` and lights are as soft as an overcast window or as hard as a lamp, because that is what is to be removed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.core import depth as depth_maps
from pipelines.worlds import SCENE_HEIGHT, SCENE_WIDTH, tabletop
from pipelines.worlds.tabletop import Scene

HEIGHT, WIDTH = SCENE_HEIGHT, SCENE_WIDTH
"""What is learnt from; any other size may be asked for."""
LIGHTS = {"soft": (0.11, 0.16), "hard": (0.02, 0.05)}
"""Range of the light's angular radius, radians."""
MATT, MIRROR = (0.8, 1.4), (1.8, 2.6)
"""Range of the factor on the floor's reflectivity."""


def sample(
    seed: int, count: int | None = None, floor: str | None = None, light: str | None = None, mirror: bool | None = None
) -> Scene:
    """The scene that belongs to ``seed``; what is given is kept to, the rest is drawn.

    Args:
        count: number of solids, 1 to 3. floor: one of ``grammar.FLOORS``. light: one of :data:`LIGHTS`.
        mirror: a floor that mirrors strongly, or hardly.

    Raises:
        ValueError: ``count``, ``floor`` or ``light`` is not known.
    """
    if floor is not None and floor not in tabletop.REFLECTIVITY:
        raise ValueError(f"floor {floor!r} is not known: choose one of {', '.join(tabletop.REFLECTIVITY)}")
    if light is not None and light not in LIGHTS:
        raise ValueError(f"light {light!r} is not known: choose one of {', '.join(LIGHTS)}")
    rng = random.Random(f"removal {seed}")
    drawn = (rng.choices((1, 2, 3), (0.3, 0.45, 0.25))[0], rng.choice(tuple(LIGHTS)), rng.random() < 0.5)
    scene = tabletop.sample(rng.randrange(10**9), count or drawn[0])
    spread = rng.uniform(1.0, 1.35)
    return replace(
        scene,
        solids=tuple(replace(s, x=s.x * spread) for s in scene.solids),
        floor=floor or scene.floor,
        light_softness=rng.uniform(*LIGHTS[light or drawn[1]]),
        mirror=rng.uniform(*(MIRROR if (drawn[2] if mirror is None else mirror) else MATT)),
        light_azimuth=math.copysign(rng.uniform(0.45, 2.2), scene.light_azimuth),
    )


@dataclass(frozen=True)
class Pair:
    """One removal with its truth. Pictures (H, W, 3) uint8; inverse depth (H, W) float32 in [0, 1], both normalised by
    the minimum and maximum of the map with the object; masks (H, W) bool."""

    scene: Scene
    index: int
    image: NDArray[numpy.uint8]
    clean: NDArray[numpy.uint8]
    depth: NDArray[numpy.float32]
    depth_clean: NDArray[numpy.float32]
    mask: NDArray[numpy.bool_]
    others: NDArray[numpy.bool_]
    """The solids that stay."""
    shadow: NDArray[numpy.bool_]
    reflection: NDArray[numpy.bool_]


def to_uint8(image: Tensor) -> NDArray[numpy.uint8]:
    """(3, H, W) in [0, 1] to (H, W, 3)."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def pictures(scene: Scene, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[numpy.uint8]:
    """The scene as it looks, (H, W, 3) for a ``size`` of (H, W)."""
    return to_uint8(tabletop.render([scene], size).image[0])


def masks(scene: Scene, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[numpy.bool_]:
    """Pixels of each solid, (K, H, W) with K the number of solids."""
    return tabletop.geometry([scene], size)[1][0, : len(scene.solids)].numpy()


def pair(scene: Scene, index: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Pair:
    """Render ``scene`` at ``size`` (H, W) with and without solid ``index``, with all truth.

    Raises:
        IndexError: there is no such solid.
    """
    without = scene.without(index)
    full = tabletop.render([scene], size, truth=True)
    inverse, covered = tabletop.geometry([scene], size)
    clean_inverse, _ = tabletop.geometry([without], size)
    assert full.shadows is not None and full.reflections is not None
    rest = [i for i in range(len(scene.solids)) if i != index]
    return Pair(
        scene,
        index,
        to_uint8(full.image[0]),
        pictures(without, size),
        depth_maps.normalised(inverse[0, 0].numpy()),
        depth_maps.normalised(clean_inverse[0, 0].numpy(), inverse[0, 0].numpy()),
        covered[0, index].numpy(),
        covered[0, rest].any(0).numpy() & ~covered[0, index].numpy(),
        full.shadows[0, index].numpy(),
        full.reflections[0, index].numpy(),
    )
