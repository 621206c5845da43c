"""NPNet: the published formula, its checkpoints in every layout, and what it refuses."""

import logging
import math
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from diffusers.models.normalization import AdaGroupNorm
from safetensors.torch import save_file
from torch.nn import functional

from pipelines.golden_noise import golden_with_strength
from pipelines.golden_noise.npnet import (
    OFFICIAL_HUNYUAN_DIT,
    OFFICIAL_SDXL,
    SMALL,
    NPNet,
    factorise,
    load_official,
    to_latent,
    to_matrix,
)

KEYS = Path(__file__).parents[1] / "data" / "npnet_official_keys.tsv"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def published_shapes(model: str = "SDXL") -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published files, from tests/data."""
    shapes = {}
    for line in KEYS.read_text().splitlines():
        if line.startswith("#"):
            continue
        key, *columns = line.split("\t")
        text = columns[-1] if model == "Hunyuan-DiT" else columns[0]
        shapes[key] = () if text == "scalar" else tuple(map(int, text.split("x")))
    return shapes


def random_weight(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Weights of a size that keeps every part of the network alive."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = torch.randn(shape, generator=generator)
    if key.endswith("running_var") or re.search(r"norm\d?\.weight$|bn\.weight$", key):
        return 1 + 0.1 * values.abs()
    return values / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3 * values


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: random_weight(key, shape, generator) for key, shape in shapes.items()}


def nested(flat: dict[str, torch.Tensor]) -> dict:
    """The layout of the authors' .pth files."""
    parts: dict = {}
    for key, tensor in flat.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts | {key: flat[key] for key in ("alpha", "beta")}


