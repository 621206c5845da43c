"""MegaPortrait (arXiv 2411.04357) in its published outline: a person goes into a reference portrait, in its pose, light, clothes and place.

Of the paper only the outline is public to us: Identity Net (a model fine-tuned on the person's pictures, ``pipelines/megaportrait/person.py``),
Shading Net (:meth:`MegaPortrait.shading`: the identity's structure, the reference's light), paste, Harmonization Net
(:meth:`MegaPortrait.harmonisation`: only the ring around the pasted face). All three are one SDXL, the registry's shared one, with
ControlNets and a LoRA; the full set's instant mode shows it the person by IP-Adapter instead. This is an unofficial re-creation: every number is ours, after EasyPhoto and FaceChain where those say one.
Not to be confused with MegaPortraits (2022, head avatars).

:func:`portrait` runs everything for the page, with each stage kept in a ``Cache`` by its inputs. Outside the mask of a result every
pixel is the reference's. Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool, points (5, 2) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy

from pipelines.core import geometry, limits, masks, transparency, troubles
from pipelines.core.geometry import Alpha, Mask, Picture
from pipelines.core.paper import Paper
from pipelines.core.settings import Declared, choice, real, seed, switch, whole
from pipelines.core.stages import Cache, Preview, keeping
from pipelines.megaportrait import checks, intake, light, parts, paste, place, scoring
from pipelines.megaportrait.checks import BlackPicture
from pipelines.megaportrait.intake import Intake
from pipelines.megaportrait.parts import PRESETS, preset_of
from pipelines.megaportrait.person import SHOT, SKS, Person, caption_of, gather, read_attributes, with_readings
from pipelines.megaportrait.place import Analysis, Placed, Regions
from pipelines.megaportrait.results import Candidate, Outcome, to_pil
from pipelines.megaportrait.run import Run
from pipelines.megaportrait.tools import FaceTools, named_by_us, skin_of, tools_of, with_tools
from pipelines.models import controlnets, look, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec
    from pipelines.megaportrait.nets import Nets, OnStep
    from pipelines.worlds.portrait import Portrait

__all__ = ["PAPER", "Cache", "MegaPortrait", "Preview", "Request", "Settings", "analyse", "keeping", "portrait"]

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

RIM = 0.12
"""What is pasted reaches so far beyond the head, in widths of the face: its soft edge must not let the reference's hair through."""


# ------------------------------------------------------------------------------------------ settings


PUBLISHED: dict[str, float] = {
    "identity_strength": 0.55, "identity_guidance": 6.0, "identity_lora": 0.9, "shading_lora": 0.8, "line": 0.5, "line_end": 0.6, "colour": 0.5, "colour_end": 0.6,
    "shading_strength": 0.35, "shading_guidance": 6.0, "shading_line": 0.6, "shading_line_end": 0.8, "shading_map": 0.5,
    "shading_map_end": 0.6, "harmonise_guidance": 5.0, "harmonise_smooth": 0.0, "detail": 0.0, "core_back": 0.25,
    "erode": paste.ERODE, "feather": paste.FEATHER,
}  # fmt: skip
"""What sets the full set apart: after EasyPhoto and FaceChain, where those say a number; not tried by us."""


def _share(label: str, default: float, name: str, **more: Any) -> Any:
    """A share, of the steps or of what is there: 0 to 1."""
    return real(label, default, 0.0, 1.0, name=name, **{"step": 0.05, **more})


def _steps(label: str, default: int, name: str) -> Any:
    return whole(label, default, 1, 60, name=name)


def _guidance(label: str, default: float, name: str) -> Any:
    return real(label, default, 1.0, 12.0, name=name, step=0.5)


def _lora(label: str, default: float, name: str) -> Any:
    return real(label, default, 0.0, 1.5, name=name, step=0.05)


def _end(label: str, default: float, name: str) -> Any:
    """Up to which share of the steps a ControlNet is followed."""
    return real(label, default, 0.05, 1.0, name=name, step=0.05)


