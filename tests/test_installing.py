"""Everybody installs their part with one line of the README, in plain pip, and that line is whole."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = re.findall(r"(?m)^pip install \./.*$", (ROOT / "README.md").read_text())

PARTS = {
    ("server", "serve"): "vlascope_server/serving/",
    ("server", "diff"): tuple(f"vlascope_server/checkpoints/difference/{name}.py" for name in ("figures", "files")),
    ("server", "train"): (
        "vlascope_server/training/",
        "vlascope_server/mixing/",
        "vlascope_server/capturing/dataset_frames.py",
    ),
    ("latents", "xarray"): "vlascope_latents/store/xarray_backend.py",
    ("analysis", "train"): "vlascope_analysis/probes/linear.py",
}
"""By folder of the member and extra: folders or files whose modules import what the extra brings; without it, nothing imports
them."""

PART_OF = {"pydantic-core": "pydantic"}
"""Packages that are documented as a part of another, which has them in just the version that it needs."""

WORK = {
    "client": "import vlascope_client; vlascope_client.PolicyClient",
    "sim_eval": """
from pathlib import Path
from vlascope_sim.assets import resolve_assets
from vlascope_sim.environment import DUMMY_ACTION, LiberoEnvironment, load_task
with LiberoEnvironment(load_task("libero_object", 0), Path(resolve_assets().path)) as environment:
    environment.reset(0, 0)
    assert environment.step(DUMMY_ACTION)[0].image.shape == (256, 256, 3)
""",
    "server": """
import sys
from vlascope_server.commands import main
sys.exit(main(["inspect", "tiny", "--json"]))
""",
    "analysis": """
from vlascope_analysis.data.encoders import open_encoder
assert open_encoder("minilm")(["pick up the soup"]).shape == (1, 384)
""",
}
"""What a person can do who has installed the last member of a line."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A folder that is a package."""

    folder: str
    name: str
    requires: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]]

    @classmethod
    def read(cls, folder: str) -> Member:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        extras = {extra: _requirements(lines) for extra, lines in project.get("optional-dependencies", {}).items()}
        return cls(folder, project["name"], _requirements(project["dependencies"]), extras)

    @property
    def package(self) -> str:
        return self.name.replace("-", "_")

    def files(self) -> Iterator[Path]:
        yield from sorted((ROOT / self.folder / self.package).rglob("*.py"))

    def module(self, file: Path) -> str:
        """The name by which a file is imported."""
        words = file.relative_to(ROOT / self.folder).with_suffix("").parts
        return ".".join(words[:-1] if words[-1] == "__init__" else words)

    def brought(self, extras: set[str]) -> tuple[Requirement, ...]:
        """What is installed with it."""
        return self.requires + tuple(r for extra in sorted(extras) for r in self.extras[extra])

    def missing_part(self, file: Path, extras: set[str]) -> bool:
        """Whether a file belongs to an extra that is not among `extras`."""
        where = file.relative_to(ROOT / self.folder).as_posix()
        return any(
            where.startswith(part)
            for (folder, extra), part in PARTS.items()
            if folder == self.folder and extra not in extras
        )


@dataclasses.dataclass(frozen=True)
class Installing:
    """A line of the README."""

    line: str
    members: dict[str, set[str]]
    """The folders that it names, with their extras."""
    alone: tuple[str, ...]
    """What it installs without dependencies."""

    @classmethod
    def read(cls, line: str) -> Installing:
        first, _, second = line.partition(" && ")
        named = [re.fullmatch(r"\./(\w+)(?:\[([\w,]+)\])?", word) for word in shlex.split(first)[2:]]
        assert all(named), line
        assert not second or second.startswith("pip install --no-deps "), line
        members = {match[1]: set(filter(None, (match[2] or "").split(","))) for match in named if match}
        return cls(line, members, tuple(shlex.split(second)[3:]))

    @property
    def last(self) -> str:
        return list(self.members)[-1]


def _requirements(lines: list[str]) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, lines))


WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEMBERS = {folder: Member.read(folder) for folder in WORKSPACE["tool"]["uv"]["workspace"]["members"]}
INSTALLING = [Installing.read(line) for line in LINES]
each_line = pytest.mark.parametrize(
    "installing", INSTALLING, ids=lambda i: "+".join((i.last, *sorted(i.members[i.last])))
)


def test_everybody_has_a_line():
    lasts = [(i.last, i.members[i.last]) for i in INSTALLING]
    assert lasts == [
        ("client", set()), ("sim_eval", set()), ("server", {"serve"}), ("server", {"serve", "train"}), ("analysis", set()),
    ]  # fmt: skip


@each_line
def test_the_member_says_the_same_line(installing):
    assert installing.line in (ROOT / installing.last / "README.md").read_text()


@each_line
def test_a_line_names_every_member_that_it_needs(installing):
    extras = {MEMBERS[folder].name: extras for folder, extras in installing.members.items()}
    for folder in installing.members:
        member = MEMBERS[folder]
        for needed in member.brought(extras[member.name]):
            if needed.name.startswith("vlascope-"):
                assert needed.name in extras, f"{member.name} needs {needed}"
                assert needed.extras <= extras[needed.name]


@each_line
def test_no_module_imports_what_a_line_does_not_bring(installing):
    alone = {canonicalize_name(Requirement(pin).name) for pin in installing.alone}
    unknown = set()
    for folder, extras in installing.members.items():
        member = MEMBERS[folder]
        brought = {canonicalize_name(r.name) for r in member.brought(extras)} | {member.name} | alone
        # a function may import what another extra brings: it says which one where that is missing
        optional = {canonicalize_name(r.name) for r in member.brought(set(member.extras)) if "vlascope" not in r.name}
        for file in member.files():
            if not member.missing_part(file, extras):
                always, sometimes = _imported(file)
                unknown |= {
                    (str(file.relative_to(ROOT)), name) for name in always if not _distributions(name) & brought
                }
                unknown |= {
                    (str(file.relative_to(ROOT)), name)
                    for name in sometimes
                    if not _distributions(name) & (brought | optional)
                }
    assert not unknown


@pytest.mark.parametrize(("folder", "extra"), PARTS)
def test_only_its_part_cannot_be_imported_without_an_extra(folder, extra):
    member = MEMBERS[folder]
    brought = {canonicalize_name(r.name) for r in member.extras[extra]}
    brought -= {canonicalize_name(r.name) for r in member.requires}
    # importing a module imports the packages that it lies in, too
    imported = {
        file: {
            ".".join(name.split(".")[:n]) for name in _imported_modules(file)[0] for n in range(1, name.count(".") + 2)
        }
        for file in member.files()
    }
    needs = {
        file for file, names in imported.items() if any(_distributions(n) & brought for n in names if "." not in n)
    }
    while True:
        modules = {member.module(file) for file in needs}
        if not (more := {file for file, names in imported.items() if names & modules} - needs):
            break
        needs |= more
    assert needs
    # what another extra brings too, its part may need without this one
    without = {name for name, own in member.extras.items() if not brought & {canonicalize_name(r.name) for r in own}}
    assert not {file for file in needs if not member.missing_part(file, without)}


def test_what_an_error_says_to_install_is_a_line_of_the_readme():
    from vlascope_server.commands import serve, train

    for install, extra in ((serve.INSTALL, "serve"), (train.INSTALL, "train")):
        (line,) = (i for i in INSTALLING if i.line == install)
        assert line.last == "server"
        assert extra in line.members["server"]


def test_pip_finds_what_other_extras_bring():
    """Their errors say `pip install MEMBER[extra]`, which fails where an extra needs a member: no index has those."""
    needed = {
        (member.name, extra): [r.name for r in requirements if r.name.startswith("vlascope-")]
        for member in MEMBERS.values()
        for extra, requirements in member.extras.items()
    }
    assert {extra for extra, members in needed.items() if members} == {
        ("vlascope-server", "serve"), ("vlascope-server", "train")
    }  # fmt: skip


