"""Two threads may import our modules at once: what they need of diffusers and transformers comes whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipelines.core.weights import ROOT

GUARDED = ("accelerate", "controlnet_aux", "diffusers", "peft", "timm", "transformers")
DOOR = "pipelines.core.libraries"
AT_ONCE = """
import importlib, sys, threading
names, wrong = sys.argv[1:], []
start = threading.Barrier(len(names))
def load(name):
    start.wait()
    try:
        importlib.import_module(name)
    except BaseException as error:
        wrong.append(f"{name}: {error}")
threads = [threading.Thread(target=load, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
for name in names:
    held = getattr(sys.modules.get(name), "diffusers", None)
    if held is not None and not hasattr(held, "UNet2DConditionModel"):
        wrong.append(f"{name} holds half of diffusers")
sys.exit("; ".join(wrong) or 0)
"""


@pytest.mark.parametrize(
    "names",
    [
        ("pipelines.models.sdxl_parts", "pipelines.golden_noise.arms", "pipelines.models.language_parts"),
        pytest.param(
            ("pipelines.models.verifier", "pipelines.models.flux_parts", "pipelines.megaportrait.trainer"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_threads_that_import_at_once_get_whole_modules(names: tuple[str, ...]):
    """Without the door each of these fails every time, and what a page had bound stayed half until the studio was started again."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, *names], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_module_goes_through_the_door():
    for folder in ("pipelines", "demos"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != ROOT / (DOOR.replace(".", "/") + ".py"):
                imported = [name for name, _line in imports(ast.parse(path.read_text()))]
                first = next((i for i, name in enumerate(imported) if name.partition(".")[0] in GUARDED), None)
                assert first is None or DOOR in imported[:first], f"{path}: import {DOOR} before {imported[first]}"


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is imported, in the order of the lines, without what is for the type checker."""
    found = []
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.lineno))
        nodes += ast.iter_child_nodes(node)
    return iter(sorted(found, key=lambda one: one[1]))
