"""How the studio looks: a printed science page. Warm paper, dark ink, serif headings, one accent, gold for noise.

Colours are named once, for light and dark, and reach both Gradio's theme and `studio.css` (as `--studio-...`).
Only fonts that the visitor's system has are used, so nothing is fetched. The tests compute the contrast of every
pair of text and ground in `PAIRS`.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

LIGHT = {
    "page": "#faf8f3",
    "surface": "#ffffff",
    "sunken": "#f2eee4",
    "line": "#ddd6c7",
    "edge": "#857d6e",
    "ink": "#1d1b17",
    "quiet": "#5c564b",
    "accent": "#14525e",
    "accent-strong": "#0d3c46",
    "on-accent": "#ffffff",
    "gold": "#775200",
    "gold-fill": "#c2922e",
    "right": "#1c6238",
    "wrong": "#9a2c20",
}
DARK = {
    "page": "#14161a",
    "surface": "#1c1f25",
    "sunken": "#252932",
    "line": "#3a404b",
    "edge": "#7b8290",
    "ink": "#eeebe4",
    "quiet": "#b3afa5",
    "accent": "#83cbd8",
    "accent-strong": "#a9dde6",
    "on-accent": "#0b1c20",
    "gold": "#e6bc62",
    "gold-fill": "#d2a243",
    "right": "#7fd0a0",
    "wrong": "#f2a093",
}
PAIRS = [
    *((text, ground) for text in ("ink", "quiet", "accent", "gold") for ground in ("page", "surface", "sunken")),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("right", "surface"),
    ("wrong", "surface"),
    ("ink", "line"),
]
"""Text on ground, each at least 4.5 to 1 (WCAG AA)."""
EDGES = [("edge", "page"), ("edge", "surface"), ("accent", "page"), ("accent", "surface")]
"""Borders of fields and focus rings on ground, each at least 3 to 1."""

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
SERIF = '"Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Charter, Georgia, "Liberation Serif", serif'
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")

CSS = tuple(Path(__file__).with_name(f"{name}.css") for name in ("studio", "present"))
PARTS = ("connection", "keys", "clicks", "reach", "hold", "live", "links", "studio", "present")
SCRIPTS = tuple(Path(__file__).with_name(f"{name}.js") for name in PARTS)


# Gradio takes shades of the first hue for a few parts that no variable names, such as the handle of a slider:
# dark ones on light ground, light ones on dark.
_ACCENT = gr.themes.Color(
    *("#eef7f9", "#d6ecf0", "#aedae2", "#a9dde6", "#83cbd8", "#2b7a89", "#14525e", "#114853", "#0d3c46", "#0a2f37"),
    c950="#06232a",
    name="petrol",
)


class StudioTheme(gr.themes.Base):
    """Gradio's variables in the studio's colours. `both("ink")` is the pair (light, dark)."""

    def __init__(self) -> None:
        super().__init__(
            primary_hue=_ACCENT,
            neutral_hue=gr.themes.colors.stone,
            radius_size=gr.themes.sizes.radius_sm,
            text_size=gr.themes.sizes.text_md,
            spacing_size=gr.themes.sizes.spacing_md,
            font=SANS,
            font_mono=MONO,
        )
        self.name = "latent-studio"
        for variable, colour in _COLOURS.items():
            setattr(self, variable, LIGHT[colour])
            setattr(self, f"{variable}_dark", DARK[colour])
        for variable, value in _PLAIN.items():
            setattr(self, variable, value)
            if hasattr(self, f"{variable}_dark"):
                setattr(self, f"{variable}_dark", value)


def head() -> str:
    """The style sheets after their colours, as an element of the page's head.

    Not `launch(css=...)`: Gradio rewrites the selectors there, and rules inside `@media` stop matching.
    """

    def block(selector: str, colours: dict[str, str]) -> str:
        return selector + "{" + "".join(f"--studio-{name}:{value};" for name, value in colours.items()) + "}\n"

    colours = block(":root", LIGHT) + block(":root.dark, :root .dark", DARK)
    rules = "".join(sheet.read_text(encoding="utf-8") for sheet in CSS)
    return (
        f"<style>\n:root{{--studio-serif:{SERIF};}}\n{colours}.gradio-container.gradio-container {{\n{rules}}}</style>"
    )


def script() -> str:
    """What runs in the browser once: the connection, keys, clicks on pictures, what Gradio leaves to the mouse, what waits for what,
    addresses, the way to the results on a phone, and the talk."""
    return "() => {\n" + "\n".join(f"({script.read_text(encoding='utf-8').strip()})();" for script in SCRIPTS) + "\n}"


_COLOURS = {
    "body_background_fill": "page",
    "body_text_color": "ink",
    "body_text_color_subdued": "quiet",
    "background_fill_primary": "surface",
    "background_fill_secondary": "sunken",
    "border_color_accent": "accent",
    "border_color_accent_subdued": "line",
    "border_color_primary": "line",
    "link_text_color": "accent",
    "link_text_color_active": "accent-strong",
    "link_text_color_hover": "accent-strong",
    "link_text_color_visited": "accent",
    "code_background_fill": "sunken",
    "block_background_fill": "surface",
    "block_border_color": "line",
    "block_info_text_color": "quiet",
    "block_label_background_fill": "surface",
    "block_label_border_color": "line",
    "block_label_text_color": "quiet",
    "block_title_text_color": "ink",
    "panel_background_fill": "page",
    "panel_border_color": "line",
    "accordion_text_color": "ink",
    "table_text_color": "ink",
    "table_border_color": "line",
    "table_even_background_fill": "surface",
    "table_odd_background_fill": "sunken",
    "checkbox_background_color": "surface",
    "checkbox_border_color": "edge",
    "checkbox_label_background_fill": "surface",
    "checkbox_label_background_fill_hover": "sunken",
    "checkbox_label_text_color": "ink",
    "error_background_fill": "surface",
    "error_border_color": "wrong",
    "error_text_color": "wrong",
    "error_icon_color": "wrong",
    "input_background_fill": "surface",
    "input_border_color": "edge",
    "input_border_color_focus": "accent",
    "input_border_color_hover": "ink",
    "input_placeholder_color": "quiet",
    "loader_color": "accent",
    "slider_color": "accent",
    "stat_background_fill": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent-strong",
    "button_primary_border_color": "accent",
    "button_primary_border_color_hover": "accent-strong",
    "button_primary_text_color": "on-accent",
    "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "surface",
    "button_secondary_background_fill_hover": "sunken",
    "button_secondary_border_color": "edge",
    "button_secondary_border_color_hover": "ink",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
    "button_cancel_background_fill": "surface",
    "button_cancel_background_fill_hover": "sunken",
    "button_cancel_border_color": "edge",
    "button_cancel_border_color_hover": "ink",
    "button_cancel_text_color": "ink",
    "button_cancel_text_color_hover": "ink",
}
_PLAIN = {
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_label_shadow": "none",
    "block_title_text_weight": "600",
    "block_title_text_size": "*text_md",
    "block_info_text_size": "*text_sm",
    "block_label_text_size": "*text_sm",
    "button_border_width": "1px",
    "button_primary_shadow": "none",
    "button_primary_shadow_hover": "none",
    "button_primary_shadow_active": "none",
    "button_secondary_shadow": "none",
    "button_secondary_shadow_hover": "none",
    "button_secondary_shadow_active": "none",
    "button_large_text_weight": "600",
    "button_large_padding": "12px 22px",
    "button_transform_hover": "none",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_border_width": "1px",
    "layout_gap": "20px",
    "form_gap_width": "0px",
}
