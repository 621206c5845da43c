"""Concept guidance: each formula against a plain transcription, and whole runs, on toy models of the real classes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch

from pipelines import concept_guidance
from pipelines.concept_guidance import Outcome, Partial, Settings, TrainSettings, choose_layers, pnes, probes, steering
from pipelines.concept_guidance.files import Concept, Example
from pipelines.concept_guidance.steering import Guide, Push, Sampling, Span
from pipelines.core import text
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import ModelSpec, Registry

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
    import transformers

    small = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
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
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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


@pytest.fixture(scope="module")
def llama():
    return toy()


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


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


# ------------------------------------------------------------------------------------------- guidance


def test_strength_zero_is_bit_equal_to_the_unguided_model():
    for family, dtype in itertools.product(FAMILIES, (torch.float32, torch.bfloat16)):
        model = toy(family, dtype)
        batch = torch.tensor([ids(1), ids(1), ids(2)])
        with torch.no_grad():
            plain = model(input_ids=batch).logits
            guide = Guide(model, [Push(concept(), (0.0, 0.5, 0.0), (0, 1, 2))], 3)
            with guide.applied():
                moved = model(input_ids=batch).logits
        assert torch.equal(moved[0], plain[0]) and torch.equal(moved[2], plain[2]), (family, dtype)
        assert not torch.equal(moved[1], plain[1])


def test_plus_and_minus_cancel_in_the_vector(llama):
    c = concept()
    assert not (c + -c).weights.any()
    pushes = [Push(c, (0.4,), (0, 1, 2)), Push(-c, (0.4,), (0, 1, 2))]
    guide = Guide(llama, pushes)
    assert all(not edit.share.any() for edit in guide.edits.values())
    plain = logits(llama, ids(1))
    with guide.applied():
        torch.testing.assert_close(logits(llama, ids(1)), plain, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be added"):
        c + concept(representation="hiddens")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_raw_guidance_is_the_paper_s_at_both_places(family, dtype):
    """The paper's code replaces `forward` and adds s·w in float32, then restores the norm: written out here."""
    model, c = toy(family, dtype), concept()
    unit = c.weights / c.weights.norm(dim=-1, keepdim=True)

    def transcription(x, w, s, only_last):
        wide = x.float()
        moved = wide.clone()
        if only_last:
            moved[:, -1:] = moved[:, -1:] + s * w
        else:
            moved = moved + s * w
        return (moved * (wide.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))).to(x.dtype)

    names = {"pre-attn": ("ln_1" if family == "gpt2" else "input_layernorm"),
             "post-attn": ("attn" if family == "gpt2" else "self_attn")}  # fmt: skip
    row = ids(5)
    cases = [
        (place, scale, only_last, (0, 1, 2) if scale == 64 else (1, 2))
        for place, scale, only_last in itertools.product(("pre-attn", "post-attn"), (-16.0, 4.0, 64.0), (False, True))
    ]
    for place, scale, only_last, layers in cases:
        twin = copy.deepcopy(model)
        twin_blocks = twin.transformer.h if family == "gpt2" else twin.model.layers
        for layer in layers:
            module = getattr(twin_blocks[layer], names[place])

            def forward(*args, old=module.forward, w=unit[layer], only_last=only_last, scale=scale, **kwargs):
                out = old(*args, **kwargs)
                if isinstance(out, tuple):
                    return (transcription(out[0], w, scale, only_last), *out[1:])
                return transcription(out, w, scale, only_last)

            module.forward = forward
        wanted = logits(twin, row)
        found = steering.guided_logits(model, row, c.weights, scale, layers, place, only_last)
        # Bit-equal here; a sum taken in another order may round one bfloat16 the other way.
        close = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(found, wanted, atol=close, rtol=close)
    assert hooks(model) == 0


def test_the_formula_by_hand():
    x = torch.tensor([[[3.0, 4.0]]])
    # ‖x‖ = 5; share 0.6 along (1, 0): (3 + 3, 4) has length √52.
    moved = steering.guided(x, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(moved, torch.tensor([[[6.0, 4.0]]]) * 5 / math.sqrt(52))
    # raw 1 along (0, 1): (3, 5) has length √34. A share of 0.2 is the same push, because the norm is 5.
    raw = steering.guided(x, None, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(raw, torch.tensor([[[3.0, 5.0]]]) * 5 / math.sqrt(34))
    torch.testing.assert_close(raw, steering.guided(x, torch.tensor([0.0, 0.2])))
    assert torch.equal(x, torch.tensor([[[3.0, 4.0]]])), "the input is not edited"
    assert torch.equal(steering.guided(x * 0, torch.tensor([0.6, 0.0])), x * 0), "no NaN from nothing"
    gone = steering.guided(x, torch.tensor([-0.6, -0.8]))
    assert gone.isfinite().all()
    assert steering.guided(x, None) is x


def test_a_push_far_beyond_replaces_the_vector_by_the_direction():
    x, w = torch.randn(1, 5, WIDTH), torch.nn.functional.normalize(torch.randn(WIDTH), dim=0)
    moved = steering.guided(x, 1e6 * w)
    torch.testing.assert_close(moved, x.norm(dim=-1, keepdim=True) * w, atol=1e-3, rtol=1e-3)


def test_several_concepts_add_up_per_row_and_layer(llama):
    first, second = concept(0), concept(1, "truth")
    guide = Guide(llama, [Push(first, (0.0, 0.3, 0.3), (0, 1)), Push(second, (0.0, 0.0, -0.2), (1, 2))], 3)
    norm = steering.anatomy(llama).norms
    wanted = torch.stack((torch.zeros(WIDTH), 0.3 * first.unit()[1], 0.3 * first.unit()[1] - 0.2 * second.unit()[1]))
    torch.testing.assert_close(guide.edits[norm[1]].share[:, 0], wanted)
    assert guide.edits[norm[1]].rows.flatten().tolist() == [False, True, True]
    assert guide.edits[norm[2]].rows.flatten().tolist() == [False, False, True]
    assert set(guide.edits) == set(norm)


def test_float32_activations_are_not_edited_in_place(llama):
    seen = []
    norm = steering.anatomy(llama).norms[1]
    with torch.no_grad():
        keep = norm.register_forward_hook(lambda module, given, out: seen.append((out, out.clone())) or None)
        with Guide(llama, [Push(concept(), (0.5,), (1,))]).applied():
            logits(llama, ids(1))
        keep.remove()
    assert torch.equal(*seen[0])


def test_nothing_stays_on_the_model_after_use_errors_or_nesting(llama):
    before = fingerprint(llama)
    guide = Guide(llama, [Push(concept(), (0.5,), (0, 1, 2))])
    with pytest.raises(RuntimeError, match="in between"), guide.applied():
        guide.cover(4, 2)
        logits(llama, ids(1))
        raise RuntimeError("in between")
    assert fingerprint(llama) == before and guide.span is None

    def stop(rows):
        if len(rows[0]) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        steering.decode(llama, [ids(1)], Sampling(max_tokens=8), guide, on_step=stop)
    with guide.applied(), Guide(llama, [Push(concept(1), (0.2,), (1,))]).applied():
        assert hooks(llama) == 4
    assert fingerprint(llama) == before


def test_two_guides_do_not_know_of_each_other(llama):
    """A second tab's run between two of the first's changes nothing: all state is in the guide."""
    first = Guide(llama, [Push(concept(0), (0.5,), (1, 2))])
    second = Guide(llama, [Push(concept(1), (-0.9,), (0,))], positions="answer")
    alone = steering.decode(llama, [ids(1)], Sampling(max_tokens=6), first)
    steering.decode(llama, [ids(2)], Sampling(max_tokens=6), second)
    assert steering.decode(llama, [ids(1)], Sampling(max_tokens=6), first) == alone


@pytest.mark.parametrize(
    ("push", "says"),
    [
        (Push(Concept("x", torch.ones(32, 4096)), (0.1,), (1,)), "W is 32×4096, this model needs 3×32"),
        (Push(concept(representation="mlp"), (0.1,), (1,)), "read at mlp, where it can detect but not guide"),
        (Push(concept(), (0.1, 0.2), (1,)), "2 strengths for 1 rows"),
        (Push(concept(), (math.nan,), (1,)), "not a number"),
        (Push(concept(), (0.1,), (3,)), "Layer 3 does not exist: this model has the layers 0 to 2"),
    ],
)
def test_a_push_that_does_not_fit_is_refused(llama, push, says):
    with pytest.raises(ValueError, match=says):
        Guide(llama, [push])


def test_unknown_positions_are_refused(llama):
    with pytest.raises(ValueError, match="choose one of all, answer, last"):
        Guide(llama, [], positions="some")


# ------------------------------------------------------------------------------------------- anatomy


def test_layers_are_found_in_every_family():
    for family in (*FAMILIES, "qwen3"):
        model = toy(family, **({"head_dim": 8} if family == "qwen3" else {}))
        body = steering.anatomy(model)
        assert (body.layers, body.width, body.heads) == (LAYERS, WIDTH, HEADS)
        assert len(body.norms) == len(body.attentions) == len(body.mlps) == LAYERS
        assert len(set(body.at("hiddens"))) == LAYERS


def test_gpt_neox_is_found_too():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = GPTNeoXForCausalLM(config).eval()
    moved = steering.guided_logits(model, ids(1), torch.randn(2, WIDTH), 4.0, (1,))
    assert not torch.equal(moved, logits(model, ids(1)))


def test_a_model_that_cannot_be_steered_gets_one_sentence():
    from transformers import BertConfig, BertForMaskedLM, MambaConfig, MambaForCausalLM

    bert = BertForMaskedLM(
        BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    )
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4))
    with pytest.raises(
        ValueError, match="BertForMaskedLM cannot be guided, because its BertLayer has attention, .* but no norm"
    ):
        steering.anatomy(bert)
    with pytest.raises(ValueError, match=r"MambaForCausalLM cannot be guided.*found: backbone.layers of 2 MambaBlock"):
        steering.anatomy(mamba)
    with pytest.raises(ValueError, match="no place for 'queries' .found: c_attn"):
        steering.anatomy(toy("gpt2")).at("queries")


