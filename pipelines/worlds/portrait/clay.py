"""The renderer: sphere tracing of the shapes, and light as on clay.

Work goes in four steps: a coarse trace on half the rows and columns, a refining trace on all, shading, and the same
again with `supersample`^2 rays in the pixels where the picture has an edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .paint import FLOAT, coloured, palette_of
from .people import Portrait
from .shapes import (
    BACKGROUND,
    BEARD,
    CLOTH,
    EYE,
    GLASSES,
    HAIR,
    NECK,
    SKIN,
    Kinds,
    Number,
    face,
    materials,
    nearest,
    numbers_of,
    parts,
    rotation_of,
)

DISTANCE = 7.0  # camera to the middle of the head
CENTRE_Y = -0.13  # the height that the camera looks at
HALF_EXTENT = 1.72  # half of the shorter side of the picture, measured at the middle of the head
NEAR, FAR = 5.2, 8.6  # where rays begin and give up
PIVOT = (0.0, -0.75, -0.15)  # the head turns about the top of the neck
LEAST_STEP = 0.006  # head units per step taken so far
EDGE = 0.045  # neighbouring pixels that differ by more are supersampled

MASKS = ("face", "hair", "neck", "body", "glasses", "beard", "background")
_MASK_OF_MATERIAL = {
    "face": (SKIN, EYE), "hair": (HAIR,), "neck": (NECK,), "body": (CLOTH,),
    "glasses": (GLASSES,), "beard": (BEARD,), "background": (BACKGROUND,),
}  # fmt: skip
OUTLINE_POINTS = 13
LANDMARK_NAMES = (
    "left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner",
    *(f"outline {index}" for index in range(OUTLINE_POINTS)),
)  # fmt: skip
"""Left and right as seen in the picture; the outline runs from the left ear along the chin to the right ear."""

LIGHT_RGB = {"warm": (1.06, 0.99, 0.86), "neutral": (1.0, 1.0, 1.0), "cool": (0.90, 0.98, 1.08)}


@dataclass
class PortraitTruth:
    """Pictures and, with `truth=True`, what is known about them. B pictures of H by W pixels."""

    image: Tensor
    """(B, 3, H, W) float32 RGB in [0, 1]."""
    depth: Tensor | None = None
    """(B, 1, H, W) distance from the camera along the ray, in head units; 0 on the background."""
    valid: Tensor | None = None
    """(B, 1, H, W) bool, True where `depth`, `normals` and `shading` have a meaning: everywhere but the background."""
    normals: Tensor | None = None
    """(B, 3, H, W) unit vectors in the camera's frame (x right, y up, z towards the camera); 0 on the background."""
    shading: Tensor | None = None
    """(B, 1, H, W) light that arrives, about 0 to 1.2, without the surface's colour; 0 on the background."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Name in `MASKS` -> (B, H, W) bool; every pixel is in exactly one. Eyes, brows and mouth count as face."""
    landmarks: Tensor | None = None
    """(B, L, 2) places (y, x) in pixels, 0.5 being the middle of the first pixel; order of `LANDMARK_NAMES`."""
    visible: Tensor | None = None
    """(B, L) bool, True where the landmark is inside the picture, on face or beard, with nothing before it."""


class _Group:
    """Portraits that share the kinds of shapes, with their numbers as a table (B, P) on the device.

    One portrait on the CPU keeps its numbers as Python floats: that spares a gather per number and evaluation.
    """

    def __init__(self, portraits: Sequence[Portrait], device: torch.device):
        rows = []
        for portrait in portraits:
            numbers = numbers_of(portrait)
            rotation = rotation_of(portrait.shot)
            numbers |= {f"r{i}{j}": rotation[i][j] for i in range(3) for j in range(3)}
            azimuth, elevation = portrait.shot.light_azimuth, portrait.shot.light_elevation
            numbers["light_x"] = math.sin(azimuth) * math.cos(elevation)
            numbers["light_y"] = math.sin(elevation)
            numbers["light_z"] = math.cos(azimuth) * math.cos(elevation)
            rows.append(numbers)
        self.names = {name: column for column, name in enumerate(rows[0])}
        self.single = SimpleNamespace(**rows[0]) if len(rows) == 1 else None
        self.table = torch.tensor([list(row.values()) for row in rows], dtype=FLOAT, device=device)
        self.kinds = Kinds.of(portraits[0].identity)
        self.palette = torch.tensor([palette_of(portrait) for portrait in portraits], dtype=FLOAT, device=device)
        lights = [LIGHT_RGB[portrait.shot.light_colour] for portrait in portraits]
        self.light_rgb = torch.tensor(lights, dtype=FLOAT, device=device)

    def at(self, index: Tensor) -> Numbers:
        """Numbers by name: floats, or (N,) tensors for rays that belong to the portraits `index` (N,)."""
        return self.single or _Columns(self, index)


