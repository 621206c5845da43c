"""Settings that are declared once: each field knows its range, its label and its sentences, and all else is read from it.

    @dataclass(frozen=True)
    class Settings(Declared):
        prompt: str = text("Prompt", 300, "The prompt is empty: describe a picture, or press an example.")
        seed: int = seed()
        steps: int = whole("Steps", 25, 1, 100, name="number of steps")
        guidance: float = real("Guidance", 5.5, 1.0, 20.0, step=0.5)
        model_set: str = choice("Model set", "mini", ("mini", "full"), shown=False)

:meth:`Declared.validated` checks them; a page makes its widgets of them (``demos/core/form.py``), an endpoint its parameters
and its description (``demos/core/endpoint.py``), and :meth:`Declared.read` takes them back from a file. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, Self, TypedDict, Unpack

from pipelines.core import limits

Kind = Literal["text", "whole", "real", "choice", "switch"]


@dataclass(frozen=True)
class Field:
    """What one setting is."""

    kind: Kind
    label: str
    """Of its widget."""
    name: str
    """What its sentences call it: "number of steps"; of a choice, how its sentence opens: "The mode"."""
    low: float = 0
    high: float = 0
    """The range of a number, both ends included; ``high`` of a text is the most characters."""
    step: float | None = None
    info: str | None = None
    empty: str = ""
    """The sentence for a text that is missing."""
    options: Mapping[str, str] | Collection[str] = ()
    """What may be chosen, with the words of the page where they differ."""
    optional: bool = False
    """An empty choice stands for the first."""
    shown: bool = True
    """Whether a page's form has a widget for it unless told otherwise."""
    listed: bool = False
    """A choice whose options are a list that opens, because they are many."""
    offered: tuple[float, float] | None = None
    """What the page's slider offers where that is less than what is accepted."""

    @property
    def range(self) -> tuple[float, float]:
        return self.low, self.high

    def check(self, value: object) -> Any:
        """``value`` with its exact type.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        if self.kind == "whole":
            return int(limits.number(self.name, value, self.low, self.high, whole=True))
        if self.kind == "real":
            return float(limits.number(self.name, value, self.low, self.high))
        if self.kind == "choice":
            return value if self.optional and value == "" else limits.choice(self.name, value, self.options)
        if self.kind == "switch":
            return limits.switch(self.name, value)
        if not self.empty:
            return limits.plain(self.name, value, int(self.high))
        return limits.text(self.name, value, int(self.high), self.empty).strip()

    def limits_in_words(self, key: str) -> str:
        """The limits of the setting ``key`` for an endpoint's description; empty where there are none."""
        if self.kind == "text":
            return f"{key} at most {self.high:,} characters"
        if self.kind == "choice":
            return f"{key} one of {', '.join(self.options)}"
        return "" if self.kind == "switch" else f"{key} {self.low:.10g} to {self.high:.10g}"


class More(TypedDict, total=False):
    """What may be said of a setting of any kind, as in :class:`Field`."""

    step: float
    info: str
    optional: bool
    listed: bool
    shown: bool
    offered: tuple[float, float]


def _field(default: object, declared: Field) -> Any:
    return field(default=default, metadata={"declared": declared})


def _in_a_sentence(label: str, name: str | None) -> str:
    return label[:1].lower() + label[1:] if name is None else name


def text(
    label: str,
    most: int,
    empty: str = "",
    *,
    name: str | None = None,
    default: object = MISSING,
    **more: Unpack[More],
) -> Any:
    """A text of at most ``most`` characters; ``empty`` is the sentence where nothing came (else nothing may come)."""
    return _field(default, Field("text", label, _in_a_sentence(label, name), high=most, empty=empty, **more))


def whole(label: str, default: int, low: int, high: int, *, name: str | None = None, **more: Unpack[More]) -> Any:
    """A whole number from ``low`` to ``high``."""
    more.setdefault("step", 1)
    return _field(default, Field("whole", label, _in_a_sentence(label, name), low, high, **more))


def real(label: str, default: float, low: float, high: float, *, name: str | None = None, **more: Unpack[More]) -> Any:
    """A number from ``low`` to ``high``."""
    return _field(default, Field("real", label, _in_a_sentence(label, name), low, high, **more))


def choice(
    label: str,
    default: str,
    options: Mapping[str, str] | Collection[str],
    *,
    name: str | None = None,
    **more: Unpack[More],
) -> Any:
    """One of ``options``."""
    return _field(default, Field("choice", label, label if name is None else name, options=options, **more))


def switch(label: str, default: bool, *, name: str | None = None, **more: Unpack[More]) -> Any:
    """On or off."""
    return _field(default, Field("switch", label, _in_a_sentence(label, name), **more))


def seed(default: int = 0, *, name: str | None = None, **more: Unpack[More]) -> Any:
    """A seed of 31 bits, the same in every paper."""
    return whole("Seed", default, 0, 2**31 - 1, name=name, **more)


@dataclass(frozen=True)
class Declared:
    """Base of a frozen dataclass of settings. Fields that are made otherwise are the subclass's own to check."""

    @classmethod
    def fields(cls) -> dict[str, Field]:
        """The declared settings by their names, in their order."""
        found = dataclasses.fields(cls)
        return {one.name: one.metadata["declared"] for one in found if "declared" in one.metadata}

    @classmethod
    def field(cls, name: str) -> Field:
        """What the setting ``name`` is."""
        return cls.fields()[name]

    def validated(self) -> Self:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do, for the first that is wrong.
        """
        exact = {name: one.check(getattr(self, name)) for name, one in self.fields().items()}
        return dataclasses.replace(self, **exact)

    @classmethod
    def read(
        cls, record: Mapping[str, Any], where: str = "this file", earlier: Mapping[str, str] | None = None
    ) -> Self:
        """Settings from the record of a file; what this version does not know is left out.

        Args:
            earlier: names that settings had in earlier versions -> today's.

        Raises:
            ValueError: one is missing that has no default, or is out of its limits.
        """
        renamed = {(earlier or {}).get(key, key): value for key, value in record.items()}
        known = {one.name: one for one in dataclasses.fields(cls)}
        for name, one in known.items():
            if name not in renamed and one.default is MISSING and one.default_factory is MISSING:
                raise ValueError(f"The settings in {where} have no {name}: drop one that this page wrote.")
        return cls(**{name: renamed[name] for name in known if name in renamed}).validated()

    def sent(self, *names: str) -> dict[str, Any]:
        """The settings ``names`` (all declared ones, if none is given) as a program sends them; the model set is the server's own."""
        return {name: getattr(self, name) for name in names or self.fields() if name != "model_set"}

    def differing(self, start: Declared, names: Iterable[str]) -> dict[str, Any]:
        """Those of ``names`` that are not as in ``start``: what :meth:`changed` makes these settings of it with."""
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(start, name)}

    def changed(self, given: Mapping[str, Any], names: Collection[str]) -> Self:
        """These settings with the values of ``given``, unchecked.

        Raises:
            ValueError: it names another setting than ``names``.
        """
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(
                f"There is no setting {limits.described(unknown[0])} here: choose among {', '.join(names)}."
            )
        return dataclasses.replace(self, **given)

    @classmethod
    def limits_in_words(cls, names: Iterable[str] | None = None) -> str:
        """The limits as one sentence for an endpoint's description."""
        fields = cls.fields()
        parts = (fields[name].limits_in_words(name) for name in names or fields)
        return f"Limits: {', '.join(filter(None, parts))}."
