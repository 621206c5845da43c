"""A paper is added by adding its files and touching nothing else; ``tests/example`` is the example that CONTRIBUTING tells."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

import app
import demos
import pipelines
from demos.core import handlers, links, tabs
from pipelines.core import images
from tests.core.test_app import ROOT, visit

EXAMPLE = ROOT / "tests" / "example"
ASKED = {"prompt": "a red cube on a wooden floor", "seed": 3, "steps": 2, "backbone": 1.4, "skip": 0.6}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """The app with the paper in folders of its own."""
    folder = tmp_path_factory.mktemp("paper")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "__path__", [*pipelines.__path__, str(folder / "pipelines")])
        patch.setattr(demos, "__path__", [*demos.__path__, str(folder / "demos")])
        yield app.build(app.from_environment())
    for name in ("pipelines.freeu", "demos.freeu"):
        sys.modules.pop(name)


def handler(page: gr.Blocks, name: str, public: bool = False):
    visible = "public" if public else "private"
    return next(f.fn for f in page.fns.values() if f.fn and f.fn.__name__ == name and f.api_visibility == visible)


def test_the_tab_and_its_endpoint_are_there(page: gr.Blocks):
    assert "freeu" in [tab.slug for tab in tabs.discover()]
    assert {block.label for block in page.blocks.values() if isinstance(block, gr.Tab)} >= {"FreeU", "Golden Noise"}
    told = page.get_api_info()["named_endpoints"]["/freeu"]
    assert [one["parameter_name"] for one in told["parameters"]] == [*ASKED, "model_set"]
    assert [one["label"] for one in told["returns"]] == ["plain", "freed", "measurements"]
    assert "steps 1 to 100, backbone 0.5 to 2" in told["description"]


def test_it_runs_shows_its_progress_and_is_kept(page: gr.Blocks):
    asked = ASKED | {"steps": 30}  # twice; on a fast machine four are over before the first is told
    updates = list(handler(page, "freeu_page")(visit("free"), [], **asked))
    words = [value for update in updates if isinstance(update, dict) for value in update.values()]
    assert any("Step " in str(value) and " of 60" in str(value) for value in words)
    paths = [value for value in updates[-1].values() if isinstance(value, str) and value.endswith(".png")]
    assert len(paths) == 2
    plain, freed = (Image.open(path) for path in paths)
    assert plain.size == freed.size and plain.tobytes() != freed.tobytes()
    record = images.read_settings(paths[0], tab="freeu")["settings"]
    assert {name: record[name] for name in ASKED} == asked
    entries = next(value for value in updates[-1].values() if isinstance(value, list) and value)
    assert entries[0].outcome.paths == tuple(paths), "it is among the results"


def test_a_file_gives_its_settings_back(page: gr.Blocks):
    (update,) = list(handler(page, "freeu_page")(visit("kept"), [], **ASKED))[-1:]
    path = next(value for value in update.values() if isinstance(value, str) and value.endswith(".png"))
    assert links.tab_of(path) == "freeu"
    back = links.LINKS["freeu"].restore(path)
    assert {value for value in back.values() if value is not None} >= set(ASKED.values())


def test_a_stopped_run_says_so(page: gr.Blocks):
    run = handler(page, "freeu_page")(visit("stop"), [], **(ASKED | {"steps": 50}))
    seen = [next(run)]
    while "Step" not in str(seen[-1]):
        seen.append(next(run))
    assert handlers.stop_run(visit("stop"))
    seen += list(run)
    assert "progress-line stopped" in str(seen[-1]) and not any("freed.png" in str(update) for update in seen)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prompt", " ", "The prompt is empty"),
        ("steps", 0, "number of steps is 0 but must be a whole number from 1 to 100"),
        ("backbone", "much", "The backbone factor is .much. but must be a number"),
        ("model_set", "full", "This server runs the model set mini, not full"),
    ],
)
def test_what_is_wrong_is_one_sentence(page: gr.Blocks, name: str, value: object, words: str):
    asked = ASKED | {"model_set": "mini", name: value}
    with pytest.raises(gr.Error, match=words):
        list(handler(page, "freeu", public=True)(visit("wrong"), *asked.values()))


def test_its_page_is_short():
    lines = (EXAMPLE / "demos/freeu/__init__.py").read_text().splitlines()
    assert len(lines) <= 40
    assert len([path for path in Path(EXAMPLE).rglob("*") if path.is_file() and "__pycache__" not in path.parts]) <= 3
