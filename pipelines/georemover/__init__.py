"""GeoRemover (NeurIPS 2025, arXiv 2509.18538), usable: take an object out with its shadow and its mirror image.

A depth map has neither shadows nor reflections. So the object is first removed from the depth map D of the picture I, where the
mask M says, and then the picture is rendered anew from the changed geometry:

    D  = normalised(depth network(I))       :meth:`GeoRemover.estimate_depth`
    D' = stage 1 (D, M)                     :meth:`GeoRemover.remove_from_depth`: FLUX.1-Fill with the adapter "geo1" fills the hole
    I' = stage 2 ([I | D' | D])             :meth:`GeoRemover.render`: the same with "geo2" paints the strip anew; I' is its left third

Stage 2 is told nothing of the mask: what the renderer no longer sees standing there casts no shadow. Both see depth in inferno
colours; how they paint is in ``stages.py``. ``composite.py`` brings the change back to the original's resolution and touches no other
pixel. Ours, and in no paper: the composite, the self-checks (``checks.py``) and the measurements (``metrics.py``).

:func:`generate` runs everything, with each stage kept in a :class:`Cache` by its inputs, :func:`geometry` the first half.

Pictures are (H, W, 3) uint8, inverse depth is (H, W) float32 in [0, 1] with near = 1, masks are (H, W) bool. Module level is free
of torch; models come from the registry for the length of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import depth as depth_maps
from pipelines.core import limits, masks, transparency
from pipelines.core.depth import Depth
from pipelines.core.images import Picture
from pipelines.core.masks import Mask
from pipelines.core.paper import Paper
from pipelines.core.run import KeptRun
from pipelines.core.settings import Declared, choice, real, seed, switch, whole
from pipelines.core.stages import Cache
from pipelines.georemover import checks, composite, metrics
from pipelines.georemover import depth as given_depth
from pipelines.georemover.composite import Light, at_size, telea
from pipelines.models import flux, look
from pipelines.worlds import SCENE_HEIGHT, SCENE_WIDTH

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.georemover.stages import Rendered
    from pipelines.models.flux import FillBase
    from pipelines.worlds.removal import Pair
    from pipelines.worlds.tabletop import Scene

T = TypeVar("T")

PAPER = Paper(
    title="GeoRemover: Removing Objects and Their Causal Visual Artifacts",
    authors=("Zixin Zhu", "Haoxiang Li", "Xuelu Feng", "He Wu", "Chunming Qiao", "Junsong Yuan"),
    venue="NeurIPS 2025",
    url="https://arxiv.org/abs/2509.18538",
    summary="The object is taken out of the depth map first, so that its shadow and mirror image go with it.",
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
    scale: int = 1
    """The picture is so many times as wide and high as what the embedded model paints, 192 x 128 pixels."""

    def scene(self) -> Scene:
        """What is rendered.

        Raises:
            ValueError: there is no such floor, light, number of solids or solid.
        """
        from pipelines.worlds import removal

        scene = removal.sample(self.seed, self.count, self.floor, self.light, self.mirror)
        if not 0 <= self.index < len(scene.solids):
            raise ValueError(
                f"The scene has {len(scene.solids)} objects and number {self.index + 1} is to go: choose one of them."
            )
        return scene

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its picture."""
        return self.scale * SCENE_HEIGHT, self.scale * SCENE_WIDTH

    def pair(self) -> Pair:
        """The picture with and without the solid, and all truth. Raises as :meth:`scene` does."""
        from pipelines.worlds import removal

        return removal.pair(self.scene(), self.index, self.size)


