"""Toy language models of the real classes with a tokenizer of words, and concepts of their size."""

from __future__ import annotations

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.vectors import VECTORS
from pipelines.core.weights import ModelSpec
from pipelines.models.language import MODELS, LanguageModel

WIDTH, LAYERS, HEADS, VOCABULARY = 32, 3, 4, 64
FAMILIES = ("llama", "mistral", "qwen2", "gpt2")
WORDS = (
    "hello you marvel dear sir the moon is made of cheese stone why how what sky blue green because it blushes".split()
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'].strip() }} "
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def toy(family: str = "llama", dtype: torch.dtype = torch.float32, **changes):
    """A randomly initialised model of the real class, with norm weights that are not all one."""
    small = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        for name in ("intermediate_size", "num_key_value_heads"):
            small.pop(name)
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2"}[family]
    config = getattr(transformers, f"{name}Config")(**{**small, **changes})
    torch.manual_seed(3)
    model = getattr(transformers, f"{name}{'LMHeadModel' if family == 'gpt2' else 'ForCausalLM'}")(config)
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__:
                module.weight.uniform_(0.5, 1.5)
            elif isinstance(module, torch.nn.Linear):
                module.weight.mul_(6)  # sharper than at initialisation, so that texts are not all alike
    return model.to(dtype).eval().requires_grad_(False)


def toy_tokenizer(template: str | None = TEMPLATE):
    """Every word one token; roles, beginning and end have tokens of their own."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>", "Question:", "Answer:", "?", "."]
    vocabulary = {word: n for n, word in enumerate([*names, *WORDS])}
    vocabulary |= {f"w{n}": n for n in range(len(vocabulary), VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def concept(seed: int = 0, name: str = "humour", representation: str = "pre-attn", **facts) -> Concept:
    generator = torch.Generator().manual_seed(seed)
    return Concept(name, torch.randn(LAYERS, WIDTH, generator=generator), representation=representation, **facts)


def ids(seed: int, count: int = 12) -> list[int]:
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits(model, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()


def hooks(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def offer(patch: pytest.MonkeyPatch, model, tokenizer, vectors: dict[str, Concept], **facts) -> None:
    """Make these the set "mini" until ``patch`` is undone."""
    made = {"model": model, "tokenizer": tokenizer, "vectors": vectors}
    parts = {
        name: ModelSpec(f"toy-{id(part)}/{name}", ".", lambda spec, part=part: part, "Apache-2.0", 1 << 20)
        for name, part in made.items()
    }
    patch.setitem(VECTORS, parts["tokenizer"].key, parts.pop("vectors"))
    patch.setitem(MODELS, "mini", (LanguageModel("mini-llama", "toy", "Apache-2.0", parts, **facts),))
