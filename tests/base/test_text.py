import numpy as np
import pytest
from vlascope_base import OptionError
from vlascope_base.text import (
    counted,
    filled,
    listed,
    parse_bytes,
    parse_numbers,
    printable,
    readable_bytes,
    readable_duration,
    short,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (999_999, "1 MB"),
        (10**9, "1 GB"),
        (2.5e12, "2.5 TB"),
        (3e15, "3000 TB"),
    ],
)
def test_bytes_are_read_in_decimal_units(count, text):
    assert readable_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "count"), [("1500", 1500), ("1.5kB", 1500), ("2 GB", 2 * 10**9), ("1GiB", 1 << 30), (" .5 MB ", 500_000)]
)
def test_bytes_are_written_with_or_without_a_unit(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "1e3", "nan"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(OptionError, match="expected bytes such as 500MB or 2GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3", (0, 1, 2, 3)), ("7", (7,)), ("0,3,5", (0, 3, 5)), ("5, 0-2", (5, 0, 1, 2)), ("1,0-2,1", (1, 0, 2))],
)
def test_numbers_keep_the_order_written_each_once(text, numbers):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1-", "1.5", "1--3", "٣", "1" * 13])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(OptionError, match="expected numbers such as 0-9"):
        parse_numbers(text)


def test_a_range_that_runs_backwards_is_told_the_other_way():
    with pytest.raises(OptionError, match="5-3 runs backwards; write 3-5"):
        parse_numbers("0,5-3")


def test_a_range_that_would_fill_the_memory_is_refused():
    with pytest.raises(OptionError, match="more than ten million"):
        parse_numbers("0-999999999999")


def test_numbers_are_listed_as_runs():
    assert listed([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9, 10"
    assert listed([]) == "none"
    assert listed(["b", "a", "b"]) == "b, a"
    assert listed(range(0, 60, 2), limit=3) == "0, 2, 4, … (30)"


def test_a_terminal_is_shown_text_and_never_commanded():
    assert printable("a\x1b[31m\nb\u202e ü") == "a\\x1b[31m\\nb\\u202e ü"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than a minute"),
        (59.9, "less than a minute"),
        (60, "1 minute"),
        (89, "1 minute"),
        (91, "2 minutes"),
        (99 * 60, "99 minutes"),
        (100 * 60, "1.7 hours"),
        (9000, "2.5 hours"),
        (360_000, "100.0 hours"),
    ],
)
def test_times_are_readable(seconds, text):
    assert readable_duration(seconds) == text


@pytest.mark.parametrize(("count", "said"), [(0, "no episodes"), (1, "1 episode"), (2, "2 episodes")])
def test_things_are_counted_in_words(count, said):
    assert counted(count, "episode") == said


def test_a_thing_may_have_a_plural_of_its_own():
    assert [counted(count, "try", "tries") for count in range(3)] == ["no tries", "1 try", "2 tries"]


def test_text_fits_the_terminal_and_words_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    assert filled("one two three\n\nfour  five") == "one two\nthree\n\nfour  five"
    assert filled("a /folder/of-many-parts") == "a\n/folder/of-many-parts"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", r"'a\nb'"),
        ("x" * 10**6, "'xxx"),
        pytest.param(10**5000, "a number of 16610 bits", id="great number"),
        (True, "True"),
        (list(range(10**5)), "[0, 1, 2, 3, 4, 5, ...]"),
        (np.zeros((300, 2), np.float32), "an array of float32 [300, 2]"),
        ({"a": {"b": {"c": 1}}}, "{'a': {'b': {'c': 1}}}"),
    ],
)
def test_any_value_is_short_in_a_message(value, text):
    said = short(value)
    assert said.startswith(text)
    assert len(said) <= 80
    assert "\n" not in said