def _edge(label: str, default: float, name: str) -> Any:
    """A length in widths of the face."""
    return real(label, default, 0.0, 0.15, name=name, step=0.01)


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run but the person and the reference; the same settings give the same pictures, byte for byte, on
    the same machine. Strengths are shares of the steps: 0.55 of 20 steps runs 11; the page offers the safe part of each. The defaults are the
    small set's, found on its validation people: it draws a head worse than the person's own picture shows it, so little is painted and
    fine detail is given back. The full set's are in :data:`PUBLISHED`."""

    mode: str = choice(
        "How",
        "trained",
        MODES,
        name="The mode",
        info="Instant begins with the person’s nearest picture; trained also knows what step 1 learnt; one pass is faster.",
    )
    seed: int = seed(name="seed")
    candidates: int = whole("Candidates", 2, 1, 4, info="The one most like the person is shown first.")
    """From ``seed`` and those that follow it."""
    region: str = choice("What is replaced", "head", REGIONS, name="The region")
    start: str = choice("The Identity Net begins with", "pasted", STARTS, name="The start")
    """Under its noise. EasyPhoto begins with the person's face in the template, too: from the reference's own face, its skin colour
    comes through at every strength below 1."""

    identity_strength: float = _share(
        "Identity strength",
        0.1,
        "identity strength",
        step=0.01,
        offered=(0.05, 0.90),
        info="How much of the pasted head is painted anew: more follows the reference’s pose, less keeps the person’s own picture.",
    )
    identity_steps: int = _steps("Identity steps", 20, "identity steps")
    identity_guidance: float = _guidance("Identity guidance", 1.5, "identity guidance")
    identity_lora: float = _lora("Identity LoRA, how much of the trained person", 1.0, "identity lora")
    landmarks: float = _share("ControlNet: face points and outline", 0.5, "landmarks")
    line: float = _share("ControlNet: lines of what it begins with", 1.0, "line")
    line_end: float = _end("… up to this share of the steps", 1.0, "line end")
    colour: float = _share("ControlNet: blurred colours of what it begins with", 0.8, "colour")
    colour_end: float = _end("… colours up to this share of the steps", 0.8, "colour end")
    """Lines and blurred colours are those of what the net begins with, as in EasyPhoto's first pass: of the reference's own
    they would bring its face along."""

    shading_transfer: float = _share(
        "Light taken over before",
        0.6,
        "shading transfer",
        step=0.01,
        offered=(0.0, 1.0),
        info="0 keeps the light of the person’s pictures.",
    )
    """How far the smooth light of the identity image goes to the reference's before the Shading Net; no network."""
    own_tone: float = _share("Keep the person’s own skin tone", 1.0, "own tone")
    """How far the person's skin keeps its own mean tone meanwhile: 0 takes the reference's, 1 only how light falls on it."""
    shading_strength: float = _share(
        "Shading strength",
        0.13,
        "shading strength",
        step=0.01,
        offered=(0.05, 0.50),
        info="How much is painted anew in the reference’s light: more is softer.",
    )
    shading_steps: int = _steps("Shading steps", 16, "shading steps")
    shading_guidance: float = _guidance("Shading guidance", 1.5, "shading guidance")
    shading_lora: float = _lora("Shading LoRA", 1.0, "shading lora")
    shading_line: float = _share("ControlNet: lines of the identity image", 1.0, "shading line")
    shading_line_end: float = _end("… lines up to this share of the steps", 1.0, "shading line end")
    shading_map: float = _share("ControlNet: light of the reference", 0.8, "shading map")
    shading_map_end: float = _end("… light up to this share of the steps", 1.0, "shading map end")

    erode: float = _edge("Take in the edge, in face widths", 0.02, "erode")
    feather: float = _edge("Soft edge, in face widths", 0.03, "feather")
    poisson: bool = switch(
        "Poisson paste", False, name="poisson", info="Fits the colours at the edge, instead of a soft edge."
    )

    harmonise_strength: float = _share(
        "Harmonization strength",
        0.30,
        "harmonise strength",
        step=0.01,
        offered=(0.15, 0.45),
        info="More hides the seam; too much changes hair and neck.",
    )
    harmonise_steps: int = _steps("Harmonization steps", 14, "harmonise steps")
    harmonise_guidance: float = _guidance("Harmonization guidance", 1.5, "harmonise guidance")
    harmonise_lora: float = _lora("Harmonization LoRA", 0.6, "harmonise lora")
    harmonise_line: float = _share("ControlNet: lines of the paste", 0.8, "harmonise line")
    harmonise_map: float = _share("ControlNet: light of the paste", 0.8, "harmonise map")
    harmonise_smooth: float = _share("Only the change smoother than, in face widths", 0.1, "harmonise smooth")
    """Only what the net changes more smoothly than this share of the face's width is taken: colours and light, not its grain. 0 takes all."""
    detail: float = _share("Fine detail given back after each net", 1.0, "detail")
    """Share of what the autoencoder alone loses of a stage's picture that is given back to what the net painted (FaceChain's detail restoring)."""
    core_back: float = _share("Mix the pasted face back in", 1.0, "core back")
    """Share of the pasted face that is mixed back into the core after harmonising."""

    adapter_scale: float = _share(
        "IP-Adapter, in the instant mode",
        0.6,
        "adapter scale",
        info="How much of the person’s pictures the model is shown.",
    )
    """In the full set's instant mode only (EasyPhoto: 0.6 without a LoRA)."""

    no_identity: bool = switch("the person’s training", False, name="no identity")
    """For comparison: without the trained person."""
    no_shading: bool = switch("Shading Net", False, name="no shading")
    no_harmonisation: bool = switch("Harmonization Net", False, name="no harmonisation")
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)
    preset: str = ""
    """How the model set is held in memory, of ``parts.PRESETS``; empty: the first."""

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Settings:
        """The defaults of a model set, or its faster preset: one candidate and fewer steps."""
        limits.choice("Model set", model_set, sdxl.BASES)
        steps = (20, 16, 14) if model_set == "mini" else (30, 24, 20)
        if fast:
            steps = (12, 9, 7) if model_set == "mini" else (16, 12, 10)
        made = cls(model_set=model_set, candidates=1 if fast else 2)
        if model_set == "full":
            made = replace(made, region="face", **PUBLISHED)
        names = ("identity_steps", "shading_steps", "harmonise_steps")
        return replace(made, **dict(zip(names, steps, strict=True)))

    def validated(self) -> Settings:
        checked = super().validated()
        if self.preset:
            limits.choice("The preset", self.preset, PRESETS[self.model_set])
        return checked

    @property
    def looks(self) -> bool:
        """Whether IP-Adapter shows the person to the model."""
        return self.model_set == "full" and self.mode == "instant" and self.adapter_scale > 0 and not self.no_identity

    @property
    def wears(self) -> bool:
        """Whether the model wears what was learnt of the person."""
        return self.mode in ("trained", "single") and not self.no_identity

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

    def picture(self) -> Picture:
        """The reference as an array.

        Raises:
            ValueError: there is none, or it is no picture.
        """
        if self.reference is None:
            raise ValueError("There is no reference portrait yet: load one, or roll one.")
        given = self.reference
        picture = numpy.asarray(given if isinstance(given, numpy.ndarray) else given.convert("RGB"))
        geometry.check_picture(picture)
        return picture

    def check(self, settings: Settings) -> None:
        """Refuse what cannot be made with checked ``settings``.

        Raises:
            ValueError: nobody to put in, no consent, nobody trained where somebody has to be, or another model set's person.
        """
        person = self.person
        if person is None and not self.pictures:
            raise ValueError("There is no person yet: give a few pictures of one, choose a saved one, or roll one.")
        if not self.rendered and not self.consent:
            raise ValueError(checks.NO_CONSENT)
        if settings.wears and (person is None or not person.trained):
            raise ValueError("This person is not trained yet: train it first, or choose the instant mode.")
        if person is not None and person.model_set != settings.model_set:
            raise ValueError(
                f"The person {person.name!r} was made with the {person.model_set} set and the "
                f"{settings.model_set} set is chosen: choose that one, or train the person again."
            )


