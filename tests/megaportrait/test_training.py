"""How the face models and the ControlNets are taught: data, augmentation, losses, resuming; tiny networks, toy batches."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import nn

from assets.lab import training
from assets.mini_controlnets import train as nets
from assets.mini_faces import data, evaluate
from assets.mini_faces import train as faces
from assets.mini_sdxl import train as sdxl
from pipelines.models import controlnets, face_nets, sdxl_tiny
from pipelines.models import faces as face_models
from pipelines.models.faces import LABELS, TEMPLATE
from pipelines.worlds import portrait


@pytest.fixture(scope="module")
def table() -> dict[str, numpy.ndarray]:
    """Two people in two shots each."""
    return data.render_rows([(600_000 + place // 2, place) for place in range(4)])


# ------------------------------------------------------------------------------------------------ data


def test_a_shard_holds_the_renderers_truth_and_is_written_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "PEOPLE", 1)
    monkeypatch.setattr(data, "SHOTS", 2)
    monkeypatch.setattr("sys.argv", ["data", "--shards", "3:4", "--root", str(tmp_path)])
    data.main()
    (identity, shot), _ = data.seeds(3)
    assert identity >= data.TRAINING_SEED and data.seeds(3) == [(identity, shot), (identity, shot + 1)]
    kept = data.path(tmp_path, 3).stat().st_mtime_ns
    data.main()
    assert data.path(tmp_path, 3).stat().st_mtime_ns == kept and len(list(tmp_path.iterdir())) == 1
    rows = data.Faces(tmp_path)
    assert len(rows) == 2 and rows["identity"].tolist() == [identity] * 2
    truth = portrait.render([data.person(identity, shot)], 128, truth=True)
    assert numpy.abs(rows["images"][0] - (truth.image[0].permute(1, 2, 0).numpy() * 255).round()).max() <= 1
    for name, rendered in face_models.RENDERED.items():
        assert numpy.array_equal(rows["labels"][0] == LABELS.index(name), truth.masks[rendered][0].numpy())
    places = truth.landmarks[0].numpy()
    assert numpy.allclose(rows["points"][0], places[:5, ::-1]) and numpy.allclose(rows["outline"][0], places[5:, ::-1])


def test_no_person_of_the_training_is_in_a_test():
    trained = {identity for shard in range(80) for identity, _ in data.seeds(shard)}
    for stream in evaluate.STREAMS:
        assert not trained & {identity for identity, _ in evaluate.people(stream, 300)}
    assert not {i for i, _ in evaluate.people("test", 300)} & {i for i, _ in evaluate.people("validation", 300)}


def test_without_shards_the_command_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="assets.mini_faces.data"):
        data.Faces(tmp_path)["images"]


# ---------------------------------------------------------------------------------------- augmentation


def test_pictures_labels_and_points_move_together(monkeypatch):
    monkeypatch.setattr(faces, "worn", lambda images, generator: images)
    points = numpy.tile((TEMPLATE - TEMPLATE.mean(0)) * 0.7 + 64, (32, 1, 1)).astype(numpy.float32)
    images, labels = numpy.zeros((32, 128, 128, 3), numpy.uint8), numpy.zeros((32, 128, 128), numpy.uint8)
    for x, y in points[0].astype(int):
        images[:, y - 3 : y + 4, x - 3 : x + 4] = 255
        labels[:, y - 3 : y + 4, x - 3 : x + 4] = 2
    seen = faces.views(
        {"images": images, "labels": labels, "points": points},
        numpy.arange(32),
        torch.Generator().manual_seed(0),
        "cpu",
    )
    assert seen.counted.sum() > 80 and seen.counted[:, 1].any(), "some pictures show two"
    assert len({tuple(p.round().tolist()) for p in seen.points[:, 0, 0]}) > 25, "everywhere else"
    for row, face, point in seen.counted.nonzero().tolist():
        x, y = seen.points[row, face, point].tolist()
        if 2 < min(x, y) and max(x, y) < 126 and abs(x - 64) > 2:
            assert seen.images[row, :, int(y), int(x)].mean() > 0.5
            assert seen.labels[row, int(y) // 2, int(x) // 2] == 2


def test_hills_stand_on_the_points():
    points = torch.tensor([[[[20.0, 50.0]] * 5, [[100.0, 70.0]] * 5]])
    one, two = torch.tensor([[[True] * 5, [False] * 5]]), torch.ones(1, 2, 5, dtype=torch.bool)
    hills = faces.heat_maps(points, one, 32)
    assert hills.shape == (1, 5, 32, 32) and torch.allclose(hills.sum((2, 3)), torch.ones(1, 5))
    place = face_nets.expected_places((hills + 1e-9).log())[0]
    assert torch.allclose(place, torch.tensor([20.0, 50.0]).expand(5, 2), atol=0.1)
    both = faces.heat_maps(points, two, 32)[0, 0]
    assert both[:, :16].sum().item() == pytest.approx(0.5, abs=1e-4), "two faces share the hill"
    assert faces.heat_maps(points, ~two, 32).sum() == 0


def test_an_oval_face_keeps_its_middle_in_other_surroundings():
    shape = faces.oval()
    assert shape[38, 28] == shape[38, 68] == shape[68, 48] == 1 and shape[2, 2] == shape[90, 90] == 0
    assert shape[50, 4] < 0.2


# ---------------------------------------------------------------------------------------------- losses


def test_the_margin_is_taken_off_the_right_cosine_only():
    cosines = torch.tensor([[0.5, 0.5 - 0.2]])
    wanted = torch.tensor([0])
    level = torch.log(torch.tensor(2.0))
    assert faces.margin_loss(cosines, wanted, 0.2).item() == pytest.approx(level.item(), abs=1e-5)
    assert faces.margin_loss(cosines, wanted, 0.0) < level < faces.margin_loss(cosines, wanted, 0.3)


def losses(model: nn.Module, step, count: int, rate: float) -> list[float]:
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    seen = []
    for _ in range(count):
        loss = step()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    return seen


def test_the_parsers_loss_falls_on_a_toy_batch(table):
    torch.manual_seed(0)
    model = face_nets.parser_network()
    wanted = faces.views(table, numpy.arange(4), torch.Generator().manual_seed(1), "cpu")
    seen = losses(model, lambda: faces.parser_loss(*face_nets.parse(model, wanted.images), wanted), 20, 3e-3)
    assert seen[-1] < 0.75 * seen[0]


def test_the_embedders_loss_falls_on_a_toy_batch(table):
    torch.manual_seed(0)
    model = faces.Teacher(face_nets.FaceEmbedderNetwork(), 2)
    wanted = torch.tensor([0, 0, 1, 1])
    generator = torch.Generator().manual_seed(0)
    images = faces.moved(faces.to_unit(faces.aligned_faces(table), "cpu"), generator)
    assert images.shape == (4, 3, 96, 96)
    images = faces.worn(images, generator)
    assert 0 <= images.min() and images.max() <= 1
    seen = losses(model, lambda: faces.margin_loss(model(images), wanted, faces.MARGIN), 20, 3e-3)
    assert seen[-1] < 0.5 * seen[0]


@pytest.fixture
def small_world(tmp_path, monkeypatch, table):
    """Everything that the training scripts read and write, in a folder of its own."""
    for module, name in ((faces, "out_faces"), (nets, "out_nets")):
        monkeypatch.setattr(module, "HERE", tmp_path / name)
        monkeypatch.setattr(module, "DATA", tmp_path)
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
        monkeypatch.setattr(module, "validation", lambda: table)
    with data.path(tmp_path, 0).open("wb") as file:
        numpy.savez(file, **table)
    return tmp_path


def test_an_embedder_is_trained_further_and_loads_with_its_own_class(small_world, capsys):
    faces.train_embedder(0.01, "cpu", batch=8)
    first = training.read_json(small_world / "out_faces" / "manifest.json")
    faces.train_embedder(0.03, "cpu", batch=8)
    second = training.read_json(small_world / "out_faces" / "manifest.json")
    steps = [facts["training"]["embedder"]["steps"] for facts in (first, second)]
    assert 0 < steps[0] < steps[1] and f"resuming at step {steps[0]}" in capsys.readouterr().out
    assert first["sha256"] != second["sha256"] and list(second["sha256"]) == list(second["bytes"])
    assert all(size < 10_000_000 for size in second["bytes"].values())
    network = face_nets.FaceEmbedderNetwork.from_pretrained(small_world / "out_faces" / "embedder")
    assert network(torch.rand(2, 3, 96, 96)).shape == (2, 128)
    assert next(network.parameters()).dtype == torch.float32 or network.half()


# ------------------------------------------------------------------------------------------ statistics


def test_error_rates_by_hand():
    scores = numpy.array([0.9, 0.8, 0.4, 0.5, 0.1, 0.2])
    same = numpy.array([True, True, True, False, False, False])
    assert evaluate.equal_error_rate(scores, same) == pytest.approx(1 / 3)
    assert evaluate.threshold_at(scores, same, 0.0) > 0.5
    assert 0.2 < evaluate.threshold_at(scores, same, 1 / 3) <= 0.5
    assert evaluate.equal_error_rate(numpy.array([0.9, 0.8, 0.3]), numpy.array([True, True, False])) == 0
    embeddings = numpy.eye(3)[[0, 0, 1]]
    found, alike = evaluate.pairs(embeddings, numpy.array([7, 7, 8]))
    assert found.tolist() == [1, 0, 0] and alike.tolist() == [True, False, False]


def test_a_face_is_found_rightly_only_alone_and_near():
    outline = numpy.stack([numpy.linspace(34, 94, 13), numpy.full(13, 90.0)], 1)
    points = TEMPLATE.astype(float)
    face = face_models.Face((34, 30, 60, 70), TEMPLATE + numpy.array([3, 0]), {}, 1.0)
    assert evaluate.face_width(outline) == 60
    assert evaluate.point_error(face.points, points, outline) == pytest.approx([5] * 5)  # 3 of 60 pixels
    assert evaluate.found_rightly([face], points, outline)
    assert not evaluate.found_rightly([face, face], points, outline) and not evaluate.found_rightly([], points, outline)
    far = face_models.Face((34, 30, 60, 70), TEMPLATE + numpy.array([7, 0]), {}, 1.0)
    assert not evaluate.found_rightly([far], points, outline)
    assert evaluate.nearest([far, face], points) is face and evaluate.nearest([], points) is None


def test_figures_of_people_who_are_told_apart():
    rows = [
        {
            "identity": place // 2,
            "yaw": 0.1,
            "faces": 1,
            "right": True,
            "error": [1.0] * 5,
            "common": [9] * 7,
            "either": [10] * 7,
            "read": torch.eye(128)[place // 2],
            "true": torch.eye(128)[place // 2],
        }
        for place in range(8)
    ]
    found = evaluate.report(rows, rows, [0, 0, 1, 0])
    assert found["identity"]["equal_error_rate"] == 0 and found["identity"]["true_match_at_threshold"] == 1
    assert found["identity"]["pairs"] == {"same": 4, "different": 24}
    assert found["landmarks"]["all"]["median"] == 1.0 and found["parts"]["skin"] == 0.9
    assert found["detection"]["false alarms"] == {"share": 0.25, "n": 4}
    json.dumps(found)


def test_a_parser_that_finds_nothing_is_reported_as_that():
    torch.manual_seed(0)
    network = face_nets.parser_network().eval()
    network.decode_head.classifier.bias.data[LABELS.index("background")] = 50  # blind
    parser = face_nets.FaceParser(network)
    embedder = face_nets.FaceEmbedder(face_nets.FaceEmbedderNetwork().eval())
    found = evaluate.read_piece(parser, embedder, evaluate.people("validation", 2, shots=2))
    assert [row["faces"] for row in found] == [0, 0, 0, 0] and not any("read" in row for row in found)
    assert set(found[0]["hard"]) > {"dark", "two people side by side"} and not any(found[0]["hard"].values())
    told = evaluate.report(found, found, [0])
    assert told["detection"]["found"] == {"share": 0.0, "n": 4} and told["landmarks"]["all"] == {"n": 0}
    assert told["identity"]["pairs"] == {"same": 2, "different": 4}
    assert told["identity"]["true_match_at_threshold"] == 0, "who is not found is nobody"
    json.dumps(told)


# ----------------------------------------------------------------------------------------- ControlNets


def tiny_unet():
    """A UNet of SDXL's pattern in two blocks, random; its last layer is open, so that changes within show."""
    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=sum(sdxl_tiny.WIDTHS),
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=sdxl_tiny.POOLED + 8 * sdxl_tiny.TIME_IDS,
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="module")
def base() -> nets.Base:
    scheduler = DDIMScheduler(**sdxl_tiny.sampler(sdxl_tiny.BETA_STEPS))
    tokenizer = sdxl.make_tokenizer()
    teacher = sdxl.make_teacher(tokenizer).eval().requires_grad_(False)
    torch.manual_seed(0)
    vae = sdxl_tiny.vae().eval().requires_grad_(False)
    return nets.Base(tiny_unet(), vae, tokenizer, teacher, scheduler.alphas_cumprod)


