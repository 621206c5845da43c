"""The Concept Guidance tab: its handlers without a browser, on a toy model of the real class and on the shipped one."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import math
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from demos.concept_guidance import chat, facts, from_python, heat, make, sweep
from demos.concept_guidance import measured as concept_measured
from demos.concept_guidance import shown as concept_shown
from demos.concept_guidance.chat import BOTH, EACH, PRESETS
from demos.concept_guidance.shown import Turn
from demos.core import compare, handlers
from demos.core.form import Form
from demos.core.links import LINKS
from demos.core.widgets import Entry
from pipelines import concept_guidance
from pipelines.concept_guidance import Partial, Row, ScoreSettings, Settings, files, lab
from pipelines.concept_guidance.lab import Curve, SweepSettings
from pipelines.core.lane import run_blocking
from pipelines.worlds import crumpet
from tests.core.test_app import handler, shown, visit
from tests.toys.language import LAYERS, concept

ADVANCED = {
    "layers": "best",
    "mode": "share",
    "positions": "all",
    "seed": 7,
    "temperature": 0.7,
    "top_p": 0.95,
    "max_tokens": 12,
}
ROWS = [
    ["humour", "", 0.4, True],
    ["truthfulness", "", 0.0, True],
    ["politeness", "", 0.0, True],
    [None, "", 0.0, True],
]
ONE = [True, False, False, False]
LINES = "\n".join(
    f"{sign} why the {noun} => {answer} {noun} {answer}"
    for noun in ("moon", "stone", "cheese", "sky", "sir", "you")
    for sign, answer in (("+", "hello dear marvel"), ("-", "green blue because"))
)


def named(message="hello you", rows=ROWS, **advanced) -> dict:
    """What the chat's handler gets from the page by name."""
    widgets = {f"{name}{n}": value for n, row in enumerate(rows) for name, value in zip(chat.ROW, row, strict=True)}
    return {"message": message, **ADVANCED, **advanced, **widgets}


def ask(visitor="chat", turns=(), own=None, both=EACH, visible=ONE, again=False, results=(), **values):
    """The run of a press of Send or, ``again``, of Retry."""
    run = handler("ask_again" if again else "ask")
    return run(visit(visitor), list(turns), own or {}, "mini-llama", both, visible, list(results), **named(**values))


def settings_of(turns=(), own=None, both=EACH, visible=ONE, **values) -> Settings:
    return chat.settings_of(Form(Settings.of("mini")), named(**values), turns, own or {}, "", both, visible)


def values(updates: list) -> list:
    return [value for update in updates if isinstance(update, dict) for value in update.values()]


def turns_of(updates: list) -> list[Turn]:
    """The chat after the last update that changed it."""
    return [lists_of([update], Turn)[0] for update in updates if lists_of([update], Turn)][-1]


def lists_of(updates: list, kind: type) -> list[list]:
    return [v for v in values(updates) if isinstance(v, list) and all(isinstance(one, kind) for one in v)]


def files_of(updates: list) -> list[str]:
    paths = [v.value for v in values(updates) if isinstance(v, gr.DownloadButton) and v.value]
    return [path["path"] if isinstance(path, dict) else str(path) for path in paths]


# --- the chat ---


def test_an_answer_of_both_sides_and_its_transcript(page_toys):
    run = list(ask())
    (turn,) = turns_of(run)
    assert turn.outcome is not None and turn.outcome.settings.concepts == (("humour", 0.4),)
    page = shown(run)
    for words in ("Done: ", "both answers at once", "humour +0.40", "seed 7", "perplexity", "tokens/s"):
        assert words in page
    told = json.loads(Path(files_of(run)[-1]).read_text())
    assert [m["role"] for m in told["messages"]["guided"]] == ["user", "assistant"][: 2 * bool(turn.texts[1].strip())]
    entry = told["turns"][0]
    assert entry["guided"]["text"] == turn.texts[1] and entry["measurements"]["settings"]["seed"] == 7
    assert len(entry["guided"]["scores"]["humour"][0]) == len(entry["guided"]["tokens"])

    again = list(ask(again=True, message="typed since", turns=[turn]))
    assert turns_of(again)[0].outcome.settings.seed != 7, "unchanged settings would give the same answer"
    assert len(turns_of(again)) == 1 and "" not in [v for v in values(again[:1]) if isinstance(v, str)]
    changed = list(ask(again=True, message="", turns=[turn], seed=8))
    assert turns_of(changed)[0].outcome.settings.seed == 8


