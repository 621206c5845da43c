"""ControlNets and image adapters of SDXL as parts of the registry, and the pictures that they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy
from numpy.typing import NDArray
from safetensors import safe_open

from pipelines.core import geometry
from pipelines.core.geometry import check_picture
from pipelines.core.weights import ModelSpec, asset_spec, resolve
from pipelines.models import annotators, control_maps

if TYPE_CHECKING:
    from torch import Tensor

LOOK_MOST = 4
"""Pictures of a person that IP-Adapter is shown at most: each brings 16 tokens to every attention."""


def control_map(
    reads: str,
    picture: NDArray[numpy.uint8],
    points: NDArray[numpy.floating] | None = None,
    width: float | None = None,
) -> NDArray[numpy.uint8]:
    """What a ControlNet reads of a picture (H, W, 3) uint8, at its size. The small ones were taught with just this function.

    Args:
        reads: "landmarks" (the five points and the oval that they suggest), "line", "shading" (light after a Gaussian of 0.06 face
            widths, colour at an eighth of the resolution), "canny", "tile" or "openpose" (the points as that format draws them).
        points: (5, 2), for "landmarks" and "openpose".
        width: of the face's box in pixels, for "shading".

    Raises:
        ValueError: an unknown map, or one for which points or width are missing.
    """
    check_picture(picture)
    size = (picture.shape[1], picture.shape[0])
    if reads == "line":
        return control_maps.line_map(picture)
    if reads == "canny":
        return control_maps.canny_map(picture)
    if reads == "tile":
        return control_maps.colour_map(picture)
    if reads == "landmarks" and points is not None:
        return control_maps.landmark_picture(size, points, control_maps.face_oval(size, points=points))
    if reads == "openpose" and points is not None:
        return openpose_map(size, points)
    if reads == "shading" and width is not None:
        both = cv2.cvtColor(control_maps.colour_map(picture), cv2.COLOR_RGB2LAB)
        light = cv2.cvtColor(control_maps.shading_map(picture, width), cv2.COLOR_RGB2LAB)
        both[..., 0] = light[..., 0]
        return numpy.asarray(cv2.cvtColor(both, cv2.COLOR_LAB2RGB), numpy.uint8)
    if reads in ("landmarks", "openpose", "shading"):
        raise ValueError(
            f"a {reads} map needs the face's {'width' if reads == 'shading' else 'points'}: find the face first"
        )
    raise ValueError(f"there is no {reads!r} map: choose landmarks, line, shading, canny, tile or openpose")


def openpose_map(size: tuple[int, int], points: NDArray[numpy.floating]) -> NDArray[numpy.uint8]:
    """Five points in openpose's format, of (width, height): the sticks and discs of nose and eyes in their colours, and white dots
    for pupils, nose tip and mouth corners as its face model has them.

    OpenPose's own networks, and DWPose's, are non-commercial or need packages of their own; what they would add of a portrait are
    ears and shoulders. Colours and lengths are those of controlnet_aux's ``draw_bodypose`` and ``draw_facepose``, at 512 pixels.
    """
    left, right, nose = geometry.five(points)[:3]
    canvas = numpy.zeros((size[1], size[0], 3), numpy.uint8)
    unit, bits = min(size) / 512, 4

    def place(point: NDArray[numpy.floating]) -> tuple[int, int]:
        return tuple(round((float(number) - 0.5) * 2**bits) for number in point)

    def disc(point: NDArray[numpy.floating], radius: float, colour: tuple[int, int, int]) -> None:
        cv2.circle(canvas, place(point), round(radius * unit * 2**bits), colour, -1, cv2.LINE_AA, bits)

    for eye, colour in ((left, (51, 0, 153)), (right, (153, 0, 153))):
        middle, along = (nose + eye) / 2, eye - nose
        turn = float(numpy.degrees(numpy.arctan2(along[1], along[0])))
        axes = round(float(numpy.hypot(*along)) / 2 * 2**bits), round(4 * unit * 2**bits)
        cv2.ellipse(canvas, place(middle), axes, turn, 0, 360, colour, -1, cv2.LINE_AA, bits)
    for point, colour in ((nose, (255, 0, 0)), (left, (170, 0, 255)), (right, (255, 0, 255))):
        disc(point, 4, colour)
    for point in geometry.five(points):
        disc(point, 3, (255, 255, 255))
    return canvas


def load(spec: ModelSpec) -> Any:
    """A ControlNet, or IP-Adapter's image encoder."""
    from pipelines.models import sdxl_parts

    return sdxl_parts.load_image_encoder(spec) if spec.source == _IP_ADAPTER else sdxl_parts.load_controlnet(spec)


