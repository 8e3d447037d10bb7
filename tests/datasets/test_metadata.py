"""Metadata are checked field by field, never turned into something else; and facts that they give twice are compared."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DamagedError, DatasetWriter, LeRobotDataset, VersionError
from vlascope_datasets.commands import main
from vlascope_datasets.features import INDEX_FEATURES
from vlascope_datasets.survey import gather, summarise

from tests.datasets.dataset_fixtures import TASKS, one_line, write
from tests.datasets.foreign import cells, data_files, episode_file, feature, info, line


@pytest.fixture(params=["v2.1", "v3.0"])
def path(request, tmp_path):
    return write(tmp_path / "it", request.param, video=True, episodes=3)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("chunks_size", 0, "chunks_size: expected a number above 0, found 0"),
        ("chunks_size", "1000", 'chunks_size: expected a whole number, found "1000"'),
        ("fps", 0, "fps: expected a number above 0, found 0"),
        ("fps", -10, "fps: expected a number above 0, found -10"),
        ("fps", "10", 'fps: expected a number, found "10"'),
        ("fps", None, "fps: expected a number, found null"),
        ("fps", True, "fps: expected a number, found true"),
        ("fps", float("nan"), "fps: expected a"),
        ("fps", ..., "lacks 'fps'"),
        ("robot_type", ["panda"], "robot_type: expected text"),
        ("total_episodes", "3", 'total_episodes: expected a whole number, found "3"'),
        ("total_episodes", -1, "total_episodes: expected at least 0, found -1"),
        ("total_frames", 18.5, "total_frames: expected a whole number, found 18.5"),
        ("total_tasks", [], "total_tasks: expected a whole number, found []"),
        ("features", ["state"], "features: expected an object"),
        ("features", ..., "lacks 'features'"),
        ("data_path", 7, "data_path: expected text, found 7"),
        ("data_path", "data/{name}.parquet", "data_path: expected a path made with {"),
        ("data_path", "data/{episode_index", "data_path: expected a path made with {"),
        ("data_path", "data/{}.parquet", "data_path: expected a path made with {"),
        ("video_path", "videos/{camera}.mp4", "video_path: expected a path made with {"),
        ("data_files_size_in_mb", 0, "data_files_size_in_mb: expected a number above 0, found 0"),
    ],
)
def test_info_is_checked(path, field, value, said, capsys):
    info(path, **{field: value})
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, path / "meta/info.json", said)
    for asked in (
        ["stats", str(path), "--out", str(path / "out")],
        ["convert", str(path), f"{path}2", "--version", "v2.1"],
    ):
        assert main(asked) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"dtype": None}, "features.state.dtype: expected text, found null"),
        ({"dtype": ""}, "features.state.dtype: expected text that is not empty"),
        ({"shape": 3}, "features.state.shape: expected a list, found 3"),
        ({"shape": [3.5]}, "features.state.shape.0: expected a whole number, found 3.5"),
        ({"shape": ["3"]}, 'features.state.shape.0: expected a whole number, found "3"'),
        ({"shape": [-3]}, "features.state.shape.0: expected at least 0, found -3"),
        ({"shape": None, "dtype": None}, "(1 more fields are wrong)"),
    ],
)
def test_features_are_checked(path, declared, said):
    feature(path, "state", **declared)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, path / "meta/info.json", said)


@pytest.mark.parametrize("said", ["3.0", "v3.0", "3.0.0", "V3.0"])
def test_versions_are_versions(tmp_path, said):
    path = write(tmp_path / "it", "v3.0", episodes=1)
    info(path, codebase_version=said)
    assert LeRobotDataset.open(path).info.version == "v3.0"


@pytest.mark.parametrize("said", ["latest", "", None, 3, ["v3.0"]])
def test_versions_that_are_none(tmp_path, said):
    path = write(tmp_path / "it", "v3.0", episodes=1)
    info(path, codebase_version=said)
    with pytest.raises(VersionError) as error:
        LeRobotDataset.open(path)
    one_line(error, "version", "v2.0, v2.1, v3.0")


def test_what_is_missing_takes_lerobots_defaults_and_counts_are_counted(path):
    sound = LeRobotDataset.open(path)
    names = ("total_episodes", "total_frames", "total_tasks", "chunks_size", "data_path", "video_path")
    info(
        path, **dict.fromkeys((*names, "robot_type", "splits", "data_files_size_in_mb", "video_files_size_in_mb"), ...)
    )
    dataset = LeRobotDataset.open(path)
    assert {name: getattr(dataset.info, name) for name in names} == {name: getattr(sound.info, name) for name in names}
    assert dataset.info.robot_type is None
    assert dataset.episodes == sound.episodes
    assert dataset.images(2, "image").shape == sound.images(2, "image").shape
    if dataset.info.version == "v2.1":
        with DatasetWriter.resume(path) as writer:
            assert len(writer) == 3


def test_fields_that_only_their_writer_knows_are_kept(path):
    info(path, tools=[{"name": "say"}])
    other = "v2.1" if LeRobotDataset.open(path).info.version == "v3.0" else "v3.0"
    assert main(["convert", str(path), f"{path}-new", "--version", other]) == 0
    assert json.loads((path.parent / "it-new/meta/info.json").read_text())["tools"] == [{"name": "say"}]


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("tasks", {"task": None}, "tasks.jsonl: line 2: task: expected text, found null"),
        ("tasks", {"task": ...}, "tasks.jsonl: line 2: lacks 'task'"),
        ("tasks", {"task": 7}, "tasks.jsonl: line 2: task: expected text, found 7"),
        ("tasks", {"task_index": "1"}, 'tasks.jsonl: line 2: task_index: expected a whole number, found "1"'),
        ("tasks", {"task_index": 1.0}, "tasks.jsonl: line 2: task_index: expected a whole number, found 1.0"),
        ("tasks", {"task_index": 0}, "tasks.jsonl: line 2: task_index 0 again, and not as before"),
        ("episodes", {"tasks": None}, "episodes.jsonl: line 2: tasks: expected a list, found null"),
        ("episodes", {"tasks": [None]}, "episodes.jsonl: line 2: tasks.0: expected text, found null"),
        ("episodes", {"tasks": ...}, "episodes.jsonl: line 2: lacks 'tasks'"),
        ("episodes", {"length": "5"}, 'episodes.jsonl: line 2: length: expected a whole number, found "5"'),
        ("episodes", {"length": None}, "episodes.jsonl: line 2: length: expected a whole number, found null"),
        ("episodes", {"length": -5}, "episodes.jsonl: line 2: length: expected at least 0, found -5"),
        ("episodes", {"episode_index": 0}, "episodes.jsonl: line 2: episode_index 0 again, and not as before"),
        ("episodes", {"episode_index": True}, "episodes.jsonl: line 2: episode_index: expected a whole number"),
        ("episodes_stats", {"stats": []}, "episodes_stats.jsonl: line 2: stats: expected an object, found []"),
        ("episodes_stats", {"stats": {"state": None}}, "episode 1: state: expected an object of statistics"),
        (
            "episodes_stats",
            {"stats": {"state": {"mean": ["a"]}}},
            "episode 1: state: mean: expected numbers, found ['a']",
        ),
        (
            "episodes_stats",
            {"stats": {"state": {"mean": None}}},
            "episode 1: state: mean: expected numbers, found None",
        ),
        ("episodes_stats", {"stats": {"state": {"mean": [1, [2]]}}}, "episode 1: state: mean: expected numbers"),
    ],
)
def test_lines_of_v2_are_checked(tmp_path, name, fields, said):
    path = write(tmp_path / "it", "v2.1", episodes=3)
    line(path, name, 1, **fields)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).episode_statistics()
    one_line(error, path / "meta", said)


@pytest.mark.parametrize(
    ("column", "value", "kind", "said"),
    [
        ("tasks", None, None, "episode 1: tasks: expected a list, found null"),
        ("tasks", [None], None, "episode 1: tasks.0: expected text, found null"),
        ("length", None, None, "episode 1: length: expected a whole number, found null"),
        ("length", 6.0, pa.float64(), "episode 0: length: expected a whole number, found 5.0"),
        ("length", -1, None, "episode 1: length: expected at least 0, found -1"),
        ("episode_index", None, None, "row 1: episode_index: expected a whole number, found None"),
        ("data/file_index", None, None, "episode 1: data/file_index: expected a whole number, found null"),
        ("videos/image/from_timestamp", None, None, "videos/image: from_timestamp: expected a number, found null"),
        ("videos/image/from_timestamp", float("nan"), None, "videos/image: from_timestamp: expected a"),
        ("videos/image/chunk_index", -1, None, "videos/image: chunk_index: expected at least 0, found -1"),
    ],
)
def test_rows_of_v3_are_checked(tmp_path, column, value, kind, said):
    path = write(tmp_path / "it", "v3.0", video=True, episodes=3)
    rows = episode_file(path)
    cells(rows, column, lambda found: [found[0], value, *found[2:]], kind)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, rows, said)


def test_a_task_of_v3_that_is_no_text(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=3)
    cells(path / "meta/tasks.parquet", "task", lambda found: [found[0], None])
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, path / "meta/tasks.parquet", "row 1", "task: expected text, found null")


def test_statistics_of_v3_that_are_none(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=1)
    file = path / "meta/stats.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": {"mean": "high"}}))
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).statistics  # noqa: B018
    one_line(error, file, "state: mean: expected numbers, found high")


def test_a_text_is_one_task(tmp_path):
    path = write(tmp_path / "v2", "v2.1", episodes=3)
    for episode in range(3):
        line(path, "episodes", episode, tasks=TASKS[episode % 2])
    assert [episode.tasks for episode in LeRobotDataset.open(path).episodes] == [(TASKS[e % 2],) for e in range(3)]
    assert summarise(gather(path))["tasks"].keys() == set(TASKS)
    path = write(tmp_path / "v3", "v3.0", episodes=3)
    cells(episode_file(path), "tasks", lambda found: [tasks[0] for tasks in found], pa.string())
    assert [episode.tasks for episode in LeRobotDataset.open(path).episodes] == [(TASKS[e % 2],) for e in range(3)]


def test_an_empty_instruction_is_one(tmp_path):
    """Who recorded without an instruction wrote an empty one: that is a value, and null is none."""
    path = write(tmp_path / "it", "v2.1", episodes=1)
    line(path, "tasks", 0, task="")
    line(path, "episodes", 0, tasks=[""])
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 0
    assert LeRobotDataset.open(tmp_path / "new").task(0) == ""


CONTRADICTIONS = {
    "total_frames": (
        lambda path: info(path, total_frames=17),
        "total_frames is 17, the lengths of the episodes add up to 18",
    ),
    "total_tasks, too many": (lambda path: info(path, total_tasks=5), "total_tasks is 5, 2 are listed"),
    "total_tasks, too few": (lambda path: info(path, total_tasks=1), "total_tasks is 1, 2 are listed"),
}
OF_V3 = {
    "dataset_from_index": (lambda found: [0, 6, 11], "episode 1: dataset_from_index is 6, the lengths add up to 5"),
    "dataset_to_index": (lambda found: [5, 11, 19], "episode 2: dataset_to_index is 19, the lengths add up to 18"),
}


def refused(path, said):
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, path, said)
    with pytest.raises(DamagedError) as error:
        DatasetWriter.resume(path)
    one_line(error, path, said)
    found = [line for lines in summarise(gather(path))["anomalies"]["by_file"].values() for line in lines]
    assert [line["detail"] for line in found if line["kind"] in ("count", "contradiction")] == [said]


@pytest.mark.parametrize(("spoil", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_counts_are_compared(path, spoil, said):
    spoil(path)
    refused(path, said)


@pytest.mark.parametrize("column", OF_V3)
def test_numbers_of_joined_files_are_compared(tmp_path, column):
    path = write(tmp_path / "it", "v3.0", video=True, episodes=3)
    spoil, said = OF_V3[column]
    cells(episode_file(path), column, spoil)
    refused(path, said)


def test_where_a_row_says_that_it_lies_refuses_nothing(tmp_path):
    """LeRobot's own merging of datasets leaves such numbers, and nobody reads them."""
    path = write(tmp_path / "it", "v3.0", video=True, episodes=3)
    cells(episode_file(path), "meta/episodes/file_index", lambda found: [0, 0, 1])
    assert LeRobotDataset.open(path).images(2, "image").shape[0] == 7