def results_of(updates: list) -> list[Entry]:
    return [entries for entries in lists_of(updates, Entry) if entries][-1]


def bring_back(entry: Entry, own: dict) -> dict:
    """What a click on a result of the tab's strip changes."""
    gallery = next(
        block
        for block in app.demo.blocks.values()
        if isinstance(block, gr.Gallery) and "history-strip" in block.elem_classes and _on(block, "concept_guidance")
    )
    (event,) = [fn for fn in app.demo.fns.values() if (gallery._id, "select") in fn.targets]
    back = event.fn(gr.SelectData(gallery, {"index": 0, "value": ""}), [entry], own)
    assert set(back) <= set(event.outputs)
    return back


def _on(block: gr.blocks.Block, slug: str) -> bool:
    while block is not None and getattr(block, "id", None) != slug:
        block = block.parent
    return block is not None


def test_answers_are_results_that_come_back_and_are_compared(page_toys):
    rows, both = [["humour", "", 0.4, True], ["warm", "", 0.2, True], *ROWS[2:]], [True, True, False, False]
    first = list(ask(rows=rows, visible=both, own={"warm": concept()}))
    entries = results_of(first)
    second = list(ask(message="and you?", turns=turns_of(first), results=entries, seed=8))
    newer, older = results_of(second)
    assert older is entries[0] and len(newer.outcome.turns) == 2
    assert older.caption == "hello you · humour +0.40, warm +0.20"
    with Image.open(older.picture) as printed:
        assert printed.width == compare.CELL <= printed.height

    differs, same = compare.compared([newer, older])
    assert differs["Your message"] == ["and you?", "hello you"] and differs["Seed"] == ["8", "7"]
    assert differs["Concepts"] == ["humour +0.40", "humour +0.40, warm +0.20"] and "Temperature" in same
    assert older.words.startswith("hello you Unguided: ") and " Guided: " in older.words
    assert f"alt='Result 2: {html.escape(older.words)}'" in compare.board([newer, older])
    assert compare.sheet([newer, older], "Two answers").width > 2 * compare.CELL

    back = bring_back(older, {"warm": concept()})
    assert turns_of([back]) == older.outcome.turns
    assert Path(*files_of([back])).read_bytes() == Path(older.outcome.transcript).read_bytes()
    page = shown([back])
    assert "Brought back from your results" in page and "humour +0.40" in page
    rows = [value for value in back.values() if isinstance(value, gr.Slider)]
    assert [row.value for row in rows] == [0.4, 0.2]
    assert "humour" in [getattr(value, "value", None) for value in back.values()]
    link = LINKS["concept_guidance"]
    assert set(link.opens("?model=mini-llama&concepts=humour:0.3")) <= set(link.outputs)
    gone = bring_back(older, {})
    assert [value.value for value in gone.values() if isinstance(value, gr.Slider)] == [0.4], "that concept is no more"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"message": "   "}, "message is empty"),
        ({"message": "a" * 100_000}, "100,000 characters"),
        ({"layers": "none"}, "layers are 'none'"),
        ({"seed": None}, "seed is nothing"),
        ({"rows": [["humour", "", math.nan, True], *ROWS[1:]]}, "strength of humour is nan"),
        ({"rows": [ROWS[0], ["humour", "", 0.2, True], *ROWS[2:]], "visible": [True, True, False, False]}, "twice"),
    ],
)
def test_wrong_input_gets_a_sentence_before_anything_changes(change: dict, words: str):
    with pytest.raises(gr.Error) as caught:
        next(ask(**change))
    assert words in caught.value.message and caught.value.message.endswith(".")


