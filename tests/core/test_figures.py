"""The small charts: right places, words for those who do not see them, and nothing that could be markup."""

from __future__ import annotations

import base64
import io
import itertools
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from demos.core import figures
from demos.core.figures import APART, LEFT, PLOT, RIGHT, TOP, Interval, Series


def parsed(figure: str) -> ElementTree.Element:
    """The chart as XML; it must be well formed."""
    return ElementTree.fromstring(figure)


def percent(value: str) -> float:
    return float(value.removesuffix("%"))


def texts(tree: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in tree.iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "wanted", "marks"),
    [
        (0, 10, 4, [0, 2.5, 5, 7.5, 10]),
        (-0.14, 0.21, 4, [-0.1, 0, 0.1, 0.2]),
        (0, 0.5, 5, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (1, 64, 5, [20, 40, 60]),
        (-43.4, 43.4, 5, [-40, -20, 0, 20, 40]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, wanted, marks):
    assert figures.ticks(low, high, wanted) == marks


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [(1.25, 1, "+1.2"), (-3.0, 1, "−3.0"), (0, 1, "0.0"), (-0.04, 1, "0.0"), (-20, 0, "−20")],
)
def test_signs_are_said_and_zero_has_none(value, digits, words):
    assert figures.signed(value, digits) == words


def test_a_line_chart_draws_what_it_was_given():
    tree = parsed(
        figures.plot(
            "Title",
            "The facts.",
            [Series("before", [0, 1, 2], [0, 10, 5]), Series("after", [0, 1, 2], [0, 8, 5], "dashed")],
            ("x", "y"),
            0.0,
        )
    )
    solid, dashed = tree.iter("polyline")
    assert solid.get("class") == "curve" and dashed.get("class") == "curve dashed"
    points = [tuple(map(float, pair.split(","))) for pair in solid.get("points").split()]
    assert [x for x, _ in points] == [0, 500, 1000]
    assert points[0][1] > points[2][1] > points[1][1] > 0, "larger values lie higher"
    assert {"before", "after", "x", "y", "10"} <= set(texts(tree))
    svg = tree.find("svg")
    assert svg.get("role") == "img" and svg.get("aria-label") == "Title. The facts."
    assert tree.find("figcaption").text == "The facts." and "viewBox" not in svg.attrib
    across = [percent(node.get(name)) for node in svg.iter("line") for name in ("x1", "x2")]
    assert min(across) >= LEFT and max(across) <= 100
    marked = [node for node in svg.iter("line") if node.get("class") == "mark"]
    assert len(marked) == 1 and (percent(marked[0].get("x1")), percent(marked[0].get("x2"))) == (LEFT, RIGHT)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-2.0, 5.0, 1e-9]])
@pytest.mark.parametrize("octaves", [False, True])
def test_flat_lines_and_zeros_are_drawn_too(values, octaves):
    tree = parsed(figures.plot("T", "f", [Series("a", [0, 1, 2], values)], ("x", "y"), 1.0, octaves))
    places = [float(place) for pair in next(tree.iter("polyline")).get("points").split() for place in pair.split(",")]
    assert all(0 <= place <= 1000 for place in places)


