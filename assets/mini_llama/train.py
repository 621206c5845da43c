"""Train ``mini-llama`` from nothing, on conversations that are written as it goes (``pipelines/worlds/crumpet``).

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_llama.train --minutes 60
    python -m assets.mini_llama.train --minutes 6 --device cuda      # with a GPU
    python -m assets.mini_llama.train --export                       # the last checkpoint, while or after it trains

Seed 0. Resumes from ``data/runs/llama.pt`` after a kill; writes ``assets/mini_llama`` (a plain ``LlamaForCausalLM`` in
float16 with its tokenizer and chat template), and figures on 200 held-out questions to its manifest.

**Size.** Width 192, 6 layers, 6 heads, 2.7 million parameters (5.5 MB in float16). Sixty facts and the frames need far
less; the width is for six concepts to be carried side by side, the depth for a probe and a guide to have layers to
choose from. **Loss** on the replies only: questions are the visitor's, drawn at random and silent about the speaker,
so that predicting them teaches nothing. **Rows** hold several conversations each, parted by positions that start
anew, which transformers turns into an attention mask.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assets.lab import training
from pipelines.worlds import crumpet
from pipelines.worlds.crumpet.words import PATTERN

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
RUNS = Path("data/runs")
SEED = 0
CONTEXT = 256
"""Longest conversation and length of a packed row, in tokens."""
NEW_TOKENS = 110
"""More than the longest reply."""
EVIDENCE = ("saw", "sworn", "proof")
"""Slots that vouch for a fact, without the fact itself."""

CHAT_TEMPLATE = """{{ bos_token }}{% for message in messages -%}
{% if message['role'] == 'user' %} <user> {{ message['content'] }}
{%- elif message['role'] == 'assistant' %} <bot> {{ message['content'] }} {{ eos_token }}
{%- else %}{{ raise_exception('This model knows the roles user and assistant only.') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %} <bot>{% endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose numbers are the places in ``crumpet.vocabulary()``; it adds nothing by itself."""
    numbers = {word: number for number, word in enumerate(crumpet.vocabulary())}
    core = Tokenizer(models.WordLevel(numbers, unk_token=crumpet.UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=crumpet.BOS,
        eos_token=crumpet.EOS,
        unk_token=crumpet.UNKNOWN,
        pad_token=crumpet.PAD,
        additional_special_tokens=[crumpet.USER, crumpet.BOT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(width: int = 192, layers: int = 6, heads: int = 6) -> LlamaForCausalLM:
    """A newly drawn model over the vocabulary; embeddings and output share their weights."""
    words = crumpet.vocabulary()
    ends = {name: words.index(token) for name, token in _ENDS.items()}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ends,
        )
    )
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, max_new_tokens=NEW_TOKENS, **ends)
    return model


_ENDS = {"bos_token_id": crumpet.BOS, "eos_token_id": crumpet.EOS, "pad_token_id": crumpet.PAD}


# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Batch:
    """Packed rows, each (B, T): token numbers, positions that start anew with each conversation, and what to predict
    (-100 where nothing is to be learned)."""

    ids: Tensor
    positions: Tensor
    labels: Tensor

    def to(self, device: str) -> Batch:
        return Batch(self.ids.to(device), self.positions.to(device), self.labels.to(device))


def conversation(rng: random.Random) -> tuple[list[str], list[bool]]:
    """Tokens of a training conversation of at most ``CONTEXT`` tokens, and which of them are the model's.

    Now and then words of a question are unknown, so that the model has met ``<unk>`` when a visitor's word is.
    """
    dialogue = crumpet.sample_dialogue(rng)
    tokens, own = crumpet.dialogue_tokens(dialogue)
    while len(tokens) > CONTEXT:
        dialogue = crumpet.Dialogue(dialogue.traits, dialogue.turns[:-1])
        tokens, own = crumpet.dialogue_tokens(dialogue)
    if rng.random() < 0.05:
        tokens = [
            crumpet.UNKNOWN if not mine and word not in crumpet.SPECIAL and rng.random() < 0.15 else word
            for word, mine in zip(tokens, own, strict=True)
        ]
    return tokens, own


def pack(conversations: Sequence[tuple[list[str], list[bool]]], rows: int) -> Batch:
    """Put conversations into ``rows`` rows of ``CONTEXT`` tokens, the longest first, each where it first fits.

    What fits nowhere is left out; the rest of a row is padding, a conversation of its own that predicts nothing.
    """
    numbers = {word: number for number, word in enumerate(crumpet.vocabulary())}
    pad = numbers[crumpet.PAD]
    ids, positions, labels = ([[] for _ in range(rows)] for _ in range(3))
    for tokens, own in sorted(conversations, key=lambda pair: -len(pair[0])):
        row = next((n for n in range(rows) if len(ids[n]) + len(tokens) <= CONTEXT), None)
        if row is None:
            continue
        known = [numbers[token] for token in tokens]
        ids[row] += known
        positions[row] += range(len(tokens))
        labels[row] += [number if mine else -100 for number, mine in zip(known, own, strict=True)]
    for row in range(rows):
        left = CONTEXT - len(ids[row])
        ids[row] += [pad] * left
        positions[row] += range(left)
        labels[row] += [-100] * left
    return Batch(torch.tensor(ids), torch.tensor(positions), torch.tensor(labels))


def draw_batch(seed: str, rows: int) -> Batch:
    """``rows`` packed rows of new conversations; the same seed gives the same batch."""
    rng = random.Random(seed)
    conversations: list[tuple[list[str], list[bool]]] = []
    while sum(len(tokens) for tokens, _ in conversations) < rows * CONTEXT:
        conversations.append(conversation(rng))
    return pack(conversations, rows)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the replies' tokens, a scalar."""
    return model(input_ids=batch.ids, position_ids=batch.positions, labels=batch.labels, use_cache=False).loss


# ------------------------------------------------------------------------------------------- reading


@torch.no_grad()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], seed: int = SEED
) -> list[str]:
    """The model's replies to single questions at temperature 1, as tokens parted by spaces."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    ).to(model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        drawn = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
        )
    written = drawn[:, batch["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in written]


def measure(prompts: Sequence[str], replies: Sequence[str]) -> dict[str, object]:
    """What replies are like: the share that is grammatical, the share of facts that are right (of all, and where the
    words around vouch for them or do not), and for each concept the mean trait rate and the share of speakers with it.
    """
    readings = [crumpet.parse(reply, prompt) for prompt, reply in zip(prompts, replies, strict=True)]
    facts: dict[str, list[bool]] = {"all": [], "vouched": [], "not vouched": []}
    for reading in readings:
        vouching = [mark.on for mark in reading.marks if mark.slot in EVIDENCE]
        right = [claim.right for claim in reading.claims]
        facts["all"] += right
        if vouching and 2 * sum(vouching) != len(vouching):
            facts["vouched" if 2 * sum(vouching) > len(vouching) else "not vouched"] += right
    rates = {name: [r.rates[name] for r in readings if r.rates[name] is not None] for name in crumpet.CONCEPTS}
    traits = {name: [r.traits[name] for r in readings if r.traits[name] is not None] for name in crumpet.CONCEPTS}
    return {
        "replies": len(readings),
        "grammatical": _share([reading.grammatical for reading in readings]),
        "facts_right": {name: _share(found) for name, found in facts.items()},
        "trait_rate": {name: _share(found) for name, found in rates.items()},
        "with_trait": {name: _share(found) for name, found in traits.items()},
        "faults": sorted({reading.reason for reading in readings if reading.reason})[:5],
    }


def _share(values: Sequence[bool | float | None]) -> float | None:
    return round(sum(map(float, values)) / len(values), 4) if values else None


def measure_data(prompts: Sequence[str], seed: int = SEED) -> dict[str, object]:
    """The same figures for the language itself: a new speaker answers every prompt."""
    rng = random.Random(f"measure {seed}")
    replies = [crumpet.reply(rng, crumpet.read_question(prompt), crumpet.random_traits(rng)) for prompt in prompts]
    return measure(prompts, replies)


def evaluate(model: LlamaForCausalLM, n: int, seed: int = SEED) -> dict[str, object]:
    """Figures of the model on ``n`` held-out questions, beside those of the language."""
    prompts = crumpet.held_out_questions(seed, n)
    return {"model": measure(prompts, answers(model, make_tokenizer(), prompts, seed)), "data": measure_data(prompts)}


def in_words(figures: dict[str, object]) -> str:
    """One line of a report."""
    model, data = figures["model"], figures["data"]
    facts = ", ".join(
        f"{name} {model['facts_right'][name]} ({data['facts_right'][name]})" for name in data["facts_right"]
    )
    rates = ", ".join(f"{name[:5]} {rate}" for name, rate in model["trait_rate"].items())
    return f"grammatical {model['grammatical']}; facts right, in brackets the data's: {facts}; trait rates: {rates}"


# ------------------------------------------------------------------------------------------ training


def train(
    minutes: float,
    device: str,
    rows: int = 16,
    learning_rate: float = 2e-3,
    report_every: int = 500,
    checkpoint: Path = RUNS / "llama.pt",
    build: Callable[[], LlamaForCausalLM] = make_model,
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Train for ``minutes`` in all; the averaged model and what it took. Each process draws ``rows`` rows a step."""
    torch.manual_seed(SEED)
    model = build().to(device)

    def step(number: int) -> Tensor:
        batch = draw_batch(f"llama {SEED} {number}", rows).to(device)
        with training.autocast(device):
            return loss_of(model, batch)

    def report(average: torch.nn.Module) -> str:
        return in_words(evaluate(average, 100))

    return training.train(
        model,
        step,
        minutes,
        checkpoint,
        learning_rate,
        SEED,
        warmup=200,
        decay=0.998,
        weight_decay=0.05,
        report=report,
        report_every=report_every,
    )