def test_nothing_to_answer_again_and_an_unknown_concept_are_told(page_toys):
    with pytest.raises(gr.Error, match="nothing to answer again"):
        next(ask(again=True))
    seen = []
    with pytest.raises(gr.Error, match="'quality' is unknown"):
        for update in ask(rows=[["quality", "", 0.3, True], *ROWS[1:]]):
            seen.append(update)  # not a comprehension: what came before the error is kept
    assert turns_of(seen) == [] and "hello you" in values(seen[-1:]), "the question is back in its box"


def slow(job, registry, settings, own):
    for count in range(400):
        job.emit(Partial(("plain " * count, "guided " * count), count))
        time.sleep(0.005)
    raise AssertionError("nobody stopped it")


def test_stop_keeps_what_was_written_and_the_next_question_knows_it(page_toys, monkeypatch):
    monkeypatch.setattr(concept_guidance, "generate", slow)
    run, seen = ask("stop"), []
    while not (seen and any(turn.texts[1] for turn in turns_of(seen))):
        seen.append(next(run))
    with pytest.raises(gr.Error, match="One run at a time"):
        next(ask("stop"))
    assert handlers.stop_run(visit("stop"))
    rest = list(run)
    assert "What was written stays" in shown(rest[-1:])
    (kept,) = turns_of(seen)
    assert kept.outcome is None and "guided" in kept.texts[1]
    settings = settings_of([kept], message="and now?")
    assert "plain" in settings.history[1]["content"] and "guided" in settings.guided_history[1]["content"]


def test_a_run_that_breaks_brings_back_question_and_chat(page_toys, monkeypatch):
    def breaks(job, registry, settings, own):
        job.emit(Partial(("half", "half"), 1))
        raise MemoryError("there is no room")

    before = [Turn("first", ("a", "b"))]
    monkeypatch.setattr(concept_guidance, "generate", breaks)
    for again in (False, True):
        seen = []
        with pytest.raises(gr.Error, match="There is no room."):
            for update in ask("broken", before, again=again):
                seen.append(update)
        assert turns_of(seen) == before and "progress-line stopped" in shown(seen[-1:])


def test_both_may_follow_the_guided_side():
    turns = [Turn("one", ("plain", "steered")), Turn("two", ("", ""))]
    both = settings_of(turns, both=BOTH)
    assert both.guided_history is None and [turn["content"] for turn in both.history] == ["one", "steered"]
    each = settings_of(turns)
    assert [turn["content"] for turn in each.history] == ["one", "plain"], "a turn without an answer is left out"


def test_rows_that_are_off_or_removed_do_not_guide():
    rows = [["humour", "pca", 0.4, True], ["truthfulness", "", -0.2, False], ["politeness", "", 0.1, True], ROWS[3]]
    made = settings_of(rows=rows, visible=[True, True, True, True])
    assert made.concepts == (("humour.pca", 0.4), ("politeness", 0.1))
    own = {"humour": concept()}
    made = settings_of(rows=rows, own=own)
    assert made.concepts == (("humour", 0.4),), "a concept of one's own has one probe"


def test_presets_name_known_concepts_within_the_cap():
    for name, strengths in PRESETS.items():
        assert set(strengths) <= set(crumpet.CONCEPTS), name
        assert sum(map(abs, strengths.values())) <= concept_guidance.CAP and len(strengths) <= chat.ROWS


def test_a_character_sets_the_strengths_and_asks_the_same_question_again():
    name_of = {fn: getattr(fn.fn, "__name__", "") for fn in app.demo.fns.values()}
    preset = next(fn for fn, called in name_of.items() if called == "chosen")
    (name, strengths), buttons = list(PRESETS.items())[1], {block.value: block for block in chips()}
    assert any(fn.trigger_after == preset._id and called == "ask" for fn, called in name_of.items()), "and sends"
    for typed, turns, question in (
        ("", [], crumpet.EXAMPLES[0]),
        (" ", [Turn("one", ("a", "b"))], "one"),
        ("mine", [Turn("one", ("a", "b"))], "mine"),
    ):
        updates = preset.fn(typed, turns, gr.EventData(buttons[name], {}))
        texts = [value for block, value in updates.items() if isinstance(block, gr.Textbox)]
        assert question in texts
        put = [value.value for value in updates.values() if isinstance(value, gr.Slider)]
        assert put == list(strengths.values())