LARGE = 4
"""Scale of the page's scenes, 768 x 512 pixels; files of the time when they were small have no scale inside."""
EXAMPLES: tuple[Recipe, ...] = (
    Recipe(38, title="A ball on a mirroring chequered floor", scale=LARGE),
    Recipe(29, index=1, title="One of two balls on mirroring wood", scale=LARGE),
    Recipe(30, index=0, title="A box with a hard shadow, beside another", scale=LARGE),
    Recipe(45, index=1, title="The middle one of three", scale=LARGE),
    Recipe(2, title="A cylinder with a soft, long shadow", scale=LARGE),
    Recipe(25, index=1, title="A ball goes, the shadow of the cylinder stays", scale=LARGE),
)
"""Scenes of the embedded model's world that it has not seen in training."""


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run but the picture and the mask; the same settings give the same pictures, byte for byte, on
    the same machine."""

    seed: int = seed()
    steps_1: int = whole("Stage 1 steps, geometry", 50, 1, 60, name="number of steps of stage 1")
    steps_2: int = whole("Stage 2 steps, rendering", 50, 1, 60, name="number of steps of stage 2")
    guidance: float = real("Guidance", 30.0, 1.0, 50.0, step=1)
    grow: int = whole("Grow or shrink the mask, pixels", 2, -32, 64, name="growth of the mask")
    """Pixels at working size around the mask; negative: less of it."""
    scale_1: float = real("Strength of the geometry adapter", 1.0, 0.0, 1.5, step=0.05, name="strength of adapter 1")
    """0 is the base model; so for the other adapter."""
    scale_2: float = real("Strength of the rendering adapter", 1.0, 0.0, 1.5, step=0.05, name="strength of adapter 2")
    depth_assist: bool = switch(
        "Depth assist",
        False,
        info="Before stage 1, raise the depth inside the mask to the nearest of its neighbourhood: for glass, mirrors and flat prints.",
    )
    fill_holes: bool = switch("Fill holes", True)
    variants: int = whole("Variants", 1, 1, 4, name="number of variants", info="Each from a seed of its own.")
    """Stage 2 from this many seeds, ``seed`` and those that follow it."""
    feather: int = whole("Soft edge of the composite, pixels", 2, 0, 32, name="feather")
    """Width of the composite's seam, pixels at working size, inside the changed area."""
    keep_depth: bool = switch(
        "Keep the depth outside the mask",
        True,
        name="keep depth",
        info="The paper says so; the authors’ code leaves it to the model.",
    )
    """Outside the mask the depth stays as it was: the paper's constraint, which the authors' code leaves to the model."""
    model_set: str = choice("Model set", "mini", flux.BASES, shown=False)
    preset: str = ""
    """How the model is held in memory; empty: the base's first."""

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
        exact = super().validated()
        if exact.preset:
            limits.choice("The preset", exact.preset, flux.BASES[exact.model_set].presets)
        return exact

    @property
    def seeds(self) -> list[int]:
        """The seed of each variant; after the largest comes 0."""
        return [(self.seed + number) % 2**31 for number in range(self.variants)]


@dataclass
class Request:
    """What a visitor asks for. ``image`` is RGB as :func:`open_picture` returns it; ``mask`` (H, W) has the image's size."""

    image: Image.Image | None
    mask: Mask | None
    settings: Settings = field(default_factory=Settings)
    depth_after: NDArray[numpy.floating] | None = None
    """Renders from this depth instead of stage 1's; [0, 1], in the normalisation of the depth before."""
    depth_before: NDArray[numpy.floating] | None = None
    """Instead of the estimate; [0, 1]."""
    truth: Pair | None = None
    """Of a rendered scene."""
    clean: Image.Image | None = None
    """The true picture without the object, where there is one and no ``truth``."""
    known_world: bool = False
    """A scene of ours without a truth for just this mask."""
    layered: Image.Image | None = None
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
    composites: list[Image.Image]
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
        return self.settings.seeds[: len(self.results)]


