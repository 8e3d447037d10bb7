"""A column holds what it is declared to hold: nothing is rounded, cut, moved between frames or read as something else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from vlascope_datasets import DamagedError, DatasetWriter, LeRobotDataset
from vlascope_datasets.converting import convert_dataset
from vlascope_datasets.features import arrow_type, from_arrow, to_arrow


def feature(dtype, *shape):
    return {"dtype": dtype, "shape": list(shape or (1,))}


REFUSED = {
    "floats as integers": (feature("int64"), pa.array([0.0, 0.5, 2.0]), "holds 0.5, which int64 cannot hold"),
    "no number as an integer": (feature("int64"), pa.array([0.0, float("nan")]), "holds nan, which int64 cannot hold"),
    "too large": (feature("uint8"), pa.array([1, 300]), "holds 300, which uint8 cannot hold"),
    "negative": (feature("uint64"), pa.array([1, -1]), "holds -1, which uint64 cannot hold"),
    "larger than a float32": (feature("float32"), pa.array([1.0, 1e300]), "which float32 cannot hold"),
    "finer than a float32": (feature("float32"), pa.array([16777217]), "holds 16777217, which float32 cannot hold"),
    "two as true": (feature("bool"), pa.array([0, 1, 2]), "holds 2, which bool cannot hold"),
    "text as numbers": (feature("float32"), pa.array(["1.5"]), "expected float32, found string"),
    "times as numbers": (feature("int64"), pa.array([1], pa.timestamp("s")), "expected int64, found timestamp"),
    "numbers as text": (feature("string"), pa.array([1, 2]), "expected text, found int64"),
    "ragged": (feature("float32", 3), pa.array([[1.0, 2.0], [3.0, 4.0, 5.0, 6.0]]), "found a list of 2 where one of 3"),
    "ragged within": (
        feature("float32", 2, 2),
        pa.array([[[1.0], [2.0, 3.0, 4.0]]]),
        "found a list of 1 where one of 2",
    ),
    "turned": (feature("float32", 2, 3), pa.array([[[1.0, 2.0]] * 3]), "found a list of 3 where one of 2"),
    "flat": (feature("float32", 2, 3), pa.array([[1.0] * 6]), "found a list of 6 where one of 2"),
    "too flat": (feature("float32", 2, 3), pa.array([[1.0, 2.0]]), "expected shape (2, 3), found list"),
    "too deep": (feature("float32", 2), pa.array([[[1.0], [2.0]]]), "expected shape (2,), found list"),
    "one number for two": (feature("float32", 2), pa.array([1.0, 2.0]), "expected shape (2,), found double"),
    "nulls": (feature("float32"), pa.array([1.0, None]), "holds nulls"),
    "null rows": (feature("float32", 2), pa.array([[1.0, 2.0], None]), "holds nulls"),
}


@pytest.mark.parametrize(("declared", "column", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(declared, column, said):
    with pytest.raises(DamagedError) as error:
        from_arrow("it", declared, column)
    assert str(error.value).startswith("column it: ")
    assert said in str(error.value)


KEPT = {
    "whole floats": (feature("int64"), pa.array([0.0, 2.0]), [0, 2]),
    "a longer integer": (feature("int8"), pa.array([-128, 127]), [-128, 127]),
    "a longer float": (feature("float32"), pa.array([0.1, float("inf")]), np.array([0.1, np.inf], np.float32)),
    "small integers": (feature("float32"), pa.array([3, -4]), [3, -4]),
    "truth as numbers": (feature("int64"), pa.array([True, False]), [1, 0]),
    "numbers as truth": (feature("bool"), pa.array([1, 0]), [True, False]),
    "lists of one": (feature("float32"), pa.array([[1.0], [2.0]]), [1, 2]),
    "large lists": (feature("float32", 2), pa.array([[1.0, 2.0]], pa.large_list(pa.float32())), [[1, 2]]),
    "fixed lists": (feature("float32", 2), pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), [[1, 2]]),
    "none at all": (feature("float32", 2), pa.array([], pa.list_(pa.float32())), np.empty((0, 2))),
    "text": (feature("string"), pa.array(["a", "b"]), ["a", "b"]),
    "words": (feature("string"), pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
    "pairs of text": (feature("string", 2), pa.array([["a", "b"], ["c", "d"]]), [["a", "b"], ["c", "d"]]),
}


@pytest.mark.parametrize(("declared", "column", "expected"), KEPT.values(), ids=KEPT)
def test_what_fits_is_read_and_written_as_it_is(declared, column, expected):
    found = from_arrow("it", declared, column)
    np.testing.assert_array_equal(found, np.asarray(expected))
    if declared["dtype"] != "string":
        assert found.dtype == declared["dtype"]
    written = to_arrow("it", declared, found).cast(arrow_type("it", declared))
    np.testing.assert_array_equal(from_arrow("it", declared, written), found)


def test_a_slice_of_a_column_is_its_own_rows():
    column = pa.array([[float(10 * n + k) for k in range(3)] for n in range(6)])
    np.testing.assert_array_equal(
        from_arrow("it", feature("float64", 3), column.slice(2, 2)), [[20, 21, 22], [30, 31, 32]]
    )


def test_the_largest_numbers_go_with_a_copy(tmp_path):
    largest = np.array([2**64 - 1, 2**63, 0, 1], np.uint64)
    with DatasetWriter.create(tmp_path / "it", 10, {"stamp": {"dtype": "uint64", "shape": (1,)}}) as writer:
        writer.add_episode({"stamp": largest}, task="move")
    convert_dataset(LeRobotDataset.open(tmp_path / "it"), tmp_path / "new", "v3.0")
    copy = LeRobotDataset.open(tmp_path / "new")
    np.testing.assert_array_equal(copy.frames(0)["stamp"], largest)
    assert copy.statistics["stamp"]["max"] == float(2**64)
