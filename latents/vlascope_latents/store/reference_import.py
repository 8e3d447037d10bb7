"""Reads the reference's `task_*.pkl` into a run, trusting nothing in them but numpy arrays.

The pickles do not say which model made them: token spans are the reference's own, or as told.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.files import remove

from vlascope_latents.layout import Blocks, ModelLayout, Span, transformer
from vlascope_latents.plan import CapturePlan, plan_capture
from vlascope_latents.spec import TOKEN_COMPONENTS, CaptureSpec
from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.run_folder import ReadableBy
from vlascope_latents.store.run_writer import RunWriter

_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_CAMERA_TOKENS = 256
_ALLOWED = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("ml_dtypes", "bfloat16"),
    ("_codecs", "encode"),  # how old protocols write bytes
}

_UNREADABLE = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, MemoryError, OverflowError,
    TypeError, ValueError,
)  # fmt: skip
"""What the unpickler raises where a file is damaged, or is no pickle."""


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and only numpy arrays are read")
        return super().find_class(module, name)


def read_reference(path: Path) -> dict[str, Any]:
    """The content of one pickle.

    Raises:
        StoreError: it is no pickle, holds anything but plain Python and numpy values, or is not laid out as expected.
    """
    try:
        with path.open("rb") as file:
            content = _NumpyUnpickler(file).load()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except _UNREADABLE as error:
        raise StoreError(f"{path}: is not read: {str(error) or type(error).__name__}") from error
    try:
        _, _ = int(content["task_id"]), content["task_name"]
        times = [int(step["timestep"]) for step in _steps(content)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(
            f"{path}: expected task_id, task_name and episodes/<episode>/rollout_steps/<step>/timestep, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
    if not times:
        raise StoreError(f"{path}: its episodes have no rollout steps")
    return content


def _steps(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of all episodes of a pickle."""
    return [step for episode in content["episodes"].values() for step in episode["rollout_steps"].values()]


def import_reference(
    path: Path,
    runs: Path,
    *,
    layout: ModelLayout | None = None,
    dtype: str = "float32",
    readable_by: ReadableBy = "owner",
) -> Path:
    """Makes a run of one pickle, whole or not at all, and returns its folder.

    The number in the name of an episode (`episode_3`) becomes its `episode_index`.

    Args:
        path: `task_<id>_<name>.pkl`.
        runs: folder of runs.
        layout: the model's; the reference's own spans unless given.
        dtype: to store, `float32` or `bfloat16`.
        readable_by: who may read the run.

    Raises:
        StoreError: the pickle is not as expected, or the run cannot be written.
    """
    content = read_reference(path)
    tensors = _tensors(path, _steps(content)[0])
    layout = layout or _guess_layout(tensors)
    plan = _plan(tensors, layout, dtype)
    # a name of a file may have characters that a name of a run has not
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)[:96]
    run = RunWriter.create(runs, name, layout, {"imported_from": path.name}, readable_by=readable_by)
    try:
        with run:
            for name, episode in content["episodes"].items():
                _write(path, run, plan, content, name, episode)
    except BaseException:
        remove(run.path)
        raise
    return run.path


def _write(
    path: Path, run: RunWriter, plan: CapturePlan, content: Mapping[str, Any], name: str, episode: Mapping[str, Any]
) -> None:
    """Writes one episode of a pickle to a run."""
    # the reference tells a policy its task's description and nothing else
    described = str(content["task_description"]) if "task_description" in content else None
    metadata: dict[str, object] = {
        "task_id": int(content["task_id"]), "task_name": str(content["task_name"]),
        "instruction": described, "task_instruction": described,
    }  # fmt: skip
    if number := re.fullmatch(r"episode_([0-9]{1,9})", str(name)):
        metadata["episode_index"] = int(number[1])
    writer = run.open_episode(f"task_{metadata['task_id']}-{name}", metadata, plan)
    for step in sorted(episode["rollout_steps"].values(), key=lambda step: int(step["timestep"])):
        values = {"actions": np.asarray(step["action"])} if "action" in step else {}
        writer.append(_tensors(path, step), timestep=int(step["timestep"]), values=values)
    said = episode.get("metadata")
    said = said if isinstance(said, dict) else {}
    success, total = said.get("success"), said.get("total_steps")
    writer.seal(None if success is None else bool(success), None if total is None else int(total))