def offloaded(spec: ModelSpec) -> ModelSpec:
    """The same ControlNet, kept in RAM: see :class:`pipelines.core.offload.Offloaded`."""
    return replace(spec, key=spec.key.replace("/", "-offload/", 1), stays_in_ram=True)


def load_ip_adapter(spec: ModelSpec) -> dict[str, dict[str, Tensor]]:
    """The adapter's two state dicts, as ``UNet2DConditionModel.load_ip_adapter_weights`` takes them."""
    with safe_open(resolve(spec) / spec.files[0], framework="pt") as file:
        parts = split_adapter({key: file.get_tensor(key) for key in file.keys()})
    heard = {value.shape[-1] for value in parts["ip_adapter"].values()}
    said = {value.shape[0] for name, value in parts["image_proj"].items() if name in ("norm.weight", "norm_out.weight")}
    if len(heard) != 1 or heard != said:
        raise ValueError(
            f"{spec.key} is no IP-Adapter: what it says and what it hears differ in width. Fetch it again."
        )
    return parts


def split_adapter(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An IP-Adapter file's tensors by their first word, "image_proj" and "ip_adapter"."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        if first not in parts:
            raise ValueError(f"This file is no IP-Adapter (it has {name[:60]!r}): fetch it again.")
        parts[first][rest] = value
    return parts


@dataclass(frozen=True)
class Control:
    """A ControlNet with the kind of map that it reads."""

    spec: ModelSpec
    reads: str
    """Name of the map: "landmarks", "line", "shading", "openpose", "canny" or "tile"."""
    title: str


def _mini_controls() -> dict[str, Control]:
    titles = {
        "landmarks": "five points and the outline of the face",
        "line": "a drawing of the picture in lines",
        "shading": "light and colour without detail",
    }
    return {
        name: Control(
            asset_spec(
                f"mini-controlnets/{name}",
                "assets/mini_controlnets",
                load,
                name,
                f"our ControlNet: {title}",
            ),
            name,
            title,
        )
        for name, title in titles.items()
    }


def _hub_control(source: str, licence: str, reads: str, title: str, half: bool) -> Control:
    """``half``: the repository has its float16 weights in a variant of their own."""
    weights = "diffusion_pytorch_model.fp16.safetensors" if half else "diffusion_pytorch_model.safetensors"
    key = f"sdxl-controlnet/{source.split('/')[1]}"
    spec = ModelSpec(
        key,
        source,
        load,
        licence,
        2_502_139_104,
        dtype="float16",
        card=title,
        files=("config.json", weights),
    )
    return Control(spec, reads, title)


CONTROLS: dict[str, dict[str, Control]] = {
    "mini": _mini_controls(),
    "full": {
        "landmarks": _hub_control(
            "xinsir/controlnet-openpose-sdxl-1.0", "apache-2.0", "openpose", "pose and face points (openpose)", False
        ),
        "line": _hub_control("diffusers/controlnet-canny-sdxl-1.0", "openrail++", "canny", "edges (canny)", True),
        "shading": _hub_control(
            "xinsir/controlnet-tile-sdxl-1.0", "apache-2.0", "tile", "light and colour without detail (tile)", False
        ),
    },
}
"""Model set -> role -> ControlNet. The licences are those on the Hub's pages of the three repositories.

The full set's maps need no weights: openpose's drawing of the five points, Canny's edges, and colours at an eighth of the resolution."""
LINES: dict[str, Control] = {
    "canny": CONTROLS["full"]["line"],
    "anyline": _hub_control(annotators.MISTOLINE, "openrail++", "anyline", "a drawing in lines (MistoLine)", True),
}
"""What may take the part of "line" in the full set. Anyline's map is drawn by :data:`annotators.ANYLINE`, a network, and is not one of
:func:`control_map`'s."""
_IP_ADAPTER, _ENCODER = "h94/IP-Adapter", "models/image_encoder"
IP_ENCODER = ModelSpec(
    "ip-adapter/image-encoder",
    _IP_ADAPTER,
    load,
    "Apache-2.0",
    2_528_000_000,
    card="CLIP ViT-H: what IP-Adapter sees of a face",
    files=(f"{_ENCODER}/config.json", f"{_ENCODER}/model.safetensors"),
)
IP_ADAPTER = ModelSpec(
    "ip-adapter/plus-face-sdxl",
    _IP_ADAPTER,
    load_ip_adapter,
    "Apache-2.0",
    847_517_512,
    dtype="float16",
    card="IP-Adapter plus face: a person without training",
    files=("sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",),
    stays_in_ram=True,
)
