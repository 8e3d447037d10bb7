"""One set of normalisation statistics for a mixture of checkpoints that were trained with different ones.

Mean and standard deviation of all data follow exactly from those of its parts and their sizes. Quantiles do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlascope_server.mixing.errors import MixingError
from vlascope_server.robots import NormStats

_REMEDY = "give statistics of all their data with --norm-stats FILE"


def pool_norm_stats(
    stats: Sequence[Mapping[str, NormStats]],
    counts: Sequence[int | None],
    *,
    names: Sequence[str] | None = None,
    quantiles_used: bool = True,
) -> tuple[dict[str, NormStats], int | None]:
    """The statistics of all data that the given ones are of.

    With n_i vectors of mean m_i and deviation s_i, n in all, the mean is m = sum(n_i m_i) / n and the variance
    sum(n_i (s_i^2 + (m_i - m)^2)) / n: within the parts plus between them (Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances", 1979, for two parts). Deviations are those of the
    population, divided by n and not by n - 1, as `NormStats` has them. Parts that share data count it as often as they have it.

    Args:
        stats: quantity (`state`, `actions`) -> statistics, of each checkpoint.
        counts: state vectors behind each; None where nobody has said. They weight the actions too, which is exact where each
            state comes with as many actions that count, and close to it where some at the ends of episodes do not.
        names: of the checkpoints, for messages; their numbers from 1 unless given.
        quantiles_used: the policy normalises with quantiles. Where it does not, quantiles that differ are left out of the
            result instead of being refused.

    Returns:
        Statistics by quantity, and the states behind them. A quantity whose statistics are equal in all checkpoints is
        returned unchanged; where that is so of all, the count is theirs if they agree on one, and None otherwise.

    Raises:
        MixingError: they are of different quantities or widths; they differ and a count is not known; or quantiles differ.
    """
    if not stats or len(stats) != len(counts):
        raise ValueError(
            f"stats: expected one count for each of at least 1 checkpoint, found {len(stats)}, {len(counts)}"
        )
    called = [f"checkpoint {number}" for number in range(1, len(stats) + 1)] if names is None else list(names)
    first = stats[0]
    for other, name in zip(stats[1:], called[1:], strict=True):
        if other.keys() != first.keys():
            raise MixingError(
                f"norm_stats: {called[0]} has them of {', '.join(first)}, {name} of {', '.join(other)}; {_REMEDY}"
            )
    differing = [quantity for quantity in first if any(not _equal(s[quantity], first[quantity]) for s in stats)]
    if not differing:
        return dict(first), counts[0] if len(set(counts)) == 1 else None
    known = [count for count in counts if count]
    if len(known) < len(counts):
        name = next(name for name, count in zip(called, counts, strict=True) if not count)
        raise MixingError(
            f"norm_stats: those of {' and '.join(differing)} differ, and {name} does not say of how many states"
            f" they are; {_REMEDY}"
        )
    pooled = {
        quantity: _pool(quantity, [s[quantity] for s in stats], known, called, quantiles_used) for quantity in differing
    }
    return {**first, **pooled}, sum(known)


def _equal(a: NormStats, b: NormStats) -> bool:
    pairs = (a.mean, b.mean), (a.std, b.std), (a.q01, b.q01), (a.q99, b.q99)
    return all(_same(x, y) for x, y in pairs)


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _pool(
    quantity: str, stats: Sequence[NormStats], counts: Sequence[int], names: Sequence[str], quantiles_used: bool
) -> NormStats:
    first = stats[0]
    for other, name in zip(stats[1:], names[1:], strict=True):
        if other.width != first.width:
            raise MixingError(
                f"norm_stats: {quantity}: {names[0]} has {first.width} numbers, {name} has {other.width}: they are of"
                f" different robots; {_REMEDY}"
            )
        if quantiles_used and not (_same(first.q01, other.q01) and _same(first.q99, other.q99)):
            raise MixingError(
                f"norm_stats: {quantity}: the quantiles of {names[0]} and {name} differ, and those of all their data do"
                f" not follow from them; {_REMEDY}"
            )
    means, stds = (np.stack([getattr(s, field) for s in stats]) for field in ("mean", "std"))
    shares = (np.array(counts) / sum(counts))[:, None]
    # from the first on: a dimension that is the same constant everywhere stays it to the last bit, and its deviation zero
    mean = means[0] + (shares * (means - means[0])).sum(axis=0)
    std = np.sqrt((shares * (stds**2 + (means - mean) ** 2)).sum(axis=0))
    same = (means == means[0]).all(axis=0) & (stds == stds[0]).all(axis=0)
    kept = all(_same(s.q01, first.q01) and _same(s.q99, first.q99) for s in stats)
    q01, q99 = (first.q01, first.q99) if kept else (None, None)
    return NormStats(mean, np.where(same, stds[0], std), q01, q99)
