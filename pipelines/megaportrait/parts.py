"""The models that a run leases: which, in which preset they are held in memory, and what fetching them costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.weights import ModelSpec, asset_spec
from pipelines.models import annotators, controlnets, faces, faces_photo, judges, sdxl


@dataclass(frozen=True)
class Preset:
    """A way to hold a model set in memory."""

    words: str
    """For the page."""
    share: float = 1.0
    """Side of the square that is painted or learnt from, of the base model's."""
    offload: bool = False
    """The ControlNets stay in RAM, and their layers visit the GPU."""
    tiles: bool = False
    """The autoencoder works in tiles."""


PRESETS: dict[str, dict[str, Preset]] = {
    "mini": {"memory": Preset("float32, in memory")},
    "full": {
        "24 GB": Preset("everything on the GPU: about 20 GB (estimate)"),
        "16 GB": Preset("ControlNets visit the GPU layer by layer: about 13 GB (estimate), slower", 1.0, True, True),
        "12 GB": Preset("the same at 768 px: about 11 GB (estimate), slower and softer", 0.75, True, True),
    },
}
"""Model set -> presets, from the largest to the smallest. Estimates: sums of the weights (base 6.9 GB, each ControlNet 2.5 GB, half
precision) and of what one picture takes beside them; nobody measured them on such cards."""


DRAWN = "drawn"
"""The mode of the small set's own nets, which the full set does not have."""


def is_taught(model_set: str, mode: str) -> bool:
    """Whether a mode's nets are the small ones that are shown the person's pictures (``taught.py``)."""
    return model_set == "mini" and mode == DRAWN


def preset_of(model_set: str, preset: str = "") -> Preset:
    """A preset by its name; empty: the first."""
    known = PRESETS[model_set]
    return known[preset or next(iter(known))]


def _load_of_pixels(spec: ModelSpec) -> Any:
    from pipelines.megaportrait import finish

    return finish.load(spec)


TAUGHT = {
    "net": asset_spec(
        "mini-portraits/net",
        "assets/mini_portraits",
        controlnets.load,
        "net",
        "our ControlNet: people in each other's places",
    ),
    "align": asset_spec(
        "mini-portraits/align",
        "assets/mini_portraits",
        _load_of_pixels,
        "align",
        "our small net of correspondence: the person's pictures over what was drawn",
    ),
    "finish": asset_spec(
        "mini-portraits/finish",
        "assets/mini_portraits",
        _load_of_pixels,
        "finish",
        "our small net of pixels: what was drawn softly, sharper",
    ),
}
"""What the small set's own nets are, beside the image model (``taught.py``)."""
BESIDE_TAUGHT = ("vae", "scheduler")
"""Of the image model's parts that they are leased with, those that are not named."""


def side_of(model_set: str, preset: str = "", mode: str = "") -> int:
    """Side of the square in pixels."""
    if is_taught(model_set, mode):
        return sdxl.BASES[model_set].size
    return round(sdxl.FIRST[model_set].size * preset_of(model_set, preset).share / 32) * 32


def face_specs(model_set: str) -> dict[str, ModelSpec]:
    """The face models that a model set leases where they can be had, by their names in ``FaceTools``."""
    if model_set == "mini":
        return {"parser": faces.PARSER, "embedder": faces.EMBEDDER}
    return {"detector": faces_photo.YUNET, "recogniser": faces_photo.SFACE}


def reader_specs(model_set: str) -> dict[str, ModelSpec]:
    """The verifier that reads attributes, for our own world only."""
    return {"verifier": judges.REWARD} if model_set == "mini" else {}


def in_words(count: int) -> str:
    """Bytes for the page: "2.5 GB", "39 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(count / 1e6, 0.1):.2g} MB"


def controls(model_set: str, preset: str = "", lines: str = "") -> dict[str, controlnets.Control]:
    """The ControlNets that a run leases: role -> ControlNet. ``lines``: one of ``controlnets.LINES`` in place of the full set's own."""
    found = {role: controlnets.CONTROLS[model_set][role] for role in ("landmarks", "line", "shading")}
    if model_set == "full" and lines:
        found["line"] = controlnets.LINES[lines]
    if not preset_of(model_set, preset).offload:
        return found
    return {role: dataclasses.replace(one, spec=controlnets.offloaded(one.spec)) for role, one in found.items()}


def specs(
    model_set: str,
    mode: str = "trained",
    preset: str = "",
    face_parts: Mapping[str, ModelSpec] | None = None,
    lines: str = "",
) -> dict[str, ModelSpec]:
    """The parts that a run leases, by name: the base model's, the ControlNets by their roles, the face models, for our own world the
    verifier, for the full set's instant mode IP-Adapter, and what draws lines. ``face_parts``: the face models that can be had, by
    default all; ``lines`` as in :func:`controls`."""
    face_parts = face_specs(model_set) if face_parts is None else face_parts
    if mode == "preview":
        return dict(face_parts)
    if is_taught(model_set, mode):
        base = sdxl.BASES[model_set].named
        drawing = {name: base[name] for name in ("unet", *BESIDE_TAUGHT)}
        return {**drawing, **TAUGHT, **face_parts, **reader_specs(model_set)}
    leading = controls(model_set, preset, lines)
    nets = {role: control.spec for role, control in leading.items()}
    adapter = {"adapter": controlnets.IP_ADAPTER} if look_specs(model_set, mode) else {}
    drawing = {"drawing": annotators.ANYLINE} if leading["line"].reads == "anyline" else {}
    return {**sdxl.FIRST[model_set].named, **nets, **face_parts, **reader_specs(model_set), **adapter, **drawing}


def look_specs(model_set: str, mode: str) -> tuple[ModelSpec, ...]:
    """IP-Adapter and its image encoder, which is leased alone, before the rest."""
    return (controlnets.IP_ADAPTER, controlnets.IP_ENCODER) if model_set == "full" and mode == "instant" else ()


def leases(model_set: str, mode: str, preset: str = "", lines: str = "") -> tuple[tuple[ModelSpec, ...], ...]:
    """What a run has in memory together, one after the other: the face models, what sees faces for the instant mode, and the rest."""
    encoder = look_specs(model_set, mode)[1:]
    found = (
        tuple(face_specs(model_set).values()),
        encoder,
        tuple(specs(model_set, mode, preset, lines=lines).values()),
    )
    return tuple(lease for lease in found if lease)
