"""LeRobot's normalisation: the processors beside a policy, or what its older releases kept among the parameters.

`policy_preprocessor.json` and `policy_postprocessor.json` list steps; a step that has numbers names the safetensors file beside
that holds them, as `<feature>.<statistic>`. LeRobot (processor/pipeline.py, processor/normalize_processor.py, from 0.4 on)
applies the step `normalizer_processor` to what goes in and `unnormalizer_processor` to what comes out. Before, the modules
`normalize_inputs` and `unnormalize_outputs` of the policy did so, with the same formula.

A step that changes states or actions and is not known here is refused: the policy would run, and act wrongly.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from vlascope_server.checkpoints.config_file import ACTION, STATE, ConfigFile, Features
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.files import TOKENIZER_FILE
from vlascope_server.checkpoints.tensor_files import TensorFiles, check_plain_name
from vlascope_server.json_file import JsonError, JsonMap, read_json, shown
from vlascope_server.robots.arithmetic import LEROBOT_MARGIN, OPENPI_MARGIN
from vlascope_server.robots.contract import Normalisation
from vlascope_server.robots.norm_stats import NormStats, NormStatsError, unit_stats

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
NORMALISER, UNNORMALISER = "normalizer_processor", "unnormalizer_processor"
STATE_TEXT, TOKENIZER = "pi05_prepare_state_tokenizer_processor_step", "tokenizer_processor"
_RELATIVE = ("relative_actions_processor", "delta_actions_processor", "absolute_actions_processor")
"""Steps that do nothing unless `enabled`."""
_KNOWN = {
    NORMALISER, UNNORMALISER, STATE_TEXT, TOKENIZER, *_RELATIVE, "rename_observations_processor", "to_batch_processor",
    "device_processor", "pi0_new_line_processor",
}  # fmt: skip

_log = logging.getLogger(__name__)

Mode = Literal["MEAN_STD", "QUANTILES", "IDENTITY"]
MODES: dict[Mode, tuple[str, ...]] = {"MEAN_STD": ("mean", "std"), "QUANTILES": ("q01", "q99"), "IDENTITY": ()}
"""LeRobot's name of a normalisation that there is here -> the statistics that it uses."""
_MARGINS = {LEROBOT_MARGIN: "lerobot_", OPENPI_MARGIN: ""}
"""`eps` -> whose formula it is. `convert --to lerobot` gives openpi's margin to what was trained with openpi's formula."""


@dataclasses.dataclass(frozen=True, eq=False)
class Processors:
    """What LeRobot does to states, actions and text.

    Attributes:
        normalisation: of state and actions; None where nothing says.
        norm_stats: of `state` and `actions`; None where there are none yet, as in a base policy.
        max_token_len: text tokens; None where nothing says.
        fields: a record's field -> the file and the field in it that say so.
        prompt_unsure: a pi0.5 that LeRobot 0.4 may have saved, which padded the state in the prompt, or 0.5.0, which did not;
            later releases have steps that these have not.
    """

    normalisation: Normalisation | None = None
    norm_stats: dict[str, NormStats] | None = None
    max_token_len: int | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompt_unsure: bool = False


@dataclasses.dataclass(frozen=True)
class _Step:
    """A (un)normalising step.

    Attributes:
        path: the JSON file that lists it.
        mode: of the one feature that matters.
        margin: `eps`.
        tensors: `<feature>.<statistic>` -> numbers; empty where the step has none.
    """

    path: Path
    mode: Mode
    margin: float
    tensors: Mapping[str, np.ndarray]


def read_processors(folder: Path, config: ConfigFile) -> Processors:
    """What the processors in a LeRobot policy's folder say; all None where there are none.

    Raises:
        CheckpointError: a file is missing or damaged, or a step does what is not done here; names file, field and value.
    """
    paths = {name: folder / name for name in (BEFORE, AFTER)}
    if not any(path.is_file() for path in paths.values()):
        left = sorted(path.name for path in folder.glob("policy_*processor*.safetensors"))
        if left:
            raise CheckpointError(f"{paths[BEFORE]}: missing, and {left[0]} is beside it", "copy it too")
        fields = {"normalisation": f"{config.path}: normalization_mapping"}
        return Processors(_planned(config.modes or {}), fields=fields)
    try:
        before, after = (_steps(path) for path in paths.values())
        features = config.features or Features({}, None, None)
        state = _normaliser(paths[BEFORE], before, NORMALISER, "STATE", STATE, config)
        actions = _normaliser(paths[AFTER], after, UNNORMALISER, "ACTION", ACTION, config)
        labels = _normaliser(paths[BEFORE], before, NORMALISER, "ACTION", ACTION, config)
        _refuse_images(paths[BEFORE], before, state)
        if config.pi05 and STATE_TEXT not in before:
            raise CheckpointError(
                f"{paths[BEFORE]}: steps: expected {STATE_TEXT}, which writes the state into the prompt of a pi05"
            )
        _compare(actions, labels)
        stats = _statistics(state, actions, features)
        fields = {
            "normalisation": f"{paths[BEFORE]}: norm_map, eps",
            "max_token_len": f"{paths[BEFORE]}: max_length",
        }
        unsure = bool(config.pi05) and not before.keys() & set(_RELATIVE)
        return Processors(_normalisation(state, actions), stats, _token_length(before), fields, unsure)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: missing; the other half of the processors is beside it", "copy it too"
        ) from None
    except JsonError as error:
        raise CheckpointError(str(error)) from None


