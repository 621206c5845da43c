"""Step 1 of the MegaPortrait tab on models of toy size: pictures and verdicts, training and its stop, kept persons, the endpoint."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy
import pytest
import torch
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from PIL import Image
from skimage import data

import app
from demos.core import handlers
from demos.core.payloads import Page
from demos.megaportrait import learn as portrait_learn
from demos.megaportrait import people
from demos.megaportrait import step1 as portrait_step1
from demos.megaportrait.learn import STOPPED, people_of
from demos.megaportrait.people import Chosen, first_person, read_person
from pipelines.core.registry import Registry
from pipelines.megaportrait import tools
from pipelines.megaportrait.learn import Lesson, Training
from pipelines.megaportrait.person import Person
from pipelines.models import face_nets
from tests.core.test_app import shown, visit
from tests.environment import free_port
from tests.toys import portrait as toy_portrait


@pytest.fixture(scope="module")
def tab() -> Iterator[SimpleNamespace]:
    """The left side of the tab on a page of its own: page, step1, learn, registry."""
    with toy_portrait.installed():
        registry = Registry("cpu")
        with Page(analytics_enabled=False) as page:
            step1 = portrait_step1.build("mini")
            learn = portrait_learn.build(registry, "mini")
            portrait_learn.bind(registry, "mini", step1, learn)
            portrait_learn.build_api(registry, "mini")
        yield SimpleNamespace(page=page.queue(), step1=step1, learn=learn, registry=registry)


def handler(tab: SimpleNamespace, name: str):
    """The page's handler of that name, as Gradio calls it."""
    return next(one.fn for one in tab.page.fns.values() if getattr(one.fn, "__name__", "") == name)


def values(**changed) -> dict:
    """What the widgets of the training settings hold: four steps, two checks."""
    settings = dataclasses.replace(Training(seconds=300, steps=4, checks=2, rank=2), **changed)
    return {name: getattr(settings, name) for name in ("seconds", "steps", "rank", "rate", "batch", "checks", "seed")}


def training(
    tab: SimpleNamespace, session: str, chosen: Chosen | None, name="Ada", consent=False, **changed
) -> Iterator:
    return handler(tab, "train_this_person")(visit(session), chosen, name, consent, **values(**changed))


def last(updates: list, widget) -> object:
    """What the updates leave in a widget."""
    return [update[widget] for update in updates if isinstance(update, dict) and widget in update][-1]


def title(error: pytest.ExceptionInfo) -> str:
    return str(error.value.message)


@pytest.fixture(scope="module")
def two() -> Chosen:
    """A rendered person of two pictures: half the work."""
    return dataclasses.replace(first_person(), pictures=first_person().pictures[:2])


@pytest.fixture(scope="module")
def run(tab: SimpleNamespace, two: Chosen) -> list:
    """All updates of a training run."""
    return list(training(tab, "run", two))


@pytest.fixture(scope="module")
def trained(tab: SimpleNamespace, run: list) -> Chosen:
    return last(run, tab.step1.chosen)


# --- the first person ------------------------------------------------------------------------------------------


def test_the_step_opens_with_a_rendered_person_and_asks_no_consent(tab: SimpleNamespace):
    step1 = tab.step1
    assert step1.chosen.value.identity == people.START.person and step1.key.value == "first"
    assert not step1.consent.visible and step1.name.value == "Person 11"
    assert step1.shown.value.count("<img") == 5 and "Not trained yet" in step1.shown.value
    assert set(step1.load(first_person())) <= set(step1.outputs)


def test_rolling_puts_another_person_there_with_its_seed(tab: SimpleNamespace):
    updates = handler(tab, "roll")(12)
    rolled = updates[tab.step1.chosen]
    assert rolled.identity == 12 and len(rolled.pictures) == 5 and rolled.rendered
    assert updates[tab.step1.key] == rolled.key != "first"
    assert 12 in updates.values() and "Person 12" in updates.values()
    assert not (rolled.pictures[0][1] == first_person().pictures[0][1]).all()
    with pytest.raises(gr.Error, match="The person seed is 1000000"):
        handler(tab, "roll")(1_000_000)


