"""What README and docs show is true: Python blocks run, command lines parse, options, targets and files exist.

The Python blocks of a document run in order, in one process that is no test's own, and in a folder that holds what the
document's shell blocks would have made: `runs`, a store of twenty episodes that a real server captured. That server goes on
running at a free port; the addresses in ADDRESSES are replaced by its own, which is the only change that is made to a document.

A block that cannot run here stands below `<!-- not run: REASON -->`, and in NOT_RUN. A notebook is a document too: its cells of
code are its Python blocks, and it runs where it lies, in `docs` beside `demo/made/runs`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vlascope_analysis.commands import SUBCOMMANDS as ANALYSIS
from vlascope_base.command import parse_command
from vlascope_client import PolicyClient
from vlascope_datasets.commands import SUBCOMMANDS as DATASETS
from vlascope_latents.commands import SUBCOMMANDS as LATENTS
from vlascope_latents.store import LatentStore
from vlascope_server.commands import SUBCOMMANDS as SERVER
from vlascope_sim.commands import SUBCOMMANDS as SIM

from tests.server.serving.live_server import LiveServer, serve

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "[a-z]*/README.md", "docs/*.md", "docs/*.ipynb")
    for path in ROOT.glob(pattern)
)
COMMANDS = {
    "vlascope-analysis": ANALYSIS,
    "vlascope-datasets": DATASETS,
    "vlascope-latents": LATENTS,
    "vlascope-server": SERVER,
    "vlascope-sim": SIM,
}
ADDRESSES = ("ws://127.0.0.1:8000", "gpu-host:8000")
"""Of servers in Python blocks; replaced by that of the server that runs here."""
NOT_RUN = {"docs/policies.md": ["it serves until a signal ends it", "pytest runs it, from the root of the repository"]}
"""By document, the reasons that stand above the Python blocks that are not run."""
_PRINTED = (ROOT / "README.md").read_text().partition("print(path, array.shape, array.dtype)  # ")[2].partition("\n")[0]
"""What README's last Python block says that it prints, but for the data types."""
CHECKS = {
    "README.md": f"assert ', '.join(f'{{path}} {{array.shape}}' for path, array in latents.items()) == {_PRINTED!r}",
    "docs/store.md": """
assert committed == 10
assert x.shape == (4, 1, 48, 2048)
assert features.shape == x.shape
assert success.all()
stored = store.select("vlm").array()
assert hidden_states.dtype == np.float32 and np.array_equal(hidden_states, stored)
assert np.array_equal(vlm["hidden_states"].sel(layer=5).isel(frame=slice(0, 4)), stored[:4, 5])
""",
    "docs/probing.md": """
assert len(result.tables["scores"]) == 1 and len(result.tables["classes"]) == 10
assert len(again.tables["predictions"]) == len(result.tables["predictions"]) == 5 * 20
assert again.tables["scores"]["accuracy"].tolist() == result.tables["scores"]["accuracy"].tolist()
""",
    "docs/policies.md": "assert actions.shape == (4, 2) and hidden.shape == (1, 1, 8)",
    "docs/datasets.md": "assert actions.shape == (50, 7) and real.sum() == 15",
    "docs/tutorial.md": "assert features.shape == (40, 1, 1, 11, 64) and distance.shape == told.shape == (40,)",
    "docs/notebook.ipynb": """
assert runs == Path("../demo/made/runs")
assert len(frames) == 40 and len(episodes) == 20
assert hidden.dims == ("frame", "denoise_step", "layer", "feature")
assert successful.sizes["frame"] == 40 and by_instruction.sizes["instruction"] == 10
assert set(share.dims) == {"layer", "denoise_step"} and float(share.min()) > 0
assert len(result.tables["scores"]) == 1 and len(result.tables["classes"]) == 10
""",
    "client/README.md": "assert receipt.frames == 1",
}
"""By document, what holds of the names that its blocks leave; where a document has none, that they run is all."""
_RUN = """
import json, sys
names = {"__name__": "__main__"}
for path, line, text in json.load(sys.stdin):
    exec(compile("\\n" * line + text, path, "exec"), names)
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a document.

    Attributes:
        language: such as `python`; empty where the document names none.
        text: between the fences.
        line: of the opening fence, from 1.
        not_run: the reason above it that says why it cannot run; None where there is none.
    """

    language: str
    text: str
    line: int
    not_run: str | None


