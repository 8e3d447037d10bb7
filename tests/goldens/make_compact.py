"""Cuts a whole folder of reference numbers down to what a repository can carry.

    python tests/goldens/make_compact.py FOLDER

Keeps every golden of `index.json`, its inputs, and of its large arrays a spread of tokens, denoise steps or rows.
`index_of/<array>/<axis>` says which. Where `ONE_SAMPLE` names a golden, only its first sample stays, without what is
averaged over the batch.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ONE_SAMPLE = ("pi0.npz", "pi0_masked_camera.npz", "pi0_bf16.npz", "pi0_lora.npz", "pi0_lora_alpha8.npz")
LARGEST = 1_500
"""Elements that an expected array may keep, about; 6 kB of float32."""

BATCH_AXIS = {
    "siglip_tokens": 1, "params_f32/siglip_tokens": 1, "params_bf16/siglip_tokens": 1, "siglip_hidden": 1,
    "prefix/hidden": 1, "prefix/post_attn": 1, "prefix/mlp_act": 1, "prefix/rms_attn": 1, "prefix/rms_mlp": 1,
    "prefix/k": 1, "prefix/v": 1,
    "suffix/hidden": 2, "suffix/post_attn": 2, "suffix/mlp_act": 2, "suffix/rms_attn": 2, "suffix/rms_mlp": 2,
}  # fmt: skip
WHOLE = ("image_uint8", "image_mask", "alt_image_mask", "state", "tokenized_", "noise", "loss", "actions", "alt_actions",
         "prefix_mask", "prefix_token_index", "suffix_mlp_act_steps", "grad_names", "grad_l2")  # fmt: skip
BATCH_MEANS = ("grad", "loss_mean")
LEFT_OUT = ("resize/pil/480x640/", "resize/pil/256x256/", "resize/pil/224x224/", "resize/jax/256x256_uint8/",
            "libero_inputs/hwc_uint8/wrist_in", "chain/image/left_wrist_0_rgb")  # fmt: skip
FULL_SIZE = "params_full.json"
NO_BATCH = ("prefix_token_index", "suffix_attn_mask_len", "suffix_mlp_act_steps")


def main() -> None:
    """Writes the compact set beside this script."""
    source = Path(sys.argv[1])
    index = json.loads((source / "index.json").read_text())
    for name, entry in index["goldens"].items():
        with np.load(source / name) as whole:
            save(name, compact(name, dict(whole)))
        shutil.copyfile(source / entry["params"], HERE / entry["params"])
    with np.load(source / index["preprocessing"]) as whole:
        save(index["preprocessing"], compact_preprocessing(dict(whole)))
    shutil.copyfile(source / FULL_SIZE, HERE / FULL_SIZE)
    kept = {key: index[key] for key in ("goldens", "preprocessing")}
    (HERE / "index.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in HERE.glob('*') if f.suffix != '.py') / 1e6:.2f} MB")


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes an archive beside this script."""
    np.savez_compressed(HERE / name, allow_pickle=False, **arrays)


def compact_preprocessing(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out the largest images, and of resized ones keeps every fourth row."""
    kept = {key: array for key, array in arrays.items() if not key.startswith(LEFT_OUT)}
    resized = [
        key for key in kept if (key.startswith("resize/") and key.endswith("/out")) or key.startswith("chain/image/")
    ]
    return kept | {key: kept[key][..., ::4, :, :] for key in resized}


def compact(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one golden, cut, with the indices that are left."""
    cut = {}
    for key, array in arrays.items():
        if name in ONE_SAMPLE:
            if key.startswith(BATCH_MEANS):
                continue
            array = one_sample(key, array)
        cut[key] = array
        if key.startswith(WHOLE) or key.split("/")[-1].startswith(WHOLE):
            continue
        for axis, keep in spread(key, array.shape):
            cut[f"index_of/{key}/{axis}"] = keep
            cut[key] = np.take(cut[key], keep, axis)
    return cut


def one_sample(key: str, array: np.ndarray) -> np.ndarray:
    """The first sample of the batch."""
    per_step = key.startswith("denoise_") and not key.endswith(("time", "time_emb"))
    if key in NO_BATCH or (key.startswith("denoise_") and not per_step):
        return array
    return np.take(array, [0], axis=1 if per_step else BATCH_AXIS.get(key, 0))


def spread(key: str, shape: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """Axes to cut and the indices that stay: denoise steps first, then tokens, evenly spread, the last always among them."""
    axes = []
    sizes = list(shape)
    steps = key.startswith(("suffix/", "denoise_")) and shape and shape[0] > 4 and not key.endswith("/time")
    if steps and np.prod(sizes) > LARGEST:
        axes.append((0, np.array([0, shape[0] // 2, shape[0] - 1])))
        sizes[0] = 3
    if np.prod(sizes) > LARGEST and len(shape) > 1:
        token = (
            len(shape) - 1
            if "rms" in key or key.startswith(("prefix_positions", "suffix_positions"))
            else len(shape) - 2
        )
        keep = max(4, int(LARGEST / (np.prod(sizes) / sizes[token])))
        if keep < shape[token]:
            axes.append((token, np.unique(np.linspace(0, shape[token] - 1, keep).astype(int))))
    return axes


if __name__ == "__main__":
    main()
