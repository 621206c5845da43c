"""The training of a person: small layers beside the shared UNet, learnt from crops and scored as it goes; torch at import."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pipelines.core.libraries  # noqa: F401

import numpy
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image as Images
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.core import asset_files, images, troubles
from pipelines.core.geometry import Picture
from pipelines.core.patching import frozen
from pipelines.core.weights import ROOT
from pipelines.megaportrait.intake import Intake, largest
from pipelines.megaportrait.learn import Checkpoint, Lesson, Training
from pipelines.megaportrait.nets import in_tiles
from pipelines.megaportrait.parts import preset_of, side_of
from pipelines.megaportrait.person import SKS, Person, captions
from pipelines.megaportrait.place import FRAMING, crop_of
from pipelines.megaportrait.tools import FaceTools
from pipelines.models import sdxl
from pipelines.models.sdxl_parts import encode

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from PIL.Image import Image

    from pipelines.core.lane import Job

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv",
    "conv_in",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
)
TARGETS = {"mini": (*ATTENTION, *CONVOLUTIONS), "full": ATTENTION}
"""What the LoRA sits beside (suffixes of module names): every attention projection, as in diffusers' own training scripts, and in the small
UNet, which has no attention at its finest level, every convolution as well, as LoCon has it (arXiv 2309.14859)."""
SCALES = (0.9, 1.0, 1.15)
"""Crops that are learnt from, in widths of the usual one; each also mirrored."""
NO_CAPTION = 0.1
"""Share of training rows without a caption, so that guidance keeps its meaning."""
OTHERS = 0.5
"""Share of training rows that show other people: with the person's pictures alone the small model forgets how to draw a head."""
PEOPLE = ROOT / "assets" / "mini_controlnets" / "others.safetensors"
USED = {"mini": 0.3, "full": 1.0}
"""Share of the noise levels, from the least noise on, that are learnt: those at which a portrait is painted."""
SNR_MOST = 5.0
"""Min-SNR weighting (Hang et al., arXiv 2303.09556)."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learnt from, computed once."""

    latents: Tensor
    """(N, 4, h, w): every picture at each scale, and its mirror image."""
    picture: Tensor
    """(N,) which picture a row comes from."""
    prompts: tuple[Tensor, Tensor]
    """Embeddings and pooled embeddings, a row per picture and a last one for "no caption"."""
    ids: Tensor
    """(1, 6)"""
    others: tuple[Tensor, Tensor, Tensor] | None = None
    """Latents, embeddings and pooled embeddings of other people, for prior preservation (DreamBooth, arXiv 2208.12242)."""


def learnt(
    job: Job,
    models: Mapping[str, Any],
    tools: FaceTools,
    intake: Intake,
    person: Person,
    settings: Training,
    enough: Callable[[], bool],
) -> Person:
    """``person`` with what was learnt of the pictures of ``intake``; ``models``: leased, by name."""
    parts = {name: models[name] for name in sdxl.PARTS}
    with in_tiles(parts["vae"], preset_of(settings.model_set, settings.preset).tiles):
        lessons = lessons_of(parts, intake, person, settings)
        return Trainer(job, parts, tools, person, settings, enough).learn(lessons)


def lessons_of(parts: Mapping[str, Any], intake: Intake, person: Person, settings: Training) -> Lessons:
    side = side_of(settings.model_set, settings.preset)
    pipe = sdxl.build(parts)
    crops = []
    for place in intake.used:
        photo, face = intake.photos[place], intake.verdicts[place].face
        assert face is not None
        for scale in SCALES:
            crop = crop_of(photo.picture.shape[1::-1], face, side, scale * FRAMING[settings.model_set])
            square = crop.cut(photo.picture)
            crops += [square, numpy.ascontiguousarray(square[:, ::-1])]
    with torch.no_grad():
        latents = torch.cat([encode(pipe.vae, crop) for crop in crops])
        positive, negative, pooled, negative_pooled = pipe.encode_prompt(
            captions(person), device=pipe.unet.device, do_classifier_free_guidance=True
        )
    ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
    return Lessons(
        latents.float(),
        torch.arange(len(intake.used)).repeat_interleave(2 * len(SCALES)),
        (torch.cat((positive, negative[:1])), torch.cat((pooled, negative_pooled[:1]))),
        ids.to(positive),
        _others(latents, positive),
    )


