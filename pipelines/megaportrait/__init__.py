"""MegaPortrait (arXiv 2411.04357) in its published outline: a person goes into a reference portrait, in its pose, light, clothes and place.

Of the paper only the outline is public to us: Identity Net (a model fine-tuned on the person's pictures, ``pipelines/megaportrait/person.py``),
Shading Net (:meth:`MegaPortrait.shade`: the identity's structure, the reference's light), paste, Harmonization Net
(:meth:`MegaPortrait.harmonise`: only the ring around the pasted face). All three are one SDXL, the registry's shared one, with
ControlNets and a LoRA; the full set's instant mode shows it the person by IP-Adapter instead. This is an unofficial re-creation: every number is ours, after EasyPhoto and FaceChain where those say one.
Not to be confused with MegaPortraits (2022, head avatars).

:func:`portrait` runs everything for the page, with each stage kept in a ``Cache`` by its inputs. Outside the mask of a result every
pixel is the reference's. Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool, points (5, 2) in pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import asset_files, geometry, images, limits, masks, transparency, troubles
from pipelines.core.geometry import Alpha, Crop, Face, Mask, Picture
from pipelines.core.paper import Paper
from pipelines.core.stages import Cache, Preview, Stored, keeping
from pipelines.megaportrait import intake, paste
from pipelines.megaportrait import metrics as portrait_metrics
from pipelines.megaportrait import person as portrait_person
from pipelines.megaportrait.intake import Photo
from pipelines.megaportrait.person import FaceTools, Person, points_of
from pipelines.models import control_maps, controlnets, look, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import ModelSpec, Registry
    from pipelines.worlds.portrait import Portrait

    Look = tuple[Mapping[str, Mapping[str, Any]], Any]
    """IP-Adapter's two state dicts, and what its encoder saw (``controlnets.look_of``)."""

__all__ = [
    "EXAMPLES", "PAPER", "Analysis", "Cache", "Candidate", "MegaPortrait", "Outcome", "Preview", "Recipe", "Request", "Settings",
    "analyse", "facts", "keeping", "measured", "portrait", "save_result", "save_zip", "specs",
]  # fmt: skip

PAPER = Paper(
    title="MegaPortrait: Revisiting Diffusion Control for High-fidelity Portrait Generation",
    authors=("Han Yang", "Sotiris Anagnostidis", "Enis Simsar", "Thomas Hofmann"),
    venue="arXiv, 2024",
    url="https://arxiv.org/abs/2411.04357",
    idea=(
        "A portrait of a person in the style of another picture is made in three steps that each do one thing: learn the person, "
        "give the face the other picture's light, and melt it into the other picture's body."
    ),
    ours=(
        "An unofficial re-creation from the abstract: the settings are ours, as are the code, the small ControlNets and face models, "
        "the rendered people with their exact truth, and the measurements."
    ),
    theirs="The outline: Identity Net, Shading Net, Harmonization Net, each steered by ControlNets. Their settings are not public.",
    licence="Code and embedded weights Apache-2.0; Stable Diffusion XL is openrail++, its ControlNets Apache-2.0 or openrail++.",
)

TAB = "MegaPortrait"
MODES: dict[str, str] = {
    "preview": "Preview without AI models",
    "instant": "Instant, without training",
    "trained": "Trained person",
    "single": "Trained person, Identity and Shading in one pass",
}
REGIONS: dict[str, str] = {"head": "Head with hair and neck", "face": "Face only"}
STARTS: dict[str, str] = {"reference": "The reference's face", "pasted": "The person's nearest picture, pasted"}

REFERENCE, IDENTITY, SHADED, PASTED, RING, HARMONISED = (
    "Reference", "Identity", "Shaded", "Pasted", "Ring mask", "Harmonised"
)  # fmt: skip
"""Stages, as :class:`Preview` and :attr:`Candidate.stages` name them."""

SKIN = 0.1
"""Share of the face that has to be plain skin for light to be measured on it."""
WIDE = {"mini": 1.25, "full": 1.0}
"""Sides of the reference's square by those of a person's crop: at the same scale, so that hair of any length lies within. The full set, which
replaces faces and no heads, has no need of it."""
EDGE = 0.09
"""The soft edge of a head, in widths of the face: it goes with the head."""
BEND = 0.08
"""Farther than this share of the crop no point is moved by bending: the heads are turned too differently."""
RIM = 0.12
"""What is pasted reaches so far beyond the head, in widths of the face: its soft edge must not let the reference's hair through."""
WIDER = 0.22
"""The Identity Net may paint so much further than the reference's face, in its widths: a person's may be rounder."""
HEAD = ("hair", "neck")
"""Labels of the parser that make up a head, with those of its face."""


@dataclass(frozen=True)
class Recipe:
    """A rendered person and a rendered reference of somebody else, from seeds; the truth comes along."""

    person: int
    reference: int
    title: str = ""

    PICTURES: ClassVar[int] = 5
    SIZE: ClassVar[tuple[int, int]] = (192, 160)
    """Height and width of the reference. The person's pictures are 160 x 160."""

    def pictures(self, count: int = PICTURES) -> list[tuple[str, Picture]]:
        """(name, picture) pairs of the person, in different shots."""
        from pipelines.worlds import portrait as heads

        someone = heads.sample_identity(self.person)
        taken = [heads.Portrait(someone, heads.sample_shot(100 * self.person + shot)) for shot in range(count)]
        return [(f"picture {number}", rendered(one, (160, 160))) for number, one in enumerate(taken, 1)]

    def host(self) -> Portrait:
        """Who is in the reference, and how it was taken."""
        from pipelines.worlds import portrait as heads

        return heads.sample(self.reference)

    def picture(self) -> Picture:
        """The reference."""
        return rendered(self.host(), self.SIZE)

    def truth(self) -> Portrait:
        """The person in the reference's shot: what a perfect result shows."""
        from pipelines.worlds import portrait as heads

        return heads.relit(heads.Portrait(heads.sample_identity(self.person), self.host().shot), self.host().shot)


def rendered(someone: Portrait, size: tuple[int, int]) -> Picture:
    """A rendered portrait of (height, width)."""
    from pipelines.worlds import portrait as heads

    return numpy.asarray(images.to_pil(heads.render([someone], size).image)[0])


EXAMPLES: tuple[Recipe, ...] = (
    Recipe(11, 203, "From one light to another"),
    Recipe(24, 207, "No beard where there was one"),
    Recipe(35, 212, "Another skin tone, another head"),
    Recipe(46, 221, "Glasses come along"),
    Recipe(57, 230, "A head that is turned away"),
    Recipe(68, 238, "Two of the same hair colour"),
)
"""People and references that no model was trained on."""


# ------------------------------------------------------------------------------------------ settings