# --------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_the_paper_s(family, dtype):
    """Every representation of one example, by the model's own outputs and hooks written out here."""
    from transformers import DynamicCache

    model, row = toy(family, dtype), ids(4, 9)
    span = Span(row, 3, 7)
    seen: dict[str, list] = {"pre-attn": [], "post-attn": [], "mlp": [], "queries": []}
    handles = []
    for block in model.transformer.h if family == "gpt2" else model.model.layers:
        parts = {
            "pre-attn": getattr(block, "ln_1", None) or getattr(block, "input_layernorm", None),
            "post-attn": getattr(block, "attn", None) or getattr(block, "self_attn", None),
            "mlp": block.mlp,
        }
        if family != "gpt2":
            parts["queries"] = block.self_attn.q_proj
        for name, part in parts.items():
            handles.append(
                part.register_forward_hook(
                    lambda m, i, out, name=name: seen[name].append(out[0] if isinstance(out, tuple) else out)
                )
            )
    cache = DynamicCache()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([row]), past_key_values=cache, use_cache=True, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    wanted = {name: torch.stack([x[0] for x in found], dim=1) for name, found in seen.items() if found}
    wanted["hiddens"] = torch.stack([x[0] for x in out.hidden_states[1:]], dim=1)
    wanted["heads"] = wanted["post-attn"].reshape(len(row), LAYERS * HEADS, WIDTH // HEADS)
    for name in ("keys", "values"):
        wanted[name] = torch.stack([getattr(x, name)[0].transpose(0, 1).flatten(1) for x in cache.layers], dim=1)
    assert set(wanted) == set(steering.REPRESENTATIONS) - ({"queries"} if family == "gpt2" else set())
    for name, value in wanted.items():
        (found,) = steering.activations(model, [span], name)
        assert found.dtype == torch.float32
        exact = dtype == torch.float32
        torch.testing.assert_close(
            found, value[3:7].float(), atol=1e-5 if exact else 0.02, rtol=1e-5 if exact else 0.02
        )


def test_a_batch_of_different_lengths_equals_one_at_a_time(llama):
    spans = [Span(ids(n, 5 + 3 * n), 2 + n, 5 + 2 * n) for n in range(5)]
    for name in ("pre-attn", "hiddens", "keys"):
        together = steering.activations(llama, spans, name, batch=3)
        for span, found in zip(spans, together, strict=True):
            (alone,) = steering.activations(llama, [span], name)
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no representation: choose one of pre-attn"):
        steering.activations(llama, spans, "post")


def test_the_answer_s_tokens_are_found_exactly(tokenizer):
    messages = [{"role": "user", "content": "why is the sky blue"}]
    span = steering.reply_span(tokenizer, messages, " because it blushes ")
    assert tokenizer.decode(span.ids[span.start : span.stop]) == "because it blushes"
    assert span.ids[: span.start] == steering.prompt_ids(tokenizer, messages)
    assert len(span.ids) == span.stop + 1, "the end token does not belong to the answer"
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "because it blushes"}, *messages]
    again = steering.reply_span(tokenizer, history, "because it blushes")
    assert (again.stop - again.start, again.start - span.start) == (3, 7), "the answer, not its like in the history"
    empty = steering.reply_span(tokenizer, messages, "  ")
    assert empty.start == empty.stop


class Slow:
    """A tokenizer that cannot tell which characters a token came from."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        return self.tokenizer(text, add_special_tokens=add_special_tokens)


def test_spans_under_other_templates_and_tokenizers(tokenizer):
    messages = [{"role": "user", "content": "hello"}]
    thinking = TEMPLATE.replace(
        "{{ m['content'].strip() }}", "{% if m['role'] == 'assistant' %}w60 w61 {% endif %}{{ m['content'] | trim }}"
    )
    for template in (TEMPLATE, None, thinking, TEMPLATE.replace("{{ eos_token }}", "{{ eos_token }} . .")):
        made = toy_tokenizer(template)
        span = steering.reply_span(made, messages, "you marvel")
        assert made.decode(span.ids[span.start : span.stop]) == "you marvel", template
        if template != thinking:
            assert steering.reply_span(Slow(made), messages, "you marvel") == span
    with pytest.raises(ValueError, match="changes the answer 'you marvel'"):
        steering.reply_span(toy_tokenizer(TEMPLATE.replace(".strip()", ".upper()")), messages, "you marvel")
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    with pytest.raises(ValueError, match="refuses this conversation .Roles must alternate"):
        text.encode_chat(toy_tokenizer(strict + TEMPLATE), [{"role": "system", "content": "hello"}], True)


def test_spans_with_pieces_of_words():
    """As SentencePiece and byte-level tokenizers cut: the space belongs to the piece, or characters to several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*"abcdefghijklmnopqrstuvwxyz<>/:. \n"} | {"Ġ", "Ċ", "▁", "Q", "A"})
    for before in (pre_tokenizers.ByteLevel(False), pre_tokenizers.Metaspace(prepend_scheme="always")):
        vocabulary = {letter: n for n, letter in enumerate([*letters, "Ġb", "▁b", "be", "Ġbe", "▁be", "<s>", "</s>"])}
        merges = [("Ġ", "b"), ("▁", "b"), ("b", "e"), ("Ġb", "e"), ("▁b", "e")]
        made = Tokenizer(models.BPE(vocabulary, merges))
        made.pre_tokenizer = before
        made.decoder = decoders.ByteLevel() if "ByteLevel" in type(before).__name__ else decoders.Metaspace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = TEMPLATE
        span = steering.reply_span(tokenizer, [{"role": "user", "content": "be"}], "because it be")
        assert tokenizer.decode(span.ids[span.start : span.stop]).strip() == "because it be"