def _others(latents: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The people that ``assets.mini_controlnets.train others`` encoded, where they belong to the model; None for any other.

    Raises:
        ValueError: the file is another than the studio came with, in one sentence.
    """
    if not PEOPLE.is_file():
        return None
    try:
        found = load_file(PEOPLE)
        people = tuple(found[name] for name in ("latents", "states", "pooled"))
    except (SafetensorError, LookupError, OSError) as error:
        troubles.raise_machines(error)
        people = ()
    sizes = {len(value) for value in people if value.ndim and value.is_floating_point() and value.isfinite().all()}
    if [value.ndim for value in people] != [4, 3, 2] or len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"The people of {PEOPLE.parent.name}/{PEOPLE.name} are damaged: {asset_files.RESTORE}.")
    if people[0].shape[1:] != latents.shape[1:] or people[1].shape[1:] != positive.shape[1:]:
        return None
    return people[0].float().to(latents.device), people[1], people[2]


def weights_of(snr: Tensor, prediction: str) -> Tensor:
    """Min-SNR-5 weights of the squared error of what the model predicts: "epsilon", "v_prediction" or "sample".

    Of a velocity they would vanish where nearly all is noise, and what is learnt elsewhere would then spoil where a head is put; there
    they are 1, as in the small model's own training.
    """
    kept = snr.clamp_max(SNR_MOST)
    if prediction == "v_prediction":
        return (SNR_MOST / (snr + 1)).clamp_max(1)
    return {"epsilon": kept / snr, "sample": kept}[prediction]


def stratified(count: int, levels: int, generator: torch.Generator) -> Tensor:
    """``count`` noise levels (int64), one from each of as many equal parts of ``levels``, in random order."""
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (place[torch.randperm(count, generator=generator)] * levels).long().clamp(0, levels - 1)


class Trainer:
    """One training run around leased parts."""

    def __init__(
        self,
        job: Job,
        parts: Mapping[str, Any],
        tools: FaceTools,
        person: Person,
        settings: Training,
        enough: Callable[[], bool],
    ) -> None:
        self.job, self.tools, self.person, self.settings, self.enough = job, tools, person, settings, enough
        self.parts = parts
        self.unet = parts["unet"]
        self.scheduler = DDPMScheduler.from_config(parts["scheduler"].config)
        # Gradients of half precision would vanish unscaled; of float32 this does nothing.
        self.scaler = torch.amp.GradScaler(self.unet.device.type, enabled=self.unet.dtype == torch.float16)
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []

    def learn(self, lessons: Lessons) -> Person:
        settings = self.settings
        generator = torch.Generator("cpu").manual_seed(settings.seed)
        self.person.facts["score_before"] = self._validate()[0]  # a person that is stopped keeps it too
        with frozen(self.unet), torch.enable_grad():  # whatever peft adds goes with the block
            weights = self._inject()
            optimiser = torch.optim.AdamW(weights, settings.rate, weight_decay=1e-2)
            started, step, since, checked = time.monotonic(), 0, 0, 0
            while True:
                spent = (time.monotonic() - started) / settings.seconds
                # The clock counts only where it is ahead of the steps: the rate would else differ a little from run to run.
                done = spent if spent > (step + 1) / settings.steps else step / settings.steps
                if done >= 1 or (step and self.enough()):
                    break
                if done >= (checked + 1) / settings.checks:
                    checked = int(done * settings.checks)
                    self._check(step, since)
                    since = step
                for group in optimiser.param_groups:
                    group["lr"] = settings.rate * min(1.0, (step + 1) / 10) * (0.1 + 0.9 * (1 - done))
                self._step(lessons, optimiser, weights, generator)
                step += 1
                done = max((time.monotonic() - started) / settings.seconds, step / settings.steps)
                left = (time.monotonic() - started) * (1 - done) / max(done, 1e-6)
                recent = sum(self.losses[-20:]) / len(self.losses[-20:])
                self.job.progress(done, f"step {step}, loss {recent:.3f}, about {max(left, 0):.0f} s left")
            self._check(step, since)
            seconds = time.monotonic() - started
        self.person.facts["seconds"] = round(seconds, 2)
        return self._kept()

    def _inject(self) -> list[Tensor]:
        rank, targets = self.settings.rank, TARGETS[self.settings.model_set]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), "person")
        if sdxl.FIRST[self.settings.model_set].name == "full":
            self.unet.enable_gradient_checkpointing()
            self.unet.train()  # checkpointing works in training mode only; SDXL has no dropout
        weights = [value for name, value in self.unet.named_parameters() if "lora_" in name]
        for value in weights:
            value.data = value.data.float()
            value.requires_grad_(True)
        return weights

    def _step(
        self, lessons: Lessons, optimiser: torch.optim.Optimizer, weights: list[Tensor], generator: torch.Generator
    ) -> None:
        unet, others = self.unet, 0 if lessons.others is None else round(OTHERS * self.settings.batch)
        batch = self.settings.batch
        rows = torch.randint(len(lessons.latents), (batch - others,), generator=generator)
        named = lessons.picture[rows]
        dropped = torch.rand(batch - others, generator=generator) < NO_CAPTION
        named = torch.where(dropped, len(lessons.prompts[0]) - 1, named)
        clean, states, pooled = lessons.latents[rows], lessons.prompts[0][named], lessons.prompts[1][named]
        if others and lessons.others is not None:
            chosen = torch.randint(len(lessons.others[0]), (others,), generator=generator)
            parts = zip((clean, states, pooled), lessons.others, strict=True)
            clean, states, pooled = (torch.cat((own, more[chosen].to(own))) for own, more in parts)
        reach = USED[self.settings.model_set] * self.scheduler.config.num_train_timesteps
        levels = stratified(batch, round(reach), generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        device = clean.device
        levels = levels.to(device)
        noisy = self.scheduler.add_noise(clean, noise, levels)
        shares = self.scheduler.alphas_cumprod.to(device)[levels]
        kind = self.scheduler.config.prediction_type
        wanted = {"epsilon": noise, "sample": clean}.get(kind)
        if wanted is None:
            wanted = self.scheduler.get_velocity(clean, noise, levels)
        # In the model's own half precision: bfloat16 would meet its float16 in the UNet's `cat`, which autocast refuses.
        with torch.autocast(device.type, dtype=unet.dtype, enabled=unet.dtype != torch.float32):
            found = unet(
                noisy.to(unet.dtype),
                levels,
                states,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": lessons.ids.expand(batch, -1)},
            ).sample
        errors = (found.float() - wanted).square().mean((1, 2, 3))
        loss = (weights_of(shares / (1 - shares), kind) * errors).mean()
        if not torch.isfinite(loss):
            raise ValueError("Training became unstable (the loss is not a number): lower the learning rate.")
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        self.scaler.step(optimiser)
        self.scaler.update()
        optimiser.zero_grad(set_to_none=True)
        self.losses.append(float(loss.detach()))

    def _validate(self) -> tuple[float | None, Image]:
        """Score and picture of the two validation drawings with the UNet as it is now."""
        mini = self.settings.model_set == "mini"
        if mini:
            prompts = (captions(self.person) * 2)[:2]
        else:
            prompts = [f"{SKS}, studio portrait", f"{SKS}, outdoors, smiling"]
        pipe = sdxl.build(self.parts, "Img2Img" if mini else "")
        training = self.unet.training
        self.unet.eval()
        dtype = pipe.vae.dtype

        def after(
            _pipe: StableDiffusionXLPipeline, _step: int, _level: Tensor | int, given: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            self.job.check()
            return given

        try:
            with torch.no_grad():
                if mini:  # what was learnt is how to finish a head that stands: two of its own are drawn again
                    again = [Images.fromarray(crop) for crop in (*self.person.crops, *self.person.crops)[:2]]
                    begin: dict[str, Any] = {"image": again, "strength": USED["mini"] - 0.05}
                    begin["generator"] = torch.Generator("cpu").manual_seed(self.settings.seed)
                else:
                    side = side_of(self.settings.model_set, self.settings.preset)
                    cells = side // pipe.vae_scale_factor
                    noise = sdxl.draw_noise(self.settings.seed, (2, self.unet.config.in_channels, cells, cells))
                    begin = {"latents": noise.to(self.unet.device, self.unet.dtype), "height": side, "width": side}
                drawn = pipe(
                    prompts,
                    output_type="pt",
                    callback_on_step_end=after,
                    num_inference_steps=16 if mini else 20,
                    guidance_scale=1.5 if mini else 5.0,
                    **begin,
                ).images.float()
        finally:
            self.unet.train(training)
            if pipe.vae.dtype != dtype:  # SDXL's autoencoder is cast up for decoding
                pipe.vae.to(dtype)
        pictures = images.to_pil(drawn)
        return self._score([numpy.asarray(one) for one in pictures]), images.to_pil(torch.cat(list(drawn), 2)[None])[0]

    def _score(self, pictures: list[Picture]) -> float | None:
        mean = self.person.mean
        if mean is None:
            return None
        found = [largest(self.tools.faces(picture)) for picture in pictures]
        known = [self.tools.embed(p, face) for p, face in zip(pictures, found, strict=True) if face is not None]
        # A drawing without a face is like nobody.
        return float(sum(float(one @ mean) for one in known if one is not None) / len(pictures))

    def _check(self, step: int, since: int) -> None:
        score, picture = self._validate()
        recent = self.losses[since:] or self.losses[-1:] or [math.nan]
        loss = sum(recent) / len(recent)
        worth = -loss if score is None else score
        best = self.best is None or worth >= self.best[0]
        if best:
            state = get_peft_model_state_dict(self.unet, adapter_name="person")
            self.best = (worth, step, {name: value.detach().float().cpu().clone() for name, value in state.items()})
        self.history.append({"step": step, "loss": _rounded(loss), "score": _rounded(score)})
        self.job.emit(Lesson(step, loss, score, picture, best))
        if best:
            self.job.emit(Checkpoint(self._kept(), step, score))

    def _kept(self) -> Person:
        assert self.best is not None
        best = self.best[1]
        facts = self.person.facts | {
            "steps": len(self.losses),
            "best_step": best,
            "checks": list(self.history),
            "losses": [_rounded(value) for value in self.losses],
        }
        return replace(self.person, adapter=self.best[2], facts=facts)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 5)