PUBLISHED: dict[str, float] = {
    "identity_strength": 0.55, "identity_guidance": 6.0, "identity_lora": 0.9, "shading_lora": 0.8, "line": 0.5, "line_end": 0.6, "colour": 0.5, "colour_end": 0.6,
    "shading_strength": 0.35, "shading_guidance": 6.0, "shading_line": 0.6, "shading_line_end": 0.8, "shading_map": 0.5,
    "shading_map_end": 0.6, "harmonise_guidance": 5.0, "harmonise_smooth": 0.0, "detail": 0.0, "core_back": 0.25,
    "erode": paste.ERODE, "feather": paste.FEATHER,
}  # fmt: skip
"""What sets the full set apart: after EasyPhoto and FaceChain, where those say a number; not tried by us."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run but the person and the reference; the same settings give the same pictures, byte for byte, on
    the same machine. Strengths are shares of the steps: 0.55 of 20 steps runs 11. The defaults are the small set's, found on its validation
    people: it draws a head worse than the person's own picture shows it, so little is painted and fine detail is given back. The full
    set's are in :data:`PUBLISHED`."""

    mode: str = "trained"
    seed: int = 0
    candidates: int = 2
    """From ``seed`` and those that follow it."""
    region: str = "head"
    start: str = "pasted"
    """What the Identity Net begins with, under its noise. EasyPhoto begins with the person's face in the template, too: from the
    reference's own face, its skin colour comes through at every strength below 1."""

    identity_strength: float = 0.1
    identity_steps: int = 20
    identity_guidance: float = 1.5
    identity_lora: float = 1.0
    landmarks: float = 0.5
    line: float = 1.0
    line_end: float = 1.0
    colour: float = 0.8
    colour_end: float = 0.8
    """Lines and blurred colours are those of what the net begins with, as in EasyPhoto's first pass: of the reference's own
    they would bring its face along. They are followed up to these shares of the steps."""

    shading_transfer: float = 0.6
    """How far the smooth light of the identity image goes to the reference's before the Shading Net; no network."""
    own_tone: float = 1.0
    """How far the person's skin keeps its own mean tone meanwhile: 0 takes the reference's, 1 only how light falls on it."""
    shading_strength: float = 0.13
    shading_steps: int = 16
    shading_guidance: float = 1.5
    shading_lora: float = 1.0
    shading_line: float = 1.0
    shading_line_end: float = 1.0
    shading_map: float = 0.8
    shading_map_end: float = 1.0

    erode: float = 0.02
    feather: float = 0.03
    poisson: bool = False

    harmonise_strength: float = 0.30
    harmonise_steps: int = 14
    harmonise_guidance: float = 1.5
    harmonise_lora: float = 0.6
    harmonise_line: float = 0.8
    harmonise_map: float = 0.8
    harmonise_smooth: float = 0.1
    """Only what the net changes more smoothly than this share of the face's width is taken: colours and light, not its grain. 0 takes all."""
    detail: float = 1.0
    """Share of what the autoencoder alone loses of a stage's picture that is given back to what the net painted (FaceChain's detail restoring)."""
    core_back: float = 1.0
    """Share of the pasted face that is mixed back into the core after harmonising."""

    adapter_scale: float = 0.6
    """Of IP-Adapter, in the full set's instant mode only (EasyPhoto: 0.6 without a LoRA)."""

    no_identity: bool = False
    """For comparison: without the trained person."""
    no_shading: bool = False
    no_harmonisation: bool = False
    model_set: str = "mini"
    preset: str = ""
    """How the model set is held in memory, of ``portrait_person.PRESETS``; empty: the first."""

    SEED: ClassVar[tuple[int, int]] = (0, 2**31 - 1)
    CANDIDATES: ClassVar[tuple[int, int]] = (1, 4)
    STEPS: ClassVar[tuple[int, int]] = (1, 60)
    GUIDANCE: ClassVar[tuple[float, float]] = (1.0, 12.0)
    UNIT: ClassVar[tuple[float, float]] = (0.0, 1.0)
    LORA: ClassVar[tuple[float, float]] = (0.0, 1.5)
    END: ClassVar[tuple[float, float]] = (0.05, 1.0)
    ERODE: ClassVar[tuple[float, float]] = (0.0, 0.15)
    FEATHER: ClassVar[tuple[float, float]] = (0.0, 0.15)
    SAFE: ClassVar[dict[str, tuple[float, float]]] = {
        "identity_strength": (0.05, 0.90), "shading_transfer": (0.0, 1.0), "shading_strength": (0.05, 0.50),
        "harmonise_strength": (0.15, 0.45),
    }  # fmt: skip
    """What the page's main sliders offer; 0 and more than these are accepted, for experiments."""

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Settings:
        """The defaults of a model set, or its faster preset: one candidate and fewer steps."""
        limits.choice("Model set", model_set, sdxl.BASES)
        steps = (20, 16, 14) if model_set == "mini" else (30, 24, 20)
        if fast:
            steps = (12, 9, 7) if model_set == "mini" else (16, 12, 10)
        made = cls(model_set=model_set, candidates=1 if fast else 2)
        if model_set == "full":
            made = dataclasses.replace(made, region="face", **PUBLISHED)
        names = ("identity_steps", "shading_steps", "harmonise_steps")
        return dataclasses.replace(made, **dict(zip(names, steps, strict=True)))

    def validated(self) -> Settings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        limits.choice("The mode", self.mode, MODES)
        limits.choice("The region", self.region, REGIONS)
        limits.choice("The start", self.start, STARTS)
        limits.choice("Model set", self.model_set, sdxl.BASES)
        if self.preset:
            limits.choice("The preset", self.preset, portrait_person.PRESETS[self.model_set])
        exact: dict[str, Any] = {}
        for name, bounds in self._bounds().items():
            whole = bounds in (self.SEED, self.CANDIDATES, self.STEPS)
            value = limits.number(name.replace("_", " "), getattr(self, name), *bounds, whole=whole)
            exact[name] = int(value) if whole else float(value)
        for name in ("poisson", "no_identity", "no_shading", "no_harmonisation"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                shown = name.replace("_", " ")
                raise ValueError(
                    f"The switch {shown} is {limits.described(value)} but must be on or off: send true or false."
                )
        return dataclasses.replace(self, **exact)

    @classmethod
    def _bounds(cls) -> dict[str, tuple[float, float]]:
        named = {"seed": cls.SEED, "candidates": cls.CANDIDATES, "erode": cls.ERODE, "feather": cls.FEATHER}
        for one in dataclasses.fields(cls):
            kinds = {
                "_steps": cls.STEPS, "_guidance": cls.GUIDANCE, "_lora": cls.LORA, "_end": cls.END, "_strength": cls.UNIT,
            }  # fmt: skip
            found = next((bounds for end, bounds in kinds.items() if one.name.endswith(end)), None)
            if found:
                named[one.name] = found
        unit = (
            "landmarks",
            "line",
            "colour",
            "detail",
            "shading_transfer",
            "own_tone",
            "shading_line",
            "shading_map",
            "harmonise_line",
            "harmonise_map",
            "harmonise_smooth",
            "adapter_scale",
        )
        return named | dict.fromkeys((*unit, "core_back"), cls.UNIT)

    @property
    def looks(self) -> bool:
        """Whether IP-Adapter shows the person to the model."""
        return self.model_set == "full" and self.mode == "instant" and self.adapter_scale > 0 and not self.no_identity

    def effective(self) -> dict[str, int]:
        """Steps that each net really takes, per candidate."""
        if self.mode == "preview":
            return {IDENTITY: 0, SHADED: 0, HARMONISED: 0}
        second = not self.no_shading and self.mode != "single"
        return {
            IDENTITY: effective_steps(self.identity_steps, self.identity_strength),
            SHADED: effective_steps(self.shading_steps, self.shading_strength) if second else 0,
            HARMONISED: 0 if self.no_harmonisation else effective_steps(self.harmonise_steps, self.harmonise_strength),
        }


def effective_steps(steps: int, strength: float) -> int:
    """What diffusers makes of both: image-to-image runs the last part of the steps only."""
    return min(int(steps * strength), steps)


# ---------------------------------------------------------------------------------- what is asked, what comes


@dataclass
class Request:
    """What a visitor asks for."""

    reference: Image | Picture | None
    person: Person | None = None
    """A trained or gathered person; without one, ``pictures``."""
    pictures: Sequence[tuple[str, Picture]] = ()
    """(name, picture) pairs, for a preview or the instant mode without a saved person."""
    settings: Settings = field(default_factory=Settings)
    face: int | None = None
    """Which face of the reference, from the left, from 0; None: the largest."""
    box: tuple[float, float, float, float] | None = None
    """A face box drawn by the visitor (left, top, width, height in pixels of the reference), instead of a detector's."""
    truth: Portrait | None = None
    """Of rendered people: the person in the reference's shot."""
    rendered: bool = False
    """All pictures are of our own rendered people: no consent is needed."""
    consent: bool = False
    layered: Image | None = None
    """``reference`` with its transparency (``images.Opened``): the results get it back."""
    lost: Sequence[str] = ()
    """Sentences about what the reference's file has and no result can give back."""
    glasses: bool = False
    """The visitor says that most of the person's pictures show glasses; of rendered people it is read from them."""


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
    ring: Mask
    attributes: dict[str, str]
    """What the verifier reads from it; empty without one."""
    embedding: NDArray[numpy.float32] | None
    notes: list[str]
    model_set: str = "mini"

    @property
    def face(self) -> Face:
        return self.faces[self.chosen]

    @property
    def reach(self) -> Mask:
        """Where the Identity Net may paint."""
        return masks.grow(self.core, max(1, round(WIDER * self.width)))

    def maps(self, *roles: str) -> dict[str, Picture]:
        """Control maps of the square, as the model set's ControlNets of these roles read them."""
        return {role: self.map_of(role, self.square) for role in roles}

    def map_of(self, role: str, picture: Picture) -> Picture:
        """The map of another picture of the square's size."""
        return control_map(controls(self.model_set)[role].reads, picture, self.points, self.width)


@dataclass
class Candidate:
    """One result and how it came about."""

    seed: int
    result: Image
    """As large as the reference; RGBA where that is transparent somewhere."""
    changed: Mask
    """Pixels of the result that may differ from the reference; all others are equal."""
    stages: dict[str, Picture]
    """Stage -> square; a stage that was left out is missing."""
    core: Mask
    """What was pasted, in the square."""
    metrics: dict[str, Any]
    """JSON-able: identity, seam, light, and the truth where it is known."""

    @property
    def identity(self) -> float | None:
        """Mean similarity to the person's pictures."""
        return self.metrics["identity"]["result"]["mean"]


@dataclass
class Outcome:
    """A finished run; the candidate that is most like the person comes first."""

    settings: Settings
    person: str
    analysis: Analysis
    candidates: list[Candidate]
    steps: dict[str, int]
    """Steps that each net took per candidate."""
    notes: list[str]
    seconds: dict[str, float]
    """Per stage; 0 for what came from the cache."""
    models: list[dict[str, str]]
    truth: Picture | None = None
    controls: dict[str, Picture] = field(default_factory=dict)
    """Control maps of the reference's square."""
    layered: Image | None = None
    """The reference with its transparency, if it has any."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """Of the request's pictures: name, whether it was used, why not, and notes; empty with a saved person."""

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def to_pil(pixels: Picture) -> Image:
    from PIL import Image as Images

    return Images.fromarray(numpy.ascontiguousarray(pixels))


def control_map(
    reads: str, picture: Picture, points: NDArray[numpy.floating] | None = None, width: float | None = None
) -> Picture:
    """``controlnets.control_map``."""

    return controlnets.control_map(reads, picture, points, width)


# -------------------------------------------------------------------------------------------- models


def controls(model_set: str, preset: str = "") -> dict[str, controlnets.Control]:
    """The ControlNets that a run leases: role -> ControlNet."""

    found = {role: controlnets.CONTROLS[model_set][role] for role in ("landmarks", "line", "shading")}
    if not portrait_person.preset_of(model_set, preset).offload:
        return found
    return {role: dataclasses.replace(one, spec=controlnets.offloaded(one.spec)) for role, one in found.items()}


def specs(
    model_set: str, mode: str = "trained", preset: str = "", faces: Sequence[ModelSpec] | None = None
) -> tuple[ModelSpec, ...]:
    """The parts that a run leases: the base model's, the ControlNets, the face models, for our own world the verifier, and for the
    full set's instant mode IP-Adapter. ``faces``: the face models that can be had, by default all."""
    faces = portrait_person.face_specs(model_set) if faces is None else faces
    reader = portrait_person.reader_specs(model_set)
    if mode == "preview":
        return tuple(faces)
    nets = (control.spec for control in controls(model_set, preset).values())
    return (*sdxl.BASES[model_set].parts, *nets, *faces, *reader, *look_specs(model_set, mode)[:1])


def look_specs(model_set: str, mode: str) -> tuple[ModelSpec, ...]:
    """IP-Adapter and its image encoder, which is leased alone, before the rest."""

    return (controlnets.IP_ADAPTER, controlnets.IP_ENCODER) if model_set == "full" and mode == "instant" else ()


def download(model_set: str) -> str:
    """What choosing ``model_set`` fetches before its first picture, in words; empty where everything is shipped."""

    base = sdxl.BASES[model_set].download
    if not base:
        return ""
    nets = sum(control.spec.bytes for control in controls(model_set).values())
    faces = sum(spec.bytes for spec in portrait_person.face_specs(model_set))
    look = sum(spec.bytes for spec in look_specs(model_set, "instant"))
    return (
        f"{base}; three ControlNets are {portrait_person.in_words(nets)} more, the models that find and know faces "
        f"{portrait_person.in_words(faces)}, and the instant mode's IP-Adapter {portrait_person.in_words(look)}"
    )


@dataclass(frozen=True)
class Hint:
    """A ControlNet's part in a stage: which, its map, how much, and between which shares of the steps."""

    role: str
    map: Picture
    weight: float
    end: float = 1.0


OnStep = Callable[[int, int, Callable[[], Picture]], None]
"""Called after each step with its number, the number of steps, and a function that makes a picture of it."""


def _silent(step: int, steps: int, look: Callable[[], Picture]) -> None:
    return None


class BlackPicture(ValueError):
    """A safety filter hid the result, or half precision overflowed: nothing that could be shown."""


class MegaPortrait:
    """The three nets around leased parts. Makes no lasting change to them."""

    def __init__(self, parts: Sequence[Any], nets: Mapping[str, Any]) -> None:
        """``parts`` in the order of ``sdxl.PARTS``; ``nets``: role -> ControlNet, which may be ``flux_fill.Offloaded``."""
        from pipelines.core.offload import Offloaded

        self.parts = dict(zip(sdxl.PARTS, parts, strict=True))
        self.unet, self.vae = self.parts["unet"], self.parts["vae"]
        device = self.unet.device
        self.nets = {role: net.on(device) if isinstance(net, Offloaded) else net for role, net in nets.items()}
        self._text = sdxl.build(parts)
        self._seen: Any = None

    @contextlib.contextmanager
    def looking_at(self, look: Look | None, scale: float) -> Iterator[None]:
        """Inside the block the UNet also attends to pictures of a face, by IP-Adapter; afterwards it is as before, to the byte."""
        from pipelines.core.patching import frozen
        from pipelines.core.registry import LOAD_LOCK

        if look is None:
            yield
            return
        weights, seen = look
        kind = self.unet.config.encoder_hid_dim_type
        with frozen(self.unet):  # puts back the attention processors and the projection
            try:
                with LOAD_LOCK:  # diffusers builds the new layers without memory, for the whole process
                    self.unet._load_ip_adapter_weights([weights])
                self._text.set_ip_adapter_scale(scale)
                self._seen = seen.to(self.unet.device, self.unet.dtype)
                yield
            finally:
                self._seen = None
                self.unet.config.encoder_hid_dim_type = kind

    @contextlib.contextmanager
    def wearing(self, person: Person | None) -> Iterator[None]:
        """Inside the block the UNet wears the person's LoRA, at the strength of each stage; afterwards it is as before, to the byte.

        Raises:
            ValueError: the person was trained for another model.
        """
        from pipelines.core.patching import adapter

        if person is None or not person.trained:
            yield
            return
        portrait_person.check_adapter(self.unet, person)
        with adapter(self.unet, person.adapter):
            yield

    def identify(
        self, start: Picture, mask: Mask, prompt: str, hints: Sequence[Hint], settings: Settings, seed: int,
        on_step: OnStep = _silent,
    ) -> Picture:  # fmt: skip
        """The person's face in the reference's pose: ``start`` painted anew inside ``mask``."""
        self._worn_at(settings.identity_lora)
        steps = settings.identity_strength, settings.identity_steps, settings.identity_guidance
        return self._paint(start, mask, prompt, hints, *steps, seed, on_step, settings.detail)

    def shade(
        self, face: Picture, prompt: str, hints: Sequence[Hint], settings: Settings, seed: int, on_step: OnStep = _silent
    ) -> Picture:  # fmt: skip
        """The whole square again, with the structure of one map and the light of another."""
        self._worn_at(settings.shading_lora)
        steps = settings.shading_strength, settings.shading_steps, settings.shading_guidance
        return self._paint(face, None, prompt, hints, *steps, seed, on_step, settings.detail)

    def harmonise(
        self, composite: Picture, ring: Mask, prompt: str, hints: Sequence[Hint], settings: Settings, seed: int,
        on_step: OnStep = _silent,
    ) -> Picture:  # fmt: skip
        """The composite with its ring painted anew."""
        self._worn_at(settings.harmonise_lora)
        steps = settings.harmonise_strength, settings.harmonise_steps, settings.harmonise_guidance
        return self._paint(composite, ring, prompt, hints, *steps, seed, on_step, settings.detail)

    def _worn_at(self, scale: float) -> None:
        names = list(getattr(self.unet, "peft_config", {}))
        if names:
            self.unet.set_adapters(names, [scale] * len(names))

    def _pipe(self, kind: str, nets: Sequence[Any]) -> Any:
        from diffusers.models import MultiControlNetModel

        return sdxl.build(list(self.parts.values()), f"ControlNet{kind}", controlnet=MultiControlNetModel(list(nets)))

    def _paint(
        self, picture: Picture, mask: Mask | None, prompt: str, hints: Sequence[Hint], strength: float, steps: int,
        guidance: float, seed: int, on_step: OnStep, detail: float = 0.0,
    ) -> Picture:  # fmt: skip
        """Image-to-image, or with a mask inpainting: ``picture`` itself where no step is left or nothing is masked."""
        import torch

        count = effective_steps(steps, strength)
        if not count or (mask is not None and not mask.any()):
            return picture.copy()
        used = [hint for hint in hints if hint.weight > 0] or [dataclasses.replace(hints[0], weight=0.0)]
        pipe = self._pipe("Img2Img" if mask is None else "Inpaint", [self.nets[hint.role] for hint in used])
        picture_of = portrait_person.watched(pipe)
        height, width = picture.shape[:2]

        def after(_pipe: Any, step: int, _level: Any, given: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, count, lambda: picture_of(given["latents"]))
            return given

        masked = {} if mask is None else {"mask_image": to_pil(mask.astype(numpy.uint8) * 255)}
        if self._seen is not None:
            masked["ip_adapter_image_embeds"] = [self._seen if guidance > 1 else self._seen[1:]]
        dtype = self.vae.dtype
        try:
            with torch.inference_mode():
                positive, negative, pooled, negative_pooled = self._embedded(prompt)
                drawn = pipe(
                    prompt_embeds=positive, negative_prompt_embeds=negative, pooled_prompt_embeds=pooled,
                    negative_pooled_prompt_embeds=negative_pooled, image=to_pil(picture), **masked,
                    control_image=[to_pil(hint.map) for hint in used], height=height, width=width, strength=strength,
                    num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed),
                    controlnet_conditioning_scale=[hint.weight for hint in used],
                    control_guidance_start=[0.0] * len(used), control_guidance_end=[hint.end for hint in used],
                    output_type="pt", callback_on_step_end=after,
                ).images.float()  # fmt: skip
        finally:
            # SDXL's autoencoder is cast up for decoding; a run that ends in between must not leave it so for the next.
            if self.vae.dtype != dtype:
                self.vae.to(dtype)
        if not torch.isfinite(drawn).all() or float(drawn.max()) < intake.BLACK:
            raise BlackPicture("The model returned a black picture: try another seed, or lower the guidance.")
        return self._with_detail(numpy.asarray(images.to_pil(drawn)[0]), picture, detail)

    def _with_detail(self, painted: Picture, before: Picture, share: float) -> Picture:
        """``painted`` with a share of what the autoencoder alone loses of ``before``; without it each net would blur the picture again."""
        import torch

        if not share:
            return painted
        with torch.inference_mode():
            lost = before.astype(numpy.float32) - portrait_person.decode(
                self.vae, portrait_person.encode(self.vae, before)
            )
        return numpy.clip(numpy.rint(painted + share * lost), 0, 255).astype(numpy.uint8)

    def _embedded(self, prompt: str) -> tuple[Any, Any, Any, Any]:
        return self._text.encode_prompt(prompt, device=self.unet.device, do_classifier_free_guidance=True)


