"""Where the person comes to lie in the reference: the square around its face, what of it is replaced, and the person's picture laid over it.

Masks and points are those of the square. Nothing here changes its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import geometry, masks
from pipelines.core.geometry import Crop, Face, Mask, Picture
from pipelines.megaportrait import intake, light, paste
from pipelines.megaportrait.intake import Photo
from pipelines.megaportrait.parts import controls, side_of
from pipelines.megaportrait.tools import PARSED, Embedding, FaceTools, skin_of
from pipelines.models import control_maps, controlnets, look

if TYPE_CHECKING:
    from pipelines.megaportrait.person import Person
    from pipelines.megaportrait.settings import Settings


FRAMING = {"mini": 1.8, "full": 2.2}
"""Side of the crop around a face, in widths of its box. The small model knows rendered portraits, which are framed so."""


def points_of(face: Face) -> NDArray[numpy.float64]:
    """The face's five points; where its detector has none, those of a frontal face in its box, turned by its roll."""
    if face.points is not None:
        return geometry.five(face.points)
    left, top, width, height = face.box
    middle = numpy.array([left + width / 2, top + height / 2])
    turn = math.radians(face.roll or 0.0)
    rotation = numpy.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (IN_A_BOX - 0.5) * (width, height) @ rotation.T + middle


IN_A_BOX = numpy.array([[0.31, 0.38], [0.69, 0.38], [0.5, 0.6], [0.35, 0.79], [0.65, 0.79]])
"""Where the points of a frontal face lie in a cascade's window (brows to chin), in its widths and heights."""


def crop_of(size: tuple[int, int], face: Face, side: int, factor: float, upright: float = 20.0) -> Crop:
    """The square around a face in a picture of ``size`` (width, height). A head that is tilted by more than ``upright`` degrees is
    turned upright. The box of a parser holds the ears and the chin, so its height counts less."""
    width, height = face.box[2:]
    extent = max(width, 0.85 * height)
    middle = face.box[0] + width / 2, face.box[1] + height / 2
    square = (middle[0] - extent / 2, middle[1] - extent / 2, extent, extent)
    roll = face.tilt or 0.0
    return geometry.crop_around(square, size, factor, side, roll if abs(roll) > upright else 0.0)


WIDE = {"mini": 1.25, "full": 1.0}
"""Sides of the reference's square by those of a person's crop: at the same scale, so that hair of any length lies within. The full set, which
replaces faces and no heads, has no need of it."""
EDGE = 0.09
"""The soft edge of a head, in widths of the face: it goes with the head."""
BEND = 0.08
"""Farther than this share of the crop no point is moved by bending: the heads are turned too differently."""
WIDER = 0.22
"""The Identity Net may paint so much further than the reference's face, in its widths: a person's may be rounder."""
HEAD = ("hair", "neck")
"""Labels of the parser that make up a head, with those of its face."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is known of a reference before anything is changed. Masks and points are those of the square ``crop``."""

    picture: Picture
    faces: tuple[Face, ...]
    """From left to right, as the page numbers them."""
    chosen: int
    crop: Crop
    square: Picture
    points: NDArray[numpy.float64]
    width: float
    """Of the face's box, in pixels of the square."""
    core: Mask
    """The region that is replaced: head or face."""
    face_core: Mask
    skin: Mask
    """Plain skin, where a parser sees it."""
    ring: Mask
    embedding: Embedding | None
    notes: list[str]
    model_set: str = "mini"
    attributes: dict[str, str] = field(default_factory=dict)
    """What the verifier reads from it; empty without one."""

    @property
    def face(self) -> Face:
        return self.faces[self.chosen]

    @property
    def reach(self) -> Mask:
        """The region, and how far around it a person's may be larger."""
        return masks.grow(self.core, max(1, round(WIDER * self.width)))

    def map_of(self, role: str, picture: Picture) -> Picture:
        """The control map of a picture of the square's size, as the model set's ControlNet of a role reads it."""
        return controlnets.control_map(controls(self.model_set)[role].reads, picture, self.points, self.width)


