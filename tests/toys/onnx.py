"""ONNX files of toy size for OpenCV's face classes: a detector that sees a blue square, a recogniser that sees colours.

The format is protobuf; the few messages that these graphs need are written by hand, because nothing that the studio installs writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy

FLOAT, INT64 = 1, 7
CELL = 32
"""Pixels of the detector's coarsest grid, the only one on which the toy sees anything."""
FACE = (8.0, 9.0)
"""Width and height of every face that the toy finds, in cells."""
POINTS = ((-1.7, -1.5), (1.7, -1.5), (0.0, 0.3), (-1.2, 1.8), (1.2, 1.8))
"""Where its points lie, in cells from the middle of the square."""


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _whole(tag: int, number: int) -> bytes:
    return _varint(tag << 3) + _varint(number)


def _text(tag: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(tag << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, values: numpy.ndarray) -> bytes:
    kind = FLOAT if values.dtype == numpy.float32 else INT64
    dims = b"".join(_whole(1, side) for side in values.shape)
    return dims + _whole(2, kind) + _text(8, name) + _text(9, values.tobytes())


def _node(kind: str, inputs: Sequence[str], output: str, **lists: Sequence[int] | int) -> bytes:
    body = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(3, output) + _text(4, kind)
    for name, value in lists.items():
        if isinstance(value, int):
            attribute = _text(1, name) + _whole(3, value) + _whole(20, 2)
        else:
            attribute = _text(1, name) + b"".join(_whole(8, one) for one in value) + _whole(20, 7)
        body += _text(5, attribute)
    return body


def _place(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_text(1, _whole(1, side)) for side in shape)
    return _text(1, name) + _text(2, _text(1, _whole(1, FLOAT) + _text(2, dims)))


def _model(nodes: list[bytes], tensors: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    graph = b"".join(_text(1, node) for node in nodes) + _text(2, "toy")
    for tag, parts in ((5, tensors), (11, inputs), (12, outputs)):
        graph += b"".join(_text(tag, part) for part in parts)
    return _whole(1, 8) + _text(7, graph) + _text(8, _text(1, "") + _whole(2, 11))


def write_detector(path: Path, side: int = 640) -> Path:
    """The outputs of YuNet, with a face around every pure blue square of :data:`CELL` pixels on its grid."""
    nodes, tensors, outputs = [], [], []
    kinds = {
        "cls": (numpy.float32([[1, -1, -1]]) / 200, numpy.float32([0])),  # blue comes first
        "obj": (numpy.float32([[1, -1, -1]]) / 200, numpy.float32([0])),
        "bbox": (numpy.zeros((4, 3), numpy.float32), numpy.float32([0.5, 0.5, *map(math.log, FACE)])),
        "kps": (numpy.zeros((10, 3), numpy.float32), numpy.float32(POINTS).ravel() + 0.5),
    }
    for stride in (8, 16, CELL):
        nodes.append(_node("AveragePool", ["input"], f"mean_{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2))
    for kind, (weight, bias) in kinds.items():
        for stride in (8, 16, CELL):
            name, count = f"{kind}_{stride}", len(bias)
            on = numpy.float32(stride == CELL)
            tensors.append(_tensor(f"w_{name}", (weight * on)[..., None, None].astype(numpy.float32)))
            tensors.append(_tensor(f"b_{name}", bias * on))
            cells = (side // stride) ** 2
            tensors.append(_tensor(f"s_{name}", numpy.array([1, cells, count], numpy.int64)))
            nodes.append(_node("Conv", [f"mean_{stride}", f"w_{name}", f"b_{name}"], f"c_{name}", kernel_shape=[1, 1]))
            nodes.append(_node("Transpose", [f"c_{name}"], f"t_{name}", perm=[0, 2, 3, 1]))
            nodes.append(_node("Reshape", [f"t_{name}", f"s_{name}"], name))
            outputs.append(_place(name, (1, cells, count)))
    path.write_bytes(_model(nodes, tensors, [_place("input", (1, 3, side, side))], outputs))
    return path


def write_recogniser(path: Path, seed: int = 0) -> Path:
    """An embedding (1, 128) of an aligned face: its colours on 4 x 4 cells, turned at random."""
    weights = numpy.random.default_rng(seed).standard_normal((48, 128)).astype(numpy.float32)
    nodes = [
        _node("AveragePool", ["data"], "mean", kernel_shape=[28, 28], strides=[28, 28]),
        _node("Flatten", ["mean"], "flat", axis=1),
        _node("MatMul", ["flat", "weights"], "fc1"),
    ]
    made = _model(nodes, [_tensor("weights", weights)], [_place("data", (1, 3, 112, 112))], [_place("fc1", (1, 128))])
    path.write_bytes(made)
    return path