def test_in_octaves_twice_as_much_is_equally_far_up():
    tree = parsed(figures.plot("T", "f", [Series("a", [0, 1, 2, 3], [0.5, 1, 2, 4])], ("x", "y"), None, True))
    heights = [float(pair.split(",")[1]) for pair in next(tree.iter("polyline")).get("points").split()]
    steps = [above - below for above, below in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert {"0.5", "1", "2", "4"} <= set(texts(tree))


@pytest.mark.parametrize("places", [[50, 50], [160, 176, 176], [30], [176, 40, 44]])
def test_names_of_lines_do_not_lie_on_one_another(places):
    moved = figures._spread(places)
    apart = sorted(moved)
    assert all(b - a >= APART - 1e-9 for a, b in itertools.pairwise(apart))
    assert apart[-1] <= TOP + PLOT and apart[0] > 0
    assert sorted(range(len(places)), key=lambda i: moved[i]) == sorted(range(len(places)), key=lambda i: places[i])


def test_bars_are_as_long_as_their_shares():
    tree = parsed(figures.bars("Shares", "f", [("one", 0.25), ("two", 0.75)]))
    fills = [percent(node.get("width")) for node in tree.iter("rect") if node.get("class") == "fill"]
    assert fills == [25, 75]
    assert {"one", "25.0 %", "two", "75.0 %"} <= set(texts(tree))


def test_intervals_lie_around_the_marked_zero():
    rows = [Interval("gains", 10, 5, 20, "+10 [5, 20]"), Interval("loses", -4, -12, 3, "−4 [−12, 3]")]
    tree = parsed(figures.intervals("Points", "How to read.", "gains +10; loses −4.", rows, "points"))
    zero = next(percent(node.get("x1")) for node in tree.iter("line") if node.get("class") == "mark")
    spans = [node for node in tree.iter("line") if node.get("class") == "span" and node.get("y1") == node.get("y2")]
    (low, high), (less, more) = [(percent(node.get("x1")), percent(node.get("x2"))) for node in spans]
    assert zero < low < high and less < zero < more
    dots = [percent(node.get("cx")) for node in tree.iter("circle")]
    assert low < dots[0] < high and less < dots[1] < more
    assert {"gains", "+10 [5, 20]", "−4 [−12, 3]"} <= set(texts(tree))
    assert tree.find("svg").get("aria-label") == "Points. How to read. gains +10; loses −4."
    assert tree.find("figcaption").text == "How to read."
    assert parsed(figures.intervals("T", "r", "f", [Interval("none", 0, 0, 0, "0")], "points")) is not None


def test_nothing_that_came_from_elsewhere_is_markup():
    bad = "<b onload='x'>&\""
    for figure in (
        figures.plot(bad, bad, [Series(bad, [0, 1], [0, 1])], (bad, bad)),
        figures.bars(bad, bad, [(bad, 0.5)]),
        figures.intervals(bad, bad, bad, [Interval(bad, 0, -1, 1, bad)], bad),
    ):
        assert "<b" not in re.sub(r"<(figure|p|svg|text|line|rect|polyline|circle|figcaption|/)", "", figure)
        assert bad in texts(parsed(figure))


def test_a_picture_as_data_comes_back():
    picture = Image.effect_noise((12, 8), 60).convert("RGB")
    exact = figures.data_uri(picture)
    assert exact.startswith("data:image/png;base64,")
    back = Image.open(io.BytesIO(base64.b64decode(exact.partition(",")[2])))
    assert back.tobytes() == picture.tobytes()
    small = Image.open(io.BytesIO(base64.b64decode(figures.data_uri(picture, "WEBP").partition(",")[2])))
    assert small.size == (12, 8)


def test_a_plot_draws_lines_dots_spans_and_shaded_stretches():
    dots = figures.Series("score", [-1, 0, 1], [0.2, 0.5, 0.9], "points", [0.1, 0.4, 0.8], [0.3, 0.6, 1.0])
    tree = parsed(
        figures.plot("T", "F.", [dots, figures.Series("", [-1, 1], [0.2, 0.9], "thin")], ("x", "y"), shaded=[(-0.5, 9)])
    )
    assert len([node for node in tree.iter("circle")]) == 3 + 1, "three dots and the one beside the name"
    assert len([node for node in tree.iter("line") if node.get("class") == "span"]) == 3
    assert len(list(tree.iter("polyline"))) == 1 and "score" in texts(tree) and "−1" in texts(tree)
    (shade,) = [node for node in tree.iter("rect") if node.get("class") == "shade"]
    assert percent(shade.get("x")) + percent(shade.get("width")) == pytest.approx(RIGHT, abs=0.1), (
        "cut at the plot's end"
    )
    alone = parsed(figures.plot("T", "F.", [figures.Series("a", [0], [0.5], "points")], ("x", "y")))
    assert percent(next(alone.iter("circle")).get("cx")) == pytest.approx((LEFT + RIGHT) / 2)


def test_the_names_of_a_scatter_lie_on_no_other_name_and_all_is_told():
    places = [figures.Place(f"n{n}", 0.5 + (n == 0), 0.5, "square", f"mark {n}") for n in range(6)]
    page = figures.scatter("T", "F.", places, ("x", "y"), {"square": "logistic", "circle": "means"})
    tree = parsed(page)
    names = [node for node in tree.iter("text") if "halo" in node.get("class", "")]
    assert len(names) == 6
    spots = []
    for node in names:
        left = percent(node.get("x")) - {"end": 9, "middle": 4.5}.get(node.get("class").split()[-1], 0)
        spots.append((left, float(node.get("y"))))
    assert all(abs(a - c) >= 9 or abs(b - d) >= 13 for (a, b), (c, d) in itertools.combinations(spots, 2))
    assert "mark 0; mark 1" in page and page.count('class="shape square"') == 6 + 1