def read_buffers(weights: Path, buffers: Mapping[str, np.ndarray], config: ConfigFile | None) -> Processors:
    """The same of a policy that LeRobot before 0.4 saved.

    Args:
        weights: the parameters' file, for messages.
        buffers: the statistics among the parameters, as `TorchWeights.normalisers` gives them.
        config: LeRobot's configuration, where there is one.

    Raises:
        CheckpointError: statistics contradict each other, or are of a kind that there is not here.
    """
    modes = config.modes if config else None

    def step(module: str, kind: str, feature: str) -> _Step:
        start = f"{module}.buffer_{feature.replace('.', '_')}."
        tensors = {f"{feature}.{name.removeprefix(start)}": x for name, x in buffers.items() if name.startswith(start)}
        if all(np.isinf(x).all() for x in tensors.values()):  # as LeRobot leaves them where it was given no statistics
            tensors = {}
        guess = "MIN_MAX" if f"{feature}.min" in tensors else "MEAN_STD"
        mode = _mode(weights, f"normalization_mapping.{kind}", modes.get(kind, "IDENTITY") if modes else guess)
        return _Step(weights, mode, LEROBOT_MARGIN, tensors)

    state = step("normalize_inputs", "STATE", STATE)
    actions, labels = (step(module, "ACTION", ACTION) for module in ("unnormalize_outputs", "normalize_targets"))
    _compare(actions, labels)
    features = config.features if config and config.features else Features({}, None, None)
    fields = {"normalisation": f"{weights}: normalize_inputs"}
    return Processors(_normalisation(state, actions), _statistics(state, actions, features), fields=fields)


def _steps(path: Path) -> dict[str, JsonMap]:
    """Name -> step, of one file."""
    steps: dict[str, JsonMap] = {}
    content = read_json(path)
    for step in content.maps("steps") or content.refuse("steps", "a list of steps"):
        name = step.text("registry_name") or step.text("class") or step.refuse("registry_name", "the name of a step")
        if name not in _KNOWN:
            raise CheckpointError(
                f"{path}: steps: {shown(name)} is not known here; expected one of {', '.join(sorted(_KNOWN))}",
                "take it out of the file where it changes neither states, actions nor text",
            )
        if name in steps:
            raise CheckpointError(f"{path}: steps: {name} is there twice; expected it once")
        options = step.map("config")
        if name in _RELATIVE and options and options.flag("enabled"):
            options.refuse("enabled", "false, since relative actions of LeRobot's kind are not understood here")
        steps[name] = step
    return steps


def _normaliser(
    path: Path, steps: Mapping[str, JsonMap], name: str, kind: str, feature: str, config: ConfigFile
) -> _Step:
    if name not in steps:
        raise CheckpointError(f"{path}: steps: expected {name}, found {', '.join(steps) or 'none'}")
    step = steps[name]
    options = step.map("config") or step.refuse("config", "a map")
    margin, modes = options.number("eps"), options.map("norm_map") or options.refuse("norm_map", "a map")
    mode = modes.text(kind) or "IDENTITY"
    keys, listed = options.texts("normalize_observation_keys"), options.map("features")
    left_out = any(those is not None and feature not in those for those in (keys, listed))
    if kind == "STATE" and left_out:  # an action is normalised whether or not it is listed
        mode = "IDENTITY"
    if config.modes is not None and config.modes.get(kind, mode) != mode:
        raise CheckpointError(
            f"{path}: norm_map.{kind}: it says {mode}, and {config.path.name} says {config.modes[kind]}: they belong to"
            " different checkpoints"
        )
    if margin is not None and margin not in _MARGINS:
        options.refuse("eps", f"one of {', '.join(f'{known:g}' for known in _MARGINS)}")
    margin = LEROBOT_MARGIN if margin is None else margin
    return _Step(path, _mode(path, f"norm_map.{kind}", mode), margin, _tensors(path, step, feature))


def _mode(path: Path, field: str, mode: str) -> Mode:
    for known in MODES:
        if mode == known:
            return known
    raise CheckpointError(
        f"{path}: {field}: expected one of {', '.join(MODES)}, found {shown(mode)}, which there is not here"
    )


def _tensors(path: Path, step: JsonMap, feature: str) -> dict[str, np.ndarray]:
    name = step.text("state_file")
    if name is None:
        return {}
    check_plain_name(path, "state_file", name)
    if not path.with_name(name).is_file():
        raise CheckpointError(
            f"{path.with_name(name)}: missing; {path.name} says that the statistics are in it", "copy it too"
        )
    file = TensorFiles(path.with_name(name))
    return {tensor: file.read(tensor) for tensor in file.shapes if tensor.rpartition(".")[0] == feature}