def test_the_paper_s_cut():
    span = Span(list(range(100)), 40, 90)
    assert steering.cut(span) == Span(list(range(56)), 40, 56), "the first 16 of the answer"
    assert steering.cut(span, context=0) == Span(list(range(72)), 40, 72), "without a limit, the answer's first 32"
    assert steering.cut(Span(list(range(50)), 40, 45)) == Span(list(range(45)), 40, 45)
    left = steering.cut(span, longest=60)
    assert left.ids == list(range(12, 56)) and left.ids[left.start] == 40, "cut on the left, at the same tokens"


# -------------------------------------------------------------------------------------------- probes


def samples(seed: int = 0, examples: int = 24, width: int = 6, layers: int = 2, strength: float = 0.7):
    """Token vectors with a planted direction in layer 0 and none in layer 1; (xs, labels, direction)."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    labels = [n % 2 for n in range(examples)]
    xs = []
    for label in labels:
        x = torch.randn(3 + int(torch.randint(4, (1,), generator=generator)), layers, width, generator=generator) + 0.5
        x[:, 0] += strength * (2 * label - 1) * direction
        xs.append(x)
    return xs, labels, direction


def test_difference_in_means_by_hand():
    xs = [torch.tensor([[[2.0, 1.0]], [[2.0, 3.0]]]), torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]])]
    fit = probes.dim(xs, [1, 0])
    # Mean (1, 2); centred (±1, ±1), unit (±1, ±1)/√2; signed means: (1/√2, 0); unit norm: (1, 0).
    torch.testing.assert_close(fit.weights, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(fit.mean, torch.tensor([[1.0, 2.0]]))
    assert fit.a > 0 and abs(fit.b) < 1e-4
    assert torch.equal(probes.accuracy([fit.predict(x) for x in xs], [1, 0]), torch.ones(1))


def test_difference_in_means_is_the_transcription():
    xs, labels, direction = samples()
    x = torch.cat(xs)
    signs = torch.cat([torch.full((len(part),), 2.0 * label - 1) for part, label in zip(xs, labels, strict=True)])
    x = x - x.mean(0)
    x = x / x.norm(dim=-1, keepdim=True)
    wanted = (x * signs[:, None, None]).mean(0)
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    fit = probes.dim(xs, labels)
    torch.testing.assert_close(fit.weights, wanted, atol=1e-6, rtol=1e-5)
    assert fit.weights[0] @ direction > 0.9


def test_means_of_chunks_are_those_of_the_published_code():
    x = torch.randn(3104, 3, dtype=torch.float64)
    wanted = (x[:1024].mean(0) + x[1024:2048].mean(0) + x[2048:3072].mean(0) + x[3072:].mean(0)) / 4
    torch.testing.assert_close(probes._mean(x, 1024), wanted)
    torch.testing.assert_close(probes._mean(x, None), x.mean(0))
    assert (probes._mean(x, 1024) - x.mean(0)).abs().max() > 1e-4


def test_logistic_regression_is_at_its_minimum():
    xs, labels, direction = samples()
    fit = probes.logistic(xs, labels)
    x = torch.cat(xs).double()
    x = x / x.norm(dim=-1, keepdim=True)
    signs = torch.cat([torch.full((len(part),), 2.0 * label - 1) for part, label in zip(xs, labels, strict=True)])
    for layer in range(2):
        w = fit.weights[layer].double().requires_grad_()
        loss = 0.5 * w.square().sum() + torch.log1p(torch.exp(-signs * (x[:, layer] @ w))).sum()
        (gradient,) = torch.autograd.grad(loss, w)
        assert gradient.abs().max() < 1e-5
    assert fit.a is None and not fit.b.any()
    assert torch.nn.functional.normalize(fit.weights[0], dim=0) @ direction > 0.9


def test_the_one_number_classifier_is_at_its_minimum_and_ends_on_separable_data():
    projection = torch.tensor([-1.0, 0.5, 0.2, -0.3, 1.5, 0.1]).double()
    signs = torch.tensor([-1.0, -1, 1, -1, 1, 1]).double()
    weights = torch.ones(6).double()
    a, b = (value.requires_grad_() for value in probes._classifier(projection, signs, weights))
    torch.log1p(torch.exp(-signs * (a * projection + b))).sum().backward()
    assert abs(a.grad) < 1e-6 and abs(b.grad) < 1e-6
    a, b = probes._classifier(signs * 2, signs, weights)
    assert 1 < a < 50 and a.isfinite() and abs(b) < 1e-6
    a, b = probes._classifier(torch.zeros(6).double(), torch.tensor([1.0, 1, 1, 1, 1, -1]).double(), weights)
    torch.testing.assert_close(torch.stack((a, b)), torch.tensor([0.0, math.log(5)]).double(), atol=1e-6, rtol=1e-6)


def test_principal_component_is_the_transcription_and_its_sign_means_the_label():
    xs, labels, direction = samples(strength=2.5)
    fit = probes.pca(xs, labels, seed=4, repair_signs=False)
    x = torch.cat(xs).double()
    generator = torch.Generator().manual_seed(4)
    order = torch.randperm(len(x), generator=generator)
    pairs = len(x) // 2
    flips = torch.randint(2, (pairs,), generator=generator) * 2 - 1
    shuffled = x[order]
    for layer in range(2):
        rows = torch.stack([(shuffled[2 * n, layer] - shuffled[2 * n + 1, layer]) * flips[n] for n in range(pairs)])
        first = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[0]
        first = first * (1 if first[first.abs().argmax()] > 0 else -1)
        torch.testing.assert_close(fit.weights[layer].double(), first, atol=1e-5, rtol=1e-5)
    right = probes.pca(xs, labels, seed=4)
    assert (right.a >= 0).all() and right.weights[0] @ direction > 0.9
    torch.testing.assert_close(right.weights, fit.weights * torch.where(fit.a < 0, -1, 1)[:, None])
    wide = [torch.randn(2, 1, 40) for _ in range(6)]
    assert abs(probes.pca(wide, [0, 1] * 3).weights.norm() - 1) < 1e-5, "more numbers than differences"


def test_accuracy_is_a_mean_of_examples_not_of_tokens():
    p = [torch.tensor([[0.9], [0.9], [0.9], [0.1]]), torch.tensor([[0.6]]), torch.empty(0, 1)]
    # First example (label 1): 3 of 4 right; second (label 0): none; the third has no tokens.
    torch.testing.assert_close(probes.accuracy(p, [1, 0, 1]), torch.tensor([0.375]))


def test_probabilities_are_the_transcription():
    xs, labels, _ = samples()
    for name, fit in ((name, probe(xs, labels)) for name, probe in probes.PROBES.items()):
        x = xs[0]
        if name == "dim":
            x = x - fit.mean
        if name != "pca":
            x = x / x.norm(dim=-1, keepdim=True)
        a = torch.ones(2) if fit.a is None else fit.a
        wanted = 1 / (1 + torch.exp(-(a * (x * fit.weights).sum(-1) + fit.b)))
        torch.testing.assert_close(fit.predict(xs[0]), wanted)
        assert probes.accuracy([fit.predict(x) for x in xs], labels)[0] > (0.5 if name == "pca" else 0.7)


def test_balanced_classes_weigh_the_same():
    xs, labels, _ = samples(examples=30)
    kept = [n for n, label in enumerate(labels) if label or n < 6]
    few, counts = [xs[n] for n in kept], [labels[n] for n in kept]
    fit = probes.dim(few, counts, balanced=True)
    x = torch.cat(few)
    ones = torch.cat([torch.full((len(part),), bool(label)) for part, label in zip(few, counts, strict=True)])
    x = x - x.mean(0)
    x = x / x.norm(dim=-1, keepdim=True)
    wanted = torch.nn.functional.normalize(x[ones].mean(0) - x[~ones].mean(0), dim=-1)
    torch.testing.assert_close(fit.weights, wanted, atol=1e-6, rtol=1e-5)
    plain = probes.dim(few, counts).predict(few[0]).mean()
    assert probes.dim(few, counts, balanced=True).predict(few[0]).mean() < plain, "the rarer label counts more"


# ---------------------------------------------------------------------------------------------- PNES


def test_pnes_finds_the_curve_that_made_the_points():
    x = [n / 4 for n in range(-4, 5)]
    b, a, c = 0.8, 1.7, 0.1
    ppl = [5 * math.exp(b * s * s) for s in x]
    # p such that PNE(x) = (tanh(ax) + c)·exp(-bx²) - c at x = 0 ... the baseline is zero by definition, so c = 0 here.
    p = [0.5 + math.tanh(a * s) for s in x]
    found = pnes(x, p, ppl)
    assert found.b == pytest.approx(b) and found.a == pytest.approx(a, rel=1e-6) and abs(found.c) < 1e-7
    assert found.r_squared == pytest.approx(1) and found.notice == ""
    grid = [-1 + 2 * n / 199 for n in range(200)]
    curve = [math.tanh(a * s) * math.exp(-b * s * s) for s in grid]
    assert found.value == pytest.approx(max(curve) - min(curve), rel=1e-6)
    assert found.x_max == pytest.approx(grid[curve.index(max(curve))])
    assert found.effects[4] == 0 and found.ratios[4] == 1
    assert found.p_low is not None and found.alpha_max == max(s for s, q in zip(x, ppl, strict=True) if q < 10)
    assert c  # named for the formula above


def test_pnes_fits_like_a_search_over_a_grid():
    x = [-1, -0.7, -0.3, 0, 0.4, 0.8, 1.0]
    p = [0.2, 0.15, 0.45, 0.5, 0.8, 0.7, 0.75]
    ppl = [9, 6, 4, 3, 3.4, 5, 3000]
    found = pnes(x, p, ppl)
    few = [(s, math.log(q / 3)) for s, q in zip(x, ppl, strict=True) if q < 2000]
    best = min((sum((y - b * s * s) ** 2 for s, y in few), b) for b in (n / 1e4 for n in range(-20000, 40000)))
    assert found.b == pytest.approx(best[1], abs=1e-4)

    def loss(a, c):
        points = zip(x, found.effects, strict=True)
        return sum((y - (math.tanh(a * s) + c) * math.exp(-found.b * s * s)) ** 2 for s, y in points)

    searched = min(loss(n / 50, m / 100) for n in range(-150, 150) for m in range(-50, 50))
    assert loss(found.a, found.c) <= searched
    mean = sum(found.effects) / 7
    rest = sum((y - mean) ** 2 for y in found.effects)
    assert found.r_squared == pytest.approx(1 - loss(found.a, found.c) / rest)


def test_pnes_agrees_with_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    numpy = pytest.importorskip("numpy")
    random = numpy.random.default_rng(0)
    x = numpy.linspace(-1, 1, 9)
    for _ in range(10):
        p = 0.5 + 0.4 * numpy.tanh(random.uniform(-2, 2) * x) + random.normal(0, 0.05, 9)
        ppl = 4 * numpy.exp(random.uniform(0.2, 2) * x**2 + random.normal(0, 0.05, 9))
        found = pnes(x.tolist(), p.tolist(), ppl.tolist())
        (b,), _ = optimize.curve_fit(lambda s, b: b * s**2, x, numpy.log(ppl / ppl[4]), p0=[0.05])
        (a, c), _ = optimize.curve_fit(
            lambda s, a, c, b=b: (numpy.tanh(a * s) + c) / numpy.exp(b * s**2),
            x,
            found.effects,
            p0=[0, 0],
            maxfev=20000,
        )
        assert (found.a, found.b, found.c) == pytest.approx((a, b, c), abs=1e-5)


def test_pnes_of_nothing_is_zero_and_bad_numbers_get_a_sentence():
    flat = pnes([-1, 0, 1], [0.5, 0.5, 0.5], [3, 3, 3])
    assert flat.value == 0 and math.isnan(flat.r_squared) and "fit is poor" in flat.notice
    assert pnes([-1, 0, 1], [0.1, 0.5, 0.6], [30, 20, 50]).p_low is None
    with pytest.raises(ValueError, match="three strengths or more"):
        pnes([0, 1], [0.5, 0.6], [3, 3])
    with pytest.raises(ValueError, match="finite scores"):
        pnes([-1, 0, 1], [0.5, math.nan, 0.5], [3, 3, 3])


# ---------------------------------------------------------------------------------------- generation


def test_cached_equals_uncached(llama):
    """Every step's logits with the cache are those of a forward over the whole text, guided at the same positions."""
    for family, positions in itertools.product(("llama", "gpt2"), ("all", "answer")):
        model = toy(family)
        row = ids(7)
        guide = Guide(model, [Push(concept(), (0.6,), (0, 1, 2))], positions=positions)
        made = steering.decode(model, [row], Sampling(max_tokens=10), guide)[0]
        assert len(made) == 10
        found = []
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        with torch.no_grad(), guide.applied():
            guide.cover(len(row), len(row))
            found.append(model(input_ids=torch.tensor([row]), past_key_values=cache, use_cache=True).logits[0, -1])
            guide.span = None
            for token in made[:-1]:
                found.append(
                    model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1]
                )
            whole = [*row, *made[:-1]]
            guide.cover(len(whole), len(row))
            wanted = logits(model, whole)[len(row) - 1 :]
        torch.testing.assert_close(torch.stack(found), wanted, atol=1e-5, rtol=1e-5)
        assert wanted.argmax(-1).tolist() == made


