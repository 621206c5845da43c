"""The image model that several papers steer: SDXL, at its own size or as our ``mini-sdxl``.

Both are the same diffusers and transformers classes; a :class:`Base` lists the parts as data for the registry
and :func:`build` puts a ``StableDiffusionXLPipeline`` around leased parts for the length of one run. The
scheduler is made anew each time, because schedulers keep step state.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.core import asset_files, limits, text
from pipelines.core.images import to_pil
from pipelines.core.weights import ModelSpec, asset_spec, manifest, resolve

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from PIL.Image import Image
    from torch import Tensor

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
DRAWING = ("unet", "vae", "scheduler")


MULTIPLIED_IN_HALVES = frozenset({"mini-sdxl2/unet"})
"""UNets whose products a CPU takes in bfloat16, if it has that in hardware."""


@dataclass(frozen=True)
class Base:
    """A base model: its parts for the registry, the side of its pictures in pixels, and its default settings."""

    name: str
    title: str
    licence: str
    source: str
    parts: tuple[ModelSpec, ...]
    size: int
    guidance: float
    steps: int
    scheduler: str = ""
    """Class of the sampler that it has to be drawn with; empty: the one of its repository."""

    @property
    def named(self) -> dict[str, ModelSpec]:
        """The parts by their names."""
        return dict(zip(PARTS, self.parts, strict=True))


def _load_part(spec: ModelSpec) -> Any:
    from pipelines.models import sdxl_parts

    return sdxl_parts.load(spec)


def _small(name: str, folder: str, parts: Sequence[str] = PARTS) -> tuple[ModelSpec, ...]:
    return tuple(asset_spec(f"{name}/{part}", folder, _load_part, part, "our small SDXL") for part in parts)


def _first_mini() -> Base:
    folder = "assets/mini_sdxl"
    return Base("mini", "mini-sdxl (ours, 128 px)", "Apache-2.0", folder, _small("mini-sdxl", folder), 128, 5.5, 25)


def _mini() -> Base:
    """The second generation. What reads prompts is the first one's."""
    folder, first = "assets/mini_sdxl2", _first_mini().named
    drawing = dict(zip(DRAWING, _small("mini-sdxl2", folder, DRAWING), strict=True))
    parts = tuple(drawing.get(part, first[part]) for part in PARTS)
    return Base("mini", "mini-sdxl 2 (ours, 256 px)", "Apache-2.0", folder, parts, 256, 5.5, 25)


def _hub_files(part: str) -> tuple[str, ...]:
    """Patterns of a part's files in a repository of half-precision weights. Each has to be there, so none is given in vain."""
    if part.startswith("tokenizer"):
        return f"{part}/*.json", f"{part}/*.txt"
    return (f"{part}/*.json",) if part == "scheduler" else (f"{part}/*.json", f"{part}/*.fp16.safetensors")


_TEXT_AND_VAE = {"vae": 167_335_342, "text_encoder": 246_144_352, "text_encoder_2": 1_389_382_176}


def _published(name: str, key: str, title: str, source: str, licence: str, unet: int) -> Base:
    """A published model in half precision, in the repository layout of SDXL."""
    sizes = {"unet": unet, **_TEXT_AND_VAE}
    parts = tuple(
        ModelSpec(
            f"{key}/{part}",
            source,
            _load_part,
            licence,
            sizes.get(part, 1 << 20),
            dtype="float16",
            card=title,
            files=_hub_files(part),
        )
        for part in PARTS
    )
    return Base(name, title, licence, source, parts, 1024, 5.5, 50)


def _lora(key: str, source: str, size: int) -> ModelSpec:
    """A few-step LoRA, which is melted into its UNet while that is loaded."""
    files = ("pytorch_lora_weights.safetensors",)
    return ModelSpec(key, source, _load_part, "openrail++", size, dtype="float16", card="few-step LoRA", files=files)


def _fetch_with_lora(spec: ModelSpec) -> None:
    for one in (LORAS[spec.key], spec):
        resolve(one)


def _few_steps(base: Base, name: str, key: str) -> Base:
    """``base`` with its few-step LoRA. Only the UNet is another part; the others are shared."""
    unet = replace(
        base.parts[0],
        key=f"{key}/unet",
        fetch=_fetch_with_lora,
        brings=lambda spec: (spec, LORAS[spec.key]),
    )
    title = f"{base.title}, with LCM-LoRA: 4 to 8 steps"
    parts = (unet, *base.parts[1:])
    return replace(base, name=name, title=title, parts=parts, guidance=1.0, steps=8, scheduler="LCMScheduler")


