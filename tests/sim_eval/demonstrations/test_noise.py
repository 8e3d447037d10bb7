"""Noise changes what is done, never what is written down, and says where the two part."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_sim.demonstrations.noise import NO_NOISE, Noise, NoiseOptions, chunk_mask

LABEL = np.array([0.5, -0.2, 0.1, 0.0, 0.0, 0.0, 1.0])


def run(options: NoiseOptions, seed: int, steps: int = 120) -> tuple[np.ndarray, np.ndarray]:
    noise = Noise(options, seed)
    done = [noise.executed(LABEL, step) for step in range(steps)]
    return np.array([action for action, _ in done]), np.array([followed for _, followed in done])


def test_without_noise_the_label_is_done():
    actions, followed = run(NO_NOISE, seed=3)
    np.testing.assert_array_equal(actions, np.tile(LABEL, (120, 1)))
    assert followed.all()


def test_noise_follows_from_the_seed_and_leaves_rotation_gripper_and_label_alone():
    before = LABEL.copy()
    first, again, other = (run(NoiseOptions(), seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first[:, 3:], np.tile(LABEL[3:], (120, 1)))
    np.testing.assert_array_equal(LABEL, before)
    assert np.abs(first).max() <= 1


def test_sigma_is_that_of_what_is_done():
    actions, followed = run(NoiseOptions(sigmas=(0.1,), bursts=0), seed=5, steps=4000)
    assert followed.all()
    np.testing.assert_allclose((actions - LABEL)[:, :3].std(0), 0.1, rtol=0.05)


def test_pushes_are_marked_and_as_long_and_strong_as_told():
    options = NoiseOptions(sigmas=(0.0,), bursts=3, burst_steps=(3, 8), burst_starts_before=85)
    counts = set()
    for seed in range(60):
        noise = Noise(options, seed)
        counts.add(len(noise.bursts))
        actions, followed = run(options, seed)
        pushed = np.zeros(120, bool)
        for burst in noise.bursts:
            assert 0 <= burst.start < 85
            assert 3 <= burst.length <= 8
            assert 0.4 <= np.linalg.norm(burst.push) <= 1.0
            pushed[burst.start : burst.start + burst.length] = True
        np.testing.assert_array_equal(followed, ~pushed)
        np.testing.assert_array_equal(actions[~pushed], np.tile(LABEL, ((~pushed).sum(), 1)))
        assert (actions[pushed, :3] != LABEL[:3]).any(axis=1).all()
    assert counts == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (0, [1, 1, 1, 1]),  # the push at 3 is answered at 4
        (1, [1, 1, 1, 0]),
        (3, [1, 0, 0, 0]),  # the label at the push's first step answers what is seen there
        (4, [1, 0, 0, 0]),
        (5, [1, 1, 1, 1]),
        (7, [1, 1, 1, 1]),  # beyond the end
    ],
)
def test_labels_of_a_chunk_count_until_something_else_was_done(frame, expected):
    followed = np.array([1, 1, 1, 0, 0, 1, 1, 1], bool)
    np.testing.assert_array_equal(chunk_mask(followed, frame, 4), np.array(expected, bool))
    assert chunk_mask(followed, frame, 1).tolist() == [True]
