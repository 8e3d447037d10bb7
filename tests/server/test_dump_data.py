"""`vlascope-server dump-data`: the file holds what training would see of the frames, and the same for the same seed."""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import numpy as np
import pytest
from vlascope_server.checkpoints import Record, Sidecars, load, save_checkpoint
from vlascope_server.commands import main
from vlascope_server.mixing import dump
from vlascope_server.mixing.dump import choose_frames, dump_validation_data
from vlascope_server.mixing.dump_options import DumpOptions
from vlascope_server.mixing.validation import ValidationData
from vlascope_server.model import init_params
from vlascope_server.presets import SEEDED
from vlascope_server.presets.tiny import TOKENIZER_PATH
from vlascope_server.robots.norm_stats import norm_stats_as_json, unit_stats
from vlascope_server.training.prepare import prepare

from tests.server.training.conftest import (  # noqa: F401 fixtures
    CAMERAS,
    EPISODES,
    LENGTH,
    SMALL,
    TASKS,
    dataset,
    episode,
    options,
    small_preset,
    write_dataset,
)


@pytest.fixture
def dump_options(dataset, tmp_path):  # noqa: F811
    def make(**changes) -> DumpOptions:
        usual = {
            "dataset": dataset, "output": tmp_path / "some.zarr.zip", "checkpoint": "small", "frames": 30,
            "delta_actions": False, "validation_share": 0.25,
        }  # fmt: skip
        return DumpOptions(**{**usual, **changes})

    return make


def dumped(options) -> ValidationData:  # noqa: F811
    return ValidationData.open(dump_validation_data(options).path)


def test_the_file_holds_what_training_sees(dump_options, options, capsys):  # noqa: F811
    """Both measure their statistics on the same episodes."""
    data = dumped(dump_options())
    prepared = prepare(options(validation=0.0), None)
    assert norm_stats_as_json(data.facts.norm_stats) == norm_stats_as_json(prepared.norm_stats)
    assert data.facts.norm_stats_count == EPISODES * LENGTH
    data.check_fits(prepared.config, "it")
    data.check_fits(prepared.trimmed, "it")
    assert data.facts.max_token_len == prepared.trimmed.max_token_len < prepared.config.max_token_len
    assert data.facts.carrying == tuple(prepared.carrying.tolist())
    assert np.flatnonzero(data.facts.carrying).tolist() == [0, 1, 2, 6]
    # eight episodes of twelve frames each
    theirs = data.episode * LENGTH + data.frame
    assert set(theirs.tolist()) <= set(prepared.training.rows.tolist())
    everything = np.arange(len(data))
    batch, expected = data.batch(everything, 32), prepared.training.make(theirs, 32, None, 0.0)
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert [x.dtype for x in jax.tree.leaves(batch)] == [x.dtype for x in jax.tree.leaves(expected)]
    # and by hand
    columns, images = episode(int(data.episode[7]))
    frame = int(data.frame[7])
    state = (columns["state"][frame] - data.facts.norm_stats["state"].mean) / (
        data.facts.norm_stats["state"].std + 1e-6
    )
    np.testing.assert_allclose(batch.inputs.state[7], np.pad(state, (0, 2)), rtol=1e-5)
    assert batch.inputs.images[CAMERAS[0]][7, 7, 7, 0] == images["image"][frame, 0, 0, 0]
    assert "writing at most " in capsys.readouterr().err


def test_parts_share_no_episode_and_frames_are_spread_evenly(dump_options):
    data = dumped(dump_options())
    selection, validation = (data.episode[data.rows(part)] for part in ("selection", "validation"))
    assert len(set(selection)) == 6
    assert len(set(validation)) == 2
    assert not set(selection) & set(validation)
    # 30 frames: 8 are a quarter of them to the nearest
    assert np.unique(validation, return_counts=True)[1].tolist() == [4, 4]
    assert sorted(np.unique(selection, return_counts=True)[1].tolist()) == [3, 3, 4, 4, 4, 4]
    assert len({(e, f) for e, f in zip(data.episode.tolist(), data.frame.tolist(), strict=True)}) == 30


