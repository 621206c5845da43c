"""Any state of a tab as an address: ``?tab=golden_noise&prompt=…&seed=7``, with what differs from how the tab begins.

The declared settings give the names and the checks, so a new paper has links by having a :class:`Link`. An address, and a PNG that
is dropped anywhere (``links.js``), find their tab by themselves, fill in its settings and run nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import gradio as gr
from gradio.events import Dependency

from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, explain
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.widgets import Made, progress_line
from pipelines.core import images, limits
from pipelines.core.settings import Field

PAGE = ("tab", "view", "present", "deep_link", "logs")
"""Names in an address that are the page's own; those that begin with an underscore are, too."""
NOTES_MOST = 3
"""Sentences about one link that are shown."""
LOADED = "() => { window.studioLoaded = true; window.studioOpen?.(); }"
"""Runs in the browser, where the page may have its old content before it has its scripts."""
LEFT = "What the tab begins with stands in its place."
LONGEST = 60_000
"""Characters of an address that are read: as many as the server takes."""


class Link:
    """The link of the result that a tab shows, and what opening one does. Makes its line in the layout that is open."""

    def __init__(self, slug: str, form: Form[Any], tab: str = "", opening: Made | None = None) -> None:
        """``tab``: what its PNG files call it, where that is not the slug; ``opening``: what the tab shows when it opens, where
        that is not made with what its form holds."""
        self.slug, self.form, self.tab = slug, form, tab or slug
        self.names: tuple[str, ...] = ()
        self.shown = gr.HTML(self.html(opening or Made(form.start)), padding=False, elem_classes="share-host")

    def bind(
        self,
        put: Callable[[Any, Mapping[str, str]], Mapping[Any, Any]],
        outputs: Sequence[gr.blocks.Block],
        line: gr.HTML,
        press: str = "Run",
        more: Sequence[str] = (),
        restore: Callable[[str], Any] | None = None,
    ) -> None:
        """Say what opening a link does.

        Args:
            put: the updates that put settings, and the texts of ``more`` that the link has, on the page; ``ValueError`` where
                one of the latter is wrong.
            outputs: what ``put`` and ``restore`` update.
            line: where it is said what to press.
            press: the words of the button that runs.
            restore: the updates for the path of a PNG of this tab; ``gr.Error`` where it is none.
        """
        self.put, self.line, self.press, self.restore = put, line, press, restore
        self.names, self.outputs = tuple(more), [*outputs, line]
        LINKS[self.slug] = self

    def address(self, made: Made) -> str:
        """The query of a result: the seed always, so that it is never empty; else only what differs."""
        start = self.form.start
        values = {name: getattr(made.settings, name) for name in start.fields()}
        differs = {name: one for name, one in values.items() if name == "seed" or one != getattr(start, name)}
        differs.pop("model_set", None)
        own = {"model_set": values["model_set"]} if values.get("model_set", "mini") != "mini" else {}
        named = {"tab": self.slug, **{name: written(one) for name, one in differs.items()}, **made.more, **own}
        return "?" + urlencode(named, quote_via=quote, safe=":,")

    def html(self, made: Made) -> str:
        """A link that a click copies (``links.js``)."""
        lacking = f" <span class='quiet'>{safe(made.lacking)}</span>" if made.lacking else ""
        return (
            f"<p class='share'><a class='copy-link' href='{safe(self.address(made))}'>Copy link</a>"
            f"<span class='copied' role='status'></span>{lacking}</p>"
        )

    def of(self, made: Made | None) -> dict[Any, Any]:
        """The update that shows the link of a result."""
        return {self.shown: "" if made is None else self.html(made)}

    def read(self, query: str) -> tuple[Any, dict[str, str], list[str]]:
        """(settings, what else the link says, a sentence for each value that was left out)."""
        given = dict(parse_qsl(query[:LONGEST].lstrip("?"), keep_blank_values=True))
        given = {name: one for name, one in given.items() if name not in PAGE and not name.startswith("_")}
        start, fields, notes = self.form.start, self.form.start.fields(), []
        values: dict[str, Any] = {}
        own, other = getattr(start, "model_set", None), given.pop("model_set", "mini")
        if own is not None and other != own:
            notes.append(f"The link is of the model set {limits.shown(other)}, and this server runs {own}.")
        more = {name: given.pop(name) for name in self.names if name in given}
        unknown = given.keys() - fields.keys()
        notes += [f"This tab has no setting {limits.described(name)}: it was left out." for name in sorted(unknown)]
        for name in (one for one in fields if one in given):
            try:
                values[name] = self._checked(name, fields[name], given[name])
            except ValueError as error:
                notes.append(f"{explain(error)} {LEFT}")
        values = self._together(values, notes)
        return dataclasses.replace(start, **values), more, notes

    def _together(self, values: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """``values`` without the one that the settings as a whole refuse."""
        start = self.form.start
        try:
            dataclasses.replace(start, **values).validated()
        except ValueError as error:
            for name in values:
                rest = {other: value for other, value in values.items() if other != name}
                with contextlib.suppress(ValueError):  # what a page begins with may lack a text that must be there
                    dataclasses.replace(start, **rest).validated()
                    notes.append(f"{explain(error)} {LEFT}")
                    return rest
        return values

    def opens(self, query: str) -> dict[Any, Any]:
        """The updates that fill in what an address says, and messages for what could not be taken."""
        settings, more, notes = self.read(query)
        try:
            updates = self.put(settings, more)
        except ValueError as error:
            notes.append(f"{explain(error)} {LEFT}")
            updates = self.put(settings, {})
        if notes:
            words = " ".join(notes[:NOTES_MOST])
            gr.Warning(safe(words, quotes=False), title="Not all of the link was taken")
        said = f"These settings came with a link: press {self.press} to see what they make."
        return {**updates, self.line: progress_line(said)}

    def _checked(self, name: str, field: Field, text: str) -> Any:
        """The value of a setting that is written in a link, within what the page offers."""
        value = field.check(parsed(field, text))
        if field.offered is not None:
            limits.number(field.name, value, *field.offered)
        choices = getattr(self.form.widgets.get(name), "choices", None)
        if field.kind == "choice" and choices:
            limits.choice(field.name, value, [key for _words, key in choices])
        return value


LINKS: dict[str, Link] = {}
"""By the tab's slug, of the page that was built last."""


def written(value: object) -> str:
    """A setting as a link writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def parsed(field: Field, text: str) -> object:
    """The other way round; what is no value of its kind stays a text, for the check to refuse."""
    if field.kind == "switch":
        return {"true": True, "false": False}.get(text, text)
    if field.kind in ("whole", "real"):
        try:
            return int(text) if field.kind == "whole" else float(text)
        except ValueError:
            return text
    return text


# --- the whole page --------------------------------------------------------------------------------------------------


def bind(papers: gr.Tabs, loaded: Dependency) -> None:
    """Bind addresses, the back button and files that are dropped anywhere, inside the page's ``with``, after everything else.

    Args:
        papers: the tabs of the papers, with their slugs as ids.
        loaded: the event after which the page shows what it showed before.
    """
    query = gr.Textbox(visible=False)
    # A tab has events of its own: one for all would touch the states of tabs that nobody asked for.
    for link in LINKS.values():
        button = gr.Button(visible="hidden", elem_id=f"studio-link-{link.slug}")
        opened = button.click(link.opens, query, link.outputs, js="() => [location.search]", **TALKS)
        _over(opened)
        if link.restore is not None:
            file = gr.File(visible="hidden", elem_id=f"studio-drop-{link.slug}", type="filepath")
            restored = file.upload(link.restore, file, link.outputs, **TALKS)
            _over(restored.then(lambda: None, None, file, **LIGHT))
            clear_on_refusal(file, restored)
    unknown = gr.Button(visible="hidden", elem_id="studio-link")
    _over(unknown.click(no_tab, query, None, js="() => [location.search]", **TALKS))
    dropped, slug = gr.File(visible="hidden", elem_id="studio-drop", type="filepath"), gr.Textbox(visible=False)
    named = dropped.upload(tab_of, dropped, slug, **TALKS)
    named.then(None, slug, None, js="(slug) => window.studioDropped(slug)", **LIGHT)
    named.then(lambda: None, None, dropped, **LIGHT)
    clear_on_refusal(dropped, named)
    _over(named)
    loaded.then(None, None, None, js=LOADED, **LIGHT)
    for tab in papers.children:
        assert isinstance(tab, gr.Tab)
        tab.select(None, None, None, js=f'() => window.studioTab?.("{tab.id}")', **LIGHT)


def _over(event: Dependency) -> None:
    """Let the page's runs start again when ``event`` has ended, however."""
    for ended in (event.then, event.failure):  # Gradio leaves `then` out where an event fails
        ended(None, None, None, js="() => window.studioOpened()", **LIGHT)


def no_tab(query: str) -> None:
    """Say that an address names no tab."""
    slug = dict(parse_qsl(query[:LONGEST].lstrip("?"))).get("tab", "")
    words = f"There is no tab {limits.described(slug)} that takes settings: choose one of {', '.join(LINKS)}."
    gr.Warning(safe(words, quotes=False), title="Link not opened")


def tab_of(path: str | None) -> str:
    """The slug of the tab that wrote a PNG.

    Raises:
        gr.Error: none did, in one sentence.
    """
    if path is None:
        return ""
    with errors_shown("Nothing was restored"):
        tab = images.read_settings(path)["tab"]
        link = next((one for one in LINKS.values() if tab == one.tab and one.restore is not None), None)
        if link is None:
            raise ValueError(f"This PNG is of the tab {limits.described(tab)}, which this page does not have.")
    return link.slug