def chips() -> list[gr.Button]:
    return [block for block in app.demo.blocks.values() if isinstance(block, gr.Button) and block.value in PRESETS]


def test_what_the_parser_verified_stands_below_an_answer():
    row = next(row for row in crumpet.labelled("truthfulness", 20, 0) if row["label"])
    reply, question = str(row["completion"]).lower(), str(row["prompt"])
    told = concept_shown.under(answered(reply, question=question), 1, "mini")
    assert "✓ grammatical" in told and "perplexity 2.0" in told
    assert re.search(r"<b>truthfulness (\d+) of \1</b>", told) and re.search(r"facts right (\d+) of \1", told)
    broken = concept_shown.under(answered("the goat <b> zebra"), 1, "mini")
    assert "✗ not grammatical</b> at word" in broken and "<b> zebra" not in broken
    assert "grammatical" not in concept_shown.under(answered(reply), 1, "full"), "only the little language has a parser"
    pane = concept_shown.bubbles([answered(reply)], 1, "mini")
    assert [message["role"] for message in pane] == ["user", "assistant", "assistant"]
    assert pane[1]["content"] == row["completion"], "shown with capitals and the usual spacing"


TYPED = [
    "Where does <Mabel> work?",
    "# hi",
    "**x** and _y_",
    "<think>hm</think>",
    "$x$ $$y$$",
    "1. one\n2. two",
    "![a](http://127.0.0.1:9/a.png)",
    "<img src=http://127.0.0.1:9/b.png onerror=alert(1)>",
    "a  b\n\n\n    c",
    "&lt;b&gt; &amp; <b>",
    "`x` ~~y~~ | z",
    "{{7*7}} ${7*7}",
    "\u202eabc\u202c <script>",
    "www.a.example http://a.example a@a.example",
]


@pytest.mark.parametrize("typed", TYPED)
def test_a_bubble_says_what_was_typed(typed: str):
    """A pane shows HTML and nothing else, so that text which is escaped comes out as it went in."""
    assert not chat._pane("a", "plain").render_markdown and chat._pane("a", "plain").latex_delimiters == []
    for side, texts in ((0, (typed, "")), (1, ("", typed))):
        asked, said = (message["content"] for message in concept_shown.bubbles([Turn(typed, texts)], side, "full"))
        for words in (asked, said):
            assert "<" not in words and html.unescape(words).strip("\u2068\u2069") == typed


def test_accuracies_of_thousands_of_heads_are_told_and_not_drawn():
    told = facts.accuracy_chart("<b>", [0.5] * 5120, [0.5] * 5120, "all")
    assert told == "<p class='quiet'>&lt;b&gt; has an accuracy for each of 5,120 heads, which are not drawn.</p>"
    assert "<svg" in facts.accuracy_chart("x", [0.5] * 4, [0.5] * 4, "all")


def answered(text: str, scores=((0.5, -0.25),), question: str = "what does the goat eat ?") -> Turn:
    """A turn with a given guided answer."""
    words = text.split()
    scores = {"truthfulness": [list(line) for line in scores]}
    rows = [Row(level, {"truthfulness": 0.3 * level}, text, words, scores, 2.0, True) for level in (0.0, 1.0)]
    told = {"tokens": [len(words)] * 2, "tokens_per_second": 40.0, "seconds": 1.0}
    settings = Settings(question, (("truthfulness", 0.3),))
    return Turn(question, (text, text), concept_guidance.Outcome(settings, rows, "x", [], told))


# --- safe strengths ---

POINTS = [
    {"strength": s, "score": 0.5 + s / 4, "spread": 0.05, "perplexity": p, "grammatical": 0.9, "facts_right": 0.8}
    for s, p in ((-1.0, 20.0), (-0.5, 5.0), (0.0, 4.0), (0.5, 4.8), (1.0, 12.0))
]


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        (0.3, ""),
        (-0.55, "Fluency suffers"),
        (-0.9, "Over the cliff"),
        (1.0, "Over the cliff"),
        (0.6, "Fluency suffers"),
    ],
)
def test_a_strength_beyond_the_safe_range_is_told_in_words(strength: float, words: str):
    told = facts.safety(POINTS, strength)
    assert "Measured safe from −0.50 to +0.50" in told
    assert words in told if words else "⚠" not in told