def test_rows_of_one_batch_equal_rows_alone():
    for family in FAMILIES:
        model = toy(family)
        prompts, strengths = [ids(1, 9), ids(2, 4), ids(3, 12)], (0.0, 0.5, -0.4)
        for positions in ("all", "answer"):
            together = steering.decode(
                model, prompts, Sampling(max_tokens=8), Guide(model, [Push(concept(), strengths, (1, 2))], 3, positions)
            )
            for prompt, strength, found in zip(prompts, strengths, together, strict=True):
                guide = Guide(model, [Push(concept(), (strength,), (1, 2))], 1, positions)
                assert steering.decode(model, [prompt], Sampling(max_tokens=8), guide) == [found], family


def test_rows_share_their_noise_and_seeds_decide(llama):
    sampling = Sampling(temperature=1.5, top_p=0.9, max_tokens=12, seed=3)
    row = ids(1)
    guide = Guide(llama, [Push(concept(), (0.0, 0.4, 0.4), (1, 2))], 3)
    plain, first, second = steering.decode(llama, [row] * 3, sampling, guide)
    assert first == second and first != plain
    assert steering.decode(llama, [row], sampling) == [plain], "the plain row is the unguided model's text"
    assert steering.decode(llama, [row], sampling) == [plain]
    assert steering.decode(llama, [row], dataclasses.replace(sampling, seed=4)) != [plain]
    other = steering.decode(llama, [row, row], sampling, streams=[0, 1])
    assert other[0] == plain and other[1] != plain
    assert steering.decode(llama, [row], sampling, streams=[1]) == [other[1]], "whatever runs beside it"


