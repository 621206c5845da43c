"""The renderer of the two worlds, several times faster on a CPU: for training sets only, where no byte is promised.

    with fast.renderer():
        tabletop.render([scene], 256)     # the public functions, quickened inside the block

The formulas are those of ``pipelines/worlds``; none is written twice. Three savings:

- tabletop: one ray a pixel, and the public renderer's four only where the picture has an edge, a fine texture or half
  shadow; shadow rays only for points that a solid's bounding sphere may keep from the light; mirror rays only on floor.
- portrait: the distance fields and the paint are compiled into one loop each (``torch.compile``; needs a C++
  compiler, without one they run as they are). The first portrait of every hair style compiles for some seconds.

Differences to the public pictures: below 1/255 nearly everywhere, more in single pixels of fine texture
(``tests/models/test_mini_sdxl2.py``).
"""

from __future__ import annotations

import contextlib
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.worlds import tabletop
from pipelines.worlds.portrait import clay, paint, shapes

FEW = 64
"""Fewer rays go through the formulas as they are: a short batch would be a program of its own."""
EDGE = 0.012
"""Neighbouring pixels of the tabletop that differ by more are drawn with four rays."""


@contextlib.contextmanager
def renderer() -> Iterator[None]:
    """Quicken ``tabletop.render`` and ``portrait.render`` on the CPU inside the block."""
    swaps = [
        (F, "normalize", _normalize),
        (tabletop, "render", render_tabletop),
        (tabletop, "_normal", _normal),
        (tabletop, "_hit", _hit),
        (clay, "parts", _parts),
        (clay, "coloured", _coloured),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in swaps]
    try:
        for module, name, value in swaps:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _compiled(function: Callable) -> Callable:
    """``function`` of rays as one loop."""
    torch._dynamo.config.recompile_limit = 64  # one piece of code stands for several shapes
    return torch.compile(function, dynamic=True)