@pytest.fixture(scope="module")
def rows(base, table):
    return {
        "images": table["images"],
        "points": table["points"],
        "widths": nets.box_widths(table["labels"]),
        **nets.encoded(table, base, "cpu"),
    }


def test_pictures_are_encoded_with_their_mirror_images(base, rows, table):
    count = len(table["images"])
    assert rows["latents"].shape == (count, 2, 4, 32, 32) and rows["pooled"].shape == (count, nets.CAPTIONS, 128)
    assert rows["states"].shape == (count, nets.CAPTIONS, sdxl_tiny.TOKENS, sum(sdxl_tiny.WIDTHS))
    mirrored = sdxl.to_signed(table["images"][:1, :, ::-1].transpose(0, 3, 1, 2), "cpu")
    wanted = base.vae.encode(mirrored).latents * base.vae.config.scaling_factor
    assert torch.allclose(rows["latents"][:1, 1].float(), wanted, atol=2e-3)


def test_an_untrained_controlnet_changes_nothing(base, rows):
    net = nets.new_controlnet(base.unet).eval()
    clean = rows["latents"][:, 0].float()
    noisy, levels, _, _ = nets.noised(base, clean, 3, "cpu")
    states, pooled = rows["states"][:, 0].float(), rows["pooled"][:, 0].float()
    maps = torch.rand(len(clean), 3, 128, 128)
    with torch.no_grad():
        alone = nets.predicted(base.unet, net, noisy, levels, states, pooled, None, "cpu")
        assert torch.equal(nets.predicted(base.unet, net, noisy, levels, states, pooled, maps, "cpu"), alone)
        net.controlnet_mid_block.bias.add_(1)
        changed = nets.predicted(base.unet, net, noisy, levels, states, pooled, maps, "cpu")
    assert not torch.equal(changed, alone), "what the net says reaches the base"


