"""Portraits: friendly clay heads, drawn from a seed, with everything about the picture known.

`people` says who and how, `words` writes and reads captions, `clay` renders.
"""

from .clay import LANDMARK_NAMES, MASKS, PortraitTruth, render
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

__all__ = [
    "ATTRIBUTES", "BACKGROUNDS", "CLOTHES", "COLLARS", "EXPRESSIONS", "EYE_COLOURS", "HAIR_COLOURS", "HAIR_STYLES",
    "IDENTITY_FIELDS", "LANDMARK_NAMES", "LIGHT_COLOURS", "MASKS", "Identity", "Portrait", "PortraitTruth", "Shot",
    "attributes", "caption", "parse", "relit", "render", "sample", "sample_identity", "sample_shot", "vocabulary",
]  # fmt: skip