def test_grammar_counts_as_much_as_perplexity_and_beyond_the_scan_nothing_is_known():
    points = [{**p, "perplexity": 4.0, "grammatical": 0.9 - abs(p["strength"]) * 0.8} for p in POINTS]
    assert "Measured safe from 0.00 to 0.00" in facts.safety(points, 0.0)
    assert "Fluency suffers (perplexity × 1.0, 74 % grammatical)" in facts.safety(points, 0.2)
    assert "Over the cliff (perplexity × 1.0, 26 % grammatical)" in facts.safety(points, -0.8)
    assert "nothing was measured" in facts.safety(POINTS[1:4], 0.9)


def test_without_a_sweep_the_usual_range_is_called_not_measured():
    assert "not measured" in facts.safety([], 0.5) and "⚠" not in facts.safety([], 0.5)
    assert "Beyond the usual" in facts.safety([], -0.55)
    assert "not for the raw scale" in facts.safety(POINTS, 30.0, True)
    assert facts.between(POINTS, 0.75, "perplexity") == pytest.approx((4.8 + 12) / 2)
    assert facts.between([], 0.1, "perplexity") is None


# --- the heat map ---


def test_a_heat_map_says_its_numbers_and_holds_no_markup_of_others():
    row = Row(1.0, {}, "x", ["<b>goat", " eats", "\n"], {"humour": [[0.5, -0.25, 0.0], [0.1, -0.75, 0.0]]}, 2.0, True)
    page = concept_shown.heat_map(row, "humour", None, (0, 1), "The guided answer")
    tree = ElementTree.fromstring(_closed(page))
    labels = [node.get("aria-label") for node in tree.iter("input")]
    assert labels == ["<b>goat, +0.30", "eats, −0.50", "⏎, 0.00"] and "<b>goat" not in page
    assert [node.text for node in tree.iter("small")] == ["+0.30", "−0.50", "0.00"]
    assert page.count(" checked") == 1 and "strongest is “eats” with −0.50" in page
    assert [len(list(node)) for node in tree.iter("ol")] == [2, 2, 2], "every layer of every token"
    one = concept_shown.heat_map(row, "humour", 1, (0,), "Your text")
    assert "layer 1" in one and "+0.10" in one
    long = Row(1.0, {}, "x", ["a"] * 500, {"humour": [[0.1] * 500]}, 2.0, True)
    assert concept_shown.heat_map(long, "humour", 0, (), "x").count("type='radio'") == concept_shown.TOKENS_MAX
    empty = Row(1.0, {}, "", [], {"humour": []}, None, True)
    assert "nothing to read" in concept_shown.heat_map(empty, "humour", None, (), "x")


def _closed(page: str) -> str:
    """HTML as XML: void elements and bare attributes closed."""
    return re.sub(r"(<input[^>]*?)( checked)?>", r"\1/>", page)


def test_any_text_can_be_read_for_a_concept(page_toys):
    registry = app.from_environment()

    def read(text: str, question: str = "") -> Row:
        return run_blocking(concept_guidance.score_text, registry, ScoreSettings(text, ("humour",), question))

    row = read("hello you marvel", "why")
    assert len(row.tokens) == 3 and "".join(row.tokens).split() == ["hello", "you", "marvel"]
    assert len(row.scores["humour"]) == LAYERS and len(row.scores["humour"][0]) == 3 and row.perplexity > 1
    assert read("hello you marvel", "how").perplexity != row.perplexity, "the question matters"
    for text, words in (
        ("  ", "no text to read"),
        ("hello " * 600, "3,600 tokens|600 tokens"),
        ("a" * 5000, "5,000 characters"),
    ):
        with pytest.raises(ValueError, match=words):
            read(text)


