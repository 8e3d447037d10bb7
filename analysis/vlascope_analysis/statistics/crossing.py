"""Whether a label and the scene are independent in a design: what the scene alone tells, and which classes it leaves open.

In a suite's own episodes each scene has one instruction, and whatever recognises the scene knows it. In a crossed design each
scene has several, which count alike here, so that no answer to the scene alone is right more often than by chance.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vlascope_analysis.statistics.units import Episodes

SHUFFLES = 199
"""Labellings at random that say how well a scene tells a label by chance."""


def scenes_by_class(episodes: Episodes) -> np.ndarray:
    """Which classes each scene has, bool [scenes, C]; no scene where an episode's is not known."""
    if (episodes.scene < 0).any():
        return np.zeros((0, int(episodes.label.max()) + 1), bool)
    found = np.zeros((int(episodes.scene.max()) + 1, int(episodes.label.max()) + 1), bool)
    found[episodes.scene, episodes.label] = True
    return found


def own_candidates(episodes: Episodes, kept: np.ndarray) -> np.ndarray:
    """The classes that episodes of the same scene have, bool [U, C]: what an answer may be where scenes hold different objects.

    Args:
        episodes: whose.
        kept: bool [U] the episodes that count; others have no candidate.
    """
    found = np.zeros((int(episodes.scene.max()) + 1, int(episodes.label.max()) + 1), bool)
    found[episodes.scene[kept], episodes.label[kept]] = True
    return found[episodes.scene] & kept[:, None]


@dataclasses.dataclass(frozen=True)
class Told:
    """What of a label can be told without looking at a state.

    Attributes:
        scene: share of episodes that the best constant answer for each scene is right in, weighed as the scores are: exact on
            the design, nothing is fitted. NaN where scenes are not known.
        scene_at_random: the same with labels that were shuffled over all episodes, mean; few episodes a scene make it large.
        scene_p: share of shuffled labels that are told as well.
        init_state, init_state_p: the same of initial states that several episodes begin from; NaN where there is none.
        crossed: each tested scene has several classes, and answers are among those.
    """

    scene: float
    scene_at_random: float
    scene_p: float
    init_state: float
    init_state_p: float
    crossed: bool

    @classmethod
    def of(cls, episodes: Episodes, tested: np.ndarray, weights: np.ndarray, crossed: bool, seed: int) -> Told:
        """Measures it on tested episodes (T of them).

        Args:
            episodes: all of them.
            tested: int [T] their numbers.
            weights: float64 [T] of the scores, summing to 1.
            crossed: as the attribute.
            seed: of the shuffles.
        """
        label, scene, start = episodes.label[tested], episodes.scene[tested], episodes.init_state[tested]
        shared = np.bincount(start)[start] > 1
        nothing = (np.nan, np.nan, np.nan)
        known = not (scene < 0).any()
        # labels of an initial state that has one class are shuffled as one: they are no independent draws
        mixed = len(np.unique(np.stack([start, label]), axis=1)[0]) > len(np.unique(start))
        each = np.arange(len(label))
        of_scene = _best_answers(label, scene, weights, each if mixed else start, seed) if known else nothing
        of_start = nothing
        if shared.any():
            own = weights[shared] / weights[shared].sum()
            of_start = _best_answers(label[shared], start[shared], own, each[shared], seed)
        return cls(*of_scene, of_start[0], of_start[2], crossed)


def _best_answers(
    label: np.ndarray, group: np.ndarray, weights: np.ndarray, moved: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """The accuracy of the best answer for each group, that of shuffled labels, and how often they are told as well.

    Shuffles are compared with episodes of equal weight, which they leave as they are.

    Args:
        label, group: int [T].
        weights: float64 [T], summing to 1.
        moved: int [T] what is shuffled as one, and has one class.
        seed: of the shuffles.
    """
    _, first, place = np.unique(moved, return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 2])
    equal = np.full(len(label), 1 / len(label))
    observed = _best(label, group, equal)
    null = np.array([_best(rng.permutation(label[first])[place], group, equal) for _ in range(SHUFFLES)])
    p = (1 + np.count_nonzero(null >= observed - 1e-9)) / (1 + SHUFFLES)
    return _best(label, group, weights), float(null.mean()), float(p)


def _best(label: np.ndarray, group: np.ndarray, weights: np.ndarray) -> float:
    """The sum of weights of the class of greatest weight in each group: int [T], int [T], float64 [T]."""
    sums = np.zeros((int(group.max()) + 1, int(label.max()) + 1))
    np.add.at(sums, (group, label), weights)
    return float(sums.max(axis=1).sum())
