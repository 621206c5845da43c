"""The renderer: a head of smoothly blended signed distance fields, sphere traced and shaded like clay.

Shapes live in two frames. Head, hair, beard and glasses are in the head's frame (origin in the middle of the skull, x to
the right of the picture, y up, z out of the face); neck and clothes are in the world's. Eyes, brows, mouth and freckles
are painted: colours chosen from a surface point's place on the face.

Work goes in four steps: a coarse trace on half the pixels, a refining trace on all, shading, and the same again with
`supersample`^2 rays in the pixels where the picture has an edge. The numbers below were found by looking at pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .people import COLLARS, Portrait

DISTANCE = 7.0  # camera to the middle of the head
CENTRE_Y = -0.13  # the height that the camera looks at
HALF_EXTENT = 1.72  # half of the shorter side of the picture, measured at the middle of the head
NEAR, FAR = 5.2, 8.6
PIVOT = (0.0, -0.75, -0.15)  # the head turns about the top of the neck
LEAST_STEP = 0.006
EDGE = 0.045  # neighbouring pixels that differ by more are supersampled

MASKS = ("face", "hair", "neck", "body", "glasses", "beard", "background")
BACKGROUND, SKIN, EYE, HAIR, BEARD, GLASSES, NECK, CLOTH = range(8)
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

SKIN_TONES = (
    (1.00, 0.85, 0.74), (0.97, 0.77, 0.62), (0.89, 0.66, 0.49), (0.76, 0.53, 0.36), (0.58, 0.38, 0.26), (0.44, 0.29, 0.21),
)  # fmt: skip
HAIR_RGB = {
    "black": (0.11, 0.10, 0.12), "brown": (0.46, 0.27, 0.14), "blond": (0.97, 0.82, 0.42),
    "red": (0.86, 0.32, 0.10), "grey": (0.74, 0.75, 0.78), "blue": (0.20, 0.38, 0.85),
}  # fmt: skip
EYE_RGB = {
    "brown": (0.42, 0.24, 0.10),
    "blue": (0.16, 0.50, 0.88),
    "green": (0.20, 0.58, 0.30),
    "grey": (0.46, 0.52, 0.58),
}
CLOTHES_RGB = {
    "red": (0.85, 0.17, 0.17), "blue": (0.18, 0.36, 0.80), "green": (0.16, 0.58, 0.30), "yellow": (0.96, 0.78, 0.18),
    "purple": (0.54, 0.26, 0.70), "white": (0.91, 0.90, 0.88), "black": (0.16, 0.16, 0.18),
}  # fmt: skip
BACKGROUND_RGB = {
    "white": (0.95, 0.95, 0.94), "blue": (0.56, 0.76, 0.95), "green": (0.64, 0.86, 0.62),
    "yellow": (0.99, 0.90, 0.56), "pink": (0.98, 0.70, 0.78), "purple": (0.75, 0.66, 0.93),
}  # fmt: skip
LIGHT_RGB = {"warm": (1.06, 0.99, 0.86), "neutral": (1.0, 1.0, 1.0), "cool": (0.90, 0.98, 1.08)}
FRECKLES = (
    (0.30, -0.24), (0.42, -0.20), (0.54, -0.23), (0.36, -0.32), (0.48, -0.31), (0.60, -0.30),
    (-0.29, -0.23), (-0.41, -0.21), (-0.55, -0.22), (-0.35, -0.32), (-0.49, -0.30), (-0.61, -0.31), (0.02, -0.02), (-0.06, -0.07),
)  # fmt: skip
FRAME_RGB = (0.07, 0.07, 0.09)


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
    """(B, 1, H, W) brightness of the light that arrives, colour of the surface left out; 0 on the background."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Name in `MASKS` -> (B, H, W) bool; every pixel is in exactly one. Eyes, brows and mouth count as face."""
    landmarks: Tensor | None = None
    """(B, L, 2) places (y, x) in pixels, 0.5 being the middle of the first pixel; order of `LANDMARK_NAMES`."""
    visible: Tensor | None = None
    """(B, L) bool, True where the landmark is inside the picture, on face or beard, with nothing before it."""


# --- parameters: one number per portrait and name ---------------------------------------------------------------