def test_equal_seeds_give_equal_arrays_and_others_give_others(dump_options, tmp_path):
    first, again, other = (
        dumped(dump_options(seed=seed, output=tmp_path / f"{name}.zarr.zip"))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    everything = np.arange(30)
    jax.tree.map(np.testing.assert_array_equal, first.batch(everything, 30), again.batch(everything, 30))
    for field in ("episode", "frame"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    np.testing.assert_array_equal(first.rows("selection"), again.rows("selection"))
    assert first.facts.episodes == again.facts.episodes
    assert first.facts.episodes != other.facts.episodes
    assert (first.episode * LENGTH + first.frame).tolist() != (other.episode * LENGTH + other.frame).tolist()


def test_all_frames_where_there_are_fewer(dump_options):
    data = dumped(dump_options(frames=10_000, episodes=(0, 1, 2, 5), validation_share=0.5))
    # the label of an episode's last frame is to be ignored, so that nothing of its chunk counts
    assert len(data) == 4 * (LENGTH - 1)
    assert data.facts.episodes.keys() == {"selection", "validation"}
    assert sorted(number for numbers in data.facts.episodes.values() for number in numbers) == [0, 1, 2, 5]


def test_short_episodes_give_what_they_have(dump_options):
    episodes = np.repeat([3, 4, 5, 6, 9], [1, 20, 20, 2, 20])
    for seed in range(5):
        parts = choose_frames(episodes, dump_options(frames=32, validation_share=0.4, seed=seed), "it")
        for part in parts:
            numbers, counts = np.unique(episodes[part], return_counts=True)
            has = np.array([np.sum(episodes == number) for number in numbers])
            longest = counts.max()
            assert ((counts == has) | (counts >= longest - 1)).all()
            assert len(set(part.tolist())) == len(part)
    few = choose_frames(episodes, dump_options(frames=4, validation_share=0.4), "it")
    assert [len(np.unique(episodes[part])) for part in few] == [2, 2]


def test_a_checkpoints_own_statistics_and_facts(dump_options, tmp_path):
    stats = {"state": unit_stats(8), "actions": unit_stats(7)}
    record = Record(
        robot="libero", action_horizon=5, max_token_len=16, cameras=CAMERAS, normalisation="zscore", delta_actions=False,
        norm_stats_count=77,
    )  # fmt: skip
    sidecars = Sidecars(norm_stats=stats, asset_id="libero", record=record, tokenizer=TOKENIZER_PATH)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, init_params(SMALL, 0), SMALL, sidecars)
    kept = dumped(dump_options(checkpoint=str(folder), delta_actions=None))
    assert norm_stats_as_json(kept.facts.norm_stats) == norm_stats_as_json(stats)
    assert kept.facts.norm_stats_count == 77
    assert kept.facts.tokenizer == hashlib.sha256(TOKENIZER_PATH.read_bytes()).hexdigest()
    assert kept.facts.options["checkpoint"] == str(folder)
    assert kept.facts.provenance["versions"]["zarr"]
    measured = dumped(dump_options(checkpoint=str(folder), norm_stats="dataset", output=tmp_path / "measured.zarr.zip"))
    assert measured.facts.norm_stats_count == EPISODES * LENGTH
    rows = np.arange(len(kept))
    state, other = (data.batch(rows, len(rows)).inputs.state for data in (kept, measured))
    assert np.abs(state - other).max() > 0.1


def test_a_policy_that_reads_its_state_finds_it_in_the_prompt(dump_options, monkeypatch):
    monkeypatch.setitem(SEEDED, "small", dataclasses.replace(SMALL, pi05=True, max_token_len=64))
    data = dumped(dump_options())
    assert data.facts.pi05
    assert data.facts.state_in_prompt
    assert data.facts.max_token_len == 64
    prompts = data.batch(np.arange(30), 30).inputs.prompt
    assert len(np.unique(prompts, axis=0)) == 30


def test_no_weights_are_read(dump_options, monkeypatch):
    def never(*_, **__):
        pytest.fail("weights were read or drawn")

    monkeypatch.setattr(load, "_params", never)
    monkeypatch.setattr(load, "init_params", never)
    assert len(dumped(dump_options())) == 30
    assert (
        len(dumped(dump_options(checkpoint="tiny-drawn", output=dump_options().output.with_name("b.zarr.zip")))) == 30
    )


def test_a_full_disk_leaves_the_file_that_was_there(dump_options, tmp_path, monkeypatch):
    kept = dump_options()
    dump_validation_data(kept)
    before = kept.output.read_bytes()

    def broken(self, episodes, frames):
        if len(calls) == 1:
            raise OSError(28, "No space left on device", "disk")
        calls.append(1)
        return gather(self, episodes, frames)

    calls, gather = [], dump.ImageCache.gather
    monkeypatch.setattr(dump.ImageCache, "gather", broken)
    with pytest.raises(OSError, match="No space"):
        dump_validation_data(dump_options(overwrite=True))
    assert calls
    assert kept.output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [kept.output.name]


def test_errors_are_one_line(dataset, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "some.zarr.zip"

    def told(*arguments):
        capsys.readouterr()
        usual = [
            "--dataset",
            str(dataset),
            "--output",
            str(output),
            "--checkpoint",
            "small",
            "--delta-actions",
            "False",
        ]
        assert main(["dump-data", *usual, *arguments]) == 2
        assert not list(tmp_path.glob(".*"))
        return capsys.readouterr().err.splitlines()[-1]

    def refused(*arguments):
        capsys.readouterr()
        args = "--dataset", str(dataset), "--checkpoint", "small", "--output", str(output)
        assert main(["dump-data", *args, *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no episode 8; it has 0 to 7" in told("--episodes", "6-8")
    (tmp_path / "file").touch()
    assert "is no folder; choose a folder elsewhere" in told("--output", str(tmp_path / "file" / "a.zarr.zip"))
    line = told("--episodes", "0-2")
    assert (
        "3 episodes with frames to be held to, of which --validation-share 0.5 leaves 1 to choose weights on and 2"
        in line
    )
    assert "leaves 7 to choose weights on and 1 to judge them" in told("--validation-share", "0.1")
    assert "4 episodes with frames" in told("--tasks", TASKS[0], "--validation-share", "0.3")
    assert "small has none that could be kept; measure them: --norm-stats dataset" in told("--norm-stats", "checkpoint")
    assert "no camera for images/cam_high" in told("--robot", "aloha")
    assert "no/such" in told("--checkpoint", "no/such")
    assert not output.exists()
    assert "expected a name that ends in .zarr.zip" in refused("--output", str(tmp_path / "some.pkl"))
    assert "frames: expected at least 4" in refused("--frames", "3")
    assert "validation_share: expected more than 0 and less than 1, found 1.0" in refused("--validation-share", "1")
    assert "seed: expected 0 or more, found -1" in refused("--seed", "-1")

    run = ["dump-data", "--dataset", str(dataset), "--output", str(output), "--checkpoint", "small", "--frames", "8"]
    assert main(run) == 0
    assert capsys.readouterr().out.splitlines() == [
        "selection: 4 frames of 4 episodes", "validation: 4 frames of 4 episodes", str(output)
    ]  # fmt: skip
    before = output.read_bytes()
    assert "exists; replace it with --overwrite" in told("--frames", "12")
    assert output.read_bytes() == before
    assert main([*run[:-1], "12", "--overwrite"]) == 0
    assert len(ValidationData.open(output)) == 12
    folder = tmp_path / "folder.zarr.zip"
    folder.mkdir()
    assert "is a folder" in told("--output", str(folder), "--overwrite")


def test_frames_without_a_label_that_counts_are_not_drawn(dump_options, tmp_path):
    def unlabelled(number, columns):
        if number == 3:
            columns["label_mask"] = np.zeros(LENGTH, bool)

    data = dumped(dump_options(dataset=write_dataset(tmp_path / "unlabelled", unlabelled), frames=1000))
    assert 3 not in data.episode
    assert data.batch(np.arange(len(data)), len(data)).mask.any(axis=1).all()