def test_a_pasted_text_is_read_on_the_page(page_toys):
    asked_for = [[], heat.PASTED, "hello you marvel", "", "humour", -1, {}, "mini-llama", {}]
    run = list(handler("read_text")(visit("heat"), *asked_for))
    assert "Read: 3 tokens" in shown(run) and shown(run).count("type='radio'") == 3
    asked_for[2] = " "
    with pytest.raises(gr.Error, match="There is no text to read"):
        list(handler("read_text")(visit("heat"), *asked_for))


# --- the sweep lab ---


def curve(points=POINTS, concept="humour", words="") -> Curve:
    settings = SweepSettings(concept, points=5, prompts=4, words=words)
    return Curve(
        settings, (1, 2), tuple(points), {p["strength"]: ("the goat eats .", "b") for p in points}, "layers 1-2"
    )


def test_the_board_tells_points_fit_and_answers(tmp_path: Path):
    page = sweep.board_html(curve())
    for words in (
        "5 of 5 strengths",
        "from 0.25 ± 0.05 (at −1.00) to 0.75 ± 0.05 (at +1.00)",
        "from −0.50 to +0.50",
        "PNES",
        "r²",
        "95 % intervals",
        "log axis",
        "Effect for its price",
        "The goat eats.",
    ):
        assert words in page, words
    started = sweep.board_html(curve(POINTS[2:3]))
    assert "1 of 5 strengths" in started and "PNES" not in started
    silent = [{**point, "score": None, "perplexity": None, "grammatical": None} for point in POINTS[:2]]
    assert "No answer has told a score" in sweep.board_html(curve(silent))
    assert "counted word" in sweep.board_html(curve(words="honk"))
    assert "<script" not in sweep.board_html(curve(concept="<script>humour"))


def test_the_files_of_a_sweep_hold_its_points():
    told, whole = sweep.write_files(curve(), "sweeper")
    rows = list(csv.DictReader(Path(told).open()))
    assert [float(row["strength"]) for row in rows] == [point["strength"] for point in POINTS]
    assert [float(row["perplexity_ratio"]) for row in rows] == [5.0, 1.25, 1.0, 1.2, 3.0]
    data = json.loads(Path(whole).read_text())
    assert data["points"][0]["strength"] == -1.0 and data["safe"] == [-0.5, 0.5] and data["answers"]["0.0"]


def swept(name="humour", **values):
    given = {"limit": 1.0, "points": 5, "prompts": 4, "words": "", **values}
    return handler("sweep")(visit("sweep"), name, "", {}, {}, "mini-llama", **given)


def test_a_stopped_sweep_keeps_its_points_and_a_whole_one_sets_the_safe_range(monkeypatch):
    def run(job, registry, settings, own):
        for count in (1, 3, 5):
            job.emit(curve(POINTS[(5 - count) // 2 : (5 + count) // 2]))
        return dataclasses.replace(curve(), done=True)

    monkeypatch.setattr(lab, "run", run)
    done = list(swept())
    assert "Done: 5 strengths" in shown(done) and len(files_of(done)) >= 4
    assert {"humour": tuple(POINTS)} in values(done)

    going, seen = swept(), []
    while "1 of 5" not in shown(seen):
        seen.append(next(going))
    handlers.stop_run(visit("sweep"))
    rest = list(going)
    assert "What was measured stays" in shown(rest) and "board" not in shown(rest), "nothing is taken away"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "No concept is chosen"),
        ({"limit": math.nan}, "largest strength is nan"),
        ({"points": 4}, "odd one"),
        ({"prompts": 1}, "questions"),
        ({"name": "pirates"}, "name words to count"),
    ],
)
def test_the_sweep_says_what_is_wrong(change: dict, words: str):
    with pytest.raises(gr.Error) as caught:
        next(swept(**change))
    assert words in caught.value.message and caught.value.message.endswith(".")


# --- detect is not guide ---


