"""Step 1 of the MegaPortrait tab, its second half: a person is learnt, kept, taken along, and brought back."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.endpoint import FILES, FLAG, MODEL_SET, TEXT, Endpoint, Parameter, parameters_of, publish
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import BROKE, LIGHT, TALKS, halt, on_gpu, workspace
from demos.core.hold import STARTS, held
from demos.core.page import drop_zone, pump, run_event, run_row
from demos.core.uploads import clear_on_refusal, download, errors_shown
from demos.core.visitors import new_folder, visitor
from demos.core.widgets import progress_line
from demos.megaportrait import people
from demos.megaportrait.files import SLUG
from demos.megaportrait.people import Chosen
from demos.megaportrait.shown import lesson_html
from demos.megaportrait.step1 import NOBODY, Step1, best_score, forget_uploads, read_uploads, thumbnail
from demos.megaportrait.step1 import bind as look_at_uploads
from pipelines.core.lane import Result, live, stream
from pipelines.core.registry import Registry
from pipelines.megaportrait import checks, tools
from pipelines.megaportrait import person as persons
from pipelines.megaportrait.intake import Intake, look_at
from pipelines.megaportrait.learn import Checkpoint, Lesson, Training, train_person
from pipelines.megaportrait.person import Person, checked_name

MOST_SECONDS = {"mini": 300, "full": 1800}
"""Longest training that this server runs for anybody: everybody else waits meanwhile."""
ZERO_SECONDS = 80.0
"""The same on ZeroGPU, where a call may take 120 s in all."""
BESIDE_S = 600.0
"""Time of a run beside the training itself: faces, captions, the first validation pictures."""
MOST_KEPT = 10
"""Persons that a visitor may keep at a time."""
DRAWN = 4
"""Checks of which the validation pictures are shown."""
STOPPED = progress_line("Stopped.", 0.0, "stopped")
KEEP = (
    "What you keep is yours alone: it lies on the machine that serves this page and is deleted a day after your last visit, or when you say so. "
    "Download a person to bring it back on another day; the server’s copy of the download is deleted within a day or so."
)
API = "train_person"


@dataclasses.dataclass(frozen=True)
class Learn:
    """The widgets of training and of kept persons."""

    run: gr.Button
    stop: gr.Button
    line: gr.HTML
    """How far it is; also of the looking at pictures."""
    course: gr.HTML
    """Curves and validation pictures."""
    form: Form[Training]
    keep: gr.Button
    save: gr.Button
    kept: gr.Radio
    bring: gr.Button
    delete: gr.Button
    drop: gr.File


def build(registry: Registry, model_set: str) -> Learn:
    """The widgets; ``bind`` makes them work."""
    start, most = first_settings(registry, model_set), most_seconds(registry, model_set)
    run, stop = run_row("Train this person", kind=STARTS)
    line = gr.HTML(progress_line(f"Training takes about {start.seconds:.0f} s."), padding=False)
    course = gr.HTML(padding=False)
    form = Form(start)
    with gr.Accordion("Training settings", open=False):
        form.add("seconds", minimum=5, maximum=most)
        form.add("rank")
        with gr.Row():
            rate = start.field("rate")
            assert rate.step is not None
            form.widgets["rate"] = gr.Number(start.rate, label=rate.label, step=rate.step, min_width=110)
            form.add("seed", label="Training seed")
        form.add("steps", "batch", "checks")
    with gr.Accordion("Keep, download, bring back", open=False):
        gr.HTML(f"<p class='quiet'>{KEEP}</p>", padding=False)
        with gr.Row(elem_classes="saves-row"):
            keep = gr.Button("Keep this person", size="md", min_width=120)
            save = gr.Button("Download person", size="md", min_width=120)
        kept = gr.Radio([], label="Kept persons", visible=False, elem_classes="sources")
        with gr.Row(elem_classes="saves-row"):
            bring = gr.Button("Put into step 1", size="md", min_width=120, visible=False)
            delete = gr.Button("Delete", size="md", min_width=120, visible=False)
        drop = drop_zone("Bring a person back: drop its zip", "megaportrait-person", ".zip")
    return Learn(run, stop, line, course, form, keep, save, kept, bring, delete, drop)


def bind(registry: Registry, model_set: str, step1: Step1, learn: Learn) -> None:
    """Tie the buttons of step 1 to what they do."""
    look_at_uploads(registry, model_set, step1, learn.line)

    def train_this_person(
        session: str, chosen: Chosen | None, name: str, consent: bool, **values: object
    ) -> Iterator[Any]:
        if chosen is None:
            raise ValueError(NOBODY)
        settings = within(registry, learn.form.settings(values))
        name = checked_name(name)
        if not chosen.rendered and not consent:
            raise ValueError(checks.NO_CONSENT)
        yield {learn.line: progress_line("Starting…", 0.0, "running"), learn.course: ""}
        lessons, run = [], secrets.token_hex(4)

        def learnt(person: Person) -> Chosen:
            return chosen.learnt(marked(person, chosen), run)

        def show(lesson: Lesson) -> dict[Any, Any]:
            lessons.append(lesson)
            return {learn.course: course_html(lessons)}

        def done(person: Person, seconds: float) -> dict[Any, Any]:
            new = learnt(person)
            text = f"{new.name} is trained: {person.facts['steps']} steps in {seconds:.0f} s"
            return {**step1.learnt(new), learn.line: progress_line(text, 1.0, "done")}

        # Whoever stops now keeps the last checkpoint.
        shows = {Lesson: show, Checkpoint: lambda best: step1.learnt(learnt(best.person))}
        about = (name, chosen.rendered, bool(consent))
        limit_s = settings.seconds + BESIDE_S
        items = live(train_person, registry, list(chosen.pictures), settings, *about, limit_s=limit_s)
        yield from pump(items, learn.line, done, shows, digits=0)

    def ended(text: str, chosen: Chosen | None) -> Any:
        """The page as the run has left it, whatever was rolled meanwhile; after a stop, what is kept of the run."""
        if chosen is None:
            return gr.skip()
        updates = {widget: value for widget, value in step1.load(chosen).items() if widget is not step1.name}
        if text == STOPPED:
            words = "Stopped before the first check: nothing was learnt yet."
            if chosen.trained and chosen.person is not None:
                words = f"Stopped. {chosen.name} is kept as at the best check so far, step {chosen.person.facts['best_step']}."
            updates[learn.line] = progress_line(words, 0.0, "stopped")
        return updates

    guarded = on_gpu(
        train_this_person, stopped={learn.line: STOPPED}, broken={learn.line: progress_line(BROKE, 0.0, "stopped")}
    )
    asked, updated = [step1.chosen, step1.name, step1.consent], [learn.line, learn.course, *step1.memory]
    event = run_event(guarded, *updated, inputs=asked, **learn.form.widgets)
    learn.run.click(**{**event, "trigger_mode": "once"}).then(
        ended, [learn.line, step1.chosen], [learn.line, *step1.outputs], **LIGHT
    )
    learn.stop.click(halt, **LIGHT)
    Shelf(model_set, step1, learn).bind()


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Keeping, downloading and bringing back."""

    model_set: str
    step1: Step1
    learn: Learn

    def bind(self) -> None:
        """Tie the buttons to what they do."""
        step1, learn = self.step1, self.learn
        shelves = [learn.kept, learn.bring, learn.delete]
        learn.keep.click(self.keep, [step1.chosen, step1.name], shelves, **TALKS)
        learn.delete.click(self.delete, learn.kept, shelves, **TALKS)
        there = [*step1.outputs, learn.line, learn.course]
        held(SLUG, learn.bring.click, self.bring, learn.kept, there, **TALKS)
        download(learn.save, packed, [step1.chosen, step1.name])
        dropped = held(SLUG, learn.drop.upload, self.unpacked, learn.drop, [*there, learn.drop], **TALKS)
        clear_on_refusal(learn.drop, dropped)

    def keep(self, chosen: Chosen | None, name: str, request: gr.Request) -> dict[Any, Any]:
        """Keep who is in step 1."""
        with errors_shown("Nobody was kept"):
            person, folder = trained(chosen, name), people_of(visitor(request))
            there = [row["name"] for row in persons.listed(folder)]
            if person.name not in there and len(there) >= MOST_KEPT:
                raise ValueError(f"{MOST_KEPT} persons are kept already: download one and delete it first.")
            persons.save(person, folder)
        again = f"{person.name} was kept anew."
        words = again if person.name in there else f"{person.name} is kept until a day after your last visit."
        gr.Info(words, title="Kept")
        return self.kept(visitor(request), person.name)

    def kept(self, session: str, marked: str | None = None) -> dict[Any, Any]:
        """The updates that list a visitor's persons."""
        learn, rows = self.learn, persons.listed(people_of(session))
        names = [row["name"] for row in rows]
        marked = marked if marked in names else (names[0] if names else None)
        return {
            learn.kept: gr.Radio([(row_words(row), row["name"]) for row in rows], value=marked, visible=bool(rows)),
            learn.bring: gr.Button(visible=bool(rows)),
            learn.delete: gr.Button(visible=bool(rows)),
        }

    def bring(self, name: str | None, request: gr.Request) -> dict[Any, Any]:
        """Put a kept person into step 1."""
        with errors_shown("Nobody was brought back"):
            if name is None:
                raise ValueError("Nobody is chosen: choose one of the kept persons.")
            person = persons.load(people_of(visitor(request)), name)
        return self.put(person)

    def put(self, person: Person) -> dict[Any, Any]:
        """The updates that put a person into step 1."""
        words = progress_line(f"{person.name} is back in step 1.", 1.0, "done")
        return {**self.step1.load(people.chosen_of(person)), self.learn.line: words, self.learn.course: ""}

    def delete(self, name: str | None, request: gr.Request) -> dict[Any, Any]:
        """Delete a kept person."""
        with errors_shown("Nobody was deleted"):
            if name is None or not persons.delete(people_of(visitor(request)), name):
                raise ValueError("Nobody is chosen: choose one of the kept persons.")
        gr.Info(f"Both files of {safe(name)} are deleted.", title="Deleted")
        return self.kept(visitor(request))

    def unpacked(self, path: str | None) -> Any:
        """Take a person's zip."""
        if path is None:
            return gr.skip()
        with errors_shown("This person was not taken"):
            try:
                person = people.read_person(path, self.model_set)
            finally:
                forget_uploads([path])
        return {**self.put(person), self.learn.drop: None}


