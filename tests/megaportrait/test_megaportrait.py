"""MegaPortrait on models of toy size: whole runs and their masks, steps, cache and stops; persons and their files; sentences."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import zipfile

import cv2
import diffusers
import numpy
import pytest
import torch
from PIL import Image
from skimage import data

from pipelines import golden_noise, megaportrait
from pipelines.core import images
from pipelines.core.lane import Cancelled, Job
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.megaportrait import (
    HARMONISED,
    IDENTITY,
    PASTED,
    RING,
    SHADED,
    Cache,
    Preview,
    Request,
    Settings,
    checks,
    learn,
    parts,
    place,
    results,
    trainer,
)
from pipelines.megaportrait import intake as megaportrait_intake
from pipelines.megaportrait import person as portrait_person
from pipelines.megaportrait import tools as megaportrait_tools
from pipelines.megaportrait.learn import Training
from pipelines.megaportrait.nets import Nets
from pipelines.models import controlnets, faces, sdxl
from pipelines.worlds import portrait
from tests.toys import portrait as toy_portrait
from tests.toys.portrait_runs import QUICK, RECIPE, TRAINING, StopsAt, drained, pixels, run

# ----------------------------------------------------------------------------------------- whole runs


def test_a_run_shows_every_stage_and_leaves_the_outside_alone(registry, request_, unet):
    before, job = fingerprint(unet), Job(1e9)
    outcome = run(registry, request_, job=job)
    best = outcome.best
    assert set(best.stages) == {IDENTITY, SHADED, PASTED, RING, HARMONISED}
    assert all(stage.shape == (160, 160, 3) for stage in best.stages.values())
    result, reference = pixels(best.result), request_.reference
    assert result.shape == reference.shape == (192, 160, 3), "not square"
    assert (result[~best.changed] == reference[~best.changed]).all()
    assert (result != reference).any(-1)[best.changed].mean() > 0.9
    assert 0.1 < best.changed.mean() < 0.9
    assert best.metrics["outside_largest"] == 0
    assert fingerprint(unet) == before
    shown = [item.stage for item in drained(job) if isinstance(item, Preview)]
    assert list(dict.fromkeys(shown)) == ["Reference", IDENTITY, SHADED, PASTED, HARMONISED]


def test_the_steps_that_are_told_are_those_that_ran(registry, request_, unet):
    calls = []
    handle = unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        outcome = run(registry, request_)
    finally:
        handle.remove()
    assert outcome.steps == {IDENTITY: 3, SHADED: 2, HARMONISED: 2} and len(calls) == 7
    assert outcome.steps == outcome.settings.effective()


def test_the_nets_get_their_maps_as_lists_and_no_crop(registry, request_, monkeypatch):
    seen = []
    for kind in ("Inpaint", "Img2Img"):
        pipe = getattr(diffusers, f"StableDiffusionXLControlNet{kind}Pipeline")
        call = pipe.__call__

        def spy(self, *args, call=call, kind=kind, **given):
            seen.append((kind, len(self.controlnet.nets), given))
            return call(self, *args, **given)

        monkeypatch.setattr(pipe, "__call__", spy)
    run(registry, request_, mode="single")
    run(registry, request_)
    assert [(kind, nets) for kind, nets, _ in seen] == [
        ("Inpaint", 4),
        ("Inpaint", 2),
        ("Inpaint", 3),
        ("Img2Img", 2),
        ("Inpaint", 2),
    ]
    for _kind, nets, given in seen:
        assert "padding_mask_crop" not in given
        assert len(given["control_image"]) == len(given["controlnet_conditioning_scale"]) == nets
    assert seen[2][2]["controlnet_conditioning_scale"] == [0.5, 1.0, 0.8]
    assert seen[2][2]["control_guidance_end"] == [1.0, 1.0, 0.8]


def test_the_same_seed_gives_the_same_bytes(registry, request_, plain):
    assert run(registry, request_).best.result.tobytes() == plain.best.result.tobytes()


def test_candidates_are_the_following_seeds_and_the_most_alike_comes_first(registry, request_, plain):
    outcome = run(registry, request_, candidates=2)
    assert sorted(one.seed for one in outcome.candidates) == [3, 4]
    likeness = [one.identity for one in outcome.candidates]
    assert likeness == sorted(likeness, reverse=True)
    third, fourth = sorted(outcome.candidates, key=lambda one: one.seed)
    assert third.result.tobytes() == plain.best.result.tobytes() != fourth.result.tobytes()


def test_without_strength_the_reference_comes_back(registry, request_):
    nothing = dict.fromkeys(("identity_strength", "shading_strength", "shading_transfer", "harmonise_strength"), 0)
    outcome = run(registry, request_, start="reference", **nothing)
    assert (pixels(outcome.best.result) == request_.reference).all()
    assert outcome.steps == {IDENTITY: 0, SHADED: 0, HARMONISED: 0}


def test_nothing_is_painted_where_nothing_is_masked(registry, reference):
    base = sdxl.FIRST["mini"].parts
    square = numpy.ascontiguousarray(reference[:128, :128])
    hints = [megaportrait.Hint("line", controlnets.control_map("line", square), 0.5)]
    with registry.lease(*base, *(control.spec for control in parts.controls("mini").values())) as leased:
        model = Nets(dict(zip(sdxl.PARTS, leased[: len(base)], strict=True)), {"line": leased[-2]})
        nowhere = numpy.zeros((128, 128), bool)
        assert (model.paint(QUICK.net(HARMONISED), square, nowhere, "portrait", hints, 3) == square).all()
        assert (model.paint(QUICK.net(HARMONISED), square, ~nowhere, "portrait", hints, 3) != square).any()


def test_a_run_whose_memory_ran_out_once_is_begun_again_and_says_so(registry, request_, plain, unet):
    calls = []

    def once(*_):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = unet.register_forward_hook(once)
    try:
        outcome = run(registry, request_)
    finally:
        handle.remove()
    assert outcome.best.result.tobytes() == plain.best.result.tobytes()
    assert outcome.notes[0].startswith("The memory ran out once")


def test_a_lora_of_scale_zero_is_the_base_model(registry, request_):
    settings = dataclasses.replace(QUICK, start="reference", no_harmonisation=True)
    bare = dataclasses.replace(request_, settings=settings)
    without = run(registry, bare, no_identity=True)
    zero = run(registry, bare, identity_lora=0, shading_lora=0)
    assert zero.best.result.tobytes() == without.best.result.tobytes()
    assert run(registry, bare).best.result.tobytes() != without.best.result.tobytes()


def test_the_square_of_a_reference_is_wider_than_a_crop_of_a_person_at_the_same_scale(plain):
    crop, side = plain.analysis.crop, parts.side_of("mini", "")
    assert crop.side == round(place.WIDE["mini"] * side) == plain.analysis.square.shape[0] == 160
    face = plain.analysis.face
    narrow = place.crop_of(plain.analysis.picture.shape[1::-1], face, side, place.FRAMING["mini"])
    assert crop.scale == pytest.approx(narrow.scale, rel=1e-3)
    assert plain.analysis.width == pytest.approx(face.box[2] * narrow.scale, rel=1e-3)


def test_the_reference_is_looked_at_once(registry, request_):
    parsed: list[bytes] = []
    with registry.lease(faces.PARSER) as (parser,):
        handle = parser.register_forward_pre_hook(lambda _parser, given: parsed.append(given[0].numpy().tobytes()))
        try:
            run(registry, request_, mode="preview")
        finally:
            handle.remove()
    assert parsed.count(parsed[0]) == 1, "the whole reference comes first"
    assert len(parsed) <= 18, "it was 33 when each step looked for itself"


def test_stages_that_are_switched_off_are_not_run(registry, request_, plain):
    bare = run(registry, request_, no_shading=True, no_harmonisation=True)
    assert set(bare.best.stages) == {IDENTITY, PASTED} and bare.steps[SHADED] == bare.steps[HARMONISED] == 0
    assert (bare.best.stages[IDENTITY] == plain.best.stages[IDENTITY]).all()


def test_a_second_run_takes_unchanged_stages_from_the_cache(registry, request_):
    cache = Cache()
    first = run(registry, request_, cache)
    again = run(registry, request_, cache, harmonise_strength=0.45)
    assert again.seconds[IDENTITY] == again.seconds[SHADED] == 0 < again.seconds[HARMONISED]
    assert (again.best.stages[SHADED] == first.best.stages[SHADED]).all()
    assert again.best.result.tobytes() != first.best.result.tobytes()


def test_of_the_harmonised_ring_only_the_smooth_part_is_taken(registry, request_):
    """The network's change of the ring, with its grain (0), without it, and none at all, in which the seam alone is taken out."""
    cache = Cache()
    made = {
        name: run(registry, request_, cache, **changes).best.stages[HARMONISED].astype(numpy.float32)
        for name, changes in {"all": {"harmonise_smooth": 0.0}, "smooth": {}, "none": {"harmonise_steps": 1}}.items()
    }
    change = {name: made[name] - made["none"] for name in ("all", "smooth")}
    grain = {name: numpy.abs(cv2.Laplacian(part, cv2.CV_32F)).mean() for name, part in change.items()}
    assert change["smooth"].any() and 0 < grain["smooth"] < 0.5 * grain["all"]


