"""The MegaPortrait tab: a person goes into a reference portrait, in its pose, light, clothes and place, in three nets that can be watched."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.handlers import TALKS
from demos.core.hold import held
from demos.core.tabs import Tab
from demos.core.uploads import emptied, told
from demos.core.widgets import Entry, History, paper_card, progress_line
from demos.megaportrait import api, people, run
from demos.megaportrait import learn as portrait_learn
from demos.megaportrait import reference as portrait_reference
from demos.megaportrait import settings as portrait_settings
from demos.megaportrait import step1 as portrait_step1
from demos.megaportrait import view as portrait_view
from demos.megaportrait.files import SLUG, settings_inside
from demos.megaportrait.measured import measured_html
from pipelines.core.registry import Registry
from pipelines.megaportrait import PAPER, Cache, Settings, results
from pipelines.megaportrait import parts as megaportrait_parts
from pipelines.megaportrait import person as megaportrait_person
from pipelines.megaportrait.recipes import EXAMPLES
from pipelines.models import sdxl

HOW_IT_WORKS = """
You have a few pictures of a person and one portrait that you like: its pose, its light, its clothes, its place. **MegaPortrait** puts
the person into it. One model that does everything at once has to trade: the more it keeps the person, the less it takes from the
portrait. So the work is split into three nets that each do one thing, and one can see where something went wrong.

**Three nets, and a paste.**

1. *Identity Net.* The image model is fine-tuned on the person's pictures: small layers (a LoRA) beside its attention, and in the small
   model beside its convolutions too, learn what the person looks like. It begins with the person's picture that is turned most alike, bent onto the reference's face points, and paints it
   anew, led by ControlNets that see these points and the lines and colours of that beginning. Without training (*instant*) it does the
   same without these layers. How much each adds stands under *Measured figures*.
2. *Shading Net.* The painted face is rendered anew: its structure comes from step 1, its light from the reference. First the smooth part
   of the light is moved over by arithmetic, from skin to skin, then ControlNets for lines and for light paint it.
3. *Paste.* The shaded face is laid into the reference. No network. That is where the seams come from.
4. *Harmonization Net.* Only a ring around the face is painted anew, until face and body are one picture. Before, the paste's own edge is
   taken out of the ring by arithmetic (gradient-domain blending). Of what the small model then changes, only the smooth part is taken, its
   colours and its light: its grain would draw an edge of its own. The middle of the face is mixed back in afterwards, so that the person
   stays the person.

Every pixel outside the mask is the reference's own, to the last bit, at its own size and with its transparency. The file is a PNG of 8 bits
a channel in sRGB, without what the reference's file said of its owner, place and camera; whatever else that file has and a result cannot is
named beside it. Where the reference is black and white, grainy, soft, pale, faded, of a strong cast or strongly compressed, the person is made
so, and the notes say it.

**What this is not.** Of the paper only the abstract is public to us: three nets, ControlNets, fine-tuning, paste, harmonise. **This is an
unofficial re-creation; the settings are ours**, found by measuring, after EasyPhoto and FaceChain where these say a number. No figure
here is the paper's. And it is another work than **MegaPortraits** (with an s, 2022), which animates heads.

**What is measured, and how to read it.**

- *Similarity to the person*: a network that was taught to tell people apart compares the result with the person's pictures. A number
  alone says little, so two stand beside it: how alike the reference was before, and how alike the person's pictures are among
  themselves. From the *bar* on, two pictures are taken for one person.
- *Outside the mask* must be 0: nothing else was touched.
- *Seam* and *colours at the ring* are the jump at the border, beyond what the reference itself had there.
- *Light on the face* says how well bright and dark agree with the reference's, on the skin that both show.
- *Against the truth*: of rendered people it is known what a perfect result shows, because the same person can be rendered in the
  reference's pose and light. Of photographs nobody knows.

**What to keep in mind.** Side views, glasses at the mask's border, hats and hands before the face are hard. Hair is replaced with the head, so
the background behind it is invented. The small models have seen nothing but our rendered people: of a photograph they find the place of
the face and paste it, but what they paint is a rendered head, and they cannot say who it is.

**Consent.** Put nobody into a picture who does not want that, no minors, and do not pass a result off as a photograph. The tick above is
asked for whenever a picture may show a real person. Results carry a note, in the words of the IPTC, that a trained model made them;
pictures and what was learnt from them stay on this server until a day after your last visit, for your browser only; you can delete a saved
person, or all of your work, at any time.
"""
FROM_PYTHON = """
The tab has two public endpoints, `/train_person` and `/portrait`. The same seed gives the same pictures on the same machine.

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
pictures = [handle_file("person_1.png"), handle_file("person_2.png")]
agreed = {"consent": True, "model_set": "{model_set}"}  # everybody in the pictures is of age and agrees
person, learnt = client.predict(pictures=pictures, name="Ada", seconds=60, seed=0, **agreed, api_name="/train_person")
result, facts = client.predict(
    person=handle_file(person),  # or pictures=pictures, with mode="instant"
    reference=handle_file("reference.png"),
    mode="trained",
    seed=0,
    candidates=2,  # the one most like the person comes back
    **agreed,
    api_name="/portrait",
)
print(result, facts["candidates"][0]["metrics"]["identity"]["result"], facts["notes"])
```

Without a server, from a checkout, with a rendered person, a rendered reference and their truth:

```python
from pipelines import megaportrait, portrait_person
from pipelines.core.lane import run_blocking
from pipelines.megaportrait import Recipe, Request, Settings
from pipelines.megaportrait.person import Training
from pipelines.core.registry import from_environment

