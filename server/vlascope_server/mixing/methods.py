"""The methods that find the weights of checkpoints, by the reference's names.

K checkpoints, G groups of parameters with weights of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from vlascope_base.progress import Progress, silent

from vlascope_server.mixing.descent import Descent, Step, descend
from vlascope_server.mixing.device import OnDevice
from vlascope_server.mixing.losses import EpisodeLosses, Losses
from vlascope_server.mixing.options import BY_GRADIENT, Method, MixOptions
from vlascope_server.mixing.weighting import Groups


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Weights that a method found.

    Attributes:
        method: its name; `weights` where they were given.
        weights: those of each group sum to 1.
        groups: of parameters with weights of their own.
        steps: of gradient descent; none of other methods.
        tried: of `greedy`: the checkpoints of each mix that was tried, and its loss on the selection episodes.
    """

    method: str
    weights: Float[np.ndarray, "G K"]
    groups: Groups
    steps: tuple[Step, ...] = ()
    tried: tuple[tuple[tuple[int, ...], float], ...] = ()


def average(count: int) -> Float[np.ndarray, " K"]:
    """1 / K each."""
    return np.full(count, 1 / count)


def given(weights: Sequence[float], count: int) -> Float[np.ndarray, "G K"]:
    """Weights as they were given, those of each group divided by their sum."""
    rows = np.array(weights, np.float64).reshape(-1, count)
    rows = rows / rows.max(axis=1, keepdims=True)  # so that the sum of large ones is finite
    return rows / rows.sum(axis=1, keepdims=True)


def inverse_loss(losses: Sequence[float]) -> Float[np.ndarray, " K"]:
    """Proportional to 1 / loss², the reference's formula; checkpoints without any loss share all weight."""
    values = np.array(losses, np.float64)
    inverse = (values == 0).astype(np.float64) if (values == 0).any() else (values.min() / values) ** 2
    return inverse / inverse.sum()


def greedy(
    count: int, loss_of: Callable[[tuple[int, ...]], float], singles: Sequence[float]
) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], float]]]:
    """Forward selection: the best checkpoint, then again and again the one whose addition makes the equal mix best, while it
    gets better. No checkpoint is taken twice.

    Args:
        count: of the checkpoints.
        loss_of: the loss of the equal mix of some of them, in ascending order.
        singles: the losses of each alone.

    Returns:
        The chosen ones in ascending order, and all mixes that were tried with their losses.
    """
    tried = [((k,), loss) for k, loss in enumerate(singles)]
    chosen, best = min(tried, key=lambda entry: entry[1])
    while len(chosen) < count:
        candidates = [tuple(sorted((*chosen, k))) for k in range(count) if k not in chosen]
        rounds = [(mix, loss_of(mix)) for mix in candidates]
        tried += rounds
        mix, loss = min(rounds, key=lambda entry: entry[1])
        if not loss < best:
            break
        chosen, best = mix, loss
    return chosen, tried


def find_weights(
    method: Method,
    options: MixOptions,
    policies: OnDevice,
    groups: Groups,
    losses: Losses,
    singles: Sequence[EpisodeLosses],
    progress: Progress = silent,
) -> Found:
    """Runs one method.

    Args:
        method: which.
        options: of the mix.
        policies: the checkpoints.
        groups: what has weights of its own in gradient descent.
        losses: on the validation data.
        singles: of each checkpoint alone, on the selection episodes.
        progress: is told what is done.

    Raises:
        MixingError: a loss is not finite.
    """
    count = len(policies.theirs)
    whole = Groups.of(policies.differing, "checkpoint")
    if method in BY_GRADIENT:
        descent = Descent(
            options.num_iterations, options.learning_rate, method == "adaptive_gradient_descent", options.batch_size,
            options.seed,
        )  # fmt: skip
        weights, steps = descend(policies, groups, losses, descent, progress)
        return Found(method, weights, groups, tuple(steps))
    alone = [single.mean for single in singles]
    if method == "average":
        return Found(method, average(count)[None], whole)
    if method == "inverse_loss":
        return Found(method, inverse_loss(alone)[None], whole)

    def loss_of(mix: tuple[int, ...]) -> float:
        policy = policies.mixed(whole, _equal(mix, count)[None])
        return losses.of(policy, "selection", progress, f"checkpoints {', '.join(str(k + 1) for k in mix)}").mean

    chosen, tried = greedy(count, loss_of, alone)
    return Found(method, _equal(chosen, count)[None], whole, tried=tuple(tried))


def _equal(mix: Sequence[int], count: int) -> Float[np.ndarray, " K"]:
    return np.array([1 / len(mix) if k in mix else 0.0 for k in range(count)])