@functools.cache
def text_of(document: str) -> str:
    """A document as Markdown; a notebook's code becomes Python blocks."""
    text = (ROOT / document).read_text()
    if not document.endswith(".ipynb"):
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells) + "\n"


def blocks(document: str) -> list[Block]:
    text = text_of(document)
    found = re.finditer(r"^(?:<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[2], m[3], text.count("\n", 0, m.start(3)), m[1]) for m in found]


def prose(document: str) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)


def python_blocks(document: str) -> list[Block]:
    return [block for block in blocks(document) if block.language == "python"]


@dataclasses.dataclass(frozen=True)
class Served:
    """A server, and a copy of its store from before any document ran, for what documents capture goes into its own."""

    live: LiveServer
    runs: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`vlascope-server serve --checkpoint tiny --store runs/`, with twenty captured episodes of ten tasks in its store."""
    folder = tmp_path_factory.mktemp("documents")
    image = np.zeros((256, 256, 3), np.uint8)
    observation = {"observation/image": image, "observation/wrist_image": image, "observation/state": np.zeros(8)}
    with serve("--store", str(folder / "live"), "--seed", "0") as live:
        with PolicyClient(live.url) as policy:
            for task in range(10):
                for index in range(2):
                    name = f"made+task{task}-ep{index}"
                    episode = {"id": name, "suite": "libero_object", "task_id": task, "episode_index": index}
                    for timestep in (0, 10):
                        policy.infer(
                            {**observation, "prompt": f"take object {task}"}, collect_latents=True, episode=episode,
                            timestep=timestep, annotations={"goal_distance": 0.1},
                        )  # fmt: skip
                    policy.end_episode(name, success=True, total_steps=11)
        yield Served(live, Path(shutil.copytree(folder / "live", folder / "runs")))


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if python_blocks(document)])
def test_python_blocks_run_in_order(document: str, served: Served, tmp_path: Path) -> None:
    home = tmp_path / "docs" if document.endswith(".ipynb") else tmp_path
    stores = tmp_path / "demo/made" if document.endswith(".ipynb") else tmp_path
    home.mkdir(exist_ok=True)
    stores.mkdir(parents=True, exist_ok=True)
    if document != "docs/store.md":  # which makes a store of that name itself
        (stores / "runs").symlink_to(served.runs)
    program = [(document, block.line, block.text) for block in python_blocks(document) if block.not_run is None]
    for address in ADDRESSES:
        program = [(name, line, text.replace(address, served.live.url)) for name, line, text in program]
    program.append(("CHECKS", 0, CHECKS.get(document, "")))
    before = [episode.id for episode in LatentStore(served.live.run).episodes()]
    done = subprocess.run(
        [sys.executable, "-c", _RUN], input=json.dumps(program), cwd=home, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OUT": str(tmp_path), "MPLBACKEND": "Agg"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    if document == "README.md":  # who only tries it out leaves no episode for a probe to take
        assert [episode.id for episode in LatentStore(served.live.run).episodes()] == before


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document.endswith(".ipynb")])
def test_a_notebook_is_kept_without_what_a_run_leaves_in_it(document: str) -> None:
    notebook = json.loads((ROOT / document).read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    left = [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert not left, "clear the outputs before you commit"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_documents_say_whether_anything_was_measured_on_a_gpu() -> None:
    measured = {path.name for path in (ROOT / "benchmarks/results/gpu").iterdir()} != {"NOTES.md"}
    for document in ("README.md", "docs/gpu.md"):
        assert ("nothing has been measured" in prose(document).lower()) is not measured, document


def test_what_make_tests_with_the_newest_packages_is_what_the_readme_says() -> None:
    folders = re.findall(
        r"tests/([\w/]+)(?:\.py)?", (ROOT / "scripts/test_newest.sh").read_text().rpartition("pytest -m")[2]
    )
    assert folders == ["latents", "client", "server/test_parameters", "server/test_reference_parity"]
    assert "`make test-newest` (model, store and client on Python 3.12" in prose("README.md")


def test_what_is_not_run_is_listed_here() -> None:
    found = {document: [b.not_run for b in python_blocks(document) if b.not_run is not None] for document in DOCUMENTS}
    assert {document: reasons for document, reasons in found.items() if reasons} == NOT_RUN
    # and every block of Python is found as one
    for document in DOCUMENTS:
        assert len(python_blocks(document)) == text_of(document).count("```python"), document


def command_lines(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"(\$ )?(\S+/)?vlascope-", line):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            yield [Path(words[0]).name, *words[1 : -1 if words[-1] == "&" else None]]


LINES = [
    pytest.param(words, id=f"{document}: {shlex.join(words)}")
    for document in DOCUMENTS
    for block in blocks(document)
    if block.language != "python"
    for words in command_lines(block.text)
]


@pytest.mark.parametrize("words", LINES)
def test_command_lines_parse(words: list[str]) -> None:
    name, *args = words
    # a file of defaults that the line names is not there
    without_files = {word: type(of.__name__, (of,), {"defaults": None}) for word, of in COMMANDS[name].items()}
    parse_command(name, "", without_files, args)


def help_of(name: str, word: str) -> str:
    """What the help of a subcommand says; a wrong name ends the test."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        parse_command(name, "", COMMANDS[name], [word, "--help"])
    assert ended.value.code == 0, f"{name} {word}"
    return text.getvalue()


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text.replace("_", "-")))


