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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from pipelines.core import geometry, masks, transparency, troubles
from pipelines.core.geometry import Alpha, Mask, Picture
from pipelines.core.paper import Paper
from pipelines.core.stages import Cache, Preview, keeping
from pipelines.megaportrait import checks, light, parts, paste, place, scoring
from pipelines.megaportrait.checks import BlackPicture
from pipelines.megaportrait.parts import PRESETS, preset_of
from pipelines.megaportrait.person import SHOT, SKS, caption_of
from pipelines.megaportrait.place import Analysis, Regions
from pipelines.megaportrait.results import Candidate, Outcome, to_pil
from pipelines.megaportrait.run import KeptRun
from pipelines.megaportrait.scene import Request, Scene
from pipelines.megaportrait.settings import HARMONISED, IDENTITY, PASTED, REFERENCE, RING, SHADED, Settings
from pipelines.megaportrait.tools import FaceTools, named_by_us, skin_of, tools_of, with_tools
from pipelines.models import controlnets, look, sdxl

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec
    from pipelines.megaportrait.nets import Nets, OnStep

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

RIM = 0.12
"""What is pasted reaches so far beyond the head, in widths of the face: its soft edge must not let the reference's hair through."""


# ---------------------------------------------------------------------------------------- the pipeline


@dataclass(frozen=True)
class Hint:
    """A ControlNet's part in a stage: which, its map, how much, and up to which share of the steps."""

    role: str
    map: Picture
    weight: float
    end: float = 1.0