registry, recipe = from_environment(), Recipe(person=11, reference=203)
person = run_blocking(
    portrait_person.train_person, registry, recipe.pictures(), Training(seconds=60), "Ada", rendered=True
)
request = Request(recipe.picture(), person, settings=Settings(seed=0), truth=recipe.truth(), rendered=True)
outcome = run_blocking(megaportrait.portrait, registry, request, limit_s=900)
results.save_result(outcome, "portrait.png")
print(outcome.best.identity, outcome.best.metrics["landmark_error"])
```
"""
UNOFFICIAL = "An unofficial re-creation from the abstract; the settings are ours."


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    registry.declare(*megaportrait_parts.specs(model_set), *megaportrait_parts.look_specs(model_set, "instant"))
    paper_card(PAPER)
    fetched = megaportrait_parts.download(model_set)
    if fetched:
        gr.HTML(f"<p class='remark'>{safe(sdxl.BASES[model_set].title)}: {safe(fetched)}.</p>", padding=False)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as parts:
        with gr.Tab("Make a portrait", id="portrait", render_children=True):
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Examples: one click makes a portrait</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    chips = [gr.Button(recipe.title, size="sm", elem_classes="example") for recipe in EXAMPLES]
            with gr.Row(equal_height=False, elem_classes="portrait-steps"):
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    step1 = portrait_step1.build(model_set)
                    learn = portrait_learn.build(registry, model_set, step1)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    step2 = portrait_reference.build(model_set)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    controls = portrait_settings.build(model_set, _licence(model_set), fixed=registry.mode == "zero")
            with gr.Column(elem_classes="studio-results"):
                view = portrait_view.build()
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(results.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History()
    with gr.Accordion("How it works", open=False):
        gr.Markdown(HOW_IT_WORKS, elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False):
        gr.Markdown(from_python(model_set), elem_classes="reading")

    portrait_learn.bind(registry, model_set, step1, learn)
    portrait_reference.bind(registry, model_set, step2, controls.region)
    run.bind(registry, model_set, cache, step1, step2, controls, view, history, chips)

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        put: dict[Any, Any] = {}
        with told("Nothing was restored"):
            inside = settings_inside(path)
            if inside.recipe is not None:
                person = people.roll_person(inside.recipe.person)
                reference = people.roll_reference(inside.recipe.reference)
                put = {**step1.load(person), **step2.load(reference, inside.face, inside.box)}
        settings, words = inside.settings, f"Settings restored. {inside.next_step()}"
        if settings.model_set != model_set:
            own = Settings.of(model_set)
            names = ("identity_steps", "shading_steps", "harmonise_steps", "region")
            settings = dataclasses.replace(settings, **{name: getattr(own, name) for name in names})
            words += f" Steps and region are those of this page’s model set, not of {inside.settings.model_set}."
        gr.Info(words, title="Restored")
        return {**put, **controls.restored(settings, model_set), controls.drop: None}

    def bring_back(entries: list[Entry], event: gr.SelectData) -> Any:
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        shown = entries[event.index].outcome
        person = {} if shown.chosen is None else step1.load(shown.chosen)
        return {
            **person, **step2.load(shown.reference, shown.face, shown.box), **controls.restored(shown.outcome.settings, model_set),
            **view.show(shown), view.line: progress_line("Brought back from your results", 1.0, "done"),
            parts: gr.Tabs(selected="portrait"),
        }  # fmt: skip

    put = [*step1.outputs, *step2.outputs, *controls.outputs]
    emptied(controls.drop, held(SLUG, controls.drop.upload, restore, controls.drop, [*put, controls.drop], **TALKS))
    held(SLUG, history.gallery.select, bring_back, history.entries, [*put, *view.outputs, parts], **TALKS)
    portrait_learn.build_api(registry, model_set)
    api.build(registry, model_set)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    base = sdxl.BASES[model_set]
    licences = dict.fromkeys(spec.licence for spec in megaportrait_parts.specs(model_set))
    return f"<p class='quiet licence'>{safe(base.title)}; {safe(', '.join(licences))}. {UNOFFICIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return FROM_PYTHON.replace("{model_set}", model_set)


# Without its models the tab is not shown.
if megaportrait_person.shipped():
    TAB = Tab(results.TAB, SLUG, 30, build, PAPER)