def test_a_stop_keeps_the_finished_stages_and_the_model(registry, request_, unet):
    cache, before = Cache(), fingerprint(unet)
    with pytest.raises(Cancelled):
        run(registry, request_, cache, StopsAt(SHADED))
    assert len(cache) == 1, "the identity image"
    assert fingerprint(unet) == before
    assert run(registry, request_, cache).seconds[IDENTITY] == 0


def test_the_model_is_put_back_after_an_error(registry, request_, unet):
    before = fingerprint(unet)
    handle = unet.register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            run(registry, request_)
    finally:
        handle.remove()
    assert fingerprint(unet) == before and not getattr(unet, "peft_config", None)


def test_a_face_at_the_border_of_the_picture(registry, request_, reference):
    cut = numpy.ascontiguousarray(reference[60:150, 30:])
    outcome = run(registry, dataclasses.replace(request_, reference=cut, box=(20, 2, 80, 80)))
    assert not outcome.analysis.crop.inside().all(), "the square goes beyond the picture"
    result = pixels(outcome.best.result)
    assert result.shape == cut.shape and (result[~outcome.best.changed] == cut[~outcome.best.changed]).all()


def test_a_large_reference_comes_back_at_its_size_with_its_transparency(registry, request_, reference):
    large = Image.fromarray(reference).resize((2500, 3000), Image.Resampling.BICUBIC)
    corner = numpy.full((3000, 2500), 255, numpy.uint8)
    corner[:400, :400] = 90
    layered = large.copy()
    layered.putalpha(Image.fromarray(corner))
    asked = dataclasses.replace(request_, reference=large, layered=layered, lost=("A sentence about the file.",))
    outcome = run(registry, asked, mode="preview")
    made, changed = outcome.best.result, outcome.best.changed
    assert made.size == (2500, 3000) and made.mode == "RGBA" and changed.any()
    assert (numpy.asarray(made)[~changed] == numpy.asarray(layered)[~changed]).all()
    assert made.getchannel("A").tobytes() == corner.tobytes()
    told = results.facts(outcome)
    assert told["reference_size"] == told["result_size"] == [2500, 3000] and told["enlarged"] > 2
    assert any("softer than the rest" in note for note in told["notes"])
    assert "A sentence about the file." in told["notes"] and checks.TRANSPARENT in told["notes"]


