"""Pi0 and Pi0.5 keep the contract of policies."""

from __future__ import annotations

import functools
import os
import re
from typing import Any

from vlascope_latents import CaptureSpec
from vlascope_server.checkpoints import Checkpoint, Record
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.presets.tiny import TOKENIZER_PATH, unit_norm_stats
from vlascope_server.prompts import Tokenizer
from vlascope_server.robots import Libero
from vlascope_server.serving.typos import Typos

from tests.server.policies.conformance import PolicyConformance
from tests.server.serving.wire import observation
from tests.server.small_models import noisy_params, small_config

QUICK = 1e-5 if "XLA_FLAGS" in os.environ else 0.0
"""What two programs may differ by that are compiled quickly, as `make test` does."""


def made(seed: int, *, pi05: bool, default_prompt: str | None = None) -> Pi0Policy:
    """A small policy for LIBERO's arm, of drawn weights."""
    vocabulary = Tokenizer(TOKENIZER_PATH, None).vocabulary
    cameras = tuple(Libero().spec.cameras)
    config = small_config(pi05=pi05, vocabulary=vocabulary, max_token_len=64, cameras=cameras)
    checkpoint = Checkpoint(
        noisy_params(config, seed), config, unit_norm_stats(8, 7), "libero", ("libero",),
        Record(robot="libero", normalisation="quantile" if pi05 else "zscore"), None, "seeded", TOKENIZER_PATH,
    )  # fmt: skip
    return Pi0Policy("small", checkpoint, PolicyOptions(num_steps=3, default_prompt=default_prompt))


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


def test_an_instruction_that_the_server_fills_in():
    policy = made(0, pi05=False, default_prompt="take the milk")
    (told, *_) = TestPi0.observations()
    untold = {key: value for key, value in told.items() if key != "prompt"}
    assert policy.prepare(untold).prompt == "take the milk" == policy.facts.default_prompt
    assert policy.prepare({**untold, "prompt": "close the drawer"}).prompt == "close the drawer"
    (line,) = Typos(policy.prepare).warnings({**untold, "promt": "close the drawer"})
    assert line == "promt: is no field and was not read; did you mean prompt?"


def test_a_prompt_that_is_too_long_is_told():
    (told, *_) = TestPi0.observations()
    (line,) = made(0, pi05=False).prepare({**told, "prompt": "so " * 200}).warnings
    assert re.fullmatch(r"prompt: \d+ tokens did not fit into 64: the policy has not seen them", line)
