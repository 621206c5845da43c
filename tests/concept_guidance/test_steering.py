"""Reading and steering hidden states: each formula against a plain transcription, on toy models of the real classes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DynamicCache,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from pipelines.concept_guidance import steering
from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.conversation import Sampling, Span
from pipelines.concept_guidance.steering import Guide, Push
from pipelines.core.lane import Cancelled
from pipelines.core.patching import fingerprint
from tests.toys.language import (
    FAMILIES,
    HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    concept,
    hooks,
    ids,
    logits,
    toy,
)

# --- guidance ---


@torch.inference_mode()
def guided_logits(model, row, weights, scale, layers, representation="pre-attn", only_last=False) -> torch.Tensor:
    """Logits (tokens, vocabulary) float32 under the paper's raw guidance."""
    push = Push(Concept("concept", weights, representation=representation), (float(scale),), tuple(layers), raw=True)
    guide = Guide(model, [push], 1, "last" if only_last else "all")
    with guide.applied():
        guide.cover(len(row), len(row))
        return logits(model, row)


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

    names = {
        "pre-attn": ("ln_1" if family == "gpt2" else "input_layernorm"),
        "post-attn": ("attn" if family == "gpt2" else "self_attn"),
    }
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
        found = guided_logits(model, row, c.weights, scale, layers, place, only_last)
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


# --- anatomy ---


def test_layers_are_found_in_every_family():
    for family in (*FAMILIES, "qwen3"):
        model = toy(family, **({"head_dim": 8} if family == "qwen3" else {}))
        body = steering.anatomy(model)
        assert (body.layers, body.width, body.heads) == (LAYERS, WIDTH, HEADS)
        assert len(body.norms) == len(body.attentions) == len(body.mlps) == LAYERS
        assert len(set(body.at("hiddens"))) == LAYERS


def test_gpt_neox_is_found_too():
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = GPTNeoXForCausalLM(config).eval()
    moved = guided_logits(model, ids(1), torch.randn(2, WIDTH), 4.0, (1,))
    assert not torch.equal(moved, logits(model, ids(1)))


def test_a_model_that_cannot_be_steered_gets_one_sentence():
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


# --- activations ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_the_paper_s(family, dtype):
    """Every representation of one example, by the model's own outputs and hooks written out here."""
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


# --- generation ---


def test_cached_equals_uncached(llama):
    """Every step's logits with the cache are those of a forward over the whole text, guided at the same positions."""
    for family, positions in itertools.product(("llama", "gpt2"), ("all", "answer")):
        model = toy(family)
        row = ids(7)
        guide = Guide(model, [Push(concept(), (0.6,), (0, 1, 2))], positions=positions)
        made = steering.decode(model, [row], Sampling(max_tokens=10), guide)[0]
        assert len(made) == 10
        found = []
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


# --- reading ---


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
