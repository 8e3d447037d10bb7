"""Pi0 and Pi0.5 keep the contract of policies."""

from __future__ import annotations

import functools
import os
from typing import Any

from vlascope_latents import CaptureSpec
from vlascope_server.checkpoints import Checkpoint, Record
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.presets.tiny import TOKENIZER_PATH, unit_norm_stats
from vlascope_server.prompts import Tokenizer
from vlascope_server.robots import Libero

from tests.server.policies.conformance import PolicyConformance
from tests.server.serving.wire import observation
from tests.server.small_models import noisy_params, small_config

QUICK = 1e-5 if "XLA_FLAGS" in os.environ else 0.0
"""What two programs may differ by that are compiled quickly, as `make test` does."""


def made(seed: int, *, pi05: bool) -> Pi0Policy:
    """A small policy for LIBERO's arm, of drawn weights."""
    vocabulary = Tokenizer(TOKENIZER_PATH, None).vocabulary
    cameras = tuple(Libero().spec.cameras)
    config = small_config(pi05=pi05, vocabulary=vocabulary, max_token_len=64, cameras=cameras)
    checkpoint = Checkpoint(
        noisy_params(config, seed), config, unit_norm_stats(8, 7), "libero", ("libero",),
        Record(robot="libero", normalisation="quantile" if pi05 else "zscore"), None, "seeded", TOKENIZER_PATH,
    )  # fmt: skip
    return Pi0Policy("small", checkpoint, PolicyOptions(num_steps=3))


class TestPi0(PolicyConformance):
    specs = (
        CaptureSpec(components=("hidden_states", "x_t"), layers=(0, 2), denoise_steps=(0, 2), reduction="mean"),
        CaptureSpec(experts=("vlm",), layers=(1,), spans=("text",), reduction="last", dtype="float32"),
    )
    row_tolerance = 1e-5
    capture_tolerance = QUICK

    make = functools.partial(made, pi05=False)

    @staticmethod
    def observations() -> list[dict[str, Any]]:
        prompts = "take the milk", "put the bowl on the stove", "close the drawer"
        robot = ("observation/image", "observation/wrist_image", "observation/state")
        return [
            {key: value for key, value in observation(seed, prompt=prompt).items() if key in (*robot, "prompt")}
            for seed, prompt in enumerate(prompts)
        ]


class TestPi05(TestPi0):
    make = functools.partial(made, pi05=True)
