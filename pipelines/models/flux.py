"""The fill model that GeoRemover steers: FLUX.1-Fill, at its own size or as our ``mini-flux``, with two adapters.

Both are the same diffusers classes. A :class:`FillBase` lists the parts as data for the registry, and :func:`build` puts a
pipeline around leased parts: diffusers' own ``FluxFillPipeline``, or ``GeoRenderPipeline``, which is that class with one
static method replaced. The prompt is one constant, so its embedding comes from a file and the two text encoders, 9.1 of 31.4
GiB, are never loaded (in the full set: once, to write that file).

The transformer carries both adapters, "geo1" and "geo2", switched off; :func:`wearing` puts one on for a block.

Module level is free of torch, so ``GeoRenderPipeline`` is made when it is first asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.core import asset_files, saving
from pipelines.core.offload import Offloaded
from pipelines.core.registry import GIB
from pipelines.core.weights import ModelSpec, resolve
from pipelines.models import sdxl

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
log = logging.getLogger(__name__)

PARTS = ("transformer", "vae", "scheduler", "prompt", "depth")
RECOLOUR = "recolour"
"""A sixth part, which only the small set has: ``pipelines/georemover/recolour.py``."""
STAGES = ("geo1", "geo2")
"""Names of the adapters: geometry removal, appearance rendering."""
PROMPT = "A beautiful scene"
PROMPT_KEYS = ("prompt_embeds", "pooled_prompt_embeds")
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
FOLDER = "assets/mini_flux"
LOCAL = "LATENT_STUDIO_GEOREMOVER"
"""Environment variable: a local folder with the authors' two adapters, so that they are not fetched."""
QUANTISED = {"int8": "load_in_8bit", "int4": "load_in_4bit"}
"""Precision of a transformer -> the switch of ``BitsAndBytesConfig``."""
SMALL = GIB
"""Below this many bytes a transformer on the CPU wears an adapter merged into its weights: see :func:`wearing`."""


@dataclass(frozen=True)
class FillBase:
    """A fill model with its adapters: its parts for the registry and the defaults that belong to its size."""

    name: str
    title: str
    licence: str
    source: str
    parts: tuple[ModelSpec, ...]
    """Of the first preset, in the order of :data:`PARTS`; after them :data:`RECOLOUR`, where there is such a network."""
    long_side: int
    grow: int
    """Default growth of the mask and width of the seam, pixels at working size."""
    multiple: int = 64
    """Each side of a panel is a multiple of this."""
    steps: tuple[int, int] = (50, 50)
    fast: tuple[int, int] = (20, 28)
    """Steps of both stages in the faster preset."""
    fill_least: int = 1
    """Least steps of the base model alone: an adapter taught to render in fewer does not make it so."""
    guidance: float = 30.0
    upscale: bool = False
    """Whether a picture smaller than ``long_side`` is enlarged; if so, sides go to the nearest multiple, not down to one."""
    depth_patches: int | None = None
    """Patches of 14 pixels along the depth model's longer side; None: its shorter side is 518 pixels, as published."""
    download: str = ""
    """What choosing it would fetch, in words; empty where everything is shipped."""
    presets: Mapping[str, str] = field(default_factory=lambda: {"float32": "float32, in memory"})
    """Ways to hold it in memory: key -> words of the page, from the largest to the smallest."""
    by_preset: Mapping[str, tuple[ModelSpec, ...]] = field(default_factory=dict)

    def fill_steps(self, steps: int) -> int:
        """Steps of the base model alone where stage 2 takes ``steps``."""
        return max(steps, self.fill_least)

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the model works on a picture of ``size``.

        As in the official script: a longer side above ``long_side`` is scaled down to it, then each side is cut down to a multiple of
        ``multiple``. The small model also enlarges small pictures, and takes the nearest multiple, because at 192 pixels cutting down
        would press a picture of 16:9 together to 3:1.

        Raises:
            ValueError: a side would have less than one multiple.
        """
        width, height = size
        least, longest = self.multiple, max(width, height)
        factor = self.long_side / longest if self.upscale else min(1.0, self.long_side / longest)
        sides = [round(side * factor, 6) for side in size]
        made = [int(side / least + (0.5 if self.upscale else 0)) * least for side in sides]
        if min(size) < least:
            raise ValueError(
                f"The picture is {width} x {height} pixels and each side needs at least {least}: choose a larger one."
            )
        if min(made) < least:
            raise ValueError(
                f"The picture is {width} x {height} pixels, at the model's size {sides[0]:.0f} x {sides[1]:.0f}, where each "
                f"side needs at least {least}: cut off some of its length."
            )
        return made[0], made[1]

    def named(self, preset: str = "") -> dict[str, ModelSpec]:
        """:meth:`specs` by the names of their parts."""
        return by_part(self.specs(preset))

    def specs(self, preset: str = "") -> tuple[ModelSpec, ...]:
        """The parts to lease with ``preset`` (empty: the first).

        Raises:
            ValueError: the preset needs a package that is not installed.
        """
        parts = self.by_preset.get(preset or next(iter(self.presets)), self.parts)
        if parts[0].dtype in QUANTISED and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                f"The preset {preset} needs the package bitsandbytes, which is not installed: "
                "install it, or choose bf16 or offload."
            )
        return parts


def by_part(values: Iterable[T]) -> dict[str, T]:
    """``values`` in the order of :data:`PARTS`, and :data:`RECOLOUR` if there is a sixth, by their names."""
    return dict(zip((*PARTS, RECOLOUR), values, strict=False))


# ----------------------------------------------------------------------------------------- adapters


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


def add_adapter(transformer: Any, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Put an adapter in the published key layout (``transformer.<module>.lora_A.weight``) on ``transformer``, switched off.

    Raises:
        ValueError: see :func:`check_adapter`.
    """
    check_adapter(state_dict, transformer.config.in_channels, transformer.inner_dim)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are what we want
        transformer.load_lora_adapter(dict(state_dict), adapter_name=name, prefix="transformer")
    transformer.disable_lora()
    transformer.eval().requires_grad_(False)


