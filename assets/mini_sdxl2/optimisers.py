"""Muon beside AdamW: orthogonalised momentum for matrices and convolutions, AdamW for everything else.

After Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the scale of Liu et al. (arXiv 2502.16982):
an update has the size of AdamW's, so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

STEPS = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonal(stack: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with all singular values brought near 1, by Newton and Schulz's iteration."""
    turned = stack.shape[1] > stack.shape[2]
    x = stack.mT if turned else stack
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for a, b, c in STEPS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if turned else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for ``matrices`` (of two dimensions or more, seen as rows by the rest) and AdamW for ``others``.

    Matrices of one shape are orthogonalised in one batch. State is one momentum for each matrix, AdamW's two else.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        groups = [{"params": list(matrices), "matrix": True}, {"params": list(others), "matrix": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # the optimisers' interface
        for group in self.param_groups:
            wanted = [p for p in group["params"] if p.grad is not None]
            (self._matrices if group["matrix"] else self._others)(wanted, group)

    def _matrices(self, wanted: list[Tensor], group: dict) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter in wanted:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            moving = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
            ahead = parameter.grad.add(moving, alpha=group["momentum"]).flatten(1)  # Nesterov's look ahead
            by_shape.setdefault(tuple(ahead.shape), []).append((parameter, ahead))
        for (rows, columns), pairs in by_shape.items():
            updates = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            scale = 0.2 * max(rows, columns) ** 0.5  # root mean square of AdamW's updates
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _others(self, wanted: list[Tensor], group: dict) -> None:
        for parameter in wanted:
            state = self.state[parameter]
            if not state:
                state["count"] = 0
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["count"] += 1
            mean = state["mean"].lerp_(parameter.grad, 0.1)
            square = state["square"].lerp_(parameter.grad.square(), 0.01)
            mean, square = mean / (1 - 0.9 ** state["count"]), square / (1 - 0.99 ** state["count"])
            parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))


def muon(model: nn.Module, lr: float, weight_decay: float = 0.01) -> Muon:
    """Muon for a diffusion model or an autoencoder: what meets data, codes or time first or last stays with AdamW."""
    matrices, others = [], []
    outside = ("conv_in", "conv_out", "embedding", "heads")
    for name, parameter in model.named_parameters():
        inner = parameter.ndim >= 2 and not any(part in name for part in outside)
        (matrices if inner else others).append(parameter)
    return Muon(matrices, others, lr, weight_decay=weight_decay)
