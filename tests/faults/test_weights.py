"""Weights that are cut short, gone or of something else; loaders that raise; memory that ends in the work.

The parts are those that the registry of the page declares, so a new paper's are among them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file

from demos.core import tabs
from demos.core.handlers import explain
from pipelines import concept_guidance, golden_noise
from pipelines.concept_guidance.vectors import parts
from pipelines.core.lane import run_blocking
from pipelines.core.registry import OutOfBudget, Registry
from pipelines.core.weights import ModelSpec
from pipelines.megaportrait import trainer
from pipelines.models.language import MODELS
from tests.faults.copies import ROOT, assets_in, restore, write


@functools.cache
def declared() -> tuple[ModelSpec, ...]:
    """Every part of the small set that the page declares."""
    registry = Registry("cpu")
    with gr.Blocks():
        for tab in tabs.discover():
            with gr.Tab(tab.name):
                tab.build(registry, "mini")
    parts = tuple(part.spec for part in registry._parts.values())
    assert len(parts) > 20
    return parts


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to all assets, which the registry reads instead."""
    assets_in(tmp_path)
    for module in ("pipelines.core.weights", "pipelines.concept_guidance.vectors"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    return tmp_path


def files_of(spec: ModelSpec, folder: Path) -> list[Path]:
    """What the part is loaded from, one of each ending: weights, settings, words."""
    own = spec.key.rsplit("/", 1)[1]
    names = sorted(spec.sha256)
    if "mini-llama" in spec.key:
        wanted = {
            "model": ("model.safetensors", "config.json"),
            "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
        }
        names = [name for name in names if name in wanted.get(own, ()) or own == "vectors"]
    by_ending = {Path(name).suffixes[-1] + name.count("stage") * "s": name for name in names if "index" not in name}
    return [folder / spec.source / name for name in by_ending.values()]


def wrong_shapes(path: Path) -> bytes:
    tensors = {name: torch.zeros(*value.shape, 2) for name, value in load_file(path).items()}
    save_file(tensors, path.with_suffix(".made"))
    return path.with_suffix(".made").read_bytes()


def wrong_type(path: Path) -> bytes:
    tensors = {name: value.to(torch.int16) for name, value in load_file(path).items()}
    save_file(tensors, path.with_suffix(".made"))
    return path.with_suffix(".made").read_bytes()


FAULTS: dict[str, Callable[[Path], bytes]] = {
    "cut short": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "empty": lambda path: b"",
    "garbage": lambda path: bytes(range(256)) * 40,
    "a pointer": lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "other JSON": lambda path: b"[1, 2, 3]",
    "wrong shapes": wrong_shapes,
    "wrong type": wrong_type,
}


def refused(registry: Registry, spec: ModelSpec) -> str:
    """What a visitor is told; nothing of the part stays."""
    try:
        run_blocking(lambda job: registry.run(spec, lambda part: None))
    except Exception as error:
        told = explain(error)
    else:
        return ""
    row = next(row for row in registry.status() if row["key"] == spec.key)
    assert (row["state"], row["leased"], registry.summary()["ram_bytes"]) == ("failed", False, 0), row
    assert registry._parts[spec.key].obj is None
    return told


def tried(spec: ModelSpec, folder: Path, faults: list[str]) -> None:
    """Each fault in each file, with the hashes of the manifest and without, as where that is lost."""
    for path in files_of(spec, folder):
        for fault in [*faults, "missing"]:
            weights = path.suffix == ".safetensors"
            if fault.startswith("wrong") and not weights:
                continue
            if fault == "missing":
                path.unlink()
            else:
                write(path, FAULTS[fault](path))
            told = refused(Registry("cpu"), spec)
            assert spec.key in told.lower() or spec.key in told, (fault, path.name, told)
            assert str(folder) not in told and "side" not in told and "\n" not in told, told
            assert any(word in told for word in ("git checkout", "restore", "put back")), told
            bare = dataclasses.replace(spec, sha256={})
            told = refused(Registry("cpu"), bare)
            # Without hashes a library may do without a file, or take numbers of another type.
            if told:
                assert spec.key in told.lower() or path.name in told or "LoRA" in told, (fault, path.name, told)
                assert str(folder) not in told and "side" not in told and "\n" not in told, told
            else:
                assert fault in ("wrong type", "missing", "other JSON") or not weights, (fault, path.name)
            restore(path, folder)
        assert refused(Registry("cpu"), spec) == "", "the right file is back"


def test_a_damaged_part_is_named_with_what_to_do_and_the_right_file_is_enough(copy: Path):
    spec = golden_noise.parts("mini", "npnet")["unet"]
    for one in (next(s for s in golden_noise.parts("mini", "npnet").values() if s.key.endswith("/unet")), spec):
        tried(one, copy, ["cut short", "garbage"])


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_every_part_damaged_in_every_way(copy: Path, fault: str):
    for spec in declared():
        tried(spec, copy, [fault])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "other JSON"])
