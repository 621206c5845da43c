"""Portraits: friendly clay heads, drawn from a seed, with everything about the picture known.

`people` says who and how, `words` writes and reads captions, `shapes` and `paint` make the heads, `clay` renders them. Only `clay` needs torch, so its names
are imported when they are first used: a page can write and read captions without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .people import (
    BACKGROUNDS,
    CLOTHES,
    COLLARS,
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_COLOURS,
    HAIR_STYLES,
    IDENTITY_FIELDS,
    LIGHT_COLOURS,
    Identity,
    Portrait,
    Shot,
    relit,
    sample,
    sample_identity,
    sample_shot,
)
from .words import ATTRIBUTES, attributes, caption, parse, vocabulary

if TYPE_CHECKING:
    from .clay import LANDMARK_NAMES, MASKS, PortraitTruth, landmarks, render, seen_in

__all__ = [
    "ATTRIBUTES", "BACKGROUNDS", "CLOTHES", "COLLARS", "EXPRESSIONS", "EYE_COLOURS", "HAIR_COLOURS", "HAIR_STYLES",
    "IDENTITY_FIELDS", "LANDMARK_NAMES", "LIGHT_COLOURS", "MASKS", "Identity", "Portrait", "PortraitTruth", "Shot",
    "attributes", "caption", "landmarks", "parse", "relit", "render", "sample", "sample_identity", "sample_shot", "seen_in",
    "vocabulary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("LANDMARK_NAMES", "MASKS", "PortraitTruth", "landmarks", "render", "seen_in"):
        from . import clay

        return getattr(clay, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
