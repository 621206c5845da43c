"""Real classes of diffusers in the registry: many visitors at once get what each would get alone."""

import random
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines.core.lane import Job, Progress, Result, run_blocking, stream
from pipelines.core.patching import edited_outputs, fingerprint
from pipelines.core.registry import LOAD_LOCK, Registry
from pipelines.core.weights import ModelSpec, resolve
from tests.core.test_registry import Mover, leased, states


@pytest.fixture(scope="module")
def toy_models(tmp_path_factory) -> dict[str, ModelSpec]:
    """Two UNets and two text encoders of the real classes at toy size, saved and loaded with from_pretrained."""
    folder, specs = tmp_path_factory.mktemp("models"), {}
    with LOAD_LOCK:
        for index in range(2):
            torch.manual_seed(index)
            unet = UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=8,
                norm_num_groups=4,
            )
            text = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=64,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=8,
                    eos_token_id=63,
                    bos_token_id=62,
                )
            )
            for kind, model in (("unet", unet), ("text", text)):
                model.save_pretrained(folder / f"{kind}{index}")
                size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
                loader = UNet2DConditionModel if kind == "unet" else CLIPTextModel
                key = f"{kind}{index}"
                specs[key] = ModelSpec(
                    key, str(folder / key), lambda spec, cls=loader: cls.from_pretrained(resolve(spec)), "MIT", size
                )
    return specs


def draw(job: Job, registry: Registry, specs: list[ModelSpec], seed: int) -> tuple[Tensor, list[str]]:
    """A tab in miniature: encode a text, then three steps of a UNet on noise of the given seed."""
    unet_spec, text_spec = specs

    def work(unet: nn.Module, text: nn.Module) -> tuple[Tensor, list[str]]:
        empty = [name for net in (unet, text) for name, weight in net.named_parameters() if weight.is_meta]
        noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            words = text(torch.tensor([[62, seed % 60, 5, 63]])).last_hidden_state
            for step in (900, 500, 100):
                job.progress(1 - step / 1000, "drawing")
                noise = noise - 0.1 * unet(noise, step, words).sample
        return noise.clone(), empty

    return registry.run([unet_spec, text_spec], work)


def eight_at_once(visit: Callable[[int], None]) -> None:
    """Each of eight threads calls ``visit`` with its number."""
    users = [threading.Thread(target=visit, args=(user,)) for user in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_eight_users_at_once_get_what_each_would_get_alone(toy_models, mode):
    """Budgets hold one UNet and one text encoder, so nearly every job loads and evicts real models."""
    pairs = [(toy_models[f"unet{u}"], toy_models[f"text{t}"]) for u in range(2) for t in range(2)]
    alone = Registry("cpu")
    reference = {
        (pair, user): run_blocking(draw, alone, list(pairs[pair]), user)[0] for pair in range(4) for user in range(8)
    }
    budget = max(spec.bytes for spec in toy_models.values()) + 2 * toy_models["text0"].bytes
    registry = Registry(mode, gpu_bytes=budget, ram_bytes=budget, move=Mover())
    faults, loads = [], []
    for spec in toy_models.values():
        registry.declare(spec)

    def watch() -> None:
        summary = registry.summary()
        if max(summary["gpu_bytes"], summary["ram_bytes"]) > budget:
            faults.append(f"over budget: {summary}")

    def visit(user: int) -> None:
        rng = random.Random(user)
        for _ in range(4):
            pair, progress = rng.randrange(4), 0
            for item in stream(draw, registry, list(pairs[pair]), user, beat_s=0.02):
                watch()
                progress += isinstance(item, Progress) and item.text == "drawing"
                if isinstance(item, Result):
                    picture, empty = item.value
                    faults.extend(f"empty: {name}" for name in empty)
                    if not torch.equal(picture, reference[pair, user]):
                        faults.append(f"user {user} got another picture")
                    loads.append(pair)
            if progress != 3:
                faults.append(f"user {user} saw {progress} of 3 steps")

    eight_at_once(visit)
    assert faults == []
    assert len(loads) == 32
    assert leased(registry) == []


def test_eight_threads_that_lease_without_the_lane_get_whole_models_too(toy_models):
    """lease() from any thread is safe: the load lock keeps the loaders apart, here in a registry per lease."""
    wanted = {key: fingerprint(Registry("cpu").run(spec, lambda net: net)) for key, spec in toy_models.items()}
    faults, whole = [], []

    def visit(user: int) -> None:
        rng = random.Random(user)
        for _ in range(4):
            key = rng.choice(list(toy_models))
            with Registry("cpu").lease(toy_models[key]) as (net,):
                (whole if fingerprint(net) == wanted[key] else faults).append(key)

    eight_at_once(visit)
    assert faults == []
    assert len(whole) == 32  # without the lock, most threads die of a half-made model


def test_two_tabs_interleaved_leave_the_shared_models_as_they_were(toy_models):
    """One tab edits the shared UNet for its run, the other does not: same bytes before, between and after."""
    registry, specs = Registry("cpu"), [toy_models["unet0"], toy_models["text0"]]

    def plain(job: Job) -> bytes:
        return draw(job, registry, specs, 7)[0].numpy().tobytes()

    def edited(job: Job) -> bytes:
        with registry.lease(*specs) as (unet, _), edited_outputs([unet.mid_block], lambda part, out: out * 0.5):
            return draw(job, registry, specs, 7)[0].numpy().tobytes()

    def marks(job: Job) -> list[str]:
        with registry.lease(*specs) as parts:
            return [fingerprint(part) for part in parts]

    before = run_blocking(marks)
    pictures = [run_blocking(tab) for tab in (plain, edited, plain, edited, plain)]
    assert pictures[0] == pictures[2] == pictures[4]
    assert pictures[1] == pictures[3]
    assert pictures[0] != pictures[1]
    assert run_blocking(marks) == before


def test_evicted_weights_really_leave_memory(toy_models):
    """Real classes, without the garbage collector's help: eviction for room does not call it."""
    registry = Registry("cpu", ram_bytes=2 * max(spec.bytes for spec in toy_models.values()) - 1)
    gone = {}
    for key in ("text0", "unet0", "unet1", "text1", "unet0"):
        with registry.lease(toy_models[key]) as (net,):
            gone[key] = weakref.ref(net)
        del net
        for other, weights in gone.items():
            assert (weights() is None) == (states(registry)[other] == "cold")
    assert states(registry)["unet1"] == "cold"