def test_greedy_does_not_look_at_the_seed(llama):
    made = [steering.decode(llama, [ids(1)], Sampling(max_tokens=8, seed=seed)) for seed in (0, 1)]
    assert made[0] == made[1]


def test_an_answer_ends_at_its_end_token_and_the_others_go_on(llama):
    for seed in itertools.count(2):
        sampling = Sampling(temperature=1.5, max_tokens=10, seed=seed)
        free = steering.decode(llama, [ids(1), ids(2)], sampling)
        found = [t for n, t in enumerate(free[0]) if n >= 3 and t not in free[1] and t not in free[0][:n]]
        if found:
            break
    stop = found[0]
    made = steering.decode(llama, [ids(1), ids(2)], sampling, stops=frozenset({stop}))
    assert made == [free[0][: free[0].index(stop)], free[1]]
    counts = []
    steering.decode(
        llama,
        [ids(1)],
        sampling,
        stops=frozenset({stop}),
        on_step=lambda rows: counts.append(len(rows[0])),
    )
    assert counts[:-1] == list(range(1, len(counts))) and counts[-1] == counts[-2], "nothing runs after the end"


def test_the_smallest_temperatures_take_the_likeliest(llama):
    logits = torch.randn(3, VOCABULARY) * 50
    noise = torch.empty(3, VOCABULARY).exponential_().clamp_min(1e-30).log().neg()
    for temperature in (5e-324, 1e-300, 1e-40, 1e-9, steering.COLDEST, 1e-7):
        score, token = steering.pick(logits, temperature, 0.05, noise)
        assert torch.equal(token, logits.argmax(-1)) and bool(score.isfinite().all()), temperature
    for top_p in (0.05, 1.0):
        made = steering.decode(llama, [[1, 5]], Sampling(1e-300, top_p, 6, 2**31 - 1 + 2**32))
        assert made == steering.decode(llama, [[1, 5]], Sampling(0.0, max_tokens=6))


