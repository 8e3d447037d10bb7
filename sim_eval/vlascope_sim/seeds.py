"""Seeds that follow from a campaign's one: the same numbers on every machine, in every order of episodes."""

from __future__ import annotations

from vlascope_base.seeds import derive_seed


def environment_seed(seed: int, suite: str, task: int, episode: int) -> int:
    """Of an episode's scene, below 2^32; the same whatever the policy's noise."""
    return derive_seed("environment", seed, suite, task, episode, bits=32)


def noise_seed(seed: int, suite: str, task: int, episode: int, noise: int) -> int:
    """Of all noise that the policy uses in an episode; `noise` counts the repeats of it with other noise."""
    return derive_seed("noise", seed, suite, task, episode, noise)


def perturbation_seed(seed: int, suite: str, task: int, episode: int) -> int:
    """Of what is done to an episode's scene, below 2^32; the same whatever the policy's noise."""
    return derive_seed("perturbation", seed, suite, task, episode, bits=32)


def inference_seed(noise: int, inference: int) -> int:
    """Of one inference's noise, below 2^63; `inference` counts from 0."""
    return derive_seed("inference", noise, inference)
