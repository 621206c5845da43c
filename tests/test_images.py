"""Pictures at the edges: ranges, PNG files with settings inside, and files built to harm."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines import images

SETTINGS = {"prompt": 'ein blauer Würfel ↗ "quoted"', "seed": 2**31 - 1, "strength": -0.5}


def picture(height: int = 48, width: int = 80) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    return images.to_pil(torch.rand(1, 3, height, width, generator=generator))[0]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return images.save_png(picture(), tmp_path / "a.png", SETTINGS, tab="golden_noise", models=["mini-sdxl/unet"])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, width: int = 1, height: int = 1) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def settings_chunk(text: str, compressed: bool = False) -> bytes:
    body = zlib.compress(text.encode()) if compressed else text.encode()
    return chunk(b"iTXt", b"latent-studio\0" + bytes([compressed, 0]) + b"\0\0" + body)


# --- ranges ---


def test_signed_and_unit_undo_each_other():
    unit = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(images.to_unit(images.to_signed(unit)), unit)
    assert images.to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]


def test_pil_and_back_is_exact_for_8_bit_values():
    levels = torch.arange(256).float().reshape(1, 1, 8, 32).expand(1, 3, 8, 32) / 255
    (image,) = images.to_pil(levels)
    assert image.size == (32, 8)
    torch.testing.assert_close(images.from_pil(image), levels)


def test_to_pil_takes_half_precision_and_refuses_other_shapes():
    assert len(images.to_pil(torch.zeros(2, 3, 4, 6, dtype=torch.float16))) == 2
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\), got \(3, 4, 6\)"):
        images.to_pil(torch.zeros(3, 4, 6))


# --- writing and reading back ---


def test_settings_survive(saved: Path):
    record = images.read_settings(saved, tab="golden_noise")
    assert record["settings"] == SETTINGS
    assert record["models"] == ["mini-sdxl/unet"]


def test_same_arguments_same_bytes(saved: Path, tmp_path: Path):
    again = images.save_png(picture(), tmp_path / "b.png", dict(reversed(SETTINGS.items())), tab="golden_noise",
                            models=["mini-sdxl/unet"])  # fmt: skip
    assert again.read_bytes() == saved.read_bytes()


def test_pixels_are_untouched_and_other_programs_can_read_the_marks(saved: Path):
    with Image.open(saved) as image:
        assert image.tobytes() == picture().tobytes()
        assert image.info["Software"] == "Latent Studio"
        assert json.loads(image.info["latent-studio"])["settings"] == SETTINGS
        assert "digitalsourcetype/trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


@pytest.mark.parametrize("bad", [{"strength": float("nan")}, {"prompt": "x" * images.MAX_TEXT}])
def test_settings_that_could_not_be_read_back_are_not_written(tmp_path: Path, bad: dict):
    with pytest.raises(ValueError, match=r"JSON|at most"):
        images.save_png(picture(), tmp_path / "a.png", bad)


# --- one sentence each ---


def sentence(path: Path, **kwargs: str) -> str:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        images.read_settings(path, **kwargs)
    text = str(caught.value)
    assert text.endswith(".")
    assert len(text) < 200
    assert "\n" not in text
    return text


def test_a_text_file_named_png(tmp_path: Path):
    (tmp_path / "a.png").write_text("hello")
    assert "not a PNG" in sentence(tmp_path / "a.png")


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "a.png").touch()
    assert "not a PNG" in sentence(tmp_path / "a.png")


def test_a_cut_file_at_every_length(saved: Path, tmp_path: Path):
    data = saved.read_bytes()
    for length in (20, 40, 60, 200, len(data) // 2, len(data) - 12, len(data) - 1):
        (tmp_path / "cut.png").write_bytes(data[:length])
        assert "cut short" in sentence(tmp_path / "cut.png")


def test_a_foreign_png(tmp_path: Path):
    picture().save(tmp_path / "a.png")
    assert "holds no settings" in sentence(tmp_path / "a.png")


def test_a_bomb_is_refused_from_its_header(tmp_path: Path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    tracemalloc.start()
    assert "20,000 x 20,000" in sentence(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_huge_text_is_not_read(tmp_path: Path):
    text = json.dumps({"format": 1, "settings": {"prompt": "x" * 30_000_000}})
    (tmp_path / "a.png").write_bytes(png(settings_chunk(text)))
    tracemalloc.start()
    assert "at most 65,536 are read" in sentence(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_compressed_text_is_not_unpacked(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(settings_chunk("x" * 10_000_000, compressed=True)))
    assert "not in our form" in sentence(tmp_path / "a.png")


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", '{"format": 1}', '{"format": 1, "settings": []}', "[" * 60_000, '{"settings": {}'],
)  # fmt: skip
def test_text_that_is_no_record(tmp_path: Path, text: str):
    (tmp_path / "a.png").write_bytes(png(settings_chunk(text)))
    assert "cannot be read" in sentence(tmp_path / "a.png")


def test_a_damaged_text(saved: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(saved.read_bytes().replace(b"seed", b"sEEd", 1))
    assert "damaged" in sentence(tmp_path / "a.png")


def test_a_newer_format_and_another_page(tmp_path: Path):
    (tmp_path / "new.png").write_bytes(png(settings_chunk('{"format": 99, "settings": {}}')))
    assert "update" in sentence(tmp_path / "new.png")
    (tmp_path / "other.png").write_bytes(png(settings_chunk('{"format": 1, "tab": "portrait", "settings": {}}')))
    assert "'portrait'" in sentence(tmp_path / "other.png", tab="golden_noise")


def test_endless_chunks(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(*[chunk(b"tEXt", b"a\0b")] * (images.MAX_CHUNKS + 1)))
    assert "too many parts" in sentence(tmp_path / "a.png")


# --- other uploads ---


def test_an_upload_is_turned_upright_and_stripped(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees
    Image.new("RGB", (300, 100), "red").save(tmp_path / "a.jpg", exif=exif, comment=b"private")
    upright = images.open_upload(tmp_path / "a.jpg", max_side=150)
    assert upright.size == (50, 150)
    assert upright.mode == "RGB"
    assert not upright.info


@pytest.mark.parametrize("kind", ["text", "cut", "bomb"])
def test_uploads_that_cannot_be_opened(tmp_path: Path, kind: str):
    path = tmp_path / "a.png"
    if kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        picture().save(path)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"not a picture|cut short|at most"):
        images.open_upload(path)
