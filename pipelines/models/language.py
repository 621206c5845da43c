"""Language models that can be guided: where their parts are, what is known about guiding them, and how they are loaded.

No torch at module level.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core import limits
from pipelines.core.weights import ModelSpec, asset_spec


@dataclass(frozen=True)
class LanguageModel:
    """A model that can be guided: its parts for the registry, and what is known about guiding it."""

    name: str
    title: str
    licence: str
    parts: Mapping[str, ModelSpec]
    """ "model" and "tokenizer"."""
    folder: str = ""
    """Folder of a shipped model, whose manifest holds its measurements."""
    raw_limit: float = 64.0
    """The paper's demo lets its scale go this far; it differs by model because the norms do."""
    layers: str = "best"
    neutral_prompt: str = "Hello"
    """Stands in for the prompt of examples that have none."""
    download: str = ""
    """What choosing it would fetch, in words; empty where everything is shipped."""


QUANTISED = {"int8": "load_in_8bit", "int4": "load_in_4bit"}
"""Precision of a part -> the switch of ``BitsAndBytesConfig``."""


def _load_part(spec: ModelSpec) -> Any:
    from pipelines.models import language_parts

    return language_parts.load(spec)


def _mini() -> LanguageModel:
    folder = "assets/mini_llama"
    model = asset_spec("mini-llama/model", folder, _load_part, card="our small language model")
    tokenizer = asset_spec("mini-llama/tokenizer", folder, _load_part, card="its words")
    parts = {"model": model, "tokenizer": tokenizer}
    return LanguageModel("mini-llama", "mini-llama (ours)", "Apache-2.0", parts, folder, layers="best 2")


def _hub(
    name: str, source: str, licence: str, size: int, download: str, layers: str = "best", raw_limit: float = 64.0
) -> LanguageModel:
    weights, words = ("config.json", "generation_config.json", "*.safetensors*"), ("config.json", "tokenizer*")
    model = ModelSpec(f"{name}/model", source, _load_part, licence, size, dtype="bfloat16", card=source, files=weights)
    tokenizer = ModelSpec(f"{name}/tokenizer", source, _load_part, licence, 1 << 20, card="tokenizer", files=words)
    parts = {"model": model, "tokenizer": tokenizer}
    return LanguageModel(name, source, licence, parts, "", raw_limit, layers, "Hello!", download)


def quantised(model: LanguageModel, dtype: str) -> LanguageModel:
    """The same model with its linear layers in 8 or 4 bits (``dtype``: a key of :data:`QUANTISED`), by bitsandbytes.

    It is quantised while it loads, so the same files are fetched. Never run by us at full size: called experimental.
    """
    bits = int(dtype.removeprefix("int"))
    whole = model.parts["model"]
    smaller = dataclasses.replace(
        whole, key=whole.key.replace("/", f"-{bits}bit/"), dtype=dtype, bytes=whole.bytes * bits // 16
    )
    title = f"{model.title}, {bits}-bit (experimental)"
    return dataclasses.replace(
        model, name=f"{model.name}-{bits}bit", title=title, parts={**model.parts, "model": smaller}
    )


def with_quantised(models: Sequence[LanguageModel], installed: bool | None = None) -> tuple[LanguageModel, ...]:
    """``models``, and after each its 8-bit and 4-bit forms where bitsandbytes is installed."""
    if installed is None:
        installed = importlib.util.find_spec("bitsandbytes") is not None
    forms = tuple(QUANTISED) if installed else ()
    return tuple(form for model in models for form in (model, *(quantised(model, dtype) for dtype in forms)))


MODELS: dict[str, tuple[LanguageModel, ...]] = {
    "mini": (_mini(),),
    "full": with_quantised(
        (
            _hub(
                "qwen2.5-1.5b",
                "Qwen/Qwen2.5-1.5B-Instruct",
                "Apache-2.0",
                3_087_000_000,
                "about 3 GB from the Hub on first use; a small GPU, or patience",
            ),
            _hub(
                "qwen2.5-0.5b",
                "Qwen/Qwen2.5-0.5B-Instruct",
                "Apache-2.0",
                988_000_000,
                "about 1 GB from the Hub on first use; made for a laptop, 2 GB of RAM in float32",
            ),
            _hub(
                "mistral-7b-instruct",
                "mistralai/Mistral-7B-Instruct-v0.1",
                "Apache-2.0",
                14_483_000_000,
                "about 15 GB from the Hub on first use; a GPU with 20 GB",
                "8-31",
                128.0,
            ),
            _hub(
                "llama-2-7b-chat",
                "meta-llama/Llama-2-7b-chat-hf",
                "Llama 2 Community License",
                13_477_000_000,
                "about 14 GB from the Hub, after accepting Meta’s licence there and logging in; a GPU with 20 GB",
                "16-31",
                16.0,
            ),
        )
    ),
}
"""The models of each set, the default first.

Raw limits of the last two are the demo's of the authors' repository, and layers, counted from 0, those of its README (``range(8, 32)`` and
``range(16, 32)``). The demo's sliders count from 1, so that its default begins one layer earlier.
"""


def language_model(model_set: str, name: str = "") -> LanguageModel:
    """The model called ``name`` of a set; an empty name means its default."""
    known = MODELS[model_set]
    found = next((model for model in known if name in ("", model.name)), None)
    if found is None:
        names = ", ".join(model.name for model in known)
        raise ValueError(f"The model {limits.described(name)} is not in the set {model_set}: choose one of {names}.")
    return found
