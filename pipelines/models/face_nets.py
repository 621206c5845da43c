"""The small face models at work: their networks, and what reads pictures with them. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import pipelines.core.libraries  # noqa: F401

import cv2
import numpy
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel, SegformerConfig, SegformerForSemanticSegmentation

from pipelines.core.geometry import POINTS, check_picture, resized
from pipelines.core.weights import ModelSpec, part_folder
from pipelines.models.faces import (
    ALIGNED,
    AROUND,
    CROP,
    EMBEDDER,
    EMBEDDING,
    LABELS,
    LEAST_SHARE,
    LOOKS,
    MIRRORED,
    OF_A_FACE,
    STRIDE,
    Face,
    aligned,
)


def as_input(pictures: Sequence[NDArray[numpy.uint8]] | NDArray[numpy.uint8], like: nn.Module) -> Tensor:
    """uint8 (H, W, 3) pictures of one size as (B, 3, H, W) in [0, 1], of the module's dtype and on its device."""
    weight = next(like.parameters())
    return torch.from_numpy(numpy.stack(list(pictures))).to(weight.device).permute(0, 3, 1, 2).to(weight.dtype) / 255


def parser_network() -> SegformerForSemanticSegmentation:
    """A new ``SegformerForSemanticSegmentation`` of 0.4 M parameters: seven part labels, then a heat map for each point."""
    names = (*LABELS, *POINTS)
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[16, 32, 64, 96],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 4, 6],
            decoder_hidden_size=96,
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
            id2label=dict(enumerate(names)),
            label2id={name: place for place, name in enumerate(names)},
        )
    )


