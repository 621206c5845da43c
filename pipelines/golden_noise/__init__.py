"""Golden Noise for Diffusion Models (Zhou et al., ICCV 2025, arXiv 2411.09502), usable.

A picture's starting noise is not neutral: some noises follow a prompt better. The paper draws pairs of a noise
and its "golden" twin by *re-denoise sampling* (one denoising step with strong guidance, one inversion step with
weak guidance: :func:`redenoise`), keeps those that a reward prefers, and trains a network, NPNet
(``pipelines/golden_noise/npnet.py``), to go from the one to the other in a single pass. :func:`generate` draws one prompt from
both noises in one batch, so that nothing but the noise differs.

Module level is free of torch; models come from the registry for the length of a run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipelines.core import asset_files, scores
from pipelines.core.images import to_pil
from pipelines.core.paper import Paper
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.core.text import words
from pipelines.core.weights import ROOT, ModelSpec, asset_spec, resolve
from pipelines.models import judges, sdxl
from pipelines.models.sdxl import draw_noise
from pipelines.worlds.prompts import read_prompt, surprise

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from PIL.Image import Image
    from torch import Tensor, nn

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier, Verdict

__all__ = [
    "EXAMPLES",
    "PAPER",
    "GoldenNoise",
    "Outcome",
    "Preview",
    "Settings",
    "generate",
    "glance",
    "redenoise",
    "surprise",
]
T = TypeVar("T")

PAPER = Paper(
    title="Golden Noise for Diffusion Models: A Learning Framework",
    authors=("Zikai Zhou", "Shitong Shao", "Lichen Bai", "Shufei Zhang", "Zhiqiang Xu", "Bo Han", "Zeke Xie"),
    venue="ICCV 2025",
    url="https://arxiv.org/abs/2411.09502",
    summary="A small network moves the starting noise once, towards what the prompt asks for.",
    idea=(
        "The random noise that a diffusion model starts from already leans towards some pictures and away from others. "
        "A small network, NPNet, reads the prompt and moves the noise a little, once, before the model draws."
    ),
    ours=(
        "The code, the embedded image model, its small NPNet, the rendered world with its exact verifier, and the measurements."
    ),
    theirs="The method (re-denoise sampling, reward filter, NPNet's architecture) and, with the full set, the SDXL weights of NPNet.",
    licence="Code and embedded weights Apache-2.0; Stable Diffusion XL is openrail++; see the authors' page for their NPNet.",
    code_url="https://github.com/xie-lab-ml/Golden-Noise-for-Diffusion-Models",
)

USUAL: tuple[tuple[str, int], ...] = (
    ("a red cone to the left of a blue ball on a wooden floor", 21),
    ("a smiling person with long red hair, glasses and no beard, wearing a green sweater", 5),
    ("a bearded person with curly black hair and no glasses in a yellow jumper against a blue wall", 9),
)
"""Prompts of the embedded model's world, each with a seed, that nobody chose by how they come out."""
CHOSEN = ROOT / "assets/golden_noise/examples.json"


def _chosen() -> tuple[tuple[str, int], ...]:
    """The examples that ``assets/golden_noise/examples.py`` chose by how they come out."""
    listed = json.loads(CHOSEN.read_text(encoding="utf-8"))["examples"]
    return tuple((str(one["prompt"]), int(one["seed"])) for one in listed)


EXAMPLES = asset_files.reading(CHOSEN, _chosen, lambda: ()) + USUAL
"""Prompts with a seed. First those that were picked, as the page says: two where golden noise alone is right, one where standard noise
alone is; then the usual ones."""


SOURCES: dict[str, str] = {
    "npnet": "NPNet, our FiLM network",
    "npnet_paper": "NPNet, the paper's network",
    "redenoise": "Re-denoise sampling, no network",
    "redenoise_released": "Re-denoise sampling as the authors’ code does it, no network",
}
"""Where golden noise may come from: key -> words of the page."""

