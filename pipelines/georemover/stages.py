"""The stages on FLUX.1-Fill: what each paints, step by step, on leased parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pipelines.core import depth as depth_maps
from pipelines.core.depth import Depth
from pipelines.core.images import Picture
from pipelines.core.masks import Mask
from pipelines.core.patching import fresh_scheduler
from pipelines.core.run import OnStep
from pipelines.georemover import recolour
from pipelines.georemover.composite import Light
from pipelines.georemover.depth import kept_outside
from pipelines.models import flux, flux_parts

if TYPE_CHECKING:
    from diffusers.pipelines.flux.pipeline_flux_fill import FluxFillPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    from pipelines.georemover import Settings
    from pipelines.models.flux import FillBase


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Rendered:
    """What stage 2 painted: ``result`` (h, w, 3), and the whole ``strip`` (h, 3 w, 3) [result | depth after | depth before]."""

    result: Picture
    strip: Picture


def _silent(step: int, steps: int, look: Callable[[], Picture]) -> None:
    return None


class Stages:
    """The two stages around leased ``parts`` by their names. Makes no lasting change to them."""

    def __init__(self, base: FillBase, **parts: Any) -> None:
        self.base = base
        self._fill, self._render = (flux_parts.build(parts, kind) for kind in ("fill", "render"))
        self.transformer, self.vae = self._fill.transformer, parts["vae"]
        self.prompt, self.depth = parts["prompt"], parts["depth"]
        self.recolouring = parts.get(flux.RECOLOUR)

    def raw_depth(self, rgb: Picture) -> Depth:
        """Inverse depth (h, w) as the network gives it, of no fixed scale, near is large."""
        height, width = rgb.shape[:2]
        with torch.inference_mode():
            pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.depth.device).float() / 255
            pixels = interpolate(pixels, self._depth_size(height, width), mode="bicubic", antialias=True).clamp(0, 1)
            mean, deviation = (pixels.new_tensor(part).view(1, 3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_DEVIATION))
            inverse = self.depth(((pixels - mean) / deviation).to(self.depth.dtype)).predicted_depth[:, None].float()
            if self.depth.config.depth_estimation_type == "metric":
                inverse = 1 / inverse.clamp_min(1e-3)  # distances: far is large
            return interpolate(inverse, (height, width), mode="bilinear")[0, 0].cpu().numpy()

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
        with flux_parts.wearing(self.transformer, "geo1", settings.scale_1):
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
        with flux_parts.wearing(self.transformer, "geo2", settings.scale_2):
            painted = self._paint(
                self._render, strip, nothing, settings.seed, settings.steps_2, settings.guidance, on_step, panels=3
            )
        # The strip is decoded whole and then cut: FLUX's autoencoder mixes the panels.
        return Rendered(painted[:, :width].copy(), painted)

    def fill_only(self, rgb: Picture, mask: Mask, settings: Settings, on_step: OnStep = _silent) -> Picture:
        """The base model alone, without adapters and geometry, fills the mask: what other removers do.

        Of ``settings``: seed, guidance, and steps_2 where that is enough (``base.fill_least``)."""
        steps = self.base.fill_steps(settings.steps_2)
        with flux_parts.wearing(self.transformer, None):
            return self._paint(self._fill, rgb, mask, settings.seed, steps, settings.guidance, on_step)

    def light(self, rgb: Picture, render: Picture, through: Picture) -> Light | None:
        """How the original is to be recoloured where stage 2's render differs from ``through``, by the network for it; None where the
        model set has none."""
        return None if self.recolouring is None else recolour.factors(self.recolouring, rgb, render, through)

    def through_vae(self, rgb: Picture) -> Picture:
        """``rgb`` encoded and decoded: what the autoencoder loses is no change of the picture."""
        with torch.inference_mode():
            pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(self.vae.device, self.vae.dtype) / 127.5 - 1
            encoded = self.vae.encode(pixels)
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            return to_array(self.vae.decode(latents, return_dict=False)[0])

    def _paint(
        self,
        pipe: FluxFillPipeline,
        picture: Picture,
        mask: Mask,
        seed: int,
        steps: int,
        guidance: float,
        on_step: OnStep,
        panels: int = 1,
    ) -> Picture:
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

        def after(_pipe: FluxFillPipeline, step: int, _timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            def look() -> Picture:
                return _look(pipe, guess(given["latents"]), height, width, panels)

            on_step(step + 1, steps, look)
            return given

        with torch.inference_mode():
            painted = pipe(
                image=Image.fromarray(picture),
                mask_image=Image.fromarray(mask.astype(numpy.uint8) * 255),
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
        return to_array(painted.float() * 2 - 1)


def to_array(signed: Tensor) -> Picture:
    """(1, 3, h, w) in [-1, 1] to (h, w, 3)."""
    unit = (signed[0].float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def _remember_guess(scheduler: FlowMatchEulerDiscreteScheduler) -> Callable[[Tensor], Tensor]:
    """Let this run's own scheduler note what the model's guess of the clean latents needs; returns the guess, for previews."""
    seen: dict[str, Any] = {}
    step: Callable[..., Any] = type(scheduler).step

    def noted(model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        result = step(scheduler, model_output, timestep, sample, **options)
        seen.update(velocity=model_output, index=scheduler.step_index)  # of the next step
        return result

    watched: Any = scheduler
    watched.step = noted
    # Along a straight path: what the next level's latents become without their noise.
    return lambda latents: latents - scheduler.sigmas[seen["index"]].to(latents) * seen["velocity"].to(latents)


def _look(pipe: FluxFillPipeline, latents: Tensor, height: int, width: int, panels: int) -> Picture:
    """A small picture of the first panel. The small autoencoder decodes; a large one would cost too much, so its latents'
    first three channels stand for the picture."""
    latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    latents = latents[..., : latents.shape[-1] // panels]
    if type(pipe.vae).__name__ != "AutoencoderTiny":
        return to_array(interpolate(latents[:, :3].float() / 3, scale_factor=2))
    config = pipe.vae.config
    return to_array(pipe.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0])
