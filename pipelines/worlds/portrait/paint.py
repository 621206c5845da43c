"""The colours of a portrait: eyes, brows, mouth and freckles are painted by a surface point's place on the face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .people import Portrait
from .shapes import BEARD, EYE, HAIR, SKIN

if TYPE_CHECKING:
    from .clay import Numbers

FLOAT = torch.float32
"""Named wherever numbers become tensors: a loader on another thread may change torch's default for the whole process."""

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
FRECKLES = (
    (0.30, -0.24), (0.42, -0.20), (0.54, -0.23), (0.36, -0.32), (0.48, -0.31), (0.60, -0.30),
    (-0.29, -0.23), (-0.41, -0.21), (-0.55, -0.22), (-0.35, -0.32), (-0.49, -0.30), (-0.61, -0.31), (0.02, -0.02), (-0.06, -0.07),
)  # fmt: skip
FRAME_RGB = (0.07, 0.07, 0.09)

PAINTS = ("background", "skin", "eye", "hair", "beard", "glasses", "neck", "cloth", "iris", "lip")


def palette_of(portrait: Portrait) -> list[tuple[float, float, float]]:
    """Colours in the order of `PAINTS`; the first eight are the materials' own."""
    who, shot = portrait.identity, portrait.shot
    low = min(int(who.skin), len(SKIN_TONES) - 2)
    share = who.skin - low
    red, green, blue = (a + (b - a) * share for a, b in zip(SKIN_TONES[low], SKIN_TONES[low + 1], strict=True))
    skin = (red, green, blue)
    hair = HAIR_RGB[who.hair_colour]
    beard = (0.92 * hair[0], 0.92 * hair[1], 0.92 * hair[2])
    lip = (red * 0.84, green * 0.56, blue * 0.56)
    eye = EYE_RGB[who.eye_colour]
    return [
        BACKGROUND_RGB[shot.background], skin, (0.97, 0.97, 0.97), hair, beard, FRAME_RGB, skin,
        CLOTHES_RGB[shot.clothes], eye, lip,
    ]  # fmt: skip


def _step(value: Tensor, width: float) -> Tensor:
    """0 where `value` is negative, 1 where it is positive, with a soft edge."""
    return (value * (1 / width) + 0.5).clamp(0, 1)


def _mix(colour: Tensor, paint: Tensor, amount: Tensor) -> Tensor:
    return colour + (paint - colour) * amount[:, None]


def _paint_eye(point: tuple, palette: Tensor, p: Numbers) -> Tensor:
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
    colour = _mix(colour, torch.tensor((0.03, 0.03, 0.04), dtype=FLOAT, device=x.device), _step(0.30 - radius, 0.08))
    shine = ((u + 0.20) ** 2 + (v - 0.22) ** 2).sqrt()
    colour = _mix(colour, torch.ones(3, dtype=FLOAT, device=x.device), _step(0.17 - shine, 0.06))
    small = ((u - 0.20) ** 2 + (v + 0.22) ** 2).sqrt()
    return _mix(colour, torch.ones(3, dtype=FLOAT, device=x.device), 0.7 * _step(0.08 - small, 0.05))


def _paint_face(point: tuple, colour: Tensor, palette: Tensor, p: Numbers) -> Tensor:
    """Cheeks, freckles, lids, brows on the skin."""
    x, y, z = point
    ax = x.abs()
    front = (z > 0.1).float()
    cheek = torch.exp(-((ax - 0.50) ** 2 + (y + 0.26) ** 2) * 22)
    warm = colour * torch.tensor((1.02, 0.72, 0.72), dtype=FLOAT, device=x.device)
    colour = _mix(colour, warm, 0.65 * cheek * front)
    nose = torch.exp(-(x**2 + (y + 0.17) ** 2) * 40)
    colour = _mix(colour, warm, 0.35 * nose * front)
    apart = torch.full_like(x, 1.0)
    for spot_x, spot_y in FRECKLES:
        apart = torch.minimum(apart, (x - spot_x) ** 2 + (y - spot_y) ** 2)
    spots = _step(0.030 - apart.sqrt(), 0.025) * front * p.freckles
    colour = _mix(colour, colour * torch.tensor((0.72, 0.52, 0.42), dtype=FLOAT, device=x.device), spots)
    ring = ((ax - p.spacing) ** 2 + (y - p.eye_y) ** 2).sqrt() - p.eye
    lid = _step(0.02 - ring, 0.05) * _step(y - p.eye_y, 0.08)
    colour = _mix(colour, colour * 0.45, lid * front)
    along = (ax - p.spacing - 0.02) / 0.23
    middle = p.brow_y + p.brow_a * (ax - p.spacing) - 0.055 * along * along
    half = p.brow_t * (1 - 0.35 * along * along).clamp(min=0)
    brow = _step(half - (y - middle).abs(), 0.025) * _step(1 - along.abs(), 0.15)
    hair = palette[:, HAIR] * 0.8
    return _mix(colour, hair, brow * front)


def _paint_mouth(point: tuple, colour: Tensor, palette: Tensor, p: Numbers) -> Tensor:
    """The mouth, on skin and beard alike."""
    x, y, z = point
    front = (z > 0.2).float()
    y = y + 0.50
    lip = palette[:, PAINTS.index("lip")]
    dark = torch.tensor((0.30, 0.07, 0.08), dtype=FLOAT, device=x.device)
    teeth = torch.tensor((0.97, 0.96, 0.93), dtype=FLOAT, device=x.device)
    tongue = torch.tensor((0.86, 0.36, 0.36), dtype=FLOAT, device=x.device)
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


def coloured(head: tuple, material: Tensor, palette: Tensor, p: Numbers) -> Tensor:
    """Surface colours (N, 3), sRGB-like."""
    colour = palette[torch.arange(len(material), device=material.device), material]
    x, y, z = head
    strands = torch.sin(24 * x * (1 + 0.25 * y) + 7 * z) * 0.5 + torch.sin(41 * x + 11 * y - 13 * z) * 0.25
    hairy = (material == HAIR) | (material == BEARD)
    colour = colour * (1 + torch.where(hairy, 0.10 * strands, 0.0))[:, None]
    colour = torch.where((material == EYE)[:, None], _paint_eye(head, palette, p), colour)
    colour = torch.where((material == SKIN)[:, None], _paint_face(head, colour, palette, p), colour)
    mouth = _paint_mouth(head, colour, palette, p)
    return torch.where(((material == SKIN) | (material == BEARD))[:, None], mouth, colour)