LOCAL = "LATENT_STUDIO_NPNET"
"""Environment variable: a local copy of the authors' NPNet for SDXL, so that it is not fetched."""

NO_NETWORK = ("redenoise", "redenoise_released")
"""Sources that need no NPNet."""
FEW_MOST = 50
"""Steps on the grid that LCM-LoRA was distilled on."""
GRID, STRONG, WEAK = 10, 5.5, 1.0
"""Re-denoise sampling with the numbers of the paper's code: on a grid of ten steps, guidance 5.5 down and 1 back."""
LOOKS, SIGNAL, SIGNAL_SEED = 4, 2.0, 3 * 2**28
"""The signal that the noise lacks: looks of the model at other noises, factor (chosen on validation prompts), and the seed of
the looks (times LOOKS it lies above every visitor's seed)."""

HEAT = ((13, 22, 43), (46, 64, 128), (152, 70, 140), (233, 124, 84), (250, 226, 150))
"""Colours of the heat map from 0 to its largest value; lightness rises evenly, so that it reads without colour too."""


@dataclass(frozen=True)
class Drawing(Declared):
    """What decides a pair of pictures but where its golden noise comes from."""

    prompt: str = text("Prompt", 300, "The prompt is empty: describe a picture, or press an example.")
    seed: int = seed()
    steps: int = whole("Steps", 25, 1, 100, name="number of steps")
    guidance: float = real("Guidance", 5.5, 1.0, 20.0, step=0.5)
    strength: float = real(
        "Golden strength", 1.0, -1.0, 4.0, step=0.1, info="0 keeps the noise as it is, 1 is the paper’s setting."
    )
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)


@dataclass(frozen=True)
class Settings(Drawing):
    """Everything that decides a run; the same settings give the same pictures, byte for byte, on the same machine."""

    source: str = choice("Golden noise from", "npnet", SOURCES)
    base: str = choice("Image model", "", sdxl.OTHER_WORDS, name="The image model", optional=True, shown=False)
    """One of ``sdxl.OTHERS``, in the full set; empty: the set's own."""
    sampler: str = choice("Sampler", "", sdxl.SAMPLERS, name="The sampler", optional=True, shown=False)
    """Empty: the image model's own."""

    def validated(self) -> Self:
        exact = super().validated()
        if exact.model.scheduler and exact.steps > FEW_MOST:
            raise ValueError(
                f"The number of steps is {exact.steps} but a few-step model takes at most {FEW_MOST}: 4 to 8 are usual."
            )
        return exact

    @property
    def model(self) -> sdxl.Base:
        """The image model that draws."""
        return sdxl.base_of(self.model_set, self.base)

    def remarks(self) -> Iterator[str]:
        """What has to be said of these choices with the result."""
        if self.base.startswith("ssd") and self.source not in NO_NETWORK:
            yield (
                "NPNet learnt from noises and pictures of Stable Diffusion XL 1.0. SSD-1B reads the same prompts and draws the same kind of "
                "latents, so that it can be used; whether it helps there, nobody has measured."
            )
        if self.model.scheduler and self.guidance > 2:
            yield "A few-step model is drawn with guidance 1 to 2: more makes its colours glaring."
        if self.model.scheduler and self.sampler:
            yield "A few-step model is drawn with its own sampler: the other one was left out."

    @classmethod
    def of(cls, model_set: str) -> Settings:
        """The defaults of a model set, with the first example."""
        base, (prompt, seed) = sdxl.BASES[model_set], EXAMPLES[0]
        source = next(iter(sources(model_set)))
        return cls(prompt, seed, steps=base.steps, guidance=base.guidance, model_set=model_set, source=source)


SHOWN = (0.08, 0.24, 0.44, 0.68)
"""Shares of the steps after which a preview is shown: the sooner the better, and few, because four take as long as three steps."""


@dataclass
class Preview:
    """What both rows look like after ``step`` of ``steps``."""

    step: int
    steps: int
    standard: Image
    golden: Image