def with_text_prefix(flat: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The layout of the two safetensors conversions."""
    return {re.sub(r"^embeeding\.", prefix, key): tensor for key, tensor in flat.items()}


def inputs(net: NPNet, batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = net.config.resolution
    noise = torch.randn(batch, 4, size, size, generator=generator)
    return noise, torch.randn(batch, net.config.tokens, net.config.text_dim, generator=generator)


def small(**changes) -> NPNet:
    """The small network with random weights everywhere, alpha and beta included."""
    net = NPNet(**{**SMALL, "zero_init": False, **changes})
    net.load_state_dict(random_weights({key: tuple(value.shape) for key, value in net.state_dict().items()}))
    return net


@pytest.fixture(scope="module")
def official_weights() -> dict[str, torch.Tensor]:
    return random_weights(published_shapes())


@pytest.fixture(scope="module")
def official_path(official_weights, tmp_path_factory):
    """A random checkpoint of 122 MB in the authors' layout."""
    folder = tmp_path_factory.mktemp("npnet")
    torch.save(nested(official_weights), folder / "sdxl.pth")
    yield folder / "sdxl.pth"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def official(official_path) -> NPNet:
    return load_official(official_path)


# Does nothing when told to do nothing


def test_strength_zero_is_the_same_tensor():
    noise, golden = torch.randn(2, 4, 16, 16, dtype=torch.float16), torch.randn(2, 4, 16, 16)
    assert golden_with_strength(noise, golden, 0) is noise


def test_strength_one_is_the_golden_noise_and_two_goes_beyond():
    noise, golden = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    assert torch.equal(golden_with_strength(noise, golden, 1), golden)
    torch.testing.assert_close(golden_with_strength(noise, golden, 2), 2 * golden - noise)
    torch.testing.assert_close(golden_with_strength(noise, golden, -1), 2 * noise - golden)


def test_a_zero_initialised_network_is_the_identity():
    net = NPNet(**SMALL)
    noise, prompt = inputs(net, 3)
    torch.testing.assert_close(net(noise, prompt), noise, atol=1e-5, rtol=0)


def test_without_alpha_and_beta_the_text_does_nothing():
    net = small()
    noise, prompt = inputs(net, 2)
    assert (net(noise, prompt) - net(noise, prompt.roll(1, 0))).abs().max() > 0.01
    with torch.no_grad():
        net.alpha.zero_()
        net.beta.zero_()
    terms = net.terms(noise, prompt)
    assert not terms.text.any()
    assert not terms.residual.any()
    assert torch.equal(net(noise, prompt), net(noise, prompt.roll(1, 0)))
    assert torch.equal(net(noise, prompt), terms.spectrum)


# Undoes


def test_the_tiling_is_undone():
    latent = torch.arange(2 * 4 * 6 * 5.0).reshape(2, 4, 6, 5)
    matrix = to_matrix(latent)
    assert matrix.shape == (2, 12, 10)
    assert torch.equal(to_latent(matrix), latent)
    for channel, (row, column) in enumerate([(0, 0), (0, 5), (6, 0), (6, 5)]):
        assert torch.equal(matrix[:, row : row + 6, column : column + 5], latent[:, channel])


def test_sixteen_channels_are_four_rows_of_four_tiles():
    latent = torch.arange(16 * 6 * 5.0).reshape(1, 16, 6, 5)
    matrix = to_matrix(latent)
    assert matrix.shape == (1, 24, 20) and torch.equal(to_latent(matrix, 16), latent)
    assert torch.equal(matrix[:, 6:12, 15:], latent[:, 7])
    net = NPNet(**{**SMALL, "channels": 16, "zero_init": True})
    noise, prompt = torch.randn(2, 16, 16, 16), torch.randn(2, SMALL["tokens"], SMALL["text_dim"])
    torch.testing.assert_close(net(noise, prompt), noise, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fix_signs", [False, True])
def test_factors_multiply_back(fix_signs):
    matrix = torch.randn(3, 32, 32)
    u, s, vh = factorise(matrix, fix_signs)
    torch.testing.assert_close((u * s.unsqueeze(1)) @ vh, matrix, atol=1e-5, rtol=0)


def test_fixed_signs_do_not_depend_on_the_sign_that_came():
    u, s, vh = factorise(torch.randn(2, 32, 32, dtype=torch.float64), fix_signs=True)
    largest = u.gather(1, u.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()
    negated_u, negated_s, negated_vh = factorise(-(u * s.unsqueeze(1)) @ vh, fix_signs=True)
    torch.testing.assert_close(negated_u, u)
    torch.testing.assert_close(negated_s, s)
    torch.testing.assert_close(negated_vh, -vh)


# Is steady


def test_the_same_call_gives_the_same_bytes(official):
    """Random weights whose DropPath would show: the published code never switches it off."""
    noise, prompt = inputs(official, 1)
    with torch.inference_mode():
        assert torch.equal(official(noise, prompt), official(noise, prompt))


def test_it_is_in_eval_mode_until_told_otherwise(tmp_path):
    net = NPNet(**SMALL)
    assert not any(module.training for module in net.modules())
    net.save_pretrained(tmp_path)
    assert not any(module.training for module in NPNet.from_pretrained(tmp_path).modules())
    assert net.train().training


def test_a_batch_of_two_is_two_of_one():
    net = small()
    noise, prompt = inputs(net, 2)
    apart = torch.cat([net(noise[:1], prompt[:1]), net(noise[1:], prompt[1:])])
    torch.testing.assert_close(net(noise, prompt), apart, atol=1e-5, rtol=1e-5)


def test_each_sample_has_its_own_text():
    net = small()
    noise, prompt = inputs(net, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(noise[order], prompt[order]), net(noise, prompt)[order], atol=1e-5, rtol=1e-5)


def test_one_prompt_serves_the_whole_batch():
    net = small()
    noise, prompt = inputs(net, 3)
    torch.testing.assert_close(net(noise, prompt[:1]), net(noise, prompt[:1].repeat(3, 1, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_in_and_float32_goes_out(dtype):
    net = small().to(dtype)
    noise, prompt = (tensor.to(dtype) for tensor in inputs(net, 1))
    golden = net(noise, prompt)
    assert net.dtype == golden.dtype == torch.float32
    assert torch.equal(golden, small()(noise.float(), prompt.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(golden, net(noise, prompt))
    assert golden_with_strength(noise, golden, 0.5).dtype == dtype


@pytest.mark.gpu
def test_cpu_and_gpu_agree():
    net = small()
    noise, prompt = inputs(net, 3)
    golden = net(noise, prompt)
    on_gpu = net.cuda()(noise.cuda(), prompt.cuda())
    torch.testing.assert_close(on_gpu.cpu(), golden, atol=1e-3, rtol=1e-3)  # TF32 may be on in convolutions


def test_save_and_load_give_the_same_network(tmp_path):
    net = small(tokens=7, text_dim=12, swin={**SMALL["swin"], "depths": [2, 1]})
    net.save_pretrained(tmp_path)
    again = NPNet.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert again.config.swin == net.config.swin
    noise, prompt = inputs(net, 2)
    assert torch.equal(again(noise, prompt), net(noise, prompt))


# Learns


def test_training_lowers_the_loss_and_reaches_every_part():
    net = NPNet(**{**SMALL, "tokens": 8, "text_dim": 16}).train()
    noise, prompt = inputs(net, 8)
    golden = 0.9 * noise + 0.1 * noise.flip(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    before = functional.mse_loss(net(noise, prompt), golden).item()
    for _ in range(3):  # alpha, beta and mlp4 leave zero in the first step and let the rest learn in the next
        optimiser.zero_grad()
        functional.mse_loss(net(noise, prompt), golden).backward()
        optimiser.step()
    assert functional.mse_loss(net(noise, prompt), golden).item() < before
    still = [name for name, weight in net.named_parameters() if weight.requires_grad and not weight.grad.any()]
    assert still == []


# Agrees with a reference


def as_published(flat: dict[str, torch.Tensor], noise: torch.Tensor, prompt: torch.Tensor, u32: torch.Tensor):
    """The published forward pass written out in float64. timm's named Swin and diffusers' norm are the authors'."""
    w = {key: tensor.double() for key, tensor in flat.items()}
    x, p = noise.double(), prompt.double()

    def part(prefix):
        return {key.removeprefix(prefix): tensor for key, tensor in w.items() if key.startswith(prefix)}

    def mlp(name, value):
        hidden = torch.relu(value @ w[f"unet_svd.{name}.0.weight"].T + w[f"unet_svd.{name}.0.bias"])
        return hidden @ w[f"unet_svd.{name}.2.weight"].T + w[f"unet_svd.{name}.2.bias"]

    norm = AdaGroupNorm(77 * 2048, 4, 1, eps=1e-6).double()
    norm.load_state_dict(part("embeeding."))
    e = norm(x, p.flatten(1))

    matrix = torch.cat([torch.cat([x[:, 0], x[:, 1]], dim=2), torch.cat([x[:, 2], x[:, 3]], dim=2)], dim=1)
    u, s, vh = torch.linalg.svd(matrix)
    signs = (u * u32.double()).sum(dim=1).sign()  # singular vectors come with either sign: take those of float32
    u, vh = u * signs[:, None, :], vh * signs[:, :, None]
    tokens = mlp("mlp1", u.transpose(1, 2)) + mlp("mlp2", vh)
    tokens = tokens + (s @ w["unet_svd.mlp3.0.weight"].T + w["unet_svd.mlp3.0.bias"])[:, None, :]
    heads = []
    for head in range(8):
        rows = [slice(part * 256 + head * 32, part * 256 + head * 32 + 32) for part in range(3)]
        q, k, v = (tokens @ w["unet_svd.attention.qkv.weight"][r].T for r in rows)
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 32**0.5, dim=-1) @ v)
    mixed = torch.cat(heads, dim=-1) @ w["unet_svd.attention.proj.weight"].T + w["unet_svd.attention.proj.bias"]
    rebuilt = u @ torch.diag_embed(mlp("mlp4", mixed.mean(dim=1)) + s) @ vh
    svd = torch.stack(
        [rebuilt[:, :128, :128], rebuilt[:, :128, 128:], rebuilt[:, 128:, :128], rebuilt[:, 128:, 128:]], dim=1
    )

    swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).double().eval()
    swin.load_state_dict(part("unet_embedding.swin."))
    big = functional.interpolate(x + e, [224, 224])
    picture = functional.conv2d(big, w["unet_embedding.downconv.weight"], w["unet_embedding.downconv.bias"])
    features = swin.forward_features(picture)
    assert features.shape[1:] == (7, 7, 768)  # rows, columns, features; read below as channels, height, width
    resized = functional.interpolate(features, [128, 128])
    r = functional.conv2d(resized, w["unet_embedding.upconv.weight"], w["unet_embedding.upconv.bias"])
    return svd + (2 * torch.sigmoid(w["alpha"]) - 1) * e + w["beta"] * r


def test_the_published_formula(official, official_weights):
    """At the published sizes. float32 against float64 through an SVD of 256x256: hence the tolerance."""
    noise, prompt = inputs(official, 2)
    u, _, _ = factorise(to_matrix(noise))
    with torch.inference_mode():
        reference = as_published(official_weights, noise, prompt, u)
        golden = official(noise, prompt)
        sizes = [term.std().item() for term in official.terms(noise, prompt)]
    assert min(sizes) > 0.01, f"a term is too small to be tested: {sizes}"
    torch.testing.assert_close(golden.double(), reference, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "model", "parameters"),
    [(OFFICIAL_SDXL, "SDXL", 30_470_427), (OFFICIAL_HUNYUAN_DIT, "Hunyuan-DiT", 29_839_643)],
)
def test_names_shapes_and_number_of_parameters_are_the_published_ones(config, model, parameters):
    with torch.device("meta"):
        net = NPNet(**config)
    assert {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()} == published_shapes(model)
    assert sum(weight.numel() for weight in net.parameters()) == parameters


# Loads every layout


def assert_same_weights(net: NPNet, weights: dict[str, torch.Tensor]) -> None:
    state = net.state_dict()
    assert state.keys() == weights.keys()
    for key, tensor in weights.items():
        assert torch.equal(state[key], tensor), key


def test_the_authors_layout(official, official_weights):
    assert_same_weights(official, official_weights)
    assert not official.training


@pytest.mark.parametrize("prefix", ["text_embedding.", "embeeding."])
def test_the_two_safetensors_layouts(official_weights, tmp_path, prefix):
    path = tmp_path / "sdxl.safetensors"
    save_file(with_text_prefix(official_weights, prefix), path)
    assert_same_weights(load_official(path), official_weights)
    path.unlink()


def test_bare_numbers_parameters_and_missing_unused_parts_are_taken(tmp_path):
    net = small()
    flat = net.state_dict()
    kept = {key: tensor for key, tensor in flat.items() if not key.startswith("unet_svd.bn.")}
    content = nested(kept) | {"alpha": torch.tensor(0.25), "beta": torch.nn.Parameter(torch.tensor([0.5]))}
    torch.save(content, tmp_path / "small.pth")
    loaded = load_official(tmp_path / "small.pth", net.config)
    assert loaded.alpha.tolist() == [0.25]
    assert loaded.beta.tolist() == [0.5]
    assert torch.equal(loaded.unet_svd.mlp3[0].weight, net.unet_svd.mlp3[0].weight)


def test_names_of_old_timm_are_understood(tmp_path):
    net = small(swin={**SMALL["swin"], "classes": 5})
    flat = {}
    for key, tensor in net.state_dict().items():
        old = re.sub(r"layers\.(\d+)\.down", lambda stage: f"layers.{int(stage[1]) - 1}.down", key)
        flat[old.replace("swin.head.fc.", "swin.head.")] = tensor
    flat["unet_embedding.swin.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    assert "unet_embedding.swin.layers.0.downsample.norm.weight" in flat
    torch.save(nested(flat), tmp_path / "old.pth")
    assert_same_weights(load_official(tmp_path / "old.pth", net.config), net.state_dict())


def test_keys_that_are_not_used_are_listed(tmp_path, caplog):
    net = small()
    torch.save(nested(net.state_dict()) | {"optimizer": {"step": torch.ones(1)}}, tmp_path / "more.pth")
    with caplog.at_level(logging.WARNING, logger="pipelines.golden_noise.npnet"):
        load_official(tmp_path / "more.pth", net.config)
    assert "optimizer.step" in caplog.text


# Fails well


@pytest.mark.parametrize("shape", [(1, 4, 24, 16), (1, 4, 32, 32), (1, 3, 16, 16), (1, 16, 16, 16), (4, 16, 16)])
def test_wrong_noise_is_refused(shape):
    message = f"noise is ({', '.join(map(str, shape))}) but this NPNet takes (batch, 4, 16, 16): draw it at that size"
    with pytest.raises(ValueError, match=re.escape(message)):
        small()(torch.randn(shape), torch.randn(1, 32, 160))


@pytest.mark.parametrize("shape", [(1, 77, 160), (1, 32, 2048), (32, 160)])
def test_wrong_prompts_are_refused(shape):
    with pytest.raises(ValueError, match=r"prompt embedding is \(.*\) but this NPNet takes \(batch, 32, 160\)"):
        small()(torch.randn(1, 4, 16, 16), torch.randn(shape))


def test_wrong_counts_and_numbers_are_refused():
    net = small()
    noise, prompt = inputs(net, 3)
    with pytest.raises(ValueError, match="there are 2 prompt embeddings for 3 noises: give one for each"):
        net(noise, prompt[:2])
    with pytest.raises(ValueError, match="NaN or infinite values"):
        net(noise / 0, prompt)
    with pytest.raises(ValueError, match="channels is 6 but NPNet lays them out as a square of tiles"):
        NPNet(**{**SMALL, "channels": 6})


def test_wrong_strengths_are_refused():
    noise = torch.randn(1, 4, 16, 16)
    with pytest.raises(ValueError, match="golden strength is nan but must be a number"):
        golden_with_strength(noise, noise, math.nan)
    with pytest.raises(ValueError, match=r"golden noise is \(1, 4, 8, 8\): use two of one shape"):
        golden_with_strength(noise, torch.randn(1, 4, 8, 8), 1)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no NPNet checkpoint at .*none\.pth: download it"):
        load_official(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a folder but an NPNet checkpoint is one file"):
        load_official(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, I am a text file\n", b"PK\x03\x04 cut off", b"\x89PNG\r\n" + bytes(99)]
)
def test_files_of_another_kind_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is not an NPNet checkpoint \(\w+ while reading it\): use a complete"):
        load_official(tmp_path / name)


class Surprise:
    """Something that unpickling would have to run code for."""


@pytest.mark.parametrize("content", [{"alpha": Surprise()}, Surprise()])
def test_pickles_with_more_than_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="UnpicklingError while reading it"):
        load_official(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {}, {"model": {"note": "no tensors"}}])
def test_checkpoints_without_named_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no named tensors"):
        load_official(tmp_path / "x.pth")


def test_checkpoints_of_another_model_are_refused(tmp_path):
    save_file({"conv_in.weight": torch.ones(3)}, tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"is not an NPNet checkpoint: it has no embeeding\.linear\.weight"):
        load_official(tmp_path / "unet.safetensors")


def test_a_checkpoint_of_unknown_size_is_refused(tmp_path):
    torch.save(nested(small().state_dict()), tmp_path / "small.pth")
    expected = r"\(8, 5120\) but \(8, 157696\) of SDXL or \(8, 78848\) of Hunyuan-DiT was expected: pass the config"
    with pytest.raises(ValueError, match=expected):
        load_official(tmp_path / "small.pth")


def test_wrong_missing_and_broken_weights_are_named(tmp_path):
    net, path = small(), tmp_path / "x.pth"
    good = net.state_dict()

    torch.save(nested(good | {"unet_svd.mlp1.0.weight": torch.ones(64, 256)}), path)
    with pytest.raises(ValueError, match=r"unet_svd\.mlp1\.0\.weight is \(64, 256\) but \(64, 32\) was expected"):
        load_official(path, net.config)

    torch.save(nested({key: good[key] for key in good if key != "unet_svd.mlp4.2.bias"}), path)
    with pytest.raises(ValueError, match=r"it has no unet_svd\.mlp4\.2\.bias"):
        load_official(path, net.config)

    torch.save(nested(good | {"beta": torch.tensor([math.nan])}), path)
    with pytest.raises(ValueError, match="beta has NaN or infinite values: the file is damaged"):
        load_official(path, net.config)
