"""The parts of a fill model (``flux.py``) in use: read, with adapters on, and in pipelines.

:func:`load` reads a part for the registry; :func:`wearing` puts one of the transformer's adapters on for a block; :func:`build` puts
a pipeline around leased parts: diffusers' own ``FluxFillPipeline``, or :class:`GeoRenderPipeline`, which is that class with one static
method replaced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipelines.core.libraries  # noqa: F401

import diffusers
import torch
import transformers
from diffusers import BitsAndBytesConfig, FluxFillPipeline
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from pipelines.core import asset_files, saving
from pipelines.core.offload import Offloaded
from pipelines.core.patching import building, fresh_scheduler
from pipelines.core.weights import ModelSpec, placement, resolve
from pipelines.models.flux import (
    _ENCODERS,
    _SETTINGS,
    FULL_SOURCE,
    PROMPT,
    PROMPT_KEYS,
    QUANTISED,
    SMALL,
    STAGES,
    adapter_files,
    prompt_file,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def check_adapter(state_dict: Mapping[str, Tensor], in_channels: int, width: int) -> None:
    """See that ``state_dict`` is an adapter for a fill model, which diffusers does not: one that was made for 64 input
    channels would be filled up with zeros without a word.

    Raises:
        ValueError: it is not, in one sentence.
    """
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    first, second = (shapes.get(f"transformer.x_embedder.lora_{part}.weight") for part in "AB")
    wanted = f"This file is not a GeoRemover LoRA (x_embedder {in_channels} expected)"
    if first is None or second is None:
        raise ValueError(f"{wanted}: it has no transformer.x_embedder, choose another file.")
    if len(first) != 2 or len(second) != 2 or first[1] != in_channels or second != (width, first[0]):
        raise ValueError(
            f"{wanted}: its x_embedder goes from {first[-1]} to {second[0]} and this model's from {in_channels} to {width}, "
            "choose another file."
        )


def add_adapter(transformer: FluxTransformer2DModel, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Put an adapter in the published key layout (``transformer.<module>.lora_A.weight``) on ``transformer``, switched off.

    Raises:
        ValueError: see :func:`check_adapter`.
    """
    check_adapter(state_dict, transformer.config["in_channels"], transformer.inner_dim)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are what we want
        transformer.load_lora_adapter(dict(state_dict), adapter_name=name, prefix="transformer")
    transformer.disable_lora()
    transformer.eval().requires_grad_(False)


@contextlib.contextmanager
def wearing(
    transformer: FluxTransformer2DModel, name: str | None, scale: float = 1.0, merge: bool | None = None
) -> Iterator[None]:
    """Inside the block ``transformer`` wears adapter ``name`` at strength ``scale``; None: the base model alone.

    Afterwards its adapters are switched off again and its weights are the very tensors of before, also on error.

    Args:
        merge: add the adapter to the weights, W + scale B A, once, in a copy that lasts for the block: that halves the time
            of a small model's step and takes its memory twice. By default where the model is small and on the CPU.

    Raises:
        ValueError: there is no such adapter.
    """
    if name is None:
        yield
        return
    if name not in getattr(transformer, "peft_config", {}):
        raise ValueError(f"The model has no adapter {name!r}: load one first.")
    if merge is None:
        weight = transformer.x_embedder.weight
        size = sum(p.numel() * p.element_size() for p in transformer.parameters())
        merge = weight.device.type == "cpu" and size < SMALL and weight.is_floating_point()
    with _merged(transformer, name, scale) if merge else _switched_on(transformer, name, scale):
        yield


@contextlib.contextmanager
def _merged(transformer: FluxTransformer2DModel, name: str, scale: float) -> Iterator[None]:
    layers: list[Any] = [m for m in transformer.modules() if isinstance(m, LoraLayer) and name in m.lora_A]
    weights = [(layer.get_base_layer().weight, layer.get_base_layer().weight.data) for layer in layers]
    try:
        with torch.no_grad():
            for layer, (weight, data) in zip(layers, weights, strict=True):
                weight.data = data + scale * layer.get_delta_weight(name)
        yield
    finally:
        for weight, data in weights:
            weight.data = data


