"""Faces in photographs: a cascade that needs no weights, and OpenCV's YuNet and SFace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy
import skimage
from numpy.typing import NDArray

from pipelines.core import geometry, lane
from pipelines.core.geometry import Face, Picture, check_picture, moved, resized
from pipelines.core.weights import ModelSpec, resolve

LBP = "scikit-image LBP cascade"
WORK_SIDE = 384
"""The detector looks at the picture reduced to this longer side: about 0.15 s of one core per pass."""
LEAST, LEAST_TURNED = 1 / 10, 1 / 8
"""Smallest face, of the longer side: smaller windows find faces in walls and textures; turned passes sooner."""
TURNS = (0.0, 15.0, -15.0, 30.0, -30.0)
AGREE = 0.4
"""A face must be found in the mirrored picture too, overlapping by so much (intersection over union)."""


@cache
def _cascade() -> Any:
    return skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename())


def find_faces(picture: Picture) -> list[Face]:
    """Frontal faces of a photograph, the largest first, without points: scikit-image's bundled LBP cascade.

    Upright first; where nothing is found, with a tenth more around it (a head that fills the picture), then turned by 15 and 30
    degrees. Knows photographs only, and no face narrower than a tenth of the picture's longer side.
    """
    scale = min(1.0, WORK_SIDE / max(picture.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = numpy.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey, numpy.uint8)
    for turn in TURNS:
        for padding in (0, round(0.1 * max(size))) if turn == 0 else (0,):
            lane.check()
            found = _look(small, turn, padding)
            if found:
                faces = [replace(face, box=tuple(number / scale for number in face.box)) for face in found]
                return sorted(faces, key=lambda face: -face.box[2])
    return []


def _look(grey: NDArray[numpy.uint8], turn: float, padding: int) -> list[Face]:
    """Faces of one pass: those that the mirrored picture shows too, averaged."""
    wide = cv2.copyMakeBorder(grey, *(padding,) * 4, cv2.BORDER_REPLICATE) if padding else grey
    height, width = wide.shape
    matrix = numpy.eye(3)
    if turn:
        matrix[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1)
        wide = cv2.warpAffine(wide, matrix[:2], (width, height), borderMode=cv2.BORDER_REPLICATE)
    least = max(24, math.ceil(max(grey.shape) * (LEAST_TURNED if turn else LEAST)))
    if least > min(height, width):
        return []
    seen = _windows(numpy.asarray(wide, numpy.uint8), least)
    mirrored = _windows(numpy.ascontiguousarray(wide[:, ::-1]), least) if len(seen) else seen
    if not len(seen) or not len(mirrored):
        return []
    mirrored[:, 0] = width - mirrored[:, 0] - mirrored[:, 2]
    faces: list[Face] = []
    for box in seen[numpy.argsort(-seen[:, 2], kind="stable")]:
        shares = numpy.array([_overlap(box, other) for other in mirrored])
        if shares.max() < AGREE:
            continue
        both = (box + mirrored[shares.argmax()]) / 2
        middle = moved([both[:2] + both[2:] / 2], numpy.linalg.inv(matrix))[0] - padding
        left, top = middle - both[2:] / 2
        place = (float(left), float(top), float(both[2]), float(both[3]))
        # One face is found in windows of several sizes.
        if all(_overlap(place, other.box) < 0.3 for other in faces):
            faces.append(Face(place, None, float(shares.max()), LBP, roll=turn))
    return faces


def _windows(grey: NDArray[numpy.uint8], least: int) -> NDArray[numpy.float64]:
    """The cascade's windows, (N, 4) boxes; settings that gave no false face on scikit-image's own pictures."""
    most = min(grey.shape)
    found = _cascade().detect_multi_scale(
        img=grey,
        scale_factor=1.1,
        step_ratio=1.15,
        min_size=(least, least),
        max_size=(most, most),
        min_neighbor_number=6,
    )
    return numpy.array([(one["c"], one["r"], one["width"], one["height"]) for one in found], float).reshape(-1, 4)


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    shared = 1.0
    for axis in (0, 1):
        low, high = max(first[axis], second[axis]), min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
        shared *= max(0.0, high - low)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


YUNET_SIDE = 640
"""Side of the picture that YuNet reads: the published file of 2023 has this size fixed, and OpenCV 5 does not change it."""
YUNET_LOOKS = (640, 320)
"""Lengths of the longer side at which faces are searched: it knows faces of 10 to 300 pixels, and a portrait's may be larger."""
YUNET_SURE = 0.8
"""Score of YuNet below which a face is none. OpenCV's sample has 0.9, which loses turned heads."""
SFACE_BAR = 0.363
"""Cosine from which on two faces are one person's: the value of opencv_zoo's ``sface.py``, found on LFW."""
YUNET_NAME = "YuNet (OpenCV)"


