"""The published Pi0 and Pi0.5 checkpoints of openpi, as data.

Facts from openpi's README and training configurations: location, horizon, token
length, and how the robot's state and actions were presented in training. pi0-FAST is another architecture and not here.
"""

from __future__ import annotations

from typing import Any

from vlascope_server.presets.preset import Preset

_BUCKET = "gs://openpi-assets/checkpoints"
_ALL = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_ONE_WRIST = ("base_0_rgb", "left_wrist_0_rgb")


def _pi0(name: str, *, robot: str | None, asset_id: str | None, horizon: int = 50, **facts: Any) -> Preset:
    facts |= {"pi05": False, "max_token_len": 48, "normalisation": "zscore"}
    return Preset(name, location=f"{_BUCKET}/{name}", robot=robot, asset_id=asset_id, action_horizon=horizon, **facts)


def _pi05(name: str, *, robot: str | None, asset_id: str | None, horizon: int = 50, **facts: Any) -> Preset:
    facts |= {"pi05": True, "max_token_len": 200, "normalisation": "quantile"}
    return Preset(name, location=f"{_BUCKET}/{name}", robot=robot, asset_id=asset_id, action_horizon=horizon, **facts)


PUBLISHED = (
    _pi0("pi0_base", robot=None, asset_id=None, cameras=_ALL),
    _pi0("pi0_droid", robot="droid", asset_id="droid", horizon=10, cameras=_ONE_WRIST, delta_actions=False),
    _pi0("pi0_aloha_towel", robot="aloha", asset_id="trossen", cameras=_ALL, delta_actions=True),
    _pi0("pi0_aloha_tupperware", robot="aloha", asset_id="trossen", cameras=_ALL, delta_actions=True),
    _pi0("pi0_aloha_pen_uncap", robot="aloha", asset_id="trossen", cameras=_ALL, delta_actions=True),
    _pi05("pi05_base", robot=None, asset_id=None, cameras=_ALL, state_in_prompt=True),
    _pi05(
        "pi05_droid",
        robot="droid",
        asset_id="droid",
        horizon=15,
        cameras=_ONE_WRIST,
        state_in_prompt=True,
        delta_actions=False,
    ),
    _pi05(
        "pi05_libero",
        robot="libero",
        asset_id="physical-intelligence/libero",
        horizon=10,
        cameras=_ONE_WRIST,
        state_in_prompt=False,
        delta_actions=False,
    ),
)
"""A base checkpoint was trained on many robots: its `assets/` holds statistics of several, to be chosen by asset id."""