def test_the_maps_encoder_fits_the_autoencoder_and_the_usual_one_does_not(base):
    added = {"text_embeds": torch.zeros(1, 128), "time_ids": nets.time_ids(1, "cpu")}
    given = (torch.zeros(1, 4, 32, 32), torch.tensor([5]), torch.zeros(1, 40, 192), torch.zeros(1, 3, 128, 128))
    down, middle = nets.new_controlnet(base.unet)(*given, added_cond_kwargs=added, return_dict=False)
    assert down[0].shape[-2:] == (32, 32) and middle.abs().max() == 0
    with pytest.raises(RuntimeError):
        ControlNetModel.from_unet(base.unet)(*given, added_cond_kwargs=added)


@pytest.mark.parametrize("name", nets.NETS)
def test_a_controlnets_loss_falls_on_a_toy_batch_and_the_base_stays(base, rows, name):
    net = nets.new_controlnet(base.unet)
    before = {key: value.clone() for key, value in base.unet.state_dict().items()}
    step = nets.make_step(name, net, base, rows, "cpu", 4)
    seen = losses(net, lambda: step(7), 20, 5e-3)
    assert seen[-1] < 0.9 * seen[0]
    assert all(torch.equal(value, before[key]) for key, value in base.unet.state_dict().items())
    assert all(p.grad is None for p in base.unet.parameters())


