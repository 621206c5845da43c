"""The full set's wiring, with the real classes and loaders at toy size: maps, faces of photographs, IP-Adapter, presets, missing files."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy
import pytest
import torch
from skimage import data

from pipelines import megaportrait
from pipelines.core import images
from pipelines.core.lane import Job
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.weights import for_cpu
from pipelines.megaportrait import HARMONISED, IDENTITY, SHADED, Request, Settings, learn, results, tools
from pipelines.megaportrait import intake as megaportrait_intake
from pipelines.megaportrait import parts as megaportrait_parts
from pipelines.megaportrait import person as portrait_person
from pipelines.megaportrait.learn import Training
from pipelines.megaportrait.nets import Nets
from pipelines.megaportrait.settings import MODES
from pipelines.models import annotators, controlnets, faces_photo, sdxl, sdxl_parts
from pipelines.worlds import portrait as heads
from tests.toys import portrait_full as toy_portrait_full

pytestmark = pytest.mark.slow

QUICK = dataclasses.replace(
    Settings.of("full"), mode="instant", candidates=1, identity_steps=6, shading_steps=6, harmonise_steps=7, seed=3
)
TRAINING = Training(seconds=600, steps=2, checks=1, rank=2, batch=1, model_set="full")
SIDE = 320


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with toy_portrait_full.installed(folder):
        yield folder


@pytest.fixture(scope="module")
def registry(hub):
    return Registry("cpu")


@pytest.fixture(scope="module")
def photographs():
    """Of one person three, then the reference: rendered heads with the mark of the toy detector."""
    people = [heads.Portrait(heads.sample_identity(11), heads.sample_shot(seed)) for seed in (1, 2, 3)]
    made = heads.render([*people, heads.sample(203)], (SIDE, SIDE)).image
    return [toy_portrait_full.marked(numpy.asarray(one)) for one in images.to_pil(made)]


@pytest.fixture(scope="module")
def request_(photographs):
    pictures = [(f"IMG_{number}", one) for number, one in enumerate(photographs[:3], 1)]
    return Request(photographs[3], pictures=pictures, settings=QUICK, consent=True)


@pytest.fixture
def unet(registry):
    with registry.lease(sdxl.FIRST["full"].parts[0]) as (model,):
        return model


@pytest.fixture(scope="module")
def plain(registry, request_):
    return run(registry, request_)


def run(registry, request, **changes):
    settings = dataclasses.replace(request.settings, **changes)
    return megaportrait.generate(Job(1e9), registry, dataclasses.replace(request, settings=settings))


def apart(first, second) -> float:
    """Mean difference in levels. Half precision on the CPU rounds by where its tensors lie: up to :data:`ROUNDING` is the same."""
    return float(numpy.abs(numpy.asarray(first).astype(int) - numpy.asarray(second)).mean())


ROUNDING = 0.1


def test_the_instant_mode_runs_with_the_full_set_s_own_loaders(registry, request_, plain):
    assert set(plain.best.stages) >= {IDENTITY, SHADED, HARMONISED}
    result = numpy.asarray(plain.best.result)
    assert (result[~plain.best.changed] == request_.reference[~plain.best.changed]).all()
    assert (result != request_.reference).any(-1)[plain.best.changed].mean() > 0.8
    assert plain.analysis.face.backend == "YuNet (OpenCV)" and plain.best.metrics["threshold"] == 0.363
    assert plain.best.metrics["identity"]["among"]["mean"] is not None
    json.dumps(results.facts(plain), allow_nan=False)


def test_every_model_that_answered_is_told_with_its_licence(plain):
    told = {model["key"]: model["licence"] for model in plain.models}
    assert told == {
        "sdxl-base-1.0/unet": "openrail++",
        "sdxl-controlnet/controlnet-openpose-sdxl-1.0": "apache-2.0",
        "sdxl-controlnet/controlnet-canny-sdxl-1.0": "openrail++",
        "sdxl-controlnet/controlnet-tile-sdxl-1.0": "apache-2.0",
        "opencv/yunet": "MIT",
        "opencv/sface": "Apache-2.0",
        "ip-adapter/plus-face-sdxl": "Apache-2.0",
        "ip-adapter/image-encoder": "Apache-2.0",
    }


def test_the_full_set_s_maps_are_those_that_its_controlnets_read(plain):
    analysis = plain.analysis
    assert (plain.controls["line"] == controlnets.control_map("canny", analysis.square)).all()
    assert (plain.controls["shading"] == controlnets.control_map("tile", analysis.square)).all()
    assert (plain.controls["landmarks"] == controlnets.openpose_map((128, 128), analysis.points)).all()


def test_anyline_s_drawing_leads_the_nets_in_place_of_edges(registry, request_, plain):
    drawn = run(registry, request_, lines="anyline")
    told = {model["key"]: model["licence"] for model in drawn.models}
    assert told["mistoline/anyline"] == told["sdxl-controlnet/MistoLine"] == "openrail++"
    assert "sdxl-controlnet/controlnet-canny-sdxl-1.0" not in told
    with registry.lease(annotators.ANYLINE) as (network,):
        assert (drawn.controls["line"] == annotators.line_drawing(network, drawn.analysis.square)).all()
    assert (drawn.controls["shading"] == plain.controls["shading"]).all(), "the others as they were"
    assert apart(drawn.controls["line"], plain.controls["line"]) > 1
    smaller = run(registry, request_, lines="anyline", preset="12 GB")
    assert "sdxl-controlnet-offload/MistoLine" in {model["key"] for model in smaller.models}


def test_the_choice_of_lines_is_the_models_choice():
    assert list(Settings.field("lines").options) == list(controlnets.LINES)
    assert "mistoline/anyline" not in {spec.key for spec in megaportrait_parts.specs("mini", lines="anyline").values()}


def test_the_adapter_shows_the_person_and_leaves_the_model_to_the_byte(registry, request_, plain, unet):
    before, kind = fingerprint(unet), unet.config.encoder_hid_dim_type
    processors = {name: type(one) for name, one in unet.attn_processors.items()}
    assert apart(run(registry, request_).best.result, plain.best.result) <= ROUNDING
    bare = run(registry, request_, adapter_scale=0)
    assert apart(bare.best.result, plain.best.result) > ROUNDING
    assert not any("ip-adapter" in model["key"] for model in bare.models)
    assert fingerprint(unet) == before and unet.config.encoder_hid_dim_type == kind is None
    assert unet.encoder_hid_proj is None and {n: type(p) for n, p in unet.attn_processors.items()} == processors


def test_the_adapter_at_scale_zero_is_the_model_without_it(registry, plain):
    base = sdxl.FIRST["full"].parts
    controls = megaportrait_parts.controls("full")
    analysis = plain.analysis
    hints = [megaportrait.Hint("line", plain.controls["line"], 0.5)]
    with registry.lease(*base, controls["line"].spec, *megaportrait_parts.look_specs("full", "instant")) as leased:
        parts, net, weights, encoder = leased[: len(base)], leased[-3], leased[-2], leased[-1]
        model = Nets(dict(zip(sdxl.PARTS, parts, strict=True)), {"line": net})
        seen = sdxl_parts.look_of(encoder, [analysis.square, analysis.square[:, ::-1]])
        assert seen.shape == (2, 2, 17, 32) and not torch.equal(seen[0], seen[1])

        def drawn(look, scale):
            with model.looking_at(look, scale):
                return model.paint(QUICK.net(SHADED), analysis.square, None, "portrait", hints, 3)

        bare = drawn(None, 0.6)
        assert apart(drawn((weights, seen), 0.0), bare) <= ROUNDING < apart(drawn((weights, seen), 0.6), bare)
        assert apart(drawn(None, 0.6), bare) <= ROUNDING


def test_the_model_is_put_back_after_an_error_with_the_adapter_on(registry, request_, unet):
    before = fingerprint(unet)
    handle = unet.register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            run(registry, request_)
    finally:
        handle.remove()
    assert fingerprint(unet) == before and unet.config.encoder_hid_dim_type is None


def test_a_person_is_learnt_in_half_precision_and_makes_a_portrait(registry, request_, unet, tmp_path):
    before = fingerprint(unet)
    person = learn.train_person(Job(1e9), registry, request_.pictures, TRAINING, "Ada", consent=True)
    assert fingerprint(unet) == before and person.trained and person.model_set == "full"
    assert person.embeddings.shape == (3, 128) and person.facts["photographs"] == 3
    assert person.facts["checks"][-1]["score"] is not None, "SFace scores the checkpoints"
    portrait_person.save(person, tmp_path)
    loaded = portrait_person.load(tmp_path, "Ada")
    assert {value.dtype for value in loaded.adapter.values()} == {torch.float16}, "twice as long otherwise"
    trained = dataclasses.replace(request_, person=loaded, pictures=())
    outcome = run(registry, trained, mode="trained")
    assert outcome.person == "Ada" and not any("ip-adapter" in model["key"] for model in outcome.models)
    assert fingerprint(unet) == before


# ------------------------------------------------------------------------------------------- presets


def test_a_smaller_preset_keeps_the_controlnets_off_the_gpu_and_tiles_the_autoencoder(registry, request_, plain):
    with registry.lease(sdxl.FIRST["full"].parts[1]) as (vae,):
        seen, whole = [], vae.tile_latent_min_size
        handle = vae.decoder.register_forward_hook(lambda _, given, __: seen.append(max(given[0].shape[-2:])))
        try:
            smaller = run(registry, request_, preset="16 GB")
        finally:
            handle.remove()
        assert max(seen) == whole // 2, "no more than a quarter of the picture is decoded at once"
        assert (vae.use_tiling, vae.use_slicing, vae.tile_latent_min_size) == (False, False, whole)
    assert smaller.analysis.square.shape == plain.analysis.square.shape
    assert sum(model["key"].startswith("sdxl-controlnet-offload/") for model in smaller.models) == 3
    least = run(registry, request_, preset="12 GB")
    assert least.analysis.square.shape == (96, 96, 3), "three quarters of the side"


def test_a_net_whose_layers_visit_the_device_paints_the_same(registry, plain):
    spec = for_cpu(controlnets.offloaded(megaportrait_parts.controls("full")["line"].spec))
    away = spec.load(spec)
    assert type(away).__name__ == "Offloaded" and not isinstance(away, torch.nn.Module), "the registry leaves it in RAM"
    away.visit(torch.device("cpu"))
    base = sdxl.FIRST["full"].parts
    hints = [megaportrait.Hint("line", plain.controls["line"], 0.5)]
    with registry.lease(*base, megaportrait_parts.controls("full")["line"].spec) as leased:
        drawn = [
            Nets(dict(zip(sdxl.PARTS, leased[:-1], strict=True)), {"line": net}).paint(
                QUICK.net(SHADED), plain.analysis.square, None, "portrait", hints, 3
            )
            for net in (leased[-1], away)
        ]
    assert apart(*drawn) <= ROUNDING


def test_out_of_memory_goes_on_with_the_smallest_preset_and_says_so(registry, request_, unet):
    sides = []

    def full(_module, given, _output):
        sides.append(given[0].shape[-1])
        if given[0].shape[-1] == 32:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = unet.register_forward_hook(full)
    try:
        outcome = run(registry, request_)
    finally:
        handle.remove()
    assert sides[:3] == [32, 32, 24], "once more after letting go of what is idle, then smaller"
    assert outcome.settings.preset == "12 GB"
    assert outcome.notes[0] == "The memory did not suffice for the preset 24 GB: made with the preset 12 GB instead."


def test_when_nothing_fits_the_stage_is_named(registry, request_, unet):
    handle = unet.register_forward_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    try:
        with pytest.raises(
            MemoryError, match="There is not enough GPU memory for the stage Identity: make one candidate, or choose"
        ):
            run(registry, request_, preset="12 GB")
    finally:
        handle.remove()


def test_training_that_does_not_fit_names_what_is_short(hub, request_):
    with pytest.raises(MemoryError, match="the budget for models in RAM is 128.0 MiB"):
        small = Registry("cpu", ram_bytes=2**27)
        learn.train_person(Job(1e9), small, request_.pictures, TRAINING, consent=True)


@pytest.mark.parametrize("kind", [Settings, Training])
def test_an_unknown_preset_gets_one_sentence(kind):
    with pytest.raises(ValueError, match="'8 GB' is unknown: choose one of 24 GB, 16 GB, 12 GB"):
        kind(model_set="full", preset="8 GB").validated()
    assert kind(model_set="full", preset="16 GB").validated().preset == "16 GB"


def test_presets_say_that_their_sizes_are_estimates():
    words = [preset.words for preset in megaportrait_parts.PRESETS["full"].values()]
    assert list(megaportrait_parts.PRESETS["full"]) == ["24 GB", "16 GB", "12 GB"]
    assert all("(estimate)" in text for text in words)


# ------------------------------------------------------------------------------------------ photographs


def test_faces_of_a_photograph_have_points_and_the_tilt_of_the_head(registry, photographs):
    with registry.lease(faces_photo.YUNET) as (detector,):
        (face,) = faces_photo.PhotoDetector(detector).detect(photographs[0])
        assert face.box == pytest.approx((168 - 64, 168 - 72, 128, 144)), "around the middle of the mark"
        assert face.points is not None and face.tilt == pytest.approx(0, abs=0.1)
        wide = numpy.concatenate([photographs[0], numpy.zeros_like(photographs[0])], 1)
        half = faces_photo.PhotoDetector(detector).detect(wide)
        assert [one.box[2] for one in half] == [], "half a cell is too little for the toy"
        assert faces_photo.PhotoDetector(detector).detect(numpy.full((90, 130, 3), 90, numpy.uint8)) == []


def test_the_same_face_is_the_same_person_at_any_size(registry, photographs):
    with registry.lease(faces_photo.YUNET, faces_photo.SFACE) as (detector, recogniser):
        finder, knower = faces_photo.PhotoDetector(detector), faces_photo.PhotoEmbedder(recogniser)
        large = numpy.repeat(numpy.repeat(photographs[0], 2, 0), 2, 1)
        first, second = (knower.embed(one, finder.detect(one)[0]) for one in (photographs[0], large))
        other = knower.embed(photographs[3], finder.detect(photographs[3])[0])
    assert numpy.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ second > 0.999 > first @ other


def test_without_their_files_faces_are_found_by_the_cascade_and_nobody_is_known(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    photograph = data.astronaut()
    settings = Settings(mode="preview", model_set="full", region="face")
    request = Request(photograph, pictures=[("astronaut", photograph)], settings=settings, consent=True)
    outcome = megaportrait.generate(Job(1e9), Registry("cpu"), request)
    assert outcome.analysis.face.backend == "scikit-image LBP cascade" and outcome.best.identity is None
    says = (
        "face_detection_yunet_2023mar.onnx of opencv/face_detection_yunet (0.23 MB) cannot be had, so faces are found "
        "without their points and who somebody is is not known: go online once, or put the file into "
        "$LATENT_STUDIO_MODELS/face_detection_yunet."
    )
    assert says in outcome.notes and outcome.models == []
    intake = megaportrait_intake.look_at(Job(1e9), Registry("cpu"), request.pictures, "full")
    assert says in intake.remarks and intake.used == [0]


def test_without_sface_points_are_there_and_nobody_is_known(hub, tmp_path, monkeypatch, request_):
    shutil.copytree(hub / "face_detection_yunet", tmp_path / "face_detection_yunet")
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    outcome = run(Registry("cpu"), request_, mode="preview")
    assert outcome.analysis.face.points is not None and outcome.best.identity is None
    assert any("(39 MB) cannot be had, so who somebody is is not known" in note for note in outcome.notes)


def test_a_damaged_onnx_file_is_as_good_as_none(tmp_path, monkeypatch, hub):
    folder = tmp_path / "face_detection_yunet"
    folder.mkdir()
    (folder / faces_photo.YUNET.files[0]).write_bytes(b"no model")
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="this OpenCV cannot read it: fetch the file again"):
        faces_photo.YUNET.load(faces_photo.YUNET)
    assert tools.at_hand(Registry("cpu"), "full") == {}


def test_a_head_of_a_photograph_is_told_to_be_its_face_alone(registry, request_):
    outcome = run(registry, request_, mode="preview", region="head")
    assert any("Hair and neck are told apart in rendered portraits only" in note for note in outcome.notes)


def test_a_missing_adapter_names_its_file_and_size(hub, tmp_path, monkeypatch, request_):
    for folder in hub.iterdir():
        if folder.name != "IP-Adapter":
            (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"ip-adapter/image-encoder needs h94/IP-Adapter.*\(about 2.5 GB\)\. The preview without"
    ):
        run(Registry("cpu"), request_)


def test_what_is_leased_depends_on_the_mode():
    keys = {mode: {spec.key for spec in megaportrait_parts.specs("full", mode).values()} for mode in MODES}
    assert keys["preview"] == {"opencv/yunet", "opencv/sface"}
    assert keys["instant"] - keys["trained"] == {"ip-adapter/plus-face-sdxl"}
    offloaded = {spec.key for spec in megaportrait_parts.specs("full", "trained", "12 GB").values()} - keys["trained"]
    assert len(offloaded) == 3 and all("-offload/" in key for key in offloaded)


def test_no_model_of_the_full_set_is_for_non_commercial_use():
    specs = (*megaportrait_parts.specs("full", "instant").values(), *megaportrait_parts.look_specs("full", "instant"))
    assert {spec.licence.lower() for spec in specs} == {"openrail++", "apache-2.0", "mit"}