class PhotoDetector:
    """Finds the faces of photographs with their five points; wraps the leased ``cv2.FaceDetectorYN`` of :data:`YUNET`."""

    def __init__(self, network: cv2.FaceDetectorYN) -> None:
        self.network = network

    def detect(self, picture: NDArray[numpy.uint8]) -> list[geometry.Face]:
        """Faces of a picture (H, W, 3) uint8, from left to right; empty when there is none."""
        check_picture(picture)
        for side in YUNET_LOOKS:
            scale = side / max(picture.shape[:2])
            small = resized(picture, tuple(max(1, round(length * scale)) for length in picture.shape[1::-1]))
            canvas = numpy.zeros((YUNET_SIDE, YUNET_SIDE, 3), numpy.uint8)
            canvas[: small.shape[0], : small.shape[1]] = small[..., ::-1]
            self.network.setInputSize((YUNET_SIDE, YUNET_SIDE))
            rows = self.network.detect(canvas)[1]
            if rows is not None and len(rows):
                faces = [_from_row(row, scale) for row in numpy.asarray(rows, numpy.float64)]
                return sorted(faces, key=lambda face: face.box[0])
        return []


def _from_row(row: NDArray[numpy.float64], scale: float) -> geometry.Face:
    """YuNet's row: box, five points, score. Its first eye is the person's right one, which is left in the picture."""
    box, points = row[:4] / scale, row[4:14].reshape(5, 2) / scale
    marks = tuple((float(x), float(y)) for x, y in points)
    left, top, width, height = map(float, box)
    return geometry.Face((left, top, width, height), marks, float(row[14]), YUNET_NAME)


class PhotoEmbedder:
    """Says who a face of a photograph is; wraps the leased ``cv2.FaceRecognizerSF`` of :data:`SFACE`."""

    def __init__(self, network: cv2.FaceRecognizerSF) -> None:
        self.network = network

    def embed(self, picture: NDArray[numpy.uint8], face: geometry.Face) -> NDArray[numpy.float32]:
        """(128,) of length 1 for a face with points in a picture (H, W, 3) uint8."""
        assert face.points is not None
        row = numpy.array([[*face.box, *numpy.ravel(face.points), face.score]], numpy.float32)
        aligned_ = self.network.alignCrop(numpy.ascontiguousarray(picture[..., ::-1]), row)
        found = numpy.asarray(self.network.feature(aligned_), numpy.float32).ravel()
        return found / max(float(numpy.linalg.norm(found)), 1e-6)


def _onnx(spec: ModelSpec, make: Callable[[str], Any]) -> Any:
    """One of OpenCV's own networks from the only file of its spec."""
    path = resolve(spec) / spec.files[0]
    try:
        return make(str(path))
    except cv2.error as error:
        raise FileNotFoundError(
            f"{spec.key} needs {spec.files[0]} of {spec.source}, and this OpenCV cannot read it: fetch the file again"
        ) from error


def _load_yunet(spec: ModelSpec) -> Any:
    size = (YUNET_SIDE, YUNET_SIDE)
    return _onnx(spec, lambda path: cv2.FaceDetectorYN.create(path, "", size, YUNET_SURE, 0.3, 50))


def _load_sface(spec: ModelSpec) -> Any:
    return _onnx(spec, lambda path: cv2.FaceRecognizerSF.create(path, ""))


YUNET = ModelSpec(
    "opencv/yunet",
    "opencv/face_detection_yunet",
    _load_yunet,
    "MIT",
    233_000,
    card="finds faces and points in photographs",
    files=("face_detection_yunet_2023mar.onnx",),
)
SFACE = ModelSpec(
    "opencv/sface",
    "opencv/face_recognition_sface",
    _load_sface,
    "Apache-2.0",
    38_700_000,
    card="who a photographed face is, for measuring",
    files=("face_recognition_sface_2021dec.onnx",),
)
