"""MegaPortrait's nets and their own tasks: people in each other's places with truth, and the one step in which they learn and run."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy
import torch

from assets.mini_portraits import aligning, data, finishing, train
from assets.mini_portraits.data import EACH, KNOWN, PASTED, Pair
from pipelines.core import geometry
from pipelines.megaportrait import parts
from pipelines.megaportrait.align import CELL, UNIT, Align, moved
from pipelines.megaportrait.finish import SHOWN, Finish, load
from pipelines.megaportrait.onestep import TASKS
from pipelines.worlds import portrait


def test_a_block_has_each_of_its_people_in_each_of_its_shots():
    rows = data.portraits(3)
    assert all(one.identity == row[0].identity for row in rows for one in row)
    assert all(row[n].shot == rows[0][n].shot for row in rows for n in range(EACH))
    assert len({row[0].identity for row in rows}) == len({one.shot for one in rows[0]}) == EACH
    even = data.plain(rows[0][0].shot)
    assert replace(even, **{name: getattr(rows[0][0].shot, name) for name in data.PLAIN}) == rows[0][0].shot


def test_a_shot_is_framed_as_a_page_cuts_it():
    frames = data.framings(3)
    assert len({frame.tobytes() for frame in frames}) == EACH
    middle = numpy.array([127.5, (data.TALL - 1) / 2, 1.0])
    for frame in frames:
        across, down = (frame @ middle - 127.5) / 256
        assert data.ZOOM[0] <= math.log(frame[0, 0]) <= data.ZOOM[1]
        assert data.ACROSS[0] <= across <= data.ACROSS[1] and data.DOWN[0] <= down <= data.DOWN[1]


def test_whoever_takes_a_place_is_somebody_else_and_shown_in_other_shots():
    into, shots = data.others(3), data.known(3)
    for person, shot in numpy.ndindex(EACH, EACH):
        assert person not in into[person, shot] and len(set(into[person, shot])) == PASTED
        for which in range(PASTED):
            assert shot not in shots[person, shot, which] and len(set(shots[person, shot, which])) == KNOWN


def test_the_points_of_a_face_lie_where_its_frame_puts_them():
    points, frames = data.points(3), data.framings(3)
    assert points.shape == (EACH, EACH, 5, 2)
    for person, shot in numpy.ndindex(EACH, EACH):
        left, right, nose, *_mouth = points[person, shot]
        assert left[0] < right[0] and nose[1] > min(left[1], right[1]), "left and right as seen in the picture"
        apart = numpy.hypot(*(right - left)) / frames[shot][0, 0]
        assert 20 < apart < 90, "of a picture of 256 pixels, as far as it is not framed larger"


def test_a_picture_is_laid_over_a_reference_by_the_points(monkeypatch):
    monkeypatch.setattr(data, "ASTRAY", 0.0)
    marks, into, shots = data.points(3), data.others(3), data.known(3)
    pictures = numpy.zeros((EACH, EACH, 256, 256, 3), numpy.uint8)
    for person, shot in numpy.ndindex(EACH, EACH):  # a dot at the nose
        x, y = numpy.clip(numpy.rint(marks[person, shot, 2] - 0.5), 2, 253).astype(int)
        pictures[person, shot, y - 2 : y + 3, x - 2 : x + 3] = 255
    laid = data.laid(3, pictures)
    for person, shot in ((0, 1), (2, 4)):
        here, there = marks[person, shots[person, shot, 0, 0]], marks[into[person, shot, 0], shot]
        wanted = geometry.moved(here[2:3], geometry.similarity(here, there))[0]
        rows, columns = numpy.nonzero(laid[person, shot, 0, 0, ..., 0] > 100)
        assert abs(columns.mean() + 0.5 - wanted[0]) < 1.5 and abs(rows.mean() + 0.5 - wanted[1]) < 1.5


def test_a_paste_is_the_reference_far_from_both_heads():
    truth, reference = (numpy.full((256, 256, 3), level, numpy.uint8) for level in (200, 60))
    head = numpy.zeros((256, 256), bool)
    head[100:150, 100:150] = True
    made = data.pasted(random.Random(0), truth, reference, head, head)
    assert (made[:40] == 60).all() and abs(int(made[125, 125].mean()) - 200) < 25


def test_what_each_net_is_shown_and_what_it_should_make():
    # Each latent says what it is: kind, person, shot.
    def named(kind: float, *sizes: int) -> torch.Tensor:
        grid = torch.meshgrid(*(torch.arange(float(size)) for size in sizes), indexing="ij")
        return torch.stack((torch.full(sizes, kind), *grid[-4:]), -1)[..., None, None]

    block = {
        "latents": torch.cat((named(0, 1, EACH, EACH), named(0, 1, EACH, EACH) + 100)),
        "laid": named(7, EACH, EACH, PASTED, KNOWN),
        "pasted": named(8, EACH, EACH, PASTED),
        "others": torch.full((EACH, EACH, PASTED), 4),
    }
    block["latents"] = block["latents"][..., :5, :, :]
    pair = Pair(1, 3, 1, swapped=True, alone=False)
    lit, even = block["latents"][0, 1, 3], block["latents"][1, 1, 3]
    first, second, reference = block["laid"][1, 3, 1, 1], block["laid"][1, 3, 1, 0], block["latents"][0, 4, 3]
    wanted = {
        "portrait": ((first, second, reference), reference, lit),
        "identity": ((first, second, reference), reference, even),
        "shading": ((even, first, reference), reference, lit),
        "harmonise": ((block["pasted"][1, 3, 1], first, reference), block["pasted"][1, 3, 1], lit),
    }
    for task in TASKS:
        shown, start, truth = train.asked(task, block, pair)
        assert torch.equal(shown, torch.cat(wanted[task][0]))
        assert torch.equal(start, wanted[task][1]) and torch.equal(truth, wanted[task][2])
    alone = replace(pair, alone=True).given(block)
    assert torch.equal(alone[0], alone[1])


def test_a_new_net_says_nothing_and_the_unet_is_not_taught():
    model = train.new_model()
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(2, 16, 16, 16, generator=generator) for _ in range(2))
    shown, tasks = torch.randn(2, 48, 16, 16, generator=generator), torch.tensor([1, 3])
    levels = torch.tensor([600, 600])
    made = model(tasks, shown, reference, noise, levels)
    assert torch.equal(made, model(tasks.flip(0), torch.zeros_like(shown), reference, noise, levels))
    assert made.shape == reference.shape
    made.square().mean().backward()
    assert all(p.grad is None for p in model._unet[0].parameters())
    assert model.net.controlnet_mid_block.weight.grad.abs().max() > 0
    assert not any(name.startswith("_unet") for name in model.state_dict())


def test_the_finishing_net_is_shown_the_same_place_of_all_pictures_and_begins_by_changing_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(finishing, "ROOT", tmp_path)
    across, down = numpy.meshgrid(*(numpy.arange(256, dtype=numpy.uint8),) * 2)
    over = dict.fromkeys(finishing.LAID.values(), (PASTED, KNOWN))
    kinds = {"pictures": (), **over, "shading": (PASTED,), "harmonise": (PASTED,)}
    for number, (name, more) in enumerate(kinds.items()):
        one = numpy.stack((across, down, numpy.full_like(across, 50 * number)), -1)
        numpy.save(finishing.path(3, name), numpy.broadcast_to(one, (EACH, EACH, *more, 256, 256, 3)))
    head = numpy.zeros((EACH, EACH, 256, 256), bool)
    head[..., 100:150, 60:120] = True
    numpy.save(finishing.path(3, "heads"), head)
    batch = finishing.batch_of(finishing.Blocks(last=finishing.LAID[finishing.LAST]), 6, random.Random(0))
    assert len(batch) == SHOWN + 1 and batch[0].shape == (6, 3, finishing.CROP, finishing.CROP)
    drawn, first, second, reference, truth = ((one + 1) * 127.5 for one in batch)
    assert all(torch.allclose(one[:, :2], truth[:, :2]) for one in (drawn, first, second, reference))
    shown = torch.stack((first[:, 2].mean((1, 2)), second[:, 2].mean((1, 2)), drawn[:, 2].mean((1, 2))), 1).round()
    assert {tuple(row) for row in shown.tolist()} <= {(50.0, 50.0, 150.0), (100.0, 100.0, 200.0)}, (
        "laid over what was drawn"
    )
    assert (truth[:, 2].round() == 0).all()
    middle = truth[:, :2, finishing.CROP // 2, finishing.CROP // 2]
    assert ((middle[:, 0] >= 59) & (middle[:, 0] <= 121) & (middle[:, 1] >= 99) & (middle[:, 1] <= 151)).all()
    assert torch.equal(Finish(finishing.new_net())(batch[:SHOWN]), batch[0])


def test_where_a_place_is_seen_follows_both_frames_and_how_the_picture_is_laid(monkeypatch):
    """In a world in which nothing turns, a place of one frame is the same place of the other, as it is laid."""
    rows, columns = torch.meshgrid(torch.arange(data.TALL) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    here = torch.stack((rows, columns), -1), torch.ones(data.TALL, 256, dtype=torch.bool)
    monkeypatch.setattr(portrait, "seen_in", lambda *_given: here)
    nobody = dict.fromkeys(data.HEAD, torch.zeros(1, data.TALL, 256, dtype=torch.bool))
    truth = portrait.PortraitTruth(
        torch.empty(0), masks=nobody | {"hair": torch.ones(1, data.TALL, 256, dtype=torch.bool)}
    )
    shifts, frames = data.shifts(3, [[truth] * EACH] * EACH).astype(float), data.framings(3)
    shots, lays = data.known(3), data.lays(3)
    assert shifts.shape == (EACH, EACH, PASTED, KNOWN, data.CELLS, data.CELLS, 3)
    middles = (numpy.stack(numpy.meshgrid(*(numpy.arange(data.CELLS),) * 2), -1) * CELL + (CELL - 1) / 2).reshape(-1, 2)
    for p, s, r, k in ((0, 1, 0, 1), (3, 2, 1, 0)):
        there, back = (numpy.vstack((frames[n], (0, 0, 1))) for n in (shots[p, s, r, k], s))
        framed = geometry.moved(middles, there @ numpy.linalg.inv(back))
        wanted = geometry.moved(framed + 0.5, lays[p, s, r, k]) - 0.5 - middles
        found = shifts[p, s, r, k].reshape(-1, 3)
        inside = ((framed > 5) & (framed < 250)).all(1) & (found[:, 2] > 0.99)
        assert inside.sum() > 100
        assert numpy.abs(found[inside, :2] - wanted[inside]).max() < 0.3
        beyond = ((framed < -8) | (framed > 263)).any(1)
        assert not found[beyond].any(), "what the picture does not show is not seen"


def test_a_picture_is_moved_by_pixels():
    picture = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    shift = torch.zeros(1, 2, 8, 12)
    assert torch.allclose(moved(picture, shift), picture, atol=1e-4)
    shift[:, 0], shift[:, 1] = 5, -3
    assert torch.allclose(moved(picture, shift)[..., 10:50, 10:80], picture[..., 7:47, 15:85], atol=1e-4)


def test_the_net_of_correspondence_begins_with_no_shift_and_only_its_last_look_is_taught():
    model = Align(aligning.new_net())
    drawn, picture = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shift, seen = model(drawn, picture)
    assert shift.shape == (2, 2, 8, 8) and seen.shape == (2, 1, 8, 8) and not shift.any()
    looks = []
    model.net.register_forward_hook(lambda _net, _given, made: looks.append(made.sample))
    torch.nn.init.normal_(model.net.conv_out.bias)
    shift, _seen = model(drawn, picture, 3)
    assert [one.requires_grad for one in looks] == [False, False, True]
    assert torch.allclose(shift, UNIT * sum(one[:, :2] for one in looks), atol=1e-4)


def test_the_shipped_net_lays_a_picture_over_a_soft_drawing_of_the_same_person():
    one = portrait.sample(910, glasses=True, yaw=0.3, pitch=0.0, expression="neutral")
    other = portrait.relit(one, replace(one.shot, yaw=-0.1, light_azimuth=0.8))
    (truth, known), soft = [portrait.render([p], 256, truth=True) for p in (one, other)], 5
    matrix = geometry.similarity(*(t.landmarks[0, :5].flip(-1).numpy() for t in (known, truth)))
    laid = geometry.warp((known.image[0].permute(1, 2, 0).numpy() * 255).astype(numpy.uint8), matrix, (256, 256))
    blurred = torch.nn.functional.avg_pool2d(truth.image, soft, 1, soft // 2, count_include_pad=False)
    with torch.inference_mode():
        model = Align(load(parts.TAUGHT["align"]))
        shift, seen = model(blurred * 2 - 1, torch.from_numpy(laid).permute(2, 0, 1)[None] / 127.5 - 1)
    places, visible = portrait.seen_in(one, truth, other, known)
    there = geometry.moved(places.flip(-1).reshape(-1, 2).numpy(), matrix).reshape(256, 256, 2)
    rows, columns = numpy.mgrid[:256, :256] + 0.5
    wanted = torch.from_numpy(there - numpy.stack((columns, rows), -1)).float().permute(2, 0, 1)
    head = visible & (truth.masks["face"] | truth.masks["hair"])[0]
    fine = torch.nn.functional.interpolate(shift, scale_factor=CELL, mode="bilinear")[0]
    missed, before = (fine - wanted).norm(dim=0)[head].median(), wanted.norm(dim=0)[head].median()
    assert before > 5 and missed < 0.4 * before
    said = torch.nn.functional.interpolate(seen, scale_factor=CELL, mode="bilinear")[0, 0] > 0
    assert said[head].float().mean() > 0.9 and said[truth.masks["background"][0]].float().mean() < 0.05


def test_a_net_that_goes_on_from_what_is_shipped_counts_its_samples_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "HERE", tmp_path)
    assert train.counted("align_samples").samples == 0
    (tmp_path / "manifest.json").write_text('{"align_samples": 40032}')
    assert train.counted("align_samples").samples == 40_032
