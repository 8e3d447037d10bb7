"""Checkpoints that differ in known ways, and validation data to judge them on, all as small as they can be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlascope_server.checkpoints import Sidecars, save_checkpoint
from vlascope_server.checkpoints.record import Record
from vlascope_server.mixing.facts import ValidationFacts
from vlascope_server.mixing.validation import ValidationData, write_validation_data
from vlascope_server.model import ModelInputs, Pi0Config
from vlascope_server.presets.tiny import TOKENIZER_PATH
from vlascope_server.robots import NormStats
from vlascope_server.training.loader import Batch

from tests.server.small_models import noisy_params, random_inputs, small_config

CONFIG = small_config(vocabulary=1024)
STATS = {
    "state": NormStats(np.arange(8.0), np.ones(8)),
    "actions": NormStats(np.zeros(7), np.full(7, 2.0)),
}
TOKENIZER = hashlib.sha256(TOKENIZER_PATH.read_bytes()).hexdigest()
EPISODES, FRAMES = 6, 4
"""Of the validation data: three episodes are of each part."""


def save(folder: Path, params: dict[str, Any], config: Pi0Config = CONFIG, **changes) -> str:
    """A checkpoint of LIBERO's robot."""
    record = Record(robot="libero", normalisation="zscore", norm_stats_count=100)
    usual = {"norm_stats": STATS, "asset_id": "libero", "record": record, "tokenizer": TOKENIZER_PATH}
    sidecars = {**usual, **changes}
    kind = sidecars.pop("kind", "orbax")
    return str(save_checkpoint(folder, params, config, Sidecars(**sidecars), kind=kind))


def moved(params: dict[str, np.ndarray], seed: int, size: float = 0.05, only: str = "") -> dict[str, np.ndarray]:
    """Parameters whose values are a little off, those with `only` in their names."""
    rng = np.random.default_rng(seed)
    return {
        name: value + np.float32(size) * rng.standard_normal(value.shape, np.float32) if only in name else value
        for name, value in params.items()
    }


def drawn(config: Pi0Config) -> dict[str, np.ndarray]:
    """Parameters without a zero among them."""
    return {name: np.asarray(value) for name, value in noisy_params(config).items()}


@pytest.fixture(scope="session")
def base() -> dict[str, np.ndarray]:
    return drawn(CONFIG)


@pytest.fixture(scope="session")
def three(base, tmp_path_factory) -> list[str]:
    """Three checkpoints; what belongs to vision is the same in all."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return [save(folder / f"run{k}", moved(base, k, only="llm")) for k in range(3)]


def write_data(path: Path, config: Pi0Config = CONFIG, episodes: int = EPISODES) -> Path:
    """Validation data of random frames; the labels are noise, so that what matters of a policy is the mean that it says."""
    count = episodes * FRAMES
    inputs, _ = random_inputs(config, count)
    rng = np.random.default_rng(1)
    images = {c: rng.integers(0, 256, (count, 14, 14, 3), dtype=np.uint8) for c in config.cameras}
    mask = rng.random((count, config.action_horizon)) < 0.9
    rest: Any = (
        rng.standard_normal((count, config.action_horizon, config.action_dim)).astype(np.float32),
        mask,
        np.full((count, 1, len(config.cameras), 2), -1, np.float32),
    )
    fields = {name: np.asarray(getattr(inputs, name)) for name in ("state", "prompt", "prompt_mask")}
    batch = Batch(
        ModelInputs(images=images, image_masks={c: np.ones(count, bool) for c in config.cameras}, **fields), *rest
    )
    episode = np.repeat(np.arange(episodes), FRAMES)
    facts = ValidationFacts(
        pi05=config.pi05, action_horizon=config.action_horizon, max_token_len=config.max_token_len, cameras=config.cameras,
        image_size=config.vision.image_size, action_dim=config.action_dim, state_in_prompt=False, vocabulary=config.vocabulary,
        tokenizer=TOKENIZER, robot="libero", normalisation="zscore", delta_actions=False, norm_stats=STATS,
        norm_stats_count=100, carrying=(True,) * 7 + (False,), dataset="noise",
        episodes={
            "selection": tuple(range(0, episodes, 2)),
            "validation": tuple(range(1, episodes, 2)),
        },
        seed=0, options={}, provenance={},
    )  # fmt: skip
    write_validation_data(path, facts, episode % 2, episode, np.tile(np.arange(FRAMES), episodes), [batch])
    return path


@pytest.fixture(scope="session")
def data_path(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "val.zarr.zip")


@pytest.fixture(scope="session")
def data(data_path) -> ValidationData:
    return ValidationData.open(data_path)


def described(folder: Path) -> dict[str, Any]:
    """What a mix says of itself."""
    return json.loads((folder / "mix.json").read_text())
