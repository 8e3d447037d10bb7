import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vlascope_base import files
from vlascope_base.files import PARTIAL, append_line, make_folders, remove, replace_file, replace_json, replacing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    replace_file(path, "ü")
    assert path.read_bytes() == "ü".encode()
    replace_file(path, memoryview(b"bytes"))
    assert path.read_bytes() == b"bytes"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_data", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_json_that_no_reader_takes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace_json(tmp_path / "file", {"a": float("nan")})
    replace_json(tmp_path / "file", {"a": "ü"})
    assert json.loads((tmp_path / "file").read_text()) == {"a": "ü"}
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_library_writes_takes_its_place_when_it_is_finished(tmp_path):
    path = tmp_path / "table"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.name.endswith(PARTIAL)
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(str(1 / 0) if temporary.write_text("half") else "")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["table"]


def test_a_folder_takes_its_place_when_it_is_finished(tmp_path):
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
    assert (tmp_path / "folder" / "a").read_text() == "a"
    with pytest.raises(OSError, match="not empty"), replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path) == ["folder"]


def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    code = (
        "import os, pathlib, sys; from vlascope_base import files\n"
        "files.sync_data = lambda _: os._exit(9)\n"
        "files.replace_file(pathlib.Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    assert all(name == "file" or name.endswith(PARTIAL) for name in os.listdir(tmp_path))


def test_lines_are_appended(tmp_path):
    for number in range(2):
        append_line(tmp_path / "lines", {"n": number})
    assert (tmp_path / "lines").read_text() == '{"n": 0}\n{"n": 1}\n'


def test_folders_are_made_and_removed(tmp_path):
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    remove(tmp_path / "link")
    assert (tmp_path / "a" / "b" / "file").exists()
    for _ in range(2):
        remove(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_all_bytes_are_written_where_the_system_takes_a_few_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, view: write(descriptor, view[:3]))
    replace_file(Path(tmp_path / "file"), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_names_of_files_that_are_no_text_are_kept_in_json(tmp_path):
    name = os.fsdecode(b"bad \xff ") + "ü"
    append_line(tmp_path / "lines", {"name": name})
    replace_json(tmp_path / "file", {"name": name})
    for file in ("lines", "file"):
        assert json.loads((tmp_path / file).read_text()) == {"name": name}
        assert "ü" in (tmp_path / file).read_text()


def test_below_is_breadth_first_and_bounded(tmp_path):
    for name in ("b/c/d", "a"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in files.below(tmp_path, deepest=9, most=99)]
    assert names == ["a", "b", "b/c", "b/loop", "b/c/d"]
    assert len(list(files.below(tmp_path, deepest=9, most=3))) == 3
    assert [path.name for path in files.below(tmp_path, deepest=0, most=99)] == ["a", "b"]
