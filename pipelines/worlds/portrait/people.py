"""Who stands before the camera (`Identity`) and how the picture is taken (`Shot`), drawn from a seed.

Nothing here needs torch except `Identity.vector`. Angles are radians, lengths are in head units: the skull's radius
is about 0.9, x points to the right of the picture, y up and z towards the camera.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HAIR_COLOURS = ("black", "brown", "blond", "red", "grey", "blue")
HAIR_STYLES = ("short", "long", "bun", "curly")
EYE_COLOURS = ("brown", "blue", "green", "grey")
EXPRESSIONS = ("neutral", "smiling", "surprised")
LIGHT_COLOURS = ("warm", "neutral", "cool")
CLOTHES = ("red", "blue", "green", "yellow", "purple", "white", "black")
COLLARS = ("round", "turtleneck")
BACKGROUNDS = ("white", "blue", "green", "yellow", "pink", "purple")

RANGES: dict[str, tuple[float, float]] = {
    "head_width": (0.80, 0.96),  # half axis of the skull
    "head_height": (0.90, 1.04),  # half axis of the skull
    "jaw_width": (0.52, 0.76),  # half axis of the jaw
    "jaw_length": (0.50, 0.62),  # half axis of the jaw; longer puts the chin lower
    "cheeks": (0.22, 0.34),  # radius of the cheeks
    "skin": (0.0, 5.0),  # place on the row of skin tones, light to dark
    "eye_spacing": (0.32, 0.41),  # from the middle of the face to one eye
    "eye_size": (0.185, 0.25),  # radius of the eyeball
    "brow_thickness": (0.028, 0.065),
    "brow_angle": (-0.28, 0.28),  # rise towards the temples
    "nose_size": (0.11, 0.17),
    "nose_width": (0.10, 0.20),
    "mouth_width": (0.24, 0.36),  # half width
    "ear_size": (0.75, 1.3),
    "parting": (-1.0, 1.0),  # side to which the hair is combed
    "hairline": (0.70, 0.84),  # height of the forehead
}
CATEGORIES: dict[str, tuple[str, ...]] = {
    "hair_style": HAIR_STYLES,
    "hair_colour": HAIR_COLOURS,
    "eye_colour": EYE_COLOURS,
}
FLAGS = {"glasses": 0.5, "beard": 0.45, "freckles": 0.25}  # name -> how often
IDENTITY_FIELDS = (
    *RANGES,
    *(f"{name}={value}" for name, values in CATEGORIES.items() for value in values),
    *FLAGS,
)
"""What each number of `Identity.vector` stands for."""

SHOT_RANGES: dict[str, tuple[float, float]] = {
    "yaw": (-0.5, 0.5),  # positive turns the face to the right of the picture
    "pitch": (-0.2, 0.2),  # positive looks down
    "roll": (-0.15, 0.15),  # positive tilts the head to the left of the picture
    "light_azimuth": (-1.0, 1.0),  # positive comes from the right of the picture
    "light_elevation": (0.3, 0.95),
}
SHOT_CATEGORIES: dict[str, tuple[str, ...]] = {
    "expression": EXPRESSIONS,
    "light_colour": LIGHT_COLOURS,
    "clothes": CLOTHES,
    "collar": COLLARS,
    "background": BACKGROUNDS,
}


@dataclass(frozen=True)
class Identity:
    """What stays with a person from picture to picture; ranges in `RANGES`, words in `CATEGORIES`."""

    head_width: float
    head_height: float
    jaw_width: float
    jaw_length: float
    cheeks: float
    skin: float
    eye_spacing: float
    eye_size: float
    brow_thickness: float
    brow_angle: float
    nose_size: float
    nose_width: float
    mouth_width: float
    ear_size: float
    parting: float
    hairline: float
    hair_style: str
    hair_colour: str
    eye_colour: str
    glasses: bool
    beard: bool
    freckles: bool

    def __post_init__(self) -> None:
        _check(self, RANGES, CATEGORIES)

    def vector(self) -> Tensor:
        """The identity as float32 numbers in [-1, 1], in the order of `IDENTITY_FIELDS`; words are one-hot (-1 or 1)."""
        import torch

        scaled = [2 * (getattr(self, name) - low) / (high - low) - 1 for name, (low, high) in RANGES.items()]
        words = [1.0 if getattr(self, name) == v else -1.0 for name, values in CATEGORIES.items() for v in values]
        flags = [1.0 if getattr(self, name) else -1.0 for name in FLAGS]
        return torch.tensor(scaled + words + flags, dtype=torch.float32)


@dataclass(frozen=True)
class Shot:
    """What may change between two pictures of one person; ranges in `SHOT_RANGES`, words in `SHOT_CATEGORIES`."""

    yaw: float
    pitch: float
    roll: float
    light_azimuth: float
    light_elevation: float
    expression: str
    light_colour: str
    clothes: str
    collar: str
    background: str

    def __post_init__(self) -> None:
        _check(self, SHOT_RANGES, SHOT_CATEGORIES)


@dataclass(frozen=True)
class Portrait:
    """One person in one shot."""

    identity: Identity
    shot: Shot


def sample_identity(seed: int, **fixed: object) -> Identity:
    """Draw a person; a field given by name is kept as given and leaves the others as they would have been."""
    rng = random.Random(f"identity {seed}")
    drawn: dict[str, Any] = {name: rng.uniform(low, high) for name, (low, high) in RANGES.items()}
    drawn |= {name: rng.choice(values) for name, values in CATEGORIES.items()}
    drawn |= {name: rng.random() < share for name, share in FLAGS.items()}
    return Identity(**drawn | _known(fixed, Identity))


def sample_shot(seed: int, **fixed: object) -> Shot:
    """Draw a shot; a field given by name is kept as given and leaves the others as they would have been."""
    rng = random.Random(f"shot {seed}")
    drawn: dict[str, Any] = {name: rng.uniform(low, high) for name, (low, high) in SHOT_RANGES.items()}
    drawn |= {name: rng.choice(values) for name, values in SHOT_CATEGORIES.items()}
    return Shot(**drawn | _known(fixed, Shot))


def sample(seed: int, **fixed: object) -> Portrait:
    """Draw a person and a shot; `fixed` may name fields of both."""
    names = {field.name for field in fields(Identity)}
    about_person = {name: value for name, value in fixed.items() if name in names}
    about_shot = {name: value for name, value in fixed.items() if name not in names}
    return Portrait(sample_identity(seed, **about_person), sample_shot(seed, **about_shot))


def relit(portrait: Portrait, shot: Shot) -> Portrait:
    """The same person in another shot."""
    return replace(portrait, shot=shot)


def _known(fixed: dict[str, Any], kind: type) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    for name in fixed:
        if name not in names:
            raise ValueError(f"a {kind.__name__.lower()} has no field {name!r}: choose from {', '.join(names)}")
    return fixed


def _check(
    thing: Identity | Shot, ranges: dict[str, tuple[float, float]], categories: dict[str, tuple[str, ...]]
) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(thing, name)
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"{name} is {value!r}: give a number from {low} to {high}")
    for name, values in categories.items():
        if getattr(thing, name) not in values:
            raise ValueError(f"{name} is {getattr(thing, name)!r}: choose from {', '.join(values)}")
