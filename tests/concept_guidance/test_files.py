"""Concept files: vectors in the paper's layout and as GGUF, labelled examples, and a sentence for everything else."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import struct
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.concept_guidance import steering
from pipelines.concept_guidance.concepts import Concept, check_fit
from pipelines.concept_guidance.examples import Example, check_examples, read_examples
from pipelines.concept_guidance.files import read_concept, write_safetensors
from pipelines.concept_guidance.gguf import write_gguf

LAYERS, WIDTH = 4, 6


def concept(**changes) -> Concept:
    generator = torch.Generator().manual_seed(0)
    made = Concept(
        "humour",
        torch.nn.functional.normalize(torch.randn(LAYERS, WIDTH, generator=generator), dim=-1),
        "dim",
        "pre-attn",
        torch.rand(LAYERS) + 1,
        torch.randn(LAYERS),
        torch.randn(LAYERS, WIDTH),
        torch.rand(LAYERS) + 3,
        (0.5, 0.75, 1.0, 0.625),
        (0.5, 0.7, 0.9, 0.6),
        {"model": "toy", "seed": 3},
    )
    return dataclasses.replace(made, **changes)


def same(first: Concept, second: Concept) -> None:
    for field in dataclasses.fields(Concept):
        one, two = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, two), field.name
        else:
            assert one == two, field.name


# ------------------------------------------------------------------------------------------- vectors


def test_a_concept_comes_back_as_it_was(tmp_path):
    for number, made in enumerate(
        (concept(), concept(a=None, b=None, mean=None, norms=None), concept(probe="logistic", a=None, mean=None))
    ):
        path = write_safetensors(tmp_path / f"{number}.safetensors", made)
        same(read_concept(path, LAYERS, WIDTH), made)
        assert path.read_bytes() == write_safetensors(tmp_path / "again.safetensors", made).read_bytes()


def test_the_paper_s_loader_finds_what_it_wants(tmp_path):
    made = concept()
    with safe_open(write_safetensors(tmp_path / "x.safetensors", made), framework="pt") as file:
        w, a, b = (file.get_tensor(key) for key in ("W", "a", "b"))
    assert torch.equal(w, made.weights) and w.dtype == torch.float32
    assert a.shape == (LAYERS, 1) and b.shape == (LAYERS,)


def official(tmp_path, **tensors) -> str:
    """A file as the authors write it: tensors only, no metadata."""
    path = tmp_path / "creativity.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def test_the_probe_of_a_released_file_is_seen_from_its_numbers(tmp_path):
    unit, b = concept().weights, torch.zeros(LAYERS)
    slopes = torch.tensor([[0.3], [2.0], [7.0], [26.0]])
    found = read_concept(official(tmp_path, W=unit, a=slopes, b=b), LAYERS, WIDTH)
    assert (found.probe, found.name, found.representation, found.notices) == ("dim", "creativity", "pre-attn", ())
    assert torch.equal(found.a, slopes[:, 0])
    assert read_concept(official(tmp_path, W=unit * 12, b=b)).probe == "logistic"
    assert read_concept(official(tmp_path, W=unit)).probe == "unknown"
    assert read_concept(official(tmp_path, W=unit, a=slopes * 1e-4, b=b)).probe == "pca"


def test_signs_of_a_pca_file_are_repaired_with_a_notice(tmp_path):
    unit, slopes = concept().weights, torch.tensor([[0.01], [-0.002], [0.003], [-0.011]])
    path = official(tmp_path, W=unit, a=slopes, b=torch.ones(LAYERS))
    found = read_concept(path)
    assert torch.equal(found.weights, unit * torch.tensor([1, -1, 1, -1])[:, None]) and (found.a > 0).all()
    assert found.notices[0].startswith("2 of 4 layers pointed the other way and were turned")
    x = torch.randn(WIDTH)
    torch.testing.assert_close(
        found.a * (found.weights @ x), slopes[:, 0] * (unit @ x), msg="the classifier is the same"
    )


def test_signs_of_a_pca_file_can_be_left_as_the_authors_leave_them(tmp_path):
    unit, slopes = concept().weights, torch.tensor([[0.01], [-0.002], [0.003], [-0.011]])
    path = official(tmp_path, W=unit, a=slopes, b=torch.ones(LAYERS))
    found, turned = read_concept(path, repair_signs=False), read_concept(path)
    assert torch.equal(found.weights, unit) and torch.equal(found.a, slopes[:, 0]) and found.notices == ()
    x, scale = torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1)), 8.0
    moved = x + scale * unit  # their rule: along the file's row, at the old length
    theirs = moved / moved.norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True)
    ours, other = (steering.guided(x, None, scale * one.weights) for one in (found, turned))
    torch.testing.assert_close(ours, theirs)
    same_rows = torch.isclose(other, theirs).all(-1)
    assert same_rows.tolist() == [True, False, True, False], "the turned layers are pushed the other way"


def test_half_precision_vectors_are_read_as_float32(tmp_path):
    found = read_concept(official(tmp_path, W=concept().weights.half()))
    assert found.weights.dtype == torch.float32


def test_vectors_that_do_not_fit_are_refused(tmp_path):
    path = official(tmp_path, W=torch.randn(32, 4096))
    with pytest.raises(ValueError, match="creativity do not fit: W is 32×4096, this model needs 6×128"):
        read_concept(path, 6, 128)
    check_fit(read_concept(path), 32, 4096)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": torch.ones(3, 4), "bias": torch.ones(3)}, "has no W .found: (bias|weight), (bias|weight)."),
        ({"W": torch.ones(12)}, "W in creativity.safetensors is 12: it must be layers × width"),
        ({"W": torch.ones(2, 3, 4)}, "is 2×3×4"),
        ({"W": torch.ones(3, 4), "a": torch.ones(2, 1)}, "a in creativity.safetensors has 2 numbers, W has 3 layers"),
        ({"W": torch.ones(3, 4), "mean": torch.ones(3, 5)}, "mean in creativity.safetensors is 3×5, W is 3×4"),
        ({"W": torch.tensor([[1.0, float("nan")]])}, "W in creativity.safetensors holds NaN"),
        (
            {"W": torch.ones(1, 2), "b": torch.tensor([float("inf")])},
            "b in creativity.safetensors holds NaN or infinity",
        ),
        ({"W": torch.zeros(3, 4)}, "all zeros"),
    ],
)
def test_safetensors_of_something_else_are_refused(tmp_path, tensors, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_concept(official(tmp_path, **tensors))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


class Bomb:
    def __reduce__(self):
        return (open, (str(Bomb.trace), "w"))


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_are_refused_unread(tmp_path, name, protocol):
    Bomb.trace = tmp_path / "exploded"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(ValueError, match="is a pickle, .* not opened|not a safetensors file"):
        read_concept(path)
    torch.save({"W": torch.ones(2, 3)}, path)
    with pytest.raises(ValueError, match="is a pickle"):
        read_concept(path)
    assert not Bomb.trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"{}" * 100, struct.pack("<Q", 2**60) + b"{}", b"\xff" * 64])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x.safetensors is not a safetensors file"):
        read_concept(path)


def test_a_model_is_not_read_as_a_vector(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ValueError, match="has 65 MB, at most 64 are read: is it a model"):
        read_concept(path)


def test_foreign_metadata_do_not_matter(tmp_path):
    path = tmp_path / "x.safetensors"
    for text in ("[]", "{", '{"probe": 3, "name": ["x"], "train_accuracy": "high"}', '{"name": "' + "x" * 200 + '"}'):
        save_file({"W": torch.ones(2, 3)}, path, {"concept_guidance": text})
        found = read_concept(path)
        assert (found.name, found.train_accuracy) == ("x", ())


# ---------------------------------------------------------------------------------------------- gguf


def test_gguf_holds_what_its_readers_expect(tmp_path):
    made = concept(representation="hiddens")
    path = write_gguf(tmp_path / "x.gguf", made, strength=0.5)
    data = path.read_bytes()
    assert data[:4] == b"GGUF" and struct.unpack("<IQQ", data[4:24]) == (3, 3, 4)
    assert len(data) % 32 == 0
    key, length = b"general.architecture", struct.unpack("<Q", data[24:32])[0]
    assert (data[32 : 32 + length], length) == (key, 20)
    assert struct.unpack("<IQ", data[52:64]) == (8, 13) and data[64:77] == b"controlvector"
    # The last tensor's numbers are the last of the file: unit direction times norm times strength.
    wanted = made.weights[3] * made.norms[3] * 0.5
    row = torch.frombuffer(bytearray(data[-32 : -32 + 4 * WIDTH]), dtype=torch.float32)
    torch.testing.assert_close(row, wanted)
    assert b"direction.0" not in data and data.count(b"direction.") == 3


def test_gguf_round_trip(tmp_path):
    made = concept(representation="hiddens")
    found = read_concept(write_gguf(tmp_path / "x.gguf", made, 0.5, "qwen2"), LAYERS, WIDTH)
    assert (found.name, found.representation, found.probe) == ("humour", "hiddens", "unknown")
    assert found.facts == {"model_hint": "qwen2"} and not found.weights[0].any()
    torch.testing.assert_close(found.weights[1:], (made.weights * made.norms[:, None] * 0.5)[1:])
    torch.testing.assert_close(found.unit()[1:], made.unit()[1:])
    again = write_gguf(tmp_path / "y.gguf", found, 1.0, "qwen2")
    torch.testing.assert_close(read_concept(again, LAYERS, WIDTH).weights, found.weights)
    assert read_concept(again).layers == LAYERS, "the highest block counts where the model is not known"


def test_gguf_agrees_with_the_public_package(tmp_path):
    gguf = pytest.importorskip("gguf")
    made = concept(representation="hiddens")
    reader = gguf.GGUFReader(write_gguf(tmp_path / "x.gguf", made, 0.5))
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    for tensor, row in zip(reader.tensors, (made.weights * made.norms[:, None] * 0.5)[1:], strict=True):
        torch.testing.assert_close(torch.from_numpy(tensor.data.copy()), row)
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 3)
    for layer in (1, 2, 3):
        writer.add_tensor(f"direction.{layer}", made.weights[layer].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert torch.equal(read_concept(tmp_path / "theirs.gguf", LAYERS, WIDTH).weights[1:], made.weights[1:])


def test_gguf_is_for_hidden_states_only(tmp_path):
    with pytest.raises(
        ValueError, match="humour was read at pre-attn, but GGUF readers add vectors to the hidden states"
    ):
        write_gguf(tmp_path / "x.gguf", concept())
    assert not (tmp_path / "x.gguf").exists()


def _gguf(architecture: str, name: str = "direction.1", kind: int = 0, shape: tuple[int, ...] = (6,)) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    data = b"GGUF" + struct.pack("<IQQ", 3, 1, 3)
    data += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    data += text("numbers") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 7, 8)
    data += text("flag") + struct.pack("<I?", 7, True)
    data += (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, 0)
    )
    return data + bytes(-len(data) % 32) + struct.pack("<6f", *range(1, 7)) + bytes(8)


def test_gguf_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(_gguf("controlvector"))
    assert read_concept(path, 2, 6).weights[1].tolist() == [1, 2, 3, 4, 5, 6]
    for data, says in (
        (_gguf("llama", "blk.0.attn_q.weight"), "architecture llama with 0 tensors named direction.N"),
        (_gguf("llama"), "architecture llama with 1 tensors"),
        (_gguf("controlvector", "direction.x"), "controlvector with 0 tensors"),
        (_gguf("controlvector", kind=1), "not float32 vectors"),
        (_gguf("controlvector", shape=(2, 3)), "not float32 vectors"),
        (_gguf("controlvector", "direction.9999", shape=(10**6,)), "more than is read"),
        (_gguf("controlvector", shape=(600,)), "not a complete GGUF file"),
        (b"GGUF" + bytes(30), "not a complete GGUF file"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=says):
            read_concept(path)
    whole = _gguf("controlvector")
    for length in range(4, len(whole) - 8, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a complete GGUF file|GGUF file of the architecture"):
            read_concept(path)
    path.write_bytes(_gguf("controlvector"))
    with pytest.raises(ValueError, match="W is 2×6, this model needs 2×8"):
        read_concept(path, 2, 8)


def test_a_gguf_header_that_promises_too_much_is_refused_at_once(tmp_path):
    """Counts, lengths and places are looked at before anything is made of them."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def entry(kind: int, value: bytes) -> bytes:
        return text(b"x") + struct.pack("<I", kind) + value

    many, far = 60_000_000, 2**63
    heads = [
        struct.pack("<IQQ", 3, 0, 1)
        + entry(9, struct.pack("<IQ", 0, many) + bytes(many)),  # a list of bytes, all there
        struct.pack("<IQQ", 3, 0, 1) + entry(9, struct.pack("<IQ", 8, many // 8) + bytes(many)),  # of empty texts
        struct.pack("<IQQ", 3, 0, 1) + entry(9, struct.pack("<IQ", 12, far)),
        struct.pack("<IQQ", 3, 0, 1)
        + entry(9, struct.pack("<IQ", 9, 5) + struct.pack("<IQ", 9, 5) * 10_000),  # lists in lists
        struct.pack("<IQQ", 3, 0, 1) + entry(8, struct.pack("<Q", far)),
        struct.pack("<IQQ", 3, far, far),
        struct.pack("<IQQ", 3, 4096, 0) + bytes(100),
        struct.pack("<IQQ", 3, 1, 0) + text(b"direction.1") + struct.pack("<I", 2**32 - 1),
        struct.pack("<IQQ", 3, 0, 1) + text(b"general.alignment") + struct.pack("<IQ", 10, far),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", many) + b"\xff" * many,
    ]
    path = tmp_path / "x.gguf"
    for head in heads:
        path.write_bytes(b"GGUF" + head)
        began = time.monotonic()
        with pytest.raises(
            ValueError, match="not a complete GGUF file|GGUF file of the architecture none with 0 tensors"
        ):
            read_concept(path)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("direction.9999", (6,), "speaks of 10000 layers"),
        ("direction.1", (2**40,), "of width 1099511627776"),
        ("direction.1", (0,), "width 0"),
        ("direction.1", (2**62, 4), "not float32 vectors of one length"),
        ("direction.007", (6,), "with 0 tensors"),
        ("direction.1", (2000,), "not a complete GGUF file"),
    ],
)
def test_gguf_vectors_of_no_model_are_refused(tmp_path, name, shape, says):
    path = tmp_path / "x.gguf"
    path.write_bytes(_gguf("controlvector", name, shape=shape))
    with pytest.raises(ValueError, match=says):
        read_concept(path)