@dataclass(frozen=True, eq=False)
class Case:
    """A request at the model's size; see :func:`prepare`."""

    request: Request
    settings: Settings
    base: FillBase
    original: Image.Image
    """RGB; never changed."""
    image: Picture
    drawn: Mask
    """What the visitor drew; measurements are made outside of this."""
    mask: Mask
    """As the models see it: grown, filled."""
    full_mask: Mask
    """The same at the original's size."""
    depth_before: Depth | None
    depth_after: Depth | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def measured_size(self) -> tuple[int, int]:
        """(width, height) at which a composite is compared with the truth: its own, unless that is very large."""
        width, height = self.original.size
        return (width, height) if width * height <= MOST_MEASURED else self.size

    def clean(self, size: tuple[int, int]) -> Picture | None:
        """The true picture without the object at (width, height), where it is known."""
        if self.request.truth is not None:
            return at_size(Image.fromarray(self.request.truth.clean), size)
        return None if self.request.clean is None else at_size(self.request.clean, size)


def prepare(request: Request, masked: bool = True) -> Case:
    """Everything of a request that needs no model; unless ``masked``, its mask may be empty.

    Raises:
        ValueError: nothing to remove, sizes or formats that do not fit, settings outside their limits.
    """
    settings = request.settings.validated()
    base = flux.BASES[settings.model_set]
    if request.image is None:
        raise ValueError("There is no picture yet: load one, or roll a scene.")
    original = request.image.size
    full = numpy.zeros(original[::-1], bool) if request.mask is None else numpy.asarray(request.mask, bool)
    if masked and not full.any():
        raise ValueError("Paint over the object first: the mask is empty.")
    masks.check_format("mask", full.shape[::-1], original)
    if request.clean is not None:
        masks.check_format("picture of the truth", request.clean.size, original)
    size = base.working_size(original)
    drawn = masks.resized(full, size)
    if masked and not drawn.any():
        raise ValueError(
            f"The mask is smaller than a pixel at the model's size, {size[0]} x {size[1]}: brush a larger area."
        )
    filled, full = drawn, masks.resized(full, original)
    if settings.fill_holes:
        filled, full = masks.fill_holes(filled), masks.fill_holes(full)
    mask = masks.grow(filled, settings.grow)
    if masked and not mask.any():
        raise ValueError("Nothing of the mask is left after shrinking: shrink it less.")
    full = masks.grow(full, round(settings.grow * max(original[0] / size[0], original[1] / size[1])))
    return Case(
        request,
        settings,
        base,
        request.image,
        at_size(request.image, size),
        drawn,
        mask,
        full if full.any() else masks.resized(filled, original),
        given_depth.checked(request.depth_before, size, "depth before"),
        given_depth.checked(request.depth_after, size, "depth after"),
    )


MOST_MEASURED = 2**20
"""Pixels of the largest composite that is compared with its truth at its own size: the measures take some hundred bytes a pixel."""
DEPTH_BEFORE, DEPTH_AFTER, RESULT, FILL_ONLY = "Depth before", "Depth after", "Result", "Filled without geometry"
"""Stages, as :class:`pipelines.core.stages.Preview` names them."""


