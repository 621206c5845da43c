"""MegaPortrait (arXiv 2411.04357) in its published outline: a person goes into a reference portrait, in its pose, light, clothes and place.

Of the paper only the outline is public to us: Identity Net (a model fine-tuned on the person's pictures, ``pipelines/megaportrait/person.py``),
Shading Net (:meth:`MegaPortrait.shading`: the identity's structure, the reference's light), paste, Harmonization Net
(:meth:`MegaPortrait.harmonisation`: only the ring around the pasted face). All three are one SDXL, the registry's shared one, with
ControlNets and a LoRA; the full set's instant mode shows it the person by IP-Adapter instead. This is an unofficial re-creation: every number is ours, after EasyPhoto and FaceChain where those say one.
Not to be confused with MegaPortraits (2022, head avatars).

:func:`generate` runs everything for the page, with each stage kept in a ``Cache`` by its inputs. Outside the mask of a result every
pixel is the reference's. Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool, points (5, 2) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy

from pipelines.core import geometry, masks, transparency, troubles
from pipelines.core.geometry import Alpha, Mask, Picture
from pipelines.core.paper import Paper
from pipelines.core.registry import too_little_ram
from pipelines.core.run import KeptRun
from pipelines.core.stages import Cache, Preview, keeping
from pipelines.megaportrait import checks, light, parts, paste, place, scoring
from pipelines.megaportrait.checks import BlackPicture
from pipelines.megaportrait.parts import PRESETS, preset_of
from pipelines.megaportrait.person import SHOT, SKS, caption_of
from pipelines.megaportrait.place import Analysis, Regions
from pipelines.megaportrait.results import Candidate, Outcome, to_pil
from pipelines.megaportrait.scene import Request, Scene
from pipelines.megaportrait.settings import HARMONISED, IDENTITY, NETS, PASTED, REFERENCE, RING, SHADED, Settings
from pipelines.megaportrait.tools import FaceTools, at_hand, named_by_us, skin_of, tools_of, with_tools
from pipelines.models import annotators, controlnets, look, sdxl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec
    from pipelines.megaportrait.nets import Nets
    from pipelines.megaportrait.taught import TaughtNets
    from pipelines.models.verifier import SceneVerifier

__all__ = ["PAPER", "Cache", "MegaPortrait", "Preview", "Request", "Settings", "analyse", "generate", "keeping"]

T = TypeVar("T")

PAPER = Paper(
    title="MegaPortrait: Revisiting Diffusion Control for High-fidelity Portrait Generation",
    authors=("Han Yang", "Sotiris Anagnostidis", "Enis Simsar", "Thomas Hofmann"),
    venue="arXiv, 2024",
    url="https://arxiv.org/abs/2411.04357",
    summary="A person, learnt from a few pictures, goes into another portrait with its pose, light and clothes.",
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
        run: KeptRun[Settings],
        request: Request,
        scene: Scene,
        tools: FaceTools,
        specs: Mapping[str, ModelSpec],
        nets: Nets | TaughtNets | None = None,
        verifier: SceneVerifier | None = None,
        drawing: nn.Module | None = None,
    ) -> None:
        """``specs``: of the parts that are leased for it; ``nets``: None for a preview, which paints nothing; ``drawing``: the network
        that draws the lines, where one does."""
        settings = run.settings
        run.begin(
            settings.candidates * sum(settings.effective().values()),
            settings.model_set,
            tuple(sorted(value for spec in specs.values() for value in spec.sha256.values())),
            tuple(spec.key for spec in specs.values()),
            scene.person.key if settings.wears else "",
            (settings.adapter_scale, scene.person.key) if settings.looks else None,
            settings.preset,
        )
        with run.stage("analysis"):
            self.scene = scene.read_by(verifier)
            self.truth = scoring.truth_of(request.truth, scene.analysis.picture)
        self.run, self.request, self.settings, self.tools, self.nets = run, request, settings, tools, nets
        self.drawing = drawing
        self.analysis, self.person = self.scene.analysis, self.scene.person
        self.prompt = self._prompt()
        self.steps = dict.fromkeys(NETS, 0)
        """Steps that each net took, per candidate."""
        self.between: dict[str, Picture] = {}
        """Of the candidate that is being made, pictures that stand between its stages."""
        self._say()
        run.finished(REFERENCE, self.analysis.square)

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
        """Identity Net -> Shading Net -> paste -> Harmonization Net."""
        self.between = {}
        face = self.identity(seed)
        skin, core = self.regions(face)
        shaded = self.shading(face, skin, core, seed)
        pasted, alpha = self.paste(shaded, core)
        painted, alpha, harmonised = self.harmonisation(pasted, shaded, alpha, core, seed)
        stages = {IDENTITY: face, **self.between, PASTED: pasted, **harmonised}
        stages |= {} if self.settings.no_shading else {SHADED: shaded}
        return self._finished(seed, stages, painted, alpha, core)

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
            Hint("landmarks", self._map("landmarks", analysis.square), settings.landmarks),
            Hint("line", self._map("line", start), settings.line, settings.line_end),
            Hint("shading", self._map("shading", start), settings.colour, settings.colour_end),
        ]
        if settings.mode == "single" and not settings.no_shading:
            hints.append(self._light(start, self._skin(start), analysis.core))
        return self._net(IDENTITY, start, self.scene.reach, hints, seed)

    def regions(self, face: Picture) -> tuple[Mask, Mask]:
        """The skin of the person's face, and what of the reference it takes the place of."""
        analysis = self.analysis
        regions = place.regions_in(self.tools, face, analysis.face, analysis.points)
        return regions.skin, self._core(regions)

    def shading(self, face: Picture, skin: Mask, core: Mask, seed: int) -> Picture:
        """2. The Shading Net: the identity's structure, the reference's light; its smooth part is moved by arithmetic before."""
        settings = self.settings
        if settings.no_shading:
            return face
        lit = self._lit(face, skin, core)
        if settings.mode == "single":  # the Identity Net has had the light's map
            self.run.finished(SHADED, lit)
            return lit
        line = self._map("line", face)
        hints = [
            Hint("line", line, settings.shading_line, settings.shading_line_end),
            self._light(face, skin, core),
        ]
        return self._net(SHADED, lit, None, hints, seed)

    def paste(self, face: Picture, core: Mask) -> tuple[Picture, Alpha]:
        """3. The face laid into the reference, and the alpha of what was taken from it. No network."""
        settings, analysis = self.settings, self.analysis
        method = "poisson" if settings.poisson else "feather"
        with self.run.stage(PASTED):
            composite, alpha = paste.paste(
                face, analysis.square, core, None, method, analysis.width, settings.erode, settings.feather
            )
        self.run.finished(PASTED, composite)
        return composite, alpha

    def harmonisation(
        self, pasted: Picture, shaded: Picture, alpha: Alpha, core: Mask, seed: int
    ) -> tuple[Picture, Alpha, dict[str, Picture]]:
        """4. The Harmonization Net: only the ring around the pasted face is painted anew, without the paste's own edge.

        Returns:
            The square, how much of it is taken, and the pictures of the stage.
        """
        settings, analysis = self.settings, self.analysis
        if numpy.array_equal(pasted, analysis.square):  # nothing was asked for: nothing is resampled either
            return analysis.square, numpy.zeros_like(alpha), {}
        if settings.no_harmonisation:
            return pasted if settings.poisson else shaded, alpha, {}
        ring = paste.ring_of(core, analysis.width)
        with self.run.stage(PASTED):
            seamless = paste.without_seam(pasted, shaded, analysis.square, alpha, ring)
        harmonised = self._melted(seamless, ring, seed)
        harmonised = paste.smoothly_changed(seamless, harmonised, ring, settings.harmonise_smooth * analysis.width)
        painted, soft = self._stitched(harmonised, pasted, core, ring)
        final = paste.blend(painted, analysis.square, soft)
        self.run.finished(HARMONISED, final)
        return painted, soft, {RING: numpy.repeat(ring.astype(numpy.uint8)[..., None] * 255, 3, 2), HARMONISED: final}

    # ---- what the stages need

    def _melted(self, seamless: Picture, ring: Mask, seed: int) -> Picture:
        """What the Harmonization Net makes of the composite, inside ``ring``."""
        hints = [
            Hint("line", self._map("line", seamless), self.settings.harmonise_line),
            Hint("shading", self._map("shading", seamless), self.settings.harmonise_map),
        ]
        return self._net(HARMONISED, seamless, ring, hints, seed)

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
        back = settings.core_back if self.steps[HARMONISED] and kept.any() else 0.0
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
        return Hint("shading", self._map("shading", lit), settings.shading_map, settings.shading_map_end)

    def _controls(self) -> dict[str, Picture]:
        """What the nets were led by, for the files of a run."""
        return {role: self._map(role, self.analysis.square) for role in ("landmarks", "line", "shading")}

    def _map(self, role: str, picture: Picture) -> Picture:
        """What the ControlNet of a role is shown of a picture of the square's size."""
        if role == "line" and self.drawing is not None:
            return annotators.line_drawing(self.drawing, picture)
        return self.analysis.map_of(role, picture)

    def _net(self, stage: str, start: Picture, mask: Mask | None, hints: Sequence[Hint], seed: int) -> Picture:
        """What one of the nets makes of ``start`` inside ``mask``: kept from before, or painted."""
        nets: Any = self.nets
        net, run = self.settings.net(stage), self.run
        self.steps[stage] = net.count
        led = [part for hint in hints for part in (hint.role, hint.map, hint.weight, hint.end)]
        with run.steps(stage, net.count) as on_step:
            painted: Picture = run.kept(
                stage,
                lambda: nets.paint(net, start, mask, self.prompt, hints, seed, on_step),
                start,
                mask,
                self.prompt,
                seed,
                net,
                *led,
            )
        run.finished(stage, painted)
        return painted

    def _prompt(self) -> str:
        """The caption of the person in the reference; only a trained model knows the word for the person."""
        if self.settings.model_set != "mini":
            return f"{SKS}, portrait" if self.settings.wears else "portrait of a person"
        shot = {name: value for name, value in self.analysis.attributes.items() if name in SHOT}
        return caption_of(self.person.facts.get("attributes", {}) | shot)

    def _say(self) -> None:
        """What is said before anything is painted."""
        request, scene = self.request, self.scene
        self.run.say(
            *request.lost,
            checks.TRANSPARENT if request.layered is not None else None,
            *scene.notes,
            checks.warn_glasses(self.person, request.glasses),
            checks.warn_photograph(self.person, self.analysis, self.settings),
        )

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
            self.run.say(*notes)
            embeddings = list(self.person.embeddings)
            found = scoring.measures(result, changed, core, analysis, self.tools, embeddings, self.truth)
        made = to_pil(result)
        if self.request.layered is not None:
            made = transparency.put_back(made, changed, self.request.layered)
        return Candidate(seed, made, changed, stages, core, found)

    def _outcome(self, made: list[Candidate]) -> Outcome:
        order = sorted(made, key=lambda one: -1e9 if one.identity is None else one.identity, reverse=True)
        run, looked = self.run, self.scene.intake
        run.say(checks.warn_identity(order[0].metrics, self.settings.mode))
        verdicts = () if looked is None else looked.verdicts
        return Outcome(
            settings=self.settings,
            person=self.person.name,
            analysis=self.analysis,
            candidates=order,
            steps=dict(self.steps),
            notes=run.notes,
            seconds={name: round(value, 3) for name, value in run.seconds.items()},
            models=run.models,
            truth=None if self.truth is None else self.truth.picture,
            controls=self._controls(),
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


def generate(job: Job, registry: Registry, request: Request, cache: Cache | None = None) -> Outcome:
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
        return _with_faces(
            run, lambda tools: MegaPortrait(run, request, _scene(run, request, tools), tools, tools.specs)()
        )
    # The faces are looked for before anything large is loaded: without one, minutes would be lost.
    scene = _with_faces(run, lambda tools: _scene(run, request, tools))
    try:
        return _painted(run, request, scene)
    except MemoryError as error:
        if too_little_ram(error):
            raise
        memory = troubles.ran_out(error)
        todo = ("make one candidate, or " if memory else "") + "choose the preview"
        todo += " or the mini set" if model_set != "mini" else ""
        what = f"the stage {run.current}" if run.current in NETS else run.current
        raise MemoryError(f"There is not enough {memory or 'memory'} for {what}: {todo}.") from error
    except (FileNotFoundError, ConnectionError) as error:
        if not named_by_us(error):
            raise
        mode = run.settings.mode
        specs = parts.specs(model_set, mode, run.settings.preset, scene.face_parts, run.settings.lines).values()
        raise ValueError(checks.cannot_be_had(error, (*specs, *parts.look_specs(model_set, mode)))) from error


def _with_faces(run: KeptRun[Settings], work: Callable[[FaceTools], T]) -> T:
    """``work`` with the face tools, which are leased alone: they are small."""
    model_set = run.settings.model_set
    specs = at_hand(run.registry, model_set)
    return run.lease(
        specs, lambda **models: work(tools_of(model_set, specs, models)), loading="what finds faces", at=0.01
    )


def _scene(run: KeptRun[Settings], request: Request, tools: FaceTools) -> Scene:
    with run.stage("analysis"):
        return Scene.of(tools, request, run.settings)


def _painted(run: KeptRun[Settings], request: Request, scene: Scene) -> Outcome:
    """The run with its large parts; out of memory, once more with the smallest preset."""
    settings, seen = run.settings, None
    if settings.looks:  # the encoder is leased alone: it is as large as half a ControlNet
        from pipelines.models.sdxl_parts import look_of

        crops = list(scene.person.crops[: controlnets.LOOK_MOST])
        encoder = {"encoder": controlnets.IP_ENCODER}
        seen = run.lease(encoder, lambda encoder: look_of(encoder, crops), loading="what looks at faces")
    try:
        return _with_models(run, request, scene, seen)
    except MemoryError as error:
        known = list(PRESETS[settings.model_set])
        asked, smallest = settings.preset or known[0], known[-1]
        if asked == smallest or too_little_ram(error):
            raise
    why = f"The memory did not suffice for the preset {asked}: made with the preset {smallest} instead."
    run.retry(replace(settings, preset=smallest), why)
    return _with_models(run, request, _with_faces(run, lambda tools: _scene(run, request, tools)), seen)


def _with_models(run: KeptRun[Settings], request: Request, scene: Scene, seen: Tensor | None) -> Outcome:
    """The run in one lease of all its parts; ``seen``: what IP-Adapter's encoder saw of the person."""
    if run.settings.taught:
        return _with_taught(run, request, scene)
    from pipelines.megaportrait.nets import Nets, in_tiles

    settings, base = run.settings, sdxl.FIRST[run.settings.model_set]
    preset, mode = settings.preset, "instant" if settings.looks else "trained"
    wanted = parts.specs(settings.model_set, mode, preset, scene.face_parts, settings.lines)

    def work(
        verifier: SceneVerifier | None = None,
        adapter: Mapping[str, Mapping[str, Tensor]] | None = None,
        drawing: nn.Module | None = None,
        **models: Any,
    ) -> Outcome:
        encoder = controlnets.IP_ENCODER
        named = {"key": encoder.key, "source": encoder.source, "licence": encoder.licence}
        if seen is not None and named not in run.models:
            run.models.append(named)
        roles = parts.controls(settings.model_set, preset, settings.lines)
        nets = Nets({name: models[name] for name in base.named}, {role: models[role] for role in roles})
        tools = tools_of(settings.model_set, scene.face_parts, models)
        make = MegaPortrait(run, request, scene, tools, wanted, nets, verifier, drawing)
        shown = None if seen is None or adapter is None else (adapter, seen)
        with in_tiles(nets.vae, preset_of(settings.model_set, preset).tiles):
            with nets.looking_at(shown, settings.adapter_scale):
                return make()

    unnamed = [name for name in base.named if name != "unet"]
    return run.lease(wanted, work, loading=base.title, at=0.01, unnamed=unnamed)


def _with_taught(run: KeptRun[Settings], request: Request, scene: Scene) -> Outcome:
    """The run with the nets that were taught on rendered truth."""
    from pipelines.megaportrait.taught import Taught, TaughtNets

    settings = run.settings
    wanted = parts.specs(settings.model_set, settings.mode, face_parts=scene.face_parts)

    def work(verifier: SceneVerifier | None = None, **models: Any) -> Outcome:
        tools = tools_of(settings.model_set, scene.face_parts, models)
        return Taught(run, request, scene, tools, wanted, TaughtNets(models), verifier)()

    return run.lease(wanted, work, loading="the small nets", at=0.01, unnamed=parts.BESIDE_TAUGHT)
