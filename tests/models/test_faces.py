"""Parser, embedder and ControlNet entries: places, crops and errors, with hand-made pictures and tiny networks."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy
import pytest
import torch
from torch import nn

from assets.mini_faces import data, evaluate
from pipelines.core.geometry import POINTS
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT
from pipelines.models import controlnets, face_nets
from pipelines.models import faces as face_models
from pipelines.models.face_nets import FaceEmbedder, FaceEmbedderNetwork, FaceParser
from pipelines.models.faces import LABELS, TEMPLATE

TRAINED = (ROOT / face_models.ASSETS / "parser").exists() and (ROOT / face_models.ASSETS / "embedder").exists()
DOTS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.5))
"""Green and blue of the five points in painted pictures; skin is red without either."""


def turned(points: numpy.ndarray, scale: float, degrees: float, shift: tuple[float, float]) -> numpy.ndarray:
    angle = numpy.radians(degrees)
    rotation = numpy.array([[numpy.cos(angle), -numpy.sin(angle)], [numpy.sin(angle), numpy.cos(angle)]])
    return (scale * points @ rotation.T + shift).astype(numpy.float32)


def painted(
    size: tuple[int, int], faces: list[tuple[float, float, float]]
) -> tuple[numpy.ndarray, list[numpy.ndarray]]:
    """A blue-free picture of (height, width) with red faces at (x, y) of a given width, and their true points."""
    picture, truth = numpy.zeros((*size, 3), numpy.uint8), []
    for x, y, width in faces:
        cv2.ellipse(picture, (round(x), round(y)), (round(width / 2), round(0.6 * width)), 0, 0, 360, (255, 0, 0), -1)
        points = (TEMPLATE - TEMPLATE.mean(0)) * (width / 96) + (x, y)
        for point, (green, blue) in zip(points, DOTS, strict=True):
            colour = (255, round(255 * green), round(255 * blue))
            cv2.circle(picture, tuple(round(v - 0.5) for v in point.tolist()), round(0.06 * width), colour, -1)
        truth.append(points)
    return picture, truth


class ReadsPaint(nn.Module):
    """Says skin where the picture is red, and a point where it has the point's colour; at a quarter of the size, as a Segformer."""

    def __init__(self) -> None:
        super().__init__()
        self.certainty = nn.Parameter(torch.tensor(12.0))

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        red, green, blue = ((images + 1) / 2).unbind(1)
        skin = [
            self.certainty * (red - 0.5)
            if name == "skin"
            else torch.full_like(red, 0.0 if name == "background" else -1.0)
            for name in LABELS
        ]
        dots = [
            self.certainty * (1 - 4 * (green - g).abs() - 4 * (blue - b).abs()).clamp(0) * (red > 0.5) for g, b in DOTS
        ]
        logits = torch.stack([*skin, *dots], 1)
        order = [*range(len(LABELS)), *(len(LABELS) + place for place in face_models.MIRRORED)]
        logits[1::2] = logits[1::2, order]  # the second picture is mirrored, where left is left again
        return SimpleNamespace(logits=nn.functional.avg_pool2d(logits, face_models.STRIDE))


# --------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    ("size", "faces"),
    [
        ((128, 128), [(64, 60, 58)]),
        ((192, 256), [(70, 90, 60), (190, 100, 48)]),
        ((600, 400), [(180, 250, 170)]),
        ((300, 300), [(40, 150, 60)]),  # near the border
    ],
)
def test_faces_are_found_where_they_are_painted(size, faces):
    picture, truth = painted(size, faces)
    found = FaceParser(ReadsPaint()).detect(picture)
    assert len(found) == len(faces), "from left to right, one each"
    for face, (x, y, width), points in zip(found, faces, truth, strict=True):
        left, top, across, down = face.box
        assert left + across / 2 == pytest.approx(x, abs=0.06 * width) and across == pytest.approx(width, rel=0.12)
        assert top + down / 2 == pytest.approx(y, abs=0.06 * width) and down == pytest.approx(1.2 * width, rel=0.12)
        assert numpy.abs(face.points - points).max() < 0.05 * width
        assert 0.5 < face.score <= 1


