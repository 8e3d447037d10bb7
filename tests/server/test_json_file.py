"""JSON of others: a wrong type is said, never turned into another."""

from __future__ import annotations

import pytest
from vlascope_server.json_file import JsonError, read_json


@pytest.fixture
def read(tmp_path):
    def read(content: str):
        path = tmp_path / "a.json"
        path.write_text(content)
        return read_json(path)

    return read


@pytest.mark.parametrize("reader", ["whole", "number", "text", "flag", "texts", "wholes", "numbers", "map", "maps"])
def test_absent_is_none_and_null_is_wrong(read, reader):
    assert getattr(read("{}"), reader)("a") is None
    with pytest.raises(JsonError, match=r"a.json: a: expected .*, found None"):
        getattr(read('{"a": null}'), reader)("a")


@pytest.mark.parametrize(
    ("reader", "right", "value"),
    [
        ("whole", "3", 3), ("number", "3", 3.0), ("number", "-2.5", -2.5), ("text", '"x"', "x"), ("flag", "false", False),
        ("texts", '["a"]', ["a"]), ("wholes", "[1, 2]", (1, 2)), ("numbers", "[1, 2.5]", [1.0, 2.5]), ("numbers", "[]", []),
    ],
)  # fmt: skip
def test_right_values(read, reader, right, value):
    found = getattr(read(f'{{"a": {right}}}'), reader)("a")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("reader", "wrong"),
    [
        ("whole", ["0", "-1", "3.0", "true", '"3"', "[3]", "NaN", "2147483648"]),
        ("number", ["true", '"1"', "NaN", "Infinity", "-Infinity", "[]", "1" + "0" * 400]),
        ("text", ["1", "true", "[]", "{}"]),
        ("flag", ["0", "1", '"true"']),
        ("texts", ['"ab"', "[1]", "{}", "[null]"]),
        ("wholes", ['"12"', "[1.0]", "[0]", "[true]", "3"]),
        ("numbers", ['"12"', '["1"]', "[null]", "[true]", "[NaN]", "[[1]]", "{}"]),
        ("map", ["[]", '"x"', "1"]),
        ("maps", ["{}", "[1]", '["a"]', "[null]"]),
    ],
)
def test_wrong_values(read, reader, wrong):
    for value in wrong:
        with pytest.raises(JsonError, match=r"a.json: a(\.0)?: expected .*, found ") as error:
            getattr(read(f'{{"a": {value}}}'), reader)("a")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300


def test_places_in_a_file_are_named(read):
    step = read('{"steps": [{}, {"config": {"eps": "x"}}]}').maps("steps")[1]
    with pytest.raises(JsonError, match=r"a.json: steps.1.config.eps: expected a finite number, found 'x'"):
        step.map("config").number("eps")
    with pytest.raises(JsonError, match=r"steps.1.name: expected a name, it is missing"):
        step.refuse("name", "a name")


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '"x"', "[" * 100_000, "\x00"], ids=["empty", "cut", "list", "text", "deep", "0"]
)
def test_what_is_no_map(read, content):
    with pytest.raises(JsonError, match=r"a.json: expected (JSON|a map)") as error:
        read(content)
    assert "\n" not in str(error.value)


def test_a_folder_and_nothing(tmp_path):
    with pytest.raises(JsonError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing")
