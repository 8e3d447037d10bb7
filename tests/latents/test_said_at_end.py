"""What is said of an episode at its end is kept beside what it began with, or refused while the episode stays open."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray
from vlascope_latents.store import LatentStore, RunWriter, StoreError, verify
from vlascope_latents.store.exports import export_netcdf
from vlascope_latents.store.labels import _KINDS
from vlascope_latents.store.run_folder import TABLE_FILE
from vlascope_latents.store.sealing import RESERVED
from vlascope_latents.store.table import _SCHEMA

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

BEGUN = {"task_id": 3, "instruction": "wave", "prompt_mode": "task"}
SAID = {"lifted_first": "milk_1", "moved": 0.25, "predicates": {"on": [True, False]}, "told": None}


@pytest.fixture
def run(tmp_path):
    with RunWriter.create(tmp_path, "tiny", LAYOUT) as run:
        yield run


@pytest.fixture
def episode(run):
    episode = run.open_episode("c+a", BEGUN, plan())
    for n in range(2):
        episode.append(frame(plan(), n), timestep=n, values=values(n))
    return episode


def test_it_is_metadata_like_what_was_said_at_the_beginning(run, episode):
    assert episode.seal(True, 9, SAID) == 2
    kept = LatentStore(run.path).episode("a")
    assert kept.metadata == BEGUN | SAID
    attributes = json.loads((kept.folder / "zarr.json").read_text())["attributes"]
    assert (attributes["metadata"], attributes["success"], attributes["total_steps"]) == (BEGUN | SAID, True, 9)
    labels = LatentStore(run.path).select("vlm").labels
    assert labels["metadata.lifted_first"].tolist() == ["milk_1"] * 2
    np.testing.assert_array_equal(labels["metadata.moved"], [0.25, 0.25])
    assert labels["instruction"].tolist() == ["wave"] * 2
    assert [str(problem) for problem in verify([kept])] == []


def test_a_recovery_finds_it_in_the_seal(run, episode):
    episode.seal(metadata=SAID)
    run.close()
    (run.path / TABLE_FILE).unlink()  # as a kill between the seal and the table leaves it
    assert RunWriter.recover(run.path).rows == [episode.folder]
    kept = LatentStore(run.path).episode("a")
    assert (kept.status, kept.frames, kept.metadata) == ("sealed", 2, BEGUN | SAID)


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ({"success": True}, ["'success' is taken", "the store has one"]),
        ({"prompt_mode": "other"}, ["'prompt_mode' is taken", "began with one"]),
        ({"moved": float("nan")}, ["expected JSON"]),
        ({"moved": np.float32(1)}, ["expected JSON", "float32"]),
        ({3: "x"}, ["names of text", "3"]),
        ({"": 1}, ["names of text, at least one character"]),
        ({"told": {"by": ["a\0b"]}}, ["without NUL", "at character 2"]),
        ({"told": "\udcff"}, ["text that UTF-8 can write"]),
    ],
)
def test_what_cannot_be_kept_leaves_the_episode_open(run, episode, said, parts):
    with pytest.raises(StoreError) as error:
        episode.seal(True, 9, said)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value
    assert episode.state == "open"
    episode.append(frame(plan(), 2), timestep=2, values=values(2))
    assert episode.seal(False, 9, {"lifted_first": None}) == 3
    kept = LatentStore(run.path).episode("a")
    assert (kept.status, kept.success, kept.metadata) == ("sealed", False, {**BEGUN, "lifted_first": None})


@pytest.mark.parametrize("begun", [{"": 1}, {"told": "a\0b"}, {"moved": float("nan")}])
def test_what_cannot_be_kept_opens_no_episode(run, begun):
    with pytest.raises(StoreError, match="episode c\\+b, metadata"):
        run.open_episode("c+b", begun, plan())
    assert not list((run.path / "latents.zarr").rglob("c+b*"))


def test_an_export_survives_what_an_older_store_kept(run, episode, tmp_path):
    """NetCDF takes neither names without a character nor text with NUL, nor numbers beyond 64 bits."""
    episode.seal(True, 9, SAID)
    kept = LatentStore(run.path).episode("a")
    said = kept.folder / "zarr.json"
    content = json.loads(said.read_text())
    content["attributes"]["metadata"] |= {"": 1, "odd": "a\0b", "great": 2**70}
    said.write_text(json.dumps(content))
    run.close()
    (run.path / TABLE_FILE).unlink()
    RunWriter.recover(run.path)
    store = LatentStore(run.path)
    export_netcdf(store, store.episode("a"), tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as found:
        assert (found.attrs["(no name)"], found.attrs["odd"], found.attrs["great"]) == (1, "a\\x00b", str(2**70))


def test_every_name_that_the_store_has_for_itself_is_reserved():
    assert set(_KINDS) | {"timestep", "frame"} <= RESERVED  # labels
    assert set(_SCHEMA.names) <= RESERVED


def test_no_attribute_of_a_sealed_episode_can_be_said(run, episode):
    episode.seal()
    assert set(LatentStore(run.path).episode("a").attributes()) <= RESERVED
