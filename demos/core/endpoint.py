"""The public endpoints: what one takes and answers with is declared once, and each is made by :func:`publish`.

So no endpoint can forget what all must do, before any work and in this order: it refuses another model set than the
server's, it checks the type of every value, and it reads files only from among those that the visitor sent. A handler
gets values of the declared types, files as paths, and no model set to pass on. Ranges are the settings' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio.data_classes import FileData, ListFiles

from demos.core.handlers import GPU, on_gpu
from demos.core.uploads import uploaded_path
from pipelines.core import limits
from pipelines.core.settings import Declared
from pipelines.models.sdxl import BASES


@dataclass(frozen=True)
class Kind:
    """A type of value."""

    noun: str
    """What a value must be, for the sentence that refuses another: "a text"."""
    schema: Mapping[str, Any]
    """JSON schema."""
    types: tuple[type, ...]
    do: str = "send one"


TEXT = Kind("a text", {"type": "string"}, (str,))
WHOLE = Kind("a whole number", {"type": "integer"}, (int, float))
NUMBER = Kind("a number", {"type": "number"}, (int, float))
FLAG = Kind("true or false", {"type": "boolean"}, (bool,), "send one of the two")
TEXT_OR_LIST = Kind("a text or a list", {}, (str, list, dict))  # a dictionary: one block of a text
TABLE = Kind("a dictionary of names and numbers", {"type": "object"}, (dict,))
SETTINGS = Kind("a dictionary of settings by their names", {"type": "object"}, (dict,))
FILE = Kind("a file", FileData.model_json_schema(), (dict,))
FILES = Kind("a list of files", ListFiles.model_json_schema(), (list,))

OUTPUTS: dict[str, Callable[[str], gr.components.Component]] = {
    "file": lambda label: gr.File(visible=False, label=label),
    "json": lambda label: gr.JSON(visible=False, label=label),
    "text": lambda label: gr.Textbox(visible=False, label=label),
}


@dataclass(frozen=True)
class Parameter:
    """One value that an endpoint takes."""

    name: str
    kind: Kind
    default: Any = None
    """What the API page shows, and what is taken where a program leaves it out."""
    required: bool = False
    optional: bool = False
    """None may come instead."""
    words: str = ""
    """What its sentences call it; else its name."""
    later: bool = False
    """Programs that were written before it came may leave it out, also where they send a list of values without names."""

    def read(self, value: object) -> Any:
        """The value as its handler gets it: a file as a path, a list of files as a list of paths.

        Raises:
            ValueError: it is of another type, in one sentence.
        """
        words = self.words or self.name.replace("_", " ")
        if value is None and self.optional:
            return None
        if self.kind is FILE:
            return uploaded_path(value, words)
        fits = isinstance(value, self.kind.types) and (self.kind is FLAG or not isinstance(value, bool))
        if not fits:
            is_ = "are" if words.endswith("s") and self.kind in (FILES, TABLE, TEXT_OR_LIST) else "is"
            raise ValueError(
                f"The {words} {is_} {limits.described(value)} but must be {self.kind.noun}: {self.kind.do}."
            )
        if self.kind is FILES and isinstance(value, list):
            return [uploaded_path(one, words.removesuffix("s")) for one in value]
        return value


MODEL_SET = Parameter("model_set", TEXT)
"""Where the model set stands among an endpoint's parameters. It is the server's own; no handler gets it."""


_KINDS = {"text": TEXT, "choice": TEXT, "whole": WHOLE, "real": NUMBER, "switch": FLAG}


def parameters_of(start: Declared, *names: str, **examples: object) -> tuple[Parameter, ...]:
    """The settings ``names`` (all that are declared, if none is given) as parameters, with the values of ``start`` as defaults.

    ``examples`` are shown on the API page for those that have to be sent.
    """
    made = []
    for name in names or start.fields():
        if name == MODEL_SET.name:
            made.append(MODEL_SET)
        else:
            field, default = start.field(name), examples.get(name, getattr(start, name))
            # A choice is called by its label where it has no name of its own, and labels are no part of a sentence.
            words = "" if field.name == field.label else field.name.removeprefix("The ")
            made.append(
                Parameter(name, _KINDS[field.kind], default, name in examples, words=words, later=field.optional)
            )
    return tuple(made)


@dataclass(frozen=True)
class Endpoint:
    """What a public function is called, takes and answers with."""

    name: str
    parameters: tuple[Parameter, ...]
    outputs: tuple[tuple[str, str], ...]
    """(kind, label) of each: "file", "json" or "text"."""
    description: str
    """For the API page, with the limits."""

    def __post_init__(self) -> None:
        assert self.parameters.count(MODEL_SET) == 1, f"{self.name} has no model set to refuse"


Handler = Callable[..., Iterator[Any]]
"""``handler(session, name=value, ...)`` gives updates as any handler of :func:`demos.core.handlers.on_gpu`."""


def publish(endpoint: Endpoint, handler: Handler, model_set: str) -> None:
    """Make the endpoint of a server that runs ``model_set``, inside the page that is being built."""

    def answer(session: str, *values: object) -> Iterator[Any]:
        given = dict(zip((parameter.name for parameter in endpoint.parameters), values, strict=True))
        refuse_other(given.pop(MODEL_SET.name), model_set)
        read = {p.name: p.read(given[p.name]) for p in endpoint.parameters if p is not MODEL_SET}
        yield from handler(session, **read)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = [model_set if p is MODEL_SET else p.default for p in endpoint.parameters]
    named = [
        inspect.Parameter(p.name, kind, default=inspect.Parameter.empty if p.required else default)
        for p, default in zip(endpoint.parameters, defaults, strict=True)
    ]
    shown: Any = answer
    shown.__signature__ = inspect.Signature([inspect.Parameter("session", kind), *named])
    shown.__name__ = endpoint.name
    inputs: list[Any] = []
    for parameter, default in zip(endpoint.parameters, defaults, strict=True):
        inputs.append(Api(default, dict(parameter.kind.schema), parameter.name))
        inputs[-1].takes_files = parameter.kind in (FILE, FILES)  # this and the next for demos.core.payloads
        inputs[-1].optional = parameter.optional or parameter.later
        inputs[-1].left_out = None if parameter.optional else default
    gr.Button(visible=False).click(
        on_gpu(answer),
        inputs,
        [OUTPUTS[kind](label) for kind, label in endpoint.outputs],
        api_name=endpoint.name,
        api_description=f"{endpoint.description} Model set: {model_set}.",
        show_progress="hidden",
        **GPU,
    )


def refuse_other(asked: object, own: str) -> None:
    """Raise a ``ValueError`` unless ``asked`` is the model set that the server runs: another would be fetched for whoever asks."""
    if asked == own:
        return
    if isinstance(asked, str) and asked in BASES:
        raise ValueError(
            f"This server runs the model set {own}, not {asked}: ask for that, or start it with --model-set {asked}."
        )
    shown = (
        f"{limits.described(asked)} is unknown"
        if isinstance(asked, str)
        else f"is {limits.described(asked)} but must be a text"
    )
    raise ValueError(f"The model set {shown}: this server runs the model set {own}.")