def test_an_episode_that_is_listed_twice(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=3)
    rows = episode_file(path)
    shutil.copy(rows, rows.with_name("file-001.parquet"))
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, "file-001.parquet", "row 0: episode_index 0 again, after file-000.parquet")


@pytest.mark.parametrize("count", [4, 10**9, 2**53])
def test_a_count_costs_no_memory(path, count):
    info(path, total_episodes=count)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, f"episode 3 of {count} is missing")


def test_numbers_that_nothing_has(path):
    info(path, total_episodes=10**30)
    with pytest.raises(DamagedError, match="total_episodes: expected at most 9007199254740992"):
        LeRobotDataset.open(path)
    info(path, total_episodes=3, data_path="data/{episode_index:>300000000}{chunk_index:>300000000}.parquet")
    with pytest.raises(DamagedError, match="data_path: expected a path made with"):
        LeRobotDataset.open(path)


def test_half_a_character(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=1)
    line(path, "tasks", 0, task="lift \ud800")
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, "tasks.jsonl: line 1: task: expected text of whole characters", "\\ud800")
    str(error.value).encode()


@pytest.mark.parametrize("dtype", ["f4,(", "object", "V8", "datetime64[s]", "complex64", "U3"])
def test_dtypes_that_are_none_of_ours(path, dtype):
    feature(path, "state", dtype=dtype)
    assert "state" in LeRobotDataset.open(path).info.unread