def _parameters(portrait: Portrait) -> dict[str, float]:
    """All numbers that the shapes and the paint need."""
    who, shot = portrait.identity, portrait.shot
    surprised, smiling = shot.expression == "surprised", shot.expression == "smiling"
    width, height, depth = who.head_width, who.head_height, 0.88
    spacing, eye_y = who.eye_spacing, 0.04
    eye = who.eye_size * (1.10 if surprised else 1.0)
    face_z = depth * math.sqrt(1 - (spacing / width) ** 2 - ((eye_y - 0.05) / height) ** 2)
    eye_z = face_z - 0.52 * eye
    ring = 0.085 + who.eye_size * 0.95
    gaze = _rows_of_rotation(shot)[2]  # the camera's direction in the head's frame is the third row
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
        "open_x": 0.10 * who.parting, "open_w": width * 0.94, "open_h": who.hairline + (0.08 if who.hair_style == "curly" else 0.0), "part": 0.25 * who.parting,
        "ring": ring, "ring_z": face_z + 0.13, "temple_x": spacing + ring, "temple_end": width + 0.05,
        "collar": float(COLLARS.index(shot.collar)),
    }  # fmt: skip


def _rows_of_rotation(shot: Any) -> list[list[float]]:
    """The matrix that takes the head's frame to the world's."""
    cy, sy = math.cos(shot.yaw), math.sin(shot.yaw)
    cp, sp = math.cos(shot.pitch), math.sin(shot.pitch)
    cr, sr = math.cos(shot.roll), math.sin(shot.roll)
    yaw = [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]
    pitch = [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
    roll = [[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]
    return _product(_product(yaw, pitch), roll)


def _product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


class _Group:
    """Portraits that share the kinds of shapes, with their numbers as a table (B, P) on the device.

    One portrait on the CPU keeps its numbers as Python floats: that spares a gather per number and evaluation.
    """

    def __init__(self, portraits: Sequence[Portrait], device: torch.device):
        rows = []
        for portrait in portraits:
            numbers = _parameters(portrait)
            rotation = _rows_of_rotation(portrait.shot)
            numbers |= {f"r{i}{j}": rotation[i][j] for i in range(3) for j in range(3)}
            azimuth, elevation = portrait.shot.light_azimuth, portrait.shot.light_elevation
            numbers["light_x"] = math.sin(azimuth) * math.cos(elevation)
            numbers["light_y"] = math.sin(elevation)
            numbers["light_z"] = math.cos(azimuth) * math.cos(elevation)
            rows.append(numbers)
        self.names = {name: column for column, name in enumerate(rows[0])}
        self.single = SimpleNamespace(**rows[0]) if len(rows) == 1 else None
        self.table = torch.tensor([list(row.values()) for row in rows], dtype=torch.float32, device=device)
        who = portraits[0].identity
        self.style, self.glasses, self.beard = who.hair_style, who.glasses, who.beard
        self.palette = torch.tensor([_palette(portrait) for portrait in portraits], device=device)
        lights = [LIGHT_RGB[portrait.shot.light_colour] for portrait in portraits]
        self.light_rgb = torch.tensor(lights, device=device)

    def at(self, index: Tensor) -> Any:
        """Numbers by name: floats, or (N,) tensors for rays that belong to the portraits `index` (N,)."""
        return self.single or _Columns(self, index)


class _Columns:
    def __init__(self, group: _Group, index: Tensor):
        self._group, self._index = group, index

    def __getattr__(self, name: str) -> Tensor:
        values = self._group.table[:, self._group.names[name]][self._index]
        setattr(self, name, values)
        return values


PAINTS = ("background", "skin", "eye", "hair", "beard", "glasses", "neck", "cloth", "iris", "lip")


def _palette(portrait: Portrait) -> list[tuple[float, float, float]]:
    """Colours in the order of `PAINTS`; the first eight are the materials' own."""
    who, shot = portrait.identity, portrait.shot
    low = min(int(who.skin), len(SKIN_TONES) - 2)
    share = who.skin - low
    skin = tuple(a + (b - a) * share for a, b in zip(SKIN_TONES[low], SKIN_TONES[low + 1], strict=True))
    hair = HAIR_RGB[who.hair_colour]
    beard = tuple(0.92 * channel for channel in hair)
    lip = (skin[0] * 0.84, skin[1] * 0.56, skin[2] * 0.56)
    eye = EYE_RGB[who.eye_colour]
    return [
        BACKGROUND_RGB[shot.background], skin, (0.97, 0.97, 0.97), hair, beard, FRAME_RGB, skin,
        CLOTHES_RGB[shot.clothes], eye, lip,
    ]  # fmt: skip


# --- distance fields ----------------------------------------------------------------------------------------------


def _blend(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth minimum with a blend of width `k` (polynomial, after Inigo Quilez)."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.minimum(a, b) - h * h * (0.25 / k)


def _carve(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth maximum of `a` and `b`."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.maximum(a, b) + h * h * (0.25 / k)


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: Any, b: Any, c: Any) -> Tensor:
    """Distance to an ellipsoid about the origin, first order (after Inigo Quilez)."""
    u, v, w = x * (1 / a), y * (1 / b), z * (1 / c)
    k0 = (u * u + v * v + w * w).sqrt()
    u, v, w = u * (1 / a), v * (1 / b), w * (1 / c)
    k1 = (u * u + v * v + w * w).sqrt()
    return k0 * (k0 - 1) / (k1 + 1e-6)


def _sphere(x: Tensor, y: Tensor, z: Tensor, r: Any) -> Tensor:
    return (x * x + y * y + z * z).sqrt() - r


def _segment(x: Tensor, y: Tensor, z: Tensor, a: tuple, b: tuple, r: Any) -> Tensor:
    """Distance to a capsule from `a` to `b`."""
    px, py, pz = x - a[0], y - a[1], z - a[2]
    bx, by, bz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    inverse = 1 / (bx * bx + by * by + bz * bz)
    h = ((px * bx + py * by + pz * bz) * inverse).clamp(0, 1)
    return _sphere(px - h * bx, py - h * by, pz - h * bz, r)


def _skin(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Any) -> Tensor:
    """Skull, jaw, cheeks, nose and ears; `ax` is |x|."""
    skull = _ellipsoid(x, y - 0.05, z, p.width, p.height, p.depth)
    jaw = _ellipsoid(x, y + 0.42, z - 0.10, p.jaw_w, p.jaw_h, 0.72)
    head = _blend(skull, jaw, 0.35)
    head = _blend(head, _sphere(ax - 0.40, y + 0.30, z - 0.46, p.cheek), 0.25)
    nose = _ellipsoid(x, y + 0.17, z - p.nose_z, p.nose_w, p.nose, p.nose)
    ear = _ellipsoid(ax - p.ear_x, y + 0.05, z + 0.02, p.ear_w, p.ear_h, p.ear_d)
    return _blend(_blend(head, nose, 0.10), ear, 0.06)


def _hair(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Any, style: str) -> Tensor:
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


def _beard(x: Tensor, y: Tensor, z: Tensor, p: Any) -> Tensor:
    """A coat around the jaw that leaves cheeks and eyes free; the mouth is painted on it."""
    coat = _ellipsoid(x, y + 0.50, z - 0.12, p.jaw_w + 0.10, p.jaw_h + 0.06, 0.80)
    edge = y + 0.28 - 0.55 * x * x  # the moustache lies just under the nose, the sides climb towards the ears
    return _carve(_carve(coat, edge, 0.06), -(z - 0.02), 0.06)


def _glasses(x: Tensor, y: Tensor, z: Tensor, ax: Tensor, p: Any) -> Tensor:
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


def _parts(world: tuple, head: tuple, p: Any, group: _Group) -> list[tuple[int, Tensor]]:
    """Distance (N,) to the nearest surface of every material."""
    x, y, z = head
    ax = x.abs()
    parts = [
        (SKIN, _skin(x, y, z, ax, p)),
        (EYE, _sphere(ax - p.spacing, y - p.eye_y, z - p.eye_z, p.eye)),
        (HAIR, _hair(x, y, z, ax, p, group.style)),
    ]
    if group.beard:
        parts.append((BEARD, _beard(x, y, z, p)))
    if group.glasses:
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


def _nearest(parts: list[tuple[int, Tensor]]) -> Tensor:
    distance = parts[0][1]
    for _, other in parts[1:]:
        distance = torch.minimum(distance, other)
    return distance


def _material(parts: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    distance = parts[0][1]
    material = torch.full_like(distance, parts[0][0], dtype=torch.long)
    for kind, other in parts[1:]:
        material = torch.where(other < distance, kind, material)
        distance = torch.minimum(distance, other)
    return distance, material


# --- rays -----------------------------------------------------------------------------------------------------------


@dataclass
class _Rays:
    """N rays: portrait index, world direction from the camera, and origin and direction in the head's frame."""

    group: _Group
    index: Tensor
    direction: tuple[Tensor, Tensor, Tensor]
    head_origin: tuple[Any, Any, Any]
    head_direction: tuple[Tensor, Tensor, Tensor]

    def take(self, chosen: Tensor) -> _Rays:
        if self.group.single:
            origin = self.head_origin
        else:
            origin = tuple(axis[chosen] for axis in self.head_origin)
        return _Rays(
            self.group, self.index[chosen], tuple(axis[chosen] for axis in self.direction),
            origin, tuple(axis[chosen] for axis in self.head_direction),
        )  # fmt: skip

    def points(self, t: Tensor) -> tuple[tuple, tuple]:
        dx, dy, dz = self.direction
        world = (dx * t, dy * t + CENTRE_Y, dz * t + DISTANCE)
        head = tuple(o + d * t for o, d in zip(self.head_origin, self.head_direction, strict=True))
        return world, head


def _into_head(x: Any, y: Any, z: Any, p: Any) -> tuple[Any, Any, Any]:
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
        distance = _nearest(_parts(world, head, current.group.at(current.index), current.group))
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


# --- paint and light --------------------------------------------------------------------------------------------


def _step(value: Tensor, width: float) -> Tensor:
    """0 where `value` is negative, 1 where it is positive, with a soft edge."""
    return (value * (1 / width) + 0.5).clamp(0, 1)


def _mix(colour: Tensor, paint: Any, amount: Tensor) -> Tensor:
    return colour + (paint - colour) * amount[:, None]


def _paint_eye(point: tuple, palette: Tensor, p: Any) -> Tensor:
    """Colours (N, 3) on the eyeballs: white, iris with a dark rim, pupil, two highlights, a lash line."""
    x, y, _ = point
    side = torch.sign(x)
    u = (x - side * p.spacing) / p.eye - p.gaze_x
    v = (y - p.eye_y) / p.eye - p.gaze_y
    radius = (u * u + v * v).sqrt()
    colour = palette[:, EYE]
    iris = palette[:, PAINTS.index("iris")]
    iris = iris * (1.15 - 0.55 * v.clamp(-0.6, 0.6))[:, None]  # lighter below, as if lit from above
    colour = _mix(colour, iris * 0.45, _step(0.62 - radius, 0.10))
    colour = _mix(colour, iris, _step(0.53 - radius, 0.10))
    colour = _mix(colour, torch.tensor((0.03, 0.03, 0.04), device=x.device), _step(0.30 - radius, 0.08))
    shine = ((u + 0.20) ** 2 + (v - 0.22) ** 2).sqrt()
    colour = _mix(colour, torch.ones(3, device=x.device), _step(0.17 - shine, 0.06))
    small = ((u - 0.20) ** 2 + (v + 0.22) ** 2).sqrt()
    return _mix(colour, torch.ones(3, device=x.device), 0.7 * _step(0.08 - small, 0.05))


def _paint_face(point: tuple, colour: Tensor, palette: Tensor, p: Any) -> Tensor:
    """Cheeks, freckles, lids, brows on the skin."""
    x, y, z = point
    ax = x.abs()
    front = (z > 0.1).float()
    cheek = torch.exp(-((ax - 0.50) ** 2 + (y + 0.26) ** 2) * 22)
    warm = colour * torch.tensor((1.02, 0.72, 0.72), device=x.device)
    colour = _mix(colour, warm, 0.65 * cheek * front)
    nose = torch.exp(-(x**2 + (y + 0.17) ** 2) * 40)
    colour = _mix(colour, warm, 0.35 * nose * front)
    apart = torch.full_like(x, 1.0)
    for spot_x, spot_y in FRECKLES:
        apart = torch.minimum(apart, (x - spot_x) ** 2 + (y - spot_y) ** 2)
    spots = _step(0.030 - apart.sqrt(), 0.025) * front * p.freckles
    colour = _mix(colour, colour * torch.tensor((0.72, 0.52, 0.42), device=x.device), spots)
    ring = ((ax - p.spacing) ** 2 + (y - p.eye_y) ** 2).sqrt() - p.eye
    lid = _step(0.02 - ring, 0.05) * _step(y - p.eye_y, 0.08)
    colour = _mix(colour, colour * 0.45, lid * front)
    along = (ax - p.spacing - 0.02) / 0.23
    middle = p.brow_y + p.brow_a * (ax - p.spacing) - 0.055 * along * along
    half = p.brow_t * (1 - 0.35 * along * along).clamp(min=0)
    brow = _step(half - (y - middle).abs(), 0.025) * _step(1 - along.abs(), 0.15)
    hair = palette[:, HAIR] * 0.8
    return _mix(colour, hair, brow * front)


def _paint_mouth(point: tuple, colour: Tensor, palette: Tensor, p: Any) -> Tensor:
    """The mouth, on skin and beard alike."""
    x, y, z = point
    front = (z > 0.2).float()
    y = y + 0.50
    lip = palette[:, PAINTS.index("lip")]
    dark = torch.tensor((0.30, 0.07, 0.08), device=x.device)
    teeth = torch.tensor((0.97, 0.96, 0.93), device=x.device)
    tongue = torch.tensor((0.86, 0.36, 0.36), device=x.device)
    u = x / p.mouth_w
    arch = (1 - u * u).clamp(min=0)

    # neutral: two lips and the line between them
    line = 0.012 * (u * u) * 2 - 0.01
    lips = _step(0.062 * arch.sqrt() - (y - line).abs(), 0.02) * _step(0.94 - u.abs(), 0.08)
    gap = _step(0.014 - (y - line).abs(), 0.015) * _step(1 - u.abs(), 0.08)
    neutral = (1 - p.smiling) * (1 - p.surprised) * front
    colour = _mix(colour, lip, lips * neutral)
    colour = _mix(colour, dark, 0.85 * gap * neutral)

    # smiling: a wide bowl with teeth above and a tongue below
    wide = x / (p.mouth_w * 1.18)
    arch = 1 - wide * wide
    top, bottom = 0.07 - 0.075 * arch, 0.07 - 0.27 * arch
    inside = torch.minimum(top - y, y - bottom)
    smile = p.smiling * front
    colour = _mix(colour, lip, _step(inside + 0.035, 0.02) * _step(arch + 0.25, 0.1) * smile)
    bowl = _step(inside, 0.018) * smile
    mouth = _mix(dark.expand_as(colour), tongue, _step(-y - 0.075 - 0.8 * x * x, 0.03))
    mouth = _mix(mouth, teeth, _step(y - (top - 0.085), 0.018))
    colour = colour + (mouth - colour) * bowl[:, None]

    # surprised: a round O
    radius = ((x / 0.125) ** 2 + ((y + 0.04) / 0.155) ** 2).sqrt()
    wow = p.surprised * front
    colour = _mix(colour, lip, _step(1.30 - radius, 0.15) * wow)
    colour = _mix(colour, dark, _step(1 - radius, 0.15) * wow)
    return _mix(
        colour, tongue, _step(1 - radius - 0.25 * ((y + 0.11) / 0.06).clamp(min=0), 0.15) * _step(-y - 0.10, 0.03) * wow
    )


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
    normal, shading = torch.zeros(count, 3, device=t.device), torch.zeros(count, device=t.device)
    hit = (t < FAR).nonzero()[:, 0]
    if len(hit):
        rgb[hit], material[hit], normal[hit], shading[hit] = _shade_hits(rays.take(hit), t[hit])
    return _Surface(rgb, t, material, normal, shading)


def _shade_hits(rays: _Rays, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour (N, 3), material (N,), normal (N, 3) and shading (N,) where rays meet a surface."""
    group, p = rays.group, rays.group.at(rays.index)
    world, head = rays.points(t)
    here, material = _material(_parts(world, head, p, group))

    def field_at(dx: Any, dy: Any, dz: Any) -> Tensor:
        moved = (world[0] + dx, world[1] + dy, world[2] + dz)
        turned = tuple(a + b for a, b in zip(head, _into_head(dx, dy, dz, p), strict=True))
        return _nearest(_parts(moved, turned, p, group))

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
    wrap = torch.where(is_skin, 0.35, 0.15)
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
        is_skin[:, None], torch.tensor((1.06, 0.96, 0.90), device=t.device), torch.ones(3, device=t.device)
    )
    light = 0.74 * key[:, None] * light + 0.48 * sky[:, None] * fill + 0.10 * rim[:, None]
    warm = torch.where(is_skin, 0.74 * (red - key).clamp(min=0), 0.0)
    light = light + warm[:, None] * torch.tensor((0.55, 0.12, 0.06), device=t.device)

    colour = _coloured(head, material, rays, p)
    hx, hy, hz = lx - dx, ly - dy, lz - dz
    half = (nx * hx + ny * hy + nz * hz) / (hx * hx + hy * hy + hz * hz).sqrt()
    gloss = half.clamp(0, 1) ** 24 * lit
    strength = torch.tensor((0, 0.07, 0.10, 0.10, 0.04, 0.35, 0.05, 0.02), device=t.device)[material]
    colour = colour * colour * light + (gloss * strength + 0.02 * rim)[:, None]
    return colour.clamp(0, 1).sqrt(), material, normal, shading


def _coloured(head: tuple, material: Tensor, rays: _Rays, p: Any) -> Tensor:
    """Surface colours (N, 3), sRGB-like."""
    palette = rays.group.palette[rays.index]
    colour = palette[torch.arange(len(material), device=material.device), material]
    x, y, z = head
    strands = torch.sin(24 * x * (1 + 0.25 * y) + 7 * z) * 0.5 + torch.sin(41 * x + 11 * y - 13 * z) * 0.25
    hairy = (material == HAIR) | (material == BEARD)
    colour = colour * (1 + torch.where(hairy, 0.10 * strands, 0.0))[:, None]
    colour = torch.where((material == EYE)[:, None], _paint_eye(head, palette, p), colour)
    colour = torch.where((material == SKIN)[:, None], _paint_face(head, colour, palette, p), colour)
    mouth = _paint_mouth(head, colour, palette, p)
    return torch.where(((material == SKIN) | (material == BEARD))[:, None], mouth, colour)


# --- pictures -------------------------------------------------------------------------------------------------------


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
    with torch.inference_mode():
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
    kinds: dict[tuple, list[int]] = {}
    for place, portrait in enumerate(portraits):
        who = portrait.identity
        kinds.setdefault((who.hair_style, who.glasses, who.beard), []).append(place)
    most = max(1, (64 * 256 * 256) // pixels)
    return [places[i : i + most] for places in kinds.values() for i in range(0, len(places), most)]


def _grid(count: int, height: int, width: int, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Portrait index, row and column (pixel centres of a grid of `step`-pixel cells), each (count * h * w,)."""
    rows = torch.arange(0, height, step, device=device, dtype=torch.float32) + step / 2
    columns = torch.arange(0, width, step, device=device, dtype=torch.float32) + step / 2
    index = torch.arange(count, device=device)
    shape = (count, len(rows), len(columns))
    spread = (index[:, None, None], rows[None, :, None], columns[None, None, :])
    return tuple(axis.expand(shape).flatten() for axis in spread)


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
    offsets = (torch.arange(supersample, device=image.device) + 0.5) / supersample
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

    zero, one = torch.zeros(count, device=device), torch.ones(count, device=device)
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
    way = torch.tensor(ways, device=device).repeat(count, 1)
    t = torch.zeros(len(start), device=device)
    for _ in range(24):
        x, y, z = (start + way * t[:, None]).unbind(1)
        ax = x.abs()
        bare = torch.minimum(_skin(x, y, z, ax, p), _sphere(ax - p.spacing, y - p.eye_y, z - p.eye_z, p.eye))
        t = t + 0.9 * (torch.minimum(bare, _beard(x, y, z, p)) if group.beard else bare)
    x, y, z = (start + way * t[:, None]).unbind(1)
    x, y, z = x - PIVOT[0], y - PIVOT[1], z - PIVOT[2]
    wx = p.r00 * x + p.r01 * y + p.r02 * z + PIVOT[0]
    wy = p.r10 * x + p.r11 * y + p.r12 * z + PIVOT[1] - CENTRE_Y
    wz = p.r20 * x + p.r21 * y + p.r22 * z + PIVOT[2] - DISTANCE
    height, width = size
    scale = min(height, width) / (2 * HALF_EXTENT)
    rows, columns = height / 2 - wy * (DISTANCE / -wz) * scale, width / 2 + wx * (DISTANCE / -wz) * scale
    distance = (wx * wx + wy * wy + wz * wz).sqrt()
    return torch.stack([rows, columns], -1).reshape(count, number, 2), distance.reshape(count, number)


def _joined(drawn: list[PortraitTruth | None]) -> PortraitTruth:
    ones = [one for one in drawn if one is not None]

    def cat(name: str) -> Tensor | None:
        first = getattr(ones[0], name)
        return None if first is None else torch.cat([getattr(one, name) for one in ones])

    names = ("image", "depth", "valid", "normals", "shading", "landmarks", "visible")
    masks = {name: torch.cat([one.masks[name] for one in ones]) for name in ones[0].masks}
    return PortraitTruth(masks=masks, **{name: cat(name) for name in names})
