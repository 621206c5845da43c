"""Which of a visitor's photos can be used, and why not the others.

Every rejection is one sentence that says what to do instead. A face comes from any detector as a :class:`Face`; identities come as
distances between photos. What the bars below were chosen from is said beside each; they can be changed per world (:class:`Bars`).

Pictures are (H, W, 3) uint8 RGB; a box is (left, top, width, height) and a point (x, y), in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy
import scipy
from numpy.typing import ArrayLike, NDArray

from pipelines.core import limits
from pipelines.core.geometry import Face, Picture, nose_between_eyes
from pipelines.megaportrait import metrics
from pipelines.megaportrait.tools import Embedding, FaceTools, threshold, with_tools
from pipelines.models import sdxl

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

MOST, ADVISED = 20, 5
"""Photos of one person that are taken, and from how many on nothing is said."""
FACE_SIDE = 96
"""Sharpness is measured on a face reduced to this width, so that it means the same for every camera."""
BLACK = 16 / 255
"""A picture whose brightest hundredth is darker shows nothing."""
HASH_SIDE = 16
"""The hash has the square of this, less one, bits."""


@dataclass(frozen=True)
class Photo:
    """One picture as it came, and the faces found in it."""

    name: str
    picture: Picture
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True)
class Bars:
    """From where on something is said. Lengths in pixels of the photo, angles in degrees."""

    stop: float = 64
    """A narrower face is refused."""
    small: float = 96
    """A narrower face is remarked on."""
    sharp: float = 0.03
    """Laplacian variance over variance. A Gaussian of 2 pixels at 96 left 0.008 of a photograph's 0.32 and 0.013 to 0.045 of rendered
    heads' 0.3 to 1.8; one of 1 pixel left 0.031 and 0.05 to 0.15."""
    bright: float = 0.22
    """Luminance in [0, 1] of the face's brightest tenth: unlike the mean it does not refuse dark skin (rendered: at least 0.49)."""
    nose: tuple[float, float] = (0.25, 0.75)
    roll: float = 20
    alike: int = 40
    """Differing bits of 255 of two hashes. The same picture, saved smaller as JPEG, brighter or cut by 4 pixels: at most 42, nearly
    always below 35; one rendered person in another shot: at least 74."""
    keep: int = 3
    """So many photos are kept, even if blurred, dark or alike."""


@dataclass(frozen=True)
class Measures:
    """What was measured of one face; None is "not defined", as without points."""

    width: float
    sharpness: float
    luminance: float
    brightest: float
    nose: float | None
    roll: float | None


@dataclass(frozen=True)
class Verdict:
    """One photo's: used or rejected, and why in one sentence (empty when there is nothing to say)."""

    name: str
    used: bool
    reason: str = ""
    fault: str = ""
    """"black", "no face", "tiny", "blurred", "dark", "duplicate", "different" or empty; stays when a photo is kept all the same."""
    notes: tuple[str, ...] = ()
    """Sentences that go with a photo which is used."""
    face: Face | None = None
    measures: Measures | None = None

    @property
    def word(self) -> str:
        return "used" if self.used else "rejected"


# --- what is measured ------------------------------------------------------------------------------------------


def _part(picture: Picture, box: Sequence[float]) -> Picture:
    """The box as far as it lies in the picture, at least one pixel."""
    left, top = (min(max(math.floor(box[axis]), 0), picture.shape[1 - axis] - 1) for axis in (0, 1))
    right, bottom = (math.ceil(box[axis] + box[axis + 2]) for axis in (0, 1))
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def sharpness(picture: Picture, box: Sequence[float]) -> float:
    """Variance of the Laplacian over the variance of the luminance, of the face at :data:`FACE_SIDE` pixels; 0 where it is plain.

    A face that is smaller is not enlarged.
    """
    grey: NDArray = cv2.cvtColor(_part(picture, box), cv2.COLOR_RGB2GRAY).astype(numpy.float32)
    scale = FACE_SIDE / grey.shape[1]
    if scale < 1:
        grey = cv2.resize(grey, (FACE_SIDE, max(1, round(grey.shape[0] * scale))), interpolation=cv2.INTER_AREA)
    spread = float(grey.var())
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) / spread if spread > 1 else 0.0


