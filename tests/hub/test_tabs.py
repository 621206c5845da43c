"""Every tab of the full set through its public endpoint, on a hub of random weights: twice, stopped, under a small budget, again and again."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from gradio_client import Client, handle_file
from PIL import Image

import app
from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.files import write_safetensors
from pipelines.core import images
from pipelines.core.lane import run_blocking
from pipelines.core.registry import Registry
from pipelines.golden_noise import parts as golden_noise_parts
from pipelines.instant_style import STYLE
from pipelines.models import sdxl
from pipelines.worlds import portrait as heads
from tests.environment import free_port
from tests.hub.server import Hub
from tests.toys.portrait_full import marked

pytestmark = pytest.mark.long

PORTRAIT = 256
"""Side of the portraits' square; NPNet needs the 1,024 pixels that SDXL has."""
Called = Callable[..., tuple[Any, ...]]


@dataclasses.dataclass
class Studio:
    registry: Registry
    client: Any

    def states(self) -> dict[str, str]:
        return {row["key"]: row["state"] for row in self.registry.status()}


@pytest.fixture(scope="module")
def studio(hub: Hub) -> Iterator[Studio]:
    """The app with the full set, in this process, and the authors' vectors of humour in a copy of their repository."""
    for name in ("Mistral-7B-Instruct-v0.1", "Llama-2-7b-chat-hf"):
        folder = Path(os.environ["LATENT_STUDIO_MODELS"]) / "concept-guidance" / "trained_concepts" / name
        folder.mkdir(parents=True)
        drawn = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
        write_safetensors(folder / "humor.dim.safetensors", Concept("humor", drawn))
    registry, port = Registry("cpu"), free_port()
    page = app.build(registry, "full")
    app.serve(page, "127.0.0.1", port, block=False, model_set="full")
    yield Studio(registry, Client(f"http://127.0.0.1:{port}", verbose=False))
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return sent_files(tmp_path_factory.mktemp("sent"))


def sent_files(folder: Path) -> dict[str, Path]:
    """A picture and a mask; pictures of a person and a reference, with what the toy detector takes for a face."""
    noise = numpy.random.default_rng(0)
    scene = noise.integers(0, 255, (128, 192, 3), dtype=numpy.uint8)
    mask = numpy.zeros((128, 192), numpy.uint8)
    mask[40:80, 60:110] = 255
    shots = [heads.Portrait(heads.sample_identity(11), heads.sample_shot(seed)) for seed in (1, 2)]
    made = heads.render([*shots, heads.sample(203)], (320, 320)).image
    people = [marked(numpy.asarray(one)) for one in images.to_pil(made)]
    pictures = {"scene": scene, "mask": mask, **dict(zip(("one", "two", "reference"), people, strict=True))}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


# --- one call a tab ---


def golden_noise(studio: Studio, files: dict[str, Path], source: str = "npnet", **more: Any) -> tuple[Any, ...]:
    asked = {"seed": 7, "steps": 2, "guidance": 5.0, "strength": 1.0, "source": source, "model_set": "full"}
    return studio.client.predict(prompt="the moon", **{**asked, **more}, api_name="/golden_noise")


