"""The learning of ten tokens. A net file: torch at the top. See :mod:`pipelines.prospect.inversion`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipelines.core.images import to_pil
from pipelines.core.patching import frozen
from pipelines.core.run import Run
from pipelines.core.sheets import sheet
from pipelines.models import sdxl
from pipelines.models.sdxl_parts import encode
from pipelines.models.verifier import SceneVerifier, answers, described
from pipelines.prospect import STAGES
from pipelines.prospect.inversion import DRAWN, KEPT, LOOK_STEPS, LOOKS_EVERY, InversionSettings, Inverted, Look
from pipelines.prospect.stages import Painter, Spectrum
from pipelines.prospect.tokens import Tokens

SETTLES = 0.3
"""In this last part of the steps the rate falls to nothing."""
LIFT = 1024.0
"""The loss is so many times larger while its slope is worked out, which half precision needs and Adam does not see."""
OnStep = Callable[[int, Tensor], None]


def inverted(
    run: Run[InversionSettings],
    parts: Mapping[str, Any],
    readers: tuple[SceneVerifier | None, SceneVerifier | None],
    picture: Image.Image,
) -> Inverted:
    """The tokens of ``picture``, and what they draw. ``readers``: what finds the words that learning begins with, and the judge; they are
    two, so that nothing is graded by its own teacher."""
    reader, judge = readers
    settings, base = run.settings, sdxl.BASES[run.settings.model_set]
    painter = Painter(sdxl.build(parts))
    square = ImageOps.fit(picture, (base.size, base.size), Image.Resampling.LANCZOS)
    words = "" if reader is None else described(answers(reader, as_tensor([square], reader))[0])
    noises = [painter.noise((settings.seed + n) % 2**32) for n in range(DRAWN)]

    def draw(tokens: Tensor, noise: Tensor, steps: int) -> Image.Image:
        with torch.inference_mode():
            spectrum = painter.worded(tokens)
            return to_pil(painter.draw(noise, ["A" * STAGES], {"A": spectrum}, steps, settings.guidance))[0]

    def on_step(step: int, tokens: Tensor) -> None:
        run.progress(0.95 * step / settings.learn_steps, f"step {step} of {settings.learn_steps}")
        if step % LOOKS_EVERY == 0 and step < settings.learn_steps:
            so_far = draw(tokens, noises[0], LOOK_STEPS)
            run.show(Look(sheet({"the picture": [square], f"after {step} steps": [so_far]}), step))

    with run.stage("learning"):
        latents = encode(painter.pipe.vae, numpy.asarray(square)).to(painter.nothing.dtype)
        tokens, losses = learnt(painter, latents, words, settings, on_step)
    with run.stage("pictures"):
        drawn = [draw(tokens, noise, settings.steps) for noise in noises]
    seen, again = ([], []) if judge is None else (read(judge, [square]), read(judge, drawn))
    kept = Tokens(
        tokens.numpy(), settings.model_set, sdxl.mark(sdxl.BASES[settings.model_set]), seen[0] if seen else {}
    )
    measurements = run.measurements(
        seconds=round(sum(run.seconds.values()), 3),
        learning_seconds=round(run.seconds["learning"], 3),
        loss_by_stage=[round(float(one), 4) for one in losses],
        words=words,
        seen=dict(kept.seen),
        seen_again=again,
    )
    names = [f"tokens, noise {n + 1}" for n in range(DRAWN)]
    shown = sheet({"the picture": [square], **dict(zip(names, ([one] for one in drawn), strict=True))})
    return Inverted(settings, kept, shown, measurements)


def learnt(
    painter: Painter, latents: Tensor, words: str, settings: InversionSettings, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """The tokens (stages, words, width) float32 on the CPU, and each stage's mean loss over the last fifth of the steps.

    Args:
        latents: (1, C, h, w) of the picture, as the UNet knows them.
        words: where the tokens begin, from which they go :data:`KEPT` of the way; at one that says nothing, if empty, and all the way.
    """
    pipe, share = painter.pipe, KEPT if words else 1.0
    with frozen(pipe.unet, pipe.text_encoder, pipe.text_encoder_2), torch.inference_mode(False), torch.enable_grad():
        start, spread, latents = painter.words(words).clone(), painter.spread().clone(), latents.clone()
        moved = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([moved], lr=settings.rate, betas=(0.9, 0.95))
        generator = torch.Generator().manual_seed(settings.seed)
        seen = []
        for step in range(1, settings.learn_steps + 1):
            left = (settings.learn_steps - step + 1) / settings.learn_steps
            adam.param_groups[0]["lr"] = settings.rate * min(1.0, left / SETTLES)
            losses = stage_losses(painter, latents, painter.worded(start + moved * spread), generator)
            adam.zero_grad()
            (LIFT * losses.sum()).backward()
            adam.step()
            seen.append(losses.detach().cpu())
            tokens = (start + share * moved * spread).detach()
            on_step(step, tokens)
    return tokens.float().cpu(), torch.stack(seen[-max(1, settings.learn_steps // 5) :]).mean(0)


def stage_losses(painter: Painter, latents: Tensor, spectrum: Spectrum, generator: torch.Generator) -> Tensor:
    """The mean square error (stages,) of the UNet at one level of noise in each stage, drawn on the CPU."""
    pipe = painter.pipe
    scheduler, unet = pipe.scheduler, pipe.unet
    levels = scheduler.config.num_train_timesteps
    within = (torch.arange(STAGES) + torch.rand(STAGES, generator=generator)) * levels / STAGES
    times = (levels - 1 - within.floor().long()).clamp(0, levels - 1)
    clean = latents.expand(STAGES, -1, -1, -1)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device, clean.dtype)
    times = times.to(clean.device)
    noisy = scheduler.add_noise(clean, noise, times)
    velocity = scheduler.config.prediction_type == "v_prediction"
    wanted = scheduler.get_velocity(clean, noise, times) if velocity else noise
    told = {"text_embeds": spectrum.pooled, "time_ids": painter.size_told(STAGES)}
    made = unet(noisy, times, encoder_hidden_states=spectrum.embeds, added_cond_kwargs=told).sample
    return (made.float() - wanted.float()).square().mean((1, 2, 3))


def read(judge: SceneVerifier, pictures: list[Image.Image]) -> list[dict[str, str]]:
    """What the judge sees in each picture, of the things that are there."""
    return [told(one) for one in answers(judge, as_tensor(pictures, judge))]


def as_tensor(pictures: list[Image.Image], model: SceneVerifier) -> Tensor:
    """Pictures of one size as (N, 3, H, W) in [0, 1], where ``model`` is."""
    pixels = torch.from_numpy(numpy.stack([numpy.asarray(one) for one in pictures])).permute(0, 3, 1, 2).float() / 255
    return pixels.to(model.device, model.dtype)


def told(seen: Mapping[str, str]) -> dict[str, str]:
    """Of all that a judge answers, what is about the world that it sees, and about as many things as it counts."""
    if seen["world"] != "tabletop":
        heads = [head for head in seen if head not in TABLE and not head[0].isdigit()]
    else:
        things = int(seen["count"])
        heads = [*TABLE, *(f"{n} {what}" for n in range(things) for what in ("shape", "colour", "finish"))]
        heads += [f"{n} nearer" for n in range(things - 1)]
    return {head: seen[head] for head in ("world", *heads) if head in seen}


TABLE = ("count", "floor", "backdrop")
