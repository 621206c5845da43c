"""Concept files: vectors in the paper's layout and as GGUF, labelled examples, and a sentence for everything else."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.concept_files import (
    Concept,
    Example,
    check_examples,
    check_fit,
    read_concept,
    read_examples,
    write_gguf,
    write_safetensors,
)

LAYERS, WIDTH = 4, 6


def concept(**changes) -> Concept:
    generator = torch.Generator().manual_seed(0)
    made = Concept(
        "humour", torch.nn.functional.normalize(torch.randn(LAYERS, WIDTH, generator=generator), dim=-1), "dim",
        "pre-attn", torch.rand(LAYERS) + 1, torch.randn(LAYERS), torch.randn(LAYERS, WIDTH), torch.rand(LAYERS) + 3,
        (0.5, 0.75, 1.0, 0.625), (0.5, 0.7, 0.9, 0.6), {"model": "toy", "seed": 3},
    )  # fmt: skip
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
    kept = read_concept(path, repair_signs=False)
    assert torch.equal(kept.weights, unit) and not kept.notices


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
        "x.csv": "Prompt,Completion,Label\nWhy is the sky blue?,It blushes.,yes\n,\"Rayleigh scattering, dear.\",0\n",
        "x.tsv": "label\tprompt\tcompletion\n1.0\tWhy is the sky blue?\tIt blushes.\nFalse\t\tRayleigh scattering, dear.\n",
        "x.json": json.dumps(rows),
        "x.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
        "x.txt": "+ Why is the sky blue? => It blushes.\n- Rayleigh scattering, dear.",
    }[name]  # fmt: skip
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
        ("[3]", "Row 1 has no keys but a int"),
        ('[{"prompt": "a", "completion": 3, "label": 1}]', "completion of row 1 is '3': it must be a text"),
        ('[{"prompt": "a", "completion": "b", "label": null}]', "row 1 has 'None'"),
        ('[{"prompt": "a", "completion": "b", "label": NaN}]', "row 1 has 'nan'"),
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
        ("3", "Row 1 has no keys but a int"),
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
