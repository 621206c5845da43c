"""The house: which folder may import which, what is declared, a paper in its files."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import gradio as gr
import pytest

import app
import demos
from demos.core import page_state, tabs
from tests.core.test_app import ROOT, TABS, python


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports anywhere, with the package of relative imports filled in."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def within(modules: set[str], *packages: str) -> set[str]:
    return {m for m in modules if any(m == package or m.startswith(f"{package}.") for package in packages)}


LAYERS = {"pipelines": ("core", "worlds", "models"), "demos": ("core",)}
"""Of each tree from the lowest up; above them the papers, beside each other."""


def above(path: Path) -> tuple[str, ...]:
    """The packages that a file may not import."""
    tree, room = path.relative_to(ROOT).parts[:2]
    folders = [child.name for child in (ROOT / tree).iterdir() if (child / "__init__.py").exists()]
    layers = LAYERS[tree]
    rank = layers.index(room) if room in layers else len(layers)
    higher = [name for name in folders if (layers.index(name) if name in layers else len(layers)) > rank]
    beside = [name for name in folders if name not in layers and name != room] if rank == len(layers) else []
    others = beside if tree == "demos" and room not in layers else []
    more = [f"pipelines.{name}" for name in others]
    return (*(f"{tree}.{name}" for name in (*higher, *beside)), *more, "app", "assets", "tests")


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_pipelines_import_nothing_from_above(path: Path):
    assert not within(imports_of(path), "gradio", "demos", *(above(path) if path.parent.name != "pipelines" else ()))


@pytest.mark.parametrize("path", sorted((ROOT / "demos").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_demos_import_nothing_from_above(path: Path):
    assert not within(imports_of(path), *(above(path) if path.parent.name != "demos" else ()))


def test_every_widget_of_the_page_is_meant_and_no_event_takes_a_page_of_loose_values():
    """An update that is made while the page is built would be one more widget, without a label."""
    fields = [b for b in app.demo.blocks.values() if isinstance(b, page_state.FORM) and b.visible is True]
    assert fields and not [type(block) for block in fields if not block.label]
    for event in app.demo.fns.values():
        loose = len(event.inputs) - len(event.input_keyword_names or ())
        assert loose <= 12, f"{event.name} takes {loose}"


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.slug)
def test_a_tab_is_three_files_and_imports_no_other_paper(tab: tabs.Tab):
    for place in (ROOT / "pipelines", ROOT / "demos"):
        assert (place / tab.slug / "__init__.py").exists(), f"{place.name} has no folder for the tab {tab.slug}"
    assert list((ROOT / "tests" / tab.slug).glob("test_*.py")), f"the tab {tab.slug} has no test"


OWN = ("app", "pipelines", "demos", "assets", "tests")


def module_file(name: str) -> Path | None:
    """The file of one of our modules; None where there is none."""
    place = ROOT.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.exists()), place if place.is_dir() else None)


def defined_in(path: Path) -> set[str]:
    """The names that a module has at its top level, those of ``if`` and ``try`` blocks included."""
    if path.is_dir():
        return set()
    tree, names = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("tree", ["pipelines", "demos", "assets", "tests"])
def test_every_import_is_there(tree: str):
    """Also those inside functions, which would fail only when somebody needs them."""
    defined = functools.cache(defined_in)
    for path in (ROOT / tree).rglob("*.py"):
        if "example" in path.parts:  # a paper that is not in the tree
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level or node.module.split(".")[0] not in OWN:
                continue
            file = module_file(node.module)
            assert file is not None, f"{path}: {node.module}"
            for alias in node.names:
                here = alias.name in defined(file) or "__getattr__" in defined(file)
                assert here or module_file(f"{node.module}.{alias.name}"), f"{path}: {node.module}.{alias.name}"


def test_importing_the_app_imports_no_model_library():
    code = "import app, sys; print([m for m in ('torch', 'diffusers', 'transformers', 'timm') if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_a_new_tab_is_found_without_touching_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "echo_paper.py").write_text(
        "import gradio as gr\n"
        "from demos.core.tabs import Tab\n"
        "from demos.core.widgets import paper_card\n"
        "from pipelines.core.paper import Paper\n"
        "PAPER = Paper('Echoes', ('A. Uthor',), 'Nowhere 2030', 'https://example.org', 'v', 'x', 'y', 'z', 'w')\n"
        "TAB = Tab('Echo', 'echo_paper', 5, lambda registry, model_set: paper_card(PAPER), PAPER)\n"
    )
    monkeypatch.setattr(demos, "__path__", [*demos.__path__, str(tmp_path)])
    assert [tab.slug for tab in tabs.discover()][:2] == ["echo_paper", "golden_noise"]
    page = app.build(app.from_environment())
    assert {block.label for block in page.blocks.values() if isinstance(block, gr.Tab)} >= {"Echo", "Golden Noise"}
    sys.modules.pop("demos.echo_paper")


DISTRIBUTIONS = {
    "controlnet_aux": "controlnet-aux",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
}
"""Where a library is not imported by the name under which it is installed."""
BROUGHT = {"spaces": "by ZeroGPU itself", "ray": "by the extra of that name"}


def test_what_is_imported_is_declared():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {re.match(r"[\w-]+", line)[0].lower() for line in lines if line and not line.startswith("#")}
    assert "pydantic" not in names
    assert 'file = ["requirements.txt"]' in (ROOT / "pyproject.toml").read_text()
    missing = [name for name in names if importlib.metadata.version(name) is None]
    assert not missing
    files = [ROOT / "app.py", *(path for tree in OWN[1:4] for path in (ROOT / tree).rglob("*.py"))]
    imported = {module.split(".")[0] for path in files for module in imports_of(path)}
    theirs = imported - set(sys.stdlib_module_names) - set(OWN) - set(BROUGHT)
    undeclared = {module for module in theirs if DISTRIBUTIONS.get(module, module).lower() not in names}
    assert not undeclared