def test_changing_between_both_kinds_brings_back_what_was_there(tab: SimpleNamespace):
    rolled, mine = first_person(), Chosen("own", "Me", first_person().pictures)
    other = handler(tab, "other_kind")
    to_own = other("own", rolled, mine)
    assert to_own[tab.step1.chosen] is mine and to_own[tab.step1.consent].visible is True
    back = other("rolled", rolled, mine)
    assert back[tab.step1.chosen] is rolled and back[tab.step1.consent].visible is False
    empty = other("own", rolled, None)
    assert empty[tab.step1.chosen] is None and empty[tab.step1.key] == ""
    assert "No pictures yet" in empty[tab.step1.shown]


def test_the_small_set_says_what_it_knows_and_the_full_set_does_not():
    for model_set, said in (("mini", True), ("full", False)):
        with gr.Blocks() as page:
            portrait_step1.build(model_set)
        words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
        assert ("The small models know rendered people only" in words) == said


# --- a visitor's pictures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sent")
    pictures = {name.replace(" ", "_"): picture for name, picture in first_person().pictures[:3]}
    pictures |= {"black": numpy.zeros((200, 200, 3), numpy.uint8), "astronaut": data.astronaut()}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    return {path.stem: str(path) for path in folder.iterdir()}


def look(tab: SimpleNamespace, paths: list[str], before: Chosen | None = None, name="My person") -> list:
    return list(handler(tab, "look_at_pictures")(visit("look"), paths, before, name))


def test_every_picture_gets_a_verdict(tab: SimpleNamespace, files: dict[str, str]):
    updates = look(tab, [files[name] for name in ("picture_1", "black", "text")])
    there, said = last(updates, tab.step1.chosen), last(updates, tab.step1.shown)
    assert [verdict.used for verdict in there.intake.verdicts] == [True, False]
    assert not there.rendered and not there.trained and there.key == last(updates, tab.step1.key)
    assert "picture_1.png" in said and "✓ used" in said
    assert "✗ rejected" in said and "black.png is black: save or download it again" in said
    assert "text.png was left out. This file is not a picture" in said
    assert "1 of 2 photos can be used" in said, "the remark of all together"
    assert last(updates, tab.step1.consent).visible is True
    assert "1 of 2 pictures can be used" in last(updates, tab.learn.line) and last(updates, tab.step1.drop) is None


def test_more_pictures_join_those_that_are_there(tab: SimpleNamespace, files: dict[str, str]):
    first = last(look(tab, [files["picture_1"]], first_person()), tab.step1.chosen)
    assert first.name == "My person"
    assert [name for name, _picture in first.pictures] == ["picture_1.png"], "not the rendered person's"
    both = last(look(tab, [files["picture_1"], files["picture_2"]], first, "Ada"), tab.step1.chosen)
    assert [name for name, _picture in both.pictures] == ["picture_1.png", "picture_1 (2).png", "picture_2.png"]
    assert both.key != first.key and both.name == "Ada", "what was typed stays"
    with pytest.raises(gr.Error, match="19 pictures came and 3 are there already: give 1 to 20 of one person"):
        look(tab, [files["picture_1"]] * 19, both)


def test_pictures_that_are_none_are_refused_and_the_page_stays(tab: SimpleNamespace, files: dict[str, str]):
    with pytest.raises(gr.Error, match="text.png was left out. This file is not a picture that can be read"):
        look(tab, [files["text"]])
    assert look(tab, []) == look(tab, None) != []