STATISTICS = {
    "no count": {"mean": [0.0], "std": [1.0], "min": [0.0], "max": [1.0]},
    "two shapes": {"mean": [0.0, 1.0, 2.0], "std": [1.0], "min": [0.0], "max": [1.0], "count": [5]},
    "empty": {},
}


@pytest.mark.parametrize("found", STATISTICS.values(), ids=STATISTICS)
def test_statistics_that_lack_something_are_made_anew(tmp_path, found):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    lines = [json.loads(text) for text in (path / "meta/episodes_stats.jsonl").read_text().splitlines()]
    line(path, "episodes_stats", 1, stats=lines[1]["stats"] | {"state": found})
    assert "state" not in LeRobotDataset.open(path).statistics
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 0
    copy = LeRobotDataset.open(tmp_path / "new")
    values = np.concatenate([copy.frames(episode)["state"] for episode in range(2)])
    np.testing.assert_allclose(copy.statistics["state"]["mean"], values.mean(axis=0), rtol=1e-6)


def test_statistics_are_looked_at_by_stats(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=2)
    (path / "meta/stats.json").write_text("[1]")
    found = summarise(gather(path))["anomalies"]
    assert found["by_kind"] == {"statistics": 1}
    assert "expected an object" in found["by_file"]["meta"][0]["detail"]