def test_gguf_vectors_may_not_lie_on_one_another(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", concept(representation="hiddens"))
    data = bytearray(path.read_bytes())
    at = data.index(b"direction.2") + len(b"direction.2") + 4 + 8 + 4
    assert struct.unpack_from("<Q", data, at) == (32,)
    struct.pack_into("<Q", data, at, 4)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="directions that lie on one another"):
        read_concept(path)


# ------------------------------------------------------------------------------------------ extremes


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e-20, 1e-38, 1e-42])
def test_vectors_from_which_no_direction_can_be_reckoned_are_refused(tmp_path, scale):
    weights = concept().weights.clone()
    weights[2] *= scale
    with pytest.raises(ValueError, match="has a vector of length .* at layer 2, which is no direction"):
        read_concept(official(tmp_path, W=weights))
    with pytest.raises(ValueError, match="has a vector of length .* at layer 0, which is no direction"):
        read_concept(official(tmp_path, W=concept().weights.double() * scale**7))
    made = concept(weights=concept().weights * 1e-9)
    assert (
        read_concept(write_safetensors(tmp_path / "small.safetensors", made))
        .unit()
        .norm(dim=-1)
        .allclose(torch.ones(LAYERS))
    )


@pytest.mark.parametrize("scale", [1e20, 3e38, 1e-30, 1e-38, 1.0])
def test_a_direction_has_length_one_whatever_its_vector_s(scale):
    weights = torch.nn.functional.normalize(torch.tensor([[3.0, -4.0, 0.5], [1.0, 0, 0]]), dim=-1)
    unit = concept(weights=torch.cat([weights * scale, torch.zeros(1, 3)])).unit()
    torch.testing.assert_close(unit, torch.cat([weights, torch.zeros(1, 3)]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {"W": torch.ones(3, 4, dtype=torch.int64)},
            "W in creativity.safetensors is of the type I64: save the numbers as float32",
        ),
        ({"W": torch.ones(3, 4, dtype=torch.complex64)}, "is of the type|not a safetensors file that can be read"),
        ({"W": torch.ones(3, 4, dtype=torch.float8_e5m2)}, "is of the type"),
        ({"W": torch.ones(600, 4)}, "W in creativity.safetensors has 600 layers, at most 512"),
        ({"W": torch.ones(30_000, 2)}, "is 30000×2: it must be layers × width"),
        ({"W": torch.ones(0, 4)}, "is 0×4"),
        (
            {"W": torch.ones(3, 4), "a": torch.full((3,), 1e30)},
            "a in creativity.safetensors holds numbers as large as 1e.30",
        ),
        ({"W": torch.ones(3, 4), "norms": torch.ones(3, 4)}, "norms in creativity.safetensors has 12 numbers, W has 3"),
        ({"W" * 50_000: torch.ones(1)}, "has no W"),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path, tensors, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_concept(official(tmp_path, **tensors))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "told",
    [
        '{"validation_accuracy": [' + "0.5," * 200_000 + "0.5]}",
        '{"validation_accuracy": [NaN, 1, 1, 1]}',
        "[" * 100_000,
        '{"validation_accuracy": [1e999, 1, 1, 1]}',
        f'{{"validation_accuracy": [{"9" * 400}, 1, 1, 1]}}',
        f'{{"seed": {"9" * 5000}}}',
        '{"validation_accuracy": [true, 1, 1, 1]}',
        '{"validation_accuracy": [0.5, 0.5]}',
        '{"validation_accuracy": {"a": 1}}',
        '{"a": ' * 5000 + "1" + "}" * 5000,
        '{"probe": "<b>", "representation": "everywhere"}',
        '{"seed": Infinity, "more": {"a": {"b": 1}}}',
        "{" + ",".join(f'"k{n}": 1' for n in range(20_000)) + "}",
        '{"name": "\\ud800"}',
        '{"name": "\\u0000\\n"}',
        '{"model": "\\u202e"}',
    ],
)
def test_what_a_file_says_of_itself_is_bounded(tmp_path, told):
    path = tmp_path / "creativity.safetensors"
    save_file({"W": concept().weights}, path, {"concept_guidance": told})
    began = time.monotonic()
    found = read_concept(path, LAYERS, WIDTH)
    assert found.name == "creativity" and not found.validation_accuracy and len(found.facts) <= 40
    assert len(json.dumps(found.facts, allow_nan=False)) < 10_000 and found.probe == "unknown"
    again = read_concept(write_safetensors(tmp_path / "again.safetensors", found))
    assert again.facts == found.facts and again.name == "creativity"
    assert time.monotonic() - began < 1


