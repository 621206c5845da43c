"""A picture in place of a prompt: it is rolled or dropped, inverted into ten tokens, and put among the prompts as "picture 1"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.endpoint import FILE, Endpoint, Parameter, parameters_of, publish
from demos.core.form import Form
from demos.core.handlers import LIGHT, halt, on_gpu
from demos.core.hold import STARTS
from demos.core.page import Files, Widgets, drop_zone, ends, picture, pump, run_event, run_row
from demos.core.roll import roll_row, rolls_into
from demos.core.visitors import new_folder
from demos.core.widgets import progress_line
from pipelines.core import images
from pipelines.core.lane import Result, live
from pipelines.core.registry import Registry
from pipelines.prospect import PICTURES_MOST, inversion, tokens
from pipelines.prospect.inversion import InversionSettings, Inverted, Look

SLUG, API = "prospect", "invert_picture"
LIMIT_S = 3600.0
KIND = ".safetensors"
INTRO = (
    "<p class='quiet'>A picture is read into ten token embeddings, one a stage of denoising; nothing else is trained. It becomes a line of the "
    "prompts, “picture 1”, so that its layout can be taken from it and the colours from another one. A minute or two on a CPU. The file that comes of it lies among the inverted pictures: click its size to save it, drop it there to have it back.</p>"
)
NONE = "There is no picture yet: roll a scene, or drop a PNG, JPEG or WebP."
ABOUT = "The ten token embeddings of a picture, one a stage of denoising, as a file that /prospect takes among its pictures, and what they draw."


def came(model_set: str) -> Files:
    """The files of tokens that may come with a run."""

    def read(paths: Sequence[str]) -> list[tokens.Tokens]:
        if len(paths) > PICTURES_MOST:
            raise ValueError(
                f"There are {len(paths)} files of tokens and at most {PICTURES_MOST} are read: leave some out."
            )
        return [tokens.read(path, model_set) for path in paths]

    return Files("Inverted pictures (.safetensors)", KIND, read)


def build(registry: Registry, model_set: str, page: Widgets) -> None:
    """The fold; what is inverted goes to the files and the prompts of ``page``."""
    own = Form(InversionSettings.of(model_set))
    files, prompts = page.brought["pictures"], page.asked["prompts"]
    with gr.Accordion("A picture in place of a prompt", open=False, elem_classes="invert"):
        gr.HTML(INTRO, padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                row = roll_row()
                source = drop_zone("Or a picture: PNG, JPEG or WebP", "brought", "image")
                own.add(*(["start"] if model_set == "mini" else []), "learn_steps", "seed")
                run, stop = run_row("Invert the picture", "Stop inverting", "invert-row", kind=STARTS)
            with gr.Column(scale=7, min_width=320, elem_classes="sheets"):
                line = gr.HTML(
                    progress_line("Take a picture, then press Invert."), padding=False, elem_classes="invert-line"
                )
                shown = picture("The picture, and what its tokens draw", "inverted")

    def prospect_invert(
        session: str, source: str | None, kept: list[str] | None, said: str, **values: object
    ) -> Iterator[Any]:
        if source is None:
            raise ValueError(NONE)
        settings, image, kept = own.settings(values), images.open_picture(source), kept or []
        if len(kept) >= PICTURES_MOST:
            raise ValueError(f"There are tokens of {len(kept)} pictures, the most that are kept: remove one first.")
        yield {line: progress_line("Starting…", 0.0, "running")}

        def done(made: Inverted, seconds: float) -> dict[Any, Any]:
            name = f"picture {len(kept) + 1}"
            lines = [one for one in said.splitlines() if one.strip()]
            told = lines if name in lines else [*lines, name]
            path, _ = write(made, session, name)
            words = progress_line(f"Done in {seconds:.0f} s: {name} is among the prompts", 1.0, "done")
            return {line: words, shown: made.drawn, files: [*kept, path], prompts: "\n".join(told)}

        items = live(inversion.invert, registry, settings, image, limit_s=LIMIT_S)
        yield from pump(items, line, done, {Look: lambda look: {shown: look.drawn}}, digits=0)

    rolls_into(SLUG, row, source)
    handler = on_gpu(prospect_invert, **ends(line, "Stopped. Nothing was kept."))
    named = {**own.widgets, "source": source, "kept": files, "said": prompts}
    run.click(**run_event(handler, line, shown, files, prompts, **named))
    stop.click(halt, **LIGHT)
    program(registry, own)


def write(made: Inverted, session: str, name: str) -> tuple[str, str]:
    """The files of the tokens and of what they draw."""
    with new_folder(session) as folder:
        record = {"learn_steps": made.settings.learn_steps, "seed": made.settings.seed}
        stem = name.replace(" ", "_")
        drawn = images.save_png(made.drawn, folder / f"{stem}.png", record, tab=API)
        return str(tokens.write(made.tokens, Path(folder) / f"{stem}{KIND}")), str(drawn)


def program(registry: Registry, own: Form[InversionSettings]) -> None:
    """The public endpoint."""
    start = own.start
    words = start.limits_in_words([name for name in start.fields() if name != "model_set"])
    outputs = (("file", "tokens"), ("file", "drawn"), ("json", "measurements"))
    taken = (Parameter("picture", FILE, required=True), *parameters_of(start))

    def answer(session: str, picture: Path, **asked: object) -> Iterator[Any]:
        image, settings = images.open_picture(picture), own.settings(asked)
        for item in live(inversion.invert, registry, settings, image, limit_s=LIMIT_S):
            made = item.value if isinstance(item, Result) else None
            yield gr.skip() if made is None else (*write(made, session, "picture"), made.measurements)

    publish(Endpoint(API, taken, outputs, f"{ABOUT} {words}"), answer, start.model_set)