def test_someone_else_among_the_pictures_is_named(tab: SimpleNamespace, files: dict[str, str], monkeypatch):
    vectors = iter(numpy.eye(128, dtype=numpy.float32)[[0, 1, 0, 0, 1]])
    monkeypatch.setattr(face_nets.FaceEmbedder, "embed", lambda self, picture, points: next(vectors))
    names = ("picture_1", "astronaut", "picture_2", "picture_3", "picture_1")
    said = last(look(tab, [files[name] for name in names]), tab.step1.shown)
    assert "Photos 2 and 5 look like a different person." in said


def test_removing_all_pictures_takes_the_tick_away(tab: SimpleNamespace):
    remove = next(
        one
        for one in tab.page.fns.values()
        if tab.step1.load(None).keys() <= set(one.outputs) and not one.inputs and one.fn
    )
    updates = remove.fn()
    assert updates[tab.step1.chosen] is None and updates[tab.step1.key] == ""
    assert updates[tab.step1.consent].value is False


# --- training --------------------------------------------------------------------------------------------------


def test_a_person_is_learnt_and_put_into_step_1(tab: SimpleNamespace, run: list, trained: Chosen, two: Chosen):
    assert trained.trained and trained.name == "Ada" and trained.root == two.key and trained.key != two.key
    assert trained.key == last(run, tab.step1.key)
    assert trained.rendered and trained.person.facts["identity"] == two.identity
    assert trained.person.facts["steps"] == 4 and trained.pictures is two.pictures
    lines = [update[tab.learn.line] for update in run if tab.learn.line in update]
    assert any(re.search(r"Step \d, loss \d\.\d+, about \d+ s left", line) for line in lines)
    assert "Ada is trained: 4 steps in" in lines[-1]
    after = handler(tab, "ended")(lines[-1], trained)
    assert "It is worn where “Trained person” is chosen" in after[tab.step1.shown]
    assert "<b>Ada is trained:</b>" in after[tab.step1.shown] and after[tab.step1.chosen] is trained
    assert tab.learn.line not in after and tab.step1.name not in after, "what is said and typed stays"


def test_each_check_shows_its_curve_and_what_was_drawn(tab: SimpleNamespace, run: list, trained: Chosen):
    courses = [update[tab.learn.course] for update in run if tab.learn.course in update]
    assert courses[0] == "" and len(courses) == 3, "two checks"
    assert courses[1].count("<img") == 1 and courses[2].count("<img") == 2
    checks = trained.person.facts["checks"]
    assert f"Step 4, similarity {checks[1]['score']:.2f}" in courses[2] and "<svg" in courses[2]
    kept = trained.person.facts["best_step"]
    assert f"Kept: step {kept}" in courses[2]


def test_only_the_last_checks_are_drawn():
    lessons = [Lesson(step, 0.5, None, Image.new("RGB", (512, 256)), step == 3) for step in range(1, 10)]
    told = portrait_learn.course_html(lessons)
    assert told.count("<img") == portrait_learn.DRAWN and "Step 9<" in told and "Step 5<" not in told
    assert portrait_learn.drawn_words(lessons[2]) == "Step 3, the best so far"


def test_a_run_that_is_stopped_keeps_its_last_checkpoint_and_says_so(tab: SimpleNamespace, two: Chosen):
    seen, going = [], training(tab, "stop", two, steps=400, checks=20)
    while not any(tab.step1.chosen in update for update in seen[-1:] if isinstance(update, dict)):
        seen.append(next(going))
    kept = last(seen, tab.step1.chosen)
    assert handlers.stop_run(visit("stop"))
    rest = list(going)
    assert rest == [{tab.learn.line: STOPPED}], "nothing overtakes the stop"
    assert kept.trained and kept.person.facts["best_step"] == kept.person.facts["steps"] == 20
    words = handler(tab, "ended")(STOPPED, kept)
    assert "Stopped. Ada is kept as at the best check so far, step 20." in words[tab.learn.line]
    assert "<b>Ada is trained:</b>" in words[tab.step1.shown]


