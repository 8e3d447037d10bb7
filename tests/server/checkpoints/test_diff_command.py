"""`vlascope-server diff` as a user runs it: its files, what it prints, what it refuses, how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_server.checkpoints import open_source, save_checkpoint
from vlascope_server.commands import main
from vlascope_server.model import GemmaConfig, Pi0Config, VisionConfig

from .conftest import PI0, PI05, draw

FILES = {
    "model_difference_report.txt",
    "differences.parquet",
    "differences.json",
    "weight_differences_overview.png",
    "group_analysis.png",
    "layer_component_heatmap.png",
}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What the command wrote about `tiny` and one that was trained on from it."""
    folder = tmp_path_factory.mktemp("diff") / "new" / "folder"
    assert main(["diff", "tiny", "tiny-half-0", "--output-dir", str(folder), "--spectral"]) == 0
    return folder


def test_all_files_are_there_and_whole(halves):
    assert {file.name for file in halves.iterdir()} == FILES
    for file in halves.glob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 100


def test_something_moved(halves):
    found = json.loads((halves / "differences.json").read_text())
    assert found["a"]["location"] == "tiny"
    assert (found["b"]["location"], found["b"]["format"], found["b"]["step"]) == ("tiny-half-0", "orbax", 300)
    whole = found["overall"]
    assert whole["count"] == found["a"]["elements"] == 1_709_984
    assert 0.5 < whole["changed"] / whole["count"] < 1
    assert 0.001 < whole["relative_difference"] < 0.1
    assert 0.999 < whole["cosine_similarity"] < 1
    # the vlm's last block writes into a stream that nobody reads: its MLP had no gradient
    layers = [row["relative_difference"] for row in found["layers"]["vlm: mlp"]]
    assert layers[-1] < 0.1 * min(layers[:-1])


def test_adapters_are_seen_to_be_adapters(tmp_path):
    assert main(["diff", "tiny", "tiny-lora", "--output-dir", str(tmp_path / "own")]) == 0
    own = json.loads((tmp_path / "own" / "differences.json").read_text())
    experts = [row for row in own["parameters"] if row["component"] in ("vlm", "action expert")]
    assert experts
    assert all(row["changed"] == 0 for row in experts)
    assert len(own["only_in_b"]) == 20
    assert all("lora_" in name for name in own["only_in_b"])
    assert (
        main(["diff", "tiny", "tiny-lora", "--merge-lora", "--spectral", "--output-dir", str(tmp_path / "merged")]) == 0
    )
    rows = json.loads((tmp_path / "merged" / "differences.json").read_text())["parameters"]
    adapted = {name.rsplit("lora_", 1)[0].rstrip("/_") for name in own["only_in_b"]}
    layers = [row for row in rows if row["layer"] is not None and row["parameter"].removesuffix("/w") in adapted]
    assert len(layers) == 10 * 8
    assert all(row["effective_rank"] <= 8 for row in layers)  # the adapters' rank
    # no action depends on what the vlm's last block writes: only its keys and values had a gradient
    still = {row["parameter"].split("layers/")[1] for row in layers if row["changed"] == 0}
    assert still == {"attn/q_einsum/w", "attn/attn_vec_einsum/w", "mlp/gating_einsum", "mlp/linear"}
    assert {row["layer"] for row in layers if row["changed"] == 0} == {7}


def test_the_json_says_how_it_was_made(halves):
    found = json.loads((halves / "differences.json").read_text())
    assert set(found["versions"]) >= {"python", "vlascope-server", "numpy"}
    assert "git_revision" in found
    assert (found["options"]["spectral"], found["options"]["a"]) == (True, "tiny")
    assert found["only_in_a"] == found["only_in_b"] == found["unlike_shapes"] == {}
    assert set(found["groups"]) == {"attention", "mlp", "embedding", "projection", "other"}
    assert set(found["components"]) == {"vision", "vlm", "action expert", "projections"}
    counts = [group["parameters"] for group in found["groups"].values()]
    assert sum(counts) == found["a"]["parameters"] == 50


def test_the_table_has_parameters_and_layers(halves):
    rows = pq.read_table(halves / "differences.parquet").to_pylist()
    assert rows == json.loads((halves / "differences.json").read_text())["parameters"]
    whole = [row for row in rows if row["layer"] is None]
    assert len(whole) == 50
    queries = [row for row in rows if row["parameter"] == "PaliGemma/llm/layers/attn/q_einsum/w"]
    assert [row["layer"] for row in queries] == [None, *range(8)]
    first, *layers = queries
    assert first["l2_norm"] ** 2 == pytest.approx(sum(row["l2_norm"] ** 2 for row in layers))
    assert first["max_abs_diff"] == max(row["max_abs_diff"] for row in layers)
    assert first["spectral_norm"] == max(row["spectral_norm"] for row in layers)
    # nor have the queries of the vlm's last block a gradient, whose bfloat16 stayed as it was
    assert (layers[-1]["changed"], layers[-1]["spectral_norm"], layers[-1]["effective_rank"]) == (0, 0, 0)
    assert all(0 < row["spectral_norm"] <= row["l2_norm"] and row["effective_rank"] >= 1 for row in queries[:-1])
    assert {row["component"] for row in rows} == {"vision", "vlm", "action expert", "projections"}


def test_the_report_has_the_references_sections(halves):
    text = (halves / "model_difference_report.txt").read_text()
    sections = (
        "OVERALL STATISTICS", "TOP 20 PARAMETERS WITH LARGEST DIFFERENCES", "GROUP-LEVEL ANALYSIS", "SUMMARY INSIGHTS",
    )  # fmt: skip
    places = [text.index(section) for section in sections]
    assert places == sorted(places)
    assert "Total parameters analyzed: 50" in text
    assert "\n20. " in text
    assert "\n21. " not in text
    assert "ATTENTION GROUP:\n  Parameter count: 16" in text
    assert "LORA GROUP" not in text


