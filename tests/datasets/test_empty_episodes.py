"""An episode without frames is one that is empty: it is read, copied or left out, as told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DatasetError, LeRobotDataset
from vlascope_datasets.commands import main
from vlascope_datasets.splitting import split_dataset

from tests.datasets.dataset_fixtures import length, one_line, task, write
from tests.datasets.foreign import info, line


def emptied(path, *, video=False, file="kept"):
    """A v2.1 dataset of three episodes whose second one has no frames; what is left of its files is `kept` or `gone`."""
    write(path, "v2.1", video=video, episodes=3)
    table = path / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.ParquetFile(table).read().slice(0, 0), table)
    if file == "gone":
        table.unlink()
    (path / "videos/chunk-000/image/episode_000001.mp4").unlink(missing_ok=True)
    line(path, "episodes", 1, length=0)
    info(path, total_frames=length(0) + length(2))
    return path


def same(copy, source, episodes):
    for place, number in enumerate(episodes):
        for key, values in source.frames(number).items():
            if key not in ("episode_index", "index", "task_index"):
                np.testing.assert_array_equal(copy.frames(place)[key], values, err_msg=key)
        np.testing.assert_array_equal(copy.images(place, "image"), source.images(number, "image"))


@pytest.mark.parametrize("file", ["kept", "gone"])
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
def test_it_is_read(tmp_path, video, file):
    dataset = LeRobotDataset.open(emptied(tmp_path / "it", video=video, file=file))
    assert [episode.length for episode in dataset.episodes] == [length(0), 0, length(2)]
    assert dataset.frames(1)["state"].shape == (0, 3)
    assert dataset.images(1, "image").shape == (0, 32, 48, 3)
    assert dataset.locate(length(0)) == (2, 0)
    with pytest.raises(DatasetError, match="no frame 0"):
        dataset.task(1)


@pytest.mark.parametrize("file", ["kept", "gone"])
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
def test_it_is_carried_or_dropped_as_told(tmp_path, video, file, capsys):
    path = emptied(tmp_path / "it", video=video, file=file)
    source = LeRobotDataset.open(path)
    assert main(["convert", str(path), str(tmp_path / "v3"), "--version", "v3.0"]) == 0
    v3 = LeRobotDataset.open(tmp_path / "v3")
    assert [episode.length for episode in v3.episodes] == [length(0), 0, length(2)]
    assert v3.episodes[1].tasks == (task(1),)
    same(v3, source, range(3))
    assert main(["convert", str(tmp_path / "v3"), str(tmp_path / "back"), "--version", "v2.1"]) == 0
    same(LeRobotDataset.open(tmp_path / "back"), source, range(3))
    assert main(["convert", str(path), str(tmp_path / "less"), "--version", "v3.0", "--empty", "drop"]) == 0
    same(LeRobotDataset.open(tmp_path / "less"), source, [0, 2])
    for empty, kept in (("keep", [0, 1, 2]), ("drop", [0, 2])):
        out = tmp_path / f"parts-{empty}"
        asked = ["--source-path", str(path), "--dst-path", str(out), "--split-num", "2", "--empty", empty]
        assert main(["split", *asked]) == 0
        record = json.loads((out / "split.json").read_text())
        assert sorted(n for split in record["splits"] for n in split["source_episodes"]) == kept
        for split in record["splits"]:
            same(LeRobotDataset.open(out / split["name"]), source, split["source_episodes"])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_none_but_an_empty_one(tmp_path, version):
    """The first episode is the empty one, and in one part it is alone."""
    path = emptied(tmp_path / "it", video=True)
    assert main(["drop", str(path), str(tmp_path / "one"), "--episodes", "0,2"]) == 0
    one = LeRobotDataset.open(tmp_path / "one")
    assert [episode.length for episode in one.episodes] == [0]
    assert len(one) == 0
    assert main(["convert", str(tmp_path / "one"), str(tmp_path / "new"), "--version", version]) == 0
    assert [episode.length for episode in LeRobotDataset.open(tmp_path / "new").episodes] == [0]
    assert main(["drop", str(path), str(tmp_path / "late"), "--episodes", "0"]) == 0
    assert main(["convert", str(tmp_path / "late"), str(tmp_path / "late-new"), "--version", version]) == 0
    same(LeRobotDataset.open(tmp_path / "late-new"), LeRobotDataset.open(path), [1, 2])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_episodes_are_dropped_by_number(tmp_path, version, capsys):
    path = write(tmp_path / "it", version, video=True, episodes=6)
    source = LeRobotDataset.open(path)
    assert main(["drop", str(path), str(tmp_path / "out"), "--episodes", "1,3-4"]) == 0
    assert "3 stay" in capsys.readouterr().out
    copy = LeRobotDataset.open(tmp_path / "out")
    assert copy.info.version == version
    assert len(copy.episodes) == 3
    same(copy, source, [0, 2, 5])
    record = json.loads((tmp_path / "out/meta/convert.json").read_text())
    assert record["copy"]["source_episodes"] == [0, 2, 5]
    assert len(LeRobotDataset.open(path).episodes) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say what to leave out: --episodes 3,7-9, or --empty"),
        (["--episodes", "9"], "no episode 9; it has 0 to 2"),
        (["--episodes", "0-2"], "none of its 3 episodes would be left"),
    ],
)
def test_what_cannot_be_dropped(tmp_path, options, said, capsys):
    path = write(tmp_path / "it", "v2.1", episodes=3)
    assert main(["drop", str(path), str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [("two", "'two': expected numbers such as 0-9 (inclusive) or 0,3,5"), ("2-0", "2-0 runs backwards; write 0-2")],
)
def test_numbers_of_episodes_that_are_none(tmp_path, numbers, said, capsys):
    path = write(tmp_path / "it", "v2.1", episodes=3)
    with pytest.raises(SystemExit) as end:
        main(["drop", str(path), str(tmp_path / "out"), "--episodes", numbers])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_more_splits_than_episodes_with_frames(tmp_path):
    with pytest.raises(DatasetError) as error:
        split_dataset(emptied(tmp_path / "it"), tmp_path / "out", split_num=3, drop_empty=True)
    one_line(error, "3 splits of 2 episodes would leave one empty")