def test_a_run_that_is_stopped_before_its_first_check_has_learnt_nothing(tab: SimpleNamespace, two: Chosen):
    going = training(tab, "early", two, steps=400, checks=1)
    next(going)
    assert handlers.stop_run(visit("early"))
    assert list(going) == [{tab.learn.line: STOPPED}]
    assert "nothing was learnt yet" in handler(tab, "ended")(STOPPED, two)[tab.learn.line]
    assert tab.learn.line not in handler(tab, "ended")("another line", two), "only after a stop"
    assert handler(tab, "ended")(STOPPED, None) == gr.skip()


def test_pictures_of_a_visitor_are_not_learnt_without_consent(tab: SimpleNamespace, files: dict[str, str]):
    own = last(look(tab, [files["picture_1"], files["picture_2"]]), tab.step1.chosen)
    with pytest.raises(gr.Error, match="tick that everybody in them is of age and agrees"):
        next(training(tab, "own", own))
    learnt = last(list(training(tab, "own", own, consent=True)), tab.step1.chosen)
    assert learnt.trained and not learnt.rendered and "identity" not in learnt.person.facts
    assert learnt.intake is own.intake, "the verdicts stay"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": " "}, "The name ' ' cannot be used"),
        ({"name": "<b>"}, "The name '&lt;b&gt;' cannot be used"),
        ({"seconds": None}, "The time for training is nothing"),
        ({"seconds": 301}, "The time for training is 301 s and this server gives 300 s at most"),
        ({"rank": 0}, "The rank is 0"),
        ({"rate": 1.0}, "The learning rate is 1.0"),
        ({"seed": 0.5}, "The seed is 0.5"),
    ],
)
def test_wrong_settings_get_one_sentence_before_anything_starts(
    tab: SimpleNamespace, two: Chosen, changed: dict, words: str
):
    with pytest.raises(gr.Error, match=re.escape(words)):
        next(training(tab, "wrong", two, **changed))


def test_nobody_and_pictures_without_a_face_cannot_be_learnt(tab: SimpleNamespace, files: dict[str, str]):
    with pytest.raises(gr.Error, match="There is nobody in step 1 yet"):
        next(training(tab, "nobody", None))
    black = last(look(tab, [files["black"]]), tab.step1.chosen)
    seen = []
    with pytest.raises(gr.Error, match="black.png is black"):
        for update in training(tab, "black", black, consent=True):
            seen.append(update)  # not a comprehension: what came before the error is kept
    assert "progress-line stopped" in shown(seen[-1:]), "the page does not look as if it went on"


# --- kept persons ----------------------------------------------------------------------------------------------


def test_persons_are_kept_for_one_visitor_until_the_page_closes(tab: SimpleNamespace, trained: Chosen):
    learn = tab.learn
    kept = handler(tab, "keep")(trained, "Ada", visit("mine"))
    score = portrait_step1.best_score(trained.person.facts)
    assert kept[learn.kept].choices == [(f"Ada · 2 pictures, similarity {score:.2f}", "Ada")]
    assert kept[learn.kept].value == "Ada" and kept[learn.bring].visible is kept[learn.delete].visible is True
    again = handler(tab, "keep")(trained, "Bea", visit("mine"))
    assert [name for _words, name in again[learn.kept].choices] == ["Ada", "Bea"]

    back = handler(tab, "bring")("Bea", visit("mine"))
    person = back[tab.step1.chosen].person
    assert (person.name, person.key) == ("Bea", trained.person.key) and back[tab.step1.chosen].identity == 11
    assert "Bea is back in step 1" in back[learn.line] and set(back) <= {*tab.step1.outputs, learn.line, learn.course}

    with pytest.raises(gr.Error, match="There is no saved person 'Bea'"):
        handler(tab, "bring")("Bea", visit("other"))
    left = handler(tab, "delete")("Ada", visit("mine"))
    assert [name for _words, name in left[learn.kept].choices] == ["Bea"]
    assert sorted(path.name for path in people_of("mine").iterdir()) == ["Bea.json", "Bea.safetensors"]
    nobody = handler(tab, "delete")("Bea", visit("mine"))
    assert nobody[learn.kept].choices == [] and nobody[learn.kept].visible is False
    handler(tab, "keep")(trained, "Ada", visit("mine"))
    folder = people_of("mine")
    handlers.forget_visitor(visit("mine"))
    assert not folder.exists()