class GeoRemover:
    """The paper's stages on leased ``parts``, one after the other. Makes no lasting change to them."""

    def __init__(self, run: KeptRun[Settings], case: Case, **parts: object) -> None:
        from pipelines.georemover.stages import Stages

        self.stages = Stages(case.base, **parts)
        self.run, self.settings, self.case = run, run.settings, case
        run.say(*case.request.lost)

    def __call__(self) -> Outcome:
        """All stages, the composites and their measurements."""
        case, run = self.case, self.run
        before = self.estimate_depth()
        after, off_palette = self.remove_from_depth(before)
        rendered = [self.render(before, after, seed) for seed in self.settings.seeds]
        filled = self.fill_only() if case.request.compare else None
        through = run.kept("autoencoder", lambda: self.stages.through_vae(case.image), case.image)
        run.progress(0.97, "measuring")
        with run.stage("composite"):
            lights = [self.stages.light(case.image, one.result, through) for one in rendered]
        made = [self.compose(one.result, through, light) for one, light in zip(rendered, lights, strict=True)]
        composites = [self.with_transparency(*one) for one in made]
        with run.stage("metrics"):
            panels = [given_depth.panels_error(one.strip, after, before) for one in rendered]
            measured = [
                self.measure(one, picture, before, after, off_palette, off)
                for one, (picture, _changed), off in zip(rendered, made, panels, strict=True)
            ]
            flat = telea(case.image, case.mask)
            baselines = self.measure_baselines(flat, filled)
        for one, off, light in zip(rendered, panels, lights, strict=True):
            run.say(checks.warn_unstable(off), self.far_changes(one.result, through, light))
        run.say(
            checks.warn_enlarged(case.original.size, case.size),
            checks.warn_photograph(case.base, case.request.truth is not None or case.request.known_world),
        )
        return Outcome(
            settings=self.settings,
            image=case.image,
            mask=case.mask,
            depth_before=before,
            depth_after=after,
            results=[one.result for one in rendered],
            strips=[one.strip for one in rendered],
            composites=composites,
            changed=[changed for _picture, changed in made],
            fill_only=filled,
            telea=flat,
            metrics=measured,
            baselines=baselines,
            notes=run.notes,
            seconds={name: round(value, 3) for name, value in run.seconds.items()},
            models=[*run.models, *flux.adapter_facts(case.base.specs(self.settings.preset)[0])],
            off_palette=off_palette,
            original_size=case.original.size,
            depth_from=self.depth_from(before),
        )

    def geometry(self, removed: bool) -> Geometry:
        """The first half: the depth of the picture and, if ``removed``, stage 1."""
        before = self.estimate_depth()
        after = self.remove_from_depth(before)[0] if removed else None
        return Geometry(before, after, self.case.mask, self.run.notes)

    def estimate_depth(self) -> Depth:
        """D: the depth before, estimated or as it was given."""
        case, run, before = self.case, self.run, self.case.depth_before
        if before is None:
            raw = self.raw_depth(case.image)
            if flat := checks.warn_flat_depth(raw):
                raise ValueError(flat)
            before = depth_maps.normalised(raw)
        run.say(checks.warn_large_mask(case.mask), checks.warn_partial_mask(before, case.mask, case.image))
        if self.settings.depth_assist:
            before = given_depth.assisted(before, case.mask)
        run.finished(DEPTH_BEFORE, depth_maps.to_colours(before))
        return before

    def raw_depth(self, rgb: Picture) -> Depth:
        """Of any picture, as the network gives it."""
        return self.run.kept("depth", lambda: self.stages.raw_depth(rgb), rgb)

    def remove_from_depth(self, before: Depth) -> tuple[Depth, float | None]:
        """Stage 1, D' = F(D, M), and how far it lies off the palette; or the depth after as it was given."""
        case, run, settings = self.case, self.run, self.settings
        if case.depth_after is not None:
            run.say(checks.warn_unchanged_depth(before, case.depth_after, case.mask))
            return case.depth_after, None
        with run.steps(DEPTH_AFTER, settings.steps_1) as on_step:
            after, off_palette = run.kept(
                "stage 1",
                lambda: self.stages.remove_from_depth(before, case.mask, settings, on_step),
                before,
                case.mask,
                settings.seed,
                settings.steps_1,
                settings.guidance,
                settings.scale_1,
                settings.keep_depth,
            )
        run.say(checks.warn_off_palette(off_palette), checks.warn_unchanged_depth(before, after, case.mask))
        run.finished(DEPTH_AFTER, depth_maps.to_colours(after))
        return after, off_palette

    def render(self, before: Depth, after: Depth, seed: int) -> Rendered:
        """Stage 2, I' = the left third of R([I | D' | D])."""
        case, run, settings = self.case, self.run, dataclasses.replace(self.settings, seed=seed)
        with run.steps(RESULT, settings.steps_2, weight=2) as on_step:
            rendered = run.kept(
                "stage 2",
                lambda: self.stages.render(case.image, after, before, settings, on_step),
                case.image,
                before,
                after,
                settings.seed,
                settings.steps_2,
                settings.guidance,
                settings.scale_2,
            )
        run.finished(RESULT, rendered.result)
        return rendered

    def fill_only(self) -> Picture:
        """The mask filled by the base model without adapters, and pasted, as such tools do; ours is composed as well."""
        case, run, settings = self.case, self.run, self.settings
        steps = case.base.fill_steps(settings.steps_2)
        with run.steps(FILL_ONLY, steps) as on_step:
            filled = run.kept(
                "fill only",
                lambda: self.stages.fill_only(case.image, case.mask, settings, on_step),
                case.image,
                case.mask,
                settings.seed,
                steps,
                settings.guidance,
            )
        filled = numpy.where(case.mask[..., None], filled, case.image)
        run.finished(FILL_ONLY, filled)
        return filled

    def compose(self, result: Picture, through: Picture, light: Light | None) -> tuple[Image.Image, Mask]:
        """A result in the original, made as grainy, grey or soft as that is, and where it may differ."""
        case, original = self.case, self.case.original
        self.run.job.check()
        with self.run.stage("composite"):
            made, changed = composite.compose(
                original, result, case.image, case.full_mask, self.settings, through, light
            )
            pixels, before = numpy.asarray(made), numpy.asarray(original.convert("RGB"))
            like, notes = look.follow(
                pixels, before, changed, self.settings.seed, "filled part", "picture", own=False, bare=case.full_mask
            )
            self.run.say(*notes)
            return (Image.fromarray(like) if notes else made), changed

    def with_transparency(self, made: Image.Image, changed: Mask) -> Image.Image:
        """A composite with what was transparent in the original."""
        if self.case.request.layered is None:
            return made
        self.run.say(checks.TRANSPARENT)
        return transparency.put_back(made, changed, self.case.request.layered, self.case.full_mask)

    def far_changes(self, result: Picture, through: Picture, light: Light | None) -> str | None:
        """The sentence about changes that have nothing to do with the object."""
        pair = composite.what_changed(result, self.case.image, through, light)
        return checks.warn_far_changes(composite.change_areas(*pair, self.case.mask)[1])

    def measure(
        self, one: Rendered, made: Image.Image, before: Depth, after: Depth, off_palette: float | None, panels: float
    ) -> dict[str, Any]:
        """The measures of a variant and its composite: against the truth where it is known, else the self-checks only."""
        case, clean = self.case, self.case.clean(self.case.size)
        known = metrics.self_checks(case.image, one.result, case.mask, before, after, off_palette, panels)
        if clean is None:
            return {"truth": False, **known}
        scores = {"truth": True, **known, **self.against(one.result, clean)}
        scores["composite"] = self.against_whole(made)
        if case.request.truth is not None:
            scores["depth"] = _depth_error(case.request.truth, after, before, case.drawn, case.size)
        return scores

    def measure_baselines(self, flat: Picture, filled: Picture | None) -> dict[str, dict[str, Any]]:
        """The measures of fills without geometry, where the truth is known."""
        case, clean = self.case, self.case.clean(self.case.size)
        others = {"telea": flat} | ({} if filled is None else {"fill_only": filled})
        if clean is None:
            return {}
        found = {name: self.against(picture, clean) for name, picture in others.items()}
        if case.measured_size != case.size:  # as our composites are
            for name, picture in others.items():
                whole = composite.pasted(case.original, picture, case.full_mask)
                found[name] |= {k: v for k, v in self.against_whole(whole).items() if k != "inserted"}
        return found

    def against(self, result: Picture, clean: Picture) -> dict[str, Any]:
        """Measures against the truth, with the depth network's view of both."""
        seen, true = self.raw_depth(result), self.raw_depth(clean)
        depths = depth_maps.normalised(seen, true), depth_maps.normalised(true)
        return metrics.against_truth(self.case.image, result, clean, self.case.drawn, *depths)

    def against_whole(self, made: Image.Image) -> dict[str, Any]:
        """Measures of a picture as large as the original, against the truth at that size."""
        case, size = self.case, self.case.measured_size
        clean, drawn = case.clean(size), masks.resized(numpy.asarray(case.request.mask, bool), size)
        assert clean is not None
        return metrics.against_truth(at_size(case.original, size), at_size(made, size), clean, drawn)

    def depth_from(self, before: Depth) -> str:
        """As :attr:`Outcome.depth_from`."""
        if self.case.depth_after is None:
            return "stage 1"
        return "unchanged" if numpy.array_equal(self.case.depth_after, before) else "given"


