"""The fill model that GeoRemover steers, FLUX.1-Fill at its own size or as our ``mini-flux``: what it is made of.

Both are the same diffusers classes. A :class:`FillBase` lists the parts as data for the registry; ``flux_parts.py`` reads them and
builds pipelines of them. The prompt is one constant, so its embedding comes from a file and the two text encoders, 9.1 of 31.4
GiB, are never loaded (in the full set: once, to write that file). The transformer carries both adapters, "geo1" and "geo2",
switched off. No torch here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from pipelines.core import asset_files, hub
from pipelines.core.registry import GIB
from pipelines.core.weights import ROOT, ModelSpec, asset_spec, manifest, resolve

T = TypeVar("T")

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
"""Below this many bytes a transformer on the CPU wears an adapter merged into its weights: see :func:`flux_parts.wearing`."""


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

    def leases(self, preset: str = "") -> tuple[tuple[ModelSpec, ...], ...]:
        """What a run has in memory together, one after the other: where the prompt has no file yet, first what writes it."""
        parts = self.specs(preset)
        prompt = by_part(parts)["prompt"]
        once = replace(prompt, key=f"{prompt.key}/encoders", bytes=_ENCODERS_BYTES)
        return (parts,) if self.name == "mini" or prompt_file().is_file() else ((once,), parts)

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


def _load(spec: ModelSpec) -> Any:
    from pipelines.models import flux_parts

    return flux_parts.load(spec)


def _fetch_transformer(spec: ModelSpec) -> None:
    adapter_files(spec)  # before the large download: a missing file is told at once
    resolve(spec)


def _fetch_prompt(spec: ModelSpec) -> None:
    resolve(replace(spec, files=_SETTINGS))
    if not prompt_file().is_file():
        resolve(replace(spec, files=_ENCODERS))


def _of_transformer(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    return (spec,) if os.environ.get(LOCAL) else (spec, ADAPTERS)


def _of_prompt(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    return () if prompt_file().is_file() else (replace(spec, files=(*_SETTINGS, *_ENCODERS)),)


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


def prompt_file() -> Path:
    """Where the full model's embedding is kept after the text encoders have been used once."""
    root = os.environ.get("LATENT_STUDIO_MODELS")
    return (Path(root) if root else Path.home() / ".cache" / "latent-studio") / "flux-fill-prompt.safetensors"


_ENCODERS_BYTES = 9_800_000_000
_SETTINGS = ("transformer/config.json",)
_ENCODERS = ("text_encoder/*", "text_encoder_2/*", "tokenizer/*", "tokenizer_2/*")


def _mini() -> FillBase:
    card = "our small FLUX.1-Fill"
    made = {part: asset_spec(f"mini-flux/{part}", FOLDER, _load, part, card) for part in PARTS}
    facts = manifest(FOLDER)
    adapters = [asset_spec("", FOLDER, _load, stage) for stage in ("stage1", "stage2")]
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
    if (ROOT / FOLDER / RECOLOUR / "config.json").is_file():
        card = "our network that keeps the texture"
        made[RECOLOUR] = asset_spec(f"mini-flux/{RECOLOUR}", FOLDER, _load, RECOLOUR, card)
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
    _load,
    f"not stated; made from FLUX.1-Fill-dev ({_DEV})",
    720_000_000,
    card="the authors' two adapters",
    files=(f"stage1/*{ADAPTER_FILE}", f"stage2/*{ADAPTER_FILE}"),
)


def _full() -> FillBase:
    def part(name: str, size: int, key: str = "flux-fill-dev", dtype: str = "bfloat16") -> ModelSpec:
        files = () if name == "prompt" else (f"{name}/*.json", *((f"{name}/*.safetensors",) if size > GIB // 8 else ()))
        fetch = {"prompt": _fetch_prompt, "transformer": _fetch_transformer}.get(name)
        brings = {"prompt": _of_prompt, "transformer": _of_transformer}.get(name)
        return ModelSpec(
            f"{key}/{name}",
            FULL_SOURCE,
            _load,
            _DEV,
            size,
            dtype=dtype,
            card="FLUX.1 Fill [dev]",
            files=files,
            fetch=fetch,
            brings=brings,
            stays_in_ram=name == "prompt" or key.endswith("-offload"),
        )

    weights = 24_500_000_000
    shared = (
        part("vae", 168_000_000),
        part("scheduler", 1 << 20),
        part("prompt", 4_200_000),
        ModelSpec(
            "depth-anything-v2-small/depth",
            "depth-anything/Depth-Anything-V2-Small-hf",
            _load,
            "Apache-2.0",
            99_200_000,
            card="Depth Anything V2 Small",
            files=("*.json", "*.safetensors"),
        ),
    )
    by_preset = {
        "bf16": (part("transformer", weights), *shared),
        "offload": (part("transformer", weights, "flux-fill-dev-offload"), *shared),
        "8-bit": (part("transformer", weights // 2, "flux-fill-dev-8bit", "int8"), *shared),
        "4-bit": (part("transformer", weights // 4, "flux-fill-dev-4bit", "int4"), *shared),
    }
    return FillBase(
        "full",
        "FLUX.1 Fill [dev] with the authors' adapters (1024 px)",
        _DEV,
        FULL_SOURCE,
        by_preset["bf16"],
        1024,
        8,
        presets={
            "bf16": "16 bits a weight, a GPU with 32 GB",
            "8-bit": "8 bits a weight, a GPU with 20 GB (experimental, needs bitsandbytes)",
            "4-bit": "4 bits a weight, a GPU with 16 GB (experimental, needs bitsandbytes)",
            "offload": "layers visit the GPU one by one: a GPU with 10 GB, 50 GB of free RAM, and minutes",
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
    chain: BaseException | None = error
    seen: list[BaseException] = []
    while chain is not None and chain not in seen:
        seen.append(chain)
        chain = chain.__cause__ or chain.__context__
    for cause in seen:
        # A refusal without the Hub's own label arrives as a plain HTTP error, which huggingface_hub then turns into "not in the cache".
        why = hub.gate(cause, FULL_SOURCE)
        if why:
            return f"{why[0].upper()}{why[1:]}."
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in seen):
        return (
            "The full set is not in the local cache and cannot be fetched now: go online once, or put it into "
            f"$LATENT_STUDIO_MODELS/{Path(FULL_SOURCE).name}; the mini set works meanwhile."
        )
    if isinstance(error, FileNotFoundError) and error.errno is None:  # ours; the system's own would name a path
        return str(error)
    return None
