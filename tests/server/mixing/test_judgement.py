"""What is said of mixing, on planted and on null losses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from vlascope_server.mixing.judgement import Judged, best_of, compared, interval, verdict
from vlascope_server.mixing.losses import EpisodeLosses

EPISODES = 12


def judged(name: str, selection: np.ndarray, validation: np.ndarray, *, mix: bool = False) -> Judged:
    weights = np.full((1, 2), 0.5) if mix else None
    parts = (EpisodeLosses(tuple(range(len(values))), values) for values in (selection, validation))
    return Judged(name, weights, *parts)


def drawn(seed: int, effect: float, inputs: int = 3) -> str:
    """The verdict where checkpoints differ by chance alone, and the mix by `effect` in standard deviations of a difference."""
    rng = np.random.default_rng(seed)
    hard = {part: rng.lognormal(-2, 0.5, EPISODES) for part in ("selection", "validation")}

    def of(name: str, shift: float, *, mix: bool = False) -> Judged:
        return judged(name, *(hard[part] + 0.01 * rng.standard_normal(EPISODES) + shift for part in hard), mix=mix)

    checkpoints = [of(f"run{k}", 0.0) for k in range(inputs)]
    return verdict(of("average", 0.014 * effect, mix=True), checkpoints)


def test_null_losses_are_rarely_called_a_finding():
    found = [drawn(seed, 0.0) for seed in range(1500)]
    helped, hurt = (
        sum(text.startswith(start) for text in found) / len(found) for start in ("Mixing helped", "Mixing hurt")
    )
    # each side has 2.5%, and 1500 draws give it up to a hundredth
    assert helped < 0.035
    assert hurt < 0.035
    assert helped + hurt > 0.03


@pytest.mark.parametrize(("effect", "start"), [(-2.0, "Mixing helped"), (2.0, "Mixing hurt")])
def test_planted_differences_are_found(effect, start):
    assert sum(drawn(seed, effect).startswith(start) for seed in range(200)) > 190


def test_interval_against_scipy():
    values = np.random.default_rng(0).standard_normal(9)
    found = interval(values)
    low, high = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_differences_are_paired():
    hard = np.array([0.1, 5.0, 2.0])
    better, worse = judged("a", hard, hard - 0.01), judged("b", hard, hard)
    found = compared(better, worse)
    assert (found.low, found.high) == pytest.approx((-0.01, -0.01))


def test_the_best_checkpoint_is_chosen_on_selection_alone():
    one = judged("one", np.array([0.1, 0.1]), np.array([9.0, 9.0]))
    two = judged("two", np.array([0.2, 0.2]), np.array([0.0, 0.1]))
    assert best_of([two, one]) is one


def test_a_mix_that_is_a_checkpoint_says_so():
    values = np.array([0.1, 0.2, 0.3])
    one = judged("one", values, values)
    assert "is one itself" in verdict(judged("greedy", values, values, mix=True), [one])


def test_one_episode_gives_no_conclusion():
    one, mix = (judged(name, np.array([loss]), np.array([loss])) for name, loss in (("one", 0.2), ("average", 0.1)))
    assert "cannot be concluded" in verdict(mix, [one])