# ---------------------------------------------------------------------------------------- the pipeline


@dataclass(frozen=True)
class Hint:
    """A ControlNet's part in a stage: which, its map, how much, and up to which share of the steps."""

    role: str
    map: Picture
    weight: float
    end: float = 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """What the face models see in the pictures of a request, before anything large is loaded; each picture is looked at once."""

    analysis: Analysis
    person: Person
    near: Placed
    """The person's nearest picture, in the reference's place and look."""
    reach: Mask
    """Where the Identity Net may paint."""
    face_parts: tuple[ModelSpec, ...]
    """The face models that were there for it."""
    intake: Intake | None
    """Of pictures that came without a saved person."""
    notes: list[str | None]
    """What is said of it; None says nothing."""

    @classmethod
    def of(cls, tools: FaceTools, request: Request, settings: Settings) -> Scene:
        """Find the faces, and lay the person over the reference.

        Raises:
            ValueError: no face in the reference, or no picture of a person that can be used.
        """
        analysis = place.study(tools, request.picture(), settings, request.face, request.box)
        person, looked = request.person, None
        if person is None:
            looked = intake.inspect(tools, request.pictures, settings.model_set)
            if not looked.used:
                raise ValueError(intake.gather_refusal(looked))
            person = gather(looked, "person", settings.model_set)
        near, notes = place.in_the_look(analysis, place.placed(tools, person, analysis))
        of_pictures = () if looked is None else [note for at in looked.used for note in looked.verdicts[at].notes]
        notes += [*analysis.notes, checks.warn_enlarged(analysis), *of_pictures, *tools.notes]
        notes += checks.warn_gap(analysis, near, settings)
        reach = place.room_for(analysis, near, settings.region)
        return cls(analysis, person, near, reach, tools.specs, looked, notes)

    def read_by(self, verifier: Any) -> Scene:
        """With what the verifier reads from the reference, and from pictures that came without a saved person."""
        if verifier is None:
            return self
        analysis = replace(self.analysis, attributes=read_attributes(verifier, [self.analysis.square])[0])
        person = self.person if self.intake is None else with_readings(self.person, verifier)
        return replace(self, analysis=analysis, person=person)