def test_rows_beyond_an_episode(tmp_path):
    """A file of v2.1 is an episode: rows that its length does not count are a contradiction."""
    path = write(tmp_path / "it", "v2.1", episodes=2)
    line(path, "episodes", 1, length=4)
    info(path, total_frames=9)
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).frames(1)
    one_line(error, "episode_000001.parquet", "expected the 4 rows of episode 1, found 6 rows")
    joined = write(tmp_path / "joined", "v3.0", episodes=2)
    (file,) = data_files(joined)
    table = pq.ParquetFile(file).read()
    pq.write_table(pa.concat_tables([table, table.slice(0, 3)]), file)
    found = summarise(gather(joined))["anomalies"]["by_file"]["data/chunk-000/file-000.parquet"]
    assert [line["detail"] for line in found] == ["holds 14 rows, its episodes have 11 frames"]


def test_tasks_that_are_listed_are_those_of_the_rows(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    line(path, "episodes", 1, tasks=[TASKS[0]])
    found = summarise(gather(path))["anomalies"]["by_file"]["data/chunk-000/episode_000001.parquet"]
    assert [line["kind"] for line in found] == ["contradiction"]
    assert TASKS[0] in found[0]["detail"]
    assert TASKS[1] in found[0]["detail"]


def test_files_that_only_their_writer_knows_go_with_a_copy(path):
    (path / "meta/modality.json").write_text('{"state": {"arm": [0, 6]}}')
    assert main(["convert", str(path), f"{path}-new", "--version", "v2.1"]) == 0
    assert (path.parent / "it-new/meta/modality.json").read_text() == '{"state": {"arm": [0, 6]}}'


def test_what_is_noted_of_a_camera_goes_with_a_copy(path):
    noted = LeRobotDataset.open(path).info.features["image"]["info"] | {"calibration": [1.5], "video.g": 2}
    feature(path, "image", info=noted)
    assert main(["convert", str(path), f"{path}-new", "--version", "v2.1"]) == 0
    assert LeRobotDataset.open(path.parent / "it-new").info.features["image"]["info"] == noted


def test_index_columns_need_not_be_declared(path):
    features = json.loads((path / "meta/info.json").read_text())["features"]
    info(path, features={key: value for key, value in features.items() if key not in INDEX_FEATURES})
    assert main(["convert", str(path), f"{path}-new", "--version", "v3.0"]) == 0
    assert set(LeRobotDataset.open(path.parent / "it-new").info.features) == set(features)


def test_several_contradictions_are_counted(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=3)
    cells(episode_file(path), "dataset_from_index", lambda found: [1, 6, 12])
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path)
    one_line(error, "episode 0: dataset_from_index is 1", "(2 more contradictions; vlascope-datasets stats lists them)")
    assert len(LeRobotDataset.open(path, strict=False).contradictions) == 3


