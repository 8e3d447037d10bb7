"""Pi0 and Pi0.5 in JAX, with sites at which values are kept. It reads no files, and its inputs are normalised."""

from vlascope_server.model.config import CAMERAS, GemmaConfig, Lora, Pi0Config, VisionConfig
from vlascope_server.model.infer import ParameterError, check_shapes, infer_config
from vlascope_server.model.inputs import ModelInputs, ModelInputsError
from vlascope_server.model.parameters import (
    Params,
    draw_parameter,
    fuse_for_inference,
    init_params,
    lora_frozen,
    parameter_shapes,
)
from vlascope_server.model.pi0 import Draws, draw_noise_and_time, flow_errors, flow_loss, sample_actions, velocity

__all__ = [
    "CAMERAS",
    "Draws",
    "GemmaConfig",
    "Lora",
    "ModelInputs",
    "ModelInputsError",
    "ParameterError",
    "Params",
    "Pi0Config",
    "VisionConfig",
    "check_shapes",
    "draw_noise_and_time",
    "draw_parameter",
    "flow_errors",
    "flow_loss",
    "fuse_for_inference",
    "infer_config",
    "init_params",
    "lora_frozen",
    "parameter_shapes",
    "sample_actions",
    "velocity",
]
