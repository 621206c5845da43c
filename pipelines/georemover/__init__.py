"""GeoRemover (NeurIPS 2025, arXiv 2509.18538), usable: take an object out with its shadow and its mirror image.

A depth map has neither shadows nor reflections. So the object is first removed from the depth map, by filling a hole
(:meth:`GeoRemover.remove_from_depth`, stage 1), and then the picture is rendered anew from the changed geometry
(:meth:`GeoRemover.render`, stage 2), which is told nothing of the mask: what the renderer no longer sees standing there casts no
shadow. Both stages are FLUX.1-Fill with an adapter each (``pipelines/models/flux.py``). Stage 1 sees the depth map in inferno
colours; stage 2 a strip [picture | depth after | depth before], of which the left third is the result.

:func:`remove` runs everything for the page, with each stage kept in a :class:`Cache` by its inputs; :func:`composite` brings the
change back to the original's resolution and touches no other pixel. Ours, and in no paper: the self-checks and their sentences.

Pictures are (H, W, 3) uint8, inverse depth is (H, W) float32 in [0, 1] with near = 1, masks are (H, W) bool. Module level is free
of torch; models come from the registry for the length of a run.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import asset_files, batch_files, images, lane, limits, masks, transparency, troubles
from pipelines.core import depth as depth_maps
from pipelines.core.archives import Archive, Member, open_archive
from pipelines.core.images import open_picture, unit_levels
from pipelines.core.lane import Job
from pipelines.core.paper import Paper
from pipelines.core.stages import Cache, Preview, Stored, keeping
from pipelines.georemover import metrics as removal_metrics
from pipelines.georemover import recolour
from pipelines.models import flux, look

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.core.registry import ModelSpec, Registry
    from pipelines.models.flux import FillBase
    from pipelines.worlds.removal import Pair

__all__ = [
    "EXAMPLES", "PAPER", "BatchRow", "Cache", "GeoRemover", "Geometry", "Outcome", "Preview", "Recipe", "Rendered", "Request",
    "Settings", "batch", "composite", "geometry", "keeping", "measured", "open_depth", "open_picture", "remove", "rows_to_csv",
    "save_zip", "working_size",
]  # fmt: skip

Picture = NDArray[numpy.uint8]
Depth = NDArray[numpy.float32]
Mask = NDArray[numpy.bool_]

PAPER = Paper(
    title="GeoRemover: Removing Objects and Their Causal Visual Artifacts",
    authors=("Zixin Zhu", "Haoxiang Li", "Xuelu Feng", "He Wu", "Chunming Qiao", "Junsong Yuan"),
    venue="NeurIPS 2025",
    url="https://arxiv.org/abs/2509.18538",
    idea=(
        "A shadow and a mirror image are not in a depth map. So the object is first taken out of the depth map, and then the "
        "picture is rendered anew from the changed geometry: with the object, everything goes that it caused."
    ),
    ours=(
        "The code, the embedded fill model with both adapters and its depth estimator, the rendered scenes with their exact truth, "
        "the measurements, the self-checks, the composite at full resolution and the small set's network that recolours the original there."
    ),
    theirs="The method (two stages, preference term, strip of panels) and, with the full set, the two adapters for FLUX.1-Fill.",
    licence=(
        "Code and embedded weights Apache-2.0; FLUX.1-Fill [dev] and what is made from it, the authors' adapters too, for "
        "non-commercial use only."
    ),
    code_url="https://github.com/buxiangzhiren/GeoRemover",
)


@dataclass(frozen=True)
class Recipe:
    """A rendered scene, and which of its solids is to go. None: the seed decides."""

    seed: int
    count: int | None = None
    floor: str | None = None
    light: str | None = None
    mirror: bool | None = None
    index: int = 0
    title: str = ""

    def pair(self) -> Pair:
        """The picture with and without the solid, and all truth.

        Raises:
            ValueError: there is no such floor, light, number of solids or solid.
        """
        from pipelines.worlds import removal

        scene = removal.sample(self.seed, self.count, self.floor, self.light, self.mirror)
        if not 0 <= self.index < len(scene.solids):
            raise ValueError(
                f"The scene has {len(scene.solids)} objects and number {self.index + 1} is to go: choose one of them."
            )
        return removal.pair(scene, self.index)


EXAMPLES: tuple[Recipe, ...] = (
    Recipe(38, title="A ball on a mirroring chequered floor"),
    Recipe(29, index=1, title="One of two balls on mirroring wood"),
    Recipe(30, index=0, title="A box with a hard shadow, beside another"),
    Recipe(45, index=1, title="The middle one of three"),
    Recipe(2, title="A cylinder with a soft, long shadow"),
    Recipe(25, index=1, title="A ball goes, the shadow of the cylinder stays"),
)
"""Scenes of the embedded model's world that it has not seen in training."""

DEPTH_CHANGED = 0.03
"""Mean change of depth in a part of the mask below which there is nothing to render (the official sample has .154 and .099)."""
OFF_PALETTE = 12.0
"""Mean distance from the palette, of 441, above which a depth map is none (the official stage 1 has 3.8)."""
DEPTH_SIDE, DEPTH_SAMPLES = 2048, 64
"""Longest side of a depth map that is brought; its colours are looked at in so many rows and columns before all of it is read."""
UNSTABLE = 0.06
"""Mean difference of stage 2's depth panels from the maps it was given, in inverse depth."""
MOST_MASK = 0.6
FAR = 0.02
"""Share of the picture that may change without touching the object before a sentence says so."""
FLAT = 0.01
ASSIST = 10
"""Side of the neighbourhood of :func:`assisted`, in pixels, as in the paper."""
CHANGE_SEED, CHANGE_RIM = 8.0, 4.0
"""Detected effect: differences in 8-bit Lab from the first on, with what hangs together with them from the second on."""
UNSURE = 1.0
"""Median difference outside the mask above which both are raised in proportion: there the model does not know the world it sees. Its own
scenes have at most 0.8 (48 validation scenes), four photographs in the small set 1.5 to 4.0."""
ENLARGED = 1.25
"""From this factor on the effect area of a composite keeps the original's texture, instead of the enlarged result's."""
MUCH_ENLARGED = 3.0
"""From this factor on a sentence says that what was painted is enlarged."""
EVEN = 25.0
"""Variance of levels below which :func:`recolouring` takes the picture to be even."""
BATCH_FILES, BATCH_BYTES = 600, 64 * 2**20
"""Most files in a zip, and bytes of one of them, unpacked."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run but the picture and the mask; the same settings give the same pictures, byte for byte, on
    the same machine."""

    seed: int = 0
    steps_1: int = 50
    steps_2: int = 50
    guidance: float = 30.0
    grow: int = 2
    """Pixels at working size around the mask; negative: less of it."""
    scale_1: float = 1.0
    scale_2: float = 1.0
    """Strengths of the adapters; 0 is the base model."""
    depth_assist: bool = False
    fill_holes: bool = True
    variants: int = 1
    """Stage 2 from this many seeds, ``seed`` and those that follow it."""
    feather: int = 2
    """Width of the composite's seam, pixels at working size, inside the changed area."""
    keep_depth: bool = True
    """Outside the mask the depth stays as it was: the paper's constraint, which the authors' code leaves to the model."""
    model_set: str = "mini"
    preset: str = ""
    """How the model is held in memory; empty: the base's first."""

    SEED: ClassVar[tuple[int, int]] = (0, 2**31 - 1)
    STEPS: ClassVar[tuple[int, int]] = (1, 60)
    GUIDANCE: ClassVar[tuple[float, float]] = (1.0, 50.0)
    GROW: ClassVar[tuple[int, int]] = (-32, 64)
    SCALE: ClassVar[tuple[float, float]] = (0.0, 1.5)
    VARIANTS: ClassVar[tuple[int, int]] = (1, 4)
    FEATHER: ClassVar[tuple[int, int]] = (0, 32)

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Settings:
        """The defaults of a model set, or its faster preset."""
        base = flux.BASES[limits.choice("Model set", model_set, flux.BASES)]
        first, second = base.fast if fast else base.steps
        return cls(
            steps_1=first,
            steps_2=second,
            guidance=base.guidance,
            grow=base.grow,
            feather=base.grow,
            keep_depth=model_set == "mini",
            model_set=model_set,
        )

    def validated(self) -> Settings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        base = flux.BASES[limits.choice("Model set", self.model_set, flux.BASES)]
        if self.preset:
            limits.choice("The preset", self.preset, base.presets)

        def whole(name: str, value: Any, bounds: tuple[int, int]) -> int:
            return int(limits.number(name, value, *bounds, whole=True))

        def real(name: str, value: Any, bounds: tuple[float, float]) -> float:
            return float(limits.number(name, value, *bounds))

        return Settings(
            whole("seed", self.seed, self.SEED),
            whole("number of steps of stage 1", self.steps_1, self.STEPS),
            whole("number of steps of stage 2", self.steps_2, self.STEPS),
            real("guidance", self.guidance, self.GUIDANCE),
            whole("growth of the mask", self.grow, self.GROW),
            real("strength of adapter 1", self.scale_1, self.SCALE),
            real("strength of adapter 2", self.scale_2, self.SCALE),
            _switch("depth assist", self.depth_assist),
            _switch("fill holes", self.fill_holes),
            whole("number of variants", self.variants, self.VARIANTS),
            whole("feather", self.feather, self.FEATHER),
            _switch("keep depth", self.keep_depth),
            self.model_set,
            self.preset,
        )


