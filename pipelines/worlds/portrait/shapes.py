"""The shapes of a portrait: a head of smoothly blended signed distance fields.

Shapes live in two frames. Head, hair, beard and glasses are in the head's frame (origin in the middle of the skull, x to
the right of the picture, y up, z out of the face); neck and clothes are in the world's. The numbers were found by
looking at pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .people import COLLARS, Identity, Portrait, Shot

if TYPE_CHECKING:
    from .clay import Numbers

Number = Tensor | float
"""Of each point, or of all."""

BACKGROUND, SKIN, EYE, HAIR, BEARD, GLASSES, NECK, CLOTH = range(8)
"""Materials: what a ray can meet."""


@dataclass(frozen=True)
class Kinds:
    """Which shapes there are at all; portraits of the same kinds can be drawn together."""

    style: str
    glasses: bool
    beard: bool

    @classmethod
    def of(cls, who: Identity) -> Kinds:
        return cls(who.hair_style, who.glasses, who.beard)


def numbers_of(portrait: Portrait) -> dict[str, float]:
    """All numbers that the shapes and the paint need."""
    who, shot = portrait.identity, portrait.shot
    surprised, smiling = shot.expression == "surprised", shot.expression == "smiling"
    width, height, depth = who.head_width, who.head_height, 0.88
    spacing, eye_y = who.eye_spacing, 0.04
    eye = who.eye_size * (1.10 if surprised else 1.0)
    face_z = depth * math.sqrt(1 - (spacing / width) ** 2 - ((eye_y - 0.05) / height) ** 2)
    eye_z = face_z - 0.52 * eye
    forehead = who.hairline + (0.08 if who.hair_style == "curly" else 0.0)  # curls hang lower
    ring = 0.085 + who.eye_size * 0.95
    gaze = rotation_of(shot)[2]  # the camera's direction in the head's frame is the third row
    return {
        "width": width, "height": height, "depth": depth,
        "jaw_w": who.jaw_width, "jaw_h": who.jaw_length, "cheek": who.cheeks,
        "nose_w": who.nose_width, "nose": who.nose_size, "nose_z": depth + 0.02,
        "ear_x": width + 0.04, "ear_h": 0.20 * who.ear_size, "ear_w": 0.12 * who.ear_size, "ear_d": 0.10 * who.ear_size,
        "spacing": spacing, "eye_y": eye_y, "eye_z": eye_z, "eye": eye, "spacing2": spacing * spacing,
        "gaze_x": gaze[0] * 0.75, "gaze_y": gaze[1] * 0.75,
        "brow_y": eye_y + eye + (0.19 if surprised else 0.11), "brow_t": who.brow_thickness, "brow_a": who.brow_angle,
        "mouth_w": who.mouth_width, "smiling": float(smiling), "surprised": float(surprised), "freckles": float(who.freckles),
        "shell_w": width + 0.10, "shell_h": height + 0.14, "shell_d": depth + 0.14,
        "open_x": 0.10 * who.parting, "open_w": width * 0.94, "open_h": forehead, "part": 0.25 * who.parting,
        "ring": ring, "ring_z": face_z + 0.13, "temple_x": spacing + ring, "temple_end": width + 0.05,
        "collar": float(COLLARS.index(shot.collar)),
    }  # fmt: skip


def rotation_of(shot: Shot) -> list[list[float]]:
    """The matrix that takes the head's frame to the world's."""
    cy, sy = math.cos(shot.yaw), math.sin(shot.yaw)
    cp, sp = math.cos(shot.pitch), math.sin(shot.pitch)
    cr, sr = math.cos(shot.roll), math.sin(shot.roll)
    yaw: list[list[float]] = [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]
    pitch: list[list[float]] = [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
    roll: list[list[float]] = [[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]
    return _product(_product(yaw, pitch), roll)


def _product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


def _blend(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth minimum with a blend of width `k` (polynomial, after Inigo Quilez)."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.minimum(a, b) - h * h * (0.25 / k)


def _carve(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth maximum of `a` and `b`."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.maximum(a, b) + h * h * (0.25 / k)


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: Number, b: Number, c: Number) -> Tensor:
    """Distance to an ellipsoid about the origin, first order (after Inigo Quilez)."""
    u, v, w = x * (1 / a), y * (1 / b), z * (1 / c)
    k0 = (u * u + v * v + w * w).sqrt()
    u, v, w = u * (1 / a), v * (1 / b), w * (1 / c)
    k1 = (u * u + v * v + w * w).sqrt()
    return k0 * (k0 - 1) / (k1 + 1e-6)


def _sphere(x: Tensor, y: Tensor, z: Tensor, r: Number) -> Tensor:
    return (x * x + y * y + z * z).sqrt() - r


def _segment(x: Tensor, y: Tensor, z: Tensor, a: tuple, b: tuple, r: Number) -> Tensor:
    """Distance to a capsule from `a` to `b`."""
    px, py, pz = x - a[0], y - a[1], z - a[2]
    bx, by, bz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    inverse = 1 / (bx * bx + by * by + bz * bz)
    h = ((px * bx + py * by + pz * bz) * inverse).clamp(0, 1)
    return _sphere(px - h * bx, py - h * by, pz - h * bz, r)


def _skin(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Numbers) -> Tensor:
    """Skull, jaw, cheeks, nose and ears; `ax` is |x|."""
    skull = _ellipsoid(x, y - 0.05, z, p.width, p.height, p.depth)
    jaw = _ellipsoid(x, y + 0.42, z - 0.10, p.jaw_w, p.jaw_h, 0.72)
    head = _blend(skull, jaw, 0.35)
    head = _blend(head, _sphere(ax - 0.40, y + 0.30, z - 0.46, p.cheek), 0.25)
    nose = _ellipsoid(x, y + 0.17, z - p.nose_z, p.nose_w, p.nose, p.nose)
    ear = _ellipsoid(ax - p.ear_x, y + 0.05, z + 0.02, p.ear_w, p.ear_h, p.ear_d)
    return _blend(_blend(head, nose, 0.10), ear, 0.06)


def _hair(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Numbers, style: str) -> Tensor:
    shell = _ellipsoid(x, y - 0.09, z + 0.05, p.shell_w, p.shell_h, p.shell_d)
    opening = _ellipsoid(x - p.open_x, y + 0.20 + p.part * x, z - 0.95, p.open_w, p.open_h, 0.98)
    if style == "long":
        back = _ellipsoid(x, y + 0.45, z + 0.32, p.shell_w + 0.10, 1.25, 0.62)
        lock = _segment(ax, y, z, (0.86, 0.35, -0.05), (0.98, -1.25, 0.10), 0.22)
        return _carve(_blend(_blend(shell, back, 0.2), lock, 0.18), -opening, 0.10)
    if style == "curly":
        bumps = torch.sin(8.5 * x + 0.7) * torch.sin(8.5 * y) * torch.sin(8.5 * z + 0.4)
        shell = _carve(shell - 0.20, -(0.9 * y - 0.42 * z + 0.50), 0.15)
        return (_carve(shell, -opening, 0.10) - 0.075 * bumps) * 0.8
    if style == "bun":
        hair = _carve(shell + 0.03, -(0.9 * y - 0.45 * z + 0.10), 0.10)
        hair = _carve(hair, -opening, 0.08)
        return _blend(hair, _sphere(x, y - 1.22, z + 0.12, 0.30), 0.08)
    # short: a quiff combed to one side, with grooves as of thick locks
    quiff = _ellipsoid(x - 1.4 * p.part, y - 0.92, z - 0.34, 0.62, 0.24, 0.46)
    hair = _carve(_blend(shell, quiff, 0.22), -(0.9 * y - 0.45 * z + 0.02), 0.10)
    return (_carve(hair, -opening, 0.08) + 0.022 * torch.sin(11 * x + 2.5 * y + 10 * p.part * z)) * 0.9


def _beard(x: Tensor, y: Tensor, z: Tensor, p: Numbers) -> Tensor:
    """A coat around the jaw that leaves cheeks and eyes free; the mouth is painted on it."""
    coat = _ellipsoid(x, y + 0.50, z - 0.12, p.jaw_w + 0.10, p.jaw_h + 0.06, 0.80)
    edge = y + 0.28 - 0.55 * x * x  # the moustache lies just under the nose, the sides climb towards the ears
    return _carve(_carve(coat, edge, 0.06), -(z - 0.02), 0.06)


def _glasses(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Numbers) -> Tensor:
    dx, dy = ax - p.spacing, y - p.eye_y
    dz = z - p.ring_z + 0.35 * (ax * ax - p.spacing2)
    around = (dx * dx + dy * dy).sqrt() - p.ring
    rim = (around * around + dz * dz).sqrt() - 0.042
    bridge = _segment(
        ax, y, z, (0.0, p.eye_y + 0.06, p.ring_z + 0.04), (p.spacing - p.ring, p.eye_y + 0.05, p.ring_z + 0.01), 0.036
    )
    temple = _segment(
        ax, y, z, (p.temple_x, p.eye_y + 0.03, p.ring_z - 0.25), (p.temple_end, p.eye_y + 0.05, -0.05), 0.036
    )
    return torch.minimum(torch.minimum(rim, bridge), temple)


def parts(world: tuple, head: tuple, p: Numbers, kinds: Kinds) -> list[tuple[int, Tensor]]:
    """Distance (N,) to the nearest surface of every material."""
    x, y, z = head
    ax = x.abs()
    parts = [
        (SKIN, _skin(x, y, z, ax, p)),
        (EYE, _sphere(ax - p.spacing, y - p.eye_y, z - p.eye_z, p.eye)),
        (HAIR, _hair(x, y, z, ax, p, kinds.style)),
    ]
    if kinds.beard:
        parts.append((BEARD, _beard(x, y, z, p)))
    if kinds.glasses:
        parts.append((GLASSES, _glasses(x, y, z, ax, p)))
    x, y, z = world
    flat = x * x + (z + 0.14) * (z + 0.14)
    radius = flat.sqrt()
    neck = _carve(radius - 0.36, (y + 1.0).abs() - 0.7, 0.1)
    body = _ellipsoid(x, y + 3.18, z + 0.15, 1.85, 1.80, 0.95)
    high = 0.10 + 0.16 * p.collar  # half the height of the collar
    collar = (
        (radius - 0.42 - 0.02 * (1 - p.collar)) ** 2
        + (((y + 1.42 - 0.6 * high + 0.1).abs() - 0.5 * high).clamp(min=0)) ** 2
    ).sqrt()
    parts.append((NECK, neck))
    parts.append((CLOTH, _blend(body, collar - 0.085, 0.12)))
    return parts


def face(x: Tensor, y: Tensor, z: Tensor, p: Numbers, kinds: Kinds) -> Tensor:
    """Distance (N,) to skin, eyes and beard only, in the head's frame: where the landmarks are."""
    ax = x.abs()
    bare = torch.minimum(_skin(x, y, z, ax, p), _sphere(ax - p.spacing, y - p.eye_y, z - p.eye_z, p.eye))
    return torch.minimum(bare, _beard(x, y, z, p)) if kinds.beard else bare


def nearest(parts: list[tuple[int, Tensor]]) -> Tensor:
    distance = parts[0][1]
    for _, other in parts[1:]:
        distance = torch.minimum(distance, other)
    return distance


def materials(parts: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    distance = parts[0][1]
    material = torch.full_like(distance, parts[0][0], dtype=torch.long)
    for kind, other in parts[1:]:
        material = torch.where(other < distance, kind, material)
        distance = torch.minimum(distance, other)
    return distance, material