def test_each_of_the_pictures_is_used_or_says_why_not(registry, request_, pictures):
    doubled = [*pictures, *pictures]
    named = [(f"{number}.png", picture) for number, (_name, picture) in enumerate(doubled)]
    outcome = run(registry, dataclasses.replace(request_, person=None, pictures=named), mode="preview")
    told = results.facts(outcome)["pictures"]
    assert [one["name"] for one in told] == [name for name, _picture in named]
    assert [bool(one["reason"]) for one in told] == [False, False, True, True]
    assert "nearly the same picture" in told[2]["reason"]


def test_one_of_two_faces_is_replaced(registry, request_, reference):
    pair = numpy.concatenate([reference[20:180], reference[20:180, ::-1]], 1)
    outcome = run(registry, dataclasses.replace(request_, reference=pair, face=1))
    assert len(outcome.analysis.faces) == 2 and outcome.analysis.chosen == 1
    assert not outcome.best.changed[:, :140].any() and outcome.best.changed[:, 180:].any()


def test_the_truth_is_the_person_in_the_reference_s_shot(registry, request_):
    outcome = run(registry, dataclasses.replace(request_, truth=RECIPE.truth()))
    metrics = outcome.best.metrics
    assert outcome.truth.shape == request_.reference.shape and metrics["truth"]
    assert metrics["regions"]["core"]["psnr"] < metrics["regions"]["rest"]["psnr"], "a toy paints noise into the core"
    assert metrics["landmark_error"] > 0 and metrics["identity"]["truth"]["mean"] is not None
    json.dumps(results.facts(outcome), allow_nan=False)


