"""Muon for PyTorch: momentum whose matrix updates are made nearly orthogonal by a Newton-Schulz iteration.

After Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon/). Matrices of one shape are stacked and treated in
one batch, so that eight small layers cost a few large products. For matrices only; embeddings and norms take AdamW.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(updates: Tensor, steps: int = 5) -> Tensor:
    """updates: [N, rows, columns]. Each with its singular values moved near 1."""
    a, b, c = _COEFFICIENTS
    x = updates.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    def __init__(
        self, matrices: Iterable[nn.Parameter], rate: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        self.rate, self.momentum, self.decay = rate, momentum, decay
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            groups.setdefault(matrix.shape, []).append(matrix)
        self.groups = list(groups.values())
        self.speeds = [
            torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups
        ]
        self._orthogonal = orthogonal

    def compile(self) -> None:
        self._orthogonal = torch.compile(orthogonal, dynamic=False)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """`factor` scales the learning rate."""
        rate = self.rate * factor
        for group, speed in zip(self.groups, self.speeds, strict=True):
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            speed.lerp_(gradient, 1 - self.momentum)
            update = self._orthogonal(gradient.lerp(speed, self.momentum))
            rows, columns = group[0].shape
            update = update.float() * (-rate * max(1.0, rows / columns) ** 0.5)
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_add_(group, list(update.unbind(0)))
