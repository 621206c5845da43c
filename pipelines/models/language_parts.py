"""Loader of the language models' parts. Imports torch."""

from __future__ import annotations

from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pipelines.core.weights import ModelSpec, placement, resolve
from pipelines.models.language import QUANTISED


def load(spec: ModelSpec) -> Any:
    """A language model in the spec's dtype and eval mode, or its tokenizer."""
    folder = resolve(spec)
    if spec.key.endswith("/tokenizer"):
        return AutoTokenizer.from_pretrained(folder)
    precision = "bfloat16" if spec.dtype in QUANTISED else spec.dtype
    options: dict[str, Any] = {"dtype": getattr(torch, precision), "use_safetensors": True, **placement()}
    if spec.dtype in QUANTISED:
        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16} if spec.dtype == "int4" else {}
        options["quantization_config"] = BitsAndBytesConfig(**{QUANTISED[spec.dtype]: True}, **four)
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval().requires_grad_(False)