@dataclass(frozen=True, eq=False)
class Regions:
    """Parts of a square around a face, as masks of it."""

    head: Mask
    """Hair and neck with the face."""
    face: Mask
    skin: Mask
    """Plain skin in the middle, as the parser sees it; nowhere without one."""


def regions_in(tools: FaceTools, square: Picture, face: Face, points: NDArray[numpy.floating]) -> Regions:
    """The parser's parts of a square around a face, or without them the oval that the points suggest."""
    seen = tools.middle(square)
    skin = skin_of(seen, square)
    if face.backend == PARSED and seen is not None and seen.core.any():
        own = paste.core_of(seen.core)
        head = own | numpy.logical_or.reduce([seen.parts[name] for name in HEAD])
        whole = paste.core_of(head | tools.hair(square))
        return Regions(whole if (whole & own).any() else own, own, skin)
    oval = control_maps.face_oval(square.shape[1::-1], points=points)
    return Regions(oval, oval, skin)


def study(
    tools: FaceTools,
    picture: Picture,
    settings: Settings,
    face: int | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> Analysis:
    """Everything about a reference that the nets need.

    Raises:
        ValueError: no face, one that is too small, a chosen one that is not there, a drawn box without area.
    """
    faces = tuple(intake.numbered(tools.faces(picture)))
    if box is not None:
        left, top, across, down = map(float, box)
        faces, face = (Face((left, top, across, down), None, 1.0, DRAWN),), 0
    photo = Photo("the reference", picture, faces)
    verdict = intake.judge(photo, intake.BARS[settings.model_set], reference=True, chosen=face)
    if not verdict.used or verdict.face is None:
        raise ValueError(verdict.reason[:1].upper() + verdict.reason[1:])
    chosen = faces.index(verdict.face)
    wide = WIDE[settings.model_set]
    side = side_of(settings.model_set, settings.preset, settings.mode)
    side = (
        side if settings.taught else round(wide * side)
    )  # the taught nets draw a square of one size, whatever it shows
    crop = crop_of(picture.shape[1::-1], verdict.face, side, wide * FRAMING[settings.model_set])
    square, points = crop.cut(picture), crop.there(points_of(verdict.face))
    width = verdict.face.box[2] * crop.scale
    regions = regions_in(tools, square, verdict.face, points)
    core = regions.head if settings.region == "head" else regions.face
    notes = list(verdict.notes)
    if settings.region == "head" and verdict.face.backend != PARSED:
        notes.append("Hair and neck are told apart in rendered portraits only: the face alone is replaced.")
    return Analysis(
        picture=picture,
        faces=faces,
        chosen=chosen,
        crop=crop,
        square=square,
        points=points,
        width=width,
        core=core,
        face_core=regions.face,
        skin=regions.skin,
        ring=paste.ring_of(core, width),
        embedding=tools.embed(picture, verdict.face),
        notes=notes,
        model_set=settings.model_set,
    )


DRAWN = "drawn by hand"


@dataclass(frozen=True, eq=False)
class Placed:
    """The person's picture whose head is turned most like the reference's, laid over the reference by its five points."""

    which: int
    crop: Picture
    matrix: geometry.Matrix
    """From the crop to the reference's square."""
    head: Mask
    """Where the person's head comes to lie in the square."""
    face: Mask
    """Where the face does."""


def placed(tools: FaceTools, person: Person, analysis: Analysis) -> Placed:
    """The person's picture that is turned most alike, and where it comes to lie."""
    which = person.nearest(analysis.points)[0]
    crop, points = person.crop(which, analysis.square.shape[1])
    matrix = geometry.affinity(points, analysis.points)
    # What is left of the turn is bent, within the crop: the points then lie where the reference's do.
    wanted = geometry.moved(analysis.points, numpy.linalg.inv(matrix))
    if numpy.hypot(*(wanted - points).T).max() <= BEND * crop.shape[1]:
        crop, points = geometry.bent(crop, points, wanted), wanted
    middle = crop.shape[1] / 2
    # In a photograph the small parser sees parts where there are none; the oval of its points is safe.
    backend = "points" if person.facts.get("photographs") else PARSED
    here = Face((middle - 1, middle - 1, 2, 2), tuple(map(tuple, points)), 1.0, backend)
    size = analysis.square.shape[1::-1]
    regions = regions_in(tools, crop, here, points)
    head, face = (
        geometry.warp(own.astype(numpy.float32), matrix, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR) >= 0.5
        for own in (regions.head, regions.face)
    )
    return Placed(which, crop, matrix, head, face)


def in_the_look(analysis: Analysis, near: Placed) -> tuple[Placed, list[str]]:
    """``near`` with the reference's cast, its black and white, and its one tone if it has one, and what is said of that: what is
    painted from it then begins so."""
    crop, notes = near.crop, []
    face = analysis.skin & analysis.face_core
    face = face if face.any() else analysis.face_core & ~light.lips_and_eyes(analysis.points, face.shape)
    curve = look.tone_of(analysis.picture)
    if curve is not None:
        crop = look.toned(crop, curve)
    elif face.any():
        rest = ~in_picture(analysis, analysis.core)
        skin = analysis.square[face].mean(0)
        gains, colour = look.cast_of(analysis.picture, rest, skin), look.paleness_of(analysis.picture, rest, skin)
        if gains is not None:
            crop = numpy.rint(crop * gains).clip(0, 255).astype(numpy.uint8)
            notes.append("The reference has a strong colour cast: the person was given the same one.")
        elif colour is not None and look.narrowed(crop, analysis.picture) is None:  # which takes colour away, too
            crop = look.paled(crop, colour)
            notes.append("The reference’s colours are pale: the person’s were made so.")
    faded = look.narrowed(crop, analysis.picture)
    if faded is not None:
        crop = faded
        notes.append("The reference is faded or dark: the person was given its black and its white.")
    return replace(near, crop=crop), notes


def room_for(analysis: Analysis, near: Placed, region: str) -> Mask:
    """Where the Identity Net may paint: the person's hair may be longer than the reference's."""
    if region != "head":
        return analysis.reach
    room = masks.grow(near.head, max(1, round(WIDER / 2 * analysis.width)))
    return paste.core_of(analysis.reach | room)


def with_head(analysis: Analysis, head: Placed, reach: Mask) -> Picture:
    """The square with the person's head in the place of the reference's: that one goes first, by what is around it, so that hair
    of another shape can take its place."""
    edge = masks.grow(analysis.core, max(1, round(EDGE * analysis.width)))
    empty = numpy.asarray(cv2.inpaint(analysis.square, edge.astype(numpy.uint8), 3, cv2.INPAINT_TELEA), numpy.uint8)
    there = head.head & reach
    if not there.any():
        return empty
    return paste.paste(head.crop, empty, there, head.matrix, "feather", analysis.width, 0.0, 0.02)[0]


def in_picture(analysis: Analysis, mask: Mask) -> Mask:
    """A mask of the square in the whole reference."""
    size = analysis.picture.shape[1::-1]
    soft = geometry.warp(mask.astype(numpy.float32), analysis.crop.inverse, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    return soft >= 0.5


def window_of(analysis: Analysis) -> tuple[slice, slice]:
    """The part of the reference that the square shows: measures of a seam need no more."""
    corners = analysis.crop.back([(0, 0), (analysis.crop.side, 0), (0, analysis.crop.side), (analysis.crop.side,) * 2])
    height, width = analysis.picture.shape[:2]
    left, top = (max(0, math.floor(number)) for number in corners.min(0))
    right, bottom = math.ceil(corners[:, 0].max()), math.ceil(corners[:, 1].max())
    return slice(top, min(bottom, height)), slice(left, min(right, width))
