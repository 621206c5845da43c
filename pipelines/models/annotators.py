"""controlnet-aux, the package of ControlNets' readers: imported here only, and only when the full set asks for one of them.

Its readers resize to multiples of 64; what needs no network (Canny's edges, the line drawing) is in ``control_maps`` without that,
and a test compares both. OpenPose is not used: its networks are for non-commercial use.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from pipelines.core.geometry import Picture, check_picture
from pipelines.core.weights import ModelSpec, resolve

if TYPE_CHECKING:
    from torch import nn

_VARIABLE = "KMP_DUPLICATE_LIB_OK"


@contextlib.contextmanager
def _package() -> Iterator[Any]:
    """The package, leaving nothing behind: its import writes over models in timm's registry and sets a variable of OpenMP's."""
    import pipelines.core.libraries  # noqa: F401
    import timm.models._registry as timm_registry  # isort: skip

    known, variable = dict(timm_registry._model_entrypoints), os.environ.get(_VARIABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it would like to have, of NumPy on a plain picture
        try:
            import controlnet_aux

            timm_registry._model_entrypoints.update(known)
            yield controlnet_aux
        finally:
            if variable is None:
                os.environ.pop(_VARIABLE, None)
            else:
                os.environ[_VARIABLE] = variable


def _load_anyline(spec: ModelSpec) -> nn.Module:
    """Anyline's network of 58,910 weights."""
    import torch

    with _package() as package:
        network = package.teed.ted.TED()
    # A pickle, of which tensors alone are read.
    network.load_state_dict(torch.load(resolve(spec) / spec.files[0], map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def line_drawing(network: nn.Module, picture: Picture) -> Picture:
    """Anyline's drawing of a picture (H, W, 3) uint8, white on black, at its size: what the leased ``network`` of :data:`ANYLINE` finds,
    and what is darker than its surroundings."""
    check_picture(picture)
    with _package() as package:
        drawn = package.AnylineDetector(network)(
            numpy.ascontiguousarray(picture), detect_resolution=min(picture.shape[:2]), output_type="np"
        )
    return numpy.asarray(drawn, numpy.uint8)


MISTOLINE = "TheMistoAI/MistoLine"
ANYLINE = ModelSpec(
    "mistoline/anyline",
    MISTOLINE,
    _load_anyline,
    "openrail++",
    248_000,
    card="draws a picture in lines (controlnet-aux)",
    files=("Anyline/MTEED.pth",),
)