def measure(picture: Picture, face: Face) -> Measures:
    """Size, sharpness, light and pose of one face."""
    grey = cv2.cvtColor(_part(picture, face.box), cv2.COLOR_RGB2GRAY) / 255
    return Measures(
        width=float(face.box[2]),
        sharpness=sharpness(picture, face.box),
        luminance=float(grey.mean()),
        brightest=float(numpy.percentile(grey, 90)),
        nose=None if face.points is None else nose_between_eyes(face.points),
        roll=face.tilt,
    )


def perceptual_hash(picture: Picture) -> NDArray[numpy.bool_]:
    """Signs of the lowest cosine waves against their median, (255,): nearly the same for nearly the same picture."""
    side = 4 * HASH_SIDE
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(numpy.float32)
    waves = cv2.dct(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA))[:HASH_SIDE, :HASH_SIDE].ravel()[1:]
    return waves > numpy.median(waves)


def largest(faces: Sequence[Face]) -> Face | None:
    return max(faces, key=lambda face: face.box[2] * face.box[3], default=None)


def numbered(faces: Sequence[Face]) -> list[Face]:
    """From left to right, as they are numbered on the page."""
    return sorted(faces, key=lambda face: face.box[0] + face.box[2] / 2)


def odd_ones(distances: ArrayLike, different: float) -> list[int] | None:
    """Places of the photos that show somebody else than most do, by their distances (N, N); NaN is "not measured".

    Photos at most ``different`` apart show one person, and so do chains of them. [] when all hang together, None when there are
    groups and none of them holds more than half.
    """
    apart = numpy.asarray(distances, numpy.float64)
    if apart.ndim != 2 or apart.shape[0] != apart.shape[1]:
        raise ValueError(
            f"Distances of shape {apart.shape} came and one for every two photos is needed: give a square table."
        )
    finite = numpy.isfinite(apart)
    numpy.fill_diagonal(finite, False)
    measured = numpy.flatnonzero(finite.any(1))
    if len(measured) < 2:
        return []
    near = numpy.nan_to_num(apart[numpy.ix_(measured, measured)], nan=numpy.inf) <= different
    count, group = scipy.sparse.csgraph.connected_components(near, directed=False)
    sizes = numpy.bincount(group, minlength=count)
    if count > 1 and sizes.max() * 2 <= len(measured):
        return None
    return [int(place) for place, own in zip(measured, group, strict=True) if own != sizes.argmax()]


# --- verdicts --------------------------------------------------------------------------------------------------


def judge(photo: Photo, bars: Bars | None = None, reference: bool = False, chosen: int | None = None) -> Verdict:
    """One picture by itself: of a source photo the largest face is taken; of a reference the ``chosen`` one, counted from the left.

    Raises:
        ValueError: a chosen face that is not there.
    """
    bars, name, faces = bars or Bars(), photo.name, photo.faces
    if float(numpy.percentile(cv2.cvtColor(photo.picture, cv2.COLOR_RGB2GRAY), 99)) < BLACK * 255:
        return Verdict(name, False, f"{name} is black: save or download it again, or take another photo.", "black")
    if not faces:
        todo = (
            "draw the face box, or choose a portrait where the whole head is visible"
            if reference
            else "use a photo where the whole head is visible, not cropped at the forehead"
        )
        return Verdict(name, False, f"No face found in {name}: {todo}.", "no face")
    if chosen is not None and not 0 <= chosen < len(faces):
        raise ValueError(
            f"Face {chosen + 1} was chosen and {name} has {len(faces)}: choose a number from 1 to {len(faces)}."
        )
    face = largest(faces) if chosen is None else numbered(faces)[chosen]
    assert face is not None
    found = measure(photo.picture, face)
    of = (name, face, found)
    if found.width < bars.stop:
        return _rejected(
            of,
            "tiny",
            f"The face in {name} is only {found.width:.0f} px wide and at least {bars.stop:g} are needed: "
            "use a larger or closer picture.",
        )
    notes = _notes(photo, face, found, bars, reference, chosen)
    if not reference and found.brightest < bars.bright:
        return _rejected(of, "dark", f"{name} is too dark to show the face: use a photo with more light on it.", notes)
    if not reference and found.sharpness < bars.sharp:
        return _rejected(of, "blurred", f"{name} is blurred: use a photo with the face in focus.", notes)
    return Verdict(name, True, notes=notes, face=face, measures=found)


