"""Tokenizer files as the full set's repositories have them, of small vocabularies: CLIP, T5, Qwen, Llama and Mistral."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.toys.onnx import _text, _varint, _whole

START, END = "<|startoftext|>", "<|endoftext|>"
BLANK = "▁"
PLAIN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
WORDS = "the a is it of to and in you hello moon joke funny answer question".split()
QWEN_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or (message.role == 'assistant') %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def byte_letters() -> list[str]:
    """GPT-2's letters for the 256 bytes, in its order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, plain), *(chr(256 + n) for n in range(256 - len(plain)))]


def clip(folder: Path, pad: str = END) -> int:
    """`vocab.json` and `merges.txt`, as before `tokenizer.json`; returns the size of the vocabulary, whose last entry is the end."""
    letters = byte_letters()
    merges = [("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"), ("r", "e"), ("re", "d</w>")]
    entries = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")

    def special(content: str) -> dict[str, Any]:
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    roles = {"bos_token": START, "eos_token": END, "unk_token": END}
    write_json(folder / "special_tokens_map.json", {**{k: special(v) for k, v in roles.items()}, "pad_token": pad})
    marked = {name: {"__type": "AddedToken", **special(value)} for name, value in roles.items()}
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    write_json(
        folder / "tokenizer_config.json",
        {**settings, **marked, "pad_token": pad, "tokenizer_class": "CLIPTokenizer"},
    )
    return len(entries)


def qwen(folder: Path) -> int:
    """Bytes and control tokens; returns the size of the vocabulary."""
    letters = byte_letters()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ids = {name: len(letters) + number for number, name in enumerate(control)}
    vocabulary = {letter: number for number, letter in enumerate(letters)}

    def added(content: str) -> dict[str, Any]:
        return {"content": content, **PLAIN}

    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[name], **added(name)} for name in control],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "model": {**model, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []},
    }
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(ids[name]): added(name) for name in control},
        "additional_special_tokens": control[1:],
        "bos_token": None,
        "chat_template": QWEN_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return len(letters) + len(control)


LLAMA_CONTROL = ["<unk>", "<s>", "</s>"]


def llama(folder: Path, template: str) -> int:
    """SentencePiece's BPE with bytes to fall back on: `tokenizer.model` and `tokenizer.json`; returns the vocabulary's size."""
    fallback = [f"<0x{n:02X}>" for n in range(256)]
    letters = [BLANK, *(chr(n) for n in range(33, 127))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        made = BLANK
        for letter in word:
            if (made, letter) not in merges:
                merges.append((made, letter))
            made += letter
    pieces = [*LLAMA_CONTROL, *fallback, *letters, *map("".join, merges)]
    write_json(folder / "tokenizer.json", llama_content(pieces, merges))
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 259)]  # unknown, control, byte, normal
    (folder / "tokenizer.model").write_bytes(sentencepiece(pieces, kinds, model_type=2))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", llama_settings(template) | special)
    return len(pieces)


def llama_content(pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """Of `tokenizer.json`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": name, **PLAIN} for n, name in enumerate(LLAMA_CONTROL)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": BLANK},
                {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [f"{a} {b}" for a, b in merges],
        },
    }


def llama_settings(template: str) -> dict[str, Any]:
    """Of `tokenizer_config.json`, but for the special tokens."""
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(n): {"content": name, **PLAIN} for n, name in enumerate(LLAMA_CONTROL)},
        "additional_special_tokens": [],
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": None,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
    }


def t5(folder: Path) -> int:
    """SentencePiece's unigrams: `spiece.model` and `tokenizer.json`; returns the vocabulary's size."""
    control = ["<pad>", "</s>", "<unk>"]
    pieces = [*control, BLANK, *(chr(n) for n in range(33, 127)), *(BLANK + word for word in WORDS)]
    scores = [0.0, 0.0, 0.0, *(-5.0 - 0.01 * n for n in range(len(pieces) - 3))]
    blanks = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    sequence, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": name, **PLAIN} for n, name in enumerate(control)],
        "normalizer": None,
        "pre_tokenizer": blanks,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence, end],
            "pair": [sequence, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": blanks,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [list(pair) for pair in zip(pieces, scores, strict=True)]},
    }
    write_json(folder / "tokenizer.json", content)
    kinds = [3, 3, 2, *[1] * (len(pieces) - 3)]
    (folder / "spiece.model").write_bytes(sentencepiece(pieces, kinds, model_type=1, scores=scores))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "add_prefix_space": True,
        "added_tokens_decoder": {str(n): {"content": name, **PLAIN} for n, name in enumerate(control)},
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True,
        "extra_ids": 0,
        "legacy": True,
        "model_max_length": 512,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return len(pieces)


def sentencepiece(
    pieces: Sequence[str], kinds: Sequence[int], model_type: int, scores: Sequence[float] | None = None
) -> bytes:
    """A SentencePiece model: pieces with scores and kinds, and what its trainer was told."""
    scores = scores or [-float(n) for n in range(len(pieces))]
    body = b""
    for piece, kind, score in zip(pieces, kinds, scores, strict=True):
        number = _varint(2 << 3 | 5) + struct.pack("<f", score)
        body += _text(1, _text(1, piece) + number + _whole(3, kind))
    return body + _text(2, _whole(3, model_type) + _whole(35, int(model_type == 2)))
