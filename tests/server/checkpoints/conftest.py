"""Small models and the reference's own checkpoints, for the tests of this folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from vlascope_server.model import GemmaConfig, Lora, Pi0Config, VisionConfig, parameter_shapes

_VISION = VisionConfig(width=32, depth=2, mlp_dim=40, num_heads=2, patch_size=14, image_size=56)
_VLM = GemmaConfig(width=48, depth=3, mlp_dim=80, num_heads=4, num_kv_heads=1, head_dim=8)
_ACTION = GemmaConfig(width=24, depth=3, mlp_dim=56, num_heads=4, num_kv_heads=1, head_dim=8)
PI0 = Pi0Config(_VISION, _VLM, _ACTION, vocabulary=64, action_dim=8, action_horizon=5, max_token_len=12)
PI05 = dataclasses.replace(PI0, pi05=True, cameras=("base_0_rgb", "left_wrist_0_rgb"))
LORA = dataclasses.replace(
    PI0,
    vlm=dataclasses.replace(_VLM, attn_lora=Lora(2, 8.0), ffn_lora=Lora(2, 8.0)),
    action=dataclasses.replace(_ACTION, attn_lora=Lora(2, 8.0), ffn_lora=Lora(2, 8.0)),
)


def draw(config: Pi0Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random parameters, none of them constant, so that swapped names or axes show."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    return {
        name: rng.standard_normal(shape, dtype=np.float32).astype(dtype_of(dtype)) for name, shape in shapes.items()
    }


def dtype_of(name: str) -> np.dtype:
    """Numpy's dtype, bfloat16 included."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def assert_same(found, expected) -> None:
    """Names, dtypes and every bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        array = np.asarray(found[name])
        assert array.dtype == value.dtype, name
        assert array.shape == value.shape, name
        assert array.tobytes() == value.tobytes(), name


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of what the reference wrote."""
    if folder := os.environ.get("VLASCOPE_GOLDENS"):
        return Path(folder)
    pytest.skip("the reference's checkpoints are only in the full goldens; set VLASCOPE_GOLDENS to their folder")


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A pi0 checkpoint in Orbax format, with statistics; read only."""
    from vlascope_server.checkpoints import Record, Sidecars, save_checkpoint
    from vlascope_server.robots.norm_stats import NormStats

    stats = {
        key: NormStats(np.zeros(w), np.ones(w), -np.ones(w), np.ones(w)) for key, w in (("state", 8), ("actions", 7))
    }
    return save_checkpoint(
        tmp_path_factory.mktemp("saved") / "1000",
        draw(PI0),
        PI0,
        Sidecars(
            norm_stats=stats,
            asset_id="lab/robot",
            record=Record(robot="libero", normalisation="zscore", norm_stats_count=123, step=1000),
        ),
    )
