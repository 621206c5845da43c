"""Tabletop scenes: one to three solids on a floor, ray traced, with the truth known.

A :class:`Scene` is a plain description (a frozen dataclass); :func:`sample` draws one from a seed and
:func:`render` turns a list of them into pictures and, when asked, into ground truth: depth, normals,
instance masks, each solid's own shadow and reflection mask. Taking a solid out is
``scene.without(index)`` followed by another render, so the clean plate is exact by construction.

World frame: x to the right, y up, z towards the viewer; the floor is y = 0; lengths are arbitrary
units (a solid is about 1.3 units tall). Rays are traced analytically; pictures are (batch, 3, height,
width) in [0, 1], sRGB. All random choices use ``random.Random(seed)`` on the CPU, so a seed means the
same scene everywhere; CPU and CUDA renders agree to float32 rounding.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.worlds import grammar
from pipelines.worlds.grammar import BACKDROPS, FINISHES, FLOORS, NO_FINISH, SHAPES, Request, Thing

FLOAT = torch.float32
"""Named wherever numbers become tensors: a loader on another thread may change torch's default for the whole process."""

# Linear RGB albedo. Hues are spread so that a reader (and a classifier) never hesitates.
ALBEDO: dict[str, tuple[float, float, float]] = {
    "red": (0.72, 0.04, 0.05),
    "orange": (0.90, 0.27, 0.02),
    "yellow": (0.92, 0.72, 0.04),
    "green": (0.05, 0.42, 0.09),
    "blue": (0.04, 0.12, 0.65),
    "purple": (0.30, 0.05, 0.50),
    "white": (0.88, 0.88, 0.86),
    "black": (0.025, 0.025, 0.03),
}
# Pastel tints of the wall and of the plain floor; not named in captions.
WALL_TINTS = ((0.80, 0.75, 0.64), (0.56, 0.70, 0.78), (0.82, 0.62, 0.56), (0.60, 0.76, 0.60), (0.70, 0.64, 0.82))
PLAIN_TINTS = ((0.55, 0.50, 0.42), (0.42, 0.50, 0.52), (0.56, 0.44, 0.42), (0.45, 0.52, 0.42))
REFLECTIVITY = {"wood": 0.13, "marble": 0.26, "tile": 0.20, "plain": 0.07}

WALL_Z = -2.6
FAR = 40.0  # depth given to the sky
MAX_SOLIDS = 3
CLEARLY_NEARER = 0.9  # difference in z from which captions say in front of or behind
_LIGHT_SAMPLES = 8
_EPSILON = 1e-3