def test_parts_are_those_of_the_face_and_every_pixel_has_one():
    picture, _ = painted((192, 256), [(70, 90, 60), (190, 100, 48)])
    first, second = FaceParser(ReadsPaint()).detect(picture)
    for face, here in ((first, slice(0, 128)), (second, slice(128, 256))):
        red = numpy.zeros(picture.shape[:2], bool)
        red[:, here] = picture[:, here, 0] > 127
        common, either = (face.core & red).sum(), (face.core | red).sum()
        assert common / either > 0.9, "the other face is none of this one's parts"
        assert set(face.parts) == set(LABELS) and (sum(p.astype(int) for p in face.parts.values()) == 1).all()


def test_a_picture_without_a_face_has_none():
    assert FaceParser(ReadsPaint()).detect(numpy.zeros((128, 200, 3), numpy.uint8)) == []
    stripes = numpy.zeros((128, 128, 3), numpy.uint8)
    stripes[40:80, 40:80, 0] = 255  # skin, but its points are all in one place
    assert FaceParser(ReadsPaint()).detect(stripes) == []


def test_an_ear_behind_hair_is_no_face_and_a_second_head_is():
    core = numpy.zeros((100, 200), bool)
    core[20:70, 20:60] = True
    core[40:50, 64:70] = True  # the ear
    core[30:70, 120:150] = True
    core[0:1, 0:1] = True  # a speck
    assert face_nets.components(core) == [(20, 20, 60, 70), (120, 30, 150, 70)]


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (numpy.zeros((64, 64), numpy.uint8), "height, width, 3"),
        (numpy.zeros((64, 64, 3), numpy.float32), "float32"),
        (numpy.zeros((8, 64, 3), numpy.uint8), "64 x 8"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(picture, says):
    with pytest.raises(ValueError, match=says):
        FaceParser(ReadsPaint()).detect(picture)


def test_the_expected_place_lies_between_two_equal_cells():
    heat = torch.full((1, 8, 8), -40.0)
    heat[0, 3, 2] = heat[0, 3, 3] = 0.0
    assert face_nets.expected_places(heat)[0].tolist() == pytest.approx(
        [12.0, 14.0]
    )  # (2.5 + 3.5) / 2 cells, 3.5 cells


# -------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(("scale", "degrees", "shift"), [(1, 0, (0, 0)), (0.5, 25, (60, 10)), (6, -40, (50, 400))])
def test_the_alignment_takes_the_points_to_the_template(scale, degrees, shift):
    points = turned(TEMPLATE, scale, degrees, shift)
    matrix = face_models.alignment(points)
    numpy.testing.assert_allclose(points @ matrix[:2, :2].T + matrix[:2, 2], TEMPLATE, atol=1e-3)


@pytest.mark.parametrize(("scale", "degrees"), [(0.6, 0), (1.0, 15), (5.0, -20)])
def test_in_an_aligned_picture_the_points_lie_on_the_template(scale, degrees):
    points = turned(TEMPLATE - TEMPLATE.mean(0), scale, degrees, (70 * max(scale, 1), 80 * max(scale, 1)))
    side = round(160 * max(scale, 1))
    rows, columns = numpy.mgrid[:side, :side] + 0.5
    for place, point in enumerate(points):
        hill = numpy.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / (2 * (2 * max(scale, 1)) ** 2))
        picture = numpy.repeat((255 * hill)[..., None], 3, 2).astype(numpy.uint8)
        seen = face_models.aligned(picture, points)[..., 0].astype(float)
        assert seen.shape == (96, 96)
        middle = (numpy.mgrid[:96, :96] + 0.5).reshape(2, -1) @ seen.ravel() / seen.sum()
        assert middle[::-1] == pytest.approx(TEMPLATE[place], abs=0.35)