def test_a_person_from_its_own_picture_changes_little_in_the_preview(registry):
    own = RECIPE.pictures(1)
    outcome = megaportrait.generate(
        Job(1e9), registry, Request(own[0][1], pictures=own, settings=Settings(mode="preview"), rendered=True)
    )
    change = numpy.abs(pixels(outcome.best.result).astype(int) - own[0][1])
    assert change.max() > 0 and change.mean() < 1.0, "resampled twice, and else the same"
    assert outcome.steps == {IDENTITY: 0, SHADED: 0, HARMONISED: 0}


@pytest.mark.parametrize("model_set", ["mini", "full"])
def test_a_preview_of_a_photograph_needs_no_model_and_says_so(registry, model_set):
    photograph = data.astronaut()
    settings = Settings(mode="preview", model_set=model_set, region="face")
    request = Request(photograph, pictures=[("astronaut", photograph)], settings=settings, consent=True)
    with registry.lease(faces.PARSER) as (parser,):
        parser.blind = True
        try:
            outcome = megaportrait.generate(Job(1e9), registry, request)
        finally:
            parser.blind = False
    assert outcome.analysis.face.backend == "scikit-image LBP cascade"
    left, top, width, _height = outcome.analysis.face.box
    assert 150 < left < 210 and 40 < top < 90 and 80 < width < 130
    result = pixels(outcome.best.result)
    assert (result[~outcome.best.changed] == photograph[~outcome.best.changed]).all()
    assert outcome.best.identity is None, "no number where the embedder does not know the world"
    assert any("rendered people only" in note for note in outcome.notes) == (model_set == "mini")


def test_the_instant_mode_begins_with_the_person_s_picture(registry, request_, pictures):
    request = Request(request_.reference, pictures=pictures, settings=QUICK, rendered=True)
    instant, bare = run(registry, request, mode="instant"), run(registry, request_, no_identity=True)
    assert (instant.best.stages[IDENTITY] != bare.best.stages[IDENTITY]).any()