@contextlib.contextmanager
def _switched_on(transformer: FluxTransformer2DModel, name: str, scale: float) -> Iterator[None]:
    try:
        transformer.enable_lora()
        transformer.set_adapters(name, scale)
        yield
    finally:
        transformer.set_adapters(name, 1.0)
        transformer.disable_lora()
        transformer.requires_grad_(False)  # peft asks for gradients of what it switches on


def load(spec: ModelSpec) -> Any:
    """The part that the spec's key names, as its own file says, in the spec's dtype."""
    part = spec.key.rsplit("/", 1)[1]
    return {"transformer": _load_transformer, "prompt": _load_prompt}.get(part, _load_part)(spec)


def _load_transformer(spec: ModelSpec) -> Any:
    """The transformer with both adapters on it; or :class:`Offloaded`, where the spec says that it stays in RAM."""
    options: dict[str, Any] = {"torch_dtype": torch.bfloat16 if spec.dtype in QUANTISED else getattr(torch, spec.dtype)}
    if spec.dtype in QUANTISED:
        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16} if spec.dtype == "int4" else {}
        options["quantization_config"] = BitsAndBytesConfig(**{QUANTISED[spec.dtype]: True}, **four)
    files = adapter_files(spec)
    transformer = FluxTransformer2DModel.from_pretrained(
        resolve(spec) / "transformer", use_safetensors=True, **placement(), **options
    )
    for name, file in zip(STAGES, files, strict=True):
        add_adapter(transformer, load_file(file), name)
    return Offloaded(transformer) if spec.stays_in_ram else transformer


def _load_part(spec: ModelSpec) -> Any:
    """Autoencoder, scheduler, depth model or recolouring network: the class that the part's own file names, in the spec's dtype."""
    part = spec.key.rsplit("/", 1)[1]
    folder = resolve(spec)
    folder = folder / part if (folder / part).is_dir() else folder  # Depth Anything is a repository of its own
    if part == "scheduler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder)
    dtype = getattr(torch, spec.dtype)
    if part == "depth":
        model = transformers.DepthAnythingForDepthEstimation.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **placement()
        )
    else:
        name = json.loads((folder / "config.json").read_text())["_class_name"]
        model = getattr(diffusers, name).from_pretrained(folder, use_safetensors=True, torch_dtype=dtype, **placement())
    return model.eval().requires_grad_(False)


def _load_prompt(spec: ModelSpec) -> dict[str, Tensor]:
    """The embedding of :data:`PROMPT`: shipped, or encoded at the first run and kept in a file."""
    widths = _prompt_widths(spec)
    if spec.source != FULL_SOURCE:
        return read_prompt(resolve(spec) / "prompt.safetensors", widths, asset_files.RESTORE)
    file = prompt_file()
    if not file.is_file():
        embeds = _encoded(replace(spec, files=_ENCODERS))
        try:
            write_prompt(file, embeds)
        except (OSError, SafetensorError) as error:  # a full disk, or one that may only be read
            log.warning("the prompt's embedding is not kept, and made again after the next start: %s", error)
            return embeds
    return read_prompt(file, widths)


def _prompt_widths(spec: ModelSpec) -> tuple[int, int] | None:
    """Of both tensors of a prompt, as the transformer beside it takes them; None where its settings are not here."""
    try:
        settings = json.loads((resolve(replace(spec, files=_SETTINGS)) / _SETTINGS[0]).read_text())
        return settings["joint_attention_dim"], settings["pooled_projection_dim"]
    except asset_files.GARBLED:  # the transformer's own loader says what is wrong with it
        return None


