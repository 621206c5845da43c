"""What the registry loads from: files that are damaged, missing or the wrong ones, folders of the host, the Hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch import nn

from pipelines.core.registry import LOAD_LOCK, OutOfBudget, Registry
from pipelines.core.weights import ModelSpec, check_files, resolve
from tests.core.test_registry import MB, ROOT, leased, linear, part, row, states, touch


def test_a_failed_load_leaves_no_trace_and_the_next_lease_tries_again():
    registry, fail = Registry("cpu", ram_bytes=10 * MB), [True]

    def load(spec: ModelSpec) -> nn.Module:
        if fail.pop():
            raise OSError("the disk is gone")
        return linear(spec)

    fail[:] = [False, True]
    spec = part("a", 8, load)
    with pytest.raises(OSError, match="the disk is gone"):
        touch(registry, part("good", 1), spec)
    assert row(registry, "a")["error"] == "OSError: the disk is gone"
    assert states(registry) == {"good": "ram", "a": "failed"}
    assert registry.summary()["ram_bytes"] == MB
    assert leased(registry) == []
    touch(registry, spec)
    assert (row(registry, "a")["state"], row(registry, "a")["error"]) == ("ram", None)


def test_a_model_with_empty_weights_is_refused():
    registry = Registry("cpu")
    with pytest.raises(RuntimeError, match="a came back with empty weights"):
        touch(registry, part("a", 4, lambda spec: nn.Linear(10, 10, device="meta")))
    assert states(registry) == {"a": "failed"}


def asset(folder: Path, content: bytes, wanted: str, key: str = "net") -> ModelSpec:
    (folder / "net.bin").write_bytes(content)
    load = lambda spec: (resolve(spec) / "net.bin").read_bytes()  # noqa: E731
    return ModelSpec(key, str(folder), load, "Apache-2.0", 10, sha256={"net.bin": wanted})


def test_files_are_checked_against_their_hash_before_loading(tmp_path):
    good = asset(tmp_path, b"weights", hashlib.sha256(b"weights").hexdigest())
    with Registry("cpu").lease(good) as (content,):
        assert content == b"weights"
    bad = asset(tmp_path, b"other", hashlib.sha256(b"not these").hexdigest(), key="bad")
    registry = Registry("cpu")
    with pytest.raises(ValueError, match=r"net\.bin of bad has SHA-256 d9298a10d1b0… but .* restore the file in"):
        touch(registry, bad)
    assert states(registry) == {"bad": "failed"}


def test_a_file_is_hashed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    spec = asset(tmp_path, b"once", hashlib.sha256(b"once").hexdigest())
    hashed, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(1) or digest(file, name))
    check_files(spec)
    check_files(spec)
    assert len(hashed) == 1
    (tmp_path / "net.bin").write_bytes(b"changed")
    with pytest.raises(ValueError, match="restore the file"):
        check_files(spec)


def test_no_lock_is_held_while_files_are_fetched():
    fetching, done = threading.Event(), threading.Event()

    def fetch(spec: ModelSpec) -> None:
        fetching.set()
        assert done.wait(60)

    registry, loaded = Registry("cpu"), part("loaded", 1)
    touch(registry, loaded)
    thread = threading.Thread(target=touch, args=(registry, part("far", 1, fetch=fetch)))
    thread.start()
    assert fetching.wait(60)
    try:
        free = []
        for lock in (LOAD_LOCK, registry._lock):
            other = threading.Thread(
                target=lambda lock=lock: free.append(lock.acquire(timeout=5) and not lock.release())
            )
            other.start()
            other.join()
        assert free == [True, True]
        assert states(registry) == {"loaded": "ram", "far": "loading"}
        assert registry.run(loaded, lambda model: model.weight.numel()) > 0
    finally:
        done.set()
        thread.join()
    assert states(registry)["far"] == "ram"


def test_a_repository_is_asked_for_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("pipelines.core.weights._fetched", {})
    monkeypatch.setattr("pipelines.core.hub.fetch", lambda spec: asked.append(spec.source) or tmp_path)
    spec = ModelSpec("u", "somebody/base-9", lambda spec: resolve(spec), "MIT", 1)
    for _ in range(2):
        with Registry("cpu").lease(spec) as (folder,):
            assert folder == tmp_path
    assert asked == ["somebody/base-9"]


def test_nothing_is_fetched_that_has_no_room():
    registry = Registry("cpu", ram_bytes=MB)
    with pytest.raises(OutOfBudget, match="far needs"):
        touch(registry, part("far", 2, fetch=lambda spec: pytest.fail("fetched")))


def test_a_missing_file_or_folder_is_named(tmp_path):
    spec = asset(tmp_path, b"x", "0" * 64)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"net needs the file net\.bin in .*, which is missing: delete them and fetch"
    ):
        check_files(spec)
    nowhere = ModelSpec("gone", "assets/no-such-model", linear, "Apache-2.0", 1)
    with pytest.raises(FileNotFoundError, match=r"gone needs the folder assets/no-such-model, which is missing: check"):
        resolve(nowhere)


def test_a_local_folder_of_hub_models_is_preferred(tmp_path, monkeypatch):
    (tmp_path / "base-1" / "unet").mkdir(parents=True)
    (tmp_path / "base-1" / "unet" / "config.json").write_text("{}")
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    spec = ModelSpec("u", "somebody/base-1", linear, "MIT", 1, files=("unet/*",))
    assert resolve(spec) == tmp_path / "base-1"
    missing = ModelSpec("v", "somebody/base-1", linear, "MIT", 1, files=("vae/*.safetensors",))
    with pytest.raises(FileNotFoundError, match=r"v needs vae/\*\.safetensors of somebody/base-1, which is not on"):
        resolve(missing)


def test_a_hub_model_that_is_not_in_the_cache_while_offline_is_one_sentence(tmp_path):
    code = (
        "from pipelines.core.weights import ModelSpec, resolve\n"
        "spec = ModelSpec('u', 'somebody/base-1', None, 'MIT', 1, revision='abc')\n"
        "try: resolve(spec)\n"
        "except FileNotFoundError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("LATENT_STUDIO_MODELS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == (
        "u needs somebody/base-1 at revision abc, which is not on this machine and cannot be fetched now: "
        "go online once, or put it into $LATENT_STUDIO_MODELS/base-1\n"
    ), done.stderr


SHARDED = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_weights_in_shards_need_their_index_and_every_shard(tmp_path, monkeypatch):
    folder = tmp_path / "base-2"
    folder.mkdir()
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    spec = ModelSpec("u", "somebody/base-2", linear, "MIT", 1, files=("*config.json", "*.safetensors*"))
    for name in ("config.json", *SHARDED):
        (folder / name).write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"u needs model\.safetensors\.index\.json of somebody/base-2, which is not"
    ):
        resolve(spec)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": SHARDED[0], "b": SHARDED[1]}}))
    assert resolve(spec) == folder
    (folder / SHARDED[1]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"u needs {SHARDED[1]} of somebody/base-2, which is not on this machine"
    ):
        resolve(spec)


def test_what_was_measured_is_what_counts_at_the_next_load():
    """Also on a CPU, where a part in half precision is expected to take twice what it says until it is there."""
    registry, half = (
        Registry("cpu", ram_bytes=10 * MB),
        part("half", 4, lambda spec: nn.Linear(10, 10), dtype="float16"),
    )
    touch(registry, half)
    measured = row(registry, "half")["bytes"]
    assert measured < MB
    registry.free()
    with registry.lease(part("other", 9)), registry.lease(half):
        assert row(registry, "half")["bytes"] == measured