def _rejected(of: tuple[str, Face, Measures], fault: str, reason: str, notes: tuple[str, ...] = ()) -> Verdict:
    return Verdict(of[0], False, reason, fault, notes, of[1], of[2])


def _notes(
    photo: Photo, face: Face, found: Measures, bars: Bars, reference: bool, chosen: int | None
) -> tuple[str, ...]:
    notes, several = [], len(photo.faces)
    if several > 1 and reference and chosen is None:
        notes.append(
            f"{several} faces found in {photo.name}: the largest is replaced and the others stay as they are; choose."
        )
    elif several > 1 and not reference:
        notes.append(
            f"{several} faces found in {photo.name}: the largest is used; cut the photo if that is somebody else."
        )
    if found.width < bars.small:
        notes.append(f"The face in {photo.name} is only {found.width:.0f} px wide; details will be invented.")
    if found.nose is not None and not bars.nose[0] <= found.nose <= bars.nose[1]:
        notes.append(f"{photo.name} is a side view and these often fail; add a source photo from a similar angle.")
    if found.roll is not None and abs(found.roll) > bars.roll:
        notes.append(
            f"The head in {photo.name} is tilted by {abs(found.roll):.0f}°: it is turned upright and back again."
        )
    return tuple(notes)


def check(
    photos: Sequence[Photo],
    distances: ArrayLike | None = None,
    different: float | None = None,
    bars: Bars | None = None,
) -> tuple[list[Verdict], list[str]]:
    """Every source photo's verdict, in their order, and sentences about all of them together.

    Args:
        distances: between the identities of every two photos (N, N), NaN where one has none; from ``different`` on two photos show two
            persons. Without them persons are not compared.

    Raises:
        ValueError: no photos or too many, or distances without a bar.
    """
    bars = bars or Bars()
    if not 1 <= len(photos) <= MOST:
        raise ValueError(f"{len(photos)} photos came: give 1 to {MOST} of one person.")
    if distances is not None and (different is None or numpy.shape(distances) != (len(photos),) * 2):
        raise ValueError(
            f"Distances of shape {numpy.shape(distances)} came for {len(photos)} photos: give one for every two, and the bar."
        )
    verdicts, remarks = [judge(photo, bars) for photo in photos], list[str]()
    if distances is not None and different is not None:
        verdicts, remarks = _without_others(verdicts, numpy.array(distances, numpy.float64), different)
    verdicts = _kept(_without_duplicates(verdicts, photos, bars), bars.keep)
    used = sum(verdict.used for verdict in verdicts)
    if not used:
        remarks.append("None of the photos can be used: give at least one sharp photo of the whole head.")
    elif used < ADVISED:
        remarks.append(f"{used} of {len(photos)} photos can be used; {ADVISED} to {MOST} in varied light are better.")
    return verdicts, remarks


def _without_others(
    verdicts: list[Verdict], distances: NDArray[numpy.float64], different: float
) -> tuple[list[Verdict], list[str]]:
    for place, verdict in enumerate(verdicts):
        if verdict.face is None:
            distances[place, :] = distances[:, place] = numpy.nan
    odd = odd_ones(distances, different)
    if odd is None:
        return verdicts, [
            "The photos look like different persons, and none is in most of them: give photos of one person."
        ]
    if not odd:
        return verdicts, []
    told = [
        replace(
            verdict,
            used=False,
            fault="different",
            notes=(),
            reason=(
                f"{verdict.name} looks like a different person than most of the photos: leave it out, or use a clearer one."
            ),
        )
        if place in odd and verdict.fault != "tiny"
        else verdict
        for place, verdict in enumerate(verdicts)
    ]
    numbers = [str(place + 1) for place in odd]
    if len(numbers) == 1:
        return told, [f"Photo {numbers[0]} looks like a different person."]
    return told, [f"Photos {', '.join(numbers[:-1])} and {numbers[-1]} look like a different person."]


