"""One way to write a measured number: what it is, in which unit, which way is better, and how sure it is.

A number with an interval has it in brackets behind it; one without says that it is of one run (:data:`ONE_RUN`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from demos.core.figures import safe, signed

ONE_RUN = "One run, so these figures have no interval."


@dataclass(frozen=True)
class Quantity:
    """Something that is measured, as the head of a row or a column of numbers."""

    name: str
    better: Literal["lower", "higher", "neither"]
    unit: str = ""
    """Stands behind each value, such as " dB" or " %"."""
    digits: int = 2
    factor: float = 1.0
    about: str = ""
    """What a reader must know of its scale, such as "0 clean, 1 untouched"."""
    spread: int | None = None
    """Digits of its interval, if they are others."""
    signs: bool = False
    """Whether a value above 0 has its sign: of differences."""

    @property
    def way(self) -> str:
        """Which way is better, in words; empty where neither is."""
        return "" if self.better == "neither" else f"{self.better} is better"

    @property
    def told(self) -> str:
        """Its scale and which way is better."""
        return "; ".join(filter(None, (self.about, self.way)))

    def head(self, scope: Literal["row", "col"]) -> str:
        """Its cell at the head of a row or column, by which a table is known to say what its numbers are."""
        role = "rowheader" if scope == "row" else "columnheader"
        below = f"<span>{safe(self.told)}</span>" if self.told else ""
        return f"<th role='{role}' scope='{scope}' data-better='{self.better}'>{safe(self.name)}{below}</th>"

    def cell(self, inside: str) -> str:
        """A cell below its head; on a phone each stands alone, and says what it is. ``inside`` is markup."""
        kind = "" if inside else " class=none"
        way = f" data-way=', {self.way}'" if self.way else ""
        return f"<td role='cell' data-label='{safe(self.name)}'{way}{kind}>{inside}</td>"

    def number(self, value: float | None) -> str:
        """A value with its unit; empty where there is none."""
        if value is None:
            return ""
        plain = signed(self.factor * value, self.digits)
        return (plain if self.signs else plain.removeprefix("+")) + self.unit

    def write(self, value: float | None, interval: Sequence[float] | None = None) -> str:
        """A value with its unit, and its interval in brackets, as markup."""
        shown, _, between = self.text(value, interval).partition(" [")
        return f"{shown} <span>[{between}</span>" if between else shown

    def text(self, value: float | None, interval: Sequence[float] | None = None) -> str:
        """As :meth:`write`, for a sentence."""
        if value is None or interval is None:
            return self.number(value)
        plain = replace(self, unit="", digits=self.digits if self.spread is None else self.spread)
        return f"{self.number(value)} [{', '.join(map(plain.number, interval))}]"


def quartiles(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of a summary of many values, where it has some."""
    return (row["q1"], row["q3"]) if "q1" in row else None


def this_run(figures: Mapping[str, str], models: Sequence[Mapping[str, Any]], told: str = "", more: str = "") -> str:
    """What is known of one run: its figures with their units, a sentence, and which models answered under which licence. ``told`` and
    ``more``, which stands before the models, are markup."""
    cells = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in figures.items())
    listed = "".join(
        f"<li>{safe(model['key'])} ({safe(model['source'])}), {safe(model['licence'])}</li>" for model in models
    )
    answered = f"<h3>Models that answered</h3><ul>{listed}</ul>" if listed else ""
    sentence = " ".join(filter(None, (told, ONE_RUN)))
    return (
        f"<div class='figures'><h3>This run</h3><dl>{cells}</dl><p class='quiet'>{sentence}</p>{more}{answered}</div>"
    )


def ways(
    rows: Sequence[tuple[str, Sequence[str]]],
    heads: Sequence[Quantity],
    label: str,
    told: str,
    style: str,
    first: str = "Way",
) -> str:
    """A table of ways to do one thing: a title and cells for each, under ``heads``. Titles and cells are markup. ``label`` is for those who
    do not see it, ``told`` stands below."""
    lines = "".join(
        f"<tr role='row'><th role='rowheader' scope='row'>{title}</th>"
        f"{''.join(head.cell(inside) for head, inside in zip(heads, cells, strict=True))}</tr>"
        for title, cells in rows
    )
    named = f"<th role='columnheader' scope='col'>{first}</th>{''.join(head.head('col') for head in heads)}"
    return f"{table(named, lines, label, style)}<p class='quiet'>{told}</p>"


def table(heads: str, lines: str, label: str, style: str) -> str:
    """A table that scrolls inside itself where it is wider than its place. ``heads`` and ``lines`` are its cells and its rows."""
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{safe(label)}'><table class='{style}' role='table'>"
        f"<thead role='rowgroup'><tr role='row'>{heads}</tr></thead><tbody role='rowgroup'>{lines}</tbody></table></div>"
    )