def test_there_is_an_end_to_what_is_kept(tab: SimpleNamespace, trained: Chosen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portrait_learn, "MOST_KEPT", 1)
    keep = handler(tab, "keep")
    keep(trained, "Ada", visit("full"))
    keep(trained, "Ada", visit("full"))
    with pytest.raises(gr.Error, match="1 persons are kept already: download one and delete it first"):
        keep(trained, "Bea", visit("full"))


@pytest.mark.parametrize(("name", "words"), [("keep", "Nobody is trained yet"), ("packed", "Nobody is trained yet")])
def test_who_is_not_trained_is_neither_kept_nor_downloaded(tab: SimpleNamespace, two: Chosen, name: str, words: str):
    for chosen in (two, None):
        with pytest.raises(gr.Error, match=words):
            handler(tab, name)(chosen, "Ada", visit("nobody"))


def test_choosing_nobody_says_so(tab: SimpleNamespace):
    for name in ("bring", "delete"):
        with pytest.raises(gr.Error, match="Nobody is chosen: choose one of the kept persons"):
            handler(tab, name)(None, visit("nobody"))


def test_a_download_brings_the_person_back_on_another_day(tab: SimpleNamespace, trained: Chosen, tmp_path: Path):
    path = Path(handler(tab, "packed")(trained, "Ada Two", visit("today")))
    assert path.name == "Ada Two.zip"
    later = tmp_path / "Ada Two (1).zip"  # as browsers name a second copy
    later.write_bytes(path.read_bytes())
    back = handler(tab, "unpacked")(str(later))
    chosen = back[tab.step1.chosen]
    assert (chosen.name, chosen.person.key, chosen.identity) == ("Ada Two", trained.person.key, 11)
    assert back[tab.learn.drop] is None and chosen.key == back[tab.step1.key]
    assert "<b>Ada Two is trained:</b>" in back[tab.step1.shown]
    assert back[tab.step1.consent].visible is False, "a rendered person"
    later.write_text("x")
    with pytest.raises(gr.Error, match="This is no person that this studio saved"):
        handler(tab, "unpacked")(str(later))


def test_time_on_a_shared_gpu_is_shorter(two: Chosen):
    registry = SimpleNamespace(mode="zero")
    assert (
        portrait_learn.first_settings(registry, "full").seconds == portrait_learn.most_seconds(registry, "mini") == 80
    )
    with pytest.raises(ValueError, match="this server gives 80 s at most"):
        portrait_learn.within(registry, Training(seconds=81))


