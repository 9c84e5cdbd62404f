"""Muon for the matrices and Adam for the rest, as train_torch.py has them, over plain dicts of MLX arrays.

Muon after Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon/): momentum whose updates are made nearly
orthogonal by a Newton-Schulz iteration; matrices of one shape are treated in one batch. Every function returns new
dicts. Knows no model but for which of its names are matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from basemlx.engine.runtime import mx

Arrays = dict[str, mx.array]

MOMENTUM = 0.95
MATRIX_DECAY = 0.01
BETAS = (0.9, 0.95)
_EPSILON = 1e-8
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, slots=True)
class State:
    """`speeds` of every weight; `squares` of those that Adam moves; `steps` taken."""

    speeds: Arrays
    squares: Arrays
    steps: int


def is_matrix(name: str, weight: mx.array) -> bool:
    """Whether Muon moves it: all matrices but the embedding."""
    return weight.ndim == 2 and "embed" not in name


def fresh(weights: Mapping[str, mx.array]) -> State:
    return State(
        {name: mx.zeros_like(weight) for name, weight in weights.items()},
        {name: mx.zeros_like(weight) for name, weight in weights.items() if not is_matrix(name, weight)},
        0,
    )


def orthogonal(updates: mx.array, steps: int = 5) -> mx.array:
    """updates: [N, rows, columns]. Each with its singular values moved near 1."""
    a, b, c = _COEFFICIENTS
    tall = updates.shape[-2] > updates.shape[-1]
    x = updates.swapaxes(-1, -2) if tall else updates
    x = x / (mx.sqrt((x * x).sum((-2, -1), keepdims=True)) + 1e-7)
    for _ in range(steps):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(-1, -2) if tall else x


def clipped(gradients: Mapping[str, mx.array], most: float = 1.0) -> Arrays:
    """Scaled down together where their common norm is above `most`."""
    norm = mx.sqrt(sum((mx.square(gradient).sum() for gradient in gradients.values()), mx.array(0.0)))
    scale = mx.minimum(1.0, most / (norm + 1e-6))
    return {name: gradient * scale for name, gradient in gradients.items()}


def stepped(
    weights: Mapping[str, mx.array],
    gradients: Mapping[str, mx.array],
    state: State,
    matrix_rate: float,
    vector_rate: float,
) -> tuple[Arrays, State]:
    """The weights and the state after one step."""
    matrices = [name for name, weight in weights.items() if is_matrix(name, weight)]
    moved, speeds = _muon(weights, gradients, state.speeds, matrices, matrix_rate)
    others = clipped({name: gradients[name] for name in weights if name not in speeds})
    squares: Arrays = {}
    steps = state.steps + 1
    for name, gradient in others.items():
        speeds[name] = BETAS[0] * state.speeds[name] + (1 - BETAS[0]) * gradient
        squares[name] = BETAS[1] * state.squares[name] + (1 - BETAS[1]) * mx.square(gradient)
        mean = speeds[name] / (1 - BETAS[0] ** steps)
        spread = mx.sqrt(squares[name] / (1 - BETAS[1] ** steps)) + _EPSILON
        moved[name] = weights[name] - vector_rate * mean / spread
    return moved, State(speeds, squares, steps)


def _muon(
    weights: Mapping[str, mx.array],
    gradients: Mapping[str, mx.array],
    old_speeds: Mapping[str, mx.array],
    matrices: list[str],
    rate: float,
) -> tuple[Arrays, Arrays]:
    moved: Arrays = {}
    speeds: Arrays = {}
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in matrices:
        groups.setdefault(tuple(weights[name].shape), []).append(name)
    for (rows, columns), names in groups.items():
        gradient = mx.stack([gradients[name] for name in names])
        speed = MOMENTUM * mx.stack([old_speeds[name] for name in names]) + (1 - MOMENTUM) * gradient
        update = orthogonal((1 - MOMENTUM) * gradient + MOMENTUM * speed)
        update = update * (rate * max(1.0, rows / columns) ** 0.5)
        for at, name in enumerate(names):
            speeds[name] = speed[at]
            moved[name] = weights[name] * (1 - rate * MATRIX_DECAY) - update[at]
    return moved, speeds
