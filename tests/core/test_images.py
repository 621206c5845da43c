"""Pictures at the edges: ranges, PNG files with settings inside, and files built to harm."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageCms

from pipelines.core import images

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


def test_to_pil_is_exact_for_8_bit_values():
    levels = torch.arange(256).reshape(1, 1, 8, 32).expand(1, 3, 8, 32)
    (image,) = images.to_pil(levels.float() / 255)
    assert image.size == (32, 8)
    assert numpy.array_equal(numpy.asarray(image), levels[0].permute(1, 2, 0).numpy())


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
    "text",
    [
        "",
        "not json",
        "[]",
        '{"format": 1}',
        '{"format": 1, "settings": []}',
        "[" * 60_000,
        '{"settings": {}',
        '{"format": 1, "settings": {}, "models": 5}',
        '{"format": 1, "settings": {}, "models": [["x"]]}',
    ],
)
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


# --- pictures that come in ---


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def refusal(source, **options) -> str:
    """The one sentence of a refusal, which took under a second."""
    began = time.process_time()
    with pytest.raises(ValueError, match=r"\.$") as caught:
        images.opened(source, **options)
    assert time.process_time() - began < 1
    text = str(caught.value)
    assert len(text) < 220 and "\n" not in text and "Error" not in text and "MAX_TEXT" not in text
    return text


def test_an_upload_is_turned_upright_and_stripped(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees
    Image.new("RGB", (300, 100), "red").save(tmp_path / "a.jpg", exif=exif, comment=b"private")
    upright = images.open_picture(tmp_path / "a.jpg")
    assert upright.size == (100, 300)
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
    assert re.search(r"not a picture|cut short|at most", refusal(path))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n"
WMF = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhHI", 0, 0, 99, 99, 0, 0) + b"\0\0" + b"\1\0\x09\0\0\3" + bytes(40)
OTHERS = {
    "a PostScript file": POSTSCRIPT, "a Windows metafile": WMF, "a QOI": b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + bytes(40),
    "a DDS texture": b"DDS " + bytes(124), "an icon file": b"icns" + struct.pack(">I", 8), "a Photoshop file": b"8BPS\0\1" + bytes(40),
    "a PFM": b"PF\n4 4\n-1.0\n" + bytes(192), "a PNM": b"P6\n4 4\n255\n" + bytes(48), "a PDF": b"%PDF-1.4\n", "an SVG": b"<svg xmlns='x'/>",
    "a GIF": file_of(Image.new("P", (4, 4)), "GIF"), "a BMP": file_of(Image.new("RGB", (4, 4)), "BMP"),
    "a TIFF": file_of(Image.new("RGB", (4, 4)), "TIFF"), "an AVIF": b"\0\0\0\x1cftypavif" + bytes(40),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_named_png_are_named_and_never_decoded(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.setattr(Image, "open", None)  # no decoder is asked
    (tmp_path / "a.png").write_bytes(OTHERS[name])
    assert f"This file is {name}, whatever its name says: save it as PNG, JPEG or WebP." == refusal(tmp_path / "a.png")


def test_pillow_itself_opens_nothing_else_from_then_on():
    """As Gradio opens files, without naming formats; in a process of its own, because it is for good."""
    code = f"""
import io, subprocess
from PIL import Image
from pipelines.core import images
def none(*_, **__): raise AssertionError("a program was started")
subprocess.Popen = subprocess.run = subprocess.check_call = none
images.only_our_decoders()
images.only_our_decoders()
from PIL import GifImagePlugin, TiffImagePlugin, EpsImagePlugin
import importlib; importlib.reload(GifImagePlugin)
for data in {[POSTSCRIPT, WMF, OTHERS["a GIF"], OTHERS["a BMP"], OTHERS["a TIFF"], OTHERS["a PNM"]]!r}:
    try:
        Image.open(io.BytesIO(data)).load()
    except Image.UnidentifiedImageError:
        continue
    raise AssertionError(data[:20])