def test_a_header_of_megabytes_is_not_read(tmp_path):
    path = tmp_path / "creativity.safetensors"
    save_file(
        {"W": concept().weights}, path, {"concept_guidance": '{"validation_accuracy": [' + "0.5," * 400_000 + "0.5]}"}
    )
    with pytest.raises(ValueError, match="is not a safetensors file that can be read"):
        read_concept(path)


def damaged(draw: random.Random, whole: bytes) -> bytes:
    """A few bytes of a file changed, mostly near its beginning, a number among them made extreme, or its end cut off."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(min(len(data), 700) if draw.random() < 0.8 else len(data))
        kind = draw.random()
        if kind < 0.4:
            data[at] ^= 1 << draw.randrange(8)
        elif kind < 0.7:
            data[at : at + 8] = struct.pack("<Q", draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data))))
        elif kind < 0.8:
            data[at:at] = bytes(draw.randrange(64))
        elif kind < 0.9:
            del data[at : at + draw.randrange(1, 40)]
        else:
            data[at] = draw.randrange(256)
    return bytes(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.15 else data)


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "csv", "json", "jsonl", "txt"])
def test_whatever_the_bytes_a_file_is_read_or_refused_in_one_sentence(tmp_path, kind):
    draw, path, began, sentences = random.Random(kind), tmp_path / f"x.{kind}", time.monotonic(), []
    made = concept(representation="hiddens")
    rows = [{"prompt": f"What does {n} eat?", "completion": f"Cheese, {n}.", "label": n % 2} for n in range(8)]
    whole = {
        "safetensors": lambda: write_safetensors(path, made).read_bytes(),
        "gguf": lambda: write_gguf(path, made).read_bytes(),
        "csv": lambda: b"prompt,completion,label\n" + b'"What, then?",Cheese,1\n' * 8,
        "json": lambda: json.dumps(rows).encode(),
        "jsonl": lambda: "\n".join(map(json.dumps, rows)).encode(),
        "txt": lambda: b"+ What? => Cheese\n- What? => Nothing\n" * 4,
    }[kind]()
    for _ in range(200):
        path.write_bytes(damaged(draw, whole))
        start = time.monotonic()
        try:
            if kind in ("safetensors", "gguf"):
                found = read_concept(path)
                lengths = found.unit().norm(dim=-1)
                assert bool(((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all()) and bool(lengths.any())
                json.dumps([found.name, found.facts, *found.train_accuracy], allow_nan=False).encode()
            else:
                read_examples(path)
        except ValueError as error:
            sentences.append(str(error).encode().decode())
        assert time.monotonic() - start < 2
    assert len(sentences) > 20 and time.monotonic() - began < 30
    assert all(
        "\n" not in said and len(said) < 400 and str(tmp_path) not in said and "Error" not in said for said in sentences
    )


# ------------------------------------------------------------------------------------------ examples

WANTED = [Example("Why is the sky blue?", "It blushes.", 1), Example("", "Rayleigh scattering, dear.", 0)]


def test_pasted_lines():
    text = "+ Why is the sky blue? => It blushes.\n\n  - Rayleigh scattering, dear.  \n"
    assert read_examples(text) == WANTED
    assert read_examples("−  a => b\n– c") == [Example("a", "b", 0), Example("", "c", 0)]


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl", "x.txt", "x.tsv"])
def test_every_format_says_the_same(tmp_path, name):
    rows = [{"prompt": e.prompt, "completion": e.completion, "label": e.label} for e in WANTED]
    text = {
        "x.csv": 'Prompt,Completion,Label\nWhy is the sky blue?,It blushes.,yes\n,"Rayleigh scattering, dear.",0\n',
        "x.tsv": "label\tprompt\tcompletion\n1.0\tWhy is the sky blue?\tIt blushes.\nFalse\t\tRayleigh scattering, dear.\n",
        "x.json": json.dumps(rows),
        "x.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
        "x.txt": "+ Why is the sky blue? => It blushes.\n- Rayleigh scattering, dear.",
    }[name]
    path = tmp_path / name
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert read_examples(path) == WANTED
    assert read_examples(text) == WANTED, "pasted, the format is seen from the text"


def test_histories_are_kept():
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    row = {"prompt": "Why?", "completion": "Because.", "label": True, "conversation_history": turns}
    (example,) = read_examples(json.dumps([row]))
    assert example.history == tuple(turns) and example.label == 1
    assert example.messages() == [*turns, {"role": "user", "content": "Why?"}]
    assert Example("", "x", 0).messages("Hello")[-1]["content"] == "Hello"
    cell = json.dumps(turns).replace('"', '""')
    csv = f'prompt,completion,label,conversation_history\nWhy?,Because.,1,"{cell}"\n'
    assert read_examples(csv) == [example]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  \n", "There are no examples"),
        ("hello", "Line 1 starts with neither"),
        ("+ a\nb", "Line 2 starts with neither"),
        ("prompt,completion,text label\na,b,1", "has the columns prompt, completion, text label but not label"),
        ("prompt,completion,label\na,b\n", "Line 2 of the CSV has another number of columns"),
        ("prompt,completion,label\na,b,c,1\n", "Line 2 of the CSV has another number"),
        ('prompt,completion,label\na,"b,1\n', "CSV breaks off near line 1"),
        ("prompt,completion,label\na,b,maybe\nc,d,1\ne,f,2\n", "row 2 has 'maybe', row 4 has '2'; write 1"),
        ('[{"prompt": "a"}', "JSON breaks off at line 1, column 17"),
        ('{"prompt": "a"', "JSON breaks off at line 1, column 15"),
        ('[{"prompt": "a", "label": 1}]', "Row 1 has prompt, label: expected prompt, completion and label"),
        ("[3]", "Row 1 has no keys but is 3"),
        ('[{"prompt": "a", "completion": 3, "label": 1}]', "completion of row 1 is 3 but must be a text"),
        ('[{"prompt": "a", "completion": "b", "label": null}]', "row 1 has nothing .null."),
        ('[{"prompt": "a", "completion": "b", "label": NaN}]', "row 1 has nan"),
        ('[{"prompt": "a", "completion": "b", "label": 1, "conversation_history": [3]}]', "is not a list of turns"),
        ("[" * 100_000, "nested too deeply|breaks off"),
        ("+ " + "a" * 30_000, "completion of row 1 has 30,000 characters"),
        ("+ a\n" * 2001, "2,001 examples, at most 2,000"),
        ("+ a" * 2_000_000, "characters, at most 5 million"),
    ],
)
def test_wrong_examples_get_one_sentence(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_examples(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n", "\u2028", "\x85", "\v", "\f", " \n\t"])
def test_lines_may_end_in_any_way(tmp_path, end):
    lines = ["+ Why is the sky blue? => It blushes.", "- Rayleigh scattering, dear."]
    assert read_examples("\ufeff" + end.join(lines) + end) == WANTED
    table = ["prompt,completion,label", "Why is the sky blue?,It blushes.,1", ',"Rayleigh scattering, dear.",0 ']
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + end.join(table).encode())
    assert read_examples(tmp_path / "x.csv") == WANTED


def test_letters_that_end_lines_elsewhere_end_none_in_json():
    rows = [{"prompt": "Why\u2028now?", "completion": "It\x85blushes.", "label": 1}] * 2
    found = read_examples("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert found == [Example("Why\nnow?", "It\nblushes.", 1)] * 2


def with_history(turns: list) -> str:
    return json.dumps([{"prompt": "a", "completion": "b", "label": 1, "conversation_history": turns}])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("+ a\0 => b", "The prompt of row 1 holds U\\+0000, which is no character of a text"),
        (json.dumps([{"prompt": "a", "completion": "\ud800", "label": 1}]), "completion of row 1 holds U\\+D800"),
        ('[{"prompt": [1], "completion": "b", "label": 1}]', "The prompt of row 1 is a list of 1 but must be a text"),
        (f'[{{"prompt": "a", "completion": "b", "label": {"9" * 5000}}}]', "a number of thousands of digits"),
        (f'[{{"prompt": "a", "completion": "b", "label": {"9" * 400}}}]', "a whole number of some 400 digits"),
        ('[{"prompt": "a", "completion": "b", "label": 1e400}]', "row 1 has inf"),
        (
            'prompt,completion,label\n"' + "a" * 200_000 + '",b,1',
            "near line . at a quote or a very long text|at a quote or a very long",
        ),
        (
            with_history([{"role": "robot", "content": "x"}]),
            "role in row 1 'robot' is unknown: choose one of system, user, assistant",
        ),
        (with_history([{"role": "user", "content": "x"}] * 201), "is not a list of turns"),
    ],
)
def test_odd_examples_get_one_sentence(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_examples(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 and "Error" not in str(caught.value)


def test_more_than_five_wrong_labels_are_counted():
    text = "prompt,completion,label\n" + "a,b,?\n" * 9
    with pytest.raises(ValueError, match="row 6 has '.' and 4 more"):
        read_examples(text)


def test_wrong_files_get_one_sentence(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("prompt,completion,label\nä,b,1".encode("latin-1"))
    with pytest.raises(ValueError, match="x.csv is not text in UTF-8 .byte 24."):
        read_examples(path)
    path.write_bytes(b"a" * (5 * 2**20 + 1))
    with pytest.raises(ValueError, match="has 5.0 MB, at most 5 are read"):
        read_examples(path)
    other = tmp_path / "x.docx"
    other.write_text("+ a")
    with pytest.raises(ValueError, match="ends with .docx"):
        read_examples(other)
    path = tmp_path / "x.json"
    path.write_text('{\n"prompt": "a", "completion": "b", "label": 1}')
    assert read_examples(path) == [Example("a", "b", 1)], "a single object is one example"
    for text, says in (
        ('{"data": [1, 2]}', "Row 1 has data: expected"),
        ("3", "Row 1 has no keys but is 3"),
        ("", "no ex"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            read_examples(path)


def test_four_of_each_label_and_a_difference_are_needed():
    good = [Example(f"p{n}", f"a{n}", n % 2) for n in range(8)]
    check_examples(good)
    with pytest.raises(ValueError, match="Need at least") as caught:
        check_examples([dataclasses.replace(example, label=1) for example in good[:7]])
    assert str(caught.value) == "Need at least 4 examples with and 4 without the concept; got 7 and 0."
    with pytest.raises(ValueError, match="got 2 and 1"):
        check_examples([Example("p", "a", label) for label in (1, 1, 0)])
    twins = [dataclasses.replace(example, prompt="p", completion=f"a{n // 2}") for n, example in enumerate(good)]
    with pytest.raises(ValueError, match="0 difference, direction undefined"):
        check_examples(twins)