def _seed(settings: Settings, number: int) -> int:
    return (settings.seed + number) % 2**31


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"The switch {name} is {limits.described(value)} but must be on or off: send true or false.")
    return value


@dataclass(frozen=True)
class Rendered:
    """What stage 2 painted: ``result`` (h, w, 3), and the whole ``strip`` (h, 3 w, 3) [result | depth after | depth before]."""

    result: Picture
    strip: Picture


@dataclass
class Request:
    """What a visitor asks for. ``image`` is RGB as :func:`open_picture` returns it; ``mask`` (H, W) has the image's size."""

    image: Image | None
    mask: Mask | None
    settings: Settings = field(default_factory=Settings)
    depth_after: NDArray[numpy.floating] | None = None
    """Renders from this depth instead of stage 1's; [0, 1], in the normalisation of the depth before."""
    depth_before: NDArray[numpy.floating] | None = None
    """Instead of the estimate; [0, 1]."""
    truth: Pair | None = None
    """Of a rendered scene."""
    clean: Image | None = None
    """The true picture without the object, where there is one and no ``truth``."""
    known_world: bool = False
    """A scene of ours without a truth for just this mask."""
    layered: Image | None = None
    """``image`` with its transparency (``images.Opened``): the composites get it back."""
    lost: Sequence[str] = ()
    """Sentences about what the picture's file has and no result can give back."""
    compare: bool = False
    """Also fill the mask with the same base model without adapters, as removers without geometry do."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The depth maps of a run that ends before the rendering; no ``depth_after`` where only the picture's was asked for."""

    depth_before: Depth
    depth_after: Depth | None
    mask: Mask
    """As the models saw it; empty where none was asked for."""
    notes: list[str]


@dataclass
class Outcome:
    """A finished run. Pictures at working size are arrays; ``composites`` are PIL, as large as the original, RGBA where it is
    transparent somewhere."""

    settings: Settings
    image: Picture
    mask: Mask
    """As the models saw it: at working size, grown, filled."""
    depth_before: Depth
    depth_after: Depth
    results: list[Picture]
    strips: list[Picture]
    composites: list[Image]
    changed: list[Mask]
    """Pixels of each composite that may differ from the original."""
    fill_only: Picture | None
    """Pasted through the mask."""
    telea: Picture
    """The mask filled by OpenCV; no model."""
    metrics: list[dict[str, Any]]
    """One per variant: against the truth where it is known (``truth`` true), else the self-checks only."""
    baselines: dict[str, dict[str, Any]]
    """The same measures for "fill_only" and "telea", where the truth is known."""
    notes: list[str]
    seconds: dict[str, float]
    """Per stage; 0 for what came from the cache."""
    models: list[dict[str, str]]
    off_palette: float | None = None
    original_size: tuple[int, int] = (0, 0)
    depth_from: str = "stage 1"
    """Where the depth after comes from: "stage 1", "given", or "unchanged" where it was given as the depth before."""

    @property
    def seeds(self) -> list[int]:
        """The seed of each variant; after the largest comes 0."""
        return [_seed(self.settings, number) for number in range(len(self.results))]


# ----------------------------------------------------------------------------------------- pictures