def parse(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the parts (B, 7, H/4, W/4) and of the points (B, 5, H/4, W/4) for images (B, 3, H, W) in [0, 1]."""
    logits = network(images * 2 - 1).logits
    return logits[:, : len(LABELS)], logits[:, len(LABELS) :]


def expected_places(logits: Tensor) -> Tensor:
    """Mean places (..., 2) in pixels of the softmax over each heat map (..., h, w)."""
    height, width = logits.shape[-2:]
    share = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    rows, columns = ((torch.arange(n, device=logits.device, dtype=share.dtype) + 0.5) * STRIDE for n in (height, width))
    return torch.stack(((share.sum(-2) * columns).sum(-1), (share.sum(-1) * rows).sum(-1)), -1)


Box = tuple[int, int, int, int]


def components(core: NDArray[numpy.bool_]) -> list[Box]:
    """Boxes (left, top, right, bottom) of the faces in a mask of everything that is face, the largest first.

    An ear that hair cuts off from its face is no face: what is less than a fifth of a larger piece next to it is left out.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(core.astype(numpy.uint8), connectivity=8)
    pieces = sorted((tuple(int(v) for v in row) for row in stats[1:]), key=lambda row: -row[4])
    found: list[tuple[Box, int]] = []
    for left, top, width, height, area in pieces:
        middle = left + width / 2, top + height / 2
        beside = any(
            area < 0.2 * larger
            and abs(middle[0] - (a + c) / 2) < 0.8 * (c - a)
            and abs(middle[1] - (b + d) / 2) < d - b
            for (a, b, c, d), larger in found
        )
        if area >= LEAST_SHARE * core.size and not beside:
            found.append(((left, top, left + width, top + height), area))
    return [box for box, _ in found]


class FaceParser:
    """Finds faces with their points and parts; wraps the leased network of :data:`PARSER`."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def _read(self, picture: NDArray[numpy.uint8]) -> tuple[NDArray[numpy.float32], Tensor]:
        """Shares of the labels (7, H, W) and logits of the points (5, H/4, W/4); sides must be multiples of 32."""
        with torch.inference_mode():
            # Read twice, once mirrored: the mean of both errs less than either.
            both = as_input([picture, numpy.ascontiguousarray(picture[:, ::-1])], self.network)
            parts, points = parse(self.network, both)
            parts = (parts[:1] + parts[1:].flip(-1)) / 2
            points = (points[:1] + points[1:, MIRRORED].flip(-1)) / 2
            parts = nn.functional.interpolate(parts.float(), picture.shape[:2], mode="bilinear", align_corners=False)
        return parts[0].softmax(0).cpu().numpy(), points[0].float().cpu()

    def detect(self, picture: NDArray[numpy.uint8]) -> list[Face]:
        """Faces of a picture (H, W, 3) uint8, from left to right; empty when there is none.

        The picture is searched at several sizes (:data:`LOOKS`), then each face is read from a crop of its own.
        """
        check_picture(picture)
        faces: list[Face] = []
        for side in LOOKS:
            for rough in self._search(picture, side):
                face = self._look_closely(picture, rough)
                if face and all(_overlap(face.box, other.box) < 0.4 for other in faces):
                    faces.append(face)
            if faces:
                break
        return sorted(faces, key=lambda face: face.box[0])

    def hair(self, picture: NDArray[numpy.uint8]) -> NDArray[numpy.bool_]:
        """Where a picture (H, W, 3) shows hair, anybody's, (H, W). Coarser than :meth:`detect`, which reads a crop around each face and does
        not see what of a large head lies beyond it."""
        check_picture(picture)
        shares = self._at(picture, LOOKS[0])
        most = (shares.argmax(0) == LABELS.index("hair")).astype(numpy.float32)
        return resized(most, (picture.shape[1], picture.shape[0])) >= 0.5

    def _search(self, picture: NDArray[numpy.uint8], side: int) -> list[tuple[float, float, float, float]]:
        """Rough boxes (left, top, right, bottom) in pixels of the picture."""
        shares = self._at(picture, side)
        down, across = (whole / small for whole, small in zip(picture.shape, shares.shape[1:], strict=False))
        return [
            (left * across, top * down, right * across, bottom * down)
            for left, top, right, bottom in components(_core(shares))
        ]

    def _at(self, picture: NDArray[numpy.uint8], side: int) -> NDArray[numpy.float32]:
        """Shares of the labels (7, h, w) with the shorter side at about ``side`` pixels."""
        height, width = picture.shape[:2]
        scale = side / min(height, width)
        if max(height, width) * scale > 8 * side:  # a strip: its long side would only cost time
            scale = 8 * side / max(height, width)
        small = resized(picture, (max(round(width * scale), 8), max(round(height * scale), 8)))
        rows, columns = small.shape[:2]
        padded = cv2.copyMakeBorder(small, 0, -rows % 32, 0, -columns % 32, cv2.BORDER_REPLICATE)
        return self._read(numpy.asarray(padded, numpy.uint8))[0][:, :rows, :columns]

    def _look_closely(self, picture: NDArray[numpy.uint8], rough: tuple[float, float, float, float]) -> Face | None:
        """The face in a rough box, read from a square around it; None where the points make no face."""
        left, top, right, bottom = rough
        side = max(round(AROUND * max(right - left, 0.85 * (bottom - top))), 8)
        corner = round((left + right - side) / 2), round((top + bottom - side) / 2)
        shares, heat = self._read(resized(_cut(picture, corner, side), (CROP, CROP)))
        core = _core(shares)
        boxes = components(core)
        if not boxes:
            return None
        middle = min(boxes, key=lambda b: abs(b[0] + b[2] - CROP) + abs(b[1] + b[3] - CROP))
        points = _points_within(heat, middle)
        if points is None:
            return None
        own = numpy.zeros_like(core)
        own[middle[1] : middle[3], middle[0] : middle[2]] = True
        score = float(shares[[LABELS.index(name) for name in OF_A_FACE]].sum(0)[core & own].mean())
        scale = side / CROP
        offset = numpy.array(corner, numpy.float32)
        left, top = map(float, numpy.array(middle[:2]) * scale + offset)
        box = (left, top, (middle[2] - middle[0]) * scale, (middle[3] - middle[1]) * scale)
        parts = _placed(shares, own, picture.shape[:2], corner, side)
        return Face(box, (points * scale + offset).astype(numpy.float32), parts, score)


def _cut(picture: NDArray[numpy.uint8], corner: tuple[int, int], side: int) -> NDArray[numpy.uint8]:
    """The square of ``side`` pixels whose upper left corner is at ``corner``; beyond the border its pixels go on."""
    rows = numpy.clip(numpy.arange(corner[1], corner[1] + side), 0, picture.shape[0] - 1)
    columns = numpy.clip(numpy.arange(corner[0], corner[0] + side), 0, picture.shape[1] - 1)
    return numpy.ascontiguousarray(picture[rows][:, columns])


def _core(shares: NDArray[numpy.float32]) -> NDArray[numpy.bool_]:
    return numpy.isin(shares.argmax(0), [LABELS.index(name) for name in OF_A_FACE])


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Common area over the smaller of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / max(min(a[2] * a[3], b[2] * b[3]), 1e-6)


def _points_within(heat: Tensor, box: Box) -> NDArray[numpy.float32] | None:
    """Points (5, 2) in the crop, looked for in and around ``box`` only; None where they cannot be a face."""
    margin = 0.15 * (box[2] - box[0])
    limits = [box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin]
    left, top = (max(int(v // STRIDE), 0) for v in limits[:2])
    right, bottom = (min(int(-(-v // STRIDE)), n) for v, n in zip(limits[2:], heat.shape[:0:-1], strict=True))
    points = expected_places(heat[:, top:bottom, left:right]) + torch.tensor([left, top]) * STRIDE
    found = points.numpy().astype(numpy.float32)
    across = found[1] - found[0]
    apart = float(numpy.hypot(*across))
    down = numpy.array([-across[1], across[0]]) / max(apart, 1e-6)
    drop = float((found[3:].mean(0) - found[:2].mean(0)) @ down)
    return found if 0.15 * (box[2] - box[0]) < apart and 0.2 * apart < drop < 3 * apart else None


def _placed(
    shares: NDArray[numpy.float32], own: NDArray[numpy.bool_], size: tuple[int, int], corner: tuple[int, int], side: int
) -> dict[str, NDArray[numpy.bool_]]:
    """Parts (H, W) of the picture from the shares (7, 128, 128) of a crop; another face's skin is background."""
    grown = numpy.stack([resized(part, (side, side)) for part in shares])
    within = resized(own.astype(numpy.float32), (side, side)) >= 0.5
    labels = grown.argmax(0)
    labels[~within & _core(grown)] = 0
    whole = numpy.zeros(size, labels.dtype)
    top, left = max(corner[1], 0), max(corner[0], 0)
    bottom, right = min(corner[1] + side, size[0]), min(corner[0] + side, size[1])
    whole[top:bottom, left:right] = labels[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]]
    return {name: whole == place for place, name in enumerate(LABELS)}