# --- the endpoint ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tab: SimpleNamespace) -> Iterator[str]:
    port = free_port()
    app.serve(tab.page, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    tab.page.close()


def test_the_endpoint_answers_with_a_person_and_its_facts(address: str, files: dict[str, str]):
    client = Client(address, verbose=False)
    info = client.view_api(return_format="dict")["named_endpoints"]["/train_person"]
    assert [p["parameter_name"] for p in info["parameters"]] == [
        "pictures",
        "name",
        "seconds",
        "seed",
        "consent",
        "model_set",
    ]
    assert [r["label"] for r in info["returns"]] == ["person", "facts"]
    sent = [handle_file(files[name]) for name in ("picture_1", "black", "text")]
    once = Path(files["picture_2"]).rename(Path(files["picture_2"]).with_name("sent_once.png"))
    sent.append(handle_file(once))
    path, told = client.predict(pictures=sent, name="Ada", seconds=3, seed=5, consent=True, api_name="/train_person")
    person = read_person(path, "mini")
    assert person.trained and person.name == "Ada" and len(person.crops) == 2
    used = {one["name"]: one["used"] for one in told["verdicts"]}
    assert used == {"picture_1.png": True, "black.png": False, "sent_once.png": True}
    assert "black" in told["verdicts"][1]["reason"] and "text.png was left out" in told["unreadable"][0]
    assert told["settings"]["seed"] == 5 and told["settings"]["seconds"] == 3
    assert told["best_step"] == person.facts["best_step"] <= told["steps"] and told["checks"] == person.facts["checks"]
    assert told["score"] == portrait_step1.best_score(person.facts) and told["seconds"] > 0
    assert "embeddings" not in told and "mean" not in told
    assert not list(Path(get_upload_folder()).rglob("sent_once.png")), "what was sent is deleted when it was read"
    once.rename(files["picture_2"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pictures": None}, "pictures are nothing (null) but must be a list of files"),
        ({"pictures": "a.png"}, "must be a list of files"),
        ({"pictures": []}, "0 pictures came: give 1 to 20"),
        ({"pictures": [7]}, "picture is 7 but must be a file"),
        ({"pictures": [{"path": "/etc/passwd"}]}, "no file that was sent here"),
        ({"name": "../Ada"}, "'../Ada' cannot be used"),
        ({"name": None}, "name is nothing (null) but must be a text"),
        ({"seconds": 0}, "time for training is 0 but must be"),
        ({"seconds": "60"}, "time for training is '60'"),
        ({"seconds": 3600}, "this server gives 300 s at most"),
        ({"seed": -1}, "seed is -1"),
        ({"consent": False}, "tick that everybody in them is of age and agrees"),
        ({"consent": "yes"}, "The consent is 'yes' but must be true or false"),
        ({"model_set": "full"}, "This server runs the model set mini, not full"),
        ({"model_set": ["mini"]}, "this server runs the model set mini"),
    ],
)
def test_wrong_input_gets_one_clear_sentence(address: str, files: dict[str, str], values: dict, words: str):
    with Path(files["picture_1"]).open("rb") as picture:
        sent = httpx.post(f"{address}/gradio_api/upload", files=[("files", picture)]).json()
    known = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
    given = {"pictures": known, "name": "Ada", "seconds": 5, "seed": 0, "consent": True, "model_set": "mini"} | values
    answer = httpx.post(f"{address}/gradio_api/call/train_person", json={"data": list(given.values())})
    stream = httpx.get(f"{address}/gradio_api/call/train_person/{answer.json()['event_id']}", timeout=120).text
    kind, told = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    text = json.loads(told)["error"]
    assert kind == "error" and words in text and text.endswith(".") and "\n" not in text and "Traceback" not in text


def test_what_training_says_fits_what_the_pipeline_writes(trained: Chosen):
    """`read_person` leaves out what it does not know: nothing of a real person may be lost."""
    assert people._tidy(trained.person.facts) == json.loads(json.dumps(trained.person.facts))
    assert tools.threshold() == toy_portrait.BAR


def test_what_is_said_of_a_trained_person_is_what_was_measured(monkeypatch):
    crops = numpy.zeros((1, 128, 128, 3), numpy.uint8)
    someone = Person("Ada", crops, numpy.zeros((1, 5, 2), numpy.float32), numpy.zeros((0, 0), numpy.float32))
    someone.adapter, someone.facts = {"layer": torch.zeros(1)}, {"model_set": "mini", "steps": 4, "best_step": 2}
    rows = portrait_step1.measured()["rows"]
    wanted = f"({rows['drawn']['identity']['mean']:.2f} instead of {rows['ours']['identity']['mean']:.2f} in our measured pairs)."
    assert wanted in portrait_step1.state_html(someone)
    monkeypatch.setattr(portrait_step1, "measured", dict)
    assert "has no need of it.</p>" in portrait_step1.state_html(someone)
