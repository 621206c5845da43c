"""Loaders of SDXL's parts, and of what is added to it: ControlNets and IP-Adapter's encoder. Imports torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pipelines.core.libraries  # noqa: F401

import diffusers
import numpy
import torch
import transformers
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from pipelines.core import images
from pipelines.core.geometry import Picture
from pipelines.core.offload import Offloaded
from pipelines.core.patching import building, fresh_scheduler
from pipelines.core.weights import ModelSpec, multiplies_halves, part_folder, placement, resolve
from pipelines.models import sdxl

_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}


class MultipliedInHalves(UNet2DConditionModel):
    """The UNet with its products taken in bfloat16 on a CPU that has them in hardware; its weights, what goes in and what comes out stay as they are
    (float32). There two pictures at once take two thirds of the time (``tests.bench``), and what it says is off by a hundredth of its spread.
    """

    def forward(self, *given: Any, return_dict: bool = True, **named: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.device.type == "cpu" and multiplies_halves()):
            (said,) = super().forward(*given, return_dict=False, **named)
        said = said.to(self.dtype)
        return UNet2DConditionOutput(sample=said) if return_dict else (said,)


def load(spec: ModelSpec) -> Any:
    """A part of SDXL, or of the small model in its form: the class by the part's name, in the spec's dtype, in eval mode."""
    part = spec.key.rsplit("/", 1)[1]
    folder = resolve(spec) / part
    if part == "scheduler":
        index = json.loads((folder / "scheduler_config.json").read_text())
        return getattr(diffusers, index["_class_name"]).from_pretrained(folder)
    library, name = _CLASSES[part]
    if part == "vae":  # the small model has another autoencoder than SDXL; each folder says which
        name = json.loads((folder / "config.json").read_text())["_class_name"]
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    if spec.key in sdxl.MULTIPLIED_IN_HALVES:
        kind = MultipliedInHalves
    if part.startswith("tokenizer"):
        return kind.from_pretrained(folder, split_special_tokens=True)  # see pipelines/core/text.py
    options: dict[str, Any] = {"dtype" if library == "transformers" else "torch_dtype": getattr(torch, spec.dtype)}
    if any(".fp16." in name for name in spec.files):
        options["variant"] = "fp16"
    with building():
        made = kind.from_pretrained(folder, use_safetensors=True, **placement(), **options)
    if spec.key in sdxl.LORAS:
        melt(made, resolve(sdxl.LORAS[spec.key]))
    return made.eval().requires_grad_(False)


def melt(unet: UNet2DConditionModel, folder: Path) -> None:
    """Add a LoRA's change to the weights of ``unet`` for good; nothing of it is left beside them."""
    pipeline: Any = StableDiffusionXLPipeline
    tensors, alphas = pipeline.lora_state_dict(folder, unet_config=unet.config)
    pipeline.load_lora_into_unet(tensors, alphas, unet)
    unet.fuse_lora()
    unet.unload_lora()


def build(parts: Sequence[Any] | Mapping[str, Any], kind: str, sampler: str, **more: object) -> Any:
    """See :func:`pipelines.models.sdxl.build`."""
    components = dict(parts) if isinstance(parts, Mapping) else dict(zip(sdxl.PARTS, parts, strict=True))
    components["scheduler"] = fresh_scheduler(components["scheduler"])
    if sampler:
        components["scheduler"] = getattr(diffusers, sampler).from_config(components["scheduler"].config)
    with building():
        pipe = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(**components, **more, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_controlnet(spec: ModelSpec) -> ControlNetModel | Offloaded:
    """A ``ControlNetModel``: one of ours, or that of a Hub repository in half precision."""
    folder = part_folder(spec) if spec.source.startswith("assets/") else resolve(spec)
    variant = "fp16" if any(".fp16." in name for name in spec.files) else None
    net = ControlNetModel.from_pretrained(
        folder, torch_dtype=getattr(torch, spec.dtype), variant=variant, use_safetensors=True, **placement()
    ).eval()
    return Offloaded(net) if spec.stays_in_ram else net


def load_image_encoder(spec: ModelSpec) -> CLIPVisionModelWithProjection:
    """CLIP's picture encoder, in the folder of the spec's first file."""
    folder = resolve(spec) / Path(spec.files[0]).parent
    return CLIPVisionModelWithProjection.from_pretrained(
        folder, dtype=getattr(torch, spec.dtype), use_safetensors=True, **placement()
    ).eval()


def pixels_of(encoder: Any, pictures: Sequence[Picture], **how: object) -> Tensor:
    """Pictures as an image encoder takes them, (B, 3, side, side), where it is; ``how``: what is otherwise than CLIP's."""
    size, weight = encoder.config.image_size, next(encoder.parameters())
    processor: Any = CLIPImageProcessor(size=size, crop_size=size, **how)  # type: ignore[arg-type]
    pixels = processor([numpy.ascontiguousarray(one) for one in pictures], return_tensors="pt").pixel_values
    return pixels.to(weight.device, weight.dtype)


def look_of(encoder: CLIPVisionModelWithProjection, pictures: Sequence[Picture]) -> Tensor:
    """What IP-Adapter sees in pictures of a face, (2, N, tokens, width) on the CPU: first of nothing, then of the pictures.

    ``encoder``: the leased ``CLIPVisionModelWithProjection`` of :data:`pipelines.models.controlnets.IP_ENCODER`. The "plus" adapters read its last layer but one.
    """
    pixels = pixels_of(encoder, pictures)
    with torch.inference_mode():
        both = [encoder(p, output_hidden_states=True).hidden_states[-2] for p in (torch.zeros_like(pixels), pixels)]
    return torch.stack(both).cpu()


@contextlib.contextmanager
def _in_full(vae: Any) -> Iterator[None]:
    """SDXL's own autoencoder overflows in half precision: inside the block it is in single precision."""
    lifted = bool(getattr(vae.config, "force_upcast", False)) and vae.dtype == torch.float16
    try:
        if lifted:
            vae.float()
        with torch.autocast(vae.device.type, enabled=False):
            yield
    finally:
        if lifted:
            vae.half()


def encode(vae: Any, picture: Picture) -> Tensor:
    """Latents (1, C, h, w) of a picture, scaled as the UNet knows them, by an ``AutoencoderKL``, ``AutoencoderTiny`` or ``AutoencoderDC``."""
    pixels = torch.from_numpy(numpy.array(picture)).to(vae.device).permute(2, 0, 1)[None].to(vae.dtype) / 255 * 2 - 1
    with _in_full(vae):
        encoded = vae.encode(pixels.to(vae.dtype))
    known = (getattr(encoded, name) for name in ("latents", "latent") if hasattr(encoded, name))
    found = next(known, None)  # of a tiny and of a deep compression autoencoder
    found = encoded.latent_dist.mode() if found is None else found
    return found * vae.config["scaling_factor"]


def decode(vae: Any, latents: Tensor) -> Picture:
    """The picture of latents (1, C, h, w) of :func:`encode`."""
    with _in_full(vae):
        made = vae.decode((latents / vae.config["scaling_factor"]).to(vae.dtype)).sample
    return numpy.asarray(images.to_pil((made.float() / 2 + 0.5).clamp(0, 1))[0])
