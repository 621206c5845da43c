"""What is said to a visitor about pictures and result: what will not come out well, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from pipelines.core import geometry
from pipelines.core.weights import ModelSpec
from pipelines.megaportrait import metrics, paste
from pipelines.megaportrait.parts import DRAWN, in_words
from pipelines.megaportrait.tools import PARSED

if TYPE_CHECKING:
    from pipelines.megaportrait.person import Person
    from pipelines.megaportrait.place import Analysis, Placed
    from pipelines.megaportrait.settings import Settings


class BlackPicture(ValueError):
    """A safety filter hid the result, or half precision overflowed: nothing that could be shown."""


NO_CONSENT = (
    "These pictures may show a real person: tick that everybody in them is of age and agrees, or use rendered pictures."
)


def warn_glasses(person: Person, told: bool = False) -> str | None:
    """Where most pictures show glasses, by what the verifier read of them or by what the visitor ``told``: what will come of it."""
    worn = [reading.get("glasses") == "yes" for reading in person.facts.get("readings", ())]
    if 2 * sum(worn) <= len(worn) and not told:
        return None
    shown = f"{sum(worn)} of {len(worn)} pictures show glasses" if sum(worn) else "Most pictures show glasses"
    return f"{shown}: the result will likely wear glasses; add pictures without them if it should not."


def cannot_be_had(error: Exception, wanted: Iterable[ModelSpec]) -> str:
    """Why a run cannot begin: which file of ``wanted`` is missing, how large it is, and what can be done meanwhile."""
    spec = next((spec for spec in wanted if str(error).startswith(spec.key)), None)
    size = "" if spec is None else f" (about {in_words(spec.bytes)})"
    return f"{str(error).rstrip('.')}{size}. The preview without AI models still runs."


def warn_photograph(person: Person, analysis: Analysis, settings: Settings) -> str | None:
    if settings.model_set != "mini" or (not person.facts.get("photographs") and analysis.face.backend == PARSED):
        return None
    return (
        "The small models know rendered people only: of a photograph they find the face and paste it, but cannot say who it is; "
        "the full set is for real people."
    )


def warn_identity(metrics: Mapping[str, Any], mode: str = "trained") -> str | None:
    """What to try when the best candidate is not taken for the person."""
    if metrics["same_person"] is not False:
        return None
    todo = {
        DRAWN: "choose a reference in which the head is turned more as in one of the pictures, or give more pictures.",
        "preview": "choose the instant mode, or train the person.",
        "instant": "train the person, lower the harmonise strength by 0.05, or give more pictures.",
    }
    more = "raise the identity LoRA by 0.1, lower the harmonise strength by 0.05, or give more pictures."
    return (
        f"The result is not taken for the person ({metrics['identity']['result']['mean']:.2f}, bar {metrics['threshold']:.2f}): "
        f"{todo.get(mode, more)}"
    )


def warn_enlarged(analysis: Analysis) -> str | None:
    """The square is painted at one size, whatever the reference's: where the face is larger, the result is softer than its surroundings."""
    factor = 1 / analysis.crop.scale
    if factor < ENLARGED:
        return None
    side, there = analysis.square.shape[1], round(analysis.square.shape[1] * factor)
    return (
        f"The face was painted on a square of {side} pixels, which is {there} pixels wide in this reference: it is softer than the "
        f"rest, which stays as it was; a reference of about {round(max(analysis.picture.shape[:2]) / factor)} pixels shows no difference."
    )


def warn_gap(analysis: Analysis, near: Placed, settings: Settings) -> list[str]:
    """What to change when the person's picture is far from the reference, in colour at the face's border or in width. Which of shape,
    pose, skin, beard and light it is, is not known, so it is not said."""
    notes: list[str] = []
    core = analysis.face_core & near.face
    if not core.any():
        return notes
    raw = geometry.warp(near.crop, near.matrix, analysis.square.shape[1::-1])
    pasted = numpy.where(core[..., None], raw, analysis.square)
    step = metrics.ring_difference(pasted, analysis.square, core)
    if step is not None and step > TONE_GAP:
        can = settings.region != "head" and settings.model_set == "mini"  # photographs have no parser for hair and neck
        more = "replace the head with hair and neck, or " if can else ""
        notes.append(
            f"Person and reference are far apart at the face's border (ΔE {step:.0f}, {TONE_GAP:g} is much), by skin, beard or light: "
            f"{more}choose a reference that is more alike there if the border shows."
        )
    ratio = paste.width_of(near.face) / paste.width_of(analysis.face_core)
    if max(ratio, 1 / ratio) > SHAPE_GAP:
        notes.append(
            f"The person's picture is made {abs(1 / ratio - 1):.0%} {'narrower' if ratio > 1 else 'wider'} to fit the reference's face, "
            "by shape or by pose: choose a reference that is more alike if that shows."
        )
    return notes


TRANSPARENT = (
    "The reference has transparent parts: the models saw them over white, and the result has them as they were, so that hair which reaches "
    "into them is not seen there."
)
ENLARGED = 2.0
"""From this factor on the page says that the painted square was enlarged."""
TONE_GAP, SHAPE_GAP = 15.0, 1.15
"""Colour step of the bare paste at the face's border in Lab, and ratio of the faces' widths, from which on the page says so."""