for kind in ("PNG", "JPEG", "WEBP"):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind)
    assert Image.open(file).format == kind
assert set(Image.OPEN) == set(Image.ID) == {{"PNG", "JPEG", "WEBP"}}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(images.__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_are_opened_in_one_place_only():
    """Nowhere else in what is served is there a call that could decode a picture's file."""
    root = Path(images.__file__).parents[2]
    seen = []
    for path in [root / "app.py", *(root / "pipelines").rglob("*.py"), *(root / "demos").rglob("*.py")]:
        text = path.read_text()
        if ".open(" not in text and "imread" not in text and "imdecode" not in text:
            continue
        tree = ast.parse(text)
        pillow = {"Image"} | {
            alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names if alias.name in ("Image", "PIL.Image")
        }  # fmt: skip
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value).removeprefix("PIL.")
            decodes = node.func.attr in ("imread", "imdecode", "imreadmulti") or (
                node.func.attr == "open" and owner in pillow
            )
            if decodes:
                formats = [word for word in node.keywords if word.arg == "formats"]
                seen.append((path.relative_to(root).as_posix(), len(formats)))
    assert seen == [("pipelines/core/images.py", 1)]


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def with_chunk(kind: bytes, body: bytes) -> bytes:
    whole = file_of(picture())
    return whole[:33] + chunk(kind, body) + whole[33:]


