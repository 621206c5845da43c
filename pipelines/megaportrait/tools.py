"""Who is where in a picture: the models that find faces and say who they are, as one tool for rendered people and photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from pipelines.core import lane
from pipelines.core.geometry import Face, Picture
from pipelines.core.weights import ModelSpec
from pipelines.megaportrait.parts import face_specs, in_words
from pipelines.models import faces, faces_photo
from pipelines.models.faces import Face as Parsed

if TYPE_CHECKING:
    import cv2
    from torch import nn

    from pipelines.core.registry import Registry
    from pipelines.models.face_nets import FaceEmbedder, FaceParser

Embedding = NDArray[numpy.float32]


class FaceTools:
    """Finds faces and says who they are: of rendered people with the small models, of photographs with OpenCV's. Without those only the
    place of a photographed face is found."""

    def __init__(
        self,
        parser: nn.Module | None = None,
        embedder: nn.Module | None = None,
        detector: cv2.FaceDetectorYN | None = None,
        recogniser: cv2.FaceRecognizerSF | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """``parser``, ``embedder``: the small networks, leased; ``detector``, ``recogniser``: YuNet and SFace; None: without.
        ``notes``: what the page says about those that are missing."""
        self.parser: FaceParser | None = None
        self.embedder: FaceEmbedder | None = None
        if parser is not None or embedder is not None:  # photographs are looked at without torch
            from pipelines.models import face_nets

            self.parser = None if parser is None else face_nets.FaceParser(parser)
            self.embedder = None if embedder is None else face_nets.FaceEmbedder(embedder)
        self.detector = None if detector is None else faces_photo.PhotoDetector(detector)
        self.recogniser = None if recogniser is None else faces_photo.PhotoEmbedder(recogniser)
        self.notes = list(notes)
        self.specs: Mapping[str, ModelSpec] = {}
        """What :func:`tools_of` made them of."""

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """The faces of a picture: the parser's, or where it sees none YuNet's, or else the cascade's, which have no points."""
        lane.check()
        found = self._parsed(picture)
        if found:
            return tuple(_as_face(one) for one in found)
        if self.detector is not None and min(picture.shape[:2]) >= 16:
            seen = self.detector.detect(picture)
            if seen:
                return tuple(seen)
        return tuple(faces_photo.find_faces(picture))

    def parts(self, picture: Picture, near: tuple[float, float]) -> Parsed | None:
        """The parsed face nearest to a place (x, y), if there is one within half of its width."""
        found = self._parsed(picture)
        if not found:
            return None
        nearest = min(found, key=lambda one: _apart(_middle(one.box), near))
        return nearest if _apart(_middle(nearest.box), near) <= nearest.box[2] / 2 else None

    def middle(self, square: Picture) -> Parsed | None:
        """The parsed face in the middle of a square around it."""
        side = square.shape[1]
        return self.parts(square, (side / 2, side / 2))

    def hair(self, picture: Picture) -> NDArray[numpy.bool_]:
        """Where the parser sees hair, (H, W); nowhere without one."""
        return numpy.zeros(picture.shape[:2], bool) if self.parser is None else self.parser.hair(picture)

    def embed(self, picture: Picture, face: Face) -> Embedding | None:
        """Who it is, of length 1; None where that cannot be said: without the network that knows such a picture, or without points."""
        if face.points is None:
            return None
        if face.backend == PARSED:
            return (
                None if self.embedder is None else self.embedder.embed(picture, numpy.array(face.points, numpy.float32))
            )
        if self.recogniser is None or face.backend == faces_photo.LBP:
            return None
        return self.recogniser.embed(picture, face)

    def _parsed(self, picture: Picture) -> list[Parsed]:
        if self.parser is None or min(picture.shape[:2]) < 16:
            return []
        return [one for one in self.parser.detect(picture) if one.score >= SURE]


def skin_of(face: Parsed | None, square: Picture) -> NDArray[numpy.bool_]:
    """Plain skin of a parsed face, (H, W); nowhere without one."""
    return numpy.zeros(square.shape[:2], bool) if face is None else face.parts["skin"]


PARSED = "our parser, for rendered portraits"
SURE = 0.5
"""Certainty of the parser below which a face is none."""


def _as_face(found: Parsed) -> Face:
    points = tuple((float(x), float(y)) for x, y in found.points)
    left, top, width, height = map(float, found.box)
    return Face((left, top, width, height), points, found.score, PARSED)


def _middle(box: Sequence[float]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _apart(first: Sequence[float], second: Sequence[float]) -> float:
    return math.hypot(first[0] - second[0], first[1] - second[1])


def with_tools(registry: Registry, model_set: str, work: Callable[[FaceTools], Any]) -> Any:
    """``work`` with the face tools of a model set. They are small, and leased before anything large is loaded."""
    found = at_hand(registry, model_set)
    return registry.run(found, lambda **models: work(tools_of(model_set, found, models)))


def threshold(model_set: str = "mini") -> float | None:
    """Similarity from which on two pictures show one person; None before it was measured."""
    return faces.threshold() if model_set == "mini" else faces_photo.SFACE_BAR


def at_hand(registry: Registry, model_set: str) -> dict[str, ModelSpec]:
    """Those of :func:`face_specs` that can be had: without the full set's, faces are still found by the cascade."""
    found = face_specs(model_set)
    for name, spec in face_specs(model_set).items() if model_set != "mini" else ():
        try:
            with registry.lease(spec):
                pass
        except (FileNotFoundError, ConnectionError) as error:
            if not named_by_us(error):
                raise
            del found[name]
    return found


def tools_of(model_set: str, specs: Mapping[str, ModelSpec], models: Mapping[str, Any]) -> FaceTools:
    """Face tools around the leased ``models`` of ``specs``, by their names of :func:`face_specs`."""
    # SFace reads a face by its points, which the cascade does not give.
    usable = {name: models[name] for name in specs if name != "recogniser" or "detector" in specs}
    lost = [(name, spec) for name, spec in face_specs(model_set).items() if name not in specs][:1]
    made = FaceTools(**usable, notes=[_without(spec, finds=name == "detector") for name, spec in lost])
    made.specs = specs
    return made


def _without(spec: ModelSpec, finds: bool) -> str:
    file = f"{spec.files[0] if spec.files else spec.key} of {spec.source} ({in_words(spec.bytes)})"
    what = "faces are found without their points and who somebody is" if finds else "who somebody is"
    return f"{file} cannot be had, so {what} is not known: go online once, or put the file into $LATENT_STUDIO_MODELS/{Path(spec.source).name}."


def named_by_us(error: Exception) -> bool:
    """A sentence of ours about missing files; the system's own would name a path."""
    return not isinstance(error, FileNotFoundError) or error.errno is None