def test_a_checkpoint_against_itself(tmp_path, capsys):
    assert main(["diff", "tiny", "tiny", "--output-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Every value that was compared is equal in both, in all 50 parameters.")
    found = json.loads((tmp_path / "differences.json").read_text())
    for row in found["parameters"]:
        assert (row["l2_norm"], row["relative_difference"], row["cosine_similarity"]) == (0, 0, 1)
        assert row["spectral_norm"] is None
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_weights_that_are_drawn_anew_are_like_the_other_side(tmp_path, capsys):
    out = ["--output-dir", str(tmp_path / "out")]
    assert main(["diff", "tiny", "drawn:3", *out]) == 0
    found = json.loads((tmp_path / "out" / "differences.json").read_text())
    assert not found["only_in_a"]
    assert not found["only_in_b"]
    assert found["overall"]["changed"] > 0.99 * found["overall"]["count"]
    assert main(["diff", "drawn:2", "drawn:3", "--like", "tiny", *out]) == 0
    capsys.readouterr()
    assert main(["diff", "drawn:2", "drawn:3", *out]) == 2
    assert "name that checkpoint with --like" in capsys.readouterr().err
    assert main(["diff", "tiny", "tiny-lora", "--like", "tiny", *out]) == 2
    assert "tiny: is read with its own weights, and tiny was given to draw others like it" in capsys.readouterr().err


def test_drawn_weights_and_formats_mixed(tmp_path, capsys):
    assert main(["convert", "tiny", str(tmp_path / "lerobot"), "--to", "lerobot"]) == 0
    assert main(["diff", "tiny", str(tmp_path / "lerobot"), "--output-dir", str(tmp_path / "same")]) == 0
    assert "is equal in both" in capsys.readouterr().out
    assert main(["diff", "tiny-drawn", str(tmp_path / "lerobot"), "--output-dir", str(tmp_path / "drawn")]) == 0
    assert "50 of 50 parameters differ" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(saved, tmp_path, capsys):
    def refused(*args):
        assert main(["diff", *map(str, args), "--output-dir", str(tmp_path / "none")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not list(tmp_path.glob("none/*"))
        return line

    save_checkpoint(tmp_path / "pi05", draw(PI05), PI05)
    assert "tinny: no such file or folder" in refused("tiny", "tinny")
    assert "expected one architecture, found two: vision width 128 and 32" in refused("tiny", saved)
    assert "--common-only" in refused(saved, tmp_path / "pi05")
    file = tmp_path / "file"
    file.write_text("")
    assert main(["diff", "tiny", "tiny", "--output-dir", str(file / "below")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_different_architectures_on_request(saved, tmp_path, capsys):
    save_checkpoint(tmp_path / "pi05", draw(PI05), PI05)
    args = ["diff", str(saved), str(tmp_path / "pi05"), "--common-only", "--output-dir", str(tmp_path / "out")]
    assert main(args) == 0
    found = json.loads((tmp_path / "out/differences.json").read_text())
    assert found["only_in_a"]["state_proj/bias"] == [PI0.action.width]
    assert "time_mlp_in/kernel" in found["only_in_b"]
    assert "parameters are in A only" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["matplotlib", "pyarrow"])
def test_without_the_extra_it_says_so(tmp_path, package):
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from vlascope_server.commands import main\n"
        f"sys.exit(main(['diff', 'tiny', 'tiny', '--output-dir', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"vlascope-server: diff needs {package}: install vlascope-server[diff]\n"
    assert not list(tmp_path.iterdir())


MEASURED = """
import sys, threading
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
from vlascope_server.commands import main
code = main(sys.argv[1:])
done.set()
watcher.join()
print("peak", peak)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("kinds", [("orbax", "orbax"), ("orbax", "safetensors"), ("safetensors", "safetensors")])
def test_memory_is_bounded_by_a_piece(large, tmp_path, kinds):
    """Of two checkpoints of 0.5 GB each, at most three times the largest piece and 500 MB are held, interpreter and all."""
    folders = [large / kind for kind in kinds]
    arguments = ["diff", *map(str, folders), "--output-dir", str(tmp_path), "--spectral"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])
    pieces = []
    for folder in folders:
        weights = open_source(folder).weights
        for name in weights.shapes:
            pieces += [4 * size_of(box) for box in weights.pieces(name)]
        assert sum(pieces) > 400e6
    print(f"peak {peak / 1e6:.0f} MB, largest piece {max(pieces) / 1e6:.0f} MB")
    assert peak < 3 * max(pieces) + 500e6


def size_of(box):
    size = 1
    for axis in box:
        size *= axis.stop - axis.start
    return size


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """One synthetic checkpoint in both formats, float32."""
    folder = tmp_path_factory.mktemp("large")
    gemma = GemmaConfig(width=1024, depth=8, mlp_dim=4096, num_heads=4, num_kv_heads=1, head_dim=256)
    config = Pi0Config(
        VisionConfig(width=192, depth=2, mlp_dim=384, num_heads=3, patch_size=14, image_size=56),
        gemma, GemmaConfig(width=128, depth=8, mlp_dim=256, num_heads=4, num_kv_heads=1, head_dim=256),
        vocabulary=4096, action_dim=32, action_horizon=10, max_token_len=48,
    )  # fmt: skip
    params = draw(config)
    for kind in ("orbax", "safetensors"):
        save_checkpoint(folder / kind, params, config, kind=kind)
    return folder