# -------------------------------------------------------------------------------------------- stages


def lips_and_eyes(points: NDArray[numpy.floating], shape: tuple[int, int]) -> Mask:
    """Ellipses around mouth and eyes: their colours are the person's, whatever the light."""
    marks = geometry.five(points)
    apart = float(numpy.linalg.norm(marks[1] - marks[0]))
    roll = geometry.roll_of(marks)
    canvas = numpy.zeros(shape, numpy.uint8)
    mouth, wide = marks[3:5].mean(0), float(numpy.linalg.norm(marks[4] - marks[3]))
    for middle, axes in (
        (mouth, (0.62 * wide, 0.2 * wide)), (marks[0], (0.24 * apart, 0.18 * apart)), (marks[1], (0.24 * apart, 0.18 * apart)),
    ):  # fmt: skip
        centre, radii = (float(middle[0]) - 0.5, float(middle[1]) - 0.5), (2 * axes[0], 2 * axes[1])
        cv2.ellipse(canvas, (centre, radii, roll), 1, -1)
    return canvas.astype(bool)


def regions_in(tools: FaceTools, square: Picture, face: Face, points: NDArray[numpy.floating]) -> tuple[Mask, Mask]:
    """(head, face) masks of a square around a face: the parser's parts, or without it the oval that the points suggest."""
    side = square.shape[1]
    seen = tools.parts(square, (side / 2, side / 2)) if face.backend == portrait_person.PARSED else None
    if seen is not None and seen.core.any():
        own = paste.core_of(seen.core)
        head = own | numpy.logical_or.reduce([seen.parts[name] for name in HEAD])
        whole = paste.core_of(head | tools.hair(square))
        return whole if (whole & own).any() else own, own
    oval = control_maps.face_oval((side, square.shape[0]), points=points)
    return oval, oval


