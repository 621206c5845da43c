"""All measures of one result: :mod:`metrics` on the right pictures and masks, and against the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import images, masks
from pipelines.core.geometry import Face, Mask, Picture
from pipelines.megaportrait import intake, metrics, paste
from pipelines.megaportrait.light import SKIN, lips_and_eyes
from pipelines.megaportrait.place import Analysis, in_picture, window_of
from pipelines.megaportrait.tools import FaceTools, skin_of, threshold
from pipelines.worlds import portrait
from pipelines.worlds.portrait import Portrait

MEASURED_SIDE = 1024
"""Seam and light are measured at most at this long side: of a photograph's face they would take half a minute, and are as wide as its
share of the face, not as its pixels."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a perfect result shows."""

    picture: Picture
    points: NDArray[numpy.float64]
    visible: NDArray[numpy.bool_]
    """(5,), which of the points can be seen."""


def truth_of(someone: Portrait | None, picture: Picture) -> Truth | None:
    """A rendered person in the size of the reference ``picture``; None of a photograph."""
    if someone is None:
        return None
    made = portrait.render([someone], picture.shape[:2], truth=True)
    assert made.landmarks is not None and made.visible is not None
    points = made.landmarks[0, :5].numpy()[:, ::-1].astype(float)
    return Truth(numpy.asarray(images.to_pil(made.image)[0]), points, made.visible[0, :5].numpy())


def measures(
    result: Picture,
    changed: Mask,
    core: Mask,
    analysis: Analysis,
    tools: FaceTools,
    embeddings: Sequence[NDArray[numpy.float32]],
    truth: Truth | None,
) -> dict[str, Any]:
    """Seam, light, sharpness, identity and, with a ``truth``, nearness to it; JSON-able.

    ``result`` and ``changed`` are as large as the reference, ``core`` is what was pasted in the square; ``embeddings``: the person's.
    """
    window, pasted = window_of(analysis), in_picture(analysis, core)
    seen = result[window], analysis.picture[window], pasted[window], changed[window]
    found: dict[str, Any] = metrics.measured(*_reduced(*seen))
    found["sharpness_ratio"] = metrics.sharpness_ratio(*seen[:3])  # at its own size: that is what it is about
    found |= metrics.outside(result, analysis.picture, changed)
    found |= _agreement(result, found["shading_agreement"], analysis, tools)
    face = _face_of(result, analysis, tools)
    own = None if face is None else tools.embed(result, face)
    found["identity"] = metrics.identity_table(own, embeddings, analysis.embedding)
    bar, mean = threshold(analysis.model_set), found["identity"]["result"]["mean"]
    found["threshold"] = bar
    found["same_person"] = None if bar is None or mean is None else mean >= bar
    found["truth"] = truth is not None
    if truth is not None:
        found |= _against(truth, result, face, core, pasted, analysis)
        there = _face_of(truth.picture, analysis, tools)
        exact = None if there is None else tools.embed(truth.picture, there)
        found["identity"]["truth"] = metrics.identity_table(exact, embeddings, None)["result"]
    return found


def _against(
    truth: Truth, result: Picture, face: Face | None, core: Mask, pasted: Mask, analysis: Analysis
) -> dict[str, Any]:
    ring = in_picture(analysis, paste.ring_of(core, analysis.width))
    regions = {
        "face": in_picture(analysis, analysis.face_core),
        "core": pasted,
        "ring": ring,
        "rest": ~(pasted | ring),
    }
    known = None if face is None or face.points is None else numpy.asarray(face.points)
    return {
        "regions": metrics.against_truth(result, truth.picture, regions),
        "before": metrics.against_truth(analysis.picture, truth.picture, regions),
        "landmark_error": metrics.landmark_error(known, truth.points, analysis.face.box[2], truth.visible),
    }


def _agreement(result: Picture, in_core: float | None, analysis: Analysis, tools: FaceTools) -> dict[str, Any]:
    """How well light agrees, on the skin that result and reference both show: a beard or glasses in the one are no light. Without a
    parser, or with little skin, all that was pasted counts."""
    square = analysis.crop.cut(result)
    skin = skin_of(tools.middle(square), square) & analysis.skin & analysis.face_core
    skin &= ~lips_and_eyes(analysis.points, skin.shape)
    if skin.sum() < SKIN * analysis.face_core.sum():
        return {"shading_agreement": in_core, "shading_measured_on": "core"}
    found = metrics.shading_agreement(square, analysis.square, skin, analysis.width)
    return {"shading_agreement": found, "shading_measured_on": "skin"}


def _face_of(picture: Picture, analysis: Analysis, tools: FaceTools) -> Face | None:
    """The face where the reference's was."""
    left, top, width, height = analysis.face.box
    near = [
        face
        for face in tools.faces(picture)
        if face.points is not None
        and abs(face.box[0] + face.box[2] / 2 - left - width / 2) < width / 2
        and abs(face.box[1] + face.box[3] / 2 - top - height / 2) < height / 2
    ]
    return intake.largest(near)


def _reduced(result: Picture, reference: Picture, core: Mask, changed: Mask) -> tuple[Picture, Picture, Mask, Mask]:
    """All four at most :data:`MEASURED_SIDE` long."""
    height, width = core.shape
    scale = MEASURED_SIDE / max(height, width)
    if scale >= 1:
        return result, reference, core, changed
    size = max(1, round(width * scale)), max(1, round(height * scale))
    one, other = (
        numpy.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), numpy.uint8)
        for picture in (result, reference)
    )
    return one, other, masks.resized(core, size), masks.resized(changed, size)
