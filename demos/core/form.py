"""Widgets of declared settings, and the settings that they hold: what a run is given is never a row of loose values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import gradio as gr

from pipelines.core.settings import Declared, Field

S = TypeVar("S", bound=Declared)


def widget(field: Field, value: object, **how: object) -> gr.components.Component:
    """The widget that fits a setting; ``how`` overrides what is declared (label, info, elem_classes and so on)."""
    given: dict[str, Any] = {"label": field.label, "value": value, "info": field.info, **how}
    if field.kind == "choice":
        options = field.options
        pairs = [(words, key) for key, words in options.items()] if isinstance(options, Mapping) else list(options)
        return (gr.Dropdown if field.listed else gr.Radio)(**{"choices": pairs, **given})
    if field.kind == "switch":
        return gr.Checkbox(**given)
    if field.kind == "text":
        return gr.Textbox(**{"lines": 3, "max_lines": 6, **given})
    if field.high > 10**6:
        return gr.Number(**{"precision": 0, "min_width": 110, **given})
    low, high = field.offered or field.range
    return gr.Slider(**{"minimum": low, "maximum": high, "step": field.step, **given})


@dataclasses.dataclass(eq=False)
class Form(Generic[S]):
    """Widgets by the names of their settings. ``start`` has the values of those that have none."""

    start: S
    widgets: dict[str, gr.components.Component] = dataclasses.field(default_factory=dict)
    makes: Mapping[str, Callable[[Field, Any], gr.components.Component]] = dataclasses.field(default_factory=dict)
    """Setting -> what makes its widget, where that is not :func:`widget`."""

    def add(self, *names: str, **how: object) -> Any:
        """Make the widgets of ``names`` here, in the layout that is open; the one that was made, or a list of them."""
        made = []
        for name in names:
            field, value = self.start.field(name), getattr(self.start, name)
            made.append(self.makes[name](field, value) if name in self.makes else widget(field, value, **how))
        self.widgets |= dict(zip(names, made, strict=True))
        return made[0] if len(made) == 1 else made

    def __getitem__(self, name: str) -> Any:  # whichever widget the field has, with its own events
        return self.widgets[name]

    @property
    def outputs(self) -> list[gr.components.Component]:
        return list(self.widgets.values())

    def settings(self, values: Mapping[str, Any], **more: object) -> S:
        """The checked settings on the page, from what an event gives its handler by name: bind it with
        ``inputs_kwargs=form.widgets`` and let it take ``**values``. ``more`` comes in place of what has no widget."""
        return dataclasses.replace(self.start, **values, **more).validated()

    def updates(self, settings: Declared) -> dict[Any, Any]:
        """The updates that put ``settings`` on the page."""
        return {made: getattr(settings, name) for name, made in self.widgets.items()}
