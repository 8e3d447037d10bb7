"""What cannot be read says which file, what was wrong and what to do, in one line."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DamagedError, DatasetError, LeRobotDataset, VersionError

from tests.datasets.dataset_fixtures import one_line, write


@pytest.fixture(params=["v2.1", "v3.0"])
def path(request, tmp_path):
    return write(tmp_path / "it", request.param, video=True, episodes=2)


def set_info(path, **fields):
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_folders_that_are_no_dataset(tmp_path):
    with pytest.raises(DatasetError) as error:
        LeRobotDataset.open(tmp_path / "none")
    one_line(error, tmp_path / "none", "no such folder")
    with pytest.raises(DatasetError) as error:
        LeRobotDataset.open(tmp_path)
    one_line(error, tmp_path, "meta/info.json")
    (tmp_path / "meta").mkdir()
    for content, said in (("{", "no JSON"), ("[]", "codebase_version"), ('{"codebase_version": "v2.1"}', "lacks")):
        (tmp_path / "meta/info.json").write_text(content)
        with pytest.raises(DamagedError) as error:
            LeRobotDataset.open(tmp_path)
        one_line(error, "meta/info.json", said)


@pytest.mark.parametrize(("version", "said"), [("v3.1", "newer"), ("v4.0", "newer"), ("v1.6", "LeRobot's own scripts")])
def test_versions_that_are_not_read(path, version, said):
    set_info(path, codebase_version=version)
    with pytest.raises(VersionError) as error:
        LeRobotDataset.open(path)
    one_line(error, version, "v2.0, v2.1, v3.0", said)


def test_metadata_that_lack_episodes(path):
    set_info(path, total_episodes=3)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, "meta/episodes", "episode 2 of 3 is missing")


def test_missing_metadata(path):
    (path / ("meta/tasks.jsonl" if (path / "meta/tasks.jsonl").exists() else "meta/tasks.parquet")).unlink()
    with pytest.raises(DatasetError) as error:
        LeRobotDataset.open(path)
    one_line(error, "meta/tasks", "missing")


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("episodes", '{"episode_index": 1, "length": 5, "tasks": null}', "line 2: tasks: expected a list, found null"),
        (
            "episodes",
            '{"episode_index": "x", "length": 5, "tasks": []}',
            'episode_index: expected a whole number, found "x"',
        ),
        ("episodes", "[1]", "line 2: expected an object, found [1]"),
        ("tasks", '{"task_index": 0}', "lacks 'task'"),
        ("episodes_stats", '{"episode_index": 1}', "lacks 'stats'"),
        ("episodes_stats", '{"episode_index": 1, "stats": [1]}', "line 2: stats: expected an object, found [1]"),
    ],
)
def test_lines_that_are_not_as_they_should_be(tmp_path, file, line, said):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    listed = path / f"meta/{file}.jsonl"
    listed.write_text("\n".join([*listed.read_text().splitlines()[:-1], line]) + "\n")
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).episode_statistics()
    one_line(error, "meta", said)


def test_rows_that_are_not_as_they_should_be(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=2)
    (listed,) = (path / "meta/episodes").rglob("*.parquet")
    table = pq.ParquetFile(listed).read()
    place = table.column_names.index("length")
    pq.write_table(table.set_column(place, "length", pa.array([5, None], pa.int64())), listed)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, "meta/episodes", "episode 1: length: expected a whole number, found null")


def test_missing_and_damaged_data(path):
    dataset = LeRobotDataset.open(path)
    file = path / dataset.episodes[1].file
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError) as error:
        dataset.frames(1)
    one_line(error, file, "Parquet")
    pq.write_table(pq.ParquetFile(shutil.copy(_sound(file, content), file)).read().slice(0, 2), file)
    with pytest.raises(DamagedError) as error:
        dataset.frames(1)
    one_line(error, file, "rows", "found 2")
    table = pq.ParquetFile(shutil.copy(_sound(file, content), file)).read()
    pq.write_table(table.drop_columns(["state"]), file)
    with pytest.raises(DamagedError) as error:
        dataset.frames(1)
    one_line(error, file, "lacks the column state")
    file.unlink()
    with pytest.raises(DatasetError) as error:
        dataset.frames(1)
    one_line(error, file, "missing")


def _sound(file, content):
    kept = file.with_suffix(".kept")
    kept.write_bytes(content)
    return kept


def test_requests_that_ask_for_too_much(path):
    dataset = LeRobotDataset.open(path)
    for ask, said in (
        (lambda: dataset.frames(2), "no episode 2; it has 0 to 1"),
        (lambda: dataset.frames(0, ["speed"]), "no column 'speed'; it has state, action"),
        (lambda: dataset.image(0, 9, "image"), "no frame 9; it has 0 to 4"),
        (lambda: dataset.image(0, 0, "wrist"), "no camera 'wrist'; it has image"),
        (lambda: dataset.chunk(0, 0, 4, "actions"), "no column 'actions'"),
    ):
        with pytest.raises(DatasetError) as error:
            ask()
        one_line(error, said)
    with pytest.raises(IndexError):
        dataset.locate(len(dataset))


def test_names_that_lead_out_of_the_dataset(path):
    set_info(
        path,
        data_path="../elsewhere/{episode_index}.parquet" if (path / "meta/tasks.jsonl").exists() else "/etc/passwd",
    )
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).frames(0)
    one_line(error, "outside of itself")


def test_an_image_that_is_none(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=1)
    file = path / "data/chunk-000/episode_000000.parquet"
    table = pq.ParquetFile(file).read()
    cells = table["image"].to_pylist()
    cells[2]["bytes"] = b"GIF no more"
    cells[3] = {"bytes": None, "path": "../../etc/passwd"}
    at = table.column_names.index("image")
    pq.write_table(table.set_column(at, "image", pa.array(cells, table.schema.field("image").type)), file)
    dataset = LeRobotDataset.open(path)
    assert dataset.image(0, 1, "image").shape == (32, 48, 3)
    for frame, said in ((2, "no image"), (3, "holds no image")):
        with pytest.raises(DamagedError) as error:
            dataset.image(0, frame, "image")
        one_line(error, file, f"frame {frame}", "image", said)