class MegaPortrait:
    """The paper's three nets and the paste between them, for one request: :meth:`candidate` is the whole of it."""

    def __init__(
        self,
        run: KeptRun,
        request: Request,
        scene: Scene,
        tools: FaceTools,
        specs: Mapping[str, ModelSpec],
        nets: Nets | None = None,
        verifier: Any = None,
    ) -> None:
        """``specs``: of the parts that are leased for it; ``nets``: None for a preview, which paints nothing."""
        settings = run.settings
        with run.stage("analysis"):
            self.scene = scene.read_by(verifier)
            self.truth = scoring.truth_of(request.truth, scene.analysis.picture)
        self.run, self.request, self.settings, self.tools, self.nets = run, request, settings, tools, nets
        self.analysis, self.person = self.scene.analysis, self.scene.person
        self.prompt = self._prompt()
        self.key = (
            settings.model_set,
            tuple(sorted(value for spec in specs.values() for value in spec.sha256.values())),
            tuple(spec.key for spec in specs.values()),
            self.person.key if settings.wears else "",
            (settings.adapter_scale, self.person.key) if settings.looks else None,
            settings.preset,
        )
        """All that decides a net's picture beside its own inputs."""
        run.begin(self._notes())
        run.picture(REFERENCE, self.analysis.square)

    def __call__(self) -> Outcome:
        """Every candidate; the one that is most like the person comes first."""
        settings, made = self.settings, []
        if self.nets is None:
            return self._outcome([self.preview()])
        with self.nets.wearing(self.person if settings.wears else None):
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
        self.run.picture(HARMONISED, final)
        stages |= {RING: numpy.repeat(ring.astype(numpy.uint8)[..., None] * 255, 3, 2), HARMONISED: final}
        return self._finished(seed, stages, painted, soft, core)

    def preview(self) -> Candidate:
        """The person's nearest picture pasted, in the reference's light; no diffusion."""
        settings, analysis, near = self.settings, self.analysis, self.scene.near
        self.run.progress(0.3, "pasting")
        with self.run.stage(PASTED):
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
            settings.identity_strength,
            settings.identity_steps,
            settings.identity_guidance,
            settings.identity_lora,
            settings.detail,
        )
        reach, prompt, nets = self.scene.reach, self.prompt, self._nets
        return self._net(
            IDENTITY,
            (start, reach, prompt, seed, *how),
            hints,
            lambda on_step: nets.identify(start, reach, prompt, hints, settings, seed, on_step),
        )

    def shading(self, face: Picture, skin: Mask, core: Mask, seed: int) -> Picture:
        """2. The Shading Net: the identity's structure, the reference's light; its smooth part is moved by arithmetic before."""
        settings = self.settings
        lit = self._lit(face, skin, core)
        if settings.mode == "single":  # the Identity Net has had the light's map
            self.run.picture(SHADED, lit)
            return lit
        line = self.analysis.map_of("line", face)
        hints = [
            Hint("line", line, settings.shading_line, settings.shading_line_end),
            self._light(face, skin, core),
        ]
        how = (
            settings.shading_strength,
            settings.shading_steps,
            settings.shading_guidance,
            settings.shading_lora,
            settings.detail,
        )
        prompt, nets = self.prompt, self._nets
        return self._net(
            SHADED,
            (lit, prompt, seed, *how),
            hints,
            lambda on_step: nets.shade(lit, prompt, hints, settings, seed, on_step),
        )

    def paste(self, face: Picture, core: Mask) -> tuple[Picture, Alpha]:
        """3. The face laid into the reference, and the alpha of what was taken from it. No network."""
        settings, analysis = self.settings, self.analysis
        method = "poisson" if settings.poisson else "feather"
        with self.run.stage(PASTED):
            composite, alpha = paste.paste(
                face, analysis.square, core, None, method, analysis.width, settings.erode, settings.feather
            )
        self.run.picture(PASTED, composite)
        return composite, alpha

    def harmonisation(self, composite: Picture, shaded: Picture, alpha: Alpha, ring: Mask, seed: int) -> Picture:
        """4. The Harmonization Net: only the ring around the pasted face is painted anew, without the paste's own edge."""
        settings, analysis = self.settings, self.analysis
        with self.run.stage(PASTED):
            seamless = paste.without_seam(composite, shaded, analysis.square, alpha, ring)
        hints = [
            Hint("line", analysis.map_of("line", seamless), settings.harmonise_line),
            Hint("shading", analysis.map_of("shading", seamless), settings.harmonise_map),
        ]
        how = (
            settings.harmonise_strength,
            settings.harmonise_steps,
            settings.harmonise_guidance,
            settings.harmonise_lora,
            settings.detail,
        )
        prompt, nets = self.prompt, self._nets
        painted = self._net(
            HARMONISED,
            (seamless, ring, prompt, seed, *how),
            hints,
            lambda on_step: nets.harmonise(seamless, ring, prompt, hints, settings, seed, on_step),
        )
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
        with self.run.stage("metrics"):
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
        run.note(checks.warn_identity(order[0].metrics, self.settings.mode) or "")
        verdicts = () if looked is None else looked.verdicts
        return Outcome(
            settings=self.settings,
            person=self.person.name,
            analysis=self.analysis,
            candidates=order,
            steps=dict(run.steps),
            notes=run.notes,
            seconds={name: round(value, 3) for name, value in run.seconds.items()},
            models=run.models,
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
    run = KeptRun(job, registry, request.settings, cache)
    model_set = run.settings.model_set
    request.picture()
    request.check(run.settings)
    job.progress(0.0, "looking for faces")
    if run.settings.mode == "preview":
        return with_tools(registry, model_set, lambda tools: _previewed(run, request, tools))
    # The faces are looked for before anything large is loaded: without one, minutes would be lost.
    scene = _scene(run, request)
    run.load()
    try:
        return _painted(run, request, scene)
    except MemoryError as error:
        memory = troubles.ran_out(error)
        todo = ("make one candidate, or " if memory else "") + "choose the preview"
        todo += " or the mini set" if model_set != "mini" else ""
        raise MemoryError(f"There is not enough {memory or 'memory'} for {run.current}: {todo}.") from error
    except (FileNotFoundError, ConnectionError) as error:
        if not named_by_us(error):
            raise
        mode = run.settings.mode
        specs = parts.specs(model_set, mode, run.settings.preset, scene.face_parts).values()
        raise ValueError(checks.cannot_be_had(error, (*specs, *parts.look_specs(model_set, mode)))) from error


def _scene(run: KeptRun, request: Request) -> Scene:
    def seen(tools: FaceTools) -> Scene:
        with run.stage("analysis"):
            return Scene.of(tools, request, run.settings)

    return with_tools(run.registry, run.settings.model_set, seen)


def _previewed(run: KeptRun, request: Request, tools: FaceTools) -> Outcome:
    """The preview, which needs the face models only."""
    with run.stage("analysis"):
        scene = Scene.of(tools, request, run.settings)
    run.models = [{"key": s.key, "source": s.source, "licence": s.licence} for s in tools.specs.values()]
    return MegaPortrait(run, request, scene, tools, tools.specs)()


def _painted(run: KeptRun, request: Request, scene: Scene) -> Outcome:
    """The run with its large parts; out of memory, once more with the smallest preset."""
    settings, seen = run.settings, None
    if settings.looks:  # the encoder is leased alone: it is as large as half a ControlNet
        crops = list(scene.person.crops[: controlnets.LOOK_MOST])
        seen = run.registry.run(controlnets.IP_ENCODER, lambda model: controlnets.look_of(model, crops))
    try:
        return _leased(run, request, scene, seen)
    except MemoryError:
        known = list(PRESETS[settings.model_set])
        asked, smallest = settings.preset or known[0], known[-1]
        if asked == smallest:
            raise
    why = f"The memory did not suffice for the preset {asked}: made with the preset {smallest} instead."
    run.settle_for(smallest, why)
    return _leased(run, request, _scene(run, request), seen)


def _leased(run: KeptRun, request: Request, scene: Scene, seen: Tensor | None) -> Outcome:
    """The run in one lease of all its parts; ``seen``: what IP-Adapter's encoder saw of the person."""
    from pipelines.megaportrait.nets import Nets, in_tiles

    settings, base = run.settings, sdxl.BASES[run.settings.model_set]
    preset, mode = settings.preset, "instant" if settings.looks else "trained"
    wanted = parts.specs(settings.model_set, mode, preset, scene.face_parts)

    def work(verifier: Any = None, adapter: Any = None, **models: Any) -> Outcome:
        run.loaded()
        encoder = controlnets.IP_ENCODER
        named = {"key": encoder.key, "source": encoder.source, "licence": encoder.licence}
        if seen is not None and named not in run.models:
            run.models.append(named)
        roles = parts.controls(settings.model_set, preset)
        nets = Nets({name: models[name] for name in base.named}, {role: models[role] for role in roles})
        tools = tools_of(settings.model_set, scene.face_parts, models)
        make = MegaPortrait(run, request, scene, tools, wanted, nets, verifier)
        shown = None if seen is None else (adapter, seen)
        with in_tiles(nets.vae, preset_of(settings.model_set, preset).tiles):
            with nets.looking_at(shown, settings.adapter_scale):
                return make()

    unnamed = [name for name in base.named if name != "unet"]
    return run.lease(wanted, work, loading=base.title, at=0.01, unnamed=unnamed)