def test_the_map_of_a_mirrored_picture_is_mirrored(table):
    picture, points = table["images"][0], table["points"][0]
    for reads in ("line", "shading"):
        straight, turned = (
            nets.map_of(reads, picture, points, 60.0, mirror, None).astype(int) for mirror in (False, True)
        )
        assert numpy.abs(straight[:, ::-1] - turned).max() <= 4, reads
    turned = nets.map_of("landmarks", picture, points, 60.0, True, None)
    left = 128 - points[1, 0], points[1, 1]  # what was the right eye is the left one now
    wanted = controlnets.control_map("landmarks", picture, points)[int(points[0, 1]), int(points[0, 0])]
    assert turned[int(left[1]), int(left[0])].tolist() == wanted.tolist()


def test_the_width_of_a_face_in_labels():
    labels = numpy.zeros((2, 8, 10), numpy.uint8)
    labels[0, 2:5, 3:7] = LABELS.index("skin")
    labels[0, 3, 8] = LABELS.index("glasses")
    labels[0, 7, :] = LABELS.index("clothes")
    assert nets.box_widths(labels).tolist() == [6, 0]


def test_latents_are_made_once_and_a_controlnet_is_trained_further(small_world, base, monkeypatch, capsys):
    monkeypatch.setattr(nets, "load_base", lambda device: base)
    monkeypatch.setattr(nets, "BASE", small_world)
    nets.make_latents("0:1", "cpu")
    kept = nets.latents_path(0).stat().st_mtime_ns
    nets.make_latents("0:1", "cpu")
    assert nets.latents_path(0).stat().st_mtime_ns == kept
    nets.train_net("line", 0.01, "cpu", batch=2)
    nets.train_net("line", 0.03, "cpu", batch=2)
    facts = training.read_json(small_world / "out_nets" / "manifest.json")["training"]["line"]
    assert "resuming at step" in capsys.readouterr().out and facts["steps"] > 1
    assert facts["held out"]["base alone"] > 0 and "with map" in facts["held out"]
    net = ControlNetModel.from_pretrained(small_world / "out_nets" / "line")
    assert tuple(net.config.conditioning_embedding_out_channels) == nets.CONDITIONING