def _depth_error(truth: Pair, after: Depth, before: Depth, mask: Mask, size: tuple[int, int]) -> dict[str, float]:
    """Mean error of the depth after in the mask, and what it would be if nothing had been removed, against the renderer."""
    true, untouched = (cv2.resize(d, size, interpolation=cv2.INTER_AREA) for d in (truth.depth_clean, truth.depth))
    return {
        "error": float(numpy.abs(after - true)[mask].mean()),
        "untouched": float(numpy.abs(untouched - true)[mask].mean()),
    }


def generate(job: Job, registry: Registry, request: Request, cache: Cache | None = None) -> Outcome:
    """Both stages, the comparison if asked for, composites and measurements; called on the lane's thread.

    Emits progress and previews, and ends within one denoising step when the job is stopped; stages that are finished by then stay
    in ``cache``, and none is run whose inputs are known there.

    Raises:
        ValueError: nothing to remove, a picture that is too small, a depth map without depth, settings outside their limits,
            weights that cannot be had.
        MemoryError: the stage that did not fit, and what to choose instead.
    """
    case = prepare(request)
    settings = case.settings
    filling = case.base.fill_steps(settings.steps_2) if request.compare else 0
    stage_1 = settings.steps_1 if case.depth_after is None else 0
    total = stage_1 + 2 * settings.steps_2 * settings.variants + filling
    return _run(KeptRun(job, registry, settings, cache), case, total, GeoRemover.__call__)