def _normalize(vectors: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """``torch.nn.functional.normalize``, whose norm over a leading dimension of three is slow on a CPU."""
    return vectors / vectors.square().sum(dim, keepdim=True).sqrt().clamp_min(eps)


# ---------------------------------------------------------------------------------------- tabletop

_public_render, _public_normal, _public_hit = tabletop.render, tabletop._normal, tabletop._hit


@cache
def _hit_of(shape: int) -> Callable:
    return _compiled(lambda origin, direction, size, turn: _public_hit(shape, origin, direction, size, turn))


def _hit(shape: int, origin: Tensor, direction: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    if origin.shape[-1] != direction.shape[-1] or direction.shape[-1] < FEW or not shutil.which("g++"):
        return _public_hit(shape, origin, direction, size, turn)
    return _hit_of(shape)(origin, direction, size, turn)


def _normal(shape: int, point: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """``tabletop._normal``; of a cube without the index of the largest part, which is slow to find."""
    if tabletop.SHAPES[shape] != "cube":
        return _public_normal(shape, point, size, turn)
    (x, y, z), (cos, sin) = point, turn
    x, y, z = cos * x + sin * z, y - size, cos * z - sin * x
    along_x, along_y, along_z = x.abs(), y.abs(), z.abs()
    first = (along_x >= along_y) & (along_x >= along_z)
    third = ~first & (along_z > along_y)
    x, z, y = x.sign() * first, z.sign() * third, y.sign() * ~(first | third)
    return torch.stack((cos * x - sin * z, y, sin * x + cos * z))


def _take(rows: Tensor, *fields: Tensor) -> tuple[Tensor, ...]:
    return tuple(field.index_select(-1, rows) for field in fields)


def _visible(packed: Any, point: Tensor, subpixel: Tensor) -> Tensor:
    """``tabletop._visibility`` of one scene, (1, N), asking only where a solid's bounding sphere may shade a point."""
    (scene,) = packed.scenes
    light = tabletop._key_light(scene).view(3, 1)
    near = torch.zeros(point.shape[2], dtype=torch.bool)
    for solid in scene.solids:
        half = tabletop._height(tabletop.SHAPES.index(solid.shape)) * solid.size / 2
        radius = (half * half + 2 * solid.size * solid.size) ** 0.5
        away = torch.tensor((solid.x, half, solid.z)).view(3, 1) - point[:, 0]
        along = (away * light).sum(0)
        beside = (away * away).sum(0) - along * along
        reach = radius + (along.clamp_min(0) + radius) * scene.light_softness * 1.1
        near |= (along > -radius) & (beside < reach * reach)
    visible = torch.ones(point.shape[1:])
    rows = near.nonzero().flatten()
    if len(rows):
        some, _ = tabletop._visibility(packed, point.index_select(-1, rows), subpixel[rows], per_solid=False)
        visible[:, rows] = some
    return visible


def _shade(packed: Any, eye: Tensor, direction: Tensor, subpixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``tabletop._shade`` of one scene: encoded colour (3, 1, N), visibility and slot (1, N)."""
    (scene,) = packed.scenes
    hits = tabletop._first_surfaces(packed, eye, direction)
    normal, _, _ = tabletop._surface(packed, hits.point, hits.slot)
    visible = _visible(packed, hits.point + normal * 2e-3, subpixel)
    colour = tabletop._radiance(packed, hits, direction, subpixel, visible)
    floor = ((hits.slot == -1) & ~hits.wall)[0].nonzero().flatten()
    if len(floor):
        point, down = _take(floor, hits.point, direction * torch.tensor((1.0, -1.0, 1.0)).view(3, 1, 1))
        seen = tabletop._first_surfaces(packed, point, down)
        mirrored = tabletop._radiance(packed, seen, down, subpixel[floor], None)
        share = tabletop.REFLECTIVITY[scene.floor] * scene.mirror
        share = share * (0.7 + 1.2 * (1 - down[1]).clamp(0, 1) ** 4)
        colour[..., floor] = colour[..., floor] * (1 - share) + mirrored * share
    return tabletop._encode(colour), visible, hits.slot


def _unequal(values: Tensor, most: float) -> Tensor:
    """Where (C, H, W) differs from a neighbour by more than ``most`` in any channel, (H, W) bool."""
    found = torch.zeros(values.shape[1:], dtype=torch.bool)
    down = ((values[:, 1:] - values[:, :-1]).abs() > most).any(0)
    right = ((values[:, :, 1:] - values[:, :, :-1]).abs() > most).any(0)
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def render_tabletop(
    scenes: Sequence[tabletop.Scene],
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
    supersample: int = 2,
    truth: bool = False,
) -> tabletop.Truth:
    """``tabletop.render``; quick where pictures alone are asked for, with two by two rays a pixel, on the CPU."""
    if truth or supersample != 2 or torch.device(device).type != "cpu":
        return _public_render(scenes, size, device, supersample, truth)
    height, width = (size, size) if isinstance(size, int) else size
    return tabletop.Truth(torch.cat([_picture(scene, height, width) for scene in scenes]))


@torch.no_grad()
def _picture(scene: tabletop.Scene, height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]."""
    packed = tabletop._pack([scene], "cpu")
    eye, direction, _ = tabletop._rays(packed, height, width)
    colour, visible, slot = _shade(packed, eye, direction, torch.zeros(height * width, dtype=torch.long))
    image = colour[:, 0].reshape(3, height, width)
    maps = torch.cat((visible, slot.float())).reshape(2, height, width)
    rough = _unequal(image, EDGE) | _unequal(maps, 0.0) | ((maps[0] > 0) & (maps[0] < 1))
    place = rough.flatten().nonzero().flatten()
    if len(place):
        _, fine, _ = tabletop._rays(packed, 2 * height, 2 * width)
        row, column = place // width, place % width
        four = torch.stack([(2 * row + i) * 2 * width + 2 * column + j for i in range(2) for j in range(2)])
        turns = torch.arange(4).repeat_interleave(len(place))
        colour, _, _ = _shade(packed, eye, fine.index_select(-1, four.flatten()), turns)
        image.view(3, -1)[:, place] = colour.view(3, 4, -1).mean(1)
    return image.unsqueeze(0)


# ---------------------------------------------------------------------------------------- portrait


@cache
def _numbers_type(names: tuple[str, ...]) -> type:
    return namedtuple("Numbers", names)


def _table(p: Any) -> Any:
    """A portrait's numbers as tensors without dimensions, by name: other numbers are then no other program."""
    made = getattr(p, "_table", None)
    if made is None:
        numbers = {name: value for name, value in vars(p).items() if not name.startswith("_")}
        made = _numbers_type(tuple(numbers))(*torch.tensor(list(numbers.values()), dtype=torch.float32).unbind())
        p._table = made
    return made


_public_parts, _public_coloured = shapes.parts, paint.coloured


@cache
def _some(kinds: shapes.Kinds, *wanted: int) -> Callable:
    """Distances to the materials ``wanted`` only, compiled from ``shapes.parts``: what is not asked for is not computed.

    Compiled in groups, because the sixteen kinds of portraits would be as many programs, each as long as all groups.
    """

    def some(world: tuple, head: tuple, p: Any) -> list[Tensor]:
        distances = dict(_public_parts(world, head, p, kinds))
        return [distances[material] for material in wanted]

    return _compiled(some)


def _parts(world: tuple, head: tuple, p: Any, kinds: shapes.Kinds) -> list[tuple[int, Tensor]]:
    if len(head[0]) < FEW or not shutil.which("g++"):
        return _public_parts(world, head, p, kinds)
    p, plain = _table(p), shapes.Kinds("short", False, False)
    core = (shapes.SKIN, shapes.EYE, shapes.NECK, shapes.CLOTH)
    groups = [(plain, core), (shapes.Kinds(kinds.style, False, False), (shapes.HAIR,))]
    groups += [(shapes.Kinds("short", False, True), (shapes.BEARD,))] * kinds.beard
    groups += [(shapes.Kinds("short", True, False), (shapes.GLASSES,))] * kinds.glasses
    found: dict[int, Tensor] = {}
    for which, wanted in groups:
        found |= zip(wanted, _some(which, *wanted)(world, head, p), strict=True)
    return [(material, found[material]) for material in _ORDER if material in found]


_ORDER = (shapes.SKIN, shapes.EYE, shapes.HAIR, shapes.BEARD, shapes.GLASSES, shapes.NECK, shapes.CLOTH)


@cache
def _paint() -> Callable:
    return _compiled(_public_coloured)


def _coloured(head: tuple, material: Tensor, palette: Tensor, p: Any) -> Tensor:
    if len(material) < FEW or not shutil.which("g++"):
        return _public_coloured(head, material, palette, p)
    return _paint()(head, material, palette, _table(p))