def test_counts_that_nobody_reads_are_listed_and_refuse_nothing(tmp_path):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=3)
    info(path, total_videos=0, total_chunks=7)
    assert len(LeRobotDataset.open(path).images(0, "image")) == 5
    found = summarise(gather(path))["anomalies"]["by_file"]["meta/info.json"]
    assert [line["detail"] for line in found] == [
        "total_videos is 0, the episodes make it 3",
        "total_chunks is 7, the episodes make it 1",
    ]


def test_rows_in_another_order_are_no_episode(tmp_path):
    """A chunk of actions is the rows that follow: where frame_index says otherwise, one of the two is wrong."""
    path = write(tmp_path / "it", "v2.1", episodes=2)
    file = path / "data/chunk-000/episode_000001.parquet"
    table = pq.ParquetFile(file).read()
    pq.write_table(table.take([0, 2, 1, *range(3, len(table))]), file)
    dataset = LeRobotDataset.open(path)
    assert len(dataset.frames(0)["state"]) == 5
    with pytest.raises(DamagedError) as error:
        dataset.frames(1)
    one_line(error, file, "episode 1: frame_index of row 1 is 2")
    assert summarise(gather(path))["anomalies"]["by_kind"]["frame_index"] == 1


def test_a_task_that_an_episode_lists_and_the_dataset_does_not(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    line(path, "episodes", 1, tasks=["fold the towel"])
    found = summarise(gather(path))["anomalies"]["by_file"]["data/chunk-000/episode_000001.parquet"]
    assert [line["kind"] for line in found] == ["unknown_task"]
    assert "fold the towel" in found[0]["detail"]
