"""The paper's three nets: one SDXL, the registry's shared one, with ControlNets, the person's LoRA and perhaps IP-Adapter; torch at import."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pipelines.core.libraries  # noqa: F401

import numpy
import torch
from diffusers.models import MultiControlNetModel
from torch import Tensor

from pipelines.core import images
from pipelines.core.geometry import Mask, Picture
from pipelines.core.offload import Offloaded
from pipelines.core.patching import adapter, frozen
from pipelines.core.registry import LOAD_LOCK
from pipelines.core.run import OnStep
from pipelines.megaportrait import Hint, intake
from pipelines.megaportrait.checks import BlackPicture
from pipelines.megaportrait.person import Person, check_adapter
from pipelines.megaportrait.results import to_pil
from pipelines.megaportrait.settings import Net
from pipelines.models import sdxl
from pipelines.models.sdxl_parts import decode, encode

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

Look = tuple[Mapping[str, Mapping[str, Tensor]], Tensor]
"""IP-Adapter's two state dicts, and what its encoder saw (``sdxl_parts.look_of``)."""


def _silent(step: int, steps: int, picture: Callable[[], Picture]) -> None:
    return None


class Nets:
    """The three nets around leased parts. Makes no lasting change to them."""

    def __init__(self, parts: Mapping[str, Any], controlnets: Mapping[str, Any]) -> None:
        """``parts`` by their names in ``sdxl.PARTS``; ``controlnets``: role -> ControlNet, which may be ``Offloaded``."""
        self.parts = parts
        self.unet, self.vae = self.parts["unet"], self.parts["vae"]
        device = self.unet.device
        self.controlnets = {
            role: net.on(device) if isinstance(net, Offloaded) else net for role, net in controlnets.items()
        }
        self._text = sdxl.build(parts)
        self._seen: Any = None

    @contextlib.contextmanager
    def looking_at(self, look: Look | None, scale: float) -> Iterator[None]:
        """Inside the block the UNet also attends to pictures of a face, by IP-Adapter; afterwards it is as before, to the byte."""
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

    def wearing(self, person: Person | None) -> AbstractContextManager[None]:
        """See :func:`wearing`."""
        return wearing(self.unet, person)

    def paint(
        self,
        net: Net,
        picture: Picture,
        mask: Mask | None,
        prompt: str,
        hints: Sequence[Hint],
        seed: int,
        on_step: OnStep = _silent,
    ) -> Picture:
        """``picture`` painted anew as ``net`` says, led by ``hints``: all of it, or inside ``mask`` only.

        It is ``picture`` itself where no step is left or nothing is masked.
        """
        if names := list(getattr(self.unet, "peft_config", {})):
            self.unet.set_adapters(names, [net.lora] * len(names))
        if not net.count or (mask is not None and not mask.any()):
            return picture.copy()
        used = [hint for hint in hints if hint.weight > 0] or [dataclasses.replace(hints[0], weight=0.0)]
        nets: list[Any] = [self.controlnets[hint.role] for hint in used]
        kind = "ControlNetImg2Img" if mask is None else "ControlNetInpaint"
        pipe = sdxl.build(self.parts, kind, controlnet=MultiControlNetModel(nets))
        picture_of = watched(pipe)

        def after(
            _pipe: StableDiffusionXLPipeline, step: int, _level: Tensor | int, given: dict[str, Any]
        ) -> dict[str, Any]:
            on_step(step + 1, net.count, lambda: picture_of(given["latents"]))
            return given

        more: dict[str, Any] = {"height": picture.shape[0], "width": picture.shape[1]}
        if mask is not None:
            more["mask_image"] = to_pil(mask.astype(numpy.uint8) * 255)
        if self._seen is not None:
            more["ip_adapter_image_embeds"] = [self._seen if net.guidance > 1 else self._seen[1:]]
        dtype = self.vae.dtype
        try:
            with torch.inference_mode():
                drawn = pipe(
                    image=to_pil(picture),
                    strength=net.strength,
                    num_inference_steps=net.steps,
                    guidance_scale=net.guidance,
                    generator=torch.Generator("cpu").manual_seed(seed),
                    control_image=[to_pil(hint.map) for hint in used],
                    controlnet_conditioning_scale=[hint.weight for hint in used],
                    control_guidance_start=[0.0] * len(used),
                    control_guidance_end=[hint.end for hint in used],
                    output_type="pt",
                    callback_on_step_end=after,
                    **self._embedded(prompt),
                    **more,
                ).images.float()
        finally:
            # SDXL's autoencoder is cast up for decoding; a run that ends in between must not leave it so for the next.
            if self.vae.dtype != dtype:
                self.vae.to(dtype)
        if not torch.isfinite(drawn).all() or float(drawn.max()) < intake.BLACK:
            raise BlackPicture("The model returned a black picture: try another seed, or lower the guidance.")
        return self._with_detail(numpy.asarray(images.to_pil(drawn)[0]), picture, net.detail)

    def _with_detail(self, painted: Picture, before: Picture, share: float) -> Picture:
        """``painted`` with a share of what the autoencoder alone loses of ``before``; without it each net would blur the picture again."""
        if not share:
            return painted
        with torch.inference_mode():
            lost = before.astype(numpy.float32) - decode(self.vae, encode(self.vae, before))
        return numpy.clip(numpy.rint(painted + share * lost), 0, 255).astype(numpy.uint8)

    def _embedded(self, prompt: str) -> dict[str, Tensor]:
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        found = self._text.encode_prompt(prompt, device=self.unet.device, do_classifier_free_guidance=True)
        return dict(zip(names, found, strict=True))


@contextlib.contextmanager
def wearing(unet: Any, person: Person | None) -> Iterator[None]:
    """Inside the block the UNet wears the person's LoRA, at the strength of each stage; afterwards it is as before, to the byte.

    Raises:
        ValueError: the person was trained for another model.
    """
    if person is None or not person.trained:
        yield
        return
    check_adapter(unet, person)
    with adapter(unet, person.adapter):
        yield


@contextlib.contextmanager
def in_tiles(vae: AutoencoderKL | AutoencoderTiny, wanted: bool) -> Iterator[None]:
    """Inside the block the autoencoder works in tiles of half its side and in slices, which takes less memory.

    Its own tile is as large as a picture, so that it would never cut one.
    """
    if not wanted:
        yield
        return
    tiles = {name: getattr(vae, name) // 2 for name in ("tile_sample_min_size", "tile_latent_min_size")}
    settings = {"use_tiling": True, "use_slicing": True, **tiles}
    before = {name: getattr(vae, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(vae, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def watched(pipe: StableDiffusionXLPipeline) -> Callable[[Tensor], Picture]:
    """Let this pipeline's own scheduler note its guess of the clean latents; returns what makes a picture of it, after a step."""
    guess = sdxl.remember_guess(pipe.scheduler)
    return lambda latents: numpy.asarray(sdxl.preview(pipe.vae, guess.get("clean", latents))[0])