def _refuse_images(path: Path, steps: Mapping[str, JsonMap], state: _Step) -> None:
    """Pixels go in as they are; LeRobot normalises those of which the step has statistics."""
    step = steps[NORMALISER]
    modes = (step.map("config") or step).map("norm_map")
    mode, name = (modes.text("VISUAL") if modes else None), step.text("state_file")
    if mode in (None, "IDENTITY") or name is None or not state.tensors:
        return
    images = [tensor for tensor in TensorFiles(path.with_name(name)).shapes if "image" in tensor]
    if images:
        raise CheckpointError(
            f"{path}: norm_map.VISUAL: expected IDENTITY, found {mode!r} with statistics such as {images[0]}"
        )


def _compare(actions: _Step, labels: _Step) -> None:
    """What normalised actions in training has to be what is taken back now."""
    if (actions.mode, actions.margin) != (labels.mode, labels.margin):
        what = [f"{step.mode} with eps {step.margin:g}" for step in (actions, labels)]
        raise CheckpointError(
            f"{actions.path}: {ACTION}: {what[0]} for what comes out, and {what[1]} for what the policy learnt from; expected"
            " the same"
        )
    for tensor in actions.tensors.keys() & labels.tensors.keys():
        if tensor.rpartition(".")[2] in MODES[actions.mode] and not np.array_equal(
            actions.tensors[tensor], labels.tensors[tensor], equal_nan=True
        ):
            raise CheckpointError(
                f"{actions.path}: {tensor}: {_brief(actions.tensors[tensor])} for what comes out, and"
                f" {_brief(labels.tensors[tensor])} for what the policy learnt from: they belong to different checkpoints"
            )


def _brief(x: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in x.reshape(-1)[:3])}{', …' if x.size > 3 else ''}]"


def _normalisation(state: _Step, actions: _Step) -> Normalisation:
    """One for both: there is no policy here that has two."""
    used = {step.mode for step in (state, actions)} - {"IDENTITY"}
    if len(used) > 1 or state.margin != actions.margin:
        what = [f"{step.mode} with eps {step.margin:g}" for step in (state, actions)]
        raise CheckpointError(
            f"{state.path}: states are normalised by {what[0]} and actions by {what[1]}; expected one for both, since vlascope"
            " does no other"
        )
    whose = _MARGINS[state.margin]
    quantiles = used == {"QUANTILES"}
    if whose:
        return "lerobot_quantile" if quantiles else "lerobot_zscore"
    return "quantile" if quantiles else "zscore"


def _planned(modes: Mapping[str, str]) -> Normalisation | None:
    """What LeRobot would do as soon as there are statistics, where there are not even processors."""
    kinds: dict[str, Normalisation] = {"MEAN_STD": "lerobot_zscore", "QUANTILES": "lerobot_quantile"}
    state, actions = kinds.get(modes.get("STATE", "")), kinds.get(modes.get("ACTION", ""))
    return state if state == actions else None


def _statistics(state: _Step, actions: _Step, features: Features) -> dict[str, NormStats] | None:
    """None where neither has any, as in a policy that was not fine-tuned yet."""
    if not state.tensors and not actions.tensors and {state.mode, actions.mode} != {"IDENTITY"}:
        return None
    return {
        "state": _stats_of(state, STATE, features.state_dim),
        "actions": _stats_of(actions, ACTION, features.action_dim),
    }


def _stats_of(step: _Step, feature: str, width: int | None) -> NormStats:
    if step.mode == "IDENTITY":
        if width is None:
            raise CheckpointError(f"{step.path}: {feature} is not normalised, and no configuration says how wide it is")
        return unit_stats(width)
    found = {
        statistic: x
        for statistic in ("mean", "std", "q01", "q99")
        if (x := step.tensors.get(f"{feature}.{statistic}")) is not None
    }
    for statistic in ("mean", "std", *MODES[step.mode]):
        if statistic not in found:
            raise CheckpointError(
                f"{step.path}: {feature}.{statistic}: missing; {step.mode} needs it; found"
                f" {', '.join(sorted(step.tensors)) or 'none'}"
            )
    if not {"q01", "q99"} <= found.keys():
        found = {statistic: found[statistic] for statistic in ("mean", "std")}
    try:
        stats = NormStats(**{statistic: x.astype(np.float64) for statistic, x in found.items()})
    except NormStatsError as error:
        raise CheckpointError(f"{step.path}: {feature}.{error}") from None
    if width is not None and width != stats.width:
        raise CheckpointError(
            f"{step.path}: {feature}: statistics of {stats.width} numbers, and config.json says that there are {width}: they"
            " belong to different checkpoints"
        )
    return stats


def _token_length(steps: Mapping[str, JsonMap]) -> int | None:
    options = steps[TOKENIZER].map("config") if TOKENIZER in steps else None
    if options is None:
        return None
    options.text("padding_side", ("right",))
    name = options.text("tokenizer_name")
    if name and "paligemma" not in name.lower() and not (options.path.parent / TOKENIZER_FILE).is_file():
        _log.warning(
            "%s: tokenizer_name: %s, and a policy reads with PaliGemma's here unless a %s lies beside",
            options.path, shown(name), TOKENIZER_FILE,
        )  # fmt: skip
    return options.whole("max_length")