def test_what_is_installed_alone_is_what_the_errors_and_the_workspace_say():
    from vlascope_analysis.data.encoders import minilm
    from vlascope_sim.environment import package

    alone = {i.last: i.line.partition(" && ")[2] for i in INSTALLING if i.alone}
    assert alone == {"sim_eval": package.INSTALL, "analysis": minilm.INSTALL}
    stated = {f"{entry['name']}=={entry['version']}" for entry in WORKSPACE["tool"]["uv"]["dependency-metadata"]}
    assert stated == {pin for i in INSTALLING for pin in i.alone}
    # what the workspace states that they need comes with the simulation, or is one of them
    sim = {canonicalize_name(r.name) for r in MEMBERS["sim_eval"].requires}
    for entry in WORKSPACE["tool"]["uv"]["dependency-metadata"]:
        for needed in map(Requirement, entry["requires-dist"]):
            assert canonicalize_name(needed.name) in sim or str(needed) in stated, needed


def test_what_a_line_brings_declares_no_torch():
    for installing in INSTALLING:
        for folder, extras in installing.members.items():
            assert "torch" not in {r.name for r in MEMBERS[folder].brought(extras)}


@pytest.mark.slow
@each_line
def test_in_an_environment_of_its_own(installing, tmp_path):
    """Types the line, imports every module, and does a piece of work."""
    home = tmp_path / "environment"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{home / 'bin'}:{environment['PATH']}"

    def run(*command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    run(sys.executable, "-m", "venv", str(home))
    pip = [str(home / "bin/pip"), "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "hatchling"]
    asked = subprocess.run(pip, env=environment, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"pip reaches no index here: {asked.stderr.strip().splitlines()[-1]}")
    run("bash", "-c", installing.line, folder=ROOT)

    installed = {canonicalize_name(entry["name"]) for entry in json.loads(run("pip", "list", "--format", "json"))}
    assert {name for name in installed if name.startswith("vlascope")} == {MEMBERS[f].name for f in installing.members}
    heavy = {
        name for name in installed if name.startswith(("torch", "nvidia", "transformers", "sentence-transformers"))
    }
    assert not heavy

    modules = []
    for folder, extras in installing.members.items():
        member = MEMBERS[folder]
        for file in member.files():
            if file.name != "__main__.py" and not member.missing_part(file, extras):
                modules.append(member.module(file))
    imports = f"import importlib\nfor name in {modules}: importlib.import_module(name)"
    run("python", "-c", imports)
    for folder in installing.members:
        member = MEMBERS[folder]
        if (home / "bin" / member.name).exists():
            assert run(member.name, "--version").startswith(f"{member.name} ")
            run(member.name, "--help")
    run("python", "-c", WORK[installing.last])


def _imported(file: Path) -> tuple[set[str], set[str]]:
    """First words of a file's imports, as `_imported_modules`, without those of Python's own modules."""
    always, sometimes = ({name.partition(".")[0] for name in names} for names in _imported_modules(file))
    return always - sys.stdlib_module_names, sometimes - sys.stdlib_module_names


def _imported_modules(file: Path) -> tuple[set[str], set[str]]:
    """A file's imports that are neither relative nor for the type checker, at its top and in functions: modules, and what is
    imported from them, which may be modules too.
    """
    always: set[str] = set()
    sometimes: set[str] = set()
    waiting: list[tuple[ast.AST, set[str]]] = [(ast.parse(file.read_text()), always)]
    while waiting:
        node, found = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += [(child, found) for child in node.orelse]
        else:
            inside = sometimes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else found
            waiting += [(child, inside) for child in ast.iter_child_nodes(node)]
    return always, sometimes


@functools.cache
def _distributions(module: str) -> set[str]:
    """The packages that a module may come from; one that is not installed here is taken by its own name."""
    if module.startswith("vlascope_"):
        return {canonicalize_name(module)}
    names = {canonicalize_name(name) for name in _installed_modules().get(module, [module])}
    return {PART_OF.get(name, name) for name in names}


@functools.cache
def _installed_modules() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