def _without_duplicates(verdicts: list[Verdict], photos: Sequence[Photo], bars: Bars) -> list[Verdict]:
    """Of pictures that are nearly the same, the first that can be used stays."""
    told: list[Verdict] = []
    seen: list[tuple[str, NDArray]] = []
    for verdict, photo in zip(verdicts, photos, strict=True):
        if verdict.used:
            own = perceptual_hash(photo.picture)
            twin = next((name for name, other in seen if (own != other).sum() <= bars.alike), None)
            if twin is not None:
                reason = f"{photo.name} is nearly the same picture as {twin}: use a photo from another moment."
                verdict = replace(verdict, used=False, fault="duplicate", reason=reason)
            else:
                seen.append((photo.name, own))
        told.append(verdict)
    return told


def _kept(verdicts: list[Verdict], least: int) -> list[Verdict]:
    """Blurred, dark and doubled photos come back, in this order of worth, until ``least`` are used."""
    told = list(verdicts)
    words = {"blurred": "blurred", "dark": "dark", "duplicate": "nearly the same picture as another"}
    missing = least - sum(verdict.used for verdict in told)
    weak = sorted(
        (list(words).index(verdict.fault), place) for place, verdict in enumerate(told) if verdict.fault in words
    )
    for _worth, place in weak[: max(missing, 0)]:
        name, fault = told[place].name, told[place].fault
        reason = f"{name} is {words[fault]}, and is used all the same because fewer than {least} photos would be left."
        told[place] = replace(told[place], used=True, reason=reason)
    return told


BARS = {"mini": Bars(stop=40, small=56), "full": Bars()}
"""Rendered portraits are 128 pixels wide, so that their faces are smaller than a photograph's."""


@dataclass(frozen=True, eq=False)
class Intake:
    """All that was found out about a visitor's pictures of a person."""

    photos: list[Photo]
    verdicts: list[Verdict]
    remarks: list[str]
    embeddings: list[Embedding | None]

    @property
    def used(self) -> list[int]:
        return [place for place, verdict in enumerate(self.verdicts) if verdict.used]


def inspect(
    tools: FaceTools, pictures: Sequence[tuple[str, Picture]], model_set: str = "mini", bars: Bars | None = None
) -> Intake:
    """Faces, identities and verdicts of (name, picture) pairs."""
    photos = [Photo(name, picture, tools.faces(picture)) for name, picture in pictures]
    faces = [largest(photo.faces) for photo in photos]
    embeddings = [
        None if face is None else tools.embed(photo.picture, face) for photo, face in zip(photos, faces, strict=True)
    ]
    bar = threshold(model_set)
    known = sum(found is not None for found in embeddings)
    distances = metrics.cosine_distances(embeddings) if bar is not None and known > 1 else None
    verdicts, remarks = check(
        photos, distances, None if distances is None or bar is None else 1 - bar, bars or BARS[model_set]
    )
    return Intake(photos, verdicts, [*remarks, *tools.notes], embeddings)


def look_at(job: Job, registry: Registry, pictures: Sequence[tuple[str, Picture]], model_set: str = "mini") -> Intake:
    """:func:`inspect` for the lane: the table of verdicts on the page. Leases the small face models only."""
    limits.choice("Model set", model_set, sdxl.FIRST)
    job.progress(0.0, "looking for faces")
    return with_tools(registry, model_set, lambda tools: inspect(tools, pictures, model_set))


def gather_refusal(intake: Intake) -> str:
    """Why no person can be made of these pictures, with the first reason of each kind."""
    reasons = dict.fromkeys(verdict.reason for verdict in intake.verdicts)
    return " ".join([*list(reasons)[:2], *intake.remarks[-1:]])