class MegaPortrait:
    """The paper's three nets and the paste between them, for one request: :meth:`candidate` is the whole of it."""

    def __init__(
        self,
        run: Run,
        request: Request,
        settings: Settings,
        scene: Scene,
        tools: FaceTools,
        specs: Sequence[ModelSpec],
        nets: Nets | None = None,
        verifier: Any = None,
    ) -> None:
        """``specs``: of the parts that are leased for it; ``nets``: None for a preview, which paints nothing."""
        with run.timed("analysis"):
            self.scene = scene.read_by(verifier)
            self.truth = scoring.truth_of(request.truth, scene.analysis.picture)
        self.run, self.request, self.settings, self.tools = run, request, settings, tools
        self.analysis, self.person = self.scene.analysis, self.scene.person
        self.worn = self.person if settings.wears else None
        self.nets = nets
        self.prompt = self._prompt()
        self.key = (
            settings.model_set,
            tuple(sorted(value for spec in specs for value in spec.sha256.values())),
            tuple(spec.key for spec in specs),
            self.person.key if settings.wears else "",
            (settings.adapter_scale, self.person.key) if settings.looks else None,
            settings.preset,
        )
        """All that decides a net's picture beside its own inputs."""
        base = sdxl.BASES[settings.model_set].parts
        look = parts.look_specs(settings.model_set, settings.mode)[1:] if settings.looks else ()
        named = [one for one in (*specs, *look) if one not in base or one.key.endswith("unet")]
        self.models = [{"key": one.key, "source": one.source, "licence": one.licence} for one in named]
        run.begin(settings.effective(), settings.candidates, self._notes())
        run.show(REFERENCE, self.analysis.square)

    def __call__(self) -> Outcome:
        """Every candidate; the one that is most like the person comes first."""
        settings, made = self.settings, []
        if self.nets is None:
            return self._outcome([self.preview()])
        with self.nets.wearing(self.worn):
            for number in range(settings.candidates):
                seed = (settings.seed + number) % 2**31
                try:
                    made.append(self.candidate(seed))
                except BlackPicture as error:
                    if not made and number == settings.candidates - 1:
                        raise
                    self.run.note(f"Seed {seed} is left out. {error}")
        return self._outcome(made)

    def candidate(self, seed: int) -> Candidate:
        """identity net -> shading net -> paste -> harmonization net."""
        settings, analysis = self.settings, self.analysis
        face = self.identity(seed)
        regions = place.regions_in(self.tools, face, analysis.face, analysis.points)
        core = self._core(regions)
        shaded = face if settings.no_shading else self.shading(face, regions.skin, core, seed)
        composite, alpha = self.paste(shaded, core)
        stages = {IDENTITY: face, PASTED: composite} | ({} if settings.no_shading else {SHADED: shaded})
        if numpy.array_equal(composite, analysis.square):  # nothing was asked for: nothing is resampled either
            return self._finished(seed, stages, analysis.square, numpy.zeros_like(alpha), core)
        if settings.no_harmonisation:
            return self._finished(seed, stages, composite if settings.poisson else shaded, alpha, core)
        ring = paste.ring_of(core, analysis.width)
        harmonised = self.harmonisation(composite, shaded, alpha, ring, seed)
        painted, soft = self._stitched(harmonised, composite, core, ring)
        final = paste.blend(painted, analysis.square, soft)
        self.run.show(HARMONISED, final)
        stages |= {RING: numpy.repeat(ring.astype(numpy.uint8)[..., None] * 255, 3, 2), HARMONISED: final}
        return self._finished(seed, stages, painted, soft, core)

    def preview(self) -> Candidate:
        """The person's nearest picture pasted, in the reference's light; no diffusion."""
        settings, analysis, near = self.settings, self.analysis, self.scene.near
        self.run.job.progress(0.3, "pasting")
        with self.run.timed(PASTED):
            face = geometry.warp(near.crop, near.matrix, analysis.square.shape[1::-1])
            lit = face if settings.no_shading else self._lit(face, self._skin(face), analysis.face_core)
        composite, alpha = self.paste(lit, analysis.face_core)
        stages = {IDENTITY: near.crop, SHADED: lit, PASTED: composite}
        painted = composite if settings.poisson else lit
        return self._finished(settings.seed, stages, painted, alpha, analysis.face_core)

    # ---- the stages

    def identity(self, seed: int) -> Picture:
        """1. The Identity Net: the person's face in the reference's pose, begun with the person's nearest picture in its place.

        It is led by the reference's face points, and by lines and colours of what it begins with.
        """
        settings, analysis = self.settings, self.analysis
        start = self._start()
        hints = [
            Hint("landmarks", analysis.map_of("landmarks", analysis.square), settings.landmarks),
            Hint("line", analysis.map_of("line", start), settings.line, settings.line_end),
            Hint("shading", analysis.map_of("shading", start), settings.colour, settings.colour_end),
        ]
        if settings.mode == "single" and not settings.no_shading:
            hints.append(self._light(start, self._skin(start), analysis.core))
        how = (
            settings.identity_strength, settings.identity_steps, settings.identity_guidance, settings.identity_lora,
            settings.detail,
        )  # fmt: skip
        reach, prompt, nets = self.scene.reach, self.prompt, self._nets
        return self._net(
            IDENTITY, (start, reach, prompt, seed, *how), hints,
            lambda on_step: nets.identify(start, reach, prompt, hints, settings, seed, on_step),
        )  # fmt: skip

    def shading(self, face: Picture, skin: Mask, core: Mask, seed: int) -> Picture:
        """2. The Shading Net: the identity's structure, the reference's light; its smooth part is moved by arithmetic before."""
        settings = self.settings
        lit = self._lit(face, skin, core)
        if settings.mode == "single":  # the Identity Net has had the light's map
            self.run.show(SHADED, lit)
            return lit
        line = self.analysis.map_of("line", face)
        hints = [
            Hint("line", line, settings.shading_line, settings.shading_line_end),
            self._light(face, skin, core),
        ]
        how = (
            settings.shading_strength, settings.shading_steps, settings.shading_guidance, settings.shading_lora,
            settings.detail,
        )  # fmt: skip
        prompt, nets = self.prompt, self._nets
        return self._net(
            SHADED, (lit, prompt, seed, *how), hints,
            lambda on_step: nets.shade(lit, prompt, hints, settings, seed, on_step),
        )  # fmt: skip

    def paste(self, face: Picture, core: Mask) -> tuple[Picture, Alpha]:
        """3. The face laid into the reference, and the alpha of what was taken from it. No network."""
        settings, analysis = self.settings, self.analysis
        method = "poisson" if settings.poisson else "feather"
        with self.run.timed(PASTED):
            composite, alpha = paste.paste(
                face, analysis.square, core, None, method, analysis.width, settings.erode, settings.feather
            )
        self.run.show(PASTED, composite)
        return composite, alpha

    def harmonisation(self, composite: Picture, shaded: Picture, alpha: Alpha, ring: Mask, seed: int) -> Picture:
        """4. The Harmonization Net: only the ring around the pasted face is painted anew, without the paste's own edge."""
        settings, analysis = self.settings, self.analysis
        with self.run.timed(PASTED):
            seamless = paste.without_seam(composite, shaded, analysis.square, alpha, ring)
        hints = [
            Hint("line", analysis.map_of("line", seamless), settings.harmonise_line),
            Hint("shading", analysis.map_of("shading", seamless), settings.harmonise_map),
        ]
        how = (
            settings.harmonise_strength, settings.harmonise_steps, settings.harmonise_guidance, settings.harmonise_lora,
            settings.detail,
        )  # fmt: skip
        prompt, nets = self.prompt, self._nets
        painted = self._net(
            HARMONISED, (seamless, ring, prompt, seed, *how), hints,
            lambda on_step: nets.harmonise(seamless, ring, prompt, hints, settings, seed, on_step),
        )  # fmt: skip
        return paste.smoothly_changed(seamless, painted, ring, settings.harmonise_smooth * analysis.width)

    # ---- what the stages need

    def _start(self) -> Picture:
        """What the Identity Net begins with, under its noise."""
        settings, analysis, near = self.settings, self.analysis, self.scene.near
        if settings.no_identity or (settings.start != "pasted" and settings.mode != "instant"):
            return analysis.square
        if settings.region == "head":
            return place.with_head(analysis, near, self.scene.reach)
        return paste.paste(
            near.crop, analysis.square, analysis.face_core, near.matrix, "feather", analysis.width, 0.0, 0.02
        )[0]

    def _core(self, regions: Regions) -> Mask:
        """The reference's region and what the person's takes beyond it, within the Identity Net's reach."""
        analysis, settings, reach = self.analysis, self.settings, self.scene.reach
        if settings.effective()[IDENTITY] == 0:
            return analysis.core
        if settings.region != "head":
            return paste.core_of(analysis.core | regions.face & reach)
        core = paste.core_of(analysis.core | regions.head & reach)
        return masks.grow(core, round(RIM * analysis.width)) & (reach | core)

    def _stitched(self, harmonised: Picture, composite: Picture, core: Mask, ring: Mask) -> tuple[Picture, Alpha]:
        """The harmonised square with a share of the pasted face in its middle, so that the person stays the person, and its soft edge."""
        settings, area = self.settings, core | ring
        soft = paste.feathered(area, self.analysis.width, 2 * settings.feather, settings.feather)
        soft = numpy.where(area, soft, 0).astype(numpy.float32)
        kept = core & ~ring
        back = settings.core_back if self.run.steps[HARMONISED] and kept.any() else 0.0
        return paste.stitch(harmonised, composite, harmonised, soft, kept, back), soft

    def _skin(self, square: Picture) -> Mask:
        return skin_of(self.tools.middle(square), square)

    def _lit(self, face: Picture, skin: Mask, core: Mask, amount: float | None = None) -> Picture:
        amount = self.settings.shading_transfer if amount is None else amount
        return light.lit(face, skin, self.analysis, core, amount, self.settings.own_tone)

    def _light(self, face: Picture, skin: Mask, core: Mask) -> Hint:
        """The map of light: the reference's on the skin. Elsewhere the face's own, or hair would take the reference's colour."""
        lit = self._lit(face, skin, core, 1.0)
        settings = self.settings
        return Hint("shading", self.analysis.map_of("shading", lit), settings.shading_map, settings.shading_map_end)

    def _net(
        self, name: str, inputs: Sequence[Any], hints: Sequence[Hint], paint: Callable[[OnStep], Picture]
    ) -> Picture:
        led = [part for hint in hints for part in (hint.role, hint.map, hint.weight, hint.end)]
        return self.run.net(name, self.settings.effective()[name], (self.key, *inputs, *led), paint)

    @property
    def _nets(self) -> Nets:
        assert self.nets is not None
        return self.nets

    def _prompt(self) -> str:
        """The caption of the person in the reference; only a trained model knows the word for the person."""
        if self.settings.model_set != "mini":
            return f"{SKS}, portrait" if self.settings.wears else "portrait of a person"
        shot = {name: value for name, value in self.analysis.attributes.items() if name in SHOT}
        return caption_of(self.person.facts.get("attributes", {}) | shot)

    def _notes(self) -> list[str | None]:
        """What is said before anything is painted."""
        request, scene = self.request, self.scene
        return [
            *request.lost,
            checks.TRANSPARENT if request.layered is not None else None,
            checks.AGAIN if self.run.attempts else None,
            *scene.notes,
            checks.warn_glasses(self.person, request.glasses),
            checks.warn_photograph(self.person, self.analysis, self.settings),
        ]

    # ---- the end

    def _finished(self, seed: int, stages: dict[str, Picture], painted: Picture, alpha: Alpha, core: Mask) -> Candidate:
        """``painted`` put into the reference by ``alpha``, at full size, and all measures."""
        self.run.job.check()
        analysis = self.analysis
        with self.run.timed("metrics"):
            changed = place.in_picture(analysis, alpha > 0)
            result = paste.uncrop(analysis.picture, analysis.crop, painted, alpha)
            result = numpy.where(changed[..., None], result, analysis.picture)
            result, notes = look.follow(result, analysis.picture, changed, seed, "portrait", "reference", own=True)
            for note in notes:
                self.run.note(note)
            embeddings = list(self.person.embeddings)
            found = scoring.measures(result, changed, core, analysis, self.tools, embeddings, self.truth)
        made = to_pil(result)
        if self.request.layered is not None:
            made = transparency.put_back(made, changed, self.request.layered)
        return Candidate(seed, made, changed, stages, core, found)

    def _outcome(self, made: list[Candidate]) -> Outcome:
        order = sorted(made, key=lambda one: -1e9 if one.identity is None else one.identity, reverse=True)
        run, looked = self.run, self.scene.intake
        run.note(checks.warn_identity(order[0].metrics, self.settings.mode))
        verdicts = () if looked is None else looked.verdicts
        return Outcome(
            settings=self.settings,
            person=self.person.name,
            analysis=self.analysis,
            candidates=order,
            steps=dict(run.steps),
            notes=run.notes,
            seconds={name: round(value, 3) for name, value in run.seconds.items()},
            models=self.models,
            truth=None if self.truth is None else self.truth.picture,
            controls=self.analysis.maps("landmarks", "line", "shading"),
            layered=self.request.layered,
            pictures=[{"name": v.name, "used": v.used, "reason": v.reason, "notes": list(v.notes)} for v in verdicts],
        )