def study(
    tools: FaceTools, picture: Picture, settings: Settings, face: int | None = None,
    box: tuple[float, float, float, float] | None = None, verifier: Any = None,
) -> Analysis:  # fmt: skip
    """Everything about a reference that the nets need.

    Raises:
        ValueError: no face, one that is too small, a chosen one that is not there, a drawn box without area.
    """
    faces = tuple(intake.numbered(tools.faces(picture)))
    if box is not None:
        faces, face = (Face(tuple(map(float, box)), None, 1.0, DRAWN),), 0
    photo = Photo("the reference", picture, faces)
    verdict = intake.judge(photo, portrait_person.BARS[settings.model_set], reference=True, chosen=face)
    if not verdict.used or verdict.face is None:
        raise ValueError(verdict.reason[:1].upper() + verdict.reason[1:])
    chosen = faces.index(verdict.face)
    wide = WIDE[settings.model_set]
    side = round(wide * portrait_person.side_of(settings.model_set, settings.preset))
    crop = portrait_person.crop_of(
        picture.shape[1::-1], verdict.face, side, wide * portrait_person.FRAMING[settings.model_set]
    )
    square, points = crop.cut(picture), crop.there(points_of(verdict.face))
    width = verdict.face.box[2] * crop.scale
    head, own = regions_in(tools, square, verdict.face, points)
    core = head if settings.region == "head" else own
    read = portrait_person.read_attributes(verifier, [square])[0] if verifier is not None else {}
    notes = list(verdict.notes)
    if settings.region == "head" and verdict.face.backend != portrait_person.PARSED:
        notes.append("Hair and neck are told apart in rendered portraits only: the face alone is replaced.")
    return Analysis(
        picture, faces, chosen, crop, square, points, width, core, own, paste.ring_of(core, width), read,
        tools.embed(picture, verdict.face), notes, settings.model_set,
    )  # fmt: skip


DRAWN = "drawn by hand"


def analyse(job: Job, registry: Registry, request: Request) -> Analysis:
    """The reference's faces, crop and masks, for the page's face picker and mask preview. Leases the small face models only.

    Raises:
        ValueError: no reference, no usable face in it, settings outside their limits.
    """
    settings = request.settings.validated()
    picture = reference_of(request)
    job.progress(0.0, "looking for the face")
    return portrait_person.with_tools(
        registry, settings.model_set, lambda tools: study(tools, picture, settings, request.face, request.box)
    )


def reference_of(request: Request) -> Picture:
    """The reference as an array.

    Raises:
        ValueError: there is none.
    """
    if request.reference is None:
        raise ValueError("There is no reference portrait yet: load one, or roll one.")
    picture = numpy.asarray(
        request.reference if isinstance(request.reference, numpy.ndarray) else request.reference.convert("RGB")
    )

    geometry.check_picture(picture)
    return picture


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
    which = person.nearest(analysis.points)
    crop, points = person.crops[which], person.points[which].astype(numpy.float64)
    matrix = geometry.affinity(points, analysis.points)
    # What is left of the turn is bent, within the crop: the points then lie where the reference's do.
    wanted = geometry.moved(analysis.points, numpy.linalg.inv(matrix))
    if numpy.hypot(*(wanted - points).T).max() <= BEND * crop.shape[1]:
        crop, points = geometry.bent(crop, points, wanted), wanted
    middle = crop.shape[1] / 2
    # In a photograph the small parser sees parts where there are none; the oval of its points is safe.
    backend = "points" if person.facts.get("photographs") else portrait_person.PARSED
    here = Face((middle - 1, middle - 1, 2, 2), tuple(map(tuple, points)), 1.0, backend)
    size = analysis.square.shape[1::-1]
    head, face = (
        geometry.warp(own.astype(numpy.float32), matrix, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR) >= 0.5
        for own in regions_in(tools, crop, here, points)
    )
    return Placed(which, crop, matrix, head, face)


def with_head(analysis: Analysis, head: Placed, reach: Mask) -> Picture:
    """The square with the person's head in the place of the reference's: that one goes first, by what is around it, so that hair
    of another shape can take its place."""
    edge = masks.grow(analysis.core, max(1, round(EDGE * analysis.width)))
    empty = cv2.inpaint(analysis.square, edge.astype(numpy.uint8), 3, cv2.INPAINT_TELEA)
    there = head.head & reach
    if not there.any():
        return empty
    return paste.paste(head.crop, empty, there, head.matrix, "feather", analysis.width, 0.0, 0.02)[0]


def in_own_tone(reference: Picture, face: Picture, mine: Mask, theirs: Mask, share: float) -> Picture:
    """``reference`` with the mean skin tone of ``face``: how light falls on it stays, what it falls on is the person's.

    Measured inside ``mine`` of the face and ``theirs`` of the reference; L is scaled, as light does, a and b are shifted; the whole
    picture changes. ``share`` 0 leaves it.
    """
    if not share or not mine.any() or not theirs.any():
        return reference.copy()
    own, other = paste.lab_of(face)[mine].mean(0), paste.lab_of(reference)
    mean = other[theirs].mean(0)
    toned = other.copy()
    toned[..., 0] *= 1 + share * (float(own[0]) / max(float(mean[0]), 1.0) - 1)
    toned[..., 1:] += share * (own[1:] - mean[1:])
    toned[..., 0] = toned[..., 0].clip(0, 100)
    levels = cv2.cvtColor(toned, cv2.COLOR_Lab2RGB)
    return numpy.clip(numpy.rint(levels * 255), 0, 255).astype(numpy.uint8)