@contextlib.contextmanager
def wearing(transformer: Any, name: str | None, scale: float = 1.0, merge: bool | None = None) -> Iterator[None]:
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
def _merged(transformer: Any, name: str, scale: float) -> Iterator[None]:
    import torch
    from peft.tuners.lora import LoraLayer

    layers = [m for m in transformer.modules() if isinstance(m, LoraLayer) and name in m.lora_A]
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
def _switched_on(transformer: Any, name: str, scale: float) -> Iterator[None]:
    try:
        transformer.enable_lora()
        transformer.set_adapters(name, scale)
        yield
    finally:
        transformer.set_adapters(name, 1.0)
        transformer.disable_lora()
        transformer.requires_grad_(False)  # peft asks for gradients of what it switches on


# ------------------------------------------------------------------------------------------ loading


def _load_transformer(spec: ModelSpec) -> Any:
    """The transformer with both adapters on it; or :class:`Offloaded`, where the key says so."""
    import torch
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import load_file

    options: dict[str, Any] = {"torch_dtype": torch.bfloat16 if spec.dtype in QUANTISED else getattr(torch, spec.dtype)}
    if spec.dtype in QUANTISED:
        from diffusers import BitsAndBytesConfig

        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16} if spec.dtype == "int4" else {}
        options["quantization_config"] = BitsAndBytesConfig(**{QUANTISED[spec.dtype]: True}, **four)
    files = adapter_files(spec)
    transformer = FluxTransformer2DModel.from_pretrained(resolve(spec) / "transformer", use_safetensors=True, **options)
    for name, file in zip(STAGES, files, strict=True):
        add_adapter(transformer, load_file(file), name)
    return Offloaded(transformer) if "-offload/" in spec.key else transformer


def _fetch_transformer(spec: ModelSpec) -> None:
    adapter_files(spec)  # before the large download: a missing file is told at once
    resolve(spec)


def _fetch_prompt(spec: ModelSpec) -> None:
    resolve(replace(spec, files=_SETTINGS))
    if not prompt_file().is_file():
        resolve(replace(spec, files=_ENCODERS))


def adapter_files(spec: ModelSpec) -> tuple[Path, Path]:
    """The files of both adapters: shipped beside the mini transformer; else what :data:`LOCAL` names, or from the Hub.

    Raises:
        FileNotFoundError: a stage has no file, in one sentence that names no path of this machine.
    """
    if spec.source != FULL_SOURCE:
        folder = resolve(spec)
        where = spec.source
    else:
        named = os.environ.get(LOCAL)
        folder = Path(named) if named else resolve(ADAPTERS)
        where = f"the folder that {LOCAL} names" if named else ADAPTERS.source
    adapters = []
    for number in (1, 2):
        # Of several checkpoints the last: their names end in the number of steps.
        files = sorted(folder.glob(f"stage{number}/**/{ADAPTER_FILE}"), key=lambda p: (_steps(p), str(p)))
        if not files:
            raise FileNotFoundError(f"There is no stage{number}/{ADAPTER_FILE} in {where}: put the adapter there.")
        adapters.append(files[-1])
    return adapters[0], adapters[1]


