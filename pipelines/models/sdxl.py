"""The image model that several papers steer: SDXL, at its own size or as our ``mini-sdxl``.

Both are the same diffusers and transformers classes; a :class:`Base` lists the parts as data for the registry
and :func:`build` puts a ``StableDiffusionXLPipeline`` around leased parts for the length of one run. The
scheduler is made anew each time, because schedulers keep step state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import asset_files, text
from pipelines.core.weights import ModelSpec, resolve

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}


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
    download: str = ""
    """What choosing it would fetch, in words; empty where everything is shipped."""

    @property
    def named(self) -> dict[str, ModelSpec]:
        """The parts by their names."""
        return dict(zip(PARTS, self.parts, strict=True))


def _load_part(spec: ModelSpec) -> Any:
    """Loader of every part: the class by the part's name, in the spec's dtype, in eval mode."""
    import diffusers
    import torch
    import transformers

    part = spec.key.rsplit("/", 1)[1]
    folder = resolve(spec) / part
    if part == "scheduler":
        index = json.loads((folder / "scheduler_config.json").read_text())
        return getattr(diffusers, index["_class_name"]).from_pretrained(folder)
    library, name = _CLASSES[part]
    if part == "vae":  # the small model has another autoencoder than SDXL; each folder says which
        name = json.loads((folder / "config.json").read_text())["_class_name"]
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    if part.startswith("tokenizer"):
        return kind.from_pretrained(folder, split_special_tokens=True)  # see pipelines/core/text.py
    options = (
        {"dtype": getattr(torch, spec.dtype)}
        if library == "transformers"
        else {
            "torch_dtype": getattr(torch, spec.dtype),
            "variant": "fp16" if "stabilityai" in spec.source else None,
        }
    )
    if library == "transformers" and "stabilityai" in spec.source:
        options["variant"] = "fp16"
    return kind.from_pretrained(folder, use_safetensors=True, **options).eval().requires_grad_(False)


def manifest(folder: str) -> dict[str, Any]:
    """What the training script wrote about shipped weights: hashes, sizes, scores. Empty before the first training."""
    return asset_files.facts(ROOT / folder / "manifest.json", "sha256")


def asset_spec(key: str, folder: str, load: Any, part: str = "", card: str = "") -> ModelSpec:
    """A spec for weights shipped in ``folder`` (of which ``part`` is a subfolder), with hashes from its manifest."""
    facts = manifest(folder)
    prefix = f"{part}/" if part else ""
    hashes = {name: value for name, value in asset_files.hashes(facts).items() if name.startswith(prefix)}
    sizes = asset_files.sizes(facts.get("bytes"))
    for name in hashes:
        asset_files.check(ROOT / folder / name, sizes.get(name), hashes[name])
    size = 2 * sum(sizes.get(name, 0) for name in hashes)  # float16 on disk, float32 in memory
    return ModelSpec(key, folder, load, "Apache-2.0", size or 1 << 20, sha256=hashes, card=card)


def _mini() -> Base:
    folder = "assets/mini_sdxl"
    parts = tuple(asset_spec(f"mini-sdxl/{part}", folder, _load_part, part, "our small SDXL") for part in PARTS)
    return Base("mini", "mini-sdxl (ours, 128 px)", "Apache-2.0", folder, parts, 128, 5.5, 25)


def _hub_files(part: str) -> tuple[str, ...]:
    """Patterns of a part's files in a repository of half-precision weights. Each has to be there, so none is given in vain."""
    if part.startswith("tokenizer"):
        return f"{part}/*.json", f"{part}/*.txt"
    return (f"{part}/*.json",) if part == "scheduler" else (f"{part}/*.json", f"{part}/*.fp16.safetensors")


def _full() -> Base:
    source, licence = "stabilityai/stable-diffusion-xl-base-1.0", "openrail++"
    sizes = {"unet": 5_135_149_760, "vae": 167_335_342, "text_encoder": 246_144_352, "text_encoder_2": 1_389_382_176}
    parts = tuple(
        ModelSpec(
            f"sdxl-base-1.0/{part}",
            source,
            _load_part,
            licence,
            sizes.get(part, 1 << 20),
            dtype="float16",
            card="Stable Diffusion XL 1.0",
            files=_hub_files(part),
        )
        for part in PARTS
    )
    return Base(
        "full",
        "Stable Diffusion XL 1.0 (Stability AI, 1024 px)",
        licence,
        source,
        parts,
        1024,
        5.5,
        50,
        download="about 7 GB from the Hub on first use; needs a GPU with 12 GB or patience",
    )


MINI = _mini()
FULL = _full()
BASES: dict[str, Base] = {base.name: base for base in (MINI, FULL)}


def build(parts: Sequence[Any] | Mapping[str, Any], kind: str = "", **more: Any) -> Any:
    """A ``StableDiffusionXLPipeline`` around the leased ``parts`` (by name, or in the order of :data:`PARTS`) and a new scheduler; ``kind``
    "Img2Img", "ControlNetInpaint" and so on makes that one, with what it takes ``more``."""
    import diffusers

    from pipelines.core.patching import fresh_scheduler

    components = dict(parts) if isinstance(parts, Mapping) else dict(zip(PARTS, parts, strict=True))
    components["scheduler"] = fresh_scheduler(components["scheduler"])
    # The class says AutoencoderKL in its signature and would warn, at every run, of the AutoencoderTiny that it accepts.
    logger = diffusers.utils.logging.get_logger("diffusers.pipelines.pipeline_utils")
    level = logger.level
    logger.setLevel("ERROR")
    try:
        pipe = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(**components, **more, add_watermarker=False)
    finally:
        logger.setLevel(level)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unread(pipe: Any, prompt: str) -> int | None:
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


def remember_guess(scheduler: Any) -> dict[str, Tensor]:
    """Let this run's own scheduler note its guess of the clean latents at each step, for previews."""
    seen: dict[str, Tensor] = {}
    step = type(scheduler).step  # not the note of an earlier draw: hundreds of draws would pile up

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = step(scheduler, *args, **(kwargs | {"return_dict": True}))
        if getattr(result, "pred_original_sample", None) is not None:
            seen["clean"] = result.pred_original_sample
        return result if kwargs.get("return_dict", True) else (result.prev_sample,)

    scheduler.step = noted
    return seen


def preview(vae: Any, clean: Tensor) -> list[Image]:
    """Small pictures of clean latents. The small VAE decodes; a large one would cost too much, so its latents' first
    three channels stand for the picture."""
    import torch

    from pipelines.core.images import to_pil

    if type(vae).__name__ == "AutoencoderTiny":
        picture = vae.decode(clean / vae.config.scaling_factor).sample / 2 + 0.5
    else:
        picture = torch.nn.functional.interpolate(clean[:, :3] / 6 + 0.5, scale_factor=2)
    return to_pil(picture.float().clamp(0, 1))
