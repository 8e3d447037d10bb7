"""What training goes on from, in memory and on disk.

In a run's folder, `<step>/params`, `assets`, `vlascope.json` and the tokenizer are a checkpoint of the averaged weights, which
anything can load; beside them, `<step>/train_state` is an Orbax folder with the step, the trained weights before averaging and
the optimiser's state.
"""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from vlascope_base.files import sync

from vlascope_server.checkpoints import CheckpointError
from vlascope_server.training.options import TrainingError

_SAVING = "saving"
"""Folder of the run in which a checkpoint is put together, and taken apart."""
_STATE = "train_state"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step of training changes; a pytree.

    Attributes:
        params: the parameters that are trained, float32.
        average: their exponential moving average.
        optimiser: optax's state.
    """

    params: dict[str, jax.Array]
    average: dict[str, jax.Array]
    optimiser: optax.OptState


def steps_in(run: Path) -> list[int]:
    """Steps of the finished checkpoints of a run, ascending."""
    if not run.is_dir():
        return []
    return sorted(int(p.name) for p in run.iterdir() if p.name.isdigit() and (p / _STATE).is_dir())


def sweep(run: Path) -> None:
    """Removes what a save or a removal left behind that was killed."""
    shutil.rmtree(run / _SAVING, ignore_errors=True)


def save(run: Path, step: int, steps: int | None, state: TrainState, write_weights: Callable[[Path], object]) -> Path:
    """Writes a checkpoint of a run; it is whole or absent, and those before it stay as they are.

    Args:
        run: folder of the run.
        step: steps that were taken.
        steps: steps that will be; None where that is not known yet.
        state: what to go on from.
        write_weights: writes the checkpoint of averaged weights into the folder that it is given.

    Raises:
        TrainingError: the disk is full.
    """
    folder, target = run / _SAVING / str(step), run / str(step)
    sweep(run)
    try:
        folder.parent.mkdir(parents=True)
        write_weights(folder)
        _write_tree(folder / _STATE, _tree(step, steps, state))
        for path in (folder, *folder.rglob("*")):
            sync(path)
        if target.exists():
            raise CheckpointError(f"{target}: exists; expected a step that was not saved before")
        folder.rename(target)
    except Exception as error:
        if _is_full(error):
            last = steps_in(run)
            rest = f"; {run / str(last[-1])} is whole: make room and go on with --resume" if last else ""
            raise TrainingError(f"{run}: the disk is full, step {step} was not saved{rest}") from error
        raise
    finally:
        sweep(run)
    return target


def restore(run: Path, step: int, like: TrainState) -> tuple[TrainState, int | None]:
    """Weights before averaging and optimiser of a checkpoint; and how many steps the run was to take.

    Args:
        run: folder of the run.
        step: a finished checkpoint's.
        like: a state of the same shapes; its average comes back as it is.

    Raises:
        TrainingError: the checkpoint is of other parameters, or damaged.
    """
    import orbax.checkpoint as ocp

    folder = run / str(step) / _STATE
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            shape = _tree(step, 0, like)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shape)
            found = checkpointer.restore(folder.resolve(), args=ocp.args.PyTreeRestore(shape, restore_args=as_numpy))
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise TrainingError(
            f"{folder}: cannot be read ({reason}); remove {folder.parent} and resume from before"
        ) from error
    wanted = {"params": like.params, "optimiser": like.optimiser}
    flat = {name: _flat(found[name]) for name in wanted}
    filled = {}
    for name, tree in wanted.items():
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        values = []
        for path, leaf in leaves:
            value = flat[name].get(_path(path))
            if value is None or np.shape(value) != np.shape(leaf):
                raise TrainingError(
                    f"{folder}: {name}: {_path(path)} is missing or of another shape: is it another run's?"
                )
            values.append(np.asarray(value, np.asarray(leaf).dtype))
        filled[name] = jax.tree_util.tree_unflatten(structure, values)
    return TrainState(filled["params"], like.average, filled["optimiser"]), int(found["steps"]) or None


def prune(run: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints; 0 keeps all."""
    for step in steps_in(run)[:-keep] if keep else []:
        # out of sight first: half of a checkpoint must not pass for one
        (run / _SAVING).mkdir(exist_ok=True)
        (run / str(step)).rename(run / _SAVING / str(step))
    sweep(run)


def _tree(step: int, steps: int | None, state: TrainState) -> dict[str, Any]:
    """As nested maps of plain arrays, which are read again without this code."""
    parts = {"params": state.params, "optimiser": state.optimiser}
    tree: dict[str, Any] = {"step": np.asarray(step), "steps": np.asarray(steps or 0)}
    for name, part in parts.items():
        leaves, _ = jax.tree_util.tree_flatten_with_path(part)
        tree[name] = _nested({_path(path): np.asarray(leaf) for path, leaf in leaves})
    return tree


def _path(path: jax.tree_util.KeyPath) -> str:
    """Such as `1/mu/PaliGemma/llm/...`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _write_tree(folder: Path, tree: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve(), args=ocp.args.PyTreeSave(tree))


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; tensorstore's says so in its text alone."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(
            error
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