def geometry(
    job: Job, registry: Registry, request: Request, cache: Cache | None = None, removed: bool = True
) -> Geometry:
    """What :func:`generate` begins with, and no more: the depth of the picture and, if ``removed``, the depth without the object.

    Without ``removed`` there need not be a mask. Raises as :func:`generate` does.
    """
    case = prepare(request, masked=removed)
    run = KeptRun(job, registry, case.settings, cache)
    return _run(run, case, case.settings.steps_1, lambda georemover: georemover.geometry(removed))


def _run(run: KeptRun[Settings], case: Case, total: float, stages: Callable[[GeoRemover], T]) -> T:
    """``stages`` of a run of ``total`` steps around leased parts."""
    base, preset = case.base, case.settings.preset
    weights = tuple(sorted(value for spec in base.parts for value in spec.sha256.values()))

    def work(**parts: object) -> T:
        run.begin(total, base.name, base.parts[0].key, preset, weights)
        return stages(GeoRemover(run, case, **parts))

    try:
        return run.lease(base.named(preset), work, loading=base.title, unnamed=("scheduler", "prompt"))
    except MemoryError as error:
        raise checks.out_of_memory(run.current, base, preset, error) from error.__cause__
    except (FileNotFoundError, ConnectionError) as error:
        message = flux.access_message(error)
        if message is None or base.name == "mini":
            raise
        raise checks.NoWeights(message) from error


def without_weights(request: Request) -> tuple[Picture, Picture]:
    """The picture at working size, and the same with the mask filled by Telea: all that can be shown without any weights."""
    case = prepare(request)
    return case.image, telea(case.image, case.mask)