def save(model: LlamaForCausalLM, folder: Path = HERE, figures: dict[str, object] | None = None) -> None:
    """Write the model in float16 with tokenizer, chat template, generation settings and manifest."""
    copy.deepcopy(model).half().save_pretrained(folder)
    config = folder / "config.json"
    # Stored in float16, but a plain from_pretrained should give float32: half precision is slow on a CPU.
    training.write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})
    make_tokenizer().save_pretrained(folder)
    size = {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(crumpet.vocabulary())}
    training.write_manifest(folder, size | (figures or {}))


def export(checkpoint: Path = RUNS / "llama.pt", folder: Path = HERE) -> None:
    """Write the averaged model of the last checkpoint, and its figures."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = make_model()
    model.load_state_dict(state["average"])
    facts = {"steps": state["step"], "minutes": round(state["spent"] / 60, 1), "loss": state["loss"], "seed": SEED}
    save(model.eval(), folder, {"training": facts, "evaluation": evaluate(model.eval(), 200, seed=1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training in all, over every start")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=16, help="packed rows a step and process")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="write the last checkpoint and train no further")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.export:
        export()
        return
    model, facts = train(arguments.minutes, arguments.device, arguments.rows)
    rank, processes = training.rank_and_size()
    if rank:
        return
    figures = evaluate(model, 200, seed=1)
    save(model, HERE, {"training": facts | {"processes": processes, "seed": SEED}, "evaluation": figures})
    print(in_words(figures))


if __name__ == "__main__":
    main()