# ---------------------------------------------------------------------------------------------- runs


def portrait(job: Job, registry: Registry, request: Request, cache: Cache | None = None) -> Outcome:
    """The person in the reference's place; called on the lane's thread.

    Emits progress with the stage and the step, a ``Preview`` now and then and after each stage, and ``Stored`` entries of the cache (see
    ``keeping``). Ends within one denoising step when the job is stopped; stages that are finished by then stay in ``cache``.

    Raises:
        ValueError: no reference or person, no face, no consent, settings outside their limits, weights that cannot be had, a person
            that was trained for another model.
        MemoryError: the stage that did not fit, and what to choose instead; a smaller preset was tried by then.
    """
    settings = request.settings.validated()
    work = _Work(job, request, settings, Cache() if cache is None else cache)
    model_set = settings.model_set
    # The face is looked for before anything large is loaded: without one, minutes would be lost.
    faces = portrait_person.with_tools(registry, model_set, work.looked)
    if settings.mode == "preview":
        return portrait_person.with_tools(
            registry,
            model_set,
            lambda tools: work.begun(None, tools, None, specs(model_set, "preview", "", faces)).preview(),
        )
    job.progress(0.01, f"loading {sdxl.BASES[model_set].title}")
    # The limit is for the work: a first run may have to fetch the model.
    work.loading = time.monotonic()
    try:
        work.looked_at(registry)
        try:
            return work.leased(registry, faces)
        except MemoryError:
            leaner = list(portrait_person.PRESETS[model_set])[-1]
            if (settings.preset or next(iter(portrait_person.PRESETS[model_set]))) == leaner:
                raise
            work.settle_for(leaner)
        return work.leased(registry, faces)
    except MemoryError as error:
        memory = troubles.ran_out(error)
        todo = ("make one candidate, or " if memory else "") + "choose the preview"
        todo += " or the mini set" if model_set != "mini" else ""
        raise MemoryError(f"There is not enough {memory or 'memory'} for {work.stage}: {todo}.") from error
    except (FileNotFoundError, ConnectionError) as error:
        if not portrait_person.named_by_us(error):
            raise
        everything = (*specs(model_set, settings.mode, settings.preset, faces), *look_specs(model_set, settings.mode))
        raise ValueError(portrait_person.cannot_be_had(error, everything)) from error