class _Columns:
    def __init__(self, group: _Group, index: Tensor):
        self._group, self._index = group, index

    def __getattr__(self, name: str) -> Tensor:
        values = self._group.table[:, self._group.names[name]][self._index]
        setattr(self, name, values)
        return values


Numbers = SimpleNamespace | _Columns
"""What :meth:`_Group.at` gives."""


@dataclass
class _Rays:
    """N rays: portrait index, world direction from the camera, and origin and direction in the head's frame."""

    group: _Group
    index: Tensor
    direction: tuple[Tensor, Tensor, Tensor]
    head_origin: tuple[Any, Any, Any]
    head_direction: tuple[Tensor, Tensor, Tensor]

    def take(self, chosen: Tensor) -> _Rays:
        x, y, z = self.direction
        head_x, head_y, head_z = self.head_direction
        origin = self.head_origin
        if not self.group.single:
            origin = (origin[0][chosen], origin[1][chosen], origin[2][chosen])
        return _Rays(
            self.group,
            self.index[chosen],
            (x[chosen], y[chosen], z[chosen]),
            origin,
            (head_x[chosen], head_y[chosen], head_z[chosen]),
        )

    def points(self, t: Tensor) -> tuple[tuple, tuple]:
        dx, dy, dz = self.direction
        world = (dx * t, dy * t + CENTRE_Y, dz * t + DISTANCE)
        head = tuple(o + d * t for o, d in zip(self.head_origin, self.head_direction, strict=True))
        return world, head


def _into_head(x: Number, y: Number, z: Number, p: Numbers) -> tuple[Any, Any, Any]:
    """Turn a world vector into the head's frame (the transposed rotation)."""
    return (
        p.r00 * x + p.r10 * y + p.r20 * z,
        p.r01 * x + p.r11 * y + p.r21 * z,
        p.r02 * x + p.r12 * y + p.r22 * z,
    )