def packed(chosen: Chosen | None, name: str, request: gr.Request) -> str:
    """The zip of who is in step 1."""
    with errors_shown("There is nobody to download"):
        with new_folder(visitor(request)) as folder:
            return str(people.person_file(trained(chosen, name), folder))


# --- settings ---------------------------------------------------------------------------------------------------


def most_seconds(registry: Registry, model_set: str) -> float:
    """Longest training here; on ZeroGPU a call's time ends before."""
    return min(MOST_SECONDS[model_set], ZERO_SECONDS) if registry.mode == "zero" else MOST_SECONDS[model_set]


def first_settings(registry: Registry, model_set: str) -> Training:
    """What the widgets hold at first."""
    start = Training.of(model_set)
    return dataclasses.replace(start, seconds=min(start.seconds, most_seconds(registry, model_set)))


def within(registry: Registry, settings: Training) -> Training:
    """Checked settings that this server runs.

    Raises:
        ValueError: one sentence that says what came, what was wanted and what to do.
    """
    settings, most = settings.validated(), most_seconds(registry, settings.model_set)
    if settings.seconds > most:
        raise ValueError(
            f"The time for training is {settings.seconds:g} s and this server gives {most:g} s at most: choose less."
        )
    return settings


# --- small things -----------------------------------------------------------------------------------------------


