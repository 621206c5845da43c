"""The look: contrast that can be read, nothing fetched."""

from __future__ import annotations

import re

import pytest

import app
from demos.core import theme


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance of "#rrggbb"."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_measured_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read(mode: str):
    colours = theme.LIGHT if mode == "light" else theme.DARK
    poor = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in theme.PAIRS}
    assert not {pair: ratio for pair, ratio in poor.items() if ratio < 4.5}
    edges = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in theme.EDGES}
    assert not {pair: ratio for pair, ratio in edges.items() if ratio < 3}


@pytest.mark.parametrize("suffix", ["", "_dark"])
def test_gradios_own_pairs_can_be_read(suffix: str):
    studio = theme.StudioTheme()
    pairs = [
        ("body_text_color", "body_background_fill"),
        ("body_text_color_subdued", "background_fill_secondary"),
        ("block_label_text_color", "block_label_background_fill"),
        ("block_title_text_color", "block_background_fill"),
        ("block_info_text_color", "block_background_fill"),
        ("input_placeholder_color", "input_background_fill"),
        ("link_text_color", "body_background_fill"),
        ("button_primary_text_color", "button_primary_background_fill"),
        ("button_primary_text_color_hover", "button_primary_background_fill_hover"),
        ("button_secondary_text_color", "button_secondary_background_fill"),
        ("button_secondary_text_color_hover", "button_secondary_background_fill_hover"),
        ("error_text_color", "error_background_fill"),
    ]
    for text, ground in pairs:
        ratio = contrast(getattr(studio, text + suffix), getattr(studio, ground + suffix))
        assert ratio >= 4.5, f"{text}{suffix} on {ground}{suffix}: {ratio:.2f}"


def test_the_look_fetches_nothing():
    everything = theme.head() + theme.script() + theme.StudioTheme()._get_theme_css() + app.MASTHEAD + app.COLOPHON
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\((?!.?data:)", everything)