def test_the_margin_goes_around_the_same_face():
    rng = numpy.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (20, 20, 3), numpy.uint8), (200, 200), interpolation=cv2.INTER_CUBIC)
    points = turned(TEMPLATE, 1.1, 8, (40, 30))
    wide = face_models.aligned(picture, points, margin=10)
    assert wide.shape == (116, 116, 3)
    difference = wide[10:-10, 10:-10].astype(int) - face_models.aligned(picture, points)
    assert numpy.abs(difference).max() <= 2


def test_points_that_are_no_face_are_refused():
    with pytest.raises(ValueError, match="within 1 pixel"):
        face_models.alignment(numpy.full((5, 2), 7.0))
    with pytest.raises(ValueError, match="mirrored"):
        face_models.alignment(TEMPLATE[[1, 0, 2, 4, 3]])
    with pytest.raises(ValueError, match="not a number"):
        face_models.alignment(TEMPLATE * numpy.nan)


def test_an_embedding_has_length_one_and_stays_when_the_picture_grows():
    torch.manual_seed(0)
    embedder = FaceEmbedder(FaceEmbedderNetwork(widths=(8, 8, 16, 16)).eval())
    rng = numpy.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 255, (16, 16, 3), numpy.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    points = turned(TEMPLATE, 0.75, 10, (30, 25))
    first = embedder.embed(picture, points)
    assert first.shape == (128,) and first.dtype == numpy.float32
    assert numpy.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    larger = cv2.resize(picture, (384, 384), interpolation=cv2.INTER_LINEAR)
    assert first @ embedder.embed(larger, points * 3) > 0.99
    assert numpy.array_equal(first, embedder.embed(picture, points)), "the same picture gives the same bytes"


# ---------------------------------------------------------------------------------------- control maps


def test_control_maps_keep_the_size_and_say_what_they_miss():
    picture, (points,) = painted((128, 160), [(70, 60, 60)])
    for reads in ("landmarks", "line", "shading", "canny", "tile", "openpose"):
        seen = controlnets.control_map(reads, picture, points, 60.0)
        assert seen.shape == picture.shape and seen.dtype == numpy.uint8, reads
    for reads in ("landmarks", "openpose"):
        with pytest.raises(ValueError, match=f"a {reads} map needs the face's points"):
            controlnets.control_map(reads, picture)
    with pytest.raises(ValueError, match="width"):
        controlnets.control_map("shading", picture, points)
    with pytest.raises(ValueError, match="choose landmarks"):
        controlnets.control_map("depth", picture)


def test_the_landmark_map_shows_points_only():
    points = turned(TEMPLATE, 1, 0, (20, 20))
    first, second = (
        controlnets.control_map("landmarks", numpy.full((128, 128, 3), grey, numpy.uint8), points) for grey in (0, 200)
    )
    assert numpy.array_equal(first, second), "nothing of the picture but the points"
    for point in points:
        assert first[int(point[1]), int(point[0])].max() == 255


def test_the_openpose_map_has_that_format_s_colours_in_the_right_places():
    points = 4 * (TEMPLATE + 16)
    seen = controlnets.control_map("openpose", numpy.full((512, 512, 3), 90, numpy.uint8), points).astype(int)
    for x, y in points:
        assert seen[int(y), int(x)].tolist() == [255, 255, 255], "a white dot"
    middle = {name: (points[2] + points[eye]) / 2 for name, eye in (("left", 0), ("right", 1))}
    sticks = {name: seen[int(y), int(x)].tolist() for name, (x, y) in middle.items()}
    assert sticks == {"left": [51, 0, 153], "right": [153, 0, 153]}, "the person's right eye is left in the picture"
    assert (seen.sum(-1) > 0).mean() < 0.02, "nothing else"