def read_prompt(
    path: Path, widths: tuple[int, int] | None = None, advice: str = "delete it, and it will be made again"
) -> dict[str, Tensor]:
    """``prompt_embeds`` (1, tokens, width) and ``pooled_prompt_embeds`` (1, width), finite floats; ``widths`` of both, where known.

    Raises:
        ValueError: the file holds something else, in one sentence that ends with ``advice``.
    """
    tensors = load_file(path)
    fits = set(tensors) == set(PROMPT_KEYS) and all(
        value.ndim == rank
        and len(value) == 1
        and value.numel()
        and value.is_floating_point()
        and value.isfinite().all()
        for value, rank in zip((tensors[key] for key in PROMPT_KEYS), (3, 2), strict=True)
    )
    if not fits or (widths is not None and tuple(tensors[key].shape[-1] for key in PROMPT_KEYS) != widths):
        wide = "" if widths is None else f" {widths[0]} and {widths[1]} wide"
        raise ValueError(f"{path.name} holds no prompt embedding{wide}: {advice}.")
    return tensors


def write_prompt(path: Path, embeds: Mapping[str, Tensor]) -> None:
    """Write what :func:`encode_prompt` returned; a run that ends half-way leaves no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with saving.whole(path) as (scratch,):
        save_file({key: embeds[key].contiguous() for key in PROMPT_KEYS}, scratch)


def encode_prompt(
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder_2: T5EncoderModel,
    tokenizer_2: PreTrainedTokenizerBase,
    tokens: int = 512,
) -> dict[str, Tensor]:
    """The embedding of :data:`PROMPT` by FLUX's two text encoders, through the pipeline's own function."""
    pipe: Any = FluxFillPipeline(None, None, text_encoder, tokenizer, text_encoder_2, tokenizer_2, None)
    with torch.inference_mode():
        embeds, pooled, _ids = pipe.encode_prompt(PROMPT, device=text_encoder.device, max_sequence_length=tokens)
    return dict(zip(PROMPT_KEYS, (embeds.cpu(), pooled.cpu()), strict=True))


def _encoded(spec: ModelSpec) -> dict[str, Tensor]:
    folder, dtype = resolve(spec), getattr(torch, spec.dtype)
    # On the CPU, and let go of before the run begins: the larger one has 4.8 billion weights.
    return encode_prompt(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, use_safetensors=True).eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=dtype, use_safetensors=True).eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
    )


def strip_ids(height: int, width: int, panels: int = 3) -> Tensor:
    """Positions of a strip's tokens, (height * width, 3): panel, row, column; row-major over the strip.

    Args:
        height: rows of tokens. width: columns of the whole strip, ``panels`` times a panel's. Columns restart in each
            panel; a single panel has FLUX's own table.
    """
    ids = torch.zeros(height, panels, width // panels, 3)
    ids[..., 0] = torch.arange(panels)[None, :, None]
    ids[..., 1] = torch.arange(height)[:, None, None]
    ids[..., 2] = torch.arange(width // panels)
    return ids.reshape(-1, 3)


class GeoRenderPipeline(FluxFillPipeline):
    """Stage 2: the strip [picture | depth after | depth before]; the first axis of the positions numbers the panel."""

    @staticmethod
    def _prepare_latent_image_ids(
        batch_size: int, height: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return strip_ids(height, width).to(device=device, dtype=dtype)


def build(parts: Mapping[str, Any], kind: str = "fill") -> Any:
    """A pipeline around the leased ``parts`` (by the names in :data:`PARTS`; more are left alone) and a new scheduler, without text
    encoders.

    ``kind``: "fill" for ``FluxFillPipeline`` (stage 1, and filling alone), "render" for ``GeoRenderPipeline`` (stage 2).
    """
    transformer = parts["transformer"]
    if isinstance(transformer, Offloaded):
        transformer = transformer.on(parts["vae"].device)
    pipeline: Any = {"fill": FluxFillPipeline, "render": GeoRenderPipeline}[kind]
    with building():
        pipe = pipeline(
            scheduler=fresh_scheduler(parts["scheduler"]),
            vae=parts["vae"],
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=transformer,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