def _tensors(path: Path, step: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The captured arrays of one step, by our paths and without the batch axis."""
    denoise = [key for key in step if str(key).startswith("action_expert_hidden_state")]
    suffixes = [key.rpartition("t")[2] for key in denoise]
    if all(suffix.isdigit() for suffix in suffixes):
        denoise = [key for _, key in sorted(zip(map(int, suffixes), denoise, strict=True))]
    tensors: dict[str, np.ndarray] = {}
    try:
        for component in TOKEN_COMPONENTS:
            if component in step.get("vlm_layer_output", {}):
                tensors[f"vlm/{component}"] = _float32(step["vlm_layer_output"][component][:, 0])
            if denoise and component in step[denoise[0]]:
                tensors[f"action/{component}"] = np.stack([_float32(step[key][component][:, 0]) for key in denoise])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise StoreError(f"{path}: step {step.get('timestep')}: expected arrays (layer, 1, token, feature)") from error
    if not tensors:
        raise StoreError(f"{path}: step {step.get('timestep')}: no hidden states; found {', '.join(map(str, step))}")
    return tensors


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float32)


def _guess_layout(tensors: Mapping[str, np.ndarray]) -> ModelLayout:
    layers, tokens, width = _sizes(tensors, "vlm")
    cameras = min(len(_CAMERAS), max(0, tokens - 1) // _CAMERA_TOKENS)
    spans = [Span(f"image/{_CAMERAS[c]}", c * _CAMERA_TOKENS, (c + 1) * _CAMERA_TOKENS) for c in range(cameras)]
    vlm = transformer(
        "vlm", Blocks(layers, width, _mlp(tensors, "vlm")),
        (*spans, Span("text", cameras * _CAMERA_TOKENS, tokens)),
    )  # fmt: skip
    layers, tokens, width = _sizes(tensors, "action")
    suffix = (Span("state", 0, 1), Span("action", 1, tokens)) if tokens > 1 else (Span("action", 0, tokens),)
    steps = max([array.shape[0] for path, array in tensors.items() if path.startswith("action/")], default=1)
    action = transformer(
        "action", Blocks(layers, width, _mlp(tensors, "action")), suffix, loop="denoise", steps=steps,
        sees=(vlm,), outputs=("action",),
    )  # fmt: skip
    return ModelLayout((vlm, action))


def _sizes(tensors: Mapping[str, np.ndarray], expert: str) -> tuple[int, int, int]:
    """Layers, tokens and width of an expert; ones where nothing of it was captured."""
    skip = 1 if expert == "action" else 0
    for component in ("hidden_states", "post_attn_embedding", *TOKEN_COMPONENTS):
        if f"{expert}/{component}" in tensors:
            shape = tensors[f"{expert}/{component}"].shape[skip:]
            return shape[0], shape[1], shape[2] if len(shape) > 2 else 1
    return 1, 1, 1


def _mlp(tensors: Mapping[str, np.ndarray], expert: str) -> int:
    array = tensors.get(f"{expert}/mlp_activation")
    return 1 if array is None else array.shape[-1]


def _plan(tensors: Mapping[str, np.ndarray], layout: ModelLayout, dtype: str) -> CapturePlan:
    experts = tuple(dict.fromkeys(path.split("/")[0] for path in tensors))
    components = tuple(dict.fromkeys(path.split("/")[1] for path in tensors))
    return plan_capture(CaptureSpec(experts=experts, components=components, dtype=dtype), layout)
