import shutil
import subprocess
import sys
from pathlib import Path

import vlascope_base
from vlascope_base.cache import cache_folder
from vlascope_base.provenance import provenance, versions

PACKAGE = Path(vlascope_base.__file__).parent
ASK = "from vlascope_base.provenance import git_revision; print(git_revision())"


def revision_in(folder):
    asked = subprocess.run([sys.executable, "-c", ASK], cwd=folder, capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def commit(folder, *names):
    for words in (
        ["init", "-q"],
        ["add", *names],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
    ):
        subprocess.run([shutil.which("git") or "git", *words], cwd=folder, check=True)


def test_the_revision_is_that_of_the_checkout_and_says_what_was_changed(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "vlascope_base", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vlascope_base" / "text.py").touch()
    commit(tmp_path, "vlascope_base")
    found = revision_in(tmp_path)
    assert len(found) == 40
    with (tmp_path / "vlascope_base" / "text.py").open("a") as file:
        file.write("# changed\n")
    assert revision_in(tmp_path) == f"{found}+changes"


def test_an_environment_inside_another_repository_does_not_claim_its_revision(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "vlascope_base", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "theirs").write_text("a")
    commit(tmp_path, "theirs")
    assert revision_in(tmp_path) == "None"


def test_versions_say_what_is_not_installed():
    found = versions("rich", "no-such-package")
    assert found["no-such-package"] == "not installed"
    assert found["rich"][0].isdigit()
    assert set(provenance("rich")) == {"versions", "git_revision"}


def test_there_is_one_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VLASCOPE_CACHE", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/vlascope")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/somebody/.cache/vlascope")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/vlascope")
    monkeypatch.setenv("VLASCOPE_CACHE", "/own")
    assert cache_folder() == Path("/own")