def analyse(job: Job, registry: Registry, request: Request) -> Analysis:
    """The reference's faces, crop and masks, for the page's face picker and mask preview. Leases the small face models only.

    Raises:
        ValueError: no reference, no usable face in it, settings outside their limits.
    """
    settings, picture = request.settings.validated(), request.picture()
    job.progress(0.0, "looking for the face")
    return with_tools(
        registry, settings.model_set, lambda tools: place.study(tools, picture, settings, request.face, request.box)
    )


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
    request.picture()
    request.check(settings)
    run, model_set = Run(job, Cache() if cache is None else cache), settings.model_set
    job.progress(0.0, "looking for faces")

    def seen(tools: FaceTools) -> Scene:
        with run.timed("analysis"):
            return Scene.of(tools, request, settings)

    if settings.mode == "preview":
        return with_tools(
            registry, model_set, lambda tools: MegaPortrait(run, request, settings, seen(tools), tools, tools.specs)()
        )
    # The faces are looked for before anything large is loaded: without one, minutes would be lost.
    scene = with_tools(registry, model_set, seen)
    job.progress(0.01, f"loading {sdxl.BASES[model_set].title}")
    run.load()
    try:
        return _painted(run, registry, request, settings, scene)
    except MemoryError as error:
        memory = troubles.ran_out(error)
        todo = ("make one candidate, or " if memory else "") + "choose the preview"
        todo += " or the mini set" if model_set != "mini" else ""
        raise MemoryError(f"There is not enough {memory or 'memory'} for {run.stage}: {todo}.") from error
    except (FileNotFoundError, ConnectionError) as error:
        if not named_by_us(error):
            raise
        specs = parts.specs(model_set, settings.mode, settings.preset, scene.face_parts)
        raise ValueError(checks.cannot_be_had(error, (*specs, *parts.look_specs(model_set, settings.mode)))) from error


