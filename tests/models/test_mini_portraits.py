"""MegaPortrait's nets and their own task: pairs with truth, and the one step in which they learn and run."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy
import torch

from assets.mini_portraits import data, train
from assets.mini_portraits.data import EACH, Pair


def test_a_block_has_each_of_its_people_in_each_of_its_shots():
    rows = data.portraits(3)
    assert all(one.identity == row[0].identity for row in rows for one in row)
    assert all(row[n].shot == rows[0][n].shot for row in rows for n in range(EACH))
    assert len({row[0].identity for row in rows}) == len({one.shot for one in rows[0]}) == EACH
    even = data.plain(rows[0][0].shot)
    assert replace(even, **{name: getattr(rows[0][0].shot, name) for name in data.PLAIN}) == rows[0][0].shot


def test_a_shot_is_framed_alike_for_everybody_and_not_like_another():
    frames = data.framings(3)
    assert len({frame.tobytes() for frame in frames}) == EACH
    middle = numpy.array([127.5, 127.5, 1.0])
    for frame in frames:
        assert abs(math.log(frame[0, 0])) <= data.ZOOM and numpy.abs(frame @ middle - 127.5).max() <= 256 * data.SHIFT


def test_a_pair_is_of_two_people_and_the_truth_is_not_among_what_is_known():
    rng = random.Random(0)
    for _ in range(200):
        pair = Pair.draw(rng)
        assert pair.person != pair.other and len({pair.shot, *pair.known}) == 3


def test_what_each_net_is_shown_and_what_it_should_make():
    # Each latent says what it is: light, person, shot.
    names = torch.stack(torch.meshgrid(torch.arange(2.0), torch.arange(5.0), torch.arange(5.0), indexing="ij"), -1)
    block, pair = names[..., None, None], Pair(1, 4, 3, (0, 2))
    wanted = {
        "parent": ([[0, 1, 0], [0, 1, 2], [0, 4, 3]], [0, 1, 3]),
        "identity": ([[0, 1, 0], [0, 1, 2], [0, 4, 3]], [1, 1, 3]),
        "shading": ([[1, 1, 3], [0, 1, 0], [0, 4, 3]], [0, 1, 3]),
    }
    for role in train.ROLES:
        shown, reference, truth = train.task(role, block, pair)
        assert (shown.view(3, 3).tolist(), truth.flatten().tolist()) == wanted[role]
        assert reference.flatten().tolist() == [0, 4, 3]


def test_a_new_net_says_nothing_and_the_unet_is_not_taught():
    unet = train.frozen_unet()
    model = train.OneStep(train.new_net(unet), unet)
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(2, 16, 16, 16, generator=generator) for _ in range(2))
    shown = torch.randn(2, 48, 16, 16, generator=generator)
    made = model(shown, reference, noise)
    assert torch.equal(made, model(torch.zeros_like(shown), reference, noise)) and made.shape == reference.shape
    made.square().mean().backward()
    assert all(p.grad is None for p in unet.parameters())
    assert model.net.controlnet_mid_block.weight.grad.abs().max() > 0
    assert not any(name.startswith("_unet") for name in model.state_dict())