@dataclass(frozen=True)
class Solid:
    """One solid standing on the floor at (x, z); ``size`` is its radius or half side, ``turn`` in radians."""

    shape: str
    colour: str
    finish: str
    size: float
    x: float
    z: float
    turn: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture. Angles in radians; azimuth 0 puts the light behind the viewer."""

    solids: tuple[Solid, ...]
    floor: str
    backdrop: str
    tint: int = 0
    floor_tint: int = 0
    texture_offset: tuple[float, float] = (0.0, 0.0)
    light_azimuth: float = 0.8
    light_elevation: float = 0.8
    light_softness: float = 0.06
    camera_height: float = 2.3
    camera_distance: float = 6.2
    mirror: float = 1.0  # factor on the floor's reflectivity

    def without(self, index: int) -> Scene:
        """The same scene with solid ``index`` taken out.

        Raises:
            IndexError: there is no such solid.
        """
        if not 0 <= index < len(self.solids):
            raise IndexError(f"solid {index} does not exist: this scene has {len(self.solids)}")
        return replace(self, solids=self.solids[:index] + self.solids[index + 1 :])

    def mirrored(self) -> Scene:
        """The scene seen in a left-right mirror (floor texture aside)."""
        solids = tuple(replace(s, x=-s.x, turn=-s.turn) for s in self.solids)
        return replace(self, solids=solids, light_azimuth=-self.light_azimuth)

    def left_to_right(self) -> list[int]:
        """Indices of the solids as the viewer meets them from left to right."""
        return sorted(range(len(self.solids)), key=lambda i: self.solids[i].x)


@dataclass
class Truth:
    """What :func:`render` returns. Masks are bool, True where the thing is; K is ``MAX_SOLIDS``.

    image (B, 3, H, W) in [0, 1]; the rest is None unless truth was asked for:
    depth (B, 1, H, W) along the camera axis, ``FAR`` for the sky; normals (B, 3, H, W) unit, world frame,
    zero for the sky; instances, shadows, reflections (B, K, H, W): visible pixels of each solid, pixels
    that it keeps the key light from (not its own), floor pixels that mirror it.
    """

    image: Tensor
    depth: Tensor | None = None
    normals: Tensor | None = None
    instances: Tensor | None = None
    shadows: Tensor | None = None
    reflections: Tensor | None = None


# ---------------------------------------------------------------------------------------- sampling


def sample(seed: int, count: int | None = None) -> Scene:
    """Draw the scene that belongs to ``seed``; ``count`` fixes the number of solids (1 to 3).

    Solids never touch, and their order from left to right is clear in the picture.

    Raises:
        ValueError: ``count`` is not 1, 2 or 3.
    """
    if count is not None and count not in (1, 2, 3):
        raise ValueError(f"a scene has 1, 2 or 3 solids, not {count}")
    rng = random.Random(f"tabletop {seed}")
    count = count or rng.choices((1, 2, 3), (0.45, 0.43, 0.12))[0]
    placed = []
    for place in range(count):
        if count == 1:
            x, z, size = rng.uniform(-0.55, 0.55), rng.uniform(-0.5, 0.7), rng.uniform(0.62, 0.92)
        elif count == 2:
            x, z, size = (place - 0.5) * 1.9 + rng.uniform(-0.18, 0.18), rng.uniform(-0.9, 0.9), rng.uniform(0.48, 0.66)
        else:
            x, z, size = (place - 1) * 1.32 + rng.uniform(-0.1, 0.1), rng.uniform(-0.7, 0.6), rng.uniform(0.38, 0.5)
        placed.append((x, z, size))
    if count == 2 and rng.random() < 0.5:  # half of the pairs stand clearly one behind the other
        far, near = rng.uniform(-1.0, -0.5), rng.uniform(0.45, 0.9)
        depths = [far, near] if rng.random() < 0.5 else [near, far]
        placed = [(x, depth, size) for (x, _, size), depth in zip(placed, depths, strict=True)]
    solids = [
        Solid(
            rng.choice(SHAPES), rng.choice(tuple(ALBEDO)), rng.choice(FINISHES), size, x, z, rng.uniform(0, math.pi / 2)
        )
        for x, z, size in placed
    ]
    side = rng.choice((-1, 1))
    return Scene(
        solids=tuple(solids),
        floor=rng.choice(FLOORS),
        backdrop=rng.choice(BACKDROPS),
        tint=rng.randrange(len(WALL_TINTS)),
        floor_tint=rng.randrange(len(PLAIN_TINTS)),
        texture_offset=(rng.uniform(0, 7), rng.uniform(0, 7)),
        light_azimuth=side * rng.uniform(0.45, 1.7),
        light_elevation=rng.uniform(0.62, 1.0),
        light_softness=rng.uniform(0.04, 0.1),
        camera_height=rng.uniform(2.0, 2.6),
        camera_distance=rng.uniform(6.0, 6.5),
    )


def attributes(scene: Scene) -> dict[str, Any]:
    """What can be verified in a picture of ``scene``: the things from left to right, which of each pair of
    neighbours is clearly nearer (0 left, 1 right, None when they stand level), floor and backdrop."""
    solids = [scene.solids[i] for i in scene.left_to_right()]
    gaps = [b.z - a.z for a, b in itertools.pairwise(solids)]
    return {
        "things": tuple(Thing(s.shape, s.colour, None if s.colour in NO_FINISH else s.finish) for s in solids),
        "nearer": tuple(None if abs(gap) < CLEARLY_NEARER else int(gap > 0) for gap in gaps),
        "floor": scene.floor,
        "backdrop": scene.backdrop,
    }


def request(scene: Scene, rng: random.Random) -> Request:
    """What one caption of ``scene`` says of it: finish, floor, backdrop and the kind of relation vary with ``rng``."""
    facts = attributes(scene)
    things = [replace(t, finish=t.finish if rng.random() < 0.5 else None) for t in facts["things"]]
    relation = None
    if len(things) == 2:
        relation = rng.choice(("left", "right"))
        if facts["nearer"][0] is not None and rng.random() < 0.4:
            relation = "front" if (facts["nearer"][0] == 0) else "behind"
            if rng.random() < 0.5:
                things, relation = things[::-1], {"front": "behind", "behind": "front"}[relation]
        elif rng.random() < 0.15:
            relation, things = None, rng.sample(things, 2)
        elif relation == "right":
            things = things[::-1]
    elif len(things) == 3:
        relation = "row"
    return Request(
        tuple(things),
        relation,
        scene.floor if rng.random() < 0.7 else None,
        scene.backdrop if rng.random() < 0.6 else None,
    )


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """One English phrase that is true of ``scene``; without ``rng`` the wording is always the same."""
    rng = rng or random.Random(0)
    return grammar.phrase(request(scene, rng), rng)


# ---------------------------------------------------------------------------------------- geometry
# Vectors are (3, B, N): three planes of B scenes with N rays. Solid parameters are (B, 1).


@dataclass
class _Packed:
    """A batch of scenes as tensors; slot k of a scene without a k-th solid has shape id -1."""

    shape: Tensor  # (B, K) long
    centre: Tensor  # (3, B, K)
    size: Tensor  # (B, K)
    turn: Tensor  # (2, B, K) cos and sin
    albedo: Tensor  # (3, B, K)
    gloss: Tensor  # (B, K)
    scenes: Sequence[Scene]
    device: torch.device

    def slots(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (slot, shape id, rows of the batch that have this shape there)."""
        for slot in range(MAX_SOLIDS):
            for shape in range(len(SHAPES)):
                rows = (self.shape[:, slot] == shape).nonzero().flatten()
                if len(rows):
                    yield slot, shape, rows