class _Work:
    """One run: the stages in their order, each looked up before it is computed."""

    def __init__(self, job: Job, request: Request, settings: Settings, cache: Cache) -> None:
        self.job, self.request, self.settings, self.cache = job, request, settings, cache
        self.stage = "loading"
        self.loading: float | None = None
        self.tried, self.seen, self.first_notes = 0, None, []
        self.picture = reference_of(request)
        if request.person is None and not request.pictures:
            raise ValueError("There is no person yet: give a few pictures of one, choose a saved one, or roll one.")
        if not request.rendered and not request.consent:
            raise ValueError(portrait_person.NO_CONSENT)
        if settings.mode in ("trained", "single") and not settings.no_identity:
            if request.person is None or not request.person.trained:
                raise ValueError("This person is not trained yet: train it first, or choose the instant mode.")
        if request.person is not None and request.person.model_set != settings.model_set:
            raise ValueError(
                f"The person {request.person.name!r} was made with the {request.person.model_set} set and the "
                f"{settings.model_set} set is chosen: choose that one, or train the person again."
            )

    def looked(self, tools: FaceTools) -> tuple[ModelSpec, ...]:
        """Faces in all pictures, before anything large is loaded. Returns the face models that were there for it."""
        self.job.progress(0.0, "looking for faces")
        self.intake = None
        study(tools, self.picture, self.settings, self.request.face, self.request.box)
        person = self.request.person
        if person is None:
            self.intake = portrait_person.inspect(tools, self.request.pictures, self.settings.model_set)
            if not self.intake.used:
                raise ValueError(portrait_person.gather_refusal(self.intake))
            if self.settings.looks:
                person = portrait_person.gather(tools, self.intake, "person", self.settings.model_set)
        self.to_see = [] if person is None else list(person.crops)
        return tools.specs

    def looked_at(self, registry: Registry) -> None:
        """What IP-Adapter's encoder sees of the person. It is leased alone: it is as large as half a ControlNet."""

        if self.settings.looks:
            encoder = look_specs(self.settings.model_set, self.settings.mode)[1]
            pictures = self.to_see[: controlnets.LOOK_MOST]
            self.seen = registry.run(encoder, lambda model: controlnets.look_of(model, pictures))

    def leased(self, registry: Registry, faces: Sequence[ModelSpec]) -> Outcome:
        """The run, in one lease of all its parts."""
        settings = self.settings
        mode = "instant" if settings.looks else "trained"
        wanted = specs(settings.model_set, mode, settings.preset, faces)

        def run(*models: Any) -> Outcome:
            if self.job.started is not None and self.loading is not None:
                self.job.started += time.monotonic() - self.loading
            self.loading = None
            given = dict(zip((spec.key for spec in wanted), models, strict=True))
            parts = [given[spec.key] for spec in sdxl.BASES[settings.model_set].parts]
            nets = {role: given[one.spec.key] for role, one in controls(settings.model_set, settings.preset).items()}
            tools = portrait_person.tools_of(settings.model_set, [given[spec.key] for spec in faces], faces)
            readers = [given[spec.key] for spec in portrait_person.reader_specs(settings.model_set)]
            look = (given[look_specs("full", mode)[0].key], self.seen) if settings.looks else None
            model = MegaPortrait(parts, nets)
            self.begun(model, tools, readers[0] if readers else None, wanted)
            with (
                portrait_person.in_tiles(
                    model.vae, portrait_person.preset_of(settings.model_set, settings.preset).tiles
                ),
                model.looking_at(look, settings.adapter_scale),
            ):
                return self.outcome()

        return registry.run(wanted, run)

    def settle_for(self, preset: str) -> None:
        """Go on with a smaller preset after the memory ran out."""
        asked = self.settings.preset or next(iter(portrait_person.PRESETS[self.settings.model_set]))
        self.first_notes.append(
            f"The memory did not suffice for the preset {asked}: made with the preset {preset} instead."
        )
        self.settings, self.tried = dataclasses.replace(self.settings, preset=preset), 0
        self.loading = time.monotonic()
        self.job.progress(0.01, f"out of memory, once more with the preset {preset}")

    def begun(self, model: MegaPortrait | None, tools: FaceTools, verifier: Any, wanted: Sequence[ModelSpec]) -> _Work:
        """Ready for its stages; also for a second time, after they ran out of memory."""
        settings, request = self.settings, self.request
        self.model, self.tools = model, tools
        self.notes: list[str] = [*self.first_notes, *self.request.lost]
        if request.layered is not None:
            self._note(TRANSPARENT)
        self.tried += 1
        if self.tried > 1:
            self._note("The memory ran out once: what was idle was let go, and the run began again.")
        self.seconds: dict[str, float] = {}
        self.steps = dict.fromkeys((IDENTITY, SHADED, HARMONISED), 0)
        self.done, self.ran, self.spent = 0, 0, 0.0
        self.total = max(1, settings.candidates * sum(settings.effective().values()))
        with self._timed("analysis"):
            self.analysis = study(tools, self.picture, settings, request.face, request.box, verifier)
            if request.person is None:
                assert self.intake is not None
                self.person = portrait_person.gather(tools, self.intake, "person", settings.model_set, verifier)
            else:
                self.person = request.person
        self.reference_skin = self._skin(self.analysis.square)
        self.placed = self._in_the_look(placed(tools, self.person, self.analysis))
        self.reach = self.analysis.reach
        if settings.region == "head":  # the person's hair may be longer than the reference's
            room = masks.grow(self.placed.head, max(1, round(WIDER / 2 * self.analysis.width)))
            self.reach = paste.core_of(self.reach | room)
        worn = settings.mode in ("trained", "single") and not settings.no_identity
        self.worn = self.person if worn else None
        self.identity = (
            settings.model_set, tuple(sorted(value for spec in wanted for value in spec.sha256.values())),
            tuple(spec.key for spec in wanted), self.person.key if worn else "",
            (settings.adapter_scale, self.person.key) if settings.looks else None, settings.preset,
        )  # fmt: skip
        self.prompt = self._prompt()
        wanted = (*wanted, *look_specs(settings.model_set, settings.mode)[1:]) if settings.looks else wanted
        named = [s for s in wanted if s not in sdxl.BASES[settings.model_set].parts or s.key.endswith("unet")]
        self.models = [{"key": spec.key, "source": spec.source, "licence": spec.licence} for spec in named]
        for note in self.analysis.notes:
            self._note(note)
        self._note(warn_enlarged(self.analysis))
        if self.intake is not None and request.person is None:
            for note in (note for place in self.intake.used for note in self.intake.verdicts[place].notes):
                self._note(note)
        for note in (*self.tools.notes, *warn_gap(self.analysis, self.placed, settings)):
            self._note(note)
        self._note(portrait_person.warn_glasses(self.person, request.glasses))
        self._note(warn_photograph(self.person, self.analysis, settings))
        self.job.emit(Preview(REFERENCE, 1, 1, to_pil(self.analysis.square)))
        return self

    def _in_the_look(self, near: Placed) -> Placed:
        """The person's picture with the reference's cast, its black and white, and its one tone if it has one: what is painted from it
        then begins so."""
        analysis, crop = self.analysis, near.crop
        face = self.reference_skin & analysis.face_core
        face = face if face.any() else analysis.face_core & ~lips_and_eyes(analysis.points, analysis.face_core.shape)
        curve = look.tone_of(analysis.picture)
        if curve is not None:
            crop = look.toned(crop, curve)
        elif face.any():
            rest = ~_in_picture(analysis, analysis.core)
            skin = analysis.square[face].mean(0)
            gains, colour = look.cast_of(analysis.picture, rest, skin), look.paleness_of(analysis.picture, rest, skin)
            if gains is not None:
                crop = numpy.rint(crop * gains).clip(0, 255).astype(numpy.uint8)
                self._note("The reference has a strong colour cast: the person was given the same one.")
            elif colour is not None and look.narrowed(crop, analysis.picture) is None:  # which takes colour away, too
                crop = look.paled(crop, colour)
                self._note("The reference’s colours are pale: the person’s were made so.")
        faded = look.narrowed(crop, analysis.picture)
        if faded is not None:
            crop = faded
            self._note("The reference is faded or dark: the person was given its black and its white.")
        return near if crop is near.crop else dataclasses.replace(near, crop=crop)

    def _prompt(self) -> str:
        """The caption of the person in the reference; only a trained model knows the word for the person."""
        if self.settings.model_set != "mini":
            return f"{portrait_person.SKS}, portrait" if self.worn is not None else "portrait of a person"
        shot = {name: value for name, value in self.analysis.attributes.items() if name in portrait_person.SHOT}
        return portrait_person.caption_of(self.person.facts.get("attributes", {}) | shot)

    # ---- stages

    def outcome(self) -> Outcome:
        settings = self.settings
        made: list[Candidate] = []
        with self._model.wearing(self.worn):
            for number in range(settings.candidates):
                seed = (settings.seed + number) % 2**31
                try:
                    made.append(self._candidate(seed))
                except BlackPicture as error:
                    if not made and number == settings.candidates - 1:
                        raise
                    self._note(f"Seed {seed} is left out. {error}")
        return self._outcome(made)

    def preview(self) -> Outcome:
        """The person's nearest picture pasted, in the reference's light; no diffusion."""
        settings, analysis = self.settings, self.analysis
        self.job.progress(0.3, "pasting")
        with self._timed(PASTED):
            near = self.placed
            face = geometry.warp(near.crop, near.matrix, analysis.square.shape[1::-1])
            lit = self._lit(face, analysis.face_core) if not settings.no_shading else face
            composite, alpha = self._composite(lit, analysis.face_core)
        stages = {IDENTITY: near.crop, SHADED: lit, PASTED: composite}
        self._shown(PASTED, composite)
        painted = composite if settings.poisson else lit
        return self._outcome([self._finished(settings.seed, stages, painted, alpha, analysis.face_core)])

    def _composite(self, face: Picture, core: Mask) -> tuple[Picture, Alpha]:
        settings, analysis = self.settings, self.analysis
        method = "poisson" if settings.poisson else "feather"
        return paste.paste(face, analysis.square, core, None, method, analysis.width, settings.erode, settings.feather)

    def _outcome(self, made: list[Candidate]) -> Outcome:
        order = sorted(made, key=lambda one: -1e9 if one.identity is None else one.identity, reverse=True)
        self._note(warn_identity(order[0].metrics, self.settings.mode))
        judged = () if self.intake is None else self.intake.verdicts
        verdicts = [{"name": v.name, "used": v.used, "reason": v.reason, "notes": list(v.notes)} for v in judged]
        return Outcome(
            self.settings, self.person.name, self.analysis, order, dict(self.steps), self.notes,
            {name: round(value, 3) for name, value in self.seconds.items()}, self.models, self._truth()[0],
            self.analysis.maps("landmarks", "line", "shading"), self.request.layered, verdicts,
        )  # fmt: skip

    def _candidate(self, seed: int) -> Candidate:
        settings, analysis = self.settings, self.analysis
        face = self._identity(seed)
        core = self._pasted_core(face)
        shaded = face if settings.no_shading else self._shaded(face, core, seed)
        with self._timed(PASTED):
            composite, alpha = self._composite(shaded, core)
        self._shown(PASTED, composite)
        stages = {IDENTITY: face, PASTED: composite} | ({} if settings.no_shading else {SHADED: shaded})
        if numpy.array_equal(composite, analysis.square):  # nothing was asked for: nothing is resampled either
            return self._finished(seed, stages, analysis.square, numpy.zeros_like(alpha), core)
        if settings.no_harmonisation:
            return self._finished(seed, stages, composite if settings.poisson else shaded, alpha, core)
        ring = paste.ring_of(core, analysis.width)
        with self._timed(PASTED):
            seamless = paste.without_seam(composite, shaded, analysis.square, alpha, ring)
        harmonised = self._harmonised(seamless, ring, seed)
        area = core | ring
        soft = paste.feathered(area, analysis.width, 2 * settings.feather, settings.feather)
        soft = numpy.where(area, soft, 0).astype(numpy.float32)
        kept = core & ~ring
        back = settings.core_back if self.steps[HARMONISED] and kept.any() else 0.0
        painted = paste.stitch(harmonised, composite, harmonised, soft, kept, back)
        final = paste.blend(painted, analysis.square, soft)
        stages |= {RING: _grey(ring), HARMONISED: final}
        self._shown(HARMONISED, final)
        return self._finished(seed, stages, painted, soft, core)

    def _identity(self, seed: int) -> Picture:
        settings, analysis = self.settings, self.analysis
        start = analysis.square
        pasted = settings.start == "pasted" or settings.mode == "instant"
        if pasted and not settings.no_identity:
            if settings.region == "head":
                start = with_head(analysis, self.placed, self.reach)
            else:
                start = paste.paste(
                    self.placed.crop,
                    start,
                    analysis.face_core,
                    self.placed.matrix,
                    "feather",
                    analysis.width,
                    0.0,
                    0.02,
                )[0]
        hints = self._hints_of_pose(start)
        if settings.mode == "single" and not settings.no_shading:
            hints.append(self._light(start, analysis.core))
        prompt = self.prompt
        inputs = (
            start, self.reach, prompt, seed, settings.identity_strength, settings.identity_steps, settings.identity_guidance,
            settings.identity_lora, settings.detail, *_plain(hints),
        )  # fmt: skip
        return self._net(
            IDENTITY, settings.effective()[IDENTITY], inputs,
            lambda on_step: self._model.identify(
                start, self.reach, prompt, hints, settings, seed, on_step
            ),
        )  # fmt: skip

    def _hints_of_pose(self, start: Picture) -> list[Hint]:
        """The reference's face points; lines and colours of what the net begins with."""
        settings, analysis = self.settings, self.analysis
        return [
            Hint("landmarks", analysis.map_of("landmarks", analysis.square), settings.landmarks),
            Hint("line", analysis.map_of("line", start), settings.line, settings.line_end),
            Hint("shading", analysis.map_of("shading", start), settings.colour, settings.colour_end),
        ]

    def _pasted_core(self, face: Picture) -> Mask:
        """The reference's region and what the person's takes beyond it, within the Identity Net's reach."""
        analysis, settings = self.analysis, self.settings
        if settings.effective()[IDENTITY] == 0:
            return analysis.core
        head, own = regions_in(self.tools, face, analysis.face, analysis.points)
        if settings.region != "head":
            return paste.core_of(analysis.core | own & self.reach)
        core = paste.core_of(analysis.core | head & self.reach)
        return masks.grow(core, round(RIM * analysis.width)) & (self.reach | core)

    def _lit(self, face: Picture, core: Mask, amount: float | None = None) -> Picture:
        """``face`` in the reference's smooth light, where the reference shows a face."""
        analysis, settings = self.analysis, self.settings
        where = core & analysis.face_core
        where = where if where.any() else core
        exclude = lips_and_eyes(analysis.points, core.shape)
        mine, theirs = (skin & where & ~exclude for skin in (self._skin(face), self.reference_skin))
        seen = min(mine.sum(), theirs.sum()) >= SKIN * where.sum()
        skins = (mine, theirs) if seen else None
        own = in_own_tone(analysis.square, face, *(skins or (where, where)), settings.own_tone)
        amount = settings.shading_transfer if amount is None else amount
        return paste.shading_transfer(face, own, where, amount, exclude, analysis.width, skins)

    def _skin(self, square: Picture) -> Mask:
        """Plain skin in the middle of a square, as the parser sees it; nowhere without one."""
        side = square.shape[1]
        seen = self.tools.parts(square, (side / 2, side / 2))
        return numpy.zeros(square.shape[:2], bool) if seen is None else seen.parts["skin"]

    def _light(self, face: Picture, core: Mask) -> Hint:
        """The map of light: the reference's on the skin. Elsewhere the face's own, or hair would take the reference's colour."""
        analysis, settings = self.analysis, self.settings
        found = analysis.map_of("shading", self._lit(face, core, 1.0))
        return Hint("shading", found, settings.shading_map, settings.shading_map_end)

    def _shaded(self, face: Picture, core: Mask, seed: int) -> Picture:
        settings = self.settings
        lit = self._lit(face, core)
        if settings.mode == "single":
            self._shown(SHADED, lit)
            return lit
        hints = [
            Hint("line", self.analysis.map_of("line", face), settings.shading_line, settings.shading_line_end),
            self._light(face, core),
        ]
        prompt = self.prompt
        inputs = (
            lit, prompt, seed, settings.shading_strength, settings.shading_steps, settings.shading_guidance, settings.shading_lora,
            settings.detail, *_plain(hints),
        )  # fmt: skip
        return self._net(
            SHADED, settings.effective()[SHADED], inputs,
            lambda on_step: self._model.shade(lit, prompt, hints, settings, seed, on_step),
        )  # fmt: skip

    def _harmonised(self, composite: Picture, ring: Mask, seed: int) -> Picture:
        settings, analysis = self.settings, self.analysis
        hints = [
            Hint("line", analysis.map_of("line", composite), settings.harmonise_line),
            Hint("shading", analysis.map_of("shading", composite), settings.harmonise_map),
        ]
        prompt = self.prompt
        inputs = (
            composite, ring, prompt, seed, settings.harmonise_strength, settings.harmonise_steps, settings.harmonise_guidance,
            settings.harmonise_lora, settings.detail, *_plain(hints),
        )  # fmt: skip
        painted = self._net(
            HARMONISED, settings.effective()[HARMONISED], inputs,
            lambda on_step: self._model.harmonise(composite, ring, prompt, hints, settings, seed, on_step),
        )  # fmt: skip
        sigma = settings.harmonise_smooth * analysis.width
        return paste.smoothly_changed(composite, painted, ring, sigma)

    @property
    def _model(self) -> MegaPortrait:
        assert self.model is not None
        return self.model

    def _net(self, name: str, steps: int, inputs: Sequence[Any], paint: Callable[[OnStep], Picture]) -> Picture:
        """A net's picture from the cache, or painted and put there."""
        key = Cache.key(name, self.identity, *inputs)
        found, start = self.cache.get(key), self.done
        self.seconds.setdefault(name, 0.0)
        self.steps[name] = steps
        if found is None:
            self.stage = f"the stage {name}"
            self.job.check()
            ran, spent, begun = self.ran, self.spent, time.monotonic()

            def on_step(step: int, count: int, look: Callable[[], Picture]) -> None:
                self.done, self.ran, self.spent = start + step, ran + step, spent + time.monotonic() - begun
                if step == count:  # only decoding is left: a stop now would throw the whole stage away
                    return
                left = self.spent / self.ran * (self.total - self.done)
                text = f"{name}: step {step} of {count}, about {math.ceil(left)} s left"
                self.job.progress(0.03 + 0.92 * self.done / self.total, text)
                if step % max(1, count // 3) == 0:
                    self.job.emit(Preview(name, step, count, to_pil(look())))

            with self._timed(name):
                found = paint(on_step)
            self.cache.put(key, found)
            self.job.emit(Stored(key, found))
        self.done = start + steps
        self._shown(name, found)
        return found

    # ---- the end of a candidate

    def _finished(self, seed: int, stages: dict[str, Picture], painted: Picture, alpha: Alpha, core: Mask) -> Candidate:
        """``painted`` put into the reference by ``alpha``, at full size, and all measures."""
        self.job.check()
        analysis = self.analysis
        with self._timed("metrics"):
            changed = _in_picture(analysis, alpha > 0)
            result = paste.uncrop(analysis.picture, analysis.crop, painted, alpha)
            result = numpy.where(changed[..., None], result, analysis.picture)
            result, notes = look.follow(result, analysis.picture, changed, seed, "portrait", "reference", own=True)
            for note in notes:
                self._note(note)
            metrics = self._metrics(result, core, changed)
        made = to_pil(result)
        if self.request.layered is not None:
            made = transparency.put_back(made, changed, self.request.layered)
        return Candidate(seed, made, changed, stages, core, metrics)

    def _agreement(self, result: Picture, in_core: float | None) -> dict[str, Any]:
        """How well light agrees, on the skin that result and reference both show: a beard or glasses in the one are no light. Without a
        parser, or with little skin, all that was pasted counts."""
        analysis = self.analysis
        square = analysis.crop.cut(result)
        skin = self._skin(square) & self.reference_skin & analysis.face_core
        skin &= ~lips_and_eyes(analysis.points, skin.shape)
        if skin.sum() < SKIN * analysis.face_core.sum():
            return {"shading_agreement": in_core, "shading_measured_on": "core"}
        found = portrait_metrics.shading_agreement(square, analysis.square, skin, analysis.width)
        return {"shading_agreement": found, "shading_measured_on": "skin"}

    def _metrics(self, result: Picture, core: Mask, changed: Mask) -> dict[str, Any]:
        analysis, tools = self.analysis, self.tools
        window = _window(analysis)
        whole_core = _in_picture(analysis, core)
        seen = result[window], analysis.picture[window], whole_core[window], changed[window]
        metrics: dict[str, Any] = portrait_metrics.measured(*_reduced(*seen))
        metrics["sharpness_ratio"] = portrait_metrics.sharpness_ratio(
            *seen[:3]
        )  # at its own size: that is what it is about
        metrics |= portrait_metrics.outside(result, analysis.picture, changed)
        metrics |= self._agreement(result, metrics["shading_agreement"])
        found = self._face_of(result)
        own = None if found is None else tools.embed(result, found)
        metrics["identity"] = portrait_metrics.identity_table(own, list(self.person.embeddings), analysis.embedding)
        bar = portrait_person.threshold(self.settings.model_set)
        metrics["threshold"] = bar
        metrics["same_person"] = (
            None if bar is None or metrics["identity"]["result"]["mean"] is None else metrics["identity"]["result"]["mean"] >= bar
        )  # fmt: skip
        truth, points, visible = self._truth()
        metrics["truth"] = truth is not None
        if truth is not None:
            ring = _in_picture(analysis, paste.ring_of(core, analysis.width))
            regions = {
                "face": _in_picture(analysis, analysis.face_core),
                "core": whole_core,
                "ring": ring,
                "rest": ~(whole_core | ring),
            }
            metrics["regions"] = portrait_metrics.against_truth(result, truth, regions)
            metrics["before"] = portrait_metrics.against_truth(analysis.picture, truth, regions)
            known = None if found is None or found.points is None else numpy.asarray(found.points)
            metrics["landmark_error"] = portrait_metrics.landmark_error(known, points, analysis.face.box[2], visible)
            there = self._face_of(truth)
            exact = None if there is None else tools.embed(truth, there)
            table = portrait_metrics.identity_table(exact, list(self.person.embeddings), None)
            metrics["identity"]["truth"] = table["result"]
        return metrics

    def _face_of(self, picture: Picture) -> Face | None:
        """The face where the reference's was."""
        left, top, width, height = self.analysis.face.box
        near = [
            face for face in self.tools.faces(picture)
            if face.points is not None
            and abs(face.box[0] + face.box[2] / 2 - left - width / 2) < width / 2
            and abs(face.box[1] + face.box[3] / 2 - top - height / 2) < height / 2
        ]  # fmt: skip
        return intake.largest(near)

    def _truth(self) -> tuple[Picture | None, NDArray[numpy.float64] | None, NDArray[numpy.bool_] | None]:
        """The exact picture with its five points and which of them are visible, rendered once."""
        if self.request.truth is None:
            return None, None, None
        if not hasattr(self, "_exact"):
            from pipelines.worlds import portrait as heads

            made = heads.render([self.request.truth], self.picture.shape[:2], truth=True)
            assert made.landmarks is not None and made.visible is not None
            picture = numpy.asarray(images.to_pil(made.image)[0])
            self._exact = picture, made.landmarks[0, :5].numpy()[:, ::-1].astype(float), made.visible[0, :5].numpy()
        return self._exact

    # ---- small things

    def _shown(self, name: str, picture: Picture) -> None:
        self.job.emit(Preview(name, 1, 1, to_pil(picture)))

    def _note(self, sentence: str | None) -> None:
        if sentence is not None and sentence not in self.notes:
            self.notes.append(sentence)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self.job.check()
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def _plain(hints: Sequence[Hint]) -> list[Any]:
    return [part for hint in hints for part in (hint.role, hint.map, hint.weight, hint.end)]


def _grey(mask: Mask) -> Picture:
    return numpy.repeat(mask.astype(numpy.uint8)[..., None] * 255, 3, 2)


def _in_picture(analysis: Analysis, mask: Mask) -> Mask:
    """A mask of the square in the whole reference."""
    size = analysis.picture.shape[1::-1]
    soft = geometry.warp(mask.astype(numpy.float32), analysis.crop.inverse, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    return soft >= 0.5


def _window(analysis: Analysis) -> tuple[slice, slice]:
    """The part of the reference that the square shows: measures of a seam need no more."""
    corners = analysis.crop.back([(0, 0), (analysis.crop.side, 0), (0, analysis.crop.side), (analysis.crop.side,) * 2])
    height, width = analysis.picture.shape[:2]
    left, top = (max(0, math.floor(number)) for number in corners.min(0))
    right, bottom = math.ceil(corners[:, 0].max()), math.ceil(corners[:, 1].max())
    return slice(top, min(bottom, height)), slice(left, min(right, width))


def _reduced(result: Picture, reference: Picture, core: Mask, changed: Mask) -> tuple[Picture, Picture, Mask, Mask]:
    """All four at most :data:`MEASURED_SIDE` long: seam and light of a photograph's face would be measured for half a minute, and are as wide
    as its share of the face, not as its pixels."""
    height, width = core.shape
    scale = MEASURED_SIDE / max(height, width)
    if scale >= 1:
        return result, reference, core, changed
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (result, reference)]
    return small[0], small[1], masks.resized(core, size), masks.resized(changed, size)


MEASURED_SIDE = 1024


# --------------------------------------------------------------------------------------- sentences


def warn_photograph(person: Person, analysis: Analysis, settings: Settings) -> str | None:
    if settings.model_set != "mini" or (
        not person.facts.get("photographs") and analysis.face.backend == portrait_person.PARSED
    ):
        return None
    return (
        "The small models know rendered people only: of a photograph they find the face and paste it, but cannot say who it is; "
        "the full set is for real people."
    )


def warn_identity(metrics: Mapping[str, Any], mode: str = "trained") -> str | None:
    """What to try when the best candidate is not taken for the person."""
    if metrics["same_person"] is not False:
        return None
    todo = {
        "preview": "choose the instant mode, or train the person.",
        "instant": "train the person, lower the harmonise strength by 0.05, or give more pictures.",
    }
    more = "raise the identity LoRA by 0.1, lower the harmonise strength by 0.05, or give more pictures."
    return (
        f"The result is not taken for the person ({metrics['identity']['result']['mean']:.2f}, bar {metrics['threshold']:.2f}): "
        f"{todo.get(mode, more)}"
    )


def warn_enlarged(analysis: Analysis) -> str | None:
    """The square is painted at one size, whatever the reference's: where the face is larger, the result is softer than its surroundings."""
    factor = 1 / analysis.crop.scale
    if factor < ENLARGED:
        return None
    side, there = analysis.square.shape[1], round(analysis.square.shape[1] * factor)
    return (
        f"The face was painted on a square of {side} pixels, which is {there} pixels wide in this reference: it is softer than the "
        f"rest, which stays as it was; a reference of about {round(max(analysis.picture.shape[:2]) / factor)} pixels shows no difference."
    )


def warn_gap(analysis: Analysis, near: Placed, settings: Settings) -> list[str]:
    """What to change when the person's picture is far from the reference, in colour at the face's border or in width. Which of shape,
    pose, skin, beard and light it is, is not known, so it is not said."""
    notes = []
    core = analysis.face_core & near.face
    if not core.any():
        return notes
    raw = geometry.warp(near.crop, near.matrix, analysis.square.shape[1::-1])
    pasted = numpy.where(core[..., None], raw, analysis.square)
    step = portrait_metrics.ring_difference(pasted, analysis.square, core)
    if step is not None and step > TONE_GAP:
        more = "" if settings.region == "head" else "replace the head with hair and neck, or "
        notes.append(
            f"Person and reference are far apart at the face's border (ΔE {step:.0f}, {TONE_GAP:g} is much), by skin, beard or light: "
            f"{more}choose a reference that is more alike there if the border shows."
        )
    ratio = paste.width_of(near.face) / paste.width_of(analysis.face_core)
    if max(ratio, 1 / ratio) > SHAPE_GAP:
        notes.append(
            f"The person's picture is made {abs(1 / ratio - 1):.0%} {'narrower' if ratio > 1 else 'wider'} to fit the reference's face, "
            "by shape or by pose: choose a reference that is more alike if that shows."
        )
    return notes


TRANSPARENT = (
    "The reference has transparent parts: the models saw them over white, and the result has them as they were, so that hair which reaches "
    "into them is not seen there."
)
ENLARGED = 2.0
"""From this factor on the page says that the painted square was enlarged."""
TONE_GAP, SHAPE_GAP = 15.0, 1.15
"""Colour step of the bare paste at the face's border in Lab, and ratio of the faces' widths, from which on the page says so."""


# ------------------------------------------------------------------------------------------- results


def facts(outcome: Outcome) -> dict[str, Any]:
    """Settings, measurements and what they rest on; JSON-able. No picture and no embedding is in it."""
    import importlib.metadata

    analysis = outcome.analysis
    return {
        "ai_generated": True,
        "unofficial": "re-created from the abstract of arXiv 2411.04357; all settings are ours",
        "settings": asdict(outcome.settings),
        "person": outcome.person,
        "reference_size": [analysis.picture.shape[1], analysis.picture.shape[0]],
        "result_size": list(outcome.best.result.size),
        "painted_side": analysis.square.shape[1],
        "enlarged": round(1 / analysis.crop.scale, 2),
        "pictures": outcome.pictures,
        "face_box": [round(number, 1) for number in analysis.face.box],
        "face_detector": analysis.face.backend,
        "steps": outcome.steps,
        "candidates": [{"seed": one.seed, "metrics": one.metrics} for one in outcome.candidates],
        "notes": outcome.notes,
        "seconds": outcome.seconds,
        "models": outcome.models,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    }


def save_result(outcome: Outcome, path: str | Path, number: int = 0) -> Path:
    """A candidate as PNG; its metadata hold the settings and say, in IPTC's words, that a trained model made it."""
    made = outcome.candidates[number]
    settings = {**asdict(outcome.settings), "seed": made.seed, "candidates": 1}
    return images.save_png(made.result, path, settings, tab=TAB, models=[model["key"] for model in outcome.models])


def save_zip(outcome: Outcome, path: str | Path, more: Mapping[str, Any] | None = None) -> Path:
    """Everything of a run in one file: results, stages, masks, control maps, manifest.json; ``more``: for that one."""
    pictures: dict[str, Image] = {
        "reference.png": outcome.layered or to_pil(outcome.analysis.picture),
        "square.png": to_pil(outcome.analysis.square),
    }
    pictures |= {f"control_{name}.png": to_pil(picture) for name, picture in outcome.controls.items()}
    if outcome.truth is not None:
        pictures["truth.png"] = to_pil(outcome.truth)
    for one in outcome.candidates:
        pictures |= {f"{one.seed}_{name.lower().replace(' ', '_')}.png": to_pil(p) for name, p in one.stages.items()}
        pictures[f"{one.seed}_mask.png"] = to_pil(one.changed.astype(numpy.uint8) * 255)
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for number, one in enumerate(outcome.candidates):
            marked = path.with_suffix(f".{one.seed}.png")
            archive.write(save_result(outcome, marked, number), f"{one.seed}_result.png")
            marked.unlink()
        for name, picture in pictures.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(name, data.getvalue())
        archive.writestr("manifest.json", json.dumps({**facts(outcome), **(more or {})}, indent=1))
    return path


FOLDER = "assets/mini_controlnets"


MEASURED = sdxl.ROOT / FOLDER / "evaluation.json"


def measured() -> dict[str, Any]:
    """What the evaluation of the shipped models found; empty before there was one."""
    return asset_files.facts(MEASURED, "rows")
