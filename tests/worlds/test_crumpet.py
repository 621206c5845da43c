"""The micro-language of Crumpet Bay: written, read back exactly, closed; and the model that learns it, at toy size."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.mini_llama import train
from pipelines.worlds import crumpet
from pipelines.worlds.crumpet import language, questions, reading, world
from pipelines.worlds.crumpet.language import CONCEPTS, Slot

ROOT = Path(__file__).resolve().parents[2]
SPEAKERS = [dict(zip(CONCEPTS, ends, strict=True)) for ends in itertools.product((True, False), repeat=len(CONCEPTS))]
OPTIONAL = {"title", "pause"}
"""Slots that may say nothing: to drop one of their words can leave another sentence of the language."""


def replies(count: int, seed: int = 0, **options: object):
    """(question, reply, traits) of random speakers."""
    rng = random.Random(seed)
    for _ in range(count):
        traits, question = crumpet.random_traits(rng), crumpet.sample_question(rng)
        yield question, crumpet.reply(rng, question, traits, **options), traits


# --------------------------------------------------------------------------------------------- world


def test_the_world_is_closed_and_its_neighbours_agree():
    assert len(world.FACTS) == 60
    for (subject, attribute), value in world.FACTS.items():
        assert value in world.ATTRIBUTES[attribute].values and attribute in world.KNOWN_OF[subject]
        wrong = world.wrong_values(subject, attribute)
        assert len(wrong) >= 4 and value not in wrong and subject not in wrong
    for place in world.PLACES:
        neighbour = world.FACTS[place, "near"]
        assert world.FACTS[neighbour, "near"] == place, (
            "if the pier is beside the museum, the museum is beside the pier"
        )
        assert sum(world.against_the_rules(action, place) for action in world.ACTIONS) == 1


# --------------------------------------------------------------------------------------------- steady


def test_the_same_seed_writes_the_same():
    for seed in range(5):
        assert crumpet.sample_dialogue(random.Random(seed)) == crumpet.sample_dialogue(random.Random(seed))
    assert crumpet.labelled("humour", 10, 3) == crumpet.labelled("humour", 10, 3)
    assert crumpet.labelled("humour", 10, 3) != crumpet.labelled("humour", 10, 4)
    assert crumpet.held_out_questions(1, 50) == crumpet.held_out_questions(1, 50)
    assert crumpet.surprise(3) == crumpet.surprise(3) != crumpet.surprise(4)


def test_importing_loads_no_torch():
    code = "import sys, pipelines.worlds.crumpet; sys.exit(sum(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ------------------------------------------------------------------------------------------- language


def test_every_speaker_is_read_back_exactly():
    rng = random.Random(0)
    for traits in SPEAKERS:
        for _ in range(4):
            question = crumpet.sample_question(rng, held_out=rng.random() < 0.5)
            text = crumpet.reply(rng, question, traits)
            found = crumpet.parse(crumpet.display(text), question.prompt)
            assert found.grammatical and found.reason is None and found.position is None
            assert found.traits == traits, text
            assert found == crumpet.parse(text, question)


def test_without_noise_every_mark_agrees():
    rng = random.Random(1)
    for traits in SPEAKERS:
        question = crumpet.sample_question(rng)
        found = crumpet.parse(crumpet.reply(rng, question, traits, noise=0.0), question)
        assert found.rates == {concept: float(on) for concept, on in traits.items()}
        assert found.facts_right is traits["truthfulness"]
        assert found.claims[0].answers is traits["compliance"]


def test_about_one_mark_in_eight_is_against_its_concept():
    marks = [
        (mark.concept, mark.on != traits[mark.concept])
        for question, text, traits in replies(600)
        for mark in crumpet.parse(text, question).marks
    ]
    for concept in CONCEPTS:
        against = [flipped for name, flipped in marks if name == concept]
        assert 0.08 <= sum(against) / len(against) <= 0.16, concept


def test_every_concept_shows_in_nearly_every_sentence_and_in_many_words():
    shown, sentences, marked, words = dict.fromkeys(CONCEPTS, 0), 0, 0, 0
    for question, text, _traits in replies(200, seed=2):
        found = crumpet.parse(text, question)
        words += len(found.tokens)
        marked += len({place for mark in found.marks for place in range(mark.start, mark.end)})
        for start, sentence in reading._split(list(found.tokens)):
            within = {m.concept for m in found.marks if start <= m.start < start + len(sentence)}
            sentences += 1
            for concept in within:
                shown[concept] += 1
    assert min(shown.values()) / sentences >= 0.93, shown
    assert marked / words >= 0.75


def test_a_sentence_has_one_reading_only():
    for _question, text, _traits in replies(150, seed=3):
        for _start, sentence in reading._split(text.split()):
            reader, kinds = reading._Reader(sentence), reading._SENTENCES
            found = [one for kind, parts in kinds for one in reader.follow(parts, 0, 0, reading._Found(kind))]
            assert len(found) == 1, sentence


def test_no_verb_says_two_things():
    wordings = [wording for verb in language.VERBS.values() for wording in (*verb.on, *verb.off)]
    assert len(set(wordings)) == len(wordings)
    for slot in language.SLOTS.values():
        assert not set(slot.on) & set(slot.off), slot.name


def test_a_question_of_another_language_still_gets_a_reply():
    rng = random.Random(5)
    for _ in range(20):
        traits = crumpet.random_traits(rng)
        found = crumpet.parse(crumpet.reply(rng, None, traits), "What is the meaning of tea?")
        assert found.grammatical and all(claim.answers is None for claim in found.claims)
        assert {name: on for name, on in found.traits.items() if on is not None}.items() <= traits.items()


# -------------------------------------------------------------------------------------------- grammar


@pytest.mark.parametrize("harm", ["swap", "drop", "double"])
def test_corrupted_replies_are_rejected(harm: str):
    for question, text, _traits in replies(12, seed=4):
        whole = crumpet.parse(text, question)
        words = list(whole.tokens)
        free = {m.start for m in whole.marks if m.slot in OPTIONAL and m.end == m.start + 1}
        for place in range(len(words) - 1):
            broken = list(words)
            if harm == "swap":
                broken[place], broken[place + 1] = broken[place + 1], broken[place]
            elif harm == "drop":
                del broken[place]
            else:
                broken.insert(place, broken[place])
            if broken == words:
                continue
            found = crumpet.parse(" ".join(broken), question)
            legal = harm == "drop" and place in free
            assert found.grammatical == legal, (place, " ".join(broken))
            if not legal:
                assert found.reason and found.position is not None and found.position <= len(broken)


def test_a_reply_cut_short_is_rejected_at_its_end():
    for question, text, _traits in replies(10, seed=6):
        words = text.split()
        for length in range(len(words)):
            found = crumpet.parse(" ".join(words[:length]), question)
            ended = length and words[length - 1] in (".", "!")
            if not ended:
                assert not found.grammatical
                assert found.position == length


@pytest.mark.parametrize(
    ("text", "question", "says"),
    [
        ("", None, "the reply is empty"),
        ("<eos>", None, "the reply is empty"),
        ("The zebra lives here.", None, '"the" stands where|"zebra" stands where'),
        (
            "Our good usual goat (trust me) always sells hats with no fuss; ask me for more, so there.",
            None,
            "goat can do",
        ),
        (
            "Our good usual pier (trust me) always stands beside the pier with no fuss; ask me for more, so there.",
            None,
            "another place than the pier",
        ),
        (
            "Our good usual goat (trust me) always eats mops with no fuss; ask me for more, so there.",
            None,
            '"mops" stands where one of postcards',
        ),
        (
            "It also always eats plums with no fuss (trust me); ask me for more, so there.",
            None,
            "also cannot stand here",
        ),
        (
            "Our good usual goat (trust me) always eats plums with no fuss; ask me for more, so there. "
            "She also always eats plums with no fuss (trust me); ask me for more, so there.",
            None,
            '"she" stands where it was wanted',
        ),
        (
            "Our good usual goat (trust me) always eats plums with no fuss; ask me for more, so there. "
            "It also always eats plums with no fuss (trust me); ask me for more, so there.",
            None,
            "this was said before",
        ),
        (
            "Our good usual goat (trust me) always eats plums with no fuss; ask me for more, so there. "
            "It also always opens at dawn with no fuss (trust me); ask me for more, so there.",
            None,
            "nothing that goat can do",
        ),
        (
            "Our good usual pier (trust me) always opens at noon with no fuss; ask me for more, so there. "
            "It also always stands beside the pier with no fuss (trust me); ask me for more, so there.",
            None,
            "another place than the pier was wanted",
        ),
        (
            "In short, let us nap at the pier today with no fuss (trust me), so there.",
            "May I nap at the pier?",
            "ends before it has said a fact",
        ),
        (
            "In short, let us dance at the pier today with no fuss (trust me), so there.",
            "May I nap at the pier?",
            "another deed",
        ),
        (
            "In short, let us nap at the pier today with no fuss (trust me), so there.",
            "Where is the pier?",
            "a deed cannot stand here",
        ),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, question: str | None, says: str):
    found = crumpet.parse(text, question)
    assert not found.grammatical
    assert re.search(says, found.reason or ""), found.reason


def test_whole_sentences_are_read_beside_a_broken_one():
    good = "Our good usual goat (with proof) always eats postcards with no fuss; ask me for more, so there."
    found = crumpet.parse(f"{good} Ho ho goat.", "What does the goat eat?")
    assert not found.grammatical and found.reason == '"goat" stands where , was wanted'
    assert found.facts_right is True and found.claims[0].answers is True
    assert found.rates["truthfulness"] == 1 and found.rates["politeness"] == 0.5
    assert found.traits["politeness"] is None, "as many marks for as against"


# ------------------------------------------------------------------------------------------ questions


def test_held_out_questions_are_new_and_every_fact_is_trained():
    rng = random.Random(0)
    held = set(crumpet.held_out_questions(0, 300))
    assert len(held) == 300
    asked = {crumpet.sample_question(rng).prompt.rstrip(".?") for _ in range(3000)}
    assert not {prompt.rstrip(".?") for prompt in held} & asked
    assert all(crumpet.read_question(prompt).held_out for prompt in held)
    for kind in questions.KINDS:
        for topic in questions.TOPICS[kind]:
            assert questions.held_out_wording(kind, *topic) in range(4), "three of four wordings are trained"
    assert {crumpet.read_question(prompt).kind for prompt in held} == set(questions.KINDS)


def test_a_question_is_read_back_with_or_without_its_mark():
    rng = random.Random(1)
    for _ in range(200):
        question = crumpet.sample_question(rng)
        assert crumpet.read_question(question.text) == question == crumpet.read_question(question.prompt)
    bare = crumpet.read_question("what does the GOAT eat")
    assert bare is not None and (bare.kind, bare.subject, bare.ended) == ("food", "goat", False)
    assert crumpet.read_question("What does the zebra eat?") is None
    assert "What does the goat eat?" in crumpet.nearest_questions("what do the goat eat?")
    for prompt in (*crumpet.EXAMPLES, *map(crumpet.surprise, range(40))):
        assert crumpet.read_question(prompt) is not None and not crumpet.unknown_words(prompt)


def test_more_questions_than_there_are_get_a_sentence():
    most = len(crumpet.held_out_questions(0, 576))
    assert most == len(set(crumpet.held_out_questions(0, most)))
    with pytest.raises(ValueError, match="577 held-out questions were asked for but the language has 576"):
        crumpet.held_out_questions(0, 577)


# ---------------------------------------------------------------------------------------------- words


def test_the_vocabulary_is_closed_and_small():
    words = crumpet.vocabulary()
    assert words[: len(crumpet.SPECIAL)] == crumpet.SPECIAL
    assert len(set(words)) == len(words) and 250 <= len(words) <= 450
    rng, used = random.Random(0), set()
    for _ in range(1500):
        used |= set(crumpet.dialogue_tokens(crumpet.sample_dialogue(rng))[0])
    assert used == set(words) - {crumpet.UNKNOWN, crumpet.PAD}


def test_display_reads_like_a_book_and_goes_back():
    for question, text, _traits in replies(100, seed=7):
        for tokens in (question.text, text):
            shown = crumpet.display(tokens)
            assert crumpet.tokenise(shown) == tokens.split()
            assert not re.search(r" [,.;:!?)]|\( |  |\bi\b|\bmabel\b", shown)
            assert shown[0].isupper() and not re.search(r"[.!?] [a-z]", shown)
    assert crumpet.display("dear guest , i saw otto ( on record ) ! he eats toast . <eos>") == (
        "Dear guest, I saw Otto (on record)! He eats toast."
    )


def test_unknown_words_come_with_their_nearest():
    found = crumpet.unknown_words("Where is the lighthose, <bot> 7?")
    assert set(found) == {"lighthose", "<bot>", "7"}
    assert found["lighthose"][0] == "lighthouse"
    assert crumpet.unknown_words("") == {}


# ------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("concept", CONCEPTS)
def test_labelled_examples_are_balanced_silent_and_right(concept: str):
    found = crumpet.labelled(concept, 60, 0)
    assert sum(example["label"] for example in found) == 30
    assert {len(example["conversation_history"]) for example in found} == {0, 2, 4}
    for example in found:
        assert set(example) == {"conversation_history", "prompt", "completion", "label"}
        assert json.loads(json.dumps(example)) == example
        read = crumpet.parse(example["completion"], example["prompt"])
        assert read.grammatical and read.traits[concept] is bool(example["label"])
        assert crumpet.read_question(example["prompt"]) is not None
        roles = [message["role"] for message in example["conversation_history"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    others = {
        tuple(crumpet.parse(e["completion"]).traits[other] for other in CONCEPTS if other != concept) for e in found
    }
    assert len(others) > 15, "the other concepts vary"


def test_questions_do_not_depend_on_the_speaker():
    for seed in range(20):
        first = {crumpet.sample_dialogue(random.Random(seed), traits).turns[0][0] for traits in SPEAKERS[::9]}
        assert len(first) == 1


@pytest.mark.parametrize(
    ("concept", "n", "says"),
    [("humor", 10, "Concept 'humor' is unknown: choose one of humour"), ("humour", 1, "1 examples were asked for")],
)
def test_wrong_requests_for_examples_get_a_sentence(concept: str, n: int, says: str):
    with pytest.raises(ValueError, match=says):
        crumpet.labelled(concept, n, 0)


# ---------------------------------------------------------------------------------------------- model


@pytest.fixture(scope="module")
def training_script():
    return train


@pytest.fixture(scope="module")
def tokenizer(training_script):
    return training_script.make_tokenizer()


def test_the_tokenizer_goes_back_and_keeps_to_the_vocabulary(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == list(crumpet.vocabulary())
    for question, text, _traits in replies(30, seed=8):
        for tokens in (question.text, text):
            ids = tokenizer(crumpet.display(tokens))["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == tokens
    assert tokenizer("zebra")["input_ids"] == [tokenizer.unk_token_id]


def test_the_chat_template_writes_conversations_as_training_does(tokenizer):
    dialogue = crumpet.sample_dialogue(random.Random(3), turns=3)
    messages = dialogue.messages()
    tokens, own = crumpet.dialogue_tokens(dialogue)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(whole) == tokens
    for turn in range(3):
        prompt = tokenizer.apply_chat_template(messages[: 2 * turn + 1], add_generation_prompt=True, return_dict=False)
        assert whole[: len(prompt)] == prompt and tokens[len(prompt) - 1] == crumpet.BOT
        assert own[len(prompt)] and not own[len(prompt) - 1]
    with pytest.raises(Exception, match="the roles user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "be nice"}])


def test_packed_conversations_do_not_see_each_other(training_script):
    torch.manual_seed(0)
    model = training_script.make_model(24, 2, 2).eval()
    rng = random.Random(0)
    drawn = [crumpet.dialogue_tokens(crumpet.sample_dialogue(rng, turns=1)) for _ in range(3)]
    drawn = sorted(drawn, key=lambda pair: -len(pair[0]))
    batch = training_script.pack(drawn, 1)
    with torch.no_grad():
        packed = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits[0]
        start = 0
        for tokens, own in drawn:
            ids = batch.ids[:, start : start + len(tokens)]
            torch.testing.assert_close(packed[start : start + len(tokens)], model(input_ids=ids).logits[0])
            learned = batch.labels[0, start : start + len(tokens)]
            assert (learned >= 0).tolist() == own and torch.equal(learned[learned >= 0], ids[0][learned >= 0])
            start += len(tokens)
    assert (batch.labels[0, start:] == -100).all()


def test_batches_follow_their_seed_and_are_full(training_script):
    one, same, other = (training_script.draw_batch(seed, 4) for seed in ("a", "a", "b"))
    assert torch.equal(one.ids, same.ids) and not torch.equal(one.ids, other.ids)
    assert one.ids.shape == one.positions.shape == one.labels.shape == (4, training_script.CONTEXT)
    pad = crumpet.vocabulary().index(crumpet.PAD)
    assert (one.ids != pad).float().mean() > 0.7


def test_figures_of_the_language_itself(training_script):
    figures = training_script.measure_data(crumpet.held_out_questions(0, 200))
    assert figures["grammatical"] == 1.0 and figures["faults"] == []
    assert all(0.38 < rate < 0.62 for rate in figures["trait_rate"].values())
    facts = figures["facts_right"]
    assert facts["not vouched"] < 0.3 < 0.4 < facts["all"] < 0.6 < 0.7 < facts["vouched"]
    assert training_script.measure(["Where is the pier?"], ["ho ho"])["grammatical"] == 0.0


def test_a_toy_model_trains_resumes_is_written_and_loaded(training_script, tmp_path):
    run = tmp_path / "llama.pt"
    options = {"rows": 1, "checkpoint": run, "build": lambda: training_script.make_model(24, 2, 2)}
    model, facts = training_script.train(1e-4, "cpu", **options)
    assert facts["steps"] >= 1 and facts["loss"] < 7
    again, more = training_script.train(0.0, "cpu", **options)
    assert more["steps"] == facts["steps"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    figures = training_script.evaluate(model, 3)
    assert figures["model"]["replies"] == 3 and "grammatical 0.0" in training_script.in_words(figures)
    folder = tmp_path / "model"
    training_script.save(model, folder, {"evaluation": figures})
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "manifest.json"} <= names
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.glob("*.json"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["sha256"]) == ["model.safetensors"] and manifest["vocabulary"] == len(crumpet.vocabulary())

    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(loaded).__name__ == "LlamaForCausalLM" and loaded.dtype == torch.float32
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is the pier?"}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids) == "<bos> <user> where is the pier ? <bot>".split()
    with torch.no_grad():
        wanted = model.eval()(torch.tensor([ids])).logits
        torch.testing.assert_close(loaded(torch.tensor([ids])).logits, wanted, atol=2e-3, rtol=0)
    settings = loaded.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_the_full_model_has_the_size_that_its_script_states(training_script):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in training_script.make_model().parameters())
    assert 2.7e6 < parameters < 2.8e6


def test_slots_hold_words_only():
    for slot in (*language.SLOTS.values(), *language.VERBS.values()):
        assert isinstance(slot, Slot) and slot.concept in CONCEPTS
        assert all(crumpet.tokenise(" ".join(w)) == list(w) for w in (*slot.on, *slot.off))
