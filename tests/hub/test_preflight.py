"""What a run would fetch and need is told before anything is fetched: asked of the hub once, and honest where that is silent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from demos.core.preflight import panel_html
from pipelines import golden_noise
from pipelines.core import downloads, hub, lane, preflight
from pipelines.core.lane import run_blocking
from pipelines.core.preflight import Preflight
from pipelines.core.registry import GIB, Registry
from pipelines.core.weights import ModelSpec, from_hub
from pipelines.megaportrait import parts as portrait
from pipelines.models import flux, language
from tests.hub import make
from tests.hub.server import Hub, serving

MODEL = language.language_model("full", "llama-2-7b-chat")
LEASES = [tuple(MODEL.parts.values())]
SOURCE = MODEL.parts["model"].source
TOKEN = "hf_of_somebody"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub")
    make.make(made, SOURCE)
    return made


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[Hub]:
    preflight.forget()
    with serving(folder, tmp_path) as hub:
        yield hub
    preflight.forget()


def look(registry: Registry | None = None) -> Preflight:
    return preflight.look(registry or Registry("cpu"), LEASES)


def test_size_licence_and_access_are_told_and_nothing_is_fetched(served: Hub):
    found = look()
    (one,) = found.checkpoints
    assert (one.source, one.licences, one.access) == (SOURCE, ("Llama 2 Community License",), preflight.OPEN)
    names = hub.wanted(MODEL.parts["model"], hub.ask(SOURCE)) | hub.wanted(MODEL.parts["tokenizer"], hub.ask(SOURCE))
    assert one.to_fetch == found.to_fetch == sum((served.folder / SOURCE / name).stat().st_size for name in names) > 5e5
    assert not served.fetched() and found.obstacles == () and found.free > 0


def test_the_hub_is_asked_once_until_somebody_wants_it_anew(served: Hub):
    look()
    asked = len(served.requests)
    look()
    assert len(served.requests) == asked
    preflight.forget()
    look()
    assert len(served.requests) > asked


def with_token(served: Hub, known: bool = False, reader: bool = False) -> None:
    served.gated.add(SOURCE)
    os.environ["HF_TOKEN"] = TOKEN  # the hub's fixture takes it away again
    served.tokens |= {TOKEN} if known else set()
    served.readers |= {TOKEN} if reader else set()


@pytest.mark.parametrize(
    ("gate", "access", "todo"),
    [
        (lambda hub: hub.gated.add(SOURCE), "token missing", f"accept the licence at huggingface.co/{SOURCE} and set"),
        (lambda hub: with_token(hub), "token unknown", "make a new one at huggingface.co/settings/tokens"),
        (lambda hub: with_token(hub, True), "licence not accepted", f"accept it at huggingface.co/{SOURCE}"),
        (lambda hub: with_token(hub, True, True), preflight.GRANTED, ""),
    ],
    ids=["no token", "unknown", "not accepted", "accepted"],
)
def test_the_gate_is_told_apart(served: Hub, gate: Callable[[Hub], None], access: str, todo: str):
    gate(served)
    found = look()
    (one,) = found.checkpoints
    assert one.access == access and todo in one.todo and bool(found.obstacles) == bool(todo)
    assert todo in panel_html(found, None)
    assert not served.fetched()


def test_what_is_here_need_not_be_fetched_nor_asked_for(served: Hub, monkeypatch: pytest.MonkeyPatch):
    run_blocking(lambda job: Registry("cpu").run(LEASES[0], lambda *parts: None))
    assert look().to_fetch == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    preflight.forget()
    found = look()
    assert not found.reached and found.to_fetch == 0 and found.obstacles == ()
    assert "nothing to fetch" in panel_html(found, None)


def test_a_part_of_a_file_counts_as_here_and_no_more(served: Hub):
    name, (size, sha256) = next(
        (name, file) for name, file in hub.ask(SOURCE).files.items() if name.startswith("model-00001")
    )
    assert sha256
    whole, place = look().to_fetch, downloads.partial(SOURCE, sha256)
    place.parent.mkdir(parents=True)
    place.write_bytes((served.folder / SOURCE / name).read_bytes()[: size // 2])
    assert look().to_fetch == whole - size // 2
    assert look().checkpoints[0].to_fetch != 0


@pytest.mark.parametrize("way", ["offline", "nobody"])
def test_offline_says_so_at_once(served: Hub, monkeypatch: pytest.MonkeyPatch, way: str):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "offline")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    found = look()
    assert time.monotonic() - began < 4
    assert not found.reached and found.checkpoints[0].to_fetch is None
    assert "it is not on this machine and the Hub cannot be reached" in found.obstacles[0]
    assert "the Hub cannot be reached; about 13.5 GB are not here" in panel_html(found, None)


def test_a_file_that_the_repository_lacks_is_told(served: Hub):
    served.missing.add(f"{SOURCE}/model.safetensors.index.json")
    found = look()
    assert "needs model.safetensors.index.json, which the repository" in found.obstacles[0]


def test_memory_is_told_by_tier_with_what_is_there(served: Hub):
    card = Registry("cuda", 8 * GIB, 16 * GIB, move=lambda module, device: module)
    (gpu,) = look(card).memory
    assert (gpu.name, gpu.there, gpu.fits) == ("GPU", 8 * GIB, False)
    assert gpu.needed == sum(part.bytes for part in LEASES[0])
    (one,) = [text for text in look(card).obstacles if text.startswith("GPU")]
    assert one == "GPU: the models need 12.6 GiB and the studio may use 8.0 GiB."
    (only,) = look(Registry("cpu", ram_bytes=64 * GIB)).memory
    assert only.fits and "RAM: 12.6 GiB of 64.0 GiB" in panel_html(look(Registry("cpu", ram_bytes=64 * GIB)), None)


def test_a_full_disk_is_told(served: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "free_room", lambda: 1000)
    assert look().obstacles == ("Disk: 0.6 MB are to fetch and 1 kB are free.",)


def test_time_is_what_earlier_runs_took_and_else_not_measured(served: Hub):
    def work(job: lane.Job) -> None:
        time.sleep(0.1)

    assert lane.typical_s(work) is None and "time: not measured here yet" in panel_html(look(), lane.typical_s(work))
    run_blocking(work)
    for _ in range(100):  # the lane counts it after it has answered
        if lane.typical_s(work) is not None:
            break
        time.sleep(0.01)
    assert 0.1 <= (lane.typical_s(work) or 0) < 2
    assert "time: about 41 s, as earlier runs here took" in panel_html(look(), 41.2)


def needed(leases: preflight.Leases, tier: str) -> int:
    card = Registry("cuda", 99 * GIB, 99 * GIB, move=lambda module, device: module)
    return max(card.room(lease).get(tier, (0, None))[0] for lease in leases)


def test_the_preset_decides_what_is_needed_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    assert needed(portrait.leases("full", "instant", "24 GB"), "gpu") > needed(
        portrait.leases("full", "instant", "16 GB"), "gpu"
    )
    assert (
        needed(portrait.leases("full", "instant", "16 GB"), "ram")
        > 7e9
        > needed(portrait.leases("full", "preview"), "gpu")
    )
    assert needed(flux.FULL.leases("offload"), "ram") > 24e9 > needed(flux.FULL.leases("offload"), "gpu")
    assert len(flux.FULL.leases("offload")) == 2, "the prompt is read once"
    flux.prompt_file().write_bytes(b"")
    assert len(flux.FULL.leases("offload")) == 1


def sources(leases: preflight.Leases) -> set[str]:
    return {one.source for lease in leases for spec in lease for one in from_hub(spec)}


def test_what_is_brought_beside_a_part_s_own_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    for name in (flux.LOCAL, golden_noise.LOCAL):
        monkeypatch.delenv(name, raising=False)
    assert flux.ADAPTERS.source in sources(flux.FULL.leases("offload"))
    drawing = [tuple(golden_noise.parts("full", "npnet_paper").values())]
    assert "Klayand/GoldenNoiseModel" in sources(drawing)
    monkeypatch.setenv(golden_noise.LOCAL, str(tmp_path))
    monkeypatch.setenv(flux.LOCAL, str(tmp_path))
    assert "Klayand/GoldenNoiseModel" not in sources(drawing)
    assert flux.ADAPTERS.source not in sources(flux.FULL.leases("offload"))
    mini: list[tuple[ModelSpec, ...]] = [tuple(golden_noise.parts("mini").values())]
    assert sources(mini) == set(), "the small set asks nobody"