def test_the_shading_map_keeps_light_and_colour_and_drops_detail():
    ramp = numpy.tile(numpy.linspace(40, 220, 128), (128, 1))
    detail = 30.0 * (numpy.indices((128, 128)).sum(0) % 2 * 2 - 1)
    picture = (
        numpy.stack([ramp + detail, 0.8 * ramp + detail, 0.6 * ramp + detail], -1).clip(0, 255).astype(numpy.uint8)
    )
    smooth = numpy.stack([ramp, 0.8 * ramp, 0.6 * ramp], -1)
    seen = controlnets.control_map("shading", picture, width=60.0).astype(float)
    inner = slice(16, -16)
    assert numpy.abs(seen - smooth)[inner, inner].mean() < 6
    assert numpy.abs(numpy.diff(seen, axis=1))[inner, inner].max() < 12, "the checkerboard is gone"


# -------------------------------------------------------------------------------------------- registry


def test_both_sets_have_the_same_roles_with_a_licence_each():
    assert set(controlnets.CONTROLS["mini"]) == {"landmarks", "line", "shading"} <= set(controlnets.CONTROLS["full"])
    specs = [control.spec for controls in controlnets.CONTROLS.values() for control in controls.values()]
    assert len({spec.key for spec in specs}) == len(specs)
    assert {spec.licence for spec in specs} == {"Apache-2.0", "apache-2.0", "openrail++"}
    assert all(len(spec.files) == 2 for spec in specs if not spec.source.startswith("assets/")), "one file of weights"


def test_the_parser_reads_what_it_says(tmp_path):
    torch.manual_seed(0)
    network = face_nets.parser_network().eval()
    parts, heat = face_nets.parse(network, torch.rand(2, 3, 64, 96))
    assert parts.shape == (2, 7, 16, 24) and heat.shape == (2, 5, 16, 24)
    assert list(network.config.id2label.values()) == [*LABELS, *POINTS]
    assert sum(p.numel() for p in network.parameters()) < 500_000


def test_the_module_needs_no_torch():
    code = "import sys, pipelines.models.faces as f; f.evaluation(); print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_adapter_file_is_split_by_its_first_word_and_another_is_refused():
    one = torch.zeros(1)
    parts = controlnets.split_adapter({"image_proj.latents": one, "ip_adapter.1.to_k_ip.weight": one})
    assert {name: list(part) for name, part in parts.items()} == {
        "image_proj": ["latents"],
        "ip_adapter": ["1.to_k_ip.weight"],
    }
    with pytest.raises(ValueError, match="no IP-Adapter \\(it has 'unet.conv_in.weight'\\)"):
        controlnets.split_adapter({"unet.conv_in.weight": one})


def test_a_part_that_is_missing_is_named():
    spec = dataclasses.replace(face_models.PARSER, key="mini-faces/nothing", sha256={})
    with pytest.raises(FileNotFoundError, match="nothing in assets/mini_faces: train it"), Registry("cpu").lease(spec):
        pass


@pytest.mark.skipif(not TRAINED, reason="the face models are not trained yet")
def test_the_shipped_models_find_and_know_a_rendered_person():
    table = data.render_rows([(600_001, 1), (600_001, 2), (600_002, 1)])
    with Registry("cpu").lease(face_models.PARSER, face_models.EMBEDDER) as parts:
        parser, embedder = FaceParser(parts[0]), FaceEmbedder(parts[1])
        for picture, labels in zip(table["images"], table["labels"], strict=True):
            seen, true = parser.hair(picture), labels == LABELS.index("hair")
            assert (seen & true).sum() / (seen | true).sum() > 0.8
        found = [parser.detect(picture) for picture in table["images"]]
        assert [len(faces) for faces in found] == [1, 1, 1]
        errors = [
            evaluate.point_error(f[0].points, p, o).mean()
            for f, p, o in zip(found, table["points"], table["outline"], strict=True)
        ]
        assert max(errors) < 3
        one, same, other = (embedder.embed(p, f[0].points) for p, f in zip(table["images"], found, strict=True))
    assert one @ same > one @ other
    assert face_models.threshold() is None or -1 < face_models.threshold() < 1