HARMFUL = {
    "a long text": with_chunk(b"zTXt", b"Comment\0\0" + deflated(20_000_000)),
    "a long international text": with_chunk(b"iTXt", b"Comment\0\1\0\0\0" + deflated(20_000_000)),
    "a long profile": with_chunk(b"iCCP", b"mine\0\0" + deflated(20_000_000)),
    "a profile by another method": with_chunk(b"iCCP", b"mine\0\7abc"),
    "an empty profile": with_chunk(b"iCCP", b"mine"),
    "endless parts": png(*[chunk(b"tEXt", b"a\0b")] * 200_000),
    "no pixels": png().replace(b"IDAT", b"idat"),
    "a bit depth of 3": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 3, 2, 0, 0, 0)) + chunk(b"IDAT", deflated(99)) + chunk(b"IEND", b""),
    "no pixels in its data": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"not deflated") + chunk(b"IEND", b""),
    "0 x 0": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)) + chunk(b"IDAT", deflated(9)) + chunk(b"IEND", b""),
    "a wrong checksum": file_of(picture())[:29] + b"abcd" + file_of(picture())[33:],
    "a JPEG of padding": b"\xff\xd8" + b"\xff" * 30_000_000,
    "a JPEG of comments": b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000,
    "a JPEG of scans": file_of(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)[:-2] + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" * 1000,
    "half a JPEG": file_of(picture(), "JPEG")[:400],
    "a JPEG's start": b"\xff\xd8\xff\xe0",
    "a huge WebP": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff\xff\xff" * 2 + bytes(40),
    "half a WebP": file_of(picture(), "WEBP")[:60],
    "a WebP's start": b"RIFF\x40\0\0\0WEBP",
    "a line": file_of(Image.new("1", (40_000, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_files_are_refused_in_one_sentence_at_once(name: str):
    """A wrong reason is a fault, too: what is whole is not called cut short."""
    text = refusal(HARMFUL[name])
    wanted = {
        "a long": "too long to be unpacked", "endless": "too many parts", "a JPEG of scans": "scans", "a huge": "make it smaller",
        "0 x 0": "0 x 0 pixels", "a line": "no side may have more",
    }  # fmt: skip
    assert next((words for start, words in wanted.items() if name.startswith(start)), "damaged or cut short") in text


def test_cut_files_and_flipped_bytes_raise_nothing_but_sentences():
    random = numpy.random.default_rng(0)
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
        ("WEBP", {}),
    ):
        whole = file_of(picture(), kind, **options)
        for _ in range(150):
            data = bytearray(whole[: random.integers(1, len(whole))] if random.random() < 0.3 else whole)
            for place in random.integers(0, min(len(data), 400), 3):
                data[place] = random.integers(0, 256)
            with contextlib.suppress(ValueError):
                assert images.open_picture(bytes(data)).mode == "RGB"


def test_the_decoders_own_words_are_in_the_log_only(caplog):
    with caplog.at_level("INFO", "pipelines.core.images"):
        refusal(HARMFUL["a long text"])
    assert "MAX_TEXT_CHUNK" in caplog.text


def test_a_large_file_and_one_that_is_gone(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    assert "MiB" in refusal(file_of(picture()))
    assert "not there any more" in refusal(tmp_path / "none.png")


def test_memory_that_runs_out_is_told(monkeypatch):
    def full(*_args, **_words):
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    assert "not enough memory" in refusal(file_of(picture()))


def test_sizes_and_kinds_can_be_refused_before_decoding(monkeypatch):
    def wide(size):
        raise ValueError(f"{size[0]} wide.")

    monkeypatch.setattr(Image, "open", None)
    assert refusal(file_of(picture()), check=wide) == f"{picture().width} wide."
    assert "PNG is wanted" in refusal(file_of(picture(), "JPEG"), kinds=["PNG"])


def notes_of(data: bytes) -> str:
    return " ".join(images.open_upload(data).notes)


def test_what_a_result_cannot_give_back_is_said():
    assert (
        notes_of(file_of(picture()))
        == notes_of(file_of(picture(), "JPEG"))
        == notes_of(file_of(picture().convert("L")))
        == ""
    )
    grey = numpy.arange(64, dtype=numpy.uint16).reshape(8, 8) * 1000
    assert "16 bits" in notes_of(file_of(Image.fromarray(grey)))
    colours = png_of_16_bits()
    assert "16 bits" in notes_of(colours)
    assert "CMYK" in notes_of(file_of(picture().convert("CMYK"), "JPEG"))
    moving = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("WEBP", "PNG"):
        assert "more than one picture" in notes_of(file_of(moving[0], kind, save_all=True, append_images=moving[1:]))
    assert "gamma of 1.00" in notes_of(with_chunk(b"gAMA", struct.pack(">I", 100_000)))
    assert notes_of(with_chunk(b"gAMA", struct.pack(">I", 45_455))) == ""


def png_of_16_bits() -> bytes:
    rows = b"".join(b"\0" + bytes(range(48)) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_wide_profile_is_converted_with_a_note_and_one_that_changes_nothing_without():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name, other = ("".join(f"\0{letter}" for letter in word).encode() for word in ("sRGB", "mine"))
    renamed = profile.replace(name, other)
    assert notes_of(file_of(picture(), icc_profile=renamed)) == ""
    swapped = renamed.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    assert "were converted to sRGB" in notes_of(file_of(picture(), icc_profile=swapped))


def test_transparency_is_kept_beside_the_picture_with_the_colours_under_it():
    pixels = numpy.random.default_rng(0).integers(0, 256, (8, 8, 4), numpy.uint8)
    pixels[:4, :, 3] = 255
    opened = images.open_upload(file_of(Image.fromarray(pixels)))
    assert (numpy.asarray(opened.layered) == pixels).all()
    assert (numpy.asarray(opened.image)[:4] == pixels[:4, :, :3]).all()
    assert images.open_upload(file_of(Image.fromarray(pixels[:4]))).layered is None
    hole = Image.fromarray(numpy.arange(64, dtype=numpy.uint16).reshape(8, 8) * 1000)
    assert images.open_upload(file_of(hole, transparency=3000)).layered.getpixel((3, 0))[3] == 0


def test_a_picture_with_transparency_is_written_with_it(tmp_path: Path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 40))
    with Image.open(images.save_png(clear, tmp_path / "a.png", {})) as image:
        assert image.getpixel((0, 0)) == (10, 20, 30, 40)