@pytest.fixture(scope="module")
def options() -> dict[tuple[str, str], set[str]]:
    """By command and subcommand, the options that its help lists."""
    return {
        (name, word): options_in(help_of(name, word)) for name, subcommands in COMMANDS.items() for word in subcommands
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_in_sentences_exist(document: str, options: dict[tuple[str, str], set[str]]) -> None:
    scripts = [
        path for pattern in ("scripts/*", "benchmarks/*.py", "client/examples/*.py") for path in ROOT.glob(pattern)
    ]
    anywhere = {"--help", "--version"}.union(*options.values())
    anywhere |= options_in(" ".join(path.read_text() for path in scripts if path.is_file()))
    for code in re.findall(r"`([^`]+)`", prose(document)):
        name, *words = [Path(code.split()[0]).name, *code.split()[1:]]
        if name in COMMANDS and words and not words[0].startswith("-"):
            assert (name, words[0]) in options, code
            assert options_in(code) <= options[name, words[0]], code
        elif name in COMMANDS or code.startswith("--"):
            assert options_in(code) <= anywhere, code


@functools.cache
def files_here() -> list[str]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [f"{folder}/{name}" for name in names]
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    for block in [prose(document), *(f"`{block.text}`" for block in blocks(document) if block.language != "python")]:
        for word in " ".join(re.findall(r"`([^`]+)`", block)).split():
            if re.fullmatch(r"[\w/.-]+\.(py|sh|md)", word):
                assert any(file.endswith(f"/{word}") for file in files_here()), word


@pytest.mark.parametrize("document", DOCUMENTS)
def test_linked_files_headings_and_targets_exist(document: str) -> None:
    text = text_of(document)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, heading = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if heading else []
        anchors = [re.sub(r"[^\w -]", "", found).lower().replace(" ", "-") for found in headings]
        assert not heading or heading in anchors, target
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = "\n".join([*re.findall(r"`([^`]+)`", prose(document)), *(block.text for block in blocks(document))])
    assert set(re.findall(r"^make ([a-z-]+)", shown, re.MULTILINE)) <= set(targets)
