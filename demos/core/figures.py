"""Small charts as inline SVG, and pictures as data: they take the page's colours and need no script.

Places across are percentages and places down are pixels, so that a chart fills its column, on a phone too, while
letters and lines keep their size. A line is known by its dashes and by its name beside it, never by colour alone.
Every chart says its main facts in words, below it and to those who do not see it.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core import asset_files, images

if TYPE_CHECKING:
    from PIL.Image import Image

LEFT, RIGHT = 11.0, 77.0
"""The plot of a line chart, in percent of the chart's width; the lines' names stand to the right of it."""
TOP, PLOT = 26, 150
"""Pixels above the plot (for the name of the axis), and the plot's height."""
APART = 18
"""Pixels between the baselines of two names."""


TURNS = re.compile(
    "[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
"""Letters that are written from right to left, and characters that turn the direction of those behind them."""


def safe(value: object, quotes: bool = True) -> str:
    """Text for a page, as it was typed: nothing that came from elsewhere may be markup, or turn round what stands beside it.

    ``quotes``: for attributes as well; messages and chats need none.
    """
    text = str(value)
    if TURNS.search(text):  # an isolate ends with what was begun in it
        text = "\u2068" + re.sub("[\u2066-\u2069]", "", text) + "\u2069"
    return html.escape(text, quotes)


def signed(value: float, digits: int = 1) -> str:
    """'+1.2' or '−1.2', with a real minus sign; zero has no sign."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if any(letter in "123456789" for letter in text) else text[1:]


def measured(path: Path, make: Callable[[], str]) -> str:
    """The HTML that ``make`` makes of the figures in a file that came along; a sentence where that is missing or garbled."""
    made = asset_files.reading(path, make, str)
    problem = asset_files.problem(path)
    if not problem:
        return made
    return f"<p class='remark'>{path.name} is {problem}, so its figures are not shown: {asset_files.RESTORE}.</p>"


def data_uri(image: Image, kind: str = "PNG") -> str:
    """A picture inside the page itself; ``kind`` is PNG (exact) or WEBP (small)."""
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 80} if kind == "WEBP" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def file_uri(path: Path) -> str:
    """A PNG or WEBP file inside the page itself, as it is.

    Raises:
        OSError, ValueError: there is none that can be read.
    """
    images.open_picture(path)  # a damaged one is an error here, not in a browser
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About ``wanted`` round numbers within [low, high]; ``low`` < ``high``."""
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Series:
    """Values at places of their own, with a name beside the plot unless it is empty. ``kind``: line, dashed, thin (dotted)
    or points (dots, each with a span from ``low`` to ``high``)."""

    name: str
    across: Sequence[float]
    values: Sequence[float]
    kind: str = "line"
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class _Axes:
    """From numbers to places: percent across, pixels down; between, the numbers that are written at the axes."""

    def __init__(self, series: Sequence[Series], rule: float | None, octaves: bool) -> None:
        self.scale: Callable[[float], float] = _octave if octaves else float
        values = [self.scale(value) for one in series for value in (*one.values, *one.low, *one.high)]
        values += [] if rule is None else [self.scale(rule)]
        pad = 0.06 * (max(values) - min(values)) or 0.5
        self.low, self.high = min(values) - pad, max(values) + pad
        self.marks = self._octaves() if octaves else ticks(self.low, self.high)
        start, end = (pick(place for one in series for place in one.across) for pick in (min, max))
        self.start, self.end = (start, end) if end > start else (start - 0.5, end + 0.5)

    def _octaves(self) -> list[float]:
        marks = [2.0**n for n in range(math.ceil(self.low), math.floor(self.high) + 1)]
        marks = marks if len(marks) >= 3 else ticks(2.0**self.low, 2.0**self.high)
        return marks[:: -(-len(marks) // 7)]

    def across(self, value: float) -> float:
        """In [0, 1], of the plot."""
        return (value - self.start) / (self.end - self.start)

    def down(self, value: float) -> float:
        """In [0, 1], of the plot."""
        return (self.high - self.scale(value)) / (self.high - self.low)

    def x(self, value: float) -> float:
        return LEFT + (RIGHT - LEFT) * self.across(value)

    def y(self, value: float) -> float:
        return TOP + PLOT * self.down(value)


def plot(
    title: str,
    facts: str,
    series: Sequence[Series],
    names: tuple[str, str],
    rule: float | None = None,
    octaves: bool = False,
    shaded: Sequence[tuple[float, float]] = (),
) -> str:
    """Lines and dots over one axis of numbers.

    Args:
        names: of the axes across and upwards.
        rule: a level to mark.
        octaves: twice as much is always equally far up, for values of very different size (positive ones).
        shaded: stretches of the axis across to mark.
    """
    axes = _Axes(series, rule, octaves)
    parts = [_text(0, 14, names[1], "axis")]
    for left, right in shaded:
        left, right = axes.x(max(left, axes.start)), axes.x(min(right, axes.end))
        width = max(right - left, 0)
        parts.append(f'<rect class="shade" x="{left:.2f}%" y="{TOP}" width="{width:.2f}%" height="{PLOT}"/>')
    parts += _grid(axes, rule)
    parts.append(_text((LEFT + RIGHT) / 2, TOP + PLOT + 38, names[0], "axis middle"))
    parts += _curves(axes, [one for one in series if one.kind != "points"])
    for one in series:
        parts += _dots(axes, one) if one.kind == "points" else []
    parts += _names(axes, [one for one in series if one.name])
    return _figure(title, facts, "".join(parts), TOP + PLOT + 46)


def _grid(axes: _Axes, rule: float | None) -> list[str]:
    parts = []
    for value in axes.marks:
        parts.append(_rule(LEFT, axes.y(value), RIGHT, axes.y(value), "grid"))
        parts.append(_text(LEFT - 1.5, axes.y(value) + 4, _plain(value), "tick end"))
    for value in ticks(axes.start, axes.end, 5):
        parts.append(_rule(axes.x(value), TOP + PLOT, axes.x(value), TOP + PLOT + 5, "grid"))
        parts.append(_text(axes.x(value), TOP + PLOT + 19, _plain(value), "tick middle"))
    if rule is not None:
        parts.append(_rule(LEFT, axes.y(rule), RIGHT, axes.y(rule), "mark"))
    return parts


def _curves(axes: _Axes, series: Sequence[Series]) -> list[str]:
    frame = f'<svg x="{LEFT}%" y="{TOP}" width="{RIGHT - LEFT}%" height="{PLOT}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
    parts = [frame]
    for one in series:
        places = zip(one.across, one.values, strict=True)
        points = " ".join(f"{1000 * axes.across(at):.1f},{1000 * axes.down(value):.1f}" for at, value in places)
        parts.append(f'<polyline class="{_style(one)}" points="{points}"/>')
    return [*parts, "</svg>"]


def _dots(axes: _Axes, one: Series) -> list[str]:
    spans = zip(one.across, one.low, one.high, strict=False)
    parts = [_rule(axes.x(at), axes.y(below), axes.x(at), axes.y(above), "span") for at, below, above in spans]
    for at, value in zip(one.across, one.values, strict=True):
        parts.append(f'<circle class="dot" cx="{axes.x(at):.2f}%" cy="{axes.y(value):.1f}" r="5"/>')
    return parts


def _names(axes: _Axes, series: Sequence[Series]) -> list[str]:
    parts = []
    for one, place in zip(series, _spread([axes.y(one.values[-1]) for one in series]), strict=True):
        if one.kind == "points":
            parts.append(f'<circle class="dot" cx="{RIGHT + 5}%" cy="{place:.1f}" r="5"/>')
        else:
            parts.append(_rule(RIGHT + 2, place, RIGHT + 7.5, place, _style(one)))
        parts.append(_text(RIGHT + 9, place + 4, one.name, "name"))
    return parts


@dataclass(frozen=True)
class Place:
    """A named point of :func:`scatter`; ``shape``: circle, square or triangle. ``told`` is said of it in full."""

    name: str
    across: float
    up: float
    shape: str
    told: str


def scatter(title: str, facts: str, places: Sequence[Place], names: tuple[str, str], shapes: dict[str, str]) -> str:
    """Named points of three shapes. ``shapes``: what each shape stands for, told above the plot."""
    tall = 2 * PLOT
    xs, ys = [place.across for place in places], [place.up for place in places]
    (left, right), (low, high) = (_padded(values) for values in (xs, ys))

    def x(value: float) -> float:
        return LEFT + (97 - LEFT) * (value - left) / (right - left)

    def y(value: float) -> float:
        return top + tall * (high - value) / (high - low)

    top = TOP + 24
    parts = [
        part
        for number, (shape, words) in enumerate(shapes.items())
        for part in (_shape(shape, 2 + 34 * number, 10), _text(4.5 + 34 * number, 14, words, "name"))
    ]
    parts.append(_text(0, 14 + 24, names[1], "axis"))
    for value in ticks(low, high):
        parts.append(_rule(LEFT, y(value), 97, y(value), "grid"))
        parts.append(_text(LEFT - 1.5, y(value) + 4, _plain(value), "tick end"))
    for value in ticks(left, right, 5):
        parts.append(_rule(x(value), top, x(value), top + tall + 5, "grid"))
        parts.append(_text(x(value), top + tall + 19, _plain(value), "tick middle"))
    parts.append(_text((LEFT + 97) / 2, top + tall + 38, names[0], "axis middle"))
    marks, taken = [(x(place.across), y(place.up)) for place in places], list[tuple[float, float]]()
    for place in sorted(places, key=lambda p: -p.up):
        at, down = x(place.across), y(place.up)
        parts.append(_shape(place.shape, at, down, place.told))
        # Beside, above or below its mark: the first spot where a name lies on no other name and no mark. A name takes
        # about 9 % of a phone's width; further down is the last resort.
        spots = [(2, 4, ""), (-2, 4, " end"), (0, -10, " middle"), (0, 20, " middle"), (2, 16, ""), (2, -8, "")]
        spots += [(2, 4 + more, "") for more in range(2, 200, 2)]
        for aside, below, anchor in spots:
            begins = at + aside - {"": 0, " end": 9, " middle": 4.5}[anchor]
            line = down + below
            free = all(abs(begins - a) >= 9.5 or abs(line - d) >= 13 for a, d in taken)
            others = (mark for mark in marks if mark != (at, down))
            clear = all(not begins - 1.5 < a < begins + 10.5 or abs(line - 4 - d) >= 10 for a, d in others)
            if free and clear and LEFT - 4 < begins < 93:
                break
        taken.append((begins, line))
        parts.append(_text(at + aside, line, place.name, f"name halo{anchor}"))
    return _figure(title, facts, "".join(parts), top + tall + 46, "; ".join(place.told for place in places))


def _padded(values: Sequence[float]) -> tuple[float, float]:
    pad = 0.08 * (max(values) - min(values)) or 0.5
    return min(values) - pad, max(values) + pad


def _shape(kind: str, across: float, down: float, told: str = "") -> str:
    """A small shape centred at a place; an inner svg lets it keep its size while places are percentages."""
    inside = {
        "circle": '<circle cx="8" cy="8" r="5.500"/>',
        "square": '<rect x="3" y="3" width="10" height="10"/>',
        "triangle": '<path d="M8 2 L14.500 13.500 L1.500 13.500 Z"/>',
    }[kind]
    title = f"<title>{safe(told)}</title>" if told else ""
    return (
        f'<svg class="shape {kind}" x="{across:.2f}%" y="{down - 8:.1f}" width="16" height="16" overflow="visible">'
        f'{title}<g transform="translate(-8 0)">{inside}</g></svg>'
    )


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def bars(title: str, facts: str, shares: Sequence[tuple[str, float]]) -> str:
    """Named shares in [0, 1], a bar each on a common scale; the figure stands beside the name."""
    parts = []
    for row, (name, share) in enumerate(shares):
        down = 42 * row
        parts.append(_text(0, down + 14, name, "name"))
        parts.append(_text(100, down + 14, f"{100 * share:.1f} %", "name end"))
        parts.append(f'<rect class="ground" x="0" y="{down + 21}" width="100%" height="11" rx="2"/>')
        parts.append(f'<rect class="fill" x="0" y="{down + 21}" width="{100 * share:.2f}%" height="11" rx="2"/>')
    return _figure(title, facts, "".join(parts), 42 * len(shares))


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, for :func:`intervals`; ``words`` stand at the end of its line."""

    name: str
    value: float
    low: float
    high: float
    words: str


def intervals(title: str, rule: str, facts: str, rows: Sequence[Interval], axis: str, signs: bool = True) -> str:
    """Intervals below one another on one scale, with the zero marked. ``rule``: how to read them, below the chart;
    ``facts``: what it shows, which the rows say already to those who see it; ``signs``: whether its numbers are gains and losses."""
    low, high = min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows))
    pad = 0.04 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return 1 + 98 * (value - low) / (high - low)

    bottom = 46 * len(rows) + 4
    parts = [_rule(x(value), 0, x(value), bottom, "mark" if value == 0 else "grid") for value in ticks(low, high, 5)]
    parts += [
        _text(
            x(value),
            bottom + 16,
            signed(value, len(f"{value:g}".partition(".")[2])) if signs else _plain(value),
            "tick middle",
        )
        for value in ticks(low, high, 5)
        if 4 < x(value) < 96
    ]
    for number, row in enumerate(rows):
        down = 46 * number
        parts.append(_text(0, down + 15, row.name, "name halo"))
        parts.append(_text(100, down + 15, row.words, "name halo end"))
        parts.append(_rule(x(row.low), down + 30, x(row.high), down + 30, "span"))
        parts += [_rule(x(end), down + 25, x(end), down + 35, "span") for end in (row.low, row.high)]
        parts.append(f'<circle class="dot" cx="{x(row.value):.2f}%" cy="{down + 30}" r="5"/>')
    parts.append(_text(50, bottom + 35, axis, "axis middle"))
    return _figure(title, rule, "".join(parts), bottom + 42, facts)


def _figure(title: str, caption: str, inside: str, height: int, facts: str = "") -> str:
    told = f"{title}. {caption} {facts}".strip()
    return (
        f'<figure class="chart"><p class="title">{safe(title)}</p><svg role="img" aria-label="{safe(told)}" '
        f'width="100%" height="{height}">{inside}</svg><figcaption>{safe(caption)}</figcaption></figure>'
    )


def _text(across: float, down: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{across:.2f}%" y="{down:.1f}">{safe(words)}</text>'


def _rule(left: float, top: float, right: float, bottom: float, style: str) -> str:
    return f'<line class="{style}" x1="{left:.2f}%" y1="{top:.1f}" x2="{right:.2f}%" y2="{bottom:.1f}"/>'


def _style(one: Series) -> str:
    return {"dashed": "curve dashed", "thin": "curve thin"}.get(one.kind, "curve")


def _octave(value: float) -> float:
    return math.log2(max(value, 1e-3))


def _spread(places: Sequence[float]) -> list[float]:
    """The same heights, moved so that names do not lie on one another nor below the plot."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved, before = list(places), -math.inf
    for i in order:
        before = moved[i] = max(places[i], before + APART)
    for i, over in zip(reversed(order), (APART * n for n in range(len(order))), strict=True):
        moved[i] = min(moved[i], TOP + PLOT - over)
    return moved