def test_picking_follows_the_probabilities():
    values = torch.tensor([[2.0, 1.0, 0.0, -4.0]])
    p = (values / 0.8).softmax(-1)[0]
    noise = steering._Noise(0, [0], 4, torch.device("cpu"))
    drawn = torch.stack([steering.pick(values, 0.8, 1.0, noise.draw())[1][0] for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert (shares - p).abs().max() < 0.03
    # A little more than the first token has: the second is needed to reach it, the rest is out.
    cut = torch.stack([steering.pick(values, 0.8, p[0].item() + 0.01, noise.draw())[1][0] for _ in range(500)])
    assert set(cut.tolist()) == {0, 1}
    only = torch.stack([steering.pick(values, 0.8, 0.05, noise.draw())[1][0] for _ in range(50)])
    assert set(only.tolist()) == {0}


def test_numbers_that_are_no_longer_finite_stop_with_a_sentence():
    model = toy()
    model.model.layers[1].mlp.down_proj.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="no longer finite"):
        steering.decode(model, [ids(1)], Sampling(max_tokens=3))


def test_pieces_of_characters_wait_for_the_last(tokenizer):
    class Bytes:
        def decode(self, row, skip_special_tokens=False):
            return bytes(row).decode(errors="replace")

    assert steering.pieces(Bytes(), "aé€b".encode()) == ["a", "", "é", "", "", "€", "b"]
    row = tokenizer("hello you marvel", add_special_tokens=False)["input_ids"]
    assert "".join(steering.pieces(tokenizer, row)) == "hello you marvel"


# ------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("probe", ["dim", "logistic", "pca", "unknown"])
def test_scores_of_a_text_are_the_transcription(llama, probe):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(LAYERS, generator=generator) + 0.5, torch.randn(LAYERS, generator=generator)
    mean = torch.randn(LAYERS, WIDTH, generator=generator) * 0.1
    known = {"dim": {"a": a, "b": b, "mean": mean}, "logistic": {"b": b}, "pca": {"a": a, "b": b}, "unknown": {}}[probe]
    c = concept(2, probe=probe, **known)
    row = ids(3)
    seen = steering.read(llama, row, 5, [c])
    (x,) = steering.activations(llama, [Span(row, 5, len(row))])
    if probe == "dim":
        x = x - mean
    if probe != "pca":
        x = x / x.norm(dim=-1, keepdim=True)
    z = (x * (c.unit() if probe == "unknown" else c.weights)).sum(-1)
    if probe == "unknown":
        z = (z - z.mean(0)) / z.std(0, correction=0)
    elif probe == "logistic":
        z = z + b
    else:
        z = a * z + b
    torch.testing.assert_close(torch.tensor(seen.scores["humour"]).T, 2 / (1 + torch.exp(-z)) - 1, atol=1e-5, rtol=1e-4)
    wanted = torch.nn.functional.cross_entropy(logits(llama, row)[4:-1], torch.tensor(row[5:]), reduction="none")
    torch.testing.assert_close(torch.tensor(seen.losses), wanted, atol=1e-5, rtol=1e-5)
    assert seen.perplexity == pytest.approx(wanted.mean().exp().item(), rel=1e-5)
    nothing = steering.read(llama, row, len(row), [c])
    assert nothing.perplexity is None and nothing.scores == {"humour": []}


def test_scores_can_be_read_at_any_representation(llama):
    keys = Concept("k", torch.randn(LAYERS, 16), representation="keys")
    heads = Concept("h", torch.randn(LAYERS * HEADS, WIDTH // HEADS), representation="heads")
    seen = steering.read(llama, ids(3), 5, [keys, heads, concept()])
    assert [(len(v), len(v[0])) for v in seen.scores.values()] == [(LAYERS, 7), (LAYERS * HEADS, 7), (LAYERS, 7)]


def test_perplexity_of_fixed_answers_under_guidance(llama):
    spans = [Span(ids(n), 4, 9) for n in range(3)]
    guide = Guide(llama, [Push(concept(), (0.0, 0.8), (1, 2))], 2)
    found = steering.perplexities(llama, spans, guide, 2)
    for n, span in enumerate(spans):
        for row, strength in enumerate((0.0, 0.8)):
            alone = Guide(llama, [Push(concept(), (strength,), (1, 2))])
            losses = steering.read(llama, span.ids[:9], 4, guide=alone).losses
            assert found[row, n].item() == pytest.approx(math.exp(sum(losses) / 5), rel=1e-5)
    assert hooks(llama) == 0


# -------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("best", (1, 4, 5)), ("best 2", (1, 4)), (2, (1, 4)), ("all", (0, 1, 2, 3, 4, 5)), ("2-4", (2, 3, 4)),
        ("2–4", (2, 3, 4)), (" 1, 3,5 ", (1, 3, 5)), ([3, 1], (1, 3)), ("0", (0,)),
    ],
)  # fmt: skip
def test_layers_are_chosen(choice, wanted):
    assert choose_layers(choice, 6, (0.99, 0.8, 0.5, 0.6, 0.9, 0.7)) == wanted


@pytest.mark.parametrize("choice", ["", "worst", "5-2", "7", "best 6", "best 0", None, 1.5, True, "1-2-3", "-1"])
def test_wrong_layers_get_one_sentence(choice):
    with pytest.raises(ValueError, match="layers"):
        choose_layers(choice, 6)


def test_without_accuracies_the_last_layers_are_taken():
    assert choose_layers("best", 6) == (3, 4, 5) and choose_layers("best", 1) == (0,)


# ------------------------------------------------------------------------------------------ settings


MESSAGE = "why is the sky blue"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"message": ""}, "message is empty"),
        ({"message": "  \n"}, "message is empty"),
        ({"message": None}, "message is nothing .null. but must be a text"),
        ({"message": [{"type": "image", "image": "x"}]}, "holds a block of the type 'image'"),
        ({"message": "a" * 100_000}, "100,000 characters"),
        ({"concepts": (("humour", math.nan),)}, "strength of humour is nan"),
        ({"concepts": (("humour", 1.5),)}, "from -1 to 1"),
        ({"concepts": (("humour", "lots"),)}, "strength of humour is 'lots'"),
        ({"concepts": ("humour",)}, "give pairs of a name and a strength"),
        ({"concepts": 5}, "give pairs of a name and a strength"),
        ({"concepts": (("humour", 0.1), ("humour", 0.2))}, "there twice"),
        ({"concepts": tuple((str(n), 0.1) for n in range(5))}, "at most 4 can be mixed"),
        ({"concepts": (("humour", 1000.0),), "mode": "raw"}, "from -512 to 512"),
        ({"mode": "loud"}, "mode 'loud' is unknown: choose one of share, raw"),
        ({"positions": "first"}, "choose one of all, answer, last"),
        ({"layers": "nine"}, "The layers are 'nine'"),
        ({"levels": ()}, "There are 0 levels"),
        ({"levels": (2.0,)}, "level is 2.0"),
        ({"history": "hello"}, "give a list of turns"),
        (
            {"history": ({"role": "robot", "content": "x"},)},
            "turn 1 of the history 'robot' is unknown: choose one of system",
        ),
        ({"history": ({"role": "user", "content": "x" * 200_000},)}, "turn 1 of the history has 200,000"),
        ({"guided_history": ({"role": "user"},)}, "turn 1 of the history is nothing"),
        ({"history": [{"role": "user", "content": "x" * 60_000}] * 2}, "start a new conversation"),
        ({"layers": 0.5}, "layers are 0.5"),
        ({"layers": []}, "layers are an empty list"),
        ({"concepts": ((["humour"], 0.1),)}, "name is a list of 1 but must be a text"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0}, "top-p is 0"),
        ({"max_tokens": 2.5}, "whole number"),
        ({"model_set": "huge"}, "choose one of mini, full"),
        ({"model": "gpt-5"}, "not in the set mini: choose one of mini-llama"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        Settings(**{"message": MESSAGE, **change}).validated()
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 220


def test_right_settings_come_back_with_exact_types():
    settings = Settings(
        MESSAGE + " ", [["humour", 1]], [{"role": "user", "content": "hello", "metadata": {}}], layers=2, levels=[1],
        seed=3.0, max_tokens=8.0,
    ).validated()  # fmt: skip
    assert settings == Settings(
        MESSAGE, (("humour", 1.0),), ({"role": "user", "content": "hello"},), layers="best 2", seed=3, max_tokens=8,
        model="mini-llama",
    )  # fmt: skip
    assert type(settings.seed) is int and type(settings.concepts[0][1]) is float
    assert Settings(MESSAGE, {"humour": 0.2}).validated().concepts == (("humour", 0.2),)
    assert settings.validated() == settings
    json.dumps(dataclasses.asdict(settings))


def test_importing_the_method_imports_no_model_library():
    code = "import pipelines.concept_guidance, pipelines.concept_guidance.files, sys; print([m for m in ('torch', 'transformers', 'safetensors') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def toys(llama, tokenizer, monkeypatch):
    """The set "mini" with a toy in place of the shipped model, and a registry to run it with."""
    vectors = {"humour.dim": concept(0), "truth.dim": concept(1, "truth"), "hidden.pca": concept(2, "h", "hiddens")}
    parts = tuple(
        ModelSpec(f"toy/{name}", ".", lambda spec, value=value: value, "Apache-2.0", 1 << 20)
        for name, value in (("model", llama), ("tokenizer", tokenizer), ("vectors", vectors))
    )
    monkeypatch.setitem(
        concept_guidance.MODELS, "mini", (concept_guidance.LanguageModel("mini-llama", "toy", "Apache-2.0", parts),)
    )
    return Registry("cpu")


def test_smaller_forms_are_offered_where_they_can_be_loaded():
    full = [model for model in concept_guidance.MODELS["full"] if "bit" not in model.name]
    assert concept_guidance.with_quantised(full, installed=False) == tuple(full)
    offered = concept_guidance.with_quantised(full, installed=True)
    assert [model.name for model in offered[:3]] == [full[0].name, f"{full[0].name}-8bit", f"{full[0].name}-4bit"]
    plain, eight, four = (model.parts[0] for model in offered[:3])
    assert len({plain.key, eight.key, four.key}) == 3 and (eight.dtype, four.dtype) == ("int8", "int4")
    assert plain.bytes == 2 * eight.bytes + plain.bytes % 2 == 4 * four.bytes + plain.bytes % 4
    assert all(model.parts[1:] == full[0].parts[1:] for model in offered[:3]), "tokenizer and vectors are shared"
    assert "experimental" in offered[1].title


@pytest.mark.parametrize("dtype", concept_guidance.QUANTISED)
def test_a_quantised_model_is_guided_too(dtype, monkeypatch):
    pytest.importorskip("bitsandbytes")
    model = concept_guidance.quantised(concept_guidance.MODELS["mini"][0], dtype)
    monkeypatch.setitem(concept_guidance.MODELS, "mini", (model,))
    settings = Settings("What does the goat eat?", (("politeness.dim", -0.4),), max_tokens=40)
    outcome = concept_guidance.generate(Job(), Registry("cpu"), settings)
    assert outcome.rows[0].text != outcome.rows[1].text and "-" + dtype[3:] + "bit" in model.name


def run(registry, job=None, **changes) -> Outcome:
    settings = Settings(**{"message": MESSAGE, "concepts": (("humour", 0.6),), "max_tokens": 10, **changes})
    return concept_guidance.generate(job or Job(), registry, settings)


def test_the_same_settings_give_the_same_texts(toys, llama):
    before = fingerprint(llama)
    first, second = run(toys, seed=7), run(toys, seed=7)
    assert [row.text for row in first.rows] == [row.text for row in second.rows]
    assert first.rows[0].text != first.rows[1].text and first.rows[0].strengths == {"humour": 0.0}
    assert run(toys, seed=6).rows[0].text != first.rows[0].text
    one, two = (concept_guidance.noise_seed(Settings(text, seed=7)) for text in ("one", "two"))
    assert one != two, "another question, other words"
    assert fingerprint(llama) == before
    row = first.rows[1]
    special = ("<s>", "<pad>", "<unk>")
    assert "".join(piece for piece in row.tokens if piece.strip() not in special).strip() == row.text
    assert len(row.scores["humour"]) == LAYERS and len(row.scores["humour"][0]) == len(row.tokens)
    assert all(-1 <= value <= 1 for layer in row.scores["humour"] for value in layer) and row.perplexity > 1
    assert first.applied == "humour +0.60 · layers 2 · pre-attn"
    assert first.measurements["tokens"][0] <= 10 and first.measurements["device"] == "cpu"
    json.dumps(first.measurements)


def test_strength_zero_gives_the_same_answer_twice(toys):
    outcome = run(toys, concepts=(("humour", 0.0),), temperature=1.0)
    assert outcome.rows[0].text == outcome.rows[1].text
    moved = run(toys, concepts=(("humour", 0.9),), temperature=1.0)
    assert moved.rows[0].text == outcome.rows[0].text, "the plain answer does not depend on the guidance"
    silent = run(toys, concepts=())
    assert silent.rows[0].text == silent.rows[1].text and "No concept is chosen" in silent.notices[0]


def test_several_strengths_places_and_own_concepts_run_as_rows(toys):
    outcome = run(toys, concepts=(("humour", 0.4), ("hidden", 0.2)), levels=(0.5, 1.0, -1.0), layers="all")
    assert [row.level for row in outcome.rows] == [0.0, 0.5, 1.0, -1.0]
    assert outcome.rows[3].strengths == {"humour": -0.4, "hidden": -0.2}
    assert "hiddens and pre-attn" in outcome.applied
    mine = {"pirate": concept(9, "pirate")}
    own = concept_guidance.generate(Job(), toys, Settings(MESSAGE, (("pirate", 0.6),), max_tokens=6), mine)
    assert set(own.rows[1].scores) == {"pirate"}
    raw = run(toys, concepts=(("humour", 4.0),), mode="raw", positions="answer")
    assert raw.applied.endswith("answer only") and "+4.00 raw" in raw.applied


def test_notices_tell_what_was_changed(toys):
    outcome = run(toys, concepts=(("humour", 0.9), ("truth", -0.6)))
    assert "add up to 1.50" in outcome.notices[0]
    assert sum(abs(value) for value in outcome.rows[1].strengths.values()) == pytest.approx(1.0)
    twin = {"twin": concept(0, "twin")}
    settings = Settings(MESSAGE + " zeppelin chese", (("humour", 0.3), ("twin", 0.3)), max_tokens=3)
    notices = concept_guidance.generate(Job(), toys, settings, twin).notices
    assert any("humour and twin overlap (cosine +1.00)" in notice for notice in notices)
    assert any("“zeppelin”" in notice and "“chese” (nearest: cheese" in notice for notice in notices)
    with pytest.raises(ValueError, match="'gravity' is unknown to this model: it knows hidden, humour, truth"):
        run(toys, concepts=(("gravity", 0.3),))


def test_a_conversation_longer_than_the_context_loses_its_oldest_turns(toys, tokenizer):
    turns = [{"role": "user", "content": "why " * 20}, {"role": "assistant", "content": "because " * 20}] * 10
    outcome = run(toys, history=[{"role": "system", "content": "hello"}, *turns], guided_history=())
    # 256 positions less 10 to come; 44 tokens each pair, 8 for the rest: five pairs stay.
    assert (
        "oldest 10 turns were left out, from “why why" in outcome.notices[-1] and "to “because" in outcome.notices[-1]
    )
    assert outcome.measurements["prompt_tokens"][0] <= 246 and outcome.measurements["prompt_tokens"][1] < 12
    kept, _, dropped = steering.fit_history(
        tokenizer, [{"role": "system", "content": "hello"}, *turns, {"role": "user", "content": "why"}], 100
    )
    assert kept[0]["role"] == "system" and kept[1]["role"] == "user" and len(kept) + dropped == 22
    long = run(toys, history=turns, max_tokens=1024, temperature=0.0)
    assert long.measurements["prompt_tokens"][0] + len(long.rows[0].tokens) <= 256, (
        "half is kept for the answer, no more"
    )
    with pytest.raises(ValueError, match="The message has 303 tokens, this model reads at most 246"):
        run(toys, message="why " * 300)


def test_partial_texts_and_progress_arrive_and_stop_ends_within_a_token(toys, llama, monkeypatch):
    monkeypatch.setattr(concept_guidance, "EMIT_EVERY_S", 0.0)
    job = Job()
    outcome = run(toys, job, temperature=0.0)
    items = [job.out.get_nowait() for _ in range(job.out.qsize())]
    partials = [item for item in items if isinstance(item, Partial)]
    assert len(partials) >= 5 and all(len(partial.texts) == 2 for partial in partials)
    assert partials[-1].texts[1].strip() == outcome.rows[1].text
    assert any(isinstance(item, Progress) for item in items)

    class Stopping(Job):
        def emit(self, item):
            super().emit(item)
            if isinstance(item, Partial) and item.tokens == 3:
                self.stop.set()

    job, before = Stopping(), fingerprint(llama)
    with pytest.raises(Cancelled):
        run(toys, job, temperature=0.0)
    items = [job.out.get_nowait() for _ in range(job.out.qsize())]
    assert max(item.tokens for item in items if isinstance(item, Partial)) == 3, "what was written is with the reader"
    assert fingerprint(llama) == before


def examples(count: int = 12) -> list[Example]:
    return [
        Example(f"why w{40 + n // 2} ?", "you marvel it blushes" if n % 2 else "the moon is stone", n % 2)
        for n in range(count)
    ]


@pytest.mark.parametrize("probe", ["dim", "logistic", "pca"])
def test_a_concept_is_made_from_examples(llama, tokenizer, probe):
    job, before = Job(), fingerprint(llama)
    made = concept_guidance.train_concept(job, llama, tokenizer, examples(20), "marvel", probe, seed=1)
    assert made.concept.weights.shape == (LAYERS, WIDTH) and made.concept.name == "marvel"
    assert len(made.concept.validation_accuracy) == LAYERS and made.seconds < 20
    if probe != "pca":
        assert max(made.concept.validation_accuracy) > 0.9
    assert made.counts == {"with": 10, "without": 10, "training": 16, "validation": 4, "skipped": 0}
    assert made.majority == 0.5 and "20 examples are few" in made.notices[-1]
    assert fingerprint(llama) == before
    assert any(isinstance(job.out.get_nowait(), Progress) for _ in range(job.out.qsize()))
    again = concept_guidance.train_concept(Job(), llama, tokenizer, examples(20), "marvel", probe, seed=1)
    assert torch.equal(again.concept.weights, made.concept.weights)


def test_accuracies_are_those_of_the_split(llama, tokenizer):
    used = examples(20)
    made = concept_guidance.train_concept(Job(), llama, tokenizer, used, seed=1)
    training, held = concept_guidance.split_by_prompt(used, 0.2, 1)
    spans = [steering.cut(steering.reply_span(tokenizer, e.messages(), e.completion)) for e in used]
    xs = steering.activations(llama, spans)
    fit = probes.dim([xs[n] for n in training], [used[n].label for n in training])
    wanted = probes.accuracy([fit.predict(xs[n]) for n in held], [used[n].label for n in held])
    assert made.concept.validation_accuracy == pytest.approx(wanted.tolist())


def test_prompts_stay_on_one_side():
    used = examples(40)
    training, held = concept_guidance.split_by_prompt(used, 0.25, 0)
    assert sorted(training + held) == list(range(40)) and len(held) == 10
    assert not {used[n].prompt for n in training} & {used[n].prompt for n in held}
    blank = [dataclasses.replace(example, prompt="") for example in used]
    training, held = concept_guidance.split_by_prompt(blank, 0.25, 0)
    assert len(held) == 10, "examples without a prompt are prompts of their own"
    same = [dataclasses.replace(example, prompt="why") for example in used]
    assert len(concept_guidance.split_by_prompt(same, 0.25, 0)[1]) == 10


def test_examples_that_cannot_be_learnt_from_get_a_sentence(llama, tokenizer):
    def train(used, **options):
        return concept_guidance.train_concept(Job(), llama, tokenizer, used, **options)

    with pytest.raises(ValueError, match="Need at least 4 examples with and 4 without the concept; got 7 and 0."):
        train([Example("why", f"hello w{n}", 1) for n in range(50, 57)])
    with pytest.raises(ValueError, match="0 difference, direction undefined"):
        train([dataclasses.replace(e, completion="you marvel") for e in examples(12)])
    twins = [Example(f"why w{n}", "hello </s>" if n % 2 else "hello </s> ", n % 2, ()) for n in range(50, 60)]
    assert train(twins).concept.weights.shape == (LAYERS, WIDTH), "different prompts make a difference of their own"
    one = train([*examples(12), Example("why w60", "marvel", 1), Example("why w61", "", 0)])
    assert "Skipped because the answer is empty or one token long: “marvel”" in one.notices[0]
    assert one.counts["skipped"] == 2
    with pytest.raises(ValueError, match="got 3 and 4"):
        train([*[e for e in examples(8) if not e.label], *examples(8)[1:6:2], Example("why", "marvel", 1)])
    long = train(
        [dataclasses.replace(e, completion=f"{e.completion} sky blue green") for e in examples(12)], context=2
    ).notices
    assert any(
        "The ends of 12 answers were not read, because the first 2 tokens" in said
        and "sky blue green” and so on" in said
        for said in long
    )
    assert not any("were not read" in notice for notice in train(examples(12)).notices)
    far = train([*examples(12), Example("why " * 300, "you marvel", 1)]).notices
    assert any("The beginnings of 1 conversations were not read" in notice for notice in far)
    many = [Example(f"why w{n}", "the moon is stone", 0) for n in range(30, 62)] + [e for e in examples(8) if e.label]
    assert any("32 examples stand against 4" in notice for notice in train(many).notices)
    same = train([dataclasses.replace(e, prompt="why") for e in examples(12)])
    assert any("same prompt" in notice for notice in same.notices)


def test_training_through_the_registry(toys):
    text = "\n".join(f"{'+' if e.label else '-'} {e.prompt} => {e.completion}" for e in examples(12))
    made = concept_guidance.train(Job(), toys, TrainSettings(text, "marvel", representation="hiddens"))
    assert made.concept.representation == "hiddens" and made.concept.facts["model"] == "mini-llama"
    rows = [{"prompt": e.prompt, "completion": e.completion, "label": e.label} for e in examples(12)]
    by_rows = concept_guidance.train(Job(), toys, TrainSettings(rows, representation="hiddens"))
    assert torch.equal(by_rows.concept.weights, made.concept.weights)
    for change, says in (
        ({"name": " "}, "no name"), ({"name": "x" * 99}, "99 characters"), ({"probe": "svm"}, "dim, logistic, pca"),
        ({"representation": "nose"}, "place 'nose'"), ({"context": 0}, "number of tokens per answer is 0"),
        ({"validation": math.nan}, "share for validation"), ({"examples": " "}, "no examples"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            concept_guidance.train(Job(), toys, dataclasses.replace(TrainSettings(text), **change))


# -------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_scores_every_strength_and_keeps_what_is_done(llama, tokenizer):
    conversations = [[{"role": "user", "content": f"why w{n} ?"}] for n in range(40, 45)]
    references = examples(4)

    def judge(messages, text):
        assert messages[-1]["role"] == "user"
        return {"score": len(set(text.split())) / 10, "long": float(len(text) > 10)}

    job = Job()
    options = {"layers": "all", "sampling": Sampling(max_tokens=6), "batch": 2}
    points = concept_guidance.sweep(
        job, llama, tokenizer, concept(), conversations, references, judge, (-1.0, 0.0, 1.0), **options
    )
    assert [point.strength for point in points] == [-1.0, 0.0, 1.0] and all(len(p.texts) == 5 for p in points)
    emitted = [
        item for item in (job.out.get_nowait() for _ in range(job.out.qsize())) if not isinstance(item, Progress)
    ]
    assert [point.strength for point in emitted] == [0.0, -1.0, 1.0]
    plain = steering.decode(
        llama, [steering.prompt_ids(tokenizer, conversations[3])], Sampling(max_tokens=6),
        stops=steering.stop_tokens(llama, tokenizer),
    )  # fmt: skip
    assert points[1].texts[3] == tokenizer.decode(plain[0], skip_special_tokens=True).strip()
    spans = [steering.reply_span(tokenizer, e.messages(), e.completion) for e in references]
    losses = [steering.read(llama, span.ids[: span.stop], span.start).losses for span in spans]
    wanted = sum(math.exp(sum(row) / len(row)) for row in losses) / 4
    assert points[1].perplexity == pytest.approx(wanted, rel=1e-4)
    assert points[0].perplexity != points[1].perplexity and 0 <= points[0].extras["long"] <= 1
    values = points[0].values
    assert points[0].score == pytest.approx(sum(values) / 5)
    pnes([p.strength for p in points], [p.score for p in points], [p.perplexity for p in points])
    job = Job()
    job.stop.set()
    with pytest.raises(Cancelled):
        concept_guidance.sweep(job, llama, tokenizer, concept(), conversations, references, judge, **options)


def test_the_safe_range_ends_where_fluency_does():
    def point(strength, perplexity):
        return concept_guidance.SweepPoint(strength, 0.5, 0.1, perplexity, (), {}, ())

    points = [point(-1, 4), point(-0.5, 9), point(-0.25, 4.9), point(0, 4), point(0.5, 4.9), point(1, math.inf)]
    assert concept_guidance.safe_range(points) == (-0.25, 0.5)


def test_the_speed_of_guidance_is_measured(llama):
    found = concept_guidance.bench_guided_speed(llama, tokens=4, repeats=1)
    assert set(found) == {
        "plain_tokens_per_second", "guided_tokens_per_second", "pair_tokens_per_second", "guided_speed", "pair_time",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())