@dataclass
class Outcome:
    """A finished run: both pictures, their verdicts and what was measured on the way (JSON-able)."""

    settings: Settings
    standard: Image
    golden: Image
    verdict_standard: list[Verdict]
    verdict_golden: list[Verdict]
    measurements: dict[str, Any]
    heat: Image
    """Where the noise was changed, see ``inspection.heat_map``."""


# ------------------------------------------------------------------------------------------- models


def _load_npnet(spec: ModelSpec) -> Any:
    from pipelines.golden_noise import film, npnet

    if spec.key.startswith("mini"):
        folder = resolve(spec) / spec.key.rsplit("/", 1)[1]
        name = json.loads((folder / "config.json").read_text())["_class_name"]
        return (
            {"NPNet": npnet.NPNet, "FilmNPNet": film.FilmNPNet}[name]
            .from_pretrained(folder, use_safetensors=True)
            .eval()
            .requires_grad_(False)
        )
    file = _official_file(spec)
    try:
        return npnet.load_official(file)
    except (ValueError, FileNotFoundError) as error:  # a visitor may read it: where the file lies is not for them
        raise type(error)(str(error).replace(str(file), file.name)) from error


def _official_file(spec: ModelSpec) -> Path:
    """The authors' checkpoint: the file, or the folder with it, that :data:`LOCAL` names; else from the Hub."""
    named = os.environ.get(LOCAL)
    place = Path(named) if named else resolve(spec)
    if place.is_file():
        return place
    files = sorted(p for p in place.rglob("*sdxl*") if p.suffix in (".pth", ".pt", ".safetensors"))
    if not files:
        where = f"where {LOCAL} points" if named else f"in {spec.source}"
        raise FileNotFoundError(f"no SDXL checkpoint of NPNet is {where}: put sdxl.pth there")
    return files[0]


def _small_npnet(part: str, card: str) -> ModelSpec:
    return asset_spec(f"mini-npnet/{part}", "assets/mini_npnet", _load_npnet, part, card)


_OFFICIAL = ModelSpec(
    "npnet-sdxl",
    "Klayand/GoldenNoiseModel",
    _load_npnet,
    "see the authors' model page",
    121_960_000,
    card="the authors' NPNet for SDXL",
    files=("*sdxl*",),
    fetch=_official_file,
    brings=lambda spec: () if os.environ.get(LOCAL) else (spec,),
)
NPNETS: dict[str, dict[str, ModelSpec]] = {
    "mini": {
        "npnet": _small_npnet("film", "our small NPNet, a FiLM U-Net"),
        "npnet_paper": _small_npnet("paper", "our small NPNet, the paper's network"),
    },
    "full": {"npnet": _OFFICIAL, "npnet_paper": _OFFICIAL},
}
"""Model set -> source -> network. The authors published one NPNet for SDXL, by their own recipe."""


def sources(model_set: str) -> dict[str, str]:
    """The different sources that ``model_set`` has: key -> words of the page."""
    if model_set == "mini":
        return SOURCES
    return {"npnet_paper": "NPNet, the authors' weights for SDXL", **{key: SOURCES[key] for key in NO_NETWORK}}


def parts(model_set: str, source: str = "npnet", base: str = "") -> dict[str, ModelSpec]:
    """The parts that a run leases, by name: the base model's, NPNet (unless nothing but re-denoising is asked for) and, for
    our own world, the judge."""
    network = {} if source in NO_NETWORK else {"npnet": NPNETS[model_set][source]}
    return judges.judged(sdxl.base_of(model_set, base)) | network


# ------------------------------------------------------------------------------------------- stages