def few_steps(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return golden_noise(studio, files, base="ssd-1b-lcm", guidance=1.0)


def solver(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return golden_noise(studio, files, "redenoise_released", sampler="dpm")


def redenoised(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return golden_noise(studio, files, "redenoise")


def layers(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    asked = {"places": STYLE, "words": "", "count": 1, "seed": 7, "steps": 2, "model_set": "full"}
    return studio.client.predict(prompt_a="a cat", prompt_b="a watercolour", **asked, api_name="/instant_style")


def style(studio: Studio, files: dict[str, Path], strategy: str = "style and layout") -> tuple[Any, ...]:
    asked = {"prompt": "a cat", "content": "a face", "strategy": strategy, "strength": 1.0, "count": 1, "seed": 7}
    sent = {"picture": handle_file(files["one"]), **asked, "steps": 2, "model_set": "full"}
    return studio.client.predict(**sent, api_name="/instant_style_picture")


def removal(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    sent = {name: handle_file(files[file]) for name, file in (("image", "scene"), ("mask", "mask"))}
    return studio.client.predict(**sent, seed=3, steps=2, model_set="full", api_name="/remove_object")


def portrait(studio: Studio, files: dict[str, Path], mode: str = "instant", person: Any = None) -> tuple[Any, ...]:
    pictures = None if person else [handle_file(files[name]) for name in ("one", "two")]
    with small_portraits():
        return studio.client.predict(
            person=handle_file(person) if person else None,
            pictures=pictures,
            reference=handle_file(files["reference"]),
            mode=mode,
            seed=3,
            candidates=1,
            consent=True,
            model_set="full",
            api_name="/portrait",
        )


def talk(studio: Studio, files: dict[str, Path], model: str = "", **more: Any) -> tuple[Any, ...]:
    asked = {"concepts": {}, "max_tokens": 8, "temperature": 0.7, "seed": 1, "model": model, "model_set": "full"}
    return studio.client.predict(prompt="tell a joke", **{**asked, **more}, api_name="/guide")


def mistral(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return talk(studio, files, "mistral-7b-instruct", concepts={"humor": 0.3})


def llama(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return talk(studio, files, "llama-2-7b-chat", concepts={"humor": -0.3})


def small_qwen(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    return talk(studio, files, "qwen2.5-0.5b")


def by_stage(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    asked = {"borders": False, "count": 1, "seed": 7, "steps": 2, "guidance": 5.0, "model_set": "full"}
    return studio.client.predict(prompts="the moon\nthe sun", plan="AAAAABBBBB", **asked, api_name="/prospect")


def inverted(studio: Studio, files: dict[str, Path]) -> tuple[Any, ...]:
    asked = {
        "start": "word",
        "learn_steps": 2,
        "rate": 0.1,
        "seed": 7,
        "steps": 2,
        "guidance": 5.0,
        "model_set": "full",
    }
    made, drawn, _facts = studio.client.predict(
        picture=handle_file(files["scene"]), **asked, api_name="/invert_picture"
    )
    plan = {
        "prompts": "the moon\npicture 1",
        "plan": "BBBBBAAAAA",
        "pictures": [handle_file(made)],
        "model_set": "full",
    }
    return drawn, *studio.client.predict(**plan, borders=False, steps=2, api_name="/prospect")


TABS: dict[str, Called] = {
    one.__name__: one
    for one in (
        *(golden_noise, few_steps, solver, redenoised, layers, style, by_stage, inverted, removal, portrait),
        *(talk, small_qwen, mistral, llama),
    )
}


@contextlib.contextmanager
def small_portraits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sdxl.FIRST, "full", dataclasses.replace(sdxl.FIRST["full"], size=PORTRAIT))
        yield


def content(answer: tuple[Any, ...]) -> list[bytes]:
    """The files and texts of an answer; measurements have seconds in them."""
    texts = [item for item in answer if isinstance(item, str)]
    return [Path(text).read_bytes() if text.endswith(".png") else text.encode() for text in texts]


# --- what they do ---


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_answers_twice_with_the_same_bytes(studio: Studio, files: dict[str, Path], tab: str):
    first, second = (content(TABS[tab](studio, files)) for _ in range(2))
    assert len(first) >= 1 and first == second
    assert all(len(part) > 0 for part in first) or tab in ("talk", "small_qwen", "mistral", "llama")


def test_a_removal_leaves_what_is_outside_of_the_mask(studio: Studio, files: dict[str, Path]):
    result, _before, _after, facts = removal(studio, files)
    made, scene = (numpy.asarray(Image.open(path).convert("RGB")) for path in (result, files["scene"]))
    changed = (made != scene).any(-1)
    assert changed[45:75, 65:105].mean() > 0.5 and not changed[:, :40].any() and not changed[110:].any()
    assert {model["key"] for model in facts["models"]} >= {"flux-fill-dev/transformer", "georemover/adapters/stage1"}


def test_a_person_is_learnt_and_makes_a_portrait(studio: Studio, files: dict[str, Path]):
    with small_portraits():
        person, facts = studio.client.predict(
            pictures=[handle_file(files[name]) for name in ("one", "two")],
            name="Ada",
            seconds=2,
            seed=0,
            consent=True,
            model_set="full",
            api_name="/train_person",
        )
    assert facts["model_set"] == "full" and facts["steps"] >= 1
    first, second = (content(portrait(studio, files, "trained", person)) for _ in range(2))
    assert first == second
    with pytest.raises(Exception, match="tick that everybody in them is of age and agrees"):
        studio.client.predict(
            pictures=[handle_file(files["one"])], name="Ada", seconds=2, seed=0, consent=False, model_set="full",
            api_name="/train_person",
        )  # fmt: skip


def test_a_vector_is_learnt_and_guides_the_model_that_knows_none(studio: Studio, files: dict[str, Path]):
    examples = "\n".join(
        f"{sign} question {n} => {word} answer {n}" for n in range(6) for sign, word in (("+", "funny"), ("-", "the"))
    )
    asked = {"examples": examples, "name": "fun", "probe": "dim", "seed": 0, "model": "", "model_set": "full"}
    facts, vector = studio.client.predict(**asked, api_name="/train_concept")
    assert len(facts["validation_accuracy"]) == 28
    plain, guided, details = talk(studio, files, vector=handle_file(vector), concepts={"fun": 0.8})
    assert "fun" in details["applied"] and plain != guided


@pytest.mark.parametrize("model", ["", "mistral-7b-instruct", "llama-2-7b-chat"])
def test_a_system_message_is_taken_or_said_not_to_be(studio: Studio, files: dict[str, Path], model: str):
    messages = [{"role": "system", "content": "You are funny."}, {"role": "user", "content": "hello"}]
    asked = {"concepts": {}, "max_tokens": 4, "seed": 1, "model": model, "model_set": "full", "api_name": "/guide"}
    if model.startswith("mistral"):
        with pytest.raises(Exception, match="takes no system message: put what it says into the first message"):
            studio.client.predict(prompt=messages, **asked)
    else:
        assert studio.client.predict(prompt=messages, **asked)[2]["unguided"] is not None


class Starting:
    """A client that begins a call and does not wait for it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def predict(self, **asked: Any) -> tuple[Any, ...]:
        return (self.client.submit(**asked),)


@pytest.mark.parametrize("tab", ["golden_noise", "removal", "portrait", "talk"])
def test_a_stopped_run_ends_and_the_next_is_as_ever(studio: Studio, files: dict[str, Path], tab: str):
    wanted = content(TABS[tab](studio, files))
    (call,) = TABS[tab](dataclasses.replace(studio, client=Starting(studio.client)), files)
    time.sleep(0.3)
    began = time.monotonic()
    call.cancel()
    run_blocking(lambda job: None)  # the lane is free again
    assert time.monotonic() - began < 30
    assert not [row for row in studio.registry.status() if row["leased"]]
    assert content(TABS[tab](studio, files)) == wanted


def test_under_a_budget_for_one_tab_every_tab_answers(studio: Studio, files: dict[str, Path]):
    """Without portraits and styles of pictures: what IP-Adapter's tensors take is declared, never measured, so that a toy's budget has no room for them."""
    tabs = {tab: call for tab, call in TABS.items() if tab not in ("portrait", "style")}
    wanted = {tab: content(call(studio, files)) for tab, call in tabs.items()}
    sizes = {row["key"]: row["bytes"] for row in studio.registry.status()}
    studio.registry.free()
    largest = sum(sizes[spec.key] for spec in golden_noise_parts("full").values())
    studio.registry._limits["ram"] = int(largest * 1.02)
    try:
        for tab, call in tabs.items():
            assert content(call(studio, files)) == wanted[tab], tab
            assert studio.registry.summary()["ram_bytes"] <= studio.registry.summary()["ram_budget"]
        assert "cold" in {studio.states()[spec.key] for spec in golden_noise_parts("full").values()}, "it had to go"
    finally:
        studio.registry._limits["ram"] = None
        studio.registry.free()


def test_ten_rounds_of_all_tabs_return_their_memory(studio: Studio, files: dict[str, Path]):
    def held() -> int:
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # what the allocator keeps depends on what ran before in this process
        return psutil.Process().memory_info().rss

    def round_() -> None:
        for call in TABS.values():
            call(studio, files)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, UNet2DConditionModel | FluxTransformer2DModel) for one in gc.get_objects())

    studio.registry.free()
    others = alive()  # of other tests
    round_()
    after_one = held()
    for _ in range(9):
        round_()
    after_ten = held()
    assert after_ten <= 1.05 * after_one, f"{after_ten / 2**20:.0f} MiB, {after_one / 2**20:.0f} after the first round"
    studio.registry.free()
    assert studio.registry.summary()["ram_bytes"] == 0
    assert alive() <= others