def test_results_say_that_a_model_made_them(plain, tmp_path):
    outcome = plain
    path = results.save_result(outcome, tmp_path / "result.png")
    assert images.SOURCE_TYPE.encode() in path.read_bytes()
    assert images.read_settings(path, results.TAB)["settings"]["seed"] == 3
    assert pixels(Image.open(path)).tobytes() == outcome.best.result.tobytes()
    with zipfile.ZipFile(results.save_zip(outcome, tmp_path / "all.zip")) as archive:
        names = set(archive.namelist())
        assert {"3_result.png", "3_identity.png", "3_harmonised.png", "3_mask.png", "manifest.json"} <= names
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["ai_generated"] is True and manifest["candidates"][0]["seed"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.zip", "result.png"]


def test_golden_noise_and_megaportrait_share_what_reads_prompts_and_leave_each_other_alone(registry, request_, plain):
    def drawn() -> bytes:
        settings = golden_noise.Settings("a red cube on a wooden floor", steps=2, strength=0, source="redenoise")
        return golden_noise.generate(Job(1e9), registry, settings).standard.tobytes()

    before = drawn()
    assert run(registry, request_).best.result.tobytes() == plain.best.result.tobytes()
    assert drawn() == before
    loaded = [row["key"] for row in registry.status() if row["state"] == "ram"]
    # Each draws with a generation of its own; what reads prompts is the same, and there once.
    assert len(set(loaded)) == len(loaded) and sum(key.endswith("/text_encoder") for key in loaded) == 1
    assert sum(key.endswith("/unet") for key in loaded) == 2


# ------------------------------------------------------------------------------------------- algebra


def test_min_snr_weights_by_hand():
    snr = torch.tensor([0.5, 5.0, 20.0])
    for kind, wanted in (
        ("epsilon", [1, 1, 0.25]),
        ("v_prediction", [1, 5 / 6, 5 / 21]),
        ("sample", [0.5, 5, 5]),
    ):
        torch.testing.assert_close(trainer.weights_of(snr, kind), torch.tensor(wanted, dtype=torch.float32))


def test_levels_are_one_from_each_quarter():
    for seed in range(20):
        levels = trainer.stratified(4, 960, torch.Generator().manual_seed(seed))
        assert sorted((levels // 240).tolist()) == [0, 1, 2, 3]


def test_the_module_needs_no_torch_and_frames_as_the_parser_does():
    code = "import sys, pipelines.megaportrait; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert place.FRAMING["mini"] == faces.AROUND


def test_captions_say_what_was_read():
    said = {
        "hair_colour": "red",
        "hair_style": "bun",
        "glasses": "yes",
        "beard": "no",
        "clothes": "green",
        "background": "pink",
    }
    assert portrait.parse(portrait_person.caption_of(said)) == said | {"expression": "neutral"}
    readings = [
        {"beard": "yes", "clothes": "red"},
        {"beard": "no", "clothes": "red"},
        {"beard": "yes", "clothes": "blue"},
    ]
    assert portrait_person.of_the_person(readings) == {"beard": "yes"}


def test_of_a_photographed_person_the_oval_is_taken_and_not_what_the_parser_sees(registry, request_, person):
    analysis = megaportrait.analyse(Job(1e9), registry, request_)
    photographed = dataclasses.replace(person, facts=person.facts | {"photographs": 1})
    rendered, photo = megaportrait_tools.with_tools(
        registry, "mini", lambda tools: [place.placed(tools, one, analysis) for one in (person, photographed)]
    )
    assert rendered.head.sum() > rendered.face.sum() > 0, "the toy's parser sees hair"
    assert photo.head.any() and numpy.array_equal(photo.head, photo.face)


def test_the_picture_whose_head_is_turned_alike_is_taken(person):
    straight = numpy.array([[40, 50], [80, 50], [60, 65], [47, 85], [73, 85]], float)
    turned = straight + numpy.array([[0, 0], [0, 0], [12, 0], [6, 0], [6, 0]])
    one = dataclasses.replace(person, points=numpy.stack([straight, turned]))
    assert one.nearest(straight * 1.4 + 7)[0] == 0
    assert one.nearest(turned + 30)[0] == 1


def test_what_was_measured_is_read_from_its_file_and_is_nothing_before(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MEASURED", tmp_path / "evaluation.json")
    assert results.measured() == {}
    (tmp_path / "evaluation.json").write_text('{"rows": {"ours": {"pairs": 50}}}')
    assert results.measured() == {"rows": {"ours": {"pairs": 50}}}


# ------------------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mode": "magic"}, "'magic' is unknown: choose one of preview, instant, drawn, trained, single"),
        ({"region": "hat"}, "choose one of head, face"),
        ({"model_set": "huge"}, "choose one of mini, full"),
        ({"candidates": 5}, "candidates is 5 but must be a whole number from 1 to 4"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"identity_strength": 1.2}, "identity strength is 1.2 but must be a number from 0 to 1"),
        ({"identity_steps": 0}, "identity steps is 0"),
        ({"line_end": 0}, "line end is 0 but must be a number from 0.05"),
        ({"harmonise_guidance": float("nan")}, "harmonise guidance is nan"),
        ({"feather": 0.5}, "feather is 0.5"),
        ({"poisson": 1}, "switch poisson is 1 but must be on or off"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        Settings(**change).validated()
    assert "\n" not in str(caught.value)


def test_right_settings_come_back_with_exact_types():
    settings = Settings(seed=3.0, identity_strength=1, core_back=0).validated()
    assert type(settings.seed) is int and type(settings.identity_strength) is float
    for model_set in sdxl.FIRST:
        for fast in (False, True):
            assert Settings.of(model_set, fast).validated() == Settings.of(model_set, fast)
            assert Training.of(model_set, fast).validated() == Training.of(model_set, fast)


@pytest.mark.parametrize(
    "change", [{"seconds": 0}, {"rank": 1000}, {"rate": 1.0}, {"steps": 2.5}, {"model_set": "huge"}]
)
def test_wrong_training_settings_get_one_sentence(change):
    with pytest.raises(ValueError, match="but must be|is unknown"):
        Training(**change).validated()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reference": None}, "no reference portrait yet"),
        ({"person": None}, "no person yet"),
        ({"rendered": False}, "may show a real person: tick"),
        (
            {"reference": numpy.full((160, 160, 3), 128, numpy.uint8)},
            "No face found in the reference: draw the face box",
        ),
        ({"reference": numpy.zeros((160, 160, 3), numpy.uint8)}, "The reference is black"),
        ({"face": 4}, "Face 5 was chosen and the reference has 1"),
        ({"box": (300, 10, 20, 20)}, "only 20 px wide"),
        ({"settings": Settings(model_set="full")}, "was made with the mini set and the full set is chosen"),
    ],
)
def test_requests_that_cannot_be_done_get_one_sentence(registry, request_, change, says):
    with pytest.raises(ValueError, match=says):
        megaportrait.generate(Job(1e9), registry, dataclasses.replace(request_, **change))


def test_a_tiny_face_is_refused_and_a_small_one_remarked_on(registry, request_, reference):
    small = Image.fromarray(reference).resize((70, 84), Image.Resampling.LANCZOS)
    with pytest.raises(ValueError, match=r"only 3\d px wide and at least 40 are needed"):
        run(registry, dataclasses.replace(request_, reference=small))
    larger = Image.fromarray(reference).resize((90, 108), Image.Resampling.LANCZOS)
    analysis = megaportrait.analyse(Job(1e9), registry, dataclasses.replace(request_, reference=larger))
    assert any("details will be invented" in note for note in analysis.notes)


def test_an_untrained_person_and_unusable_pictures_are_told(registry, request_, reference, pictures):
    with pytest.raises(ValueError, match="not trained yet: train it first, or choose the instant mode"):
        run(registry, Request(reference, pictures=pictures, settings=QUICK, rendered=True))
    grey = [("IMG_3", numpy.full((160, 160, 3), 128, numpy.uint8))]
    with pytest.raises(ValueError, match="No face found in IMG_3"):
        run(registry, Request(reference, pictures=grey, settings=QUICK, rendered=True), mode="instant")
    with pytest.raises(ValueError, match="No face found in IMG_3"):
        learn.train_person(Job(1e9), registry, grey, TRAINING, rendered=True)
    with pytest.raises(ValueError, match="may show a real person: tick"):
        learn.train_person(Job(1e9), registry, pictures, TRAINING)


def test_the_table_of_verdicts_names_each_picture(registry, pictures):
    black = ("night", numpy.zeros((160, 160, 3), numpy.uint8))
    intake = megaportrait_intake.look_at(
        Job(1e9), registry, [*pictures, black, (pictures[0][0] + " again", pictures[0][1])]
    )
    assert [verdict.fault for verdict in intake.verdicts] == ["", "", "black", "duplicate"]
    assert intake.verdicts[2].reason.startswith("night is black")


def test_a_black_result_is_told_and_not_shown(registry, request_, monkeypatch):
    with registry.lease(sdxl.FIRST["mini"].parts[1]) as (vae,):
        handle = vae.decoder.register_forward_hook(lambda _m, _i, out: torch.full_like(out, -1.0))
        try:
            with pytest.raises(ValueError, match="returned a black picture: try another seed"):
                run(registry, request_)
        finally:
            handle.remove()


def test_a_result_that_is_not_the_person_says_what_to_try(registry, request_, monkeypatch):
    monkeypatch.setattr(faces, "threshold", lambda: 1.5)
    person = dataclasses.replace(request_.person, embeddings=-request_.person.embeddings)
    outcome = run(registry, dataclasses.replace(request_, person=person))
    assert outcome.best.metrics["same_person"] is False
    assert any("raise the identity LoRA by 0.1" in note for note in outcome.notes)


def absent(spec):
    raise FileNotFoundError(f"{spec.key} needs the folder line, which is missing")


def test_missing_weights_name_the_file_its_size_and_the_way_out(registry, request_, monkeypatch):
    lost = dataclasses.replace(toy_portrait.spec("line"), key="toy-portrait/lost", load=absent, bytes=2_502_139_104)
    monkeypatch.setitem(controlnets.CONTROLS["mini"], "line", controlnets.Control(lost, "line", "line"))
    with pytest.raises(
        ValueError,
        match=r"toy-portrait/lost needs the folder line, which is missing \(about 2.5 GB\)\. The preview without AI models still runs",
    ):
        run(registry, request_)
    assert run(registry, request_, mode="preview").best.changed.any()


def test_training_without_weights_says_the_same(registry, pictures, monkeypatch):
    base = sdxl.FIRST["mini"]
    lost = dataclasses.replace(base.parts[0], key="toy-portrait/lost-unet", load=absent, bytes=39_000_000)
    monkeypatch.setitem(sdxl.FIRST, "mini", dataclasses.replace(base, parts=(lost, *base.parts[1:])))
    with pytest.raises(ValueError, match=r"lost-unet needs the folder.*\(about 39 MB\)\. The preview"):
        learn.train_person(Job(1e9), registry, pictures, TRAINING, rendered=True)


def test_without_a_face_nothing_large_is_loaded(toy, request_, pictures):
    fresh, grey = Registry("cpu"), numpy.full((160, 160, 3), 128, numpy.uint8)
    for request in (
        dataclasses.replace(request_, reference=grey),
        Request(request_.reference, pictures=[("IMG_3", grey)], settings=Settings(mode="instant"), rendered=True),
    ):
        with pytest.raises(ValueError, match="No face found"):
            megaportrait.generate(Job(1e9), fresh, request)
    assert {row["key"] for row in fresh.status()} == {"toy-portrait/parser", "toy-portrait/embedder"}


def test_of_two_people_in_a_source_picture_the_largest_is_used_and_said(registry, request_, pictures):
    name, picture = pictures[0]
    pair = numpy.concatenate([picture, picture[:, ::-1]], 1)
    outcome = run(
        registry, Request(request_.reference, pictures=[(name, pair)], settings=QUICK, rendered=True), mode="preview"
    )
    assert any(f"2 faces found in {name}: the largest is used" in note for note in outcome.notes)


def test_a_side_view_says_that_these_often_fail(registry, request_):
    with registry.lease(faces.PARSER) as (parser,):
        parser.nose = 0.33  # 0.89 of the way between the eyes
        try:
            analysis = megaportrait.analyse(Job(1e9), registry, request_)
        finally:
            parser.nose = 0.0
    assert any(
        "is a side view and these often fail; add a source photo from a similar angle" in n for n in analysis.notes
    )


def test_pictures_of_different_people_are_told(registry, pictures, monkeypatch):
    monkeypatch.setattr(faces, "threshold", lambda: 1.5)  # nobody is like anybody
    intake = megaportrait_intake.look_at(Job(1e9), registry, pictures)
    assert intake.remarks[0].startswith("The photos look like different persons")


def test_glasses_in_most_pictures_are_told(registry, request_, person):
    def with_readings(*worn: str):
        readings = [{"glasses": one} for one in worn]
        return dataclasses.replace(person, facts={**person.facts, "readings": readings})

    says = (
        "2 of 3 pictures show glasses: the result will likely wear glasses; add pictures without them if it should not."
    )
    assert checks.warn_glasses(with_readings("yes", "yes", "no")) == says
    assert checks.warn_glasses(with_readings("yes", "no")) is None
    bare = dataclasses.replace(request_, person=with_readings("no", "no"))
    assert not any("glasses" in note for note in run(registry, bare, mode="preview").notes)
    told = dataclasses.replace(bare, glasses=True)
    assert any(
        n.startswith("Most pictures show glasses: the result") for n in run(registry, told, mode="preview").notes
    )


def test_another_skin_or_another_shape_of_face_says_what_to_change(registry, request_, person):
    def notes(region: str = "face", **changes):
        other = dataclasses.replace(request_, person=dataclasses.replace(person, **changes))
        return " ".join(run(registry, other, mode="preview", region=region).notes)

    reference = run(registry, request_, mode="preview").analysis
    alike = numpy.stack([reference.square] * 2)
    alike_points = numpy.stack([reference.points] * 2).astype(numpy.float32)
    assert "far apart" not in notes(crops=alike, points=alike_points)
    green = numpy.full_like(alike, (20, 200, 20))
    green[:, ::2, ::2] = (40, 160, 40)  # an even picture would have no face
    text = notes(crops=green, points=alike_points)
    assert "far apart at the face's border (ΔE " in text and "hair and neck, or choose a reference" in text
    assert "replace the head" not in notes("head", crops=green, points=alike_points)
    middle = alike_points.mean(1, keepdims=True)
    wide = notes(crops=alike, points=middle + (alike_points - middle) / 1.25)
    assert re.search(r"picture is made (19|20|21)% narrower to fit the reference's face", wide)
    assert "wider" in notes(crops=alike, points=middle + (alike_points - middle) * 1.25)


def test_of_two_candidates_a_black_one_is_left_out_and_said(registry, request_, monkeypatch):
    first, candidate = [False], megaportrait.MegaPortrait.candidate

    def watched(self, seed):
        first[0] = seed == 3
        return candidate(self, seed)

    monkeypatch.setattr(megaportrait.MegaPortrait, "candidate", watched)
    with registry.lease(sdxl.FIRST["mini"].parts[1]) as (vae,):
        handle = vae.decoder.register_forward_hook(lambda _m, _i, out: torch.full_like(out, -1.0) if first[0] else out)
        try:
            outcome = run(registry, request_, candidates=2)
        finally:
            handle.remove()
    assert [one.seed for one in outcome.candidates] == [4]
    assert any(n.startswith("Seed 3 is left out. The model returned a black picture") for n in outcome.notes)


@pytest.mark.parametrize(
    ("mode", "todo"),
    [
        ("preview", "or train the person"),
        ("instant", "train the person, lower"),
        ("trained", "raise the identity LoRA by 0.1"),
    ],
)
def test_what_to_try_for_more_likeness_depends_on_the_mode(mode, todo):
    metrics = {"same_person": False, "identity": {"result": {"mean": 0.31}}, "threshold": 0.5}
    said = checks.warn_identity(metrics, mode)
    assert said.startswith("The result is not taken for the person (0.31, bar 0.50): ") and todo in said
    assert checks.warn_identity(metrics | {"same_person": None}, mode) is None