def _painted(run: Run, registry: Registry, request: Request, settings: Settings, scene: Scene) -> Outcome:
    """The run with its large parts; out of memory, once more with the smallest preset."""
    seen = None
    if settings.looks:  # the encoder is leased alone: it is as large as half a ControlNet
        encoder, crops = controlnets.IP_ENCODER, list(scene.person.crops[: controlnets.LOOK_MOST])
        seen = registry.run(encoder, lambda model: controlnets.look_of(model, crops))
    try:
        return _leased(run, registry, request, settings, scene, seen)
    except MemoryError:
        asked, *_, smallest = [settings.preset or next(iter(PRESETS[settings.model_set])), *PRESETS[settings.model_set]]
        if asked == smallest:
            raise
    run.restart(f"The memory did not suffice for the preset {asked}: made with the preset {smallest} instead.")
    run.job.progress(0.01, f"out of memory, once more with the preset {smallest}")
    settings = replace(settings, preset=smallest)
    scene = with_tools(registry, settings.model_set, lambda tools: Scene.of(tools, request, settings))
    return _leased(run, registry, request, settings, scene, seen)


def _leased(
    run: Run, registry: Registry, request: Request, settings: Settings, scene: Scene, seen: Tensor | None
) -> Outcome:
    """The run in one lease of all its parts; ``seen``: what IP-Adapter's encoder saw of the person."""
    from pipelines.megaportrait.nets import Nets, in_tiles

    model_set, preset = settings.model_set, settings.preset
    wanted = parts.specs(model_set, "instant" if settings.looks else "trained", preset, scene.face_parts)

    def work(*models: Any) -> Outcome:
        run.loaded()
        given = dict(zip((spec.key for spec in wanted), models, strict=True))
        base, found, reader = (
            [given[spec.key] for spec in specs]
            for specs in (sdxl.BASES[model_set].parts, scene.face_parts, parts.reader_specs(model_set))
        )
        nets = Nets(base, {role: given[one.spec.key] for role, one in parts.controls(model_set, preset).items()})
        tools = tools_of(model_set, found, scene.face_parts)
        make = MegaPortrait(run, request, settings, scene, tools, wanted, nets, *reader)
        adapter = None if seen is None else (given[controlnets.IP_ADAPTER.key], seen)
        with in_tiles(nets.vae, preset_of(model_set, preset).tiles), nets.looking_at(adapter, settings.adapter_scale):
            return make()

    return registry.run(wanted, work)