def _cast(group: _Group, index: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> _Rays:
    """Rays through places (rows, columns) in pixels, both (N,)."""
    height, width = size
    scale = 2 * HALF_EXTENT / min(height, width)
    x, y = (columns - width / 2) * scale, (height / 2 - rows) * scale
    length = 1 / (x * x + y * y + DISTANCE * DISTANCE).sqrt()
    direction = (x * length, y * length, -DISTANCE * length)
    p = group.at(index)
    shifted = (-PIVOT[0], CENTRE_Y - PIVOT[1], DISTANCE - PIVOT[2])
    origin = tuple(a + b for a, b in zip(_into_head(*shifted, p), PIVOT, strict=True))
    return _Rays(group, index, direction, origin, _into_head(*direction, p))


def _trace(rays: _Rays, start: Tensor, steps: int, precision: float) -> Tensor:
    """Distance (N,) along each ray to the first surface; FAR or more where it misses."""
    result = start.clone()
    active = torch.arange(len(start), device=start.device)
    current, t = rays, start.clone()
    for step in range(steps):
        world, head = current.points(t)
        distance = nearest(parts(world, head, current.group.at(current.index), current.group.kinds))
        # rays that graze a surface would creep: they go on by a least step, longer the later it is
        least = min(LEAST_STEP * step, 10 * LEAST_STEP)
        t = t + torch.where(distance > precision, distance.clamp(min=least), distance)
        if step % 2 == 1 or step == steps - 1:
            result[active] = t
            going = (distance.abs() > precision) & (t < FAR)
            going = going.nonzero()[:, 0]
            if len(going) == 0:
                return result
            active, t, current = active[going], t[going], current.take(going)
    # rays that ran out of steps graze something: they hit it if they are next to it
    result[active] = torch.where(distance[going] < 3 * precision, t, FAR)
    return result


def _background(rays: _Rays) -> Tensor:
    """A plain colour, a little lighter behind the head."""
    x, y, _ = rays.direction
    colour = rays.group.palette[rays.index, BACKGROUND]
    glow = 1.03 - 2.2 * (x * x + (y - 0.02) ** 2)
    return (colour * glow[:, None]).clamp(0, 1)


@dataclass
class _Surface:
    """What is found along N rays."""

    rgb: Tensor  # (N, 3) in [0, 1]
    t: Tensor  # (N,)
    material: Tensor  # (N,) long
    normal: Tensor  # (N, 3), 0 on the background
    shading: Tensor  # (N,)


def _shade(rays: _Rays, t: Tensor) -> _Surface:
    count = len(t)
    rgb = _background(rays)
    material = torch.zeros(count, dtype=torch.long, device=t.device)
    normal, shading = (
        torch.zeros(count, 3, dtype=FLOAT, device=t.device),
        torch.zeros(count, dtype=FLOAT, device=t.device),
    )
    hit = (t < FAR).nonzero()[:, 0]
    if len(hit):
        rgb[hit], material[hit], normal[hit], shading[hit] = _shade_hits(rays.take(hit), t[hit])
    return _Surface(rgb, t, material, normal, shading)


def _shade_hits(rays: _Rays, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour (N, 3), material (N,), normal (N, 3) and shading (N,) where rays meet a surface."""
    group, p = rays.group, rays.group.at(rays.index)
    world, head = rays.points(t)
    here, material = materials(parts(world, head, p, group.kinds))

    def field_at(dx: Number, dy: Number, dz: Number) -> Tensor:
        moved = (world[0] + dx, world[1] + dy, world[2] + dz)
        turned = tuple(a + b for a, b in zip(head, _into_head(dx, dy, dz, p), strict=True))
        return nearest(parts(moved, turned, p, group.kinds))

    tiny = 0.004
    slope = torch.stack([field_at(tiny, 0.0, 0.0), field_at(0.0, tiny, 0.0), field_at(0.0, 0.0, tiny)], 1)
    normal = torch.nn.functional.normalize(slope - here[:, None], dim=1)
    nx, ny, nz = normal.unbind(1)
    lx, ly, lz = p.light_x, p.light_y, p.light_z

    cave = (field_at(nx * 0.22, ny * 0.22, nz * 0.22) / 0.22).clamp(0, 1)
    lit = torch.ones_like(t)
    for far in (0.14, 0.40):
        lit = torch.minimum(
            lit, field_at(lx * far + nx * 0.03, ly * far + ny * 0.03, lz * far + nz * 0.03) * (3.2 / far) + 0.25
        )
    lit = lit.clamp(0, 1)
    lit = 0.35 + 0.65 * lit * lit * (3 - 2 * lit)  # a soft shadow that never goes black
    cave = 0.45 + 0.55 * cave

    facing = nx * lx + ny * ly + nz * lz
    is_skin = (material == SKIN) | (material == NECK)
    wrap = torch.where(is_skin, torch.tensor(0.35, dtype=FLOAT, device=t.device), 0.15)
    key = ((facing + wrap) / (1 + wrap)).clamp(0, 1) * lit
    # light that went through skin comes out redder: the red channel wraps further around
    red = ((facing + 0.55) / 1.55).clamp(0, 1) * (0.3 + 0.7 * lit)
    sky = (0.62 + 0.38 * ny) * cave
    dx, dy, dz = rays.direction
    toward = -(nx * dx + ny * dy + nz * dz)
    rim = (1 - toward.clamp(0, 1)) ** 3 * (0.6 + 0.4 * ny).clamp(0, 1) * cave
    shading = 0.74 * key + 0.48 * sky

    light = group.light_rgb[rays.index]
    fill = torch.where(
        is_skin[:, None],
        torch.tensor((1.06, 0.96, 0.90), dtype=FLOAT, device=t.device),
        torch.ones(3, dtype=FLOAT, device=t.device),
    )
    light = 0.74 * key[:, None] * light + 0.48 * sky[:, None] * fill + 0.10 * rim[:, None]
    warm = torch.where(is_skin, 0.74 * (red - key).clamp(min=0), 0.0)
    light = light + warm[:, None] * torch.tensor((0.55, 0.12, 0.06), dtype=FLOAT, device=t.device)

    colour = coloured(head, material, group.palette[rays.index], p)
    hx, hy, hz = lx - dx, ly - dy, lz - dz
    half = (nx * hx + ny * hy + nz * hz) / (hx * hx + hy * hy + hz * hz).sqrt()
    gloss = half.clamp(0, 1) ** 24 * lit
    strength = torch.tensor((0, 0.07, 0.10, 0.10, 0.04, 0.35, 0.05, 0.02), dtype=FLOAT, device=t.device)[material]
    colour = colour * colour * light + (gloss * strength + 0.02 * rim)[:, None]
    return colour.clamp(0, 1).sqrt(), material, normal, shading


def render(
    portraits: Sequence[Portrait],
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
    supersample: int = 2,
    truth: bool = False,
) -> PortraitTruth:
    """Draw portraits at `size` (side, or height and width), with `supersample`^2 rays in the pixels that have an edge.

    Truth is that of the ray through the middle of each pixel.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not portraits:
        raise ValueError("there is no portrait to render: give at least one")
    if not (8 <= height <= 4096 and 8 <= width <= 4096):
        raise ValueError(f"size is {height}x{width}: give a height and a width from 8 to 4096 pixels")
    if not 1 <= supersample <= 8:
        raise ValueError(f"supersample is {supersample}: give a whole number from 1 to 8")
    device = torch.device(device)
    drawn: list[PortraitTruth | None] = [None] * len(portraits)
    with torch.no_grad():  # not inference_mode: training saves these tensors for its backward pass
        for places in _groups(portraits, device, height * width):
            group = _Group([portraits[place] for place in places], device)
            for place, one in zip(places, _draw(group, len(places), (height, width), supersample, truth), strict=True):
                drawn[place] = one
        joined = _joined(drawn)
    return joined


def _groups(portraits: Sequence[Portrait], device: torch.device, pixels: int) -> list[list[int]]:
    """Places of portraits to draw together: one at a time on the CPU (fits its cache), those of one kind on a GPU."""
    if device.type == "cpu":
        return [[place] for place in range(len(portraits))]
    kinds: dict[Kinds, list[int]] = {}
    for place, portrait in enumerate(portraits):
        kinds.setdefault(Kinds.of(portrait.identity), []).append(place)
    most = max(1, (64 * 256 * 256) // pixels)
    return [places[i : i + most] for places in kinds.values() for i in range(0, len(places), most)]


def _grid(count: int, height: int, width: int, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Portrait index, row and column (pixel centres of a grid of `step`-pixel cells), each (count * h * w,)."""
    rows = torch.arange(0, height, step, device=device, dtype=FLOAT) + step / 2
    columns = torch.arange(0, width, step, device=device, dtype=FLOAT) + step / 2
    index = torch.arange(count, device=device)
    shape = (count, len(rows), len(columns))
    spread = (index[:, None, None], rows[None, :, None], columns[None, None, :])
    portrait, row, column = (axis.expand(shape).flatten() for axis in spread)
    return portrait, row, column


def _nearest_around(t: Tensor, radius: int) -> Tensor:
    """Smallest of the neighbouring values of (B, H, W)."""
    return -torch.nn.functional.max_pool2d(-t[:, None], 2 * radius + 1, 1, radius)[:, 0]


def _draw(group: _Group, count: int, size: tuple[int, int], supersample: int, truth: bool) -> list[PortraitTruth]:
    height, width = size
    device = group.table.device
    coarse_size = (-(-height // 2), -(-width // 2))
    index, rows, columns = _grid(count, height, width, 2, device)
    rays = _cast(group, index, rows, columns, size)
    coarse = _trace(rays, torch.full_like(rows, NEAR), 24, 0.02).reshape(count, *coarse_size)
    start = _nearest_around(coarse, 1) - 0.12
    start = start.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]

    index, rows, columns = _grid(count, height, width, 1, device)
    rays = _cast(group, index, rows, columns, size)
    t = torch.full_like(rows, FAR)
    near = (start.flatten() < FAR - 0.2).nonzero()[:, 0]
    t[near] = _trace(rays.take(near), start.flatten()[near], 26, 0.003)
    surface = _shade(rays, t)
    image = surface.rgb.reshape(count, height, width, 3)
    if supersample > 1:
        image = _smoothed(group, image, t.reshape(count, height, width), supersample)
    image = image.permute(0, 3, 1, 2)
    if not truth:
        return [PortraitTruth(image=image[i : i + 1]) for i in range(count)]
    return _with_truth(group, image, surface, count, size)


def _smoothed(group: _Group, image: Tensor, t: Tensor, supersample: int) -> Tensor:
    """The picture (B, H, W, 3) with its edge pixels drawn again by several rays each."""
    count, height, width, _ = image.shape
    edge = torch.zeros(count, height, width, dtype=torch.bool, device=image.device)
    down = (image[:, 1:] - image[:, :-1]).abs().amax(-1) > EDGE
    right = (image[:, :, 1:] - image[:, :, :-1]).abs().amax(-1) > EDGE
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[:, :, 1:] |= right
    edge[:, :, :-1] |= right
    place = edge.flatten().nonzero()[:, 0]
    if len(place) == 0:
        return image
    index, inside = place // (height * width), place % (height * width)
    offsets = (torch.arange(supersample, dtype=FLOAT, device=image.device) + 0.5) / supersample
    rows = (inside // width)[:, None, None] + offsets[None, :, None]
    columns = (inside % width)[:, None, None] + offsets[None, None, :]
    rays_each = supersample * supersample
    rows, columns = (axis.expand(-1, supersample, supersample).flatten() for axis in (rows, columns))
    index = index.repeat_interleave(rays_each)
    start = (_nearest_around(t, 1) - 0.05).flatten()[place].repeat_interleave(rays_each)
    rays = _cast(group, index, rows, columns, (height, width))
    distance = _trace(rays, start, 24, 0.003)
    colours = _shade(rays, distance).rgb.reshape(-1, rays_each, 3).mean(1)
    image = image.clone().reshape(-1, 3)
    image[place] = colours
    return image.reshape(count, height, width, 3)


def _with_truth(
    group: _Group, image: Tensor, surface: _Surface, count: int, size: tuple[int, int]
) -> list[PortraitTruth]:
    height, width = size
    material = surface.material.reshape(count, height, width)
    valid = material != BACKGROUND
    depth = torch.where(valid, surface.t.reshape(count, height, width), 0.0)
    normals = surface.normal.reshape(count, height, width, 3).permute(0, 3, 1, 2)
    shading = surface.shading.reshape(count, 1, height, width)
    kinds = {
        name: sum((material == kind for kind in which), torch.zeros_like(valid))
        for name, which in _MASK_OF_MATERIAL.items()
    }
    masks = {name: mask.bool() for name, mask in kinds.items()}
    places, distances = _landmarks(group, count, size)
    row, column = places[..., 0].floor().long(), places[..., 1].floor().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    which = torch.arange(count, device=image.device)[:, None]
    slack = 0.06 + 4 * HALF_EXTENT / min(height, width)  # depth changes by about this within a pixel
    close = (depth[which, row, column] - distances).abs() < slack
    visible = inside & close & (masks["face"] | masks["beard"])[which, row, column]
    return [
        PortraitTruth(
            image[i : i + 1], depth[i : i + 1, None], valid[i : i + 1, None], normals[i : i + 1], shading[i : i + 1],
            {name: mask[i : i + 1] for name, mask in masks.items()}, places[i : i + 1], visible[i : i + 1],
        )
        for i in range(count)
    ]  # fmt: skip


def _landmarks(group: _Group, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places (B, L, 2) in pixels and distances (B, L) from the camera, of points found on skin or beard."""
    device = group.table.device
    number = len(LANDMARK_NAMES)
    index = torch.arange(count, device=device).repeat_interleave(number)
    p = group.at(index)

    def column(name: str) -> Tensor:
        return group.table[:, group.names[name]]

    zero, one = torch.zeros(count, dtype=FLOAT, device=device), torch.ones(count, dtype=FLOAT, device=device)
    spacing, mouth = column("spacing"), column("mouth_w") * (1 + 0.18 * column("smiling") - 0.45 * column("surprised"))
    corner_y = -0.50 + 0.06 * column("smiling") - 0.04 * column("surprised")
    # start points and directions: the face's points are looked for from the front, the outline's from the middle
    starts = [
        (-spacing, column("eye_y"), 2 * one), (spacing, column("eye_y"), 2 * one), (zero, zero - 0.17, 2 * one),
        (-mouth, corner_y, 2 * one), (mouth, corner_y, 2 * one),
    ]  # fmt: skip
    ways = [(0.0, 0.0, -1.0)] * 5
    for step in range(OUTLINE_POINTS):
        angle = math.radians(185 + 170 * step / (OUTLINE_POINTS - 1))
        way = (math.cos(angle), math.sin(angle), 0.0)
        starts.append((2 * way[0] * one, 2 * way[1] * one - 0.15, 0.40 * one))
        ways.append((-way[0], -way[1], 0.0))
    start = torch.stack([torch.stack(axes, -1) for axes in starts], 1).reshape(-1, 3)
    inwards = torch.tensor(ways, dtype=FLOAT, device=device).repeat(count, 1)
    t = torch.zeros(len(start), dtype=FLOAT, device=device)
    for _ in range(24):
        x, y, z = (start + inwards * t[:, None]).unbind(1)
        t = t + 0.9 * face(x, y, z, p, group.kinds)
    x, y, z = (start + inwards * t[:, None]).unbind(1)
    x, y, z = x - PIVOT[0], y - PIVOT[1], z - PIVOT[2]
    wx = p.r00 * x + p.r01 * y + p.r02 * z + PIVOT[0]
    wy = p.r10 * x + p.r11 * y + p.r12 * z + PIVOT[1] - CENTRE_Y
    wz = p.r20 * x + p.r21 * y + p.r22 * z + PIVOT[2] - DISTANCE
    height, width = size
    scale = min(height, width) / (2 * HALF_EXTENT)
    rows, columns = height / 2 - wy * (DISTANCE / -wz) * scale, width / 2 + wx * (DISTANCE / -wz) * scale
    distance = (wx * wx + wy * wy + wz * wz).sqrt()
    return torch.stack([rows, columns], -1).reshape(count, number, 2), distance.reshape(count, number)


def landmarks(portrait: Portrait, size: int | tuple[int, int] = 128) -> Tensor:
    """Places (L, 2), (y, x) in pixels as in :attr:`PortraitTruth.landmarks`, without a picture."""
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        return _landmarks(_Group([portrait], torch.device("cpu")), 1, (height, width))[0][0]


TURNING = ("face", "hair", "glasses", "beard")
"""Of :data:`MASKS`, what turns with the head; neck and clothes stay."""
SLACK = 0.08
"""Head units by which the depths of one place in two pictures may differ."""


def seen_in(one: Portrait, truth: PortraitTruth, other: Portrait, other_truth: PortraitTruth) -> tuple[Tensor, Tensor]:
    """Where what each pixel of ``one`` shows lies in a picture of the same person in another shot, of the same size.

    The head is followed as it turns; an expression is not followed: a place of the head stays that place, whatever is there.

    Returns:
        Places (H, W, 2), (y, x) in pixels of the other picture, 0.5 being the middle of the first pixel; and (H, W) bool, whether it is
        seen there: in the picture, with nothing before it. Of the background nothing is.

    Raises:
        ValueError: two people, truths of other than one picture each, or of two sizes.
    """
    if one.identity != other.identity:
        raise ValueError("the pictures show two people: give two shots of one")
    if truth.depth is None or other_truth.depth is None or len(truth.depth) != 1:
        raise ValueError("depth is needed: render each picture by itself, with truth=True")
    if truth.depth.shape != other_truth.depth.shape:
        raise ValueError(f"the pictures are of {tuple(truth.depth.shape)} and {tuple(other_truth.depth.shape)}")
    depth, theirs = truth.depth[0, 0], other_truth.depth[0, 0]
    height, width = depth.shape
    scale = 2 * HALF_EXTENT / min(height, width)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ways = torch.stack(
        ((columns - width / 2) * scale, (height / 2 - rows) * scale, torch.full_like(depth, -DISTANCE)), -1
    )
    eye, pivot = torch.tensor((0.0, CENTRE_Y, DISTANCE)), torch.tensor(PIVOT)
    along = torch.where(depth > 0, depth, FAR)[..., None]  # somewhere, for the background: nothing divides by 0
    world = torch.nn.functional.normalize(ways, dim=-1) * along + eye
    turn, their_turn = (torch.tensor(rotation_of(portrait.shot)) for portrait in (one, other))
    turned = (world - pivot) @ turn @ their_turn.T + pivot  # into the head's frame, and out of it in the other shot
    turns = torch.stack([truth.masks[name][0] for name in TURNING]).any(0)
    seen = torch.where(turns[..., None], turned, world) - eye
    x, y, z = seen.unbind(-1)
    far = DISTANCE / -z / scale
    places = torch.stack((height / 2 - y * far, width / 2 + x * far), -1)
    row, column = places.floor().long().unbind(-1)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    there = theirs[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return places, inside & (depth > 0) & ((there - seen.norm(dim=-1)).abs() < SLACK)


def _joined(drawn: list[PortraitTruth | None]) -> PortraitTruth:
    ones = [one for one in drawn if one is not None]

    def cat(name: str) -> Any:
        first = getattr(ones[0], name)
        return None if first is None else torch.cat([getattr(one, name) for one in ones])

    names = ("image", "depth", "valid", "normals", "shading", "landmarks", "visible")
    masks = {name: torch.cat([one.masks[name] for one in ones]) for name in ones[0].masks}
    return PortraitTruth(masks=masks, **{name: cat(name) for name in names})
