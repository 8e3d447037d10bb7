"""Reads a folder of reference numbers: inputs, weights rebuilt from their recipe, and expected arrays.

The full set and the repository's compact one have the same form. In the compact one an array may be cut along some axes;
`index_of/<array>/<axis>` then lists what is left. Knows nothing of how the model computes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from vlascope_server.model import CAMERAS, ModelInputs, Pi0Config, infer_config

COMPACT = Path(__file__).parents[1] / "goldens"
FOLDER = Path(os.environ.get("VLASCOPE_GOLDENS") or COMPACT)

INDEX = json.loads((FOLDER / "index.json").read_text())


@dataclasses.dataclass(frozen=True)
class Golden:
    """One entry of `index.json`, its files read."""

    name: str
    params: dict[str, jax.Array]
    config: Pi0Config
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def model_inputs(self, config: Pi0Config | None = None, masks: str = "image_mask") -> ModelInputs:
        """The model's inputs; `masks` names the set of camera masks."""
        cameras = (config or self.config).cameras
        # in numpy float32, in this order of operations, as the reference's robots do it
        images = {c: self.inputs[f"image_uint8/{c}"].astype(np.float32) / 255.0 * 2.0 - 1.0 for c in cameras}
        return ModelInputs(
            images={c: jnp.asarray(image) for c, image in images.items()},
            image_masks={c: jnp.asarray(self.inputs[f"{masks}/{c}"]) for c in cameras},
            state=jnp.asarray(self.inputs["state"]),
            prompt=jnp.asarray(self.inputs["tokenized_prompt"]),
            prompt_mask=jnp.asarray(self.inputs["tokenized_prompt_mask"]),
        )

    def cut(self, name: str, array: np.ndarray) -> np.ndarray:
        """What is left of a whole array, where the expected one was cut."""
        for axis in range(array.ndim):
            index = self.outputs.get(f"index_of/{name}/{axis}")
            if index is not None:
                array = np.take(array, index, axis)
        return array

    def steps(self, prefix: str) -> Iterator[int]:
        """The numbers n of the expected arrays `<prefix>_n`."""
        for name in self.outputs:
            head, _, tail = name.rpartition("_")
            if head == prefix and tail.isdigit():
                yield int(tail)


def names(**wanted: object) -> list[str]:
    """The goldens whose entry holds these values."""
    return [name for name, entry in INDEX["goldens"].items() if all(entry[k] == v for k, v in wanted.items())]


@functools.cache
def load(name: str) -> Golden:
    """Reads one golden by its name in `index.json`."""
    entry = INDEX["goldens"][name]
    weights = build_params(entry["params"])
    outputs = _read(name)
    inputs = _read(entry["inputs"]) if "inputs" in entry else outputs
    cameras = [key.split("/")[1] for key in inputs if key.startswith("image_uint8/")]
    config = infer_config(
        {name: array.shape for name, array in weights.items()},
        action_horizon=inputs["noise"].shape[1],
        max_token_len=inputs["tokenized_prompt"].shape[1],
        cameras=tuple(sorted(cameras, key=CAMERAS.index)),
        lora_alpha=entry.get("lora", {}).get("alpha"),
        dtype=entry["dtype"],
    )
    return Golden(name, jax.tree.map(jnp.asarray, weights), config, inputs, outputs)


@functools.cache
def build_params(file: str) -> dict[str, np.ndarray]:
    """Weights from the seed, shape, offset and scale that the file gives for each; checked against its checksum."""
    params = {}
    for name, entry in json.loads((FOLDER / file).read_text()).items():
        offset, scale = map(np.float32, entry["offset_and_s"])
        noise = np.random.Generator(np.random.PCG64(entry["seed"])).standard_normal(entry["shape"], dtype=np.float32)
        array = noise * scale
        params[name] = array + offset if offset else array
        assert zlib.crc32(params[name].tobytes()) == entry["crc32_of_float32_bytes"], name
    return params


def _read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as file:
        return dict(file)
