"""Other people's Zarr readers see the same numbers in sealed episodes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlascope_latents.store import LatentStore, RunWriter

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

FRAMES = 3
PATHS = ("vlm/hidden_states", "vlm/mlp_activation", "action/hidden_states", "action/pre_attn_norm_scales", "action/x_t")


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with RunWriter.create(root, "tiny", LAYOUT) as run:
        writer = run.open_episode("ep", {"task_id": 4}, plan())
        for n in range(FRAMES):
            writer.append(frame(plan(), n), timestep=5 * n, values=values(n))
        writer.seal(success=True, total_steps=11)
    return LatentStore(root).episode("ep")


def check(path: str, stored: np.ndarray) -> None:
    """`stored` is what another reader gave: bits of bfloat16, or float32."""
    stored = np.asarray(stored)
    if stored.dtype == np.uint16:
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    want = np.stack([frame(plan(), n)[path] for n in range(FRAMES)])
    np.testing.assert_array_equal(stored, want, err_msg=path)


def test_zarr_python(episode):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(episode.folder, mode="r")
    for path in PATHS:
        check(path, group[path][:])
    assert group["vlm/hidden_states"].attrs["dtype"] == "bfloat16"
    assert group["timestep"][:].tolist() == [0, 5, 10]
    assert group["annotations/pose"].shape == (FRAMES, 7)
    np.testing.assert_array_equal(group["prompt_mask"][:], np.stack([values(n)["prompt_mask"] for n in range(FRAMES)]))
    assert group.attrs["success"] is True
    assert group.attrs["total_steps"] == 11


def test_xarray(episode):
    xarray = pytest.importorskip("xarray")
    for expert in ("vlm", "action"):
        data = xarray.open_zarr(episode.folder, group=expert, consolidated=False)
        for path in PATHS:
            if path.startswith(expert):
                check(path, data[path.split("/")[1]].values)
    assert data["hidden_states"].dims == ("frame", "denoise_step", "layer", "token", "feature")
    assert xarray.open_zarr(episode.folder, consolidated=False)["actions"].shape == (FRAMES, 5, 7)


def test_tensorstore(episode):
    tensorstore = pytest.importorskip("tensorstore")
    for path in PATHS:
        kvstore = {"driver": "file", "path": str(episode.folder / path)}
        check(path, tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result())


def test_zarrs(episode):
    pytest.importorskip("zarrs")
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(episode.folder, mode="r")
        for path in PATHS:
            array = group[path]
            assert "zarrs" in sys.modules
            check(path, array[:])  # pyright: ignore[reportIndexIssue]


def test_our_adapter_to_xarray(episode):
    pytest.importorskip("xarray")
    data = LatentStore(episode.path).select("action", span="action").to_xarray()
    assert data.dims == ("frame", "denoise_step", "layer", "token", "feature")
    part = data.sel(layer=2, denoise_step=3)
    want = np.stack([frame(plan(), n)["action/hidden_states"][3, 1, 1:] for n in range(FRAMES)])
    np.testing.assert_array_equal(part.values, want)
    assert data.coords["timestep"].values.tolist() == [0, 5, 10]


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch):
    from vlascope_latents import ExpertLayout, LatentLayout, Span

    pytest.importorskip("xarray")
    spans = (Span("image/base_0_rgb", 0, 256), Span("text", 256, 304))
    action = ExpertLayout(6, 8, 8, (Span("state", 0, 1), Span("action", 1, 51)))
    layout = LatentLayout(ExpertLayout(6, 2048, 8, spans), action, 10, 50, 32)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    names: dict[str, Any] = {"layout": layout}
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example
    exec(example[1], names)  # noqa: S102
    assert names["committed"] == 10
    assert names["x"].shape == (4, 1, 48, 2048)
    assert names["features"].shape == names["x"].shape
    assert names["success"].all()