def measured() -> dict:
    """Figures of the shipped layout, where the best detector guides best for three of six concepts."""
    concepts = {}
    for n, name in enumerate(crumpet.CONCEPTS):
        concepts[name] = {
            probe: {
                "representation": "hiddens",
                "layers": [2, 3],
                "accuracy": 0.6 + 0.1 * place + 0.01 * n,
                "accuracy_interval": [0.5, 0.95],
                "accuracies": [0.6] * 6,
                "train_accuracies": [0.7] * 6,
                "points": POINTS,
                "safe": [-0.5, 0.5],
                "pnes": {
                    "value": 0.1 + 0.1 * (place if n % 2 else 2 - place),
                    "r_squared": 0.9 if place else 0.3,
                    **{"a": 1.0, "b": 1.0, "c": 0.0, "x_min": -0.5, "x_max": 0.5},
                },
                "pnes_interval": [0.05, 0.4],
                "range": 0.25 + 0.1 * n,
                "range_at": [-0.5, 0.5],
            }
            for place, probe in enumerate(("pca", "dim", "logistic"))
        }
    best = dict.fromkeys(concepts, "dim")
    return {"prompts": 200, "strengths": [-1, 0, 1], "concepts": concepts, "best": best, "resist": ["humour"]}


def test_detect_is_not_guide_is_told_from_the_figures(monkeypatch):
    page = concept_measured.measured_html("mini", measured())
    assert "For 3 of 6 concepts the best detector is also the best guide" in page
    assert "For 3 it is not" in page and "fluent: humour." in page and "90.0 % of the answers" in page
    assert page.count("<tr role='row'>") == 19 and "poor fit" in page and page.count("used by the chat") == 6
    assert page.count('class="shape ') == 18 + 3 and "of the mini set" not in page
    assert "of the mini set" in concept_measured.measured_html("full", measured())
    assert "have not been measured" in concept_measured.measured_html("mini", {})
    monkeypatch.setattr(lab, "measured", measured)
    assert facts.points_of("mini", "", "humour.pca", {}, {}) == POINTS
    assert facts.points_of("mini", "", "humour", {}, {"humour": POINTS[:1]}) == POINTS[:1]


# --- the full set ---


def test_the_full_set_has_a_picker():
    page = app.build(app.from_environment(), "full")
    picker = next(b for b in page.blocks.values() if isinstance(b, gr.Dropdown) and b.elem_id == "concept-model")
    assert picker.visible and len(picker.choices) == 4
    words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "No concept comes along" in words
    mini = next(b for b in app.demo.blocks.values() if isinstance(b, gr.Dropdown) and b.elem_id == "concept-model")
    assert not mini.visible


@pytest.mark.parametrize("model_set", ["mini", "full"])
def test_the_example_of_guide_names_a_concept_that_there_is(model_set: str):
    page = app.demo if model_set == "mini" else app.build(app.from_environment(), model_set)
    call = next(fn for fn in page.fns.values() if fn.api_name == "guide")
    example = next(block.value for block in call.inputs if block.label == "concepts")
    assert example == ({"humour": 0.3} if model_set == "mini" else {}), (
        "no vector comes along with the published models"
    )


# --- the public endpoints ---


def test_guide_takes_a_vector_of_ones_own(served: str):
    client, file = Client(served, verbose=False), handle_file("assets/mini_llama/vectors/humour.pca.safetensors")
    given = {"prompt": "What does the goat eat?", "seed": 5, "max_tokens": 12, "api_name": "/guide"}
    plain, guided, details = client.predict(concepts={}, vector=file, **given)
    assert plain != guided and details["applied"].startswith("humour +0.30")
    weak = client.predict(concepts={"humour": 0.01}, vector=file, **given)
    assert weak[2]["applied"].startswith("humour +0.01") and weak[0] == plain
    notes = handle_file("README.md")
    with pytest.raises(AppError, match="README.md"):
        client.predict(concepts={}, vector=notes, **given)


def post(served: str, name: str, data: list) -> tuple[str, str]:
    """Event and data of the raw endpoint's last message."""
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{served}/gradio_api/call{name}", content=json.dumps({"data": data}), headers=headers)
    assert answer.status_code == 200, answer.text
    stream = httpx.get(f"{served}/gradio_api/call{name}/{answer.json()['event_id']}", timeout=120).text
    return re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]