def _pack(scenes: Sequence[Scene], device: str | torch.device) -> _Packed:
    count = len(scenes)
    shape = torch.full((count, MAX_SOLIDS), -1, dtype=torch.long)
    centre, albedo = torch.zeros(3, count, MAX_SOLIDS, dtype=FLOAT), torch.zeros(3, count, MAX_SOLIDS, dtype=FLOAT)
    size, gloss = torch.ones(count, MAX_SOLIDS, dtype=FLOAT), torch.zeros(count, MAX_SOLIDS, dtype=FLOAT)
    turn = torch.zeros(2, count, MAX_SOLIDS, dtype=FLOAT)
    for row, scene in enumerate(scenes):
        for slot, solid in enumerate(scene.solids):
            shape[row, slot] = SHAPES.index(solid.shape)
            centre[:, row, slot] = torch.tensor((solid.x, 0.0, solid.z), dtype=FLOAT)
            albedo[:, row, slot] = torch.tensor(ALBEDO[solid.colour], dtype=FLOAT)
            size[row, slot], gloss[row, slot] = solid.size, float(solid.finish == "glossy")
            turn[:, row, slot] = torch.tensor((math.cos(solid.turn), math.sin(solid.turn)), dtype=FLOAT)
    device = torch.device(device)
    # `shape` stays on the CPU: it only steers which rows go through which formula.
    moved = (x.to(device) for x in (centre, size, turn, albedo, gloss))
    centre, size, turn, albedo, gloss = moved
    return _Packed(shape, centre, size, turn, albedo, gloss, scenes, device)


def _height(shape: int) -> float:
    """Height of a solid in units of its size."""
    return {"cube": 2.0, "sphere": 2.0, "cylinder": 2.1, "cone": 2.4}[SHAPES[shape]]


