"""Orbax: both of the reference's layouts, exact round trips, files that the reference's loader reads."""

from __future__ import annotations

import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from vlascope_server.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from vlascope_server.checkpoints.orbax_format import OrbaxWeights, write_orbax
from vlascope_server.model import parameter_shapes
from vlascope_server.options import CheckpointOptions

from .conftest import LORA, PI0, PI05, assert_same, draw, dtype_of


def nested(params, *, value: bool = False):
    tree: dict = {}
    for name, array in params.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = {"value": array} if value else array
    return {"params": tree}


def read_all(folder, dtype=None):
    weights = OrbaxWeights(folder)
    return {name: weights.read(name, dtype) for name in weights.shapes}


@pytest.mark.parametrize("value", [True, False], ids=["value level", "pure"])
@pytest.mark.parametrize("given", ["", "params"], ids=["step folder", "params folder"])
def test_reads_what_orbax_wrote(tmp_path, value, given):
    params = draw(PI0)
    ocp.PyTreeCheckpointer().save(tmp_path / "step" / "params", nested(params, value=value))
    checkpoint = load_checkpoint(
        tmp_path / "step" / given, CheckpointOptions(action_horizon=5, max_token_len=12), dtype="float32"
    )
    assert_same(checkpoint.params, params)
    assert checkpoint.config == PI0


@pytest.mark.parametrize("ocdbt", [True, False], ids=["ocdbt", "plain files"])
@pytest.mark.parametrize("zarr3", [True, False], ids=["zarr3", "zarr2"])
def test_reads_orbax_other_storage(tmp_path, ocdbt, zarr3):
    params = draw(PI0)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
    ocp.Checkpointer(handler).save(tmp_path / "params", nested(params))
    assert_same(read_all(tmp_path / "params"), params)


@pytest.mark.parametrize("config", [PI0, PI05, LORA], ids=["pi0", "pi05", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_exact(tmp_path, config, dtype):
    params = draw(config, dtype)
    save_checkpoint(tmp_path / "saved", params, config)
    checkpoint = load_checkpoint(tmp_path / "saved", dtype=dtype)
    assert_same(checkpoint.params, params)
    assert {**vars(checkpoint.config), "dtype": ""} == {**vars(config), "dtype": ""}


def test_orbax_reads_what_we_write(saved):
    """The reference's way: metadata first, then the tree below `params`."""
    checkpointer = ocp.PyTreeCheckpointer()
    metadata = checkpointer.metadata(saved / "params").item_metadata
    restored = checkpointer.restore(saved / "params")
    assert metadata is not None
    assert metadata.tree.keys() == {"params"}
    flat = ocp.utils.to_flat_dict(restored["params"], sep="/", keep_empty_nodes=False)
    assert_same(flat, draw(PI0))


def test_casting_is_numpys(saved):
    expected = {name: array.astype(dtype_of("bfloat16")) for name, array in draw(PI0).items()}
    assert_same(read_all(saved / "params", "bfloat16"), expected)


def test_reads_in_slices(tmp_path, monkeypatch):
    monkeypatch.setattr("vlascope_server.checkpoints.orbax_format._SLICE_BYTES", 100)
    monkeypatch.setattr("vlascope_server.checkpoints.orbax_format._CHUNK_BYTES", 1000)
    params = {"a": np.arange(5000, dtype=np.float32).reshape(50, 10, 10), "s": np.float32(3).reshape(())}
    write_orbax(tmp_path / "params", params)
    weights = OrbaxWeights(tmp_path / "params")
    assert_same({name: weights.read(name) for name in weights.shapes}, params)


def test_reference_checkpoints_agree(goldens):
    trained = read_all(goldens / "openpi_orbax_pi0" / "params")
    assert_same(trained, read_all(goldens / "openpi_orbax_pure" / "params"))


def test_reference_step_comes_from_the_train_state(goldens):
    checkpoint = load_checkpoint(goldens / "openpi_orbax_pi0", CheckpointOptions(action_horizon=50, max_token_len=48))
    assert checkpoint.record.step == 29999
    assert checkpoint.asset_id == "physical-intelligence/libero"
    assert checkpoint.norm_stats is not None
    assert checkpoint.norm_stats["state"].width == 8


def test_missing_metadata(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "params" / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"_METADATA: missing.*half written"):
        OrbaxWeights(folder / "params")


def test_missing_manifest(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "params" / "manifest.ocdbt").unlink()
    with pytest.raises(CheckpointError, match=r"manifest.ocdbt: missing.*half written"):
        OrbaxWeights(folder / "params")


@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_damaged_data_is_refused_or_not_needed(saved, tmp_path, damage):
    """Orbax leaves superseded index files behind; whatever is damaged, no wrong value is ever returned."""
    refused = 0
    files = [p.relative_to(saved) for p in (saved / "params").rglob("d/*")]
    for file in files:
        folder = shutil.copytree(saved, tmp_path / file.name)
        path = folder / file
        data = path.read_bytes()
        path.unlink() if damage == "removed" else path.write_bytes(data[: len(data) // 2])
        try:
            assert_same(read_all(folder / "params"), draw(PI0))
        except CheckpointError as error:
            assert "missing or damaged; copy or save it again" in str(error)  # noqa: PT017 either is right
            refused += 1
    assert refused >= 2


def test_missing_chunk_is_not_zeros(tmp_path):
    params = draw(PI0)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True)
    ocp.Checkpointer(handler).save(tmp_path / "params", nested(params))
    import tensorstore as ts

    kvstore = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{tmp_path}/params/"}).result()
    kvstore.delete_range(ts.KvStore.KeyRange("params.state_proj.kernel/0", "params.state_proj.kernel/1")).result()
    with pytest.raises(CheckpointError, match=r"parameter state_proj/kernel: expected 1 chunks, found 0"):
        OrbaxWeights(tmp_path / "params")


def test_another_tree(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "params", {"opt_state": {"mu": np.zeros(3)}})
    with pytest.raises(CheckpointError, match="all below 'params/'; found opt_state/mu"):
        OrbaxWeights(tmp_path / "params")


def test_shapes_need_no_weights(saved):
    weights = OrbaxWeights(saved / "params")
    assert dict(sorted(weights.shapes.items())) == parameter_shapes(PI0)
    assert set(weights.dtypes.values()) == {"float32"}