GUIDE = ["hello", {"humour": 0.3}, "best", 0, 8, "mini", 0.7, 0.95, "share", "all", ""]
BAD_GUIDE = {
    "empty prompt": (0, " ", "message is empty"),
    "no user at the end": (0, [{"role": "assistant", "content": "x"}], "not the user’s"),
    "prompt is a number": (0, 7, "prompt is 7 but must be a text or a list"),
    "prompt is nothing": (0, None, "prompt is nothing (null)"),
    "prompt is a picture": (0, [{"type": "image", "url": "x"}], "a block of the type 'image'"),
    "concepts are a list": (1, ["humour"], "must be a dictionary"),
    "NaN strength": (1, {"humour": float("nan")}, "strength of humour is nan"),
    "strength too high": (1, {"humour": 5}, "strength of humour is 5"),
    "five concepts": (1, dict.fromkeys("abcde", 0.1), "5 concepts"),
    "unknown layers": (2, "some", "layers are 'some'"),
    "seed": (3, -1, "seed is -1"),
    "tokens": (4, 10**9, "number of tokens"),
    "model set": (5, "maxi", "'maxi' is unknown"),
    "mode": (8, "loud", "'loud' is unknown"),
    "model": (10, "gpt", "'gpt' is not in the set"),
}


@pytest.mark.parametrize(("place", "value", "words"), BAD_GUIDE.values(), ids=BAD_GUIDE.keys())
def test_wrong_values_at_guide_get_one_sentence(served: str, place: int, value: object, words: str):
    kind, data = post(served, "/guide", [*GUIDE[:place], value, *GUIDE[place + 1 :]])
    text = json.loads(data)["error"]
    assert kind == "error" and words in text and text.endswith(".") and len(text) < 250 and "Traceback" not in text


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, 7, "examples are 7"),
        (0, "+ a => b", "Need at least 4"),
        (0, [{"prompt": "x"}], "expected prompt"),
        (1, "", "no name"),
        (2, "magic", "'magic' is unknown"),
        (3, "soul", "'soul' is unknown"),
        (4, 0, "tokens per answer"),
        (5, None, "share for validation"),
    ],
)
def test_wrong_values_at_train_concept_get_one_sentence(served: str, place: int, value: object, words: str):
    given = [LINES, "warm", "dim", "pre-attn", 16, 0.2, 0, "mini", ""]
    kind, data = post(served, "/train_concept", [*given[:place], value, *given[place + 1 :]])
    text = json.loads(data)["error"]
    assert kind == "error" and words in text and "Traceback" not in text


@pytest.mark.slow
def test_guide_gives_both_texts_and_scores_and_the_same_for_the_same_seed(served: str):
    client = Client(served, verbose=False)
    given = {"concepts": {"humour": 0.3}, "seed": 5, "max_tokens": 30, "api_name": "/guide"}
    first = client.predict(prompt="What does the goat eat?", **given)
    again = client.predict(prompt=[{"role": "user", "content": "What does the goat eat?"}], **given)
    assert first[:2] == again[:2] and first[2]["guided"]["scores"] == again[2]["guided"]["scores"]
    details = first[2]
    for side, text in (("unguided", first[0]), ("guided", first[1])):
        assert crumpet.display(details[side]["text"]) == text and details[side]["verified"]["rates"].keys() == set(
            crumpet.CONCEPTS
        )
        assert len(details[side]["scores"]["humour"][0]) == len(details[side]["tokens"])
    off = client.predict(prompt="What does the goat eat?", **given | {"concepts": {"humour": 0}})
    assert off[0] == off[1] == first[0], "strength 0 changes nothing"


@pytest.mark.slow
def test_the_programs_on_the_page_run(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    over_http, in_process = re.findall(r"```python\n(.*?)```", from_python(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("examples.txt").write_text(make.EXAMPLE, encoding="utf-8")
    said = []
    for program in (over_http.replace("http://127.0.0.1:7860", served), in_process):
        exec(compile(program, "<page>", "exec"), {"print": lambda *words: said.append(words)})
    assert said[2][1].endswith(".safetensors") and files.read_concept(said[2][1]).name == "warm welcome"
    assert said[3][0].startswith("warm welcome +0.30") and len(said[3][1]) == 2