def adapter_facts(spec: ModelSpec) -> list[dict[str, str]]:
    """Key, source, licence and SHA-256 of both adapters on the loaded transformer ``spec``; empty where they are no files."""
    if spec.source != FULL_SOURCE:
        hashes = {f"stage{n}": spec.sha256.get(f"stage{n}/{ADAPTER_FILE}", "") for n in (1, 2)}
        name, source, licence = spec.key.partition("/")[0], spec.source, spec.licence
    else:
        hashes = {f"stage{n}": _sha256(file) for n, file in enumerate(adapter_files(spec), 1)}
        source = f"the folder that {LOCAL} names" if os.environ.get(LOCAL) else ADAPTERS.source
        name, licence = ADAPTERS.key, ADAPTERS.licence
    return [
        {"key": f"{name}/{stage}", "source": source, "licence": licence, "sha256": value}
        for stage, value in hashes.items()
        if value
    ]


@cache
def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _steps(path: Path) -> int:
    digits = path.parent.name.rsplit("-", 1)[-1]
    return int(digits) if digits.isdigit() else 0


def _load_part(spec: ModelSpec) -> Any:
    """Autoencoder, scheduler, depth model or recolouring network: the class that the part's own file names, in the spec's dtype."""
    import json

    import diffusers
    import torch
    import transformers

    part = spec.key.rsplit("/", 1)[1]
    folder = resolve(spec)
    folder = folder / part if (folder / part).is_dir() else folder  # Depth Anything is a repository of its own
    if part == "scheduler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder)
    dtype = getattr(torch, spec.dtype)
    if part == "depth":
        model = transformers.DepthAnythingForDepthEstimation.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    else:
        name = json.loads((folder / "config.json").read_text())["_class_name"]
        model = getattr(diffusers, name).from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)
    return model.eval().requires_grad_(False)


def _load_prompt(spec: ModelSpec) -> dict[str, Tensor]:
    """The embedding of :data:`PROMPT`: shipped, or encoded at the first run and kept in a file."""
    from safetensors import SafetensorError

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
    import json

    try:
        settings = json.loads((resolve(replace(spec, files=_SETTINGS)) / _SETTINGS[0]).read_text())
        return settings["joint_attention_dim"], settings["pooled_projection_dim"]
    except asset_files.GARBLED:  # the transformer's own loader says what is wrong with it
        return None


def prompt_file() -> Path:
    """Where the full model's embedding is kept after the text encoders have been used once."""
    root = os.environ.get("LATENT_STUDIO_MODELS")
    return (Path(root) if root else Path.home() / ".cache" / "latent-studio") / "flux-fill-prompt.safetensors"


def read_prompt(
    path: Path, widths: tuple[int, int] | None = None, advice: str = "delete it, and it will be made again"
) -> dict[str, Tensor]:
    """``prompt_embeds`` (1, tokens, width) and ``pooled_prompt_embeds`` (1, width), finite floats; ``widths`` of both, where known.

    Raises:
        ValueError: the file holds something else, in one sentence that ends with ``advice``.
    """
    from safetensors.torch import load_file

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
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with saving.whole(path) as (scratch,):
        save_file({key: embeds[key].contiguous() for key in PROMPT_KEYS}, scratch)


def encode_prompt(
    text_encoder: Any, tokenizer: Any, text_encoder_2: Any, tokenizer_2: Any, tokens: int = 512
) -> dict[str, Tensor]:
    """The embedding of :data:`PROMPT` by FLUX's two text encoders, through the pipeline's own function."""
    import torch
    from diffusers import FluxFillPipeline

    pipe = FluxFillPipeline(None, None, text_encoder, tokenizer, text_encoder_2, tokenizer_2, None)
    with torch.inference_mode():
        embeds, pooled, _ids = pipe.encode_prompt(PROMPT, device=text_encoder.device, max_sequence_length=tokens)
    return dict(zip(PROMPT_KEYS, (embeds.cpu(), pooled.cpu()), strict=True))


_SETTINGS = ("transformer/config.json",)
_ENCODERS = ("text_encoder/*", "text_encoder_2/*", "tokenizer/*", "tokenizer_2/*")