MINI = _mini()
FULL = _published(
    "full",
    "sdxl-base-1.0",
    "Stable Diffusion XL 1.0 (Stability AI, 1024 px)",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "openrail++",
    5_135_149_760,
)
SSD = _published("ssd-1b", "ssd-1b", "SSD-1B (Segmind, 1024 px)", "segmind/SSD-1B", "Apache-2.0", 2_660_000_000)
BASES: dict[str, Base] = {base.name: base for base in (MINI, FULL)}
FIRST: dict[str, Base] = {base.name: base for base in (_first_mini(), FULL)}
"""What those papers draw with whose own weights or figures are still of the first generation of the small model."""
LORAS = {
    "ssd-1b-lcm/unet": _lora("lcm-lora-ssd-1b", "latent-consistency/lcm-lora-ssd-1b", 105_000_000),
    "sdxl-base-1.0-lcm/unet": _lora("lcm-lora-sdxl", "latent-consistency/lcm-lora-sdxl", 394_000_000),
}
"""Key of a UNet -> the few-step LoRA that is in it."""
OTHERS: dict[str, Base] = {
    base.name: base
    for base in (SSD, _few_steps(SSD, "ssd-1b-lcm", "ssd-1b-lcm"), _few_steps(FULL, "sdxl-lcm", "sdxl-base-1.0-lcm"))
}
"""What the full set offers beside SDXL, for a laptop: SSD-1B is SDXL with half of its UNet, distilled from it, and reads and writes
the same prompts and latents."""
OTHER_WORDS = {
    "ssd-1b": "SSD-1B: distilled from it, with half of the UNet",
    "ssd-1b-lcm": "SSD-1B with LCM-LoRA: 4 to 8 steps, for a laptop",
    "sdxl-lcm": "Stable Diffusion XL 1.0 with LCM-LoRA: 4 to 8 steps",
}
SAMPLERS = {"dpm": "DPM-Solver++, as in the authors’ script"}
DPM = "DPMSolverMultistepScheduler"


def mark(base: Base) -> str:
    """What tells a base model from another, for files that belong to one: 16 digits over the hashes of what reads prompts and draws, or the
    repository of a published one."""
    if base.name != "mini":
        return base.source
    told = []
    for part in ("unet", "text_encoder", "text_encoder_2"):
        known = asset_files.hashes(manifest(base.named[part].source))
        told += [(name, value) for name, value in known.items() if name.startswith(f"{part}/")]
    told.sort()
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def base_of(model_set: str, other: str = "") -> Base:
    """The base model of a set, or in the full set one of :data:`OTHERS`.

    Raises:
        ValueError: the set does not have it.
    """
    if not other:
        return BASES[model_set]
    if model_set != "full":
        raise ValueError(f"The image model {limits.described(other)} is not in the set {model_set}: leave it empty.")
    return OTHERS[limits.choice("The image model", other, OTHERS)]


def build(parts: Sequence[Any] | Mapping[str, Any], kind: str = "", sampler: str = "", **more: object) -> Any:
    """A ``StableDiffusionXLPipeline`` around the leased ``parts`` (by name, or in the order of :data:`PARTS`) and a new scheduler; ``kind``
    "Img2Img", "ControlNetInpaint" and so on makes that one, with what it takes ``more``. ``sampler``: another scheduler's class."""
    from pipelines.models import sdxl_parts

    return sdxl_parts.build(parts, kind, sampler, **more)


def unread(pipe: StableDiffusionXLPipeline, prompt: str) -> int | None:
    """Where the words of ``prompt`` begin that are behind the last token of one of the text encoders; None if there are none."""
    return text.unread([pipe.tokenizer, pipe.tokenizer_2], prompt)


def unread_note(prompt: str, cut: int | None) -> str:
    """A sentence that names the words that are not read; empty if all are."""
    if cut is None:
        return ""
    return (
        f"The prompt is longer than the model reads: “{' '.join(prompt[cut:].split())}” was not read, so it is not judged either; "
        "shorten the prompt to have it read."
    )


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float32, drawn on the CPU so that a seed means the same noise on every device.

    Raises:
        ValueError: a seed of more than 32 bits, of which torch would silently use the lower ones only.
    """
    import torch

    if not 0 <= seed < 2**32:
        raise ValueError(f"The seed is {seed} but a noise is drawn from 32 bits: choose one from 0 to {2**32 - 1}.")
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def remember_guess(scheduler: DDIMScheduler) -> dict[str, Tensor]:
    """Let this run's own scheduler note its guess of the clean latents at each step, for previews."""
    seen: dict[str, Tensor] = {}
    step: Callable[..., Any] = type(scheduler).step  # not the note of an earlier draw: hundreds of draws would pile up

    @functools.wraps(step)  # the pipeline looks whether a step takes a generator
    def noted(*args: Any, **kwargs: Any) -> Any:
        result = step(scheduler, *args, **(kwargs | {"return_dict": True}))
        if getattr(result, "pred_original_sample", None) is not None:
            seen["clean"] = result.pred_original_sample
        return result if kwargs.get("return_dict", True) else (result.prev_sample,)

    watched: Any = scheduler
    watched.step = noted
    return seen


def preview(vae: AutoencoderKL | AutoencoderTiny | AutoencoderDC, clean: Tensor) -> list[Image]:
    """Small pictures of clean latents. Those of the small models decode; SDXL's would cost too much, so its latents' first
    three channels stand for the picture."""
    if type(vae).__name__ != "AutoencoderKL":
        picture = vae.decode(clean / vae.config["scaling_factor"]).sample / 2 + 0.5
    else:
        picture = (clean[:, :3] / 6 + 0.5).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return to_pil(picture.float().clamp(0, 1))