def open_depth(
    source: str | Path | BinaryIO | Image,
    near_is_dark: bool = False,
    limits_: tuple[float, float] | None = None,
    check: Callable[[tuple[int, int]], Any] | None = None,
) -> tuple[Depth, tuple[float, float]]:
    """A depth map from a file: inverse depth in [0, 1], at most :data:`DEPTH_SIDE` long, and the limits by which it was normalised.

    Grey of 8 or 16 bits, or inferno colours as this studio writes them. A depth-after that belongs to an uploaded depth-before must
    be read with that one's limits, and one that belongs to an estimate with (0, 1), or both maps could not be compared.

    Args:
        near_is_dark: the map is of distances, as metric networks write them: turned round.
        limits_: minimum and maximum of the map it belongs to; None: its own.
        check: as of ``images.opened``.

    Raises:
        ValueError: it is flat or coloured otherwise, or the file cannot be read.
    """
    upright = images.opened(source, check)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        levels = _not_larger(unit_levels(upright), cv2.INTER_AREA)
    else:
        pixels = numpy.asarray(upright if upright.mode == "RGB" else upright.convert("RGBA").convert("RGB"))
        step = max(1, max(pixels.shape) // DEPTH_SAMPLES)
        sample = pixels[::step, ::step]
        grey = _is_grey(sample) and _is_grey(pixels)
        if not grey and depth_maps.from_colours(sample)[1].mean() > OFF_PALETTE:
            raise ValueError("This is no depth map: use grey levels, or inferno colours as the studio saves them.")
        # The mean of two colours of the palette is none of its colours, so these are picked and not mixed.
        pixels = _not_larger(pixels, cv2.INTER_AREA if grey else cv2.INTER_NEAREST)
        levels = pixels[..., 0] / numpy.float32(255) if grey else depth_maps.from_colours(pixels)[0]
    if near_is_dark:
        levels = 1 - levels
    own = (float(levels.min()), float(levels.max()))
    if limits_ is None and own[1] - own[0] < 1e-3:
        raise ValueError("This depth map is flat: it says nothing of what stands where, choose another.")
    low, high = limits_ or own
    return numpy.clip((levels - low) / max(high - low, 1e-6), 0, 1).astype(numpy.float32), (low, high)


def _is_grey(pixels: Picture) -> bool:
    red, green, blue = (pixels[..., channel] for channel in range(3))
    low, high = numpy.minimum(numpy.minimum(red, green), blue), numpy.maximum(numpy.maximum(red, green), blue)
    return float((high - low).mean()) < 2


def _not_larger(levels: NDArray[Any], way: int) -> NDArray[Any]:
    """``levels`` (H, W) or (H, W, 3), reduced where its long side is above :data:`DEPTH_SIDE`."""
    scale = DEPTH_SIDE / max(levels.shape[:2])
    if scale >= 1:
        return levels
    return cv2.resize(levels, [max(1, round(side * scale)) for side in levels.shape[1::-1]], interpolation=way)


def working_size(size: tuple[int, int], base: FillBase) -> tuple[int, int]:
    """(width, height) at which ``base`` works on a picture of ``size``.

    As in the official script: a longer side above ``base.long_side`` is scaled down to it, then each side is cut down to a multiple
    of ``base.multiple``. The small model also enlarges small pictures, and takes the nearest multiple, because at 192 pixels cutting
    down would press a picture of 16:9 together to 3:1.

    Raises:
        ValueError: a side would have less than one multiple.
    """
    width, height = size
    least, longest = base.multiple, max(width, height)
    factor = base.long_side / longest if base.upscale else min(1.0, base.long_side / longest)
    sides = [round(side * factor, 6) for side in size]
    made = [int(side / least + (0.5 if base.upscale else 0)) * least for side in sides]
    if min(size) < least:
        raise ValueError(
            f"The picture is {width} x {height} pixels and each side needs at least {least}: choose a larger one."
        )
    if min(made) < least:
        raise ValueError(
            f"The picture is {width} x {height} pixels, at the model's size {sides[0]:.0f} x {sides[1]:.0f}, where each side "
            f"needs at least {least}: cut off some of its length."
        )
    return made[0], made[1]


def at_size(image: Image, size: tuple[int, int]) -> Picture:
    """``image`` at (width, height), (h, w, 3)."""
    from PIL import Image as Images

    return numpy.asarray(image.convert("RGB").resize(size, Images.Resampling.LANCZOS)).copy()


def to_pil(pixels: Picture) -> Image:
    from PIL import Image as Images

    return Images.fromarray(numpy.ascontiguousarray(pixels))


# ------------------------------------------------------------------------------------ depth and fills


def assisted(depth: Depth, mask: Mask) -> Depth:
    """The paper's fill-in where the depth of an object is unreliable: the nearest depth of a 10 x 10 neighbourhood, within
    the mask. Outside the mask nothing changes."""
    inside = cv2.dilate(numpy.where(mask, depth, 0).astype(numpy.float32), numpy.ones((ASSIST, ASSIST), numpy.uint8))
    return numpy.where(mask, inside, depth).astype(numpy.float32)


def kept_outside(depth_after: Depth, depth_before: Depth, mask: Mask) -> Depth:
    """The depth after in the mask and the depth before outside of it, with a soft seam."""
    share = cv2.GaussianBlur(masks.grow(mask, 2).astype(numpy.float32), (0, 0), 1.0)
    return share * depth_after + (1 - share) * depth_before


def telea(rgb: Picture, mask: Mask) -> Picture:
    """The mask filled with colours from around it by OpenCV (Telea): a preview without any model, not GeoRemover."""
    return cv2.inpaint(rgb, mask.astype(numpy.uint8), 5, cv2.INPAINT_TELEA) if mask.any() else rgb.copy()


# ------------------------------------------------------------------------------------------- stages

OnStep = Callable[[int, int, Callable[[], Picture]], None]
"""Called after each step with its number, the number of steps, and a function that makes a small picture of it."""


def _silent(step: int, steps: int, look: Callable[[], Picture]) -> None:
    return None


class GeoRemover:
    """The two stages around leased parts (in the order of ``flux.PARTS``). Makes no lasting change to them."""

    def __init__(self, parts: Sequence[Any], base: FillBase | None = None) -> None:
        self.base = base or flux.BASES["mini"]
        self._fill, self._render = (flux.build(parts, kind) for kind in ("fill", "render"))
        named = dict(zip((*flux.PARTS, flux.RECOLOUR), parts, strict=False))
        self.transformer, self.vae = self._fill.transformer, named["vae"]
        self.prompt, self.depth = named["prompt"], named["depth"]
        self.recolouring = named.get(flux.RECOLOUR)

    def raw_depth(self, rgb: Picture) -> Depth:
        """Inverse depth (h, w) as the network gives it, of no fixed scale, near is large."""
        import torch
        from torch.nn.functional import interpolate

        height, width = rgb.shape[:2]
        with torch.inference_mode():
            pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.depth.device).float() / 255
            pixels = interpolate(pixels, self._depth_size(height, width), mode="bicubic", antialias=True).clamp(0, 1)
            mean, deviation = (pixels.new_tensor(part).view(1, 3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_DEVIATION))
            found = self.depth(((pixels - mean) / deviation).to(self.depth.dtype)).predicted_depth[:, None].float()
            if self.depth.config.depth_estimation_type == "metric":
                found = 1 / found.clamp_min(1e-3)  # distances: far is large
            return interpolate(found, (height, width), mode="bilinear")[0, 0].cpu().numpy()

    def _depth_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the depth network's input."""
        if self.base.depth_patches is None:  # as Depth Anything's processor: the factor nearer to 1, multiples of 14
            factor = min((518 / width, 518 / height), key=lambda factor: abs(1 - factor))
            rows, columns = (max(1, round(side * factor / 14)) for side in (height, width))
            return 14 * rows, 14 * columns
        # 9 x 12 patches for 128 x 192: a little less flat than the picture, and the same for every other format.
        most, per_pixel = self.base.depth_patches, 1.125 * self.base.depth_patches / max(height, width)
        rows, columns = (14 * min(most, max(1, round(side * per_pixel))) for side in (height, width))
        return rows, columns

    def estimate_depth(self, rgb: Picture) -> Depth:
        """Inverse depth of a picture (h, w, 3), normalised by its own minimum and maximum."""
        return depth_maps.normalised(self.raw_depth(rgb))

    def remove_from_depth(
        self, depth_before: Depth, mask: Mask, settings: Settings, on_step: OnStep = _silent
    ) -> tuple[Depth, float]:
        """Stage 1: the depth map with the masked area painted anew, and how far its colours lie from the palette on average
        (0 to 441). Of ``settings``: seed, steps_1, guidance, scale_1, keep_depth."""
        with flux.wearing(self.transformer, "geo1", settings.scale_1):
            colours = depth_maps.to_colours(depth_before)
            painted = self._paint(
                self._fill, colours, mask, settings.seed, settings.steps_1, settings.guidance, on_step
            )
        depth_after, distance = depth_maps.from_colours(painted)
        if settings.keep_depth:
            # The seam is soft, and outside the mask, because the autoencoder draws soft edges.
            depth_after = kept_outside(depth_after, depth_before, mask)
        return depth_after, float(distance.mean())

    def render(
        self, rgb: Picture, depth_after: Depth, depth_before: Depth, settings: Settings, on_step: OnStep = _silent
    ) -> Rendered:
        """Stage 2: the picture as it looks with the geometry ``depth_after``. It does not know the mask: what changes is what
        differs between the two maps. Of ``settings``: seed, steps_2, guidance, scale_2."""
        width = rgb.shape[1]
        strip = numpy.concatenate([rgb, depth_maps.to_colours(depth_after), depth_maps.to_colours(depth_before)], 1)
        nothing = numpy.zeros(strip.shape[:2], bool)
        with flux.wearing(self.transformer, "geo2", settings.scale_2):
            painted = self._paint(
                self._render, strip, nothing, settings.seed, settings.steps_2, settings.guidance, on_step, panels=3
            )  # fmt: skip
        # The strip is decoded whole and then cut: FLUX's autoencoder mixes the panels.
        return Rendered(painted[:, :width].copy(), painted)

    def fill_only(self, rgb: Picture, mask: Mask, settings: Settings, on_step: OnStep = _silent) -> Picture:
        """The base model alone, without adapters and geometry, fills the mask: what other removers do.

        Of ``settings``: seed, guidance, and steps_2 where that is enough (``base.fill_least``)."""
        steps = self.base.fill_steps(settings.steps_2)
        with flux.wearing(self.transformer, None):
            return self._paint(self._fill, rgb, mask, settings.seed, steps, settings.guidance, on_step)

    def light(self, rgb: Picture, render: Picture, through: Picture) -> Light | None:
        """How the original is to be recoloured where stage 2's render differs from ``through``, by the network for it; None where the
        model set has none."""
        return None if self.recolouring is None else recolour.factors(self.recolouring, rgb, render, through)

    def through_vae(self, rgb: Picture) -> Picture:
        """``rgb`` encoded and decoded: what the autoencoder loses is no change of the picture."""
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.vae.device, self.vae.dtype) / 127.5 - 1
            encoded = self.vae.encode(pixels)
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            return _to_array(self.vae.decode(latents, return_dict=False)[0])

    def _paint(
        self,
        pipe: Any,
        picture: Picture,
        mask: Mask,
        seed: int,
        steps: int,
        guidance: float,
        on_step: OnStep,
        panels: int = 1,
    ) -> Picture:
        import torch

        from pipelines.core.patching import fresh_scheduler

        height, width = picture.shape[:2]
        if mask.shape != (height, width) or height % 16 or width % (16 * panels):
            raise ValueError(
                f"The picture is {width // panels} x {height} and the mask {mask.shape[1] // panels} x {mask.shape[0]} pixels: "
                "both need one size whose sides are multiples of 16."
            )
        device, dtype = pipe._execution_device, self.transformer.dtype
        pipe.scheduler = fresh_scheduler(pipe.scheduler)
        guess = _remember_guess(pipe.scheduler)
        # As the authors' fork draws it: from the CPU's generator, and before the autoencoder draws from the same one.
        generator = torch.Generator("cpu").manual_seed(seed)
        shape = (1, pipe.latent_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
        noise = pipe._pack_latents(torch.randn(shape, generator=generator, dtype=dtype), *shape)

        def after(_pipe: Any, step: int, _timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            def look() -> Picture:
                return _look(pipe, guess(given["latents"]), height, width, panels)

            on_step(step + 1, steps, look)
            return given

        with torch.inference_mode():
            painted = pipe(
                image=to_pil(picture),
                mask_image=to_pil(mask.astype(numpy.uint8) * 255),
                height=height,
                width=width,
                latents=noise,
                generator=generator,
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="pt",
                callback_on_step_end=after,
                **{key: value.to(device, dtype) for key, value in self.prompt.items()},
            ).images
        return _to_array(painted.float() * 2 - 1)


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _to_array(signed: Tensor) -> Picture:
    """(1, 3, h, w) in [-1, 1] to (h, w, 3)."""
    unit = (signed[0].float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def _remember_guess(scheduler: Any) -> Callable[[Tensor], Tensor]:
    """Let this run's own scheduler note what the model's guess of the clean latents needs; returns the guess, for previews."""
    seen: dict[str, Any] = {}
    step = type(scheduler).step

    def noted(model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        result = step(scheduler, model_output, timestep, sample, **options)
        seen.update(velocity=model_output, index=scheduler.step_index)  # of the next step
        return result

    scheduler.step = noted
    # Along a straight path: what the next level's latents become without their noise.
    return lambda latents: latents - scheduler.sigmas[seen["index"]].to(latents) * seen["velocity"].to(latents)


def _look(pipe: Any, latents: Tensor, height: int, width: int, panels: int) -> Picture:
    """A small picture of the first panel. The small autoencoder decodes; a large one would cost too much, so its latents'
    first three channels stand for the picture."""
    import torch

    latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    latents = latents[..., : latents.shape[-1] // panels]
    if type(pipe.vae).__name__ != "AutoencoderTiny":
        return _to_array(torch.nn.functional.interpolate(latents[:, :3].float() / 3, scale_factor=2))
    config = pipe.vae.config
    return _to_array(pipe.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0])


# ---------------------------------------------------------------------------------------- composite


def change_areas(result: Picture, through: Picture, mask: Mask) -> tuple[Mask, Mask]:
    """Where a result changed outside the mask: (what hangs together with the object, what does not).

    ``through`` is the input as the model paints it unchanged (:func:`what_changed`). A shadow often comes apart from its object
    by a few pixels, and goes on behind another, so areas within a small gap hang together.
    """
    from skimage.filters import apply_hysteresis_threshold

    size = max(mask.shape)
    off = removal_metrics.difference(result, through)
    outside = off[~removal_metrics.near(mask)]
    unsure = max(1.0, float(numpy.median(outside)) / UNSURE) if outside.size else 1.0
    touched = apply_hysteresis_threshold(off, unsure * CHANGE_RIM, unsure * CHANGE_SEED) & ~mask
    touched = removal_metrics.without_specks(touched, max(2, round(6 * (size / 192) ** 2)))
    together = masks.grow(touched | mask, max(1, round(size / 64)))
    _count, labels = cv2.connectedComponents(together.astype(numpy.uint8), connectivity=8)
    ours = numpy.unique(labels[mask])
    effect = touched & numpy.isin(labels, ours[ours > 0])
    return effect, touched & ~effect


Light = tuple[NDArray[numpy.float32], NDArray[numpy.float32]]
"""Slope and offset, both (h, w, 3), that recolour a picture: new = (1 + slope) * picture + offset, in levels of 255."""


def what_changed(result: Picture, rgb_in: Picture, through: Picture, light: Light | None) -> tuple[Picture, Picture]:
    """The two pictures whose difference is the change, for :func:`change_areas`: the input as it is recoloured and as it was; without
    ``light`` the result, and the input as the autoencoder gives it back."""
    if light is None:
        return result, through
    return recolour.recoloured(rgb_in, *light).round().astype(numpy.uint8), rgb_in


def composite(
    original: Image,
    result: Picture,
    rgb_in: Picture,
    mask: Mask,
    settings: Settings,
    through: Picture | None = None,
    light: Light | None = None,
) -> tuple[Image, Mask]:
    """The original at its own resolution with the object and what it caused taken out, and where it may differ.

    Only the mask and the detected effect (:func:`change_areas`) are touched, with a seam of ``settings.feather`` inside them; every
    other pixel is the original's, byte for byte. In the mask the result is pasted. In the effect area the original is recoloured by
    ``light``, so that its texture stays. Without it the result is pasted there with the texture of the original (:func:`with_detail`)
    or, enlarged, the original recoloured as a guided filter would (:func:`recolouring`).

    Args:
        result: at working size. rgb_in: the input at that size. mask: at working size or, better, at the original's.
        through: the input as the autoencoder gives it back; without it, ``rgb_in``.
        light: of :meth:`GeoRemover.light`.
    """
    out = numpy.array(original.convert("RGB"))
    height, width = out.shape[:2]
    rows, columns = result.shape[:2]
    factor = max(width / columns, height / rows)
    through = rgb_in if through is None else through
    effect, _far = change_areas(*what_changed(result, rgb_in, through, light), masks.resized(mask, (columns, rows)))
    # A rim around the effect, in which the seam fades: the last of a soft shadow lies below the threshold.
    effect = masks.grow(effect, max(1, settings.feather))
    pasted = masks.resized(mask, original.size)
    changed = pasted | masks.resized(effect, original.size)
    if not changed.any():
        return to_pil(out), changed
    box = masks.box(changed, 1)
    weight = numpy.zeros(changed.shape, numpy.float32)
    weight[box] = numpy.clip(masks.inner_distance(changed[box]) / (settings.feather * factor + 1), 0, 1)
    # Inside the mask the seam must lie in what the mask was grown by, or it would bring back the object's edge.
    inside = max(min(settings.feather, settings.grow), 0) * factor + 1
    weight[box] = numpy.maximum(weight[box], numpy.clip(masks.inner_distance(pasted[box]) / inside, 0, 1))
    if factor <= 1:  # the model worked on an enlarged picture
        painted = result.astype(numpy.float32)
        detailed = with_detail(result, rgb_in, through) if light is None else recolour.recoloured(rgb_in, *light)
        if factor < 1:
            painted, detailed = (
                cv2.resize(p, original.size, interpolation=cv2.INTER_AREA) for p in (painted, detailed)
            )
        new = numpy.where(pasted[..., None], painted, detailed)
        out[changed] = _mixed(out[changed], new[changed], weight[changed])
        return to_pil(out), changed
    keep_texture = (light is not None or factor >= ENLARGED) and bool((changed & ~pasted).any())
    slope, offset = None, None
    if keep_texture:
        slope, offset = light or recolouring(rgb_in, result.astype(numpy.float32) - through)
    outside = numpy.zeros(
        changed.shape, numpy.float32
    )  # from the mask's border on, where it fades over into recolouring
    if keep_texture:
        outside[box] = cv2.distanceTransform((~pasted[box]).astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    for band in _bands(box):
        here, before = changed[band], out[band]
        new = _enlarged(result, (height, width), band).astype(numpy.float32)
        if slope is not None and offset is not None:
            recoloured = (1 + _enlarged(slope, (height, width), band)) * before
            recoloured += _enlarged(offset, (height, width), band)
            recoloured -= new
            recoloured *= numpy.clip(outside[band] / factor, 0, 1)[..., None]
            new += recoloured
        numpy.copyto(before, _mixed(before, new, weight[band]), where=here[..., None])
    return to_pil(out), changed


def with_detail(result: Picture, rgb_in: Picture, through: Picture) -> NDArray[numpy.float32]:
    """``result`` (h, w, 3) with the texture of ``rgb_in`` that the autoencoder lost: ``through`` lacks it too."""
    weight = recolour.texture_weight(result, through)
    return result + weight[..., None] * (rgb_in.astype(numpy.float32) - through)


def recolouring(
    rgb_in: Picture, change: NDArray[numpy.float32]
) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    """``change`` (h, w, 3) as slope * picture + offset, each (h, w, 3) and smooth: the guided filter (He et al., PAMI 2013), whose
    two factors can be enlarged, because the edges are in the picture. Where the picture is even, the slope is that of a shadow,
    a plain factor, and not 0: then texture that is too fine for the small picture gets its contrast back as well."""
    window = (5, 5)
    guide = rgb_in.astype(numpy.float32)
    mean, shift = cv2.blur(guide, window), cv2.blur(change, window)
    variance = cv2.blur(guide * guide, window) - mean * mean
    factor = numpy.clip(shift / (mean + 8), -0.5, 2)
    slope = (cv2.blur(guide * change, window) - mean * shift + EVEN * factor) / (variance + EVEN)
    offset = shift - slope * mean
    return cv2.blur(slope, window), cv2.blur(offset, window)


def _mixed(before: Picture, new: NDArray[numpy.float32], weight: NDArray[numpy.float32]) -> Picture:
    """``before`` where ``weight`` is 0, ``new`` where it is 1; overwrites ``new``."""
    new -= before
    new *= weight[..., None]
    new += before
    return numpy.rint(new, out=new).clip(0, 255, out=new).astype(numpy.uint8)


def _bands(box: tuple[slice, slice], rows: int = 256) -> Iterator[tuple[slice, slice]]:
    """``box`` in bands, so that a picture of 25 megapixels needs no gigabytes of floats."""
    for start in range(box[0].start, box[0].stop, rows):
        lane.check()
        yield slice(start, min(start + rows, box[0].stop)), box[1]


def _enlarged(small: NDArray[Any], shape: tuple[int, int], band: tuple[slice, slice]) -> NDArray[Any]:
    """The part ``band`` of ``small`` resized to ``shape`` (H, W), cubic, without making the rest."""
    (rows, columns), (height, width) = band, shape
    down, across = small.shape[0] / height, small.shape[1] / width
    # Pixels are areas: the middle of the first lies at half its width.
    place = numpy.array(
        [[across, 0, (columns.start + 0.5) * across - 0.5], [0, down, (rows.start + 0.5) * down - 0.5]], numpy.float64
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(small, place, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


# --------------------------------------------------------------------------------------- sentences


def warn_large_mask(mask: Mask) -> str | None:
    share = masks.area(mask)
    if share <= MOST_MASK:
        return None
    return f"The mask covers {share:.0%} of the image, most of it: the fill will be invented."


def warn_partial_mask(depth_before: Depth, mask: Mask, rgb: Picture) -> str | None:
    if not masks.touches_partly(depth_before, mask, rgb):
        return None
    return "The mask may miss part of the object: grow it, or the object may be completed instead of removed."


def warn_flat_depth(raw: NDArray[numpy.floating]) -> str | None:
    """``raw``: inverse depth before it was normalised."""
    spread, most = float(raw.max() - raw.min()), float(numpy.abs(raw).max())
    if math.isfinite(spread) and spread > max(FLAT * most, 1e-6):
        return None
    return "No usable depth in this image: everything seems equally far away, so there is no geometry to change."


def warn_unchanged_depth(depth_before: Depth, depth_after: Depth, mask: Mask) -> str | None:
    parts = masks.components(mask, max(4, round(mask.sum() / 50)))
    unchanged = sum(float(numpy.abs(depth_after - depth_before)[part].mean()) < DEPTH_CHANGED for part in parts)
    if not unchanged:
        return None
    where = "here" if len(parts) == 1 else f"in {unchanged} of {len(parts)} masked areas"
    return (
        f"The depth did not change {where}, so the render has nothing to remove (glass, mirror, flat print, blur): "
        "try depth assist."
    )


def warn_off_palette(off_palette: float | None) -> str | None:
    if off_palette is None or off_palette <= OFF_PALETTE:
        return None
    return (
        f"The depth result does not look like a depth map (its colours are {off_palette:.0f} of 441 from the palette): "
        "wrong LoRA or grey depth?"
    )


def panels_error(strip: Picture, depth_after: Depth, depth_before: Depth) -> float:
    """Mean difference of a strip's second and third panel from the maps that they should repeat, in inverse depth."""
    width = strip.shape[1] // 3
    repeated, _distance = depth_maps.from_colours(strip[:, width:])
    return float(numpy.abs(repeated - numpy.concatenate([depth_after, depth_before], 1)).mean())


def warn_unstable(panels: float) -> str | None:
    """``panels``: see :func:`panels_error`."""
    if panels <= UNSTABLE:
        return None
    return (
        "Unstable render, because its depth panels differ from the maps it was given: try another seed or more steps."
    )


def warn_far_changes(far: Mask) -> str | None:
    share = masks.area(far)
    if share <= FAR:
        return None
    return f"Areas far from the object changed ({share:.0%} of the picture): use the composite, which leaves them as they were."


def warn_enlarged(original: tuple[int, int], working: tuple[int, int]) -> str | None:
    """The composite is as large as the original; what the model paints is not."""
    factor = max(side / made for side, made in zip(original, working, strict=True))
    if factor < MUCH_ENLARGED:
        return None
    return (
        f"The filled part was painted at {working[0]} x {working[1]} pixels and enlarged {factor:.0f} times for this picture: it is softer "
        "than the rest, which stays as it was."
    )


def warn_photograph(base: FillBase, known_world: bool) -> str | None:
    if base.name != "mini" or known_world:
        return None
    return "The small models know only our rendered scenes, so other pictures come out badly: choose a rendered example, or the full set."


def out_of_memory(stage: str, base: FillBase, preset: str, error: MemoryError) -> MemoryError:
    """Names the stage and proposes the next smaller preset, or a smaller picture where there is none; ``error`` itself where neither
    would help."""
    names = list(base.presets)
    can_quantise = importlib.util.find_spec("bitsandbytes") is not None
    later = [
        name
        for name in names[names.index(preset or names[0]) + 1 :]
        if can_quantise or base.by_preset[name][0].dtype not in flux.QUANTISED
    ]
    smaller = "make the picture smaller" + (" or choose the mini set" if base.name != "mini" else "")
    memory = troubles.ran_out(error)
    if not memory and not later:
        return error
    proposal = f"choose the preset {later[0]}" if later else smaller
    return MemoryError(f"There is not enough {memory or 'memory'} for {stage}: {proposal}.")


# --------------------------------------------------------------------------------------------- runs


def remove(job: Job, registry: Registry, request: Request, cache: Cache | None = None) -> Outcome:
    """Both stages, the comparison if asked for, composites and measurements; called on the lane's thread.

    Emits progress and previews, and ends within one denoising step when the job is stopped; stages that are finished by then stay
    in ``cache``, and none is run whose inputs are known there.

    Raises:
        ValueError: nothing to remove, a picture that is too small, a depth map without depth, settings outside their limits,
            weights that cannot be had.
        MemoryError: the stage that did not fit, and what to choose instead.
    """
    return _run(job, registry, request, cache, _Work.outcome)


class NoWeights(ValueError):
    """The weights cannot be had; one sentence says why."""


def without_weights(request: Request) -> tuple[Picture, Picture]:
    """The picture at working size, and the same with the mask filled by :func:`telea`: all that can be shown without any weights."""
    settings = request.settings.validated()
    work = _Work(Job(), request, settings, flux.BASES[settings.model_set], Cache())
    return work.image, telea(work.image, work.mask)


def geometry(
    job: Job, registry: Registry, request: Request, cache: Cache | None = None, removed: bool = True
) -> Geometry:
    """What :func:`remove` begins with, and no more: the depth of the picture and, if ``removed``, the depth without the object.

    Without ``removed`` there need not be a mask. Raises as :func:`remove` does.
    """
    return _run(job, registry, request, cache, lambda work: work.geometry(removed), masked=removed)


def _run(
    job: Job,
    registry: Registry,
    request: Request,
    cache: Cache | None,
    stages: Callable[[_Work], Any],
    masked: bool = True,
) -> Any:
    """``stages`` of a run around leased parts."""
    settings = request.settings.validated()
    base = flux.BASES[settings.model_set]
    work = _Work(job, request, settings, base, Cache() if cache is None else cache, masked)
    specs = base.specs(settings.preset)
    job.progress(0.0, f"loading {base.title}")
    try:
        return registry.run(specs, lambda *parts: stages(work.begun(parts, specs)))
    except MemoryError as error:
        raise out_of_memory(work.stage, base, settings.preset, error) from error.__cause__
    except (FileNotFoundError, ConnectionError) as error:
        message = flux.access_message(error)
        if message is None or base.name == "mini":
            raise
        raise NoWeights(message) from error


_NAMED = ("/transformer", "/vae", "/depth", f"/{flux.RECOLOUR}")


class _Work:
    """One run: what was asked for at working size, and the stages in their order, each looked up before it is computed."""

    def __init__(
        self, job: Job, request: Request, settings: Settings, base: FillBase, cache: Cache, masked: bool = True
    ) -> None:
        self.job, self.request, self.settings, self.base, self.cache = job, request, settings, base, cache
        self.stage, self.models = "loading", []
        self.loading_since: float | None = time.monotonic()
        if request.image is None:
            raise ValueError("There is no picture yet: load one, or roll a scene.")
        drawn = None if request.mask is None else numpy.asarray(request.mask, bool)
        if drawn is None or not drawn.any():
            if masked:
                raise ValueError("Paint over the object first: the mask is empty.")
            drawn = numpy.zeros(request.image.size[::-1], bool)
        masks.check_format("mask", drawn.shape[::-1], request.image.size)
        if request.clean is not None:
            masks.check_format("picture of the truth", request.clean.size, request.image.size)
        self.size = working_size(request.image.size, base)
        self.image = at_size(request.image, self.size)
        self.drawn = masks.resized(drawn, self.size)
        """What the visitor drew; measurements are made outside of this."""
        if masked and not self.drawn.any():
            raise ValueError(
                f"The mask is smaller than a pixel at the model's size, {self.size[0]} x {self.size[1]}: brush a larger area."
            )
        self.mask, self.full_mask = self._masks(drawn)
        if masked and not self.mask.any():
            raise ValueError("Nothing of the mask is left after shrinking: shrink it less.")
        self.given_before = _checked_depth(request.depth_before, self.size, "depth before")
        self.given_after = _checked_depth(request.depth_after, self.size, "depth after")
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        extra = base.fill_steps(settings.steps_2) if request.compare else 0
        self.total = (
            (settings.steps_1 if self.given_after is None else 0) + 2 * settings.steps_2 * settings.variants + extra
        )
        self.done = 0.0

    def _masks(self, drawn: Mask) -> tuple[Mask, Mask]:
        """The mask at working size and at the original's, filled and grown alike."""
        settings, image = self.settings, self.request.image
        assert image is not None
        full = masks.resized(drawn, image.size)
        small = self.drawn
        if settings.fill_holes:
            full, small = masks.fill_holes(full), masks.fill_holes(small)
        factor = max(image.size[0] / self.size[0], image.size[1] / self.size[1])
        full = masks.grow(full, round(settings.grow * factor))
        return masks.grow(small, settings.grow), full if full.any() else masks.resized(small, image.size)

    def begun(self, parts: Sequence[Any], specs: Sequence[ModelSpec]) -> _Work:
        """Ready for its stages; also for a second time, after they ran out of memory."""
        if self.loading_since is not None and self.job.started is not None:
            # The limit is for the work: a first run may have to fetch 35 GB.
            self.job.started += time.monotonic() - self.loading_since
        self.loading_since = None
        self.notes, self.seconds, self.done = list(self.request.lost), {}, 0.0
        self.model = GeoRemover(parts, self.base)
        self.identity = (self.base.name, self.base.parts[0].key, self.settings.preset, self._weights())
        named = [spec for spec in specs if spec.key.endswith(_NAMED)]
        self.models = [{"key": spec.key, "source": spec.source, "licence": spec.licence} for spec in named]
        self.models += flux.adapter_facts(specs[0])
        return self

    def geometry(self, removed: bool) -> Geometry:
        self.total = self.settings.steps_1
        before = self._depth_before()
        after = self._stage_1(before)[0] if removed else None
        return Geometry(before, after, self.mask, self.notes)

    def outcome(self) -> Outcome:
        request, settings = self.request, self.settings
        before = self._depth_before()
        after, off_palette = self._stage_1(before)
        rendered = [self._stage_2(before, after, _seed(settings, number)) for number in range(settings.variants)]
        filled = self._fill_only() if request.compare else None
        through = self._kept("autoencoder", lambda: self.model.through_vae(self.image), self.image)
        self.job.progress(0.97, "measuring")
        with self._timed("composite"):
            lights = [self.model.light(self.image, one.result, through) for one in rendered]
        made = [self._composite(one.result, through, light) for one, light in zip(rendered, lights, strict=True)]
        composites = [self._with_transparency(*one) for one in made]
        with self._timed("metrics"):
            panels = [panels_error(one.strip, after, before) for one in rendered]
            flat = telea(self.image, self.mask)
            metrics = [
                self._metrics(one, made[i][0], before, after, off_palette, panels[i]) for i, one in enumerate(rendered)
            ]
            others = {"telea": flat} | ({} if filled is None else {"fill_only": filled})
            clean = self._truth()
            baselines = {} if clean is None else {name: self._against(p, clean) for name, p in others.items()}
        self._more_notes(rendered, panels, through, lights)
        return Outcome(
            settings, self.image, self.mask, before, after, [one.result for one in rendered], [one.strip for one in rendered],
            composites, [changed for _picture, changed in made], filled, flat, metrics, baselines,
            self.notes, {name: round(value, 3) for name, value in self.seconds.items()}, self.models, off_palette,
            request.image.size, self._depth_from(before),
        )  # fmt: skip

    def _depth_from(self, before: Depth) -> str:
        if self.given_after is None:
            return "stage 1"
        return "unchanged" if numpy.array_equal(self.given_after, before) else "given"

    def _weights(self) -> tuple[str, ...]:
        return tuple(sorted(value for spec in self.base.parts for value in spec.sha256.values()))

    def _note(self, sentence: str | None) -> None:
        if sentence is not None and sentence not in self.notes:
            self.notes.append(sentence)

    def _timed(self, name: str) -> Any:
        self.job.check()
        return _Timer(self.seconds, name)

    def _kept(self, name: str, compute: Callable[[], Any], *inputs: Any) -> Any:
        """The stage ``name`` from the cache, or computed and put there."""
        key = Cache.key(name, self.identity, *inputs)
        found = self.cache.get(key)
        self.seconds.setdefault(name, 0.0)
        if found is None:
            self.stage = name
            self.job.check()
            with self._timed(name):
                found = compute()
            self.cache.put(key, found)
            self.job.emit(Stored(key, found))
        return found

    def _on_step(self, name: str, weight: float) -> OnStep:
        start = self.done

        def on_step(step: int, steps: int, look: Callable[[], Picture]) -> None:
            self.done = start + weight * step
            if step == steps:  # only decoding is left: a stop now would throw the whole stage away
                return
            self.job.progress(0.02 + 0.95 * self.done / self.total, f"{name}: step {step} of {steps}")
            if step % max(1, steps // 4) == 0:
                self.job.emit(Preview(name, step, steps, to_pil(look())))

        return on_step

    def _shown(self, name: str, steps: int, picture: Picture) -> None:
        self.job.emit(Preview(name, steps, steps, to_pil(picture)))

    def _raw_depth(self, rgb: Picture) -> Depth:
        return self._kept("depth", lambda: self.model.raw_depth(rgb), rgb)

    def _depth_before(self) -> Depth:
        before = self.given_before
        if before is None:
            raw = self._raw_depth(self.image)
            flat = warn_flat_depth(raw)
            if flat is not None:
                raise ValueError(flat)
            before = depth_maps.normalised(raw)
        self._note(warn_large_mask(self.mask))
        self._note(warn_partial_mask(before, self.mask, self.image))
        if self.settings.depth_assist:
            before = assisted(before, self.mask)
        self._shown(DEPTH_BEFORE, 1, depth_maps.to_colours(before))
        return before

    def _stage_1(self, before: Depth) -> tuple[Depth, float | None]:
        if self.given_after is not None:
            self._note(warn_unchanged_depth(before, self.given_after, self.mask))
            return self.given_after, None
        settings, model = self.settings, self.model
        inputs = (
            before,
            self.mask,
            settings.seed,
            settings.steps_1,
            settings.guidance,
            settings.scale_1,
            settings.keep_depth,
        )
        on_step, end = self._on_step(DEPTH_AFTER, 1), self.done + settings.steps_1
        after, off = self._kept(
            "stage 1", lambda: model.remove_from_depth(before, self.mask, settings, on_step), *inputs
        )
        self.done = end
        self._note(warn_off_palette(off))
        self._note(warn_unchanged_depth(before, after, self.mask))
        self._shown(DEPTH_AFTER, settings.steps_1, depth_maps.to_colours(after))
        return after, off

    def _stage_2(self, before: Depth, after: Depth, seed: int) -> Rendered:
        settings, model = dataclasses.replace(self.settings, seed=seed), self.model
        inputs = (self.image, before, after, settings.seed, settings.steps_2, settings.guidance, settings.scale_2)
        on_step, end = self._on_step(RESULT, 2), self.done + 2 * settings.steps_2
        rendered = self._kept("stage 2", lambda: model.render(self.image, after, before, settings, on_step), *inputs)
        self.done = end
        self._shown(RESULT, settings.steps_2, rendered.result)
        return rendered

    def _fill_only(self) -> Picture:
        settings, model, steps = self.settings, self.model, self.base.fill_steps(self.settings.steps_2)
        inputs = (self.image, self.mask, settings.seed, steps, settings.guidance)
        on_step = self._on_step(FILL_ONLY, 1)
        filled = self._kept("fill only", lambda: model.fill_only(self.image, self.mask, settings, on_step), *inputs)
        # Pasted, as such tools do; ours is composed as well.
        filled = numpy.where(self.mask[..., None], filled, self.image)
        self._shown(FILL_ONLY, steps, filled)
        return filled

    def _composite(self, result: Picture, through: Picture, light: Light | None) -> tuple[Image, Mask]:
        self.job.check()
        with self._timed("composite"):
            assert self.request.image is not None
            original = self.request.image
            made, changed = composite(original, result, self.image, self.full_mask, self.settings, through, light)
            pixels, before = numpy.asarray(made), numpy.asarray(original.convert("RGB"))
            like, notes = look.follow(
                pixels, before, changed, self.settings.seed, "filled part", "picture", own=False, bare=self.full_mask
            )
            for note in notes:
                self._note(note)
            return (to_pil(like) if notes else made), changed

    def _with_transparency(self, made: Image, changed: Mask) -> Image:
        if self.request.layered is None:
            return made
        self._note(TRANSPARENT)
        return transparency.put_back(made, changed, self.request.layered, self.full_mask)

    def _more_notes(
        self, rendered: list[Rendered], panels: list[float], through: Picture, lights: list[Light | None]
    ) -> None:
        for one, off, light in zip(rendered, panels, lights, strict=True):
            self._note(warn_unstable(off))
            pair = what_changed(one.result, self.image, through, light)
            self._note(warn_far_changes(change_areas(*pair, self.mask)[1]))
        self._note(warn_enlarged(self.request.image.size, self.size))
        self._note(warn_photograph(self.base, self.request.truth is not None or self.request.known_world))

    def _truth(self) -> Picture | None:
        """The true picture at working size."""
        truth, clean = self.request.truth, self.request.clean
        if truth is not None:
            return at_size(to_pil(truth.clean), self.size)
        return None if clean is None else at_size(clean, self.size)

    def _against(self, result: Picture, clean: Picture) -> dict[str, Any]:
        """Measures against the truth, with the depth network's view of both."""
        seen, true = self._raw_depth(result), self._raw_depth(clean)
        depths = (depth_maps.normalised(seen, true), depth_maps.normalised(true))
        return removal_metrics.against_truth(self.image, result, clean, self.drawn, *depths)

    def _metrics(
        self, one: Rendered, made: Image, before: Depth, after: Depth, off_palette: float | None, panels: float
    ) -> dict[str, Any]:
        checks = removal_metrics.self_checks(self.image, one.result, self.mask, before, after, off_palette, panels)
        clean = self._truth()
        if clean is None:
            return {"truth": False, **checks}
        measured_ = {"truth": True, **checks, **self._against(one.result, clean)}
        if made.size == self.size:  # enlarged, there is no truth to compare with
            pasted = numpy.asarray(made)
            measured_["composite"] = removal_metrics.against_truth(self.image, pasted, clean, self.drawn)
        if self.request.truth is not None:
            measured_["depth"] = _depth_error(self.request.truth, after, before, self.drawn, self.size)
        return measured_


DEPTH_BEFORE, DEPTH_AFTER, RESULT, FILL_ONLY = "Depth before", "Depth after", "Result", "Filled without geometry"
"""Stages, as :class:`Preview` names them."""


TRANSPARENT = (
    "The picture has transparent parts: the models saw them over white, the composite has them as they were, and inside the mask its "
    "transparency follows what is around it."
)


def _depth_error(truth: Pair, after: Depth, before: Depth, mask: Mask, size: tuple[int, int]) -> dict[str, float]:
    """Mean error of the depth after in the mask, and what it would be if nothing had been removed, against the renderer."""
    true, untouched = (cv2.resize(d, size, interpolation=cv2.INTER_LINEAR) for d in (truth.depth_clean, truth.depth))
    return {
        "error": float(numpy.abs(after - true)[mask].mean()),
        "untouched": float(numpy.abs(untouched - true)[mask].mean()),
    }


class _Timer:
    """Adds the seconds of its block to an entry."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_error: Any) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.started


def _checked_depth(depth: NDArray[numpy.floating] | None, size: tuple[int, int], name: str) -> Depth | None:
    if depth is None:
        return None
    depth = numpy.asarray(depth)
    if depth.ndim != 2 or not numpy.issubdtype(depth.dtype, numpy.floating):
        raise ValueError(
            f"The {name} has shape {depth.shape} and type {depth.dtype}: send a map (height, width) of floats."
        )
    if not numpy.isfinite(depth).all() or depth.min() < -1e-3 or depth.max() > 1 + 1e-3:
        raise ValueError(f"The {name} has values outside 0 to 1: normalise it first, near is 1.")
    return numpy.clip(cv2.resize(depth.astype(numpy.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1)


# -------------------------------------------------------------------------------------- many pictures


@dataclass
class BatchRow:
    """One pair of a zip, or a file that belongs to none: its outcome, or one sentence about why there is none."""

    name: str
    outcome: Outcome | None = None
    """May be let go of once its pictures are saved: a hundred of them would fill the memory."""
    error: str = ""
    files: str = ""
    """Those of the zip that it is about."""
    values: dict[str, Any] = field(init=False, repr=False)
    """Its row of the table."""

    def __post_init__(self) -> None:
        self.values = dict.fromkeys(COLUMNS, "") | {"name": self.name, "files": self.files, "error": self.error}
        if self.outcome is None:
            return
        scores = self.outcome.metrics[0]
        self.values |= {key: scores[key] for key in COLUMNS if scores.get(key) is not None}
        for region, values in scores.get("regions", {}).items():
            self.values |= {f"{key}_{region}": value for key, value in values.items() if value is not None}
        self.values["seconds"] = round(sum(self.outcome.seconds.values()), 2)
        self.values["notes"] = " ".join(self.outcome.notes)


COLUMNS = (
    "name", "files", "error", "residual_effect", "change_iou", "over_erasure", "inserted",
    *(f"{score}_{region}" for region in removal_metrics.REGIONS for score in ("psnr", "ssim")),
    "changed_outside", "depth_change_inside", "depth_change_outside", "off_palette", "panels", "seconds", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """All rows of a batch, before the first pair is done: what can be made waits, and every other file has its sentence."""

    rows: list[BatchRow]


class _OneOf:
    """A job's word for one picture of ``count``: its progress is a part of the whole's, and nothing else is sent."""

    def __init__(self, job: Job, number: int, count: int) -> None:
        self.job, self.number, self.count = job, number, count
        self.check = job.check

    @property
    def started(self) -> float | None:
        return self.job.started

    @started.setter
    def started(self, when: float) -> None:
        self.job.started = when

    def emit(self, _item: Any) -> None:
        self.job.check()

    def progress(self, fraction: float, text: str = "") -> None:
        self.job.progress((self.number - 1 + fraction) / self.count, f"{self.number} of {self.count}: {text}")


def batch(
    job: Job,
    registry: Registry,
    path: str | Path | BinaryIO,
    settings: Settings,
    white_is_keep: bool = False,
) -> Iterator[Planned | BatchRow]:
    """First what is to be done (:class:`Planned`), then every pair of a zip, one after the other. A pair that cannot be done is a row
    with a sentence; the others go on.

    Raises:
        ValueError: the file is no zip, or holds no pictures.
    """
    settings = settings.validated()
    with open_archive(path, BATCH_FILES) as archive:
        entries = _entries(archive)
        pairs = [entry for entry in entries if not entry.problem]
        yield Planned([BatchRow(one.name, error=one.problem or WAITS, files=_names(one)) for one in entries])
        for number, entry in enumerate(pairs, 1):
            job.check()
            try:
                request = dataclasses.replace(_pair_of(archive, entry, white_is_keep), settings=settings)
                yield BatchRow(
                    entry.name, remove(_OneOf(job, number, len(pairs)), registry, request), files=_names(entry)
                )
            except ValueError as error:
                troubles.raise_machines(error)
                yield BatchRow(entry.name, error=str(error), files=_names(entry))


def check_batch(path: str | Path | BinaryIO) -> None:
    """See that a zip holds something for :func:`batch`, by the names in it.

    Raises:
        ValueError: as :func:`batch`.
    """
    with open_archive(path, BATCH_FILES) as archive:
        _entries(archive)


def _entries(archive: Archive) -> list[batch_files.Entry]:
    entries = batch_files.entries(archive.members)
    if all(entry.problem and len(entry.files) == 1 and entry.name == entry.files[0].name for entry in entries):
        raise ValueError(_nothing_in(entries))
    return entries


WAITS = "Not reached: the batch has not come to it."


def _names(entry: batch_files.Entry) -> str:
    return ", ".join(member.name for member in entry.files)


def _nothing_in(entries: Sequence[batch_files.Entry]) -> str:
    why = f" {entries[0].files[0].file}: {entries[0].problem}" if entries else ""
    return f"The zip holds no pictures: put a.png and a_mask.png into it, and a_gt.png where there is a truth.{why}"


def _pair_of(archive: Archive, entry: batch_files.Entry, white_is_keep: bool) -> Request:
    picture, mask, *truth = entry.files
    opened = _opened(archive, picture, images.open_upload)
    drawn = _opened(archive, mask, lambda data: masks.from_picture(data, opened.image.size, white_is_keep))
    if not drawn.any():
        raise ValueError(f"{mask.file} marks nothing: white is what goes, so if its white means keep, say so.")
    clean = _opened(archive, truth[0], open_picture) if truth else None
    return Request(opened.image, drawn, clean=clean, layered=opened.layered, lost=opened.notes)


def _opened(archive: Archive, member: Member, read: Callable[[bytes], Any]) -> Any:
    """What ``read`` makes of a file; its refusals name the file."""
    data = archive.read(member, BATCH_BYTES)
    if not data:
        raise ValueError(f"{member.file} is empty: pack it again.")
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(f"{member.file}: {error}") from error


def run_batch(
    job: Job,
    registry: Registry,
    path: str | Path,
    settings: Settings,
    white_is_keep: bool = False,
) -> int:
    """:func:`batch` for the lane: emits each row as it is done, and keeps none. Returns how many pairs there were."""
    count = 0
    for row in batch(job, registry, path, settings, white_is_keep):
        job.emit(row)
        count += isinstance(row, BatchRow)
        del row
    return count


def rows_to_csv(rows: Sequence[BatchRow]) -> str:
    """A table with a line per pair; an empty field means "not defined" or "not known"."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for row in rows:
        # A spreadsheet would take a name that begins so for a formula.
        values = {
            k: f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t", "\r") else v
            for k, v in row.values.items()
        }
        table.writerow(values)
    return text.getvalue()


def facts(outcome: Outcome) -> dict[str, Any]:
    """Settings, measurements and what they rest on; JSON-able."""
    import importlib.metadata

    return {
        "settings": asdict(outcome.settings),
        "original_size": list(outcome.original_size),
        "working_size": [outcome.image.shape[1], outcome.image.shape[0]],
        "depth": outcome.depth_from,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "notes": outcome.notes,
        "seconds": outcome.seconds,
        "models": outcome.models,
        "mask_share": round(masks.area(outcome.mask), 5),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    }


def save_zip(outcome: Outcome, path: str | Path, more: Mapping[str, Any] | None = None) -> Path:
    """Everything of a run in one file: results, composites, mask, depth maps, strips, settings.json; ``more``: for that one."""
    pictures: dict[str, Image] = {
        "input.png": to_pil(outcome.image),
        "mask.png": to_pil(outcome.mask.astype(numpy.uint8) * 255),
        "depth_before.png": to_pil(depth_maps.to_colours(outcome.depth_before)),
        "depth_after.png": to_pil(depth_maps.to_colours(outcome.depth_after)),
        "telea.png": to_pil(outcome.telea),
    }
    if outcome.fill_only is not None:
        pictures["fill_only.png"] = to_pil(outcome.fill_only)
    for number, (seed, result) in enumerate(zip(outcome.seeds, outcome.results, strict=True)):
        pictures[f"result_{seed}.png"] = to_pil(result)
        pictures[f"strip_{seed}.png"] = to_pil(outcome.strips[number])
        pictures[f"composite_{seed}.png"] = outcome.composites[number]
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for name, picture in pictures.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(name, data.getvalue())
        archive.writestr("settings.json", json.dumps({**facts(outcome), **(more or {})}, indent=1))
    return path


MEASURED = flux.sdxl.ROOT / flux.FOLDER / "evaluation.json"


def measured() -> Mapping[str, Any] | None:
    """What the evaluation of the shipped models found, or None before there was one."""
    return asset_files.facts(MEASURED, "rows") or None