class FaceEmbedderNetwork(ModelMixin, ConfigMixin):
    """A transformers ``ResNetModel`` and one linear layer on all of its last cells.

    Args:
        widths: channels of the four stages; the picture is reduced by 32.
        size: side of the aligned pictures in pixels.
        embedding: length of the embedding.
    """

    @register_to_config
    def __init__(
        self, widths: Sequence[int] = (32, 64, 96, 128), size: int = ALIGNED, embedding: int = EMBEDDING
    ) -> None:
        super().__init__()
        widths = list(widths)
        self.backbone = ResNetModel(
            ResNetConfig(embedding_size=24, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic")
        )
        # Where on the face something lies is half of who it is: a mean over the cells would lose it.
        self.project = nn.Linear(widths[-1] * (size // 32) ** 2, embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, 128) of length 1 for aligned images (B, 3, 96, 96) in [0, 1]."""
        states = self.backbone(images * 4 - 2).last_hidden_state
        return nn.functional.normalize(self.project(states.flatten(1)).float(), dim=1)


class FaceEmbedder:
    """Says who a face is; wraps the leased network of :data:`EMBEDDER`. Similarity is the dot product of two embeddings."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def embed(self, picture: NDArray[numpy.uint8], points: NDArray[numpy.floating]) -> NDArray[numpy.float32]:
        """(128,) of length 1 for the face with these points (5, 2) in a picture (H, W, 3) uint8."""
        check_picture(picture)
        return self.embed_aligned([aligned(picture, points)])[0]

    def embed_aligned(self, pictures: Sequence[NDArray[numpy.uint8]]) -> NDArray[numpy.float32]:
        """(B, 128) for aligned pictures (96, 96, 3)."""
        with torch.inference_mode():
            parts = [
                self.network(as_input(pictures[first : first + 64], self.network)).float().cpu().numpy()
                for first in range(0, len(pictures), 64)
            ]
        return numpy.concatenate(parts)


def load(spec: ModelSpec) -> SegformerForSemanticSegmentation | FaceEmbedderNetwork:
    """The network of :data:`~pipelines.models.faces.PARSER` or :data:`~pipelines.models.faces.EMBEDDER`, in float32."""
    folder = part_folder(spec)
    if spec.key == EMBEDDER.key:
        return FaceEmbedderNetwork.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True).eval()
    return SegformerForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