def redenoise(
    noise: Tensor,
    predict: Callable[[Tensor, int, float], Tensor],
    scheduler: DDIMScheduler,
    strong: float,
    weak: float,
    released: bool = False,
) -> Tensor:
    """Golden noise without a network: one DDIM step down with guidance ``strong``, one exact step back with ``weak``.

    ``predict(latents, timestep, guidance)`` returns the guided noise prediction (epsilon). With strong = weak and a
    prediction that does not depend on the latents, the result is ``noise`` itself. The scheduler's first two
    timesteps are used, so its number of steps sets how far the noise moves (section 3.1 of the paper).

    ``released``: the step back as in the authors' published code, which asks the model at the first level again, and inverts from one
    grid step below the second level up to the second: with strong = weak it does not come back to ``noise``.
    """
    first, second = (int(t) for t in scheduler.timesteps[:2])
    table = scheduler.alphas_cumprod.to(noise.device).double()
    high, low = table[first].item(), table[second].item()  # shares of signal: `high` noise, `low` noise
    epsilon = predict(noise, first, strong)
    clean = (noise - math.sqrt(1 - high) * epsilon) / math.sqrt(high)
    moved = math.sqrt(low) * clean + math.sqrt(1 - low) * epsilon
    epsilon = predict(moved, first if released else second, weak)
    if released:
        below = second - scheduler.config["num_train_timesteps"] // len(scheduler.timesteps)
        high, low = low, table[max(below, 0)].item()
    clean = (moved - math.sqrt(1 - low) * epsilon) / math.sqrt(low)
    return math.sqrt(high) * clean + math.sqrt(1 - high) * epsilon


def with_signal(noise: Tensor, clean: Tensor, share: float, factor: float = 1.0) -> Tensor:
    """``noise`` and a little of the clean latents, √(1 - ᾱ)·noise + factor·√ᾱ·clean, where ``share`` is ᾱ of the first level.

    With factor 1 this is what training calls that level. Sampling starts from noise alone instead, and a model believes
    that: large surfaces come out grey on average (the signal leak: Everaert et al., WACV 2024, arXiv 2309.15842).
    """
    return math.sqrt(1 - share) * noise + factor * math.sqrt(share) * clean


def golden_with_strength(noise: Tensor, golden: Tensor, strength: float) -> Tensor:
    """Go ``strength`` of the way from ``noise`` to ``golden``: 1 arrives, more goes beyond, less than 0 away.

    Strength 0 returns ``noise`` itself, the very same object. Otherwise a new tensor of the dtype of ``noise``, worked out in float32.
    """
    if not math.isfinite(strength):
        raise ValueError(f"golden strength is {strength} but must be a number: 0 is standard noise, 1 golden")
    if noise.shape != golden.shape:
        raise ValueError(
            f"noise is {tuple(noise.shape)} but golden noise is {tuple(golden.shape)}: use two of one shape"
        )
    if strength == 0:
        return noise
    return noise.float().lerp(golden.float(), strength).to(noise.dtype)


def guided_prediction(
    pipe: StableDiffusionXLPipeline, prompt_embeds: tuple[Tensor, ...]
) -> Callable[[Tensor, int, float], Tensor]:
    """``predict`` for :func:`redenoise` from an SDXL pipeline and what its ``encode_prompt`` returned."""
    positive, negative, pooled, negative_pooled = prompt_embeds
    size = float(pipe.vae_scale_factor * pipe.unet.config.sample_size)
    ids = positive.new_tensor([size, size, 0, 0, size, size])

    def predict(latents: Tensor, timestep: int, guidance: float) -> Tensor:
        rows = len(latents)
        table = pipe.scheduler.alphas_cumprod.to(latents.device)
        share = table[timestep].to(latents.dtype)
        with_prompt = pipe.unet(
            latents, timestep, positive, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids.expand(rows, -1)}
        ).sample
        out = with_prompt
        if guidance != 1.0:
            without = pipe.unet(
                latents,
                timestep,
                negative,
                added_cond_kwargs={"text_embeds": negative_pooled, "time_ids": ids.expand(rows, -1)},
            ).sample
            out = without + guidance * (with_prompt - without)
        if pipe.scheduler.config.prediction_type == "v_prediction":
            out = share.sqrt() * out + (1 - share).sqrt() * latents
        return out

    return predict


