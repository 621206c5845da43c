"""controlnet-aux: Anyline's drawing is its own detector's, its import leaves nothing behind, and Canny's edges are those of its detector."""

from __future__ import annotations

import os
import sys

import numpy
import pytest
import timm
import torch
from skimage import data

from pipelines.core.registry import Registry
from pipelines.models import annotators, control_maps
from tests.toys import portrait_full

pytestmark = pytest.mark.slow
FACE = data.astronaut()[:128, 160:288].copy()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models")
    portrait_full.write_anyline(folder / "MistoLine" / annotators.ANYLINE.files[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_STUDIO_MODELS", str(folder))
        with Registry("cpu").lease(annotators.ANYLINE) as (loaded,):
            yield loaded


def test_the_drawing_is_the_package_s_own(network: torch.nn.Module):
    with annotators._package() as package:
        theirs = package.AnylineDetector(network)(FACE, detect_resolution=128, output_type="np")
    drawn = annotators.line_drawing(network, FACE)
    assert (drawn == theirs).all() and drawn.std() > 1
    assert (annotators.line_drawing(network, FACE) == drawn).all(), "steady"


@pytest.mark.parametrize("size", [(96, 96), (100, 75), (128, 128)])
def test_a_drawing_has_the_picture_s_size_and_a_plain_picture_no_trouble(network: torch.nn.Module, size):
    for picture in (FACE[: size[0], : size[1]], numpy.full((*size, 3), 90, numpy.uint8)):
        drawn = annotators.line_drawing(network, picture)
        assert drawn.shape == picture.shape and drawn.dtype == numpy.uint8


def test_the_network_has_the_published_size_and_learns_nothing(network: torch.nn.Module):
    assert sum(value.numel() for value in network.parameters()) == 58_910
    assert not network.training and not any(value.requires_grad for value in network.parameters())


def test_the_import_leaves_nothing_behind(network: torch.nn.Module):
    assert "controlnet_aux" in sys.modules and "KMP_DUPLICATE_LIB_OK" not in os.environ
    assert timm.models.model_entrypoint("tiny_vit_5m_224").__module__.startswith("timm.")


def test_edges_are_those_of_the_package_s_detector():
    with annotators._package() as package:
        theirs = package.CannyDetector()(FACE, detect_resolution=128, image_resolution=128)
    assert (control_maps.canny_map(FACE) == theirs).all()


def test_the_small_set_s_line_drawing_is_that_of_the_package_s_detector():
    with annotators._package() as package:
        theirs = package.LineartStandardDetector()(FACE, guassian_sigma=1.5, detect_resolution=128, output_type="np")
    assert (control_maps.line_map(FACE) == theirs).all()
