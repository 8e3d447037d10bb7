"""`config.json` beside the parameters: openpi's converter writes one, and LeRobot another. Both say what shapes cannot.

Facts about the formats: openpi, examples/convert_jax_model_to_pytorch.py; LeRobot, policies/pi0/configuration_pi0.py and
policies/pi05/configuration_pi05.py, of its releases from 0.1 on. Fields that change nothing about inference are not read.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.record import Record
from vlascope_server.json_file import JsonError, JsonMap, read_json
from vlascope_server.model import CAMERAS

FILE = "config.json"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
"""LeRobot's names of the state, of the action, and what begins the name of a camera."""

_FEATURES = ("VISUAL", "STATE", "ENV", "ACTION", "REWARD", "LANGUAGE")
_OPENPI = ("action_horizon", "action_dim", "paligemma_variant", "action_expert_variant")
_EXPERTS = {
    "paligemma_variant": "PaliGemma/llm/embedder/input_embedding",
    "action_expert_variant": "action_in_proj/kernel",
}
"""Variant -> a parameter whose last axis is the expert's width."""
_WIDTHS = {"gemma_2b": 2048, "gemma_2b_lora": 2048, "gemma_300m": 1024, "gemma_300m_lora": 1024}
_PERIODS = {"min_period": 4e-3, "max_period": 4.0}
"""Of the flow time's embedding, in the model that there is here."""
_STEPS = 10

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Features:
    """What a LeRobot policy takes in and gives out, in its own names.

    Attributes:
        cameras: the model's image slot -> LeRobot's name of the camera that fills it. LeRobot fills the slots in the order in
            which its configuration lists the cameras.
        state_dim: numbers in a state; None where nobody says.
        action_dim: numbers in an action; None where nobody says.
    """

    cameras: Mapping[str, str]
    state_dim: int | None
    action_dim: int | None


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """What a `config.json` says.

    Attributes:
        path: the file.
        pi05: Pi0.5 rather than Pi0; None where the file does not say.
        record: what it says of a record's fields.
        fields: a record's field -> what the file calls it.
        action_dim: the model's width of state and actions.
        variants: `paligemma_variant` and `action_expert_variant`, where given.
        features: of LeRobot's policy; None in openpi's file.
        modes: LeRobot's normalisation by kind of feature, such as `STATE`; None where the file does not say.
    """

    path: Path
    pi05: bool | None
    record: Record
    fields: Mapping[str, str]
    action_dim: int | None
    variants: Mapping[str, str]
    features: Features | None = None
    modes: Mapping[str, str] | None = None

    @property
    def is_lerobot(self) -> bool:
        """Whether LeRobot wrote it."""
        return self.features is not None

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compares with the parameters' shapes, which are what runs: another size of an expert is only worth a warning.

        Raises:
            CheckpointError: another model, or another width of actions: the file belongs to another checkpoint.
        """
        if not {"action_in_proj/kernel", *_EXPERTS.values()} <= shapes.keys():
            return  # no Pi0 at all, which is said elsewhere
        pi05, action_dim = "time_mlp_in/kernel" in shapes, shapes["action_in_proj/kernel"][0]
        kinds = ("pi0", "pi05")
        if self.pi05 not in (None, pi05):
            raise CheckpointError(
                f"{self.path}: type: it says {kinds[not pi05]}, and the parameters beside it are a {kinds[pi05]}: they belong"
                " to different checkpoints"
            )
        if self.action_dim not in (None, action_dim):
            raise CheckpointError(
                f"{self.path}: {self.fields['action_dim']}: it says {self.action_dim}, and the parameters beside it are"
                f" {action_dim} wide: they belong to different checkpoints"
            )
        for field, variant in self.variants.items():
            width = shapes[_EXPERTS[field]][-1]
            if _WIDTHS.get(variant, width) != width:
                _log.warning(
                    "%s: %s: %s is %d wide, and the parameters are %d wide: the parameters are believed",
                    self.path, field, variant, _WIDTHS[variant], width,
                )  # fmt: skip


def read_config(folder: Path, *, may_be_lerobot: bool) -> ConfigFile | None:
    """The `config.json` in a checkpoint's folder; None where there is none, or it is of something else.

    Args:
        folder: of the checkpoint.
        may_be_lerobot: LeRobot writes PyTorch checkpoints only; beside others, `type` is somebody else's.

    Raises:
        CheckpointError: a field holds what it cannot, or asks for what there is not here; names field and value.
    """
    try:
        content = read_json(folder / FILE)
        if "type" in content and may_be_lerobot:
            return _lerobot(content)
        return _openpi(content) if any(field in content for field in _OPENPI) else None
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise CheckpointError(str(error)) from None


def _openpi(content: JsonMap) -> ConfigFile:
    content.text("precision", ("float32", "bfloat16", "float16"))
    return ConfigFile(
        content.path,
        pi05=None,
        record=Record(action_horizon=content.whole("action_horizon")),
        fields={"action_horizon": "action_horizon", "action_dim": "action_dim"},
        action_dim=content.whole("action_dim"),
        variants=_variants(content),
    )


def _variants(content: JsonMap) -> dict[str, str]:
    return {field: value for field in _EXPERTS if (value := content.text(field)) is not None}


def _lerobot(content: JsonMap) -> ConfigFile:
    kind = content.text("type", ("pi0", "pi05"))
    for field in ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha", "use_relative_actions", "use_peft"):
        if content.flag(field):
            content.refuse(field, "false, since nothing else is understood here")
    if content.whole("n_obs_steps") not in (None, 1):
        content.refuse("n_obs_steps", "1, since the model sees one moment")
    for field, usual in _PERIODS.items():
        if content.number(field) not in (None, usual):
            content.refuse(field, f"{usual}, which the model has")
    for field in ("num_inference_steps", "num_steps"):
        if content.whole(field) not in (None, _STEPS):
            _log.warning(
                "%s: %s: %d; serve takes %d steps unless told", content.path, field, content.whole(field), _STEPS
            )
    dims = {content.whole(field) for field in ("max_state_dim", "max_action_dim")} - {None}
    if len(dims) > 1:
        content.refuse(
            "max_state_dim", f"max_action_dim ({content.whole('max_action_dim')}), since the model has one width"
        )
    features, modes = _features(content), content.map("normalization_mapping", or_null=True)
    return ConfigFile(
        content.path,
        pi05=kind == "pi05",
        record=Record(
            action_horizon=content.whole("chunk_size"),
            max_token_len=content.whole("tokenizer_max_length"),
            cameras=tuple(features.cameras) or None,
            delta_actions=False,
            state_in_prompt=True if kind == "pi05" else None,
        ),
        fields={
            "action_horizon": "chunk_size",
            "max_token_len": "tokenizer_max_length",
            "action_dim": "max_action_dim",
            "delta_actions": "type",
            "state_in_prompt": "type",
        },
        action_dim=dims.pop() if dims else None,
        variants=_variants(content),
        features=features,
        modes=None if modes is None else {name: modes.text(name) or "" for name in modes},
    )


def _features(content: JsonMap) -> Features:
    inputs = content.map("input_features", or_null=True)
    outputs = content.map("output_features", or_null=True)
    names: list[str] = []
    for name in inputs or ():
        feature = inputs.map(name) if inputs else None
        if (
            feature
            and (feature.text("type", _FEATURES) or feature.refuse("type", "a text")) == "VISUAL"
            and ".empty_camera_" not in name
        ):
            names.append(name)
    return Features(_slots(content.path, names), _width(inputs, STATE), _width(outputs, ACTION))


def _width(features: JsonMap | None, name: str) -> int | None:
    feature = features.map(name) if features else None
    shape = feature.wholes("shape") if feature else None
    if feature and (shape is None or len(shape) != 1):
        feature.refuse("shape", "a list of one whole number")
    return shape[0] if shape else None


def _slots(path: Path, names: list[str]) -> dict[str, str]:
    """Slots by the cameras' own names where these are the model's, else by their place in the list."""
    slots = [name.removeprefix(IMAGES) for name in names]
    if not set(slots) <= set(CAMERAS):
        slots = list(CAMERAS)[: len(names)]
    if len(names) > len(CAMERAS):
        raise CheckpointError(
            f"{path}: input_features: {len(names)} cameras ({', '.join(names)}); expected at most {len(CAMERAS)}, the image"
            " slots of the model"
        )
    if slots != sorted(slots, key=CAMERAS.index):
        raise CheckpointError(
            f"{path}: input_features: the cameras {', '.join(names)} are not in the model's order; expected"
            f" {', '.join(f'{IMAGES}{slot}' for slot in CAMERAS)}, since LeRobot fills the image slots in that order"
        )
    return dict(zip(slots, names, strict=True))