# ------------------------------------------------------------------------------------------ pipeline


class GoldenNoise:
    """NPNet in front of an SDXL pipeline. Holds leased models only; makes no change to them."""

    def __init__(self, pipe: StableDiffusionXLPipeline, npnet: nn.Module | None, released: bool = False) -> None:
        self.pipe, self.npnet = pipe, npnet
        self.released = released
        """Re-denoising as in the authors' published code: see :func:`redenoise`."""

    def __call__(self, run: Run[Settings], judge: SceneVerifier | None = None) -> Outcome:
        """Both pictures of the run's settings, from noises that differ in nothing but NPNet's change."""
        settings = run.settings
        cut = sdxl.unread(self.pipe, settings.prompt)
        run.note(sdxl.unread_note(settings.prompt, cut))
        for remark in settings.remarks():
            run.note(remark)
        pictures, standard, golden = self._pair(run, self._previews(run, SHOWN))
        return self._outcome(run, pictures, standard, golden, judge, cut)

    def glance(self, run: Run[Settings]) -> Preview:
        """Both pictures in the run's steps, and nothing else."""
        pictures, _standard, _golden = self._pair(run, self._previews(run, ()))
        return Preview(run.settings.steps, run.settings.steps, *to_pil(pictures))

    def _pair(self, run: Run[Settings], on_step: Callable[[int, Tensor], None]) -> tuple[Tensor, Tensor, Tensor]:
        """Both pictures, and the noises that they come from."""
        import torch

        settings = run.settings
        with torch.inference_mode(), run.stage("all"):
            embeds = self.embed([settings.prompt] * 2)
            with run.stage("npnet"):
                standard, golden = self.noises(settings.seed, settings.strength, embeds)
            noises = torch.cat((standard, golden))
            pictures = self.draw(noises, embeds, settings.steps, settings.guidance, on_step, seed=settings.seed)
        return pictures, standard, golden

    def _previews(self, run: Run[Settings], shares: Sequence[float]) -> Callable[[int, Tensor], None]:
        """Tells how far a run is, and shows its pictures after those ``shares`` of its steps."""
        steps = run.settings.steps
        shown = {math.ceil(steps * share) for share in shares} - {steps}

        def on_step(step: int, clean: Tensor) -> None:
            run.progress(step / steps, f"step {step} of {steps}")
            if step in shown:
                run.show(Preview(step, steps, *sdxl.preview(self.pipe.vae, clean)))

        return on_step

    def _outcome(
        self,
        run: Run[Settings],
        pictures: Tensor,
        standard: Tensor,
        golden: Tensor,
        judge: SceneVerifier | None,
        cut: int | None,
    ) -> Outcome:
        """The verdicts and the measurements of what was drawn; ``cut`` is where the words begin that were not read."""
        from pipelines.golden_noise import inspection
        from pipelines.models import verifier

        settings = run.settings
        # The judge knows our own world only; of SDXL's pictures it would say something, and be wrong.
        verdicts = verifier.verify(judge, pictures, settings.prompt, cut) if judge is not None else ([], [])
        heat, peak = inspection.heat_map(standard, golden)
        measurements = run.measurements(
            seconds=round(run.seconds["all"], 3),
            npnet_seconds=round(run.seconds["npnet"], 4),
            noise=inspection.noise_statistics(standard, golden)
            | {"change_peak": round(peak, 4)}
            | inspection.noise_portrait(standard, golden),
            fully_right={
                name: (_fully_right(rows, cut is None) if rows else None)
                for name, rows in zip(("standard", "golden"), verdicts, strict=True)
            },
            unread_words=[] if cut is None else words(settings.prompt[cut:]),
            unknown_words=list(read_prompt(settings.prompt).unknown) if settings.model_set == "mini" else [],
            claim=claim(),
        )
        first, second = to_pil(pictures)
        return Outcome(settings, first, second, verdicts[0], verdicts[1], measurements, heat)

    def embed(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompt, negative, pooled and negative pooled embeddings, one row per prompt (the negative is empty)."""
        encode: Callable[..., Any] = self.pipe.encode_prompt  # its signature says str
        return encode(prompts, device=self.pipe.unet.device, do_classifier_free_guidance=True)

    def noises(self, seed: int, strength: float, embeds: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Standard and golden noise (1, C, h, w), float32; strength 0 gives the very same tensor twice.

        Without an NPNet the golden noise comes from re-denoising. Only the first row of ``embeds`` is used.
        """
        side = self.pipe.unet.config.sample_size
        noise = draw_noise(seed, (1, self.pipe.unet.config.in_channels, side, side)).to(self.pipe.unet.device)
        if strength == 0:
            return noise, noise
        first = tuple(part[:1] for part in embeds)
        golden = self.redenoised(noise, first) if self.npnet is None else self.npnet(noise, first[0])
        return noise, golden_with_strength(noise, golden, strength)

    def redenoised(self, noises: Tensor, embeds: tuple[Tensor, ...]) -> Tensor:
        """Golden noises (B, C, h, w), float32, by re-denoise sampling (:data:`GRID`)."""
        self.pipe.scheduler.set_timesteps(GRID)
        predict = guided_prediction(self.pipe, embeds)
        return redenoise(
            noises.to(self.pipe.unet.dtype), predict, self.pipe.scheduler, STRONG, WEAK, self.released
        ).float()

    def signalled(
        self, noises: Tensor, embeds: tuple[Tensor, ...], steps: int, looks: int = LOOKS, seed: int = SIGNAL_SEED
    ) -> Tensor:
        """Golden noises (B, C, h, w), float32, that hold what the prompt lets one expect of the picture (ours).

        The expectation is the model's own: its guess of the clean latents at the first of ``steps``, without guidance, averaged
        over ``looks`` noises other than the given ones (drawn from ``seed``); see :func:`with_signal`. The guess from the
        noise itself does not serve: that is the noise which says grey.
        """
        self.pipe.scheduler.set_timesteps(steps)
        level = int(self.pipe.scheduler.timesteps[0])
        share = self.pipe.scheduler.alphas_cumprod[level].item()
        predict, clean = guided_prediction(self.pipe, embeds), noises.new_zeros(noises.shape)
        for look in range(looks):
            # The same for all rows, so that a row does not depend on what runs beside it.
            other = draw_noise(seed * looks + look, (1, *noises.shape[1:])).to(noises).expand_as(noises)
            epsilon = predict(other.to(self.pipe.unet.dtype), level, 1.0).to(noises)
            clean += (other - math.sqrt(1 - share) * epsilon) / math.sqrt(share) / looks
        return with_signal(noises, clean, share, SIGNAL)

    def draw(
        self,
        noises: Tensor,
        embeds: tuple[Tensor, Tensor, Tensor, Tensor],
        steps: int,
        guidance: float,
        on_step: Callable[[int, Tensor], None] = lambda step, clean: None,
        first_guidance: float | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] from ``noises`` (B, C, h, w); all rows in one batch.

        ``on_step(step, clean)`` is called after each step with the model's current guess of the clean latents.
        ``first_guidance``: another guidance in the first step. ``seed``: of the noise that a few-step sampler adds in each step, the same
        for all rows.
        """
        import torch

        guess = sdxl.remember_guess(self.pipe.scheduler)

        def after(
            pipe: StableDiffusionXLPipeline, step: int, timestep: Tensor | int, given: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            pipe._guidance_scale = guidance  # the pipeline reads it anew in every step
            on_step(step + 1, guess.get("clean", given["latents"]))
            return given

        positive, negative, pooled, negative_pooled = embeds
        dtype = self.pipe.vae.dtype
        more: dict[str, Any] = {}
        if type(self.pipe.scheduler).__name__ == "LCMScheduler":
            more["generator"] = [torch.Generator("cpu").manual_seed(seed) for _ in noises]
        try:
            first = guidance if first_guidance is None else first_guidance
            drawn = self._sample(noises, positive, negative, pooled, negative_pooled, steps, first, after, **more)
        finally:
            # SDXL's VAE is cast up for decoding; a run that ends in between must not leave it so for the next.
            if self.pipe.vae.dtype != dtype:
                self.pipe.vae.to(dtype)
        if not bool(drawn.isfinite().all()):
            raise ValueError(
                "The model's numbers are no longer finite: choose less guidance, or a golden strength nearer to 1."
            )
        return drawn

    def _sample(self, noises, positive, negative, pooled, negative_pooled, steps, guidance, after, **more) -> Tensor:
        return self.pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
            latents=noises.to(self.pipe.unet.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            callback_on_step_end=after,
            **more,
        ).images.float()


def generate(job: Job, registry: Registry, settings: Settings) -> Outcome:
    """Draw ``settings.prompt`` from the standard and from the golden noise; called on the lane's thread.

    Emits progress and previews, and ends within one denoising step when the job is stopped.

    Raises:
        ValueError: settings outside their limits.
    """
    return _drawn(Run(job, registry, settings), GoldenNoise.__call__)


GLANCE_STEPS = 6
"""Right nearly as often as 25 (`assets/mini_sdxl2/README.md`), in a third of the time."""


def glance(job: Job, registry: Registry, settings: Settings) -> Preview:
    """Both pictures in :data:`GLANCE_STEPS` steps, to follow the settings while somebody changes them; nothing is judged or measured.

    Raises:
        ValueError: settings outside their limits.
    """
    few = dataclasses.replace(settings, steps=min(GLANCE_STEPS, settings.steps))
    return _drawn(Run(job, registry, few), lambda golden, run, judge: golden.glance(run))


def _drawn(run: Run[Settings], draw: Callable[[GoldenNoise, Run[Settings], SceneVerifier | None], T]) -> T:
    """What ``draw`` makes with the models of the run's settings."""
    settings = run.settings
    base, few = settings.model, settings.model.scheduler

    def work(npnet: nn.Module | None = None, judge: SceneVerifier | None = None, **parts: Any) -> T:
        pipe = sdxl.build(parts, sampler=few or (sdxl.DPM if settings.sampler else ""))
        return draw(GoldenNoise(pipe, npnet, settings.source == "redenoise_released"), run, judge)

    local = settings.model_set == "full" and LOCAL in os.environ
    return run.lease(
        parts(settings.model_set, settings.source, settings.base),
        work,
        loading=base.title,
        unnamed=set(base.named) - {"unet"},
        sources={"npnet": f"a local file, named by {LOCAL}"} if local else {},
        smaller="close other programs on that machine and try again",
    )


def _fully_right(verdicts: Sequence[Verdict], read: bool) -> bool | None:
    """None where all that was read is right, but not all was read."""
    if read or any(verdict.right is False for verdict in verdicts):
        return all(verdict.right for verdict in verdicts)
    return None


MEASURED = ROOT / "assets/golden_noise/evaluation.json"


def how_often() -> str:
    """In one sentence how often which noise alone gives a right picture, with 95 % intervals; empty where it was not measured."""
    row = asset_files.facts(MEASURED, "claim").get("evaluation", {}).get("arms", {}).get("npnet")
    if not row:
        return ""
    shares = (
        f"{100 * hits / row['of']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        for hits in (row["wins"], row["losses"])
        for low, high in (scores.wilson(hits, row["of"]),)
    )
    only_golden, only_standard = shares
    return (
        f"Of {row['of']:,} held-out pairs golden noise alone was right in {only_golden}, standard noise alone in "
        f"{only_standard}; in the others both were, or neither."
    )


def claim() -> str:
    """The one measured sentence about which noise is better, of the evaluation."""
    return asset_files.claim(MEASURED)