def people_of(session: str) -> Path:
    """This visitor's folder of kept persons; gone with the page."""
    folder = workspace(session) / "people"
    folder.mkdir(exist_ok=True)
    return folder


def marked(person: Person, chosen: Chosen) -> Person:
    """The person with the seed that it was rendered from, which its files then hold."""
    if chosen.identity is None:
        return person
    return dataclasses.replace(person, facts={**person.facts, "identity": chosen.identity})


def trained(chosen: Chosen | None, name: str) -> Person:
    """Who is in step 1, under the name in the field.

    Raises:
        ValueError: nobody was trained, or the name cannot be one.
    """
    if chosen is None or chosen.person is None or not chosen.person.trained:
        raise ValueError("Nobody is trained yet: press “Train this person” first.")
    return dataclasses.replace(chosen.person, name=checked_name(name))


def row_words(row: dict[str, Any]) -> str:
    """A kept person in the list."""
    score = best_score(row | {"checks": row["checks"] or ()})
    alike = "" if score is None else f", similarity {score:.2f}"
    return f"{row['name']} · {row['pictures']} {'picture' if row['pictures'] == 1 else 'pictures'}{alike}"


def course_html(lessons: Sequence[Lesson]) -> str:
    """Curves, and what the model drew at the last checks."""
    told = "".join(
        f"<li><img src='{thumbnail(one.picture, 256)}' alt=''><span>{safe(drawn_words(one))}</span></li>"
        for one in lessons[-DRAWN:]
    )
    return (
        f"{lesson_html(lessons, tools.threshold())}<div class='megaportrait-drawn'><h3>Drawn at the last checks</h3>"
        f"<ul>{told}</ul><p class='quiet'>Always the same two, begun with the same noise.</p></div>"
    )


