"""The registry's promises. Budgets and moves are tried on the CPU, with a recorder in place of `.to("cuda")`."""

import os
import random
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.core.registry import OutOfBudget, Registry, default_ram_bytes, from_environment
from pipelines.core.weights import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
MB = 10**6


def linear(spec: ModelSpec) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, spec.bytes // 4000, 1000, bias=False)


def part(key: str, megabytes: float, load: Any = linear, **kwargs: Any) -> ModelSpec:
    return ModelSpec(key=key, source="", load=load, licence="Apache-2.0", bytes=int(megabytes * MB), **kwargs)


class Mover:
    """Stands in for `.to(device)`: remembers the moves, and can run out of memory."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, str]] = []
        self.fail_next = 0

    def __call__(self, module: nn.Module, device: str) -> nn.Module:
        if device == "cuda" and self.fail_next:
            self.fail_next -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. (made by the test)")
        self.moves.append((id(module), device))
        return module


def on_gpu(gpu_mb: float = 20, ram_mb: float = 16) -> Registry:
    return Registry("cuda", gpu_bytes=int(gpu_mb * MB), ram_bytes=int(ram_mb * MB), move=Mover())


def states(registry: Registry) -> dict[str, str]:
    return {row["key"]: row["state"] for row in registry.status()}


def row(registry: Registry, key: str) -> dict[str, Any]:
    return next(row for row in registry.status() if row["key"] == key)


def touch(registry: Registry, *specs: ModelSpec) -> None:
    with registry.lease(*specs):
        pass


def leased(registry: Registry) -> list[str]:
    return [row["key"] for row in registry.status() if row["leased"]]


# ---- lazy, shared, in order ----


def test_nothing_is_loaded_before_the_first_lease_and_only_once():
    loads = []

    def load(spec: ModelSpec) -> nn.Module:
        loads.append(spec.key)
        return linear(spec)

    registry, spec = Registry("cpu"), part("a", 4, load)
    registry.declare(spec)
    assert (states(registry), loads) == ({"a": "cold"}, [])
    touch(registry, spec)
    touch(registry, spec)
    assert loads == ["a"]
    assert (row(registry, "a")["state"], row(registry, "a")["uses"]) == ("ram", 2)
    assert row(registry, "a")["load_seconds"] > 0


def test_the_same_key_is_the_same_object_in_one_lease_and_in_two():
    registry = Registry("cpu")
    with registry.lease(part("a", 4), part("b", 4), part("a", 4)) as (one, other, again):
        assert one is again
        assert one is not other
        with registry.lease(part("a", 4)) as (nested,):
            assert nested is one
    with registry.lease(part("a", 4)) as (later,):
        assert later is one
    assert row(registry, "a")["uses"] == 3


def test_one_key_for_two_different_things_is_refused():
    registry = Registry("cpu")
    registry.declare(part("a", 4))
    with pytest.raises(ValueError, match=r"key 'a' is already .* float32, not .* float16: give one of them another"):
        touch(registry, part("a", 4, dtype="float16"))


def test_shared_models_come_in_eval_mode_without_gradients_and_measured():
    registry = Registry("cpu")
    spec = part("a", 1, lambda spec: nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10)).train())
    with registry.lease(spec) as (net,):
        assert not any(module.training for module in net.modules())
        assert not any(weight.requires_grad for weight in net.parameters())
    assert row(registry, "a")["bytes"] == (100 + 10 + 4 * 10) * 4 + 8  # batch norm counts its batches in int64


def test_things_that_are_no_modules_are_kept_and_never_moved():
    registry = on_gpu()
    words = part("words", 1, lambda spec: {"cat": 1})
    with registry.lease(words, part("m", 4)) as (vocabulary, _):
        assert vocabulary == {"cat": 1}
    registry.free()
    assert states(registry) == {"words": "ram", "m": "ram"}
    assert row(registry, "words")["bytes"] == MB
    assert len(registry._move.moves) == 2  # the module there and back


# ---- budgets and eviction ----


def test_least_recently_used_goes_first():
    registry, m = on_gpu(), [part(f"m{i}", 6) for i in range(4)]
    for index in (0, 1, 0, 2, 3):
        touch(registry, m[index])
    assert states(registry) == {"m0": "gpu", "m1": "ram", "m2": "gpu", "m3": "gpu"}


def test_what_does_not_fit_in_ram_either_is_forgotten_least_recently_used_first():
    registry, m = on_gpu(gpu_mb=6, ram_mb=13), [part(f"m{i}", 6) for i in range(5)]
    for spec in m:
        touch(registry, spec)
    assert states(registry) == {"m0": "cold", "m1": "cold", "m2": "ram", "m3": "ram", "m4": "gpu"}


def test_cpu_mode_keeps_within_the_ram_budget():
    registry, m = Registry("cpu", ram_bytes=13 * MB), [part(f"m{i}", 6) for i in range(3)]
    for index in (0, 1, 0, 2):
        touch(registry, m[index])
    assert states(registry) == {"m0": "ram", "m1": "cold", "m2": "ram"}


def test_a_part_in_ram_moves_on_before_the_next_one_is_loaded():
    """Together they fit on the GPU, but not in RAM, through which both have to go."""
    registry, small, large = on_gpu(ram_mb=16), part("small", 6), part("large", 12)
    touch(registry, small)
    registry.free()
    touch(registry, large, small)
    assert states(registry) == {"small": "gpu", "large": "gpu"}


def test_room_is_made_before_loading():
    """At no moment, not even while loading, is more in RAM than the budget."""
    registry = Registry("cpu", ram_bytes=13 * MB)
    held = []

    def load(spec: ModelSpec) -> nn.Module:
        held.append(registry.summary()["ram_bytes"] + spec.bytes)
        return linear(spec)

    for index in range(4):
        touch(registry, part(f"m{index}", 6, load))
    assert max(held) <= 13 * MB


@pytest.mark.parametrize("registry", [on_gpu(), Registry("cpu", ram_bytes=20 * MB)], ids=["cuda", "cpu"])
def test_too_big_is_refused_before_anything_is_loaded_or_moved(registry):
    loads = []
    touch(registry, part("before", 4))
    state = states(registry)["before"]
    big = [part(f"b{i}", 12, lambda spec: loads.append(spec.key)) for i in range(2)]
    words = r"b0 \+ b1 needs 22\.9 MiB and the budget for models in (RAM|the GPU) is 19\.1 MiB: raise LATENT_STUDIO_"
    with pytest.raises(OutOfBudget, match=words):
        touch(registry, *big)
    assert loads == []
    assert states(registry) == {"before": state, "b0": "cold", "b1": "cold"}
    assert leased(registry) == []


def test_a_part_that_is_bigger_than_declared_is_measured_and_not_kept_over_budget():
    registry = Registry("cpu", ram_bytes=10 * MB)
    touch(registry, part("other", 4))
    liar = part("liar", 1, lambda spec: nn.Linear(3000, 1000, bias=False))  # 12 MB
    with pytest.raises(OutOfBudget, match=r"liar needs 11\.4 MiB"):
        touch(registry, liar)
    assert states(registry)["liar"] == "cold"
    assert registry.summary()["ram_bytes"] <= 10 * MB


@pytest.mark.parametrize("mode", ["cuda", "cpu"])
def test_a_nested_lease_never_evicts_the_outer_one(mode):
    registry = Registry(mode, gpu_bytes=20 * MB, ram_bytes=20 * MB, move=Mover())
    loaded = "gpu" if mode == "cuda" else "ram"
    with registry.lease(part("outer", 12)) as (outer,):
        with registry.lease(part("small", 6)):
            assert states(registry) == {"outer": loaded, "small": loaded}
        with pytest.raises(OutOfBudget, match=r"inner needs 11\.4 MiB beside 11\.4 MiB in use"):
            touch(registry, part("inner", 12))
        with registry.lease(part("outer", 12)) as (again,):
            assert again is outer
        assert states(registry)["outer"] == loaded
    touch(registry, part("inner", 12))
    assert states(registry)["inner"] == loaded
    assert leased(registry) == []


def test_a_lease_is_given_back_when_its_block_raises():
    registry = on_gpu()
    with pytest.raises(ZeroDivisionError), registry.lease(part("a", 4), part("b", 4)):
        assert leased(registry) == ["a", "b"]
        raise ZeroDivisionError
    assert leased(registry) == []


def test_drop_and_free_leave_alone_what_is_leased():
    registry = on_gpu()
    touch(registry, part("idle", 4))
    with registry.lease(part("busy", 4)):
        assert not registry.drop("busy")
        assert registry.drop("idle")
        assert registry.free() == 0
        assert states(registry) == {"idle": "cold", "busy": "gpu"}
    assert registry.free() == 4 * MB
    assert states(registry)["busy"] == "ram"
    assert registry.drop("busy")
    assert states(registry) == {"idle": "cold", "busy": "cold"}


def test_drop_answers_at_once_while_another_thread_works():
    registry = on_gpu()
    touch(registry, part("idle", 4))
    answers = []
    with registry.lease(part("busy", 4)):
        other = threading.Thread(target=lambda: answers.append(registry.drop("idle")))
        other.start()
        other.join(2)
        assert answers == [False]
        assert states(registry)["idle"] == "gpu"


# ---- out of memory ----


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (made by the test)")


def test_out_of_memory_once_evicts_everything_idle_and_tries_again():
    registry, calls = on_gpu(), []
    touch(registry, part("idle", 4))

    def work(net: nn.Module) -> str:
        calls.append(states(registry)["idle"])
        if len(calls) == 1:
            out_of_memory()
        return "ok"

    assert registry.run(part("a", 4), work) == "ok"
    assert calls == ["gpu", "ram"]
    assert states(registry)["a"] == "gpu"


def test_out_of_memory_twice_is_one_clear_sentence():
    registry, calls = on_gpu(), []

    def work(*parts: nn.Module) -> None:
        calls.append(1)
        out_of_memory()

    with pytest.raises(MemoryError) as caught:
        registry.run([part("a", 4), part("b", 4)], work)
    assert str(caught.value) == (
        "the GPU ran out of memory with a + b loaded, which needs 7.6 MiB (budget 19.1 MiB) and room to work in: "
        "make less at once (a smaller picture, a shorter text, fewer steps), or close other programs on that machine"
    )
    assert len(calls) == 2
    assert leased(registry) == []


def test_out_of_memory_on_the_cpu_lets_go_of_everything_idle():
    registry, calls = Registry("cpu"), []
    touch(registry, part("idle", 4))

    def work(net: nn.Module) -> str:
        calls.append(states(registry))
        if len(calls) == 1:
            raise MemoryError
        return "ok"

    assert registry.run(part("a", 4), work) == "ok"
    assert calls == [{"idle": "ram", "a": "ram"}, {"idle": "cold", "a": "ram"}]


def test_the_first_attempts_tensors_are_gone_before_the_second():
    """Also when something, a logger say, holds on to the error and so to the frames of the attempt."""
    registry, kept, errors = Registry("cpu"), [], []

    def work(net: nn.Module) -> bool:
        if kept:
            return kept[0]() is None
        latents = torch.zeros(1000)
        kept.append(weakref.ref(latents))
        try:
            out_of_memory()
        except torch.OutOfMemoryError as error:
            errors.append(error)
            raise

    assert registry.run(part("a", 1), work)
    assert len(errors) == 1


@pytest.mark.parametrize("use_run", [True, False], ids=["run", "lease"])
def test_out_of_memory_during_the_move_is_retried(use_run):
    registry = on_gpu()
    touch(registry, part("idle", 4))
    registry._move.fail_next = 1
    if use_run:
        assert registry.run(part("a", 4), lambda net: "ok") == "ok"
    else:
        touch(registry, part("a", 4))
    assert states(registry) == {"idle": "ram", "a": "gpu"}


def test_out_of_memory_during_the_move_twice_leaves_the_part_in_ram():
    registry = on_gpu()
    registry._move.fail_next = 2
    with pytest.raises(MemoryError, match="the GPU ran out of memory with a loaded"):
        registry.run(part("a", 4), lambda net: "ok")
    assert states(registry) == {"a": "ram"}
    assert leased(registry) == []
    assert registry.run(part("a", 4), lambda net: "ok") == "ok"


def test_other_errors_are_not_retried():
    calls = []

    def work(net: nn.Module) -> None:
        calls.append(1)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        on_gpu().run(part("a", 4), work)
    assert len(calls) == 1


# ---- modes and environment ----


def test_a_part_that_stays_in_ram_is_never_counted_on_the_gpu():
    registry = on_gpu(gpu_mb=2, ram_mb=40)
    away = replace(part("away", 20, lambda spec: [linear(spec)]), stays_in_ram=True)
    with registry.lease(away, part("near", 1)):
        assert states(registry) == {"away": "ram", "near": "gpu"}
    with pytest.raises(OutOfBudget, match="away needs .* and the budget for models in RAM is 9.5 MiB") as caught:
        touch(on_gpu(gpu_mb=40, ram_mb=10), away)
    assert caught.value.tier == "ram"


def test_what_goes_to_the_gpu_needs_no_room_in_ram():
    registry = on_gpu(gpu_mb=20, ram_mb=1)
    touch(registry, part("large", 12))
    assert states(registry) == {"large": "gpu"}


@pytest.mark.parametrize(("dtype", "size"), [("float16", 4), ("float32", 2)])
def test_a_cpu_loads_half_precision_as_float32_and_counts_it_so(dtype, size):
    seen = []
    spec = replace(part("half", 2, lambda spec: seen.append(spec.dtype) or object()), dtype=dtype)
    registry = Registry("cpu", ram_bytes=10 * MB)
    touch(registry, spec)
    assert seen == ["float32"] and row(registry, "half")["bytes"] == size * MB


def test_importing_and_making_a_registry_imports_no_torch():
    code = (
        "import sys; from pipelines.core.weights import ModelSpec; from pipelines.core.registry import from_environment; r = from_environment(); "
        "r.declare(ModelSpec('a', 'assets/a', None, 'MIT', 1)); r.status(); r.summary(); "
        "assert not {'torch', 'gradio', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LATENT_", "SPACES_"))}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_zero_mode_loads_and_places_what_is_declared_and_never_moves_again():
    registry = Registry("zero", move=Mover())
    spec, late = part("a", 4), part("late", 4)
    registry.declare(spec, part("words", 1, lambda spec: {"cat": 1}))
    assert states(registry) == {"a": "gpu", "words": "ram"}
    with registry.lease(spec) as (net,):
        assert registry._move.moves == [(id(net), "cuda")]
    assert (registry.free(), registry.drop("a")) == (0, False)
    with registry.lease(spec) as (again,):
        assert again is net
    assert len(registry._move.moves) == 1
    with pytest.raises(RuntimeError, match="late cannot be loaded now: on ZeroGPU declare it at import"):
        touch(registry, late)


def test_zero_mode_declares_on_the_main_thread_only():
    registry, errors = Registry("zero", move=Mover()), []

    def declare() -> None:
        try:
            registry.declare(part("a", 4))
        except RuntimeError as error:
            errors.append(str(error))

    other = threading.Thread(target=declare)
    other.start()
    other.join()
    assert errors == ["ZeroGPU emulates CUDA on the main thread only: declare models at import"]


def test_the_environment_sets_mode_and_budgets(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setenv("LATENT_STUDIO_MODE", "cuda")
    monkeypatch.setenv("LATENT_STUDIO_GPU_GIB", "6")
    monkeypatch.setenv("LATENT_STUDIO_RAM_GIB", "0.5")
    summary = from_environment().summary()
    assert (summary["mode"], summary["gpu_budget"], summary["ram_budget"]) == ("cuda", 6 * 2**30, 2**29)
    monkeypatch.delenv("LATENT_STUDIO_MODE")
    monkeypatch.delenv("LATENT_STUDIO_RAM_GIB")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    registry = from_environment()
    assert (registry.mode, registry.device) == ("zero", "cuda")
    assert 0 < registry.summary()["ram_budget"] <= default_ram_bytes() * 1.2


@pytest.mark.parametrize("value", ["lots", "-1", "nan", "1e9"])
def test_a_budget_that_is_no_size_is_refused(monkeypatch, value):
    monkeypatch.setenv("LATENT_STUDIO_RAM_GIB", value)
    with pytest.raises(ValueError, match=r"LATENT_STUDIO_RAM_GIB is '.*': set it to a number of GiB, such as 6"):
        from_environment()


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("LATENT_STUDIO_MODE", "tpu")
    with pytest.raises(ValueError, match="mode is 'tpu': set LATENT_STUDIO_MODE to one of auto, cpu, cuda, zero"):
        from_environment()


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_cuda_without_a_gpu_says_what_to_do_and_auto_falls_back():
    with pytest.raises(RuntimeError, match="LATENT_STUDIO_MODE is cuda but torch sees no GPU: install torch for CUDA"):
        touch(Registry("cuda"), part("a", 1))
    registry = Registry("auto")
    assert registry.summary()["device"] is None
    touch(registry, part("a", 1))
    assert registry.summary()["device"] == "cpu"


@pytest.mark.gpu
def test_on_a_real_gpu_weights_go_there_and_come_back():
    registry = Registry("cuda", gpu_bytes=20 * MB)
    one, other = (part(key, 12, lambda spec: nn.Linear(3000, 1000)) for key in ("one", "other"))
    with registry.lease(one) as (net,):
        assert net.weight.device.type == "cuda"
        reference = net(torch.ones(1, 3000, device="cuda")).cpu()
    with registry.lease(other):
        assert net.weight.device.type == "cpu"
        assert torch.cuda.memory_allocated() <= 20 * MB
    with registry.lease(one) as (again,):
        assert torch.equal(again(torch.ones(1, 3000, device="cuda")).cpu(), reference)

    def work(net: nn.Module) -> None:
        torch.empty(2**50, device="cuda")

    with pytest.raises(MemoryError, match="the GPU ran out of memory with one loaded"):
        registry.run(one, work)


# ---- many at once ----


def test_eight_threads_of_random_leases_keep_every_promise():
    registry = on_gpu()
    specs = [part("m0", 4), part("m1", 6), part("m2", 8), part("m3", 12)]
    faults, done = [], threading.Event()

    def check() -> None:
        summary = registry.summary()
        if summary["gpu_bytes"] > 20 * MB or summary["ram_bytes"] > 16 * MB:
            faults.append(f"over budget: {summary}")

    def visit(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            chosen = rng.sample(specs, rng.choice((1, 2)))
            try:
                with registry.lease(*chosen) as parts:
                    check()
                    if any(row(registry, spec.key)["state"] != "gpu" for spec in chosen):
                        faults.append("a leased part is not on the GPU")
                    if [4000 * net.in_features for net in parts] != [spec.bytes for spec in chosen]:
                        faults.append("the wrong part")
                    time.sleep(0.0005)
            except OutOfBudget as error:
                faults.append(str(error))

    def poll() -> None:
        count = 0
        while not done.is_set():
            registry.status()
            check()
            registry.declare(part(f"new{count % 50}", 1))
            count += 1
            time.sleep(0.001)

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(8)]
    watcher = threading.Thread(target=poll)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join(30)
    done.set()
    watcher.join(5)
    assert faults == []
    assert leased(registry) == []
    uses = sum(row(registry, spec.key)["uses"] for spec in specs)
    assert 8 * 60 <= uses <= 2 * 8 * 60
    assert any(device == "cpu" for _, device in registry._move.moves)  # there was eviction to speak of


def test_status_answers_while_a_model_loads():
    loading, go = threading.Event(), threading.Event()

    def load(spec: ModelSpec) -> nn.Module:
        loading.set()
        go.wait(5)
        return linear(spec)

    registry = Registry("cpu")
    other = threading.Thread(target=touch, args=(registry, part("slow", 4, load)))
    other.start()
    assert loading.wait(5)
    started = time.monotonic()
    assert states(registry) == {"slow": "loading"}
    assert registry.summary()["ram_bytes"] == 0
    assert time.monotonic() - started < 0.5
    go.set()
    other.join(5)
    assert states(registry) == {"slow": "ram"}


def test_two_registries_never_load_at_the_same_time():
    inside, most = [], []

    def load(spec: ModelSpec) -> nn.Module:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return linear(spec)

    def visit(registry: Registry) -> None:
        for index in range(3):
            touch(registry, part(f"m{index}", 0.1, load))

    threads = [threading.Thread(target=visit, args=(Registry("cpu"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 12
