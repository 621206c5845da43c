"""The small models around a rendered face: a parser that finds faces, points and parts, and an embedder that says who it is.

Places are (x, y) in pixels and 0.5 is the middle of the first pixel. Left and right are those of the picture, not of the person.
The small parser and embedder know rendered portraits only (``assets/mini_faces``): a photograph is outside of their world.

The networks are in :mod:`pipelines.models.face_nets`; module level is free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import asset_files, geometry
from pipelines.core.weights import ROOT, ModelSpec, asset_spec

if TYPE_CHECKING:
    pass

LABELS = ("background", "skin", "hair", "neck", "clothes", "glasses", "beard")
"""What the parser tells apart; eyes, brows, nose and mouth are skin, because the renderer paints them on it."""
MIRRORED = [1, 0, 2, 4, 3]
"""Order of the five points in a mirrored picture."""
RENDERED = {
    "skin": "face",
    "hair": "hair",
    "neck": "neck",
    "clothes": "body",
    "glasses": "glasses",
    "beard": "beard",
}
"""Label -> mask of the renderer (``portrait.MASKS``) that teaches it."""
OF_A_FACE = ("skin", "glasses", "beard")
"""Labels that make up the box of a face; ears are skin."""

CROP = 128
"""Side of the pictures that the parser reads a face from, in pixels."""
STRIDE = 4
"""Pixels of the parser's input per cell of its output."""
AROUND = 1.8
"""Side of the crop around a face, in widths of its box: a rendered portrait is framed so."""
LOOKS = (128, 256, 64)
"""Lengths of the picture's shorter side at which faces are searched, until some are found."""
LEAST_SHARE = 0.0015
"""Share of the picture that a face must cover to be one."""

ALIGNED = 96
"""Side of the aligned pictures that the embedder reads, in pixels."""
TEMPLATE = numpy.array([[28, 38], [68, 38], [48, 50], [33.6, 68.3], [62.4, 68.3]], numpy.float32)
"""Where the points of :data:`POINTS` lie in an aligned picture: their mean in rendered portraits, eyes 40 pixels apart."""
EMBEDDING = 128

ASSETS = "assets/mini_faces"


# ----------------------------------------------------------------------------------------------- faces


@dataclass(frozen=True)
class Face:
    """One face of a picture of H by W pixels."""

    box: tuple[float, float, float, float]
    """Left, top, width, height of skin, glasses and beard in pixels; ears count, hair does not."""
    points: NDArray[numpy.float32]
    """(5, 2) places of :data:`POINTS`."""
    parts: dict[str, NDArray[numpy.bool_]] = field(repr=False)
    """Name in :data:`LABELS` -> (H, W); every pixel is in exactly one. Beyond the crop around the face all is background."""
    score: float
    """Mean certainty of the parser within the face, 0 to 1."""

    @property
    def core(self) -> NDArray[numpy.bool_]:
        """(H, W): skin, glasses and beard of this face."""
        return numpy.logical_or.reduce([self.parts[name] for name in OF_A_FACE])


# -------------------------------------------------------------------------------------------- identity


def alignment(points: NDArray[numpy.floating], size: int = ALIGNED) -> NDArray[numpy.float64]:
    """The similarity transform (3, 3) that takes points (5, 2) of a picture nearest to the template, scaled to ``size``.

    ValueError for points that are not finite, that coincide, or that are mirrored.
    """
    return geometry.similarity(points, TEMPLATE * (size / ALIGNED))


def aligned(
    picture: NDArray[numpy.uint8], points: NDArray[numpy.floating], size: int = ALIGNED, margin: int = 0
) -> NDArray[numpy.uint8]:
    """The face (size, size, 3), turned and scaled so that its points lie on the template; ``margin`` more pixels all around."""
    matrix = alignment(points, size)
    matrix[:2, 2] += margin
    return geometry.warp(picture, matrix, (size + 2 * margin,) * 2, way=cv2.INTER_LINEAR)


def evaluation() -> dict[str, Any]:
    """What ``python -m assets.mini_faces.evaluate --write`` measured; empty before."""
    path = ROOT / ASSETS / "evaluation.json"
    return asset_files.facts(path, "identity")


def threshold() -> float | None:
    """Similarity from which on two pictures show one person, at 1 % false matches; None before it was measured."""
    path = ROOT / ASSETS / "evaluation.json"
    found = asset_files.reading(path, lambda: evaluation().get("identity", {}).get("threshold"), lambda: None)
    return found if isinstance(found, float) and 0 < found < 1 else None


# -------------------------------------------------------------------------------------------- registry


def _load(spec: ModelSpec) -> Any:
    from pipelines.models import face_nets

    return face_nets.load(spec)


PARSER = asset_spec("mini-faces/parser", ASSETS, _load, "parser", "finds faces, points and parts in renders")
EMBEDDER = asset_spec("mini-faces/embedder", ASSETS, _load, "embedder", "who a rendered face is, for measuring")