def drawn_words(lesson: Lesson) -> str:
    alike = "" if lesson.score is None else f", similarity {lesson.score:.2f}"
    return f"Step {lesson.step}{alike}{', the best so far' if lesson.best else ''}"


# --- the endpoint -----------------------------------------------------------------------------------------------


def build_api(registry: Registry, model_set: str) -> None:
    """The public endpoint."""
    start = first_settings(registry, model_set)

    def answer(session: str, pictures: list[Path], name: str, consent: bool, **asked: Any) -> Iterator[Any]:
        settings = within(registry, dataclasses.replace(start, **asked))
        name = checked_name(name)
        if not consent:
            raise ValueError(checks.NO_CONSENT)
        own, refusals = read_uploads(pictures, model_set)
        intake: Intake | None = None
        for item in stream(look_at, registry, list(own), model_set, limit_s=BESIDE_S):
            if isinstance(item, Result):
                intake = item.value
            yield gr.skip()
        work = (train_person, registry, list(own), settings, name, False, True)
        for item in stream(*work, limit_s=settings.seconds + BESIDE_S):
            if isinstance(item, Result):
                assert intake is not None
                with new_folder(session) as folder:
                    path = people.person_file(item.value, folder)
                yield str(path), facts_of(item.value, intake, refusals)
            else:
                yield gr.skip()

    parameters = (
        Parameter("pictures", FILES, required=True),
        Parameter("name", TEXT, "person"),
        *parameters_of(start, "seconds", "seed"),
        Parameter("consent", FLAG, False),
        MODEL_SET,
    )
    description = (
        "A person learnt from 1 to 20 pictures. pictures: a list of files; consent: true says that everybody in them is of age "
        "and agrees. The zip that comes back is what /portrait takes as its person; it holds crops of the pictures, so treat it like them; the server deletes its copy after a day. "
        f"Limits: seconds {start.field('seconds').low:g} to {most_seconds(registry, model_set):g}, {start.field('seed').limits_in_words('seed')}."
    )
    publish(Endpoint(API, parameters, (("file", "person"), ("json", "facts")), description), answer, model_set)


def facts_of(person: Person, intake: Intake, refusals: Sequence[str] = ()) -> dict[str, Any]:
    """What ``/train_person`` tells of a person; JSON-able, without pictures and embeddings."""
    verdicts = [
        {"name": one.name, "used": one.used, "reason": one.reason, "notes": list(one.notes)} for one in intake.verdicts
    ]
    known = ("model_set", "attributes", "settings", "checks", "score_before", "best_step", "steps", "seconds")
    return {
        "name": person.name,
        "verdicts": verdicts,
        "remarks": intake.remarks,
        "unreadable": list(refusals),
        **{name: person.facts[name] for name in known},
        "score": best_score(person.facts),
    }