def _nearest(candidates: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The smallest t among (t, valid) pairs with t above the self-hit guard; inf where none is valid."""
    best = torch.full_like(candidates[0][0], math.inf)
    for t, valid in candidates:
        best = torch.where(valid & (t > _EPSILON) & (t < best), t, best)
    return best


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Roots of a t^2 + 2 half_b t + c = 0 and where they are real."""
    discriminant = half_b * half_b - a * c
    root = discriminant.clamp_min(0).sqrt()
    safe = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    return (-half_b - root) / safe, (-half_b + root) / safe, discriminant > 0


def _hit(shape: int, origin: Tensor, direction: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """Distance (B, N) along each ray to a solid whose foot is the origin of ``origin``; inf for a miss."""
    ox, oy, oz = origin
    dx, dy, dz = direction
    name, top = SHAPES[shape], size * _height(shape)
    if name == "sphere":
        oy = oy - size
        half_b = ox * dx + oy * dy + oz * dz
        near, far, real = _roots(torch.ones_like(half_b), half_b, ox * ox + oy * oy + oz * oz - size * size)
        return _nearest([(near, real), (far, real)])
    if name == "cube":
        cos, sin = turn
        ox, oz, dx, dz = cos * ox + sin * oz, cos * oz - sin * ox, cos * dx + sin * dz, cos * dz - sin * dx
        enter, leave = None, None
        for o, d in ((ox, dx), (oy - size, dy), (oz, dz)):
            inverse = 1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
            first, second = (-size - o) * inverse, (size - o) * inverse
            low, high = torch.minimum(first, second), torch.maximum(first, second)
            enter = low if enter is None else torch.maximum(enter, low)
            leave = high if leave is None else torch.minimum(leave, high)
        assert enter is not None and leave is not None
        hit = enter <= leave
        return _nearest([(enter, hit), (leave, hit)])
    if name == "cylinder":
        near, far, real = _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - size * size)
        side = [(t, real & ((oy + t * dy) >= 0) & ((oy + t * dy) <= top)) for t in (near, far)]
        cap = (top - oy) / torch.where(dy.abs() < 1e-9, torch.full_like(dy, 1e-9), dy)
        px, pz = ox + cap * dx, oz + cap * dz
        return _nearest([*side, (cap, px * px + pz * pz <= size * size)])
    # Cone: x^2 + z^2 = (k (top - y))^2 with k = radius / height, for 0 <= y <= top.
    slope = size / top
    down = top - oy
    a = dx * dx + dz * dz - (slope * dy) ** 2
    half_b = ox * dx + oz * dz + slope * slope * down * dy
    near, far, real = _roots(a, half_b, ox * ox + oz * oz - (slope * down) ** 2)
    return _nearest([(t, real & ((oy + t * dy) >= 0) & ((oy + t * dy) <= top)) for t in (near, far)])


def _normal(shape: int, point: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """Outward unit normal (3, B, N) at surface points given relative to the solid's foot."""
    x, y, z = point
    name, top = SHAPES[shape], size * _height(shape)
    if name == "sphere":
        return torch.stack((x, y - size, z)) / size
    if name == "cube":
        cos, sin = turn
        local = torch.stack((cos * x + sin * z, y - size, cos * z - sin * x))
        face = torch.nn.functional.one_hot(local.abs().argmax(0), 3).movedim(-1, 0) * local.sign()
        return torch.stack((cos * face[0] - sin * face[2], face[1], sin * face[0] + cos * face[2]))
    radial = (x * x + z * z).sqrt().clamp_min(1e-6)
    if name == "cylinder":
        cap = (y > top - 2e-3).to(x)
        return torch.stack((x / radial * (1 - cap), cap, z / radial * (1 - cap)))
    slope = size / top
    length = math.sqrt(1 + (1 / _height(SHAPES.index("cone"))) ** 2)
    return torch.stack((x / radial, slope.expand_as(x), z / radial)) / length


def _trace(packed: _Packed, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest solid along each ray: distance (B, N), inf for none, and slot (B, N) long, -1 for none."""
    distance = torch.full(direction.shape[1:], math.inf, dtype=FLOAT, device=direction.device)
    slot_hit = torch.full(direction.shape[1:], -1, dtype=torch.long, device=direction.device)
    for slot, shape, rows in packed.slots():
        t = _hit(shape, *_relative(packed, slot, rows, origin, direction))
        closer = t < distance[rows]
        distance[rows] = torch.where(closer, t, distance[rows])
        slot_hit[rows] = torch.where(closer, torch.full_like(slot_hit[rows], slot), slot_hit[rows])
    return distance, slot_hit


def _relative(packed: _Packed, slot: int, rows: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    moved = origin[:, rows] - packed.centre[:, rows, slot].unsqueeze(-1)
    turn = packed.turn[:, rows, slot].unsqueeze(-1)
    return moved, direction[:, rows], packed.size[rows, slot].unsqueeze(-1), turn


def _surface(packed: _Packed, point: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normal (3, B, N), albedo (3, B, N) and gloss (B, N) at points on the solids named by ``slots``."""
    normal, albedo = torch.zeros_like(point), torch.zeros_like(point)
    gloss = torch.zeros_like(point[0])
    for slot, shape, rows in packed.slots():
        here, _, size, turn = _relative(packed, slot, rows, point, point)
        on = (slots[rows] == slot).unsqueeze(0)
        normal[:, rows] = torch.where(on, _normal(shape, here, size, turn), normal[:, rows])
        albedo[:, rows] = torch.where(on, packed.albedo[:, rows, slot].unsqueeze(-1), albedo[:, rows])
        gloss[rows] = torch.where(on[0], packed.gloss[rows, slot].unsqueeze(-1), gloss[rows])
    return normal, albedo, gloss


# ------------------------------------------------------------------------------------------ shading


def _floor_albedo(scene: Scene, x: Tensor, z: Tensor) -> Tensor:
    """Albedo (3, N) of the floor at world (x, z); fine pattern fades out with distance (no moire)."""
    x, z = x.clamp(-60, 60) + scene.texture_offset[0], z.clamp(-60, 60) + scene.texture_offset[1]
    fade = torch.exp(-((scene.texture_offset[1] - z).clamp_min(0) / 6.0))
    if scene.floor == "plain":
        return (
            torch.tensor(PLAIN_TINTS[scene.floor_tint], dtype=FLOAT, device=x.device).unsqueeze(1).expand(3, x.numel())
        )
    if scene.floor == "wood":
        plank = torch.floor(z / 0.55)
        tone = torch.sin(plank * 12.9898) * 0.5 + 0.5
        grain = torch.sin(z * 23.0 + torch.sin(x * 1.7 + plank * 3.1) * 1.6) * 0.5 + 0.5
        gap = (torch.abs(z / 0.55 - plank - 0.5) > 0.465).to(x)
        level = (0.80 + 0.30 * tone + 0.12 * grain - 1.02) * fade + 1.02
        level = level * (1 - 0.45 * gap * fade)
        return torch.tensor((0.40, 0.205, 0.085), dtype=FLOAT, device=x.device).unsqueeze(1) * level
    if scene.floor == "tile":
        checker = ((torch.floor(x / 0.9) + torch.floor(z / 0.9)) % 2) * 2 - 1
        level = 0.42 + 0.20 * checker * fade
        return torch.tensor((0.86, 1.0, 1.06), dtype=FLOAT, device=x.device).unsqueeze(1) * level
    swirl = x * 0.9 + z * 0.6 + 1.3 * torch.sin(z * 1.1 + 0.7 * torch.sin(x * 1.3)) + 0.5 * torch.sin(x * 2.9 + z * 1.9)
    vein = torch.exp(-(torch.sin(swirl) ** 2) * 14.0)
    return torch.tensor((0.74, 0.73, 0.71), dtype=FLOAT, device=x.device).unsqueeze(1) * (1 - 0.5 * vein * fade)


def _background(scene: Scene, direction: Tensor) -> Tensor:
    """Sky radiance (3, N) for rays that meet nothing."""
    up = direction[1].clamp(-0.05, 1.0)
    horizon = torch.tensor((0.78, 0.86, 0.92), dtype=FLOAT, device=up.device).unsqueeze(1)
    zenith = torch.tensor((0.16, 0.36, 0.74), dtype=FLOAT, device=up.device).unsqueeze(1)
    mix = (up * 5.0 + 0.12).clamp(0, 1)
    return horizon * (1 - mix) + zenith * mix


def _key_light(scene: Scene) -> Tensor:
    """Unit vector towards the key light."""
    flat = math.cos(scene.light_elevation)
    return torch.tensor(
        (
            flat * math.sin(scene.light_azimuth),
            math.sin(scene.light_elevation),
            flat * math.cos(scene.light_azimuth),
        ),
        dtype=FLOAT,
    )


def _light_directions(packed: _Packed, subpixel: Tensor) -> Iterator[Tensor]:
    """Directions (3, B, N) to points spread over the light's disc; turned per subpixel to smooth penumbras."""
    centre = torch.stack([_key_light(scene) for scene in packed.scenes], 1).to(packed.device)  # (3, B)
    up = torch.tensor((0.0, 1.0, 0.0), dtype=FLOAT, device=packed.device).unsqueeze(1).expand_as(centre)
    side = torch.nn.functional.normalize(torch.linalg.cross(centre, up, dim=0), dim=0)
    other = torch.linalg.cross(side, centre, dim=0)
    softness = torch.tensor([scene.light_softness for scene in packed.scenes], dtype=FLOAT, device=packed.device)
    turns = torch.arange(4, dtype=FLOAT, device=packed.device) * (math.pi / 8)
    for index in range(_LIGHT_SAMPLES):
        radius = math.sqrt((index + 0.5) / _LIGHT_SAMPLES)
        angle = index * 2.399963 + turns  # golden angle
        offset = radius * softness.unsqueeze(1) * torch.stack((angle.cos(), angle.sin())).unsqueeze(1)  # (2, B, 4)
        directions = centre.unsqueeze(-1) + side.unsqueeze(-1) * offset[0] + other.unsqueeze(-1) * offset[1]
        yield torch.nn.functional.normalize(directions, dim=0)[:, :, subpixel]


def _visibility(packed: _Packed, point: Tensor, subpixel: Tensor, per_solid: bool) -> tuple[Tensor, Tensor | None]:
    """Share of the light's disc seen from each point: (B, N), and per solid the share it hides (K, B, N)."""
    shape = point.shape[1:]
    visible = torch.zeros(shape, dtype=FLOAT, device=point.device)
    hidden = torch.zeros(MAX_SOLIDS, *shape, dtype=FLOAT, device=point.device) if per_solid else None
    for direction in _light_directions(packed, subpixel):
        clear = torch.ones(shape, dtype=torch.bool, device=point.device)
        for slot, kind, rows in packed.slots():
            blocked = torch.isfinite(_hit(kind, *_relative(packed, slot, rows, point, direction)))
            clear[rows] &= ~blocked
            if hidden is not None:
                hidden[slot, rows] += blocked.to(hidden)
        visible += clear
    return visible / _LIGHT_SAMPLES, None if hidden is None else hidden / _LIGHT_SAMPLES


def _contact(packed: _Packed, point: Tensor, slots: Tensor) -> Tensor:
    """Ambient light (B, N) that reaches a floor point: solids darken the ground close to their foot."""
    open_sky = torch.ones_like(point[0])
    for slot, _, rows in packed.slots():
        centre, size = packed.centre[:, rows, slot].unsqueeze(-1), packed.size[rows, slot].unsqueeze(-1)
        away = ((point[0, rows] - centre[0]) ** 2 + (point[2, rows] - centre[2]) ** 2).sqrt() / size
        open_sky[rows] *= 1 - 0.45 * torch.exp(-((away - 0.55).clamp_min(0) ** 2) * 3.0)
    return torch.where(slots == -1, open_sky, 0.55 + 0.45 * (point[1] / 0.8).clamp(0, 1))


def _lit(albedo: Tensor, normal: Tensor, light: Tensor, visible: Tensor, ambient: Tensor) -> Tensor:
    """Diffuse radiance (3, B, N) under a warm key light and a cool sky."""
    facing = (normal * light).sum(0).clamp_min(0) * visible
    key = torch.tensor((1.02, 0.97, 0.88), dtype=FLOAT, device=albedo.device).view(3, 1, 1)
    sky = torch.tensor((0.34, 0.37, 0.42), dtype=FLOAT, device=albedo.device).view(3, 1, 1)
    return albedo * (key * facing + sky * ambient * (0.75 + 0.25 * normal[1]))


def _camera(scene: Scene, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Eye (3,), ray directions (3, height * width) and the unit view axis (3,); 38 degrees across the shorter side."""
    eye = torch.tensor((0.0, scene.camera_height, scene.camera_distance), dtype=FLOAT)
    forward = torch.nn.functional.normalize(torch.tensor((0.0, 0.62, 0.0), dtype=FLOAT) - eye, dim=0)
    right = torch.tensor((1.0, 0.0, 0.0), dtype=FLOAT)
    up = torch.linalg.cross(right, forward)
    scale = math.tan(math.radians(19.0)) / min(height, width)
    ys = (height - 1 - 2 * torch.arange(height, dtype=FLOAT)) * scale
    xs = (2 * torch.arange(width, dtype=FLOAT) - width + 1) * scale
    rays = forward.view(3, 1, 1) + right.view(3, 1, 1) * xs.view(1, 1, -1) + up.view(3, 1, 1) * ys.view(1, -1, 1)
    return eye.to(device), torch.nn.functional.normalize(rays.flatten(1), dim=0).to(device), forward.to(device)


def _per_scene(packed: _Packed, paint, *fields: Tensor) -> Tensor:
    """Stack ``paint(scene, field rows...)`` over the batch into (3, B, N)."""
    return torch.stack([paint(s, *(f[..., row, :] for f in fields)) for row, s in enumerate(packed.scenes)], 1)


@dataclass
class _Hits:
    """First surfaces along the rays: slot -1 floor or wall (``wall``), -2 sky."""

    distance: Tensor
    slot: Tensor
    wall: Tensor
    point: Tensor


def _first_surfaces(packed: _Packed, origin: Tensor, direction: Tensor) -> _Hits:
    distance, slot = _trace(packed, origin, direction)
    walled = torch.tensor([s.backdrop == "wall" for s in packed.scenes], device=packed.device).unsqueeze(1)
    floor = torch.where(direction[1] < -1e-6, -origin[1] / direction[1].clamp_max(-1e-6), math.inf)
    floor = torch.where(floor > _EPSILON, floor, math.inf)
    wall = torch.where(walled & (direction[2] < -1e-6), (WALL_Z - origin[2]) / direction[2].clamp_max(-1e-6), math.inf)
    stage = torch.minimum(floor, wall)
    on_stage = stage < distance
    distance = torch.where(on_stage, stage, distance)
    slot = torch.where(on_stage, torch.full_like(slot, -1), torch.where(torch.isfinite(distance), slot, -2))
    point = origin + direction * torch.where(torch.isfinite(distance), distance, 0.0)
    return _Hits(distance, slot, on_stage & (wall < floor), point)


def _radiance(packed: _Packed, hits: _Hits, direction: Tensor, subpixel: Tensor, visible: Tensor | None) -> Tensor:
    """Light (3, B, N) sent back along each ray, without the floor's mirror image."""
    normal, albedo, gloss = _surface(packed, hits.point, hits.slot)
    stage = (hits.slot == -1).unsqueeze(0)
    up = torch.tensor((0.0, 1.0, 0.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    out = torch.tensor((0.0, 0.0, 1.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    normal = torch.where(stage, torch.where(hits.wall.unsqueeze(0), out, up), normal)
    floor = _per_scene(packed, lambda s, p: _floor_albedo(s, p[0], p[2]), hits.point)
    wall = (
        torch.stack([torch.tensor(WALL_TINTS[s.tint], dtype=FLOAT) for s in packed.scenes], 1)
        .to(packed.device)
        .unsqueeze(-1)
    )
    albedo = torch.where(stage, torch.where(hits.wall.unsqueeze(0), wall, floor), albedo)
    light = torch.stack([_key_light(s) for s in packed.scenes], 1).to(packed.device).unsqueeze(-1)
    seen = torch.ones_like(hits.distance) if visible is None else visible
    ambient = torch.where(hits.wall, torch.ones_like(seen), _contact(packed, hits.point, hits.slot))
    colour = _lit(albedo, normal, light, seen, ambient)
    halfway = torch.nn.functional.normalize(light - direction, dim=0)
    shine = (normal * halfway).sum(0).clamp_min(0)
    grazing = (1 + (normal * direction).sum(0)).clamp(0, 1) ** 4
    mirror = direction - 2 * (normal * direction).sum(0) * normal
    sky = torch.tensor((0.75, 0.85, 1.0), dtype=FLOAT, device=packed.device).view(3, 1, 1) * (
        mirror[1].clamp(0, 1) * 0.8 + 0.1
    )
    solid = (hits.slot >= 0).to(seen)
    colour = colour + (gloss * solid * seen * (0.9 * shine**90 + 0.15 * shine**18)).unsqueeze(0)
    colour = colour + sky * (gloss * solid * (0.06 + 0.5 * grazing)).unsqueeze(0)
    background = _per_scene(packed, _background, direction)
    # With open sky the floor melts into the horizon, as air does.
    open_air = torch.tensor([s.backdrop == "sky" for s in packed.scenes], device=packed.device).unsqueeze(1)
    haze = torch.where(open_air & (hits.slot == -1), 1 - torch.exp(-((hits.distance - 8.5).clamp_min(0) / 14.0)), 0.0)
    haze = torch.where(hits.slot == -2, torch.ones_like(haze), haze)
    return colour * (1 - haze) + background * haze


def _shade(packed: _Packed, eye: Tensor, direction: Tensor, subpixel: Tensor) -> tuple[Tensor, _Hits]:
    hits = _first_surfaces(packed, eye, direction)
    normal, _, _ = _surface(packed, hits.point, hits.slot)
    lifted = hits.point + normal * 2e-3  # off the surface, so that a solid does not shadow itself by rounding
    visible, _ = _visibility(packed, lifted, subpixel, per_solid=False)
    colour = _radiance(packed, hits, direction, subpixel, visible)
    flip = torch.tensor((1.0, -1.0, 1.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    down = direction * flip
    seen = _first_surfaces(packed, hits.point, down)
    mirrored = _radiance(packed, seen, down, subpixel, None)
    share = torch.tensor(
        [REFLECTIVITY[s.floor] * s.mirror for s in packed.scenes], dtype=FLOAT, device=packed.device
    ).unsqueeze(1)
    share = share * (0.7 + 1.2 * (1 + direction[1]).clamp(0, 1) ** 4) * ((hits.slot == -1) & ~hits.wall)
    return colour * (1 - share) + mirrored * share, hits


def _encode(linear: Tensor) -> Tensor:
    """Linear light to sRGB-like [0, 1] with a soft shoulder instead of clipped highlights."""
    exposed = linear.clamp_min(0) * 1.08
    soft = torch.where(exposed < 0.8, exposed, 0.8 + 0.2 * torch.tanh((exposed - 0.8) / 0.2))
    return soft.clamp(0, 1) ** (1 / 2.2)


def _rays(packed: _Packed, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    cameras = [_camera(scene, height, width, packed.device) for scene in packed.scenes]
    eye, direction, forward = (torch.stack(parts, 1) for parts in zip(*cameras, strict=True))
    return eye.unsqueeze(-1), direction, forward.unsqueeze(-1)


def render(
    scenes: Sequence[Scene],
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
    supersample: int = 2,
    truth: bool = False,
) -> Truth:
    """Ray trace ``scenes`` at ``size`` (an int, or height and width); see :class:`Truth` for what comes back.

    Raises:
        ValueError: no scene, or a size below 8 pixels.
    """
    if not scenes:
        raise ValueError("render got no scene: pass at least one")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 8:
        raise ValueError(f"size {height}x{width} is too small to show anything: use at least 8x8")
    packed = _pack(scenes, device)
    rows, columns = height * supersample, width * supersample
    eye, direction, _ = _rays(packed, rows, columns)
    grid = torch.arange(rows * columns, device=packed.device)
    subpixel = (grid // columns % 2) * 2 + grid % columns % 2
    linear, _ = _shade(packed, eye, direction, subpixel)
    picture = _encode(linear).movedim(0, 1).reshape(len(scenes), 3, rows, columns)
    result = Truth(torch.nn.functional.avg_pool2d(picture, supersample))
    if truth:
        _add_truth(result, packed, height, width)
    return result


def _add_truth(result: Truth, packed: _Packed, height: int, width: int) -> None:
    eye, direction, forward = _rays(packed, height, width)
    hits = _first_surfaces(packed, eye, direction)
    normal, _, _ = _surface(packed, hits.point, hits.slot)
    subpixel = torch.zeros(height * width, dtype=torch.long, device=packed.device)
    _, hidden = _visibility(packed, hits.point + normal * 2e-3, subpixel, per_solid=True)
    assert hidden is not None  # per solid it is measured
    flip = torch.tensor((1.0, -1.0, 1.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    _, mirrored = _trace(packed, hits.point, direction * flip)
    on_floor = (hits.slot == -1) & ~hits.wall
    stage = (hits.slot == -1).unsqueeze(0)
    up = torch.tensor((0.0, 1.0, 0.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    out = torch.tensor((0.0, 0.0, 1.0), dtype=FLOAT, device=packed.device).view(3, 1, 1)
    normal = torch.where(stage, torch.where(hits.wall.unsqueeze(0), out, up), normal)
    along = hits.distance * (direction * forward).sum(0)
    shape = (len(packed.scenes), -1, height, width)
    slots = torch.arange(MAX_SOLIDS, device=packed.device).view(-1, 1, 1)
    own = hits.slot.unsqueeze(0) == slots
    light = torch.stack([_key_light(s) for s in packed.scenes], 1).to(packed.device).unsqueeze(-1)
    faces_light = (normal * light).sum(0) > 0.02  # elsewhere the key light is missing anyway
    shadows = (hidden > 0.15) & ~own & faces_light.unsqueeze(0) & (hits.slot != -2).unsqueeze(0)
    reflections = (mirrored.unsqueeze(0) == slots) & on_floor.unsqueeze(0)
    result.depth = along.clamp_max(FAR).reshape(shape)
    result.normals = normal.movedim(0, 1).reshape(shape)
    result.instances, result.shadows, result.reflections = (
        mask.movedim(0, 1).reshape(shape) for mask in (own, shadows, reflections)
    )


def geometry(
    scenes: Sequence[Scene], size: int | tuple[int, int] = 128, device: str | torch.device = "cpu", supersample: int = 2
) -> tuple[Tensor, Tensor]:
    """What a depth map and a mask of the scenes show, without the cost of light.

    Returns inverse depth (B, 1, H, W) along the camera axis, averaged over the subpixels (``1 / FAR`` for the sky), and
    instances (B, K, H, W) bool: pixels that a solid covers in part or whole, as a visitor would brush it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    packed = _pack(scenes, device)
    rows, columns = height * supersample, width * supersample
    eye, direction, forward = _rays(packed, rows, columns)
    hits = _first_surfaces(packed, eye, direction)
    along = (hits.distance * (direction * forward).sum(0)).clamp_max(FAR)
    slots = torch.arange(MAX_SOLIDS, device=packed.device).view(-1, 1, 1)
    covered = (hits.slot.unsqueeze(0) == slots).to(FLOAT).movedim(0, 1).reshape(len(scenes), -1, rows, columns)
    inverse = torch.nn.functional.avg_pool2d((1 / along).reshape(len(scenes), 1, rows, columns), supersample)
    return inverse, torch.nn.functional.max_pool2d(covered, supersample) > 0


def main() -> None:
    """Write the contact sheet: ``python -m pipelines.worlds.tabletop --out assets/contact_sheets/tabletop.png``.

    Upper rows are scenes; the last row is one scene's truth: picture, depth, normals, solids, shadows, reflections,
    and the same scene without its first solid.
    """
    from torchvision.utils import make_grid, save_image

    parser = argparse.ArgumentParser(description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=144)
    given = parser.parse_args()
    columns = 7
    pictures = [render([sample(given.seed + i)], given.size).image[0] for i in range(3 * columns)]
    scene = replace(sample(given.seed + 1, 2), floor="marble")
    truth = render([scene], given.size, truth=True)
    assert truth.depth is not None and truth.normals is not None
    near = (1.4 - truth.depth[0] / 10).clamp(0, 1).expand(3, -1, -1)
    masks = [mask[0].float() for mask in (truth.instances, truth.shadows, truth.reflections) if mask is not None]
    row = [truth.image[0], near, truth.normals[0] / 2 + 0.5, *masks, render([scene.without(0)], given.size).image[0]]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_image(make_grid(torch.stack(pictures + row), columns, padding=2, pad_value=1.0), given.out)


if __name__ == "__main__":
    main()