def test_the_other_people_of_a_training_are_not_left_out_without_a_word(
    copy: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    path = copy / trainer.PEOPLE.relative_to(ROOT)
    monkeypatch.setattr(trainer, "PEOPLE", path)
    latents, states = torch.zeros(1, 4, 32, 32), torch.zeros(1, 40, 192)
    assert len(trainer._others(latents, states)[0]) == 64
    assert trainer._others(latents[..., 1:], states) is None, "of another model they are nobody"
    write(path, FAULTS[fault](path))
    with pytest.raises(ValueError, match=r"mini_controlnets/others\.safetensors are damaged: put back"):
        trainer._others(latents, states)


def test_every_file_that_a_part_is_loaded_from_is_checked_by_its_hash():
    """Settings and words too: with others the model would draw something else, and nobody would say so."""
    checked = {(ROOT / spec.source / name).resolve() for spec in declared() for name in spec.sha256}
    unread = ("manifest.json", "evaluation.json", "model_index.json", "curve.json")
    for spec in declared():
        for path in (ROOT / spec.source).rglob("*"):
            read = path.suffix in (".json", ".safetensors", ".jinja") and path.name not in unread
            assert (
                not read
                or {"ablations", "state"} & set(path.parts)
                or path.name == "others.safetensors"
                or path.resolve() in checked
            ), path


def test_a_run_with_a_damaged_file_is_told_and_the_next_is_the_same_to_the_byte(copy: Path):
    registry, settings = Registry("cpu"), golden_noise.Settings("a red cube on a wooden floor", seed=3, steps=1)
    first = run_blocking(golden_noise.generate, registry, settings)
    unet = copy / "assets/mini_sdxl2/unet"
    path = next(unet.glob("*.safetensors"))
    write(path, path.read_bytes()[:1000])
    assert registry.free() > 0
    for _ in range(2):
        with pytest.raises(ValueError, match="mini-sdxl2/unet"):
            run_blocking(golden_noise.generate, registry, settings)
    assert answers(registry), "another tab works meanwhile"
    restore(path, copy)
    again = run_blocking(golden_noise.generate, registry, settings)
    assert again.golden.tobytes() == first.golden.tobytes() and again.standard.tobytes() == first.standard.tobytes()


def answers(registry: Registry) -> str:
    settings = concept_guidance.Settings("What does the goat eat?", (("humour", 0.3),), seed=7, max_tokens=4)
    return run_blocking(concept_guidance.generate, registry, settings).rows[-1].text


@pytest.mark.parametrize(
    "error",
    [ValueError, RuntimeError, OSError, MemoryError, KeyError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration],
)  # fmt: skip
def test_a_loader_that_raises_anything_leaves_the_lane_and_the_registry_whole(error: type[BaseException]):
    asked: list[int] = []

    def load(spec: ModelSpec) -> Any:
        asked.append(1)
        if len(asked) <= 2:
            raise error("a library’s own words")
        return "loaded"

    registry, spec = Registry("cpu"), ModelSpec("some/part", "assets/mini_sdxl", load, "MIT", 1)
    told = refused(registry, spec)
    assert told.endswith(".") and (error is not MemoryError or "some/part" in told)
    if error is MemoryError:
        assert len(asked) == 2, "it is tried once more with everything idle let go of"
    elif len(asked) == 1:
        refused(registry, spec)
    assert run_blocking(lambda job: registry.run(spec, lambda part: part)) == "loaded"


OOM = {
    "python": lambda: bytearray(2**62),
    "torch": lambda: torch.empty(2**50),
    "gpu": lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
}


@pytest.mark.parametrize("kind", OOM)
def test_memory_that_ends_in_the_work_is_given_back_and_the_next_run_is_right(kind: str):
    registry = Registry("cpu")
    before = answers(registry)
    with leased(registry, "mini-llama/model") as (model,):
        handle = model.register_forward_pre_hook(lambda *_: OOM[kind]())
    try:
        with pytest.raises(OutOfBudget, match="start a new conversation or ask for fewer tokens") as caught:
            answers(registry)
    finally:
        handle.remove()
    told = explain(caught.value)
    assert ("GPU" if kind == "gpu" else "RAM") in told and "picture" not in told
    assert [row["key"] for row in registry.status() if row["leased"]] == []
    assert answers(registry) == before


def leased(registry: Registry, key: str) -> Any:
    return registry.lease(next(spec for spec in parts(MODELS["mini"][0]).values() if spec.key == key))