def _encoded(spec: ModelSpec) -> dict[str, Tensor]:
    import torch
    from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

    folder, dtype = resolve(spec), getattr(torch, spec.dtype)
    # On the CPU, and let go of before the run begins: the larger one has 4.8 billion weights.
    return encode_prompt(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, use_safetensors=True).eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=dtype, use_safetensors=True).eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
    )


# -------------------------------------------------------------------------------------------- bases


def _mini() -> FillBase:
    card = "our small FLUX.1-Fill"
    made = {
        part: sdxl.asset_spec(f"mini-flux/{part}", FOLDER, load, part, card)
        for part, load in zip(PARTS, (_load_transformer, _load_part, _load_part, _load_prompt, _load_part), strict=True)
    }
    facts = sdxl.manifest(FOLDER)
    adapters = [sdxl.asset_spec("", FOLDER, _load_part, stage) for stage in ("stage1", "stage2")]
    made["transformer"] = replace(
        made["transformer"],
        bytes=sum(spec.bytes for spec in (made["transformer"], *adapters)),
        sha256={k: v for spec in (made["transformer"], *adapters) for k, v in spec.sha256.items()},
        card="our small FLUX.1-Fill and its two adapters",
    )
    file = "prompt.safetensors"
    made["prompt"] = replace(
        made["prompt"],
        sha256={k: v for k, v in asset_files.hashes(facts).items() if k == file},
        card="the constant prompt",
    )
    made["depth"] = replace(made["depth"], card="our small Depth Anything")
    if (sdxl.ROOT / FOLDER / RECOLOUR / "config.json").is_file():
        card = "our network that keeps the texture"
        made[RECOLOUR] = sdxl.asset_spec(f"mini-flux/{RECOLOUR}", FOLDER, _load_part, RECOLOUR, card)
    return FillBase(
        "mini",
        "mini-flux (ours, 192 px)",
        "Apache-2.0",
        FOLDER,
        tuple(made.values()),
        192,
        2,
        upscale=True,
        depth_patches=12,
        steps=(4, 1),
        fast=(1, 1),
        fill_least=4,
    )


FULL_SOURCE = "black-forest-labs/FLUX.1-Fill-dev"
_DEV = "FLUX.1 [dev] Non-Commercial"
ADAPTERS = ModelSpec(
    "georemover/adapters",
    "buxiangzhiren/GeoRemover",
    _load_part,
    f"not stated; made from FLUX.1-Fill-dev ({_DEV})",
    720_000_000,
    card="the authors' two adapters",
    files=(f"stage1/*{ADAPTER_FILE}", f"stage2/*{ADAPTER_FILE}"),
)


