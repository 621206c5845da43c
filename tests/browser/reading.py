"""axe-core, which looks for what a page hides from those who do not see it or use no mouse, and how the tests ask it.

It is fetched for the tests only (``npm install axe-core``), into ``node_modules`` here or where ``LATENT_STUDIO_AXE`` names its ``axe.min.js``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page

FILE = Path(os.environ.get("LATENT_STUDIO_AXE") or "node_modules/axe-core/axe.min.js")
needs_axe = pytest.mark.skipif(
    not FILE.is_file(),
    reason="no axe-core: npm install --no-save axe-core, or name its axe.min.js in LATENT_STUDIO_AXE",
)
LOOK = """async rules => {
  const how = { resultTypes: ["violations"], ...(rules.length && { runOnly: rules }) };
  const found = (await axe.run(document, how)).violations;
  return found.flatMap(one => one.nodes.map(node => [one.id, node.target.join(" "), node.html.slice(0, 200), node.failureSummary]));
}"""
SCHEME = """dark => {
  document.body.classList.toggle("dark", dark);
  document.getAnimations().forEach(one => one.finish());
}"""

GRADIO: dict[tuple[str, str], str] = {
    (
        "nested-interactive",
        ".toast-header",
    ): "the head of Gradio's messages is a button that folds several of them, and the closing one lies in it"
}
"""(rule, a part of the selector) -> why it cannot be mended from outside. What Gradio leaves without a name, `demos/core/reach.js` names."""


def violations(page: Page, *rules: str) -> list[str]:
    """What axe finds in what is to be seen now, a line each: all its rules, or these."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(FILE.read_text(encoding="utf-8"))
    return [
        f"{rule}: {where}\n    {html}\n    {why}"
        for rule, where, html, why in page.evaluate(LOOK, list(rules))
        if not any(rule == known and part in where for known, part in GRADIO)
    ]


def in_both_schemes(page: Page) -> list[str]:
    """As :func:`violations`; in the dark once more what depends on colours."""
    found = violations(page)
    page.evaluate(SCHEME, True)
    found += [f"dark: {one}" for one in violations(page, "color-contrast", "link-in-text-block")]
    page.evaluate(SCHEME, False)
    return found