def _full() -> FillBase:
    def part(name: str, load: Any, size: int, key: str = "flux-fill-dev", dtype: str = "bfloat16") -> ModelSpec:
        files = () if name == "prompt" else (f"{name}/*.json", *((f"{name}/*.safetensors",) if size > GIB // 8 else ()))
        fetch = {"prompt": _fetch_prompt, "transformer": _fetch_transformer}.get(name)
        return ModelSpec(
            f"{key}/{name}",
            FULL_SOURCE,
            load,
            _DEV,
            size,
            dtype=dtype,
            card="FLUX.1 Fill [dev]",
            files=files,
            fetch=fetch,
        )

    weights = 24_500_000_000
    shared = (
        part("vae", _load_part, 168_000_000),
        part("scheduler", _load_part, 1 << 20),
        part("prompt", _load_prompt, 4_200_000),
        ModelSpec(
            "depth-anything-v2-small/depth",
            "depth-anything/Depth-Anything-V2-Small-hf",
            _load_part,
            "Apache-2.0",
            99_200_000,
            card="Depth Anything V2 Small",
            files=("*.json", "*.safetensors"),
        ),
    )
    by_preset = {
        "bf16": (part("transformer", _load_transformer, weights), *shared),
        "offload": (part("transformer", _load_transformer, weights, "flux-fill-dev-offload"), *shared),
        "8-bit": (part("transformer", _load_transformer, weights // 2, "flux-fill-dev-8bit", "int8"), *shared),
        "4-bit": (part("transformer", _load_transformer, weights // 4, "flux-fill-dev-4bit", "int4"), *shared),
    }
    return FillBase(
        "full",
        "FLUX.1 Fill [dev] with the authors' adapters (1024 px)",
        _DEV,
        FULL_SOURCE,
        by_preset["bf16"],
        1024,
        8,
        download=(
            "about 25 GB from the Hub on first use, after accepting the licence there, and 10 GB once more for the prompt; "
            "needs a GPU with 32 GB, or less with a smaller preset"
        ),
        presets={
            "bf16": "16 bits a weight, a GPU with 32 GB",
            "8-bit": "8 bits a weight, a GPU with 20 GB (experimental, needs bitsandbytes)",
            "4-bit": "4 bits a weight, a GPU with 16 GB (experimental, needs bitsandbytes)",
            "offload": "layers visit the GPU one by one, 10 GB and minutes",
        },
        by_preset=by_preset,
    )


MINI = _mini()
FULL = _full()
BASES: dict[str, FillBase] = {base.name: base for base in (MINI, FULL)}


def access_message(error: BaseException) -> str | None:
    """One sentence about why the full set's files cannot be had, with what to do; None where the error is another.

    A gated repository is told first: huggingface_hub derives its error from the one for repositories that do not exist.
    """
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

    chain, seen = error, []
    while chain is not None and chain not in seen:
        seen.append(chain)
        chain = chain.__cause__ or chain.__context__
    for cause in seen:
        if isinstance(cause, GatedRepoError):
            status = getattr(getattr(cause, "response", None), "status_code", 401)
            if status == 403 and "fine-grained" in str(cause):
                return "The token in HF_TOKEN cannot read gated repositories: allow that in its settings, or make one of type read."
            return f"Accept the licence at huggingface.co/{FULL_SOURCE} and set HF_TOKEN, then start the studio again."
        # A refusal without the Hub's own label arrives as a plain HTTP error, which huggingface_hub then turns into "not in the cache".
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 403:
            return "The token in HF_TOKEN cannot read gated repositories: allow that in its settings, or make one of type read."
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in seen):
        return (
            "The full set is not in the local cache and cannot be fetched now: go online once, or put it into "
            f"$LATENT_STUDIO_MODELS/{Path(FULL_SOURCE).name}; the mini set works meanwhile."
        )
    if isinstance(error, FileNotFoundError) and error.errno is None:  # ours; the system's own would name a path
        return str(error)
    return None


# ---------------------------------------------------------------------------------------- pipelines


def strip_ids(height: int, width: int, panels: int = 3) -> Tensor:
    """Positions of a strip's tokens, (height * width, 3): panel, row, column; row-major over the strip.

    Args:
        height: rows of tokens. width: columns of the whole strip, ``panels`` times a panel's. Columns restart in each
            panel; a single panel has FLUX's own table.
    """
    import torch

    ids = torch.zeros(height, panels, width // panels, 3)
    ids[..., 0] = torch.arange(panels)[None, :, None]
    ids[..., 1] = torch.arange(height)[:, None, None]
    ids[..., 2] = torch.arange(width // panels)
    return ids.reshape(-1, 3)


@cache
def _render_class() -> type:
    from diffusers import FluxFillPipeline

    class GeoRenderPipeline(FluxFillPipeline):
        """Stage 2: the strip [picture | depth after | depth before]; the first axis of the positions numbers the panel."""

        @staticmethod
        def _prepare_latent_image_ids(batch_size: int, height: int, width: int, device: Any, dtype: Any) -> Tensor:
            return strip_ids(height, width).to(device=device, dtype=dtype)

    return GeoRenderPipeline


def __getattr__(name: str) -> Any:
    if name == "GeoRenderPipeline":
        return _render_class()
    raise AttributeError(name)


def build(parts: Mapping[str, Any], kind: str = "fill") -> Any:
    """A pipeline around the leased ``parts`` (by the names in :data:`PARTS`; more are left alone) and a new scheduler, without text
    encoders.

    ``kind``: "fill" for ``FluxFillPipeline`` (stage 1, and filling alone), "render" for ``GeoRenderPipeline`` (stage 2).
    """
    import diffusers

    from pipelines.core.patching import fresh_scheduler

    transformer = parts["transformer"]
    if isinstance(transformer, Offloaded):
        transformer = transformer.on(parts["vae"].device)
    pipeline = {"fill": diffusers.FluxFillPipeline, "render": _render_class()}[kind]
    # The class says AutoencoderKL in its signature and would warn, at every run, of the AutoencoderTiny that it accepts.
    logger = diffusers.utils.logging.get_logger("diffusers.pipelines.pipeline_utils")
    level = logger.level
    logger.setLevel("ERROR")
    try:
        pipe = pipeline(
            scheduler=fresh_scheduler(parts["scheduler"]),
            vae=parts["vae"],
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=transformer,
        )
    finally:
        logger.setLevel(level)
    pipe.set_progress_bar_config(disable=True)
    return pipe
