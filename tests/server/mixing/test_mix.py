"""The command on small checkpoints: what is written, what it says, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from vlascope_server.checkpoints import opened
from vlascope_server.checkpoints.record import Record
from vlascope_server.commands import main
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.robots import NormStats
from vlascope_server.robots.norm_stats import load_norm_stats, save_norm_stats

from tests.server.mixing.conftest import STATS, described, drawn, moved, save
from tests.server.small_models import small_config

SHARED = "PaliGemma/img/head/kernel"
MIXED = "PaliGemma/llm/layers/mlp/linear"
BIAS = "action_out_proj/bias"


def mix(output: Path, checkpoints, *options: object) -> Path:
    """Runs the command."""
    assert main(["mix", "--checkpoints", *map(str, checkpoints), "--output", str(output), *map(str, options)]) == 0
    return output


def values(location: object) -> dict[str, np.ndarray]:
    """The parameters of a checkpoint, as stored."""
    with opened(str(location)) as source:
        return {name: source.weights.read(name) for name in source.weights.shapes}


def refused(capsys, *args: object) -> str:
    """The one line that a call is refused with."""
    capsys.readouterr()
    assert main(["mix", *map(str, args)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_average_of_three(three, tmp_path, capsys):
    out = mix(tmp_path / "mix", three, "--optimize_method", "average")
    found, inputs = values(out / "0"), [values(location) for location in three]
    expected = np.mean([i[MIXED].astype(np.float64) for i in inputs], axis=0)
    np.testing.assert_allclose(found[MIXED], expected, rtol=1e-5, atol=1e-6)
    assert found[SHARED].tobytes() == inputs[0][SHARED].tobytes()
    assert {p.name for p in out.iterdir()} == {"0", "norm_stats.json", "mix.json", "mix_report.txt"}
    assert "Whether mixing helped was not looked at" in capsys.readouterr().out
    said = described(out)
    assert said["method"] == "average"
    assert said["parameters"]["mixed"] == sum("llm" in name for name in found)
    assert {"versions", "git_revision", "time", "options"} <= said.keys()
    assert f"Of {len(found)} parameters, {said['parameters']['mixed']} differ" in (out / "mix_report.txt").read_text()


def test_what_is_written_is_served(three, tmp_path):
    out = mix(tmp_path / "mix", three, "--optimize_method", "average")
    for location in (out / "0", out):
        policy = Pi0Policy.load(str(location))
        assert policy.checkpoint.asset_id == "libero"
        assert policy.checkpoint.record.norm_stats_count == 100
    np.testing.assert_array_equal(load_norm_stats(out / "norm_stats.json")["state"].mean, STATS["state"].mean)


def test_weights_by_component(three, tmp_path):
    out = mix(tmp_path / "mix", three[:2], "--weights", 1, 1, 1, 0, 0, 4, 1, 3, "--weights-by", "component")
    found, (one, two) = values(out / "0"), [values(location) for location in three[:2]]
    np.testing.assert_array_equal(found[MIXED], one[MIXED])
    np.testing.assert_array_equal(found["PaliGemma/llm/layers/mlp_1/linear"], two["PaliGemma/llm/layers/mlp_1/linear"])


def test_both_formats_give_the_same_mix(three, tmp_path):
    torch = []
    for k, location in enumerate(three):
        torch.append(tmp_path / f"torch{k}")
        assert main(["convert", location, str(torch[-1]), "--to", "safetensors"]) == 0
    weights = "--weights", 5, 3, 2
    orbax = mix(tmp_path / "orbax", three, *weights)
    other = mix(tmp_path / "other", torch, *weights)
    both = mix(tmp_path / "both", [three[0], *torch[1:]], *weights, "--to", "safetensors")
    assert (other / "model.safetensors").is_file()
    expected = values(orbax / "0")
    for folder in (other, both):
        found = values(folder)
        assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
        assert Pi0Policy.load(str(folder)).checkpoint.asset_id == "libero"


def test_bfloat16_stays(base, tmp_path):
    stored = [{n: v.astype(ml_dtypes.bfloat16) for n, v in moved(base, k).items()} for k in range(2)]
    out = mix(tmp_path / "mix", [save(tmp_path / str(k), p) for k, p in enumerate(stored)], "--weights", 1, 3)
    found = values(out / "0")[MIXED]
    assert found.dtype == ml_dtypes.bfloat16
    exact = np.float32(0.25) * stored[0][MIXED].astype(np.float32) + np.float32(0.75) * np.asarray(
        stored[1][MIXED], np.float32
    )
    np.testing.assert_array_equal(found, exact.astype(ml_dtypes.bfloat16))


def test_all_methods_on_planted_checkpoints(base, data_path, tmp_path, capsys):
    """Two checkpoints that are off to either side: the best mix is between them."""
    out_kernel = {"action_out_proj/kernel": 0.01 * base["action_out_proj/kernel"]}
    planted = [
        save(tmp_path / str(k), {**base, **out_kernel, BIAS: np.full(8, value, np.float32)})
        for k, value in enumerate((1.0, -1.0))
    ]
    data = "--data-path", data_path, "--num-iterations", 4, "--flow-samples", 2, "--batch-size", 12
    out = mix(tmp_path / "mix", planted, "--optimize_method", "all", *data)
    said = described(out)
    assert list(said["methods"]) == [
        "average",
        "inverse_loss",
        "gradient_descent",
        "adaptive_gradient_descent",
        "greedy",
    ]
    assert said["methods"]["greedy"]["weights"] == [[0.5, 0.5]]
    assert said["conclusion"].startswith("Mixing helped")
    assert capsys.readouterr().out.startswith("Mixing helped")
    selection = {row["name"]: row["selection"]["mean"] for row in said["losses"]["mixes"]}
    assert said["method"] == min(selection, key=selection.__getitem__)
    squares = [row["selection"]["mean"] ** -2 for row in said["losses"]["checkpoints"]]
    np.testing.assert_allclose(
        said["methods"]["inverse_loss"]["weights"][0], np.array(squares) / sum(squares), rtol=1e-6
    )
    assert len(said["methods"]["gradient_descent"]["steps"]) == 4
    assert (out / "mix_curve.png").read_bytes()[:4] == b"\x89PNG"
    # the loss that is reported is the loss of what was written
    weights = said["methods"][said["method"]]["weights"][0]
    np.testing.assert_allclose(values(out / "0")[BIAS], weights[0] - weights[1], atol=1e-6)
    # the same checkpoint twice with the data of another order of noise: nothing to conclude from equal ones
    line = refused(
        capsys, "--checkpoints", planted[0], planted[0], "--output", tmp_path / "x", "--optimize_method", "all", *data
    )
    assert "hold the same values" in line


def test_task_arithmetic(base, three, tmp_path):
    start = save(tmp_path / "start", base)
    out = mix(tmp_path / "mix", three[:2], "--base", start, "--scale", 0.5, -1)
    found, begun = values(out / "0")[MIXED], values(start)[MIXED]
    one, two = (values(location)[MIXED] for location in three[:2])
    np.testing.assert_allclose(found, begun + 0.5 * (one - begun) - (two - begun), atol=1e-5)
    assert "Ilharco" in (out / "mix_report.txt").read_text()
    for combine in ("ties", "dare"):
        out = mix(tmp_path / combine, three, "--base", start, "--combine", combine, "--density", 0.3)
        assert described(out)["method"] == combine
    # of TIES, at most three tenths of each of three vectors have moved
    moved_share = (values(tmp_path / "ties" / "0")[MIXED] != begun).mean()
    assert 0.3 < moved_share < 0.75


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Two fine-tunes of one policy whose adapters differ, and a full fine-tune."""
    folder, config = tmp_path_factory.mktemp("adapted"), small_config(vocabulary=1024, lora=True)
    params = drawn(config)
    tuned = [save(folder / f"lora{k}", moved(params, k, 0.3, only="lora_"), config) for k in range(2)]
    plain = {name: value for name, value in params.items() if "lora_" not in name}
    return tuned, save(folder / "full", moved(plain, 9))


def test_adapters_mixed_as_the_reference_does(adapted, tmp_path):
    tuned, _ = adapted
    out = mix(tmp_path / "mix", tuned, "--optimize_method", "average")
    found, (one, two) = values(out / "0"), [values(location) for location in tuned]
    for name, array in found.items():
        if "lora_" in name:
            np.testing.assert_allclose(array, (one[name] + two[name]) / 2, atol=1e-6)
        else:
            assert array.tobytes() == one[name].tobytes()
    assert "The factors of the LoRA adapters were mixed" in (out / "mix_report.txt").read_text()


def test_products_of_adapters_are_mixed_exactly(adapted, tmp_path):
    tuned, full = adapted
    out = mix(tmp_path / "mix", [*tuned, full], "--lora", "delta", "--weights", 2, 1, 1)
    found, (one, two, other) = values(out / "0"), [values(location) for location in (*tuned, full)]
    name, a, b = "PaliGemma/llm/layers/mlp/linear", *(f"PaliGemma/llm/layers/mlp/linear_lora_{part}" for part in "ab")
    products = [np.einsum("ldr,lre->lde", w[a].astype(np.float64), w[b].astype(np.float64)) for w in (one, two)]
    expected = 0.5 * (one[name] + products[0]) + 0.25 * (two[name] + products[1]) + 0.25 * other[name]
    np.testing.assert_allclose(found[name], expected, atol=1e-5)
    assert not any("lora_" in name for name in found)


def test_statistics_are_pooled(base, tmp_path):
    other = {**STATS, "state": NormStats(np.arange(8.0) + 2, np.full(8, 3.0))}
    locations = [save(tmp_path / str(k), moved(base, k), norm_stats=s) for k, s in enumerate((STATS, other))]
    out = mix(tmp_path / "mix", locations, "--optimize_method", "average")
    found = load_norm_stats(out / "norm_stats.json")["state"]
    np.testing.assert_allclose(found.mean, np.arange(8.0) + 1)
    np.testing.assert_allclose(found.std, np.sqrt((1 + 9) / 2 + 1))
    assert "pooled by the states behind them" in (out / "mix_report.txt").read_text()
    save_norm_stats(tmp_path / "own.json", STATS)
    out = mix(tmp_path / "own", locations, "--optimize_method", "average", "--norm-stats", tmp_path / "own.json")
    np.testing.assert_array_equal(load_norm_stats(out / "0/assets/libero/norm_stats.json")["state"].std, np.ones(8))


def test_the_references_options_are_understood(three, tmp_path, capsys):
    reference = "--use_gpu", "--gpu_ids", "0", "--optimize_method", "average"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        mix(tmp_path / "mix", three, *reference)
    assert "without --data-path nothing is computed on a GPU" in capsys.readouterr().err


def test_an_earlier_mix_is_replaced_and_nothing_else(three, tmp_path, capsys):
    average = "--optimize_method", "average"
    out = mix(tmp_path / "mix", three, *average)
    before = (out / "mix.json").read_bytes()
    line = refused(capsys, "--checkpoints", *three, "--output", out, *average)
    assert "exists; choose another folder, or replace an earlier mix with --overwrite" in line
    assert (out / "mix.json").read_bytes() == before
    mix(out, three, "--weights", 1, 0, 0, "--overwrite")
    assert described(out)["method"] == "weights"
    precious = tmp_path / "precious"
    precious.mkdir()
    assert "is no earlier mix" in refused(
        capsys, "--checkpoints", *three, "--output", precious, *average, "--overwrite"
    )
    inside = Path(three[0])
    assert "which is read" in refused(
        capsys, "--checkpoints", *three, "--output", inside.parent, *average, "--overwrite"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mix", "precious"]


REFUSED = {
    "expected one of --optimize-method, --weights and --base, found none": (),
    "found --optimize-method and --weights": ("--optimize_method", "average", "--weights", 1, 1, 1),
    "weights: expected 3, one for each checkpoint; found 2": ("--weights", 1, 1),
    "weights: expected numbers of at least 0": ("--weights", 1, 1, -1),
    "weights: expected one above 0": ("--weights", 0, 0, 0),
    "data_path: greedy looks at losses on validation data": ("--optimize_method", "greedy"),
    "weights_by: layer goes with": ("--optimize_method", "average", "--weights-by", "layer"),
    "scale: goes with --base": ("--optimize_method", "average", "--scale", 2),
    "density: expected a share above 0": ("--base", "tiny", "--combine", "ties", "--density", 1.5),
    "scale: expected one for all, or 3, one for each checkpoint; found 2": ("--base", "tiny", "--scale", 1, 2),
    "num_iterations: expected at least 1": ("--optimize_method", "average", "--num-iterations", 0),
    "no such file; make validation data": ("--optimize_method", "average", "--data-path", "missing.zarr.zip"),
    "norm_stats: ": ("--optimize_method", "average", "--norm-stats", "missing.json"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_bad_options(three, tmp_path, capsys, said):
    output = tmp_path / "mix"
    assert said in refused(capsys, "--checkpoints", *three, "--output", output, *REFUSED[said])
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_do_not_fit(three, adapted, base, tmp_path, capsys):
    average = "--output", tmp_path / "mix", "--optimize_method", "average"
    wide = small_config(vocabulary=1024, action_horizon=7)
    other = save(tmp_path / "other", drawn(wide), wide)
    line = refused(capsys, "--checkpoints", three[0], other, *average)
    assert "expected one architecture, found action_horizon 5 and 7" in line
    line = refused(capsys, "--checkpoints", three[0], adapted[0][0], *average)
    assert "--lora delta mixes" in line
    unlike = save(tmp_path / "bare", moved(base, 3), norm_stats=None, asset_id=None)
    assert "has no statistics" in refused(capsys, "--checkpoints", unlike, three[1], *average)
    assert "expected at least 2, found 1" in refused(capsys, "--checkpoints", three[0], *average)
    assert "no such file or folder" in refused(capsys, "--checkpoints", three[0], tmp_path / "none", *average)
    assert not (tmp_path / "mix").exists()


def test_a_pickle_is_refused(three, tmp_path, capsys):
    (tmp_path / "val.pkl").write_bytes(b"\x80\x04.")
    line = refused(capsys, "--checkpoints", *three, "--output", tmp_path / "m", "--optimize_method", "greedy",
                   "--data-path", tmp_path / "val.pkl")  # fmt: skip
    assert "is a pickle" in line
    assert "dump-data" in line


def test_values_that_are_no_numbers_are_refused(base, three, data_path, tmp_path, capsys):
    spoilt = {name: value.copy() for name, value in base.items()}
    spoilt[MIXED].flat[7] = np.nan
    nan = save(tmp_path / "nan", spoilt)
    for options in (
        ("--weights", 1, 1),
        ("--optimize_method", "greedy", "--data-path", data_path),
        ("--base", three[1]),
    ):
        line = refused(capsys, "--checkpoints", three[0], nan, "--output", tmp_path / "mix", *options)
        assert f"{nan}: parameter {MIXED}: 1 of " in line
    huge = save(tmp_path / "huge", {name: value * np.float32(1e38) for name, value in base.items()})
    line = refused(capsys, "--checkpoints", three[0], "--base", huge, "--scale", 1e3, "--output", tmp_path / "mix")
    assert "the mix: parameter" in line


def test_large_weights_do_not_overflow(three, tmp_path):
    out = mix(tmp_path / "mix", three[:2], "--weights", 1e308, 1e308)
    assert described(out)["methods"]["weights"]["weights"] == [[0.5, 0.5]]


def test_what_lies_in_an_earlier_mix_is_not_lost(three, tmp_path, capsys, monkeypatch):
    average = "--optimize_method", "average", "--overwrite"
    out = mix(tmp_path / "mix", three, *average)
    (out / "thesis.tex").write_text("years of work")
    assert "holds thesis.tex, which no mix wrote" in refused(capsys, "--checkpoints", *three, "--output", out, *average)
    (out / "thesis.tex").unlink()
    line = refused(capsys, "--checkpoints", *three, "--output", out, *average, "--norm-stats", out / "norm_stats.json")
    assert "which is read" in line
    line = refused(capsys, "--checkpoints", *three, "--output", Path(three[0]) / "params" / "mixed", *average)
    assert "lies inside" in line
    project = tmp_path / "project"
    project.mkdir()
    (project / "mix.json").write_text('{"recipe": 1}')
    assert "is no earlier mix" in refused(capsys, "--checkpoints", *three, "--output", project, *average)
    (tmp_path / "file").touch()
    assert "is no folder" in refused(capsys, "--checkpoints", *three, "--output", tmp_path / "file" / "mix", *average)
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(out)
    for same in (tmp_path / "link", "."):
        mix(same, three, *average)
        assert (tmp_path / "link").is_symlink()
        assert described(tmp_path / "mix")["method"] == "average"
        monkeypatch.chdir(tmp_path / "mix")


def test_statistics_that_do_not_fit(three, tmp_path, capsys):
    options = "--output", tmp_path / "mix", "--optimize_method", "average", "--norm-stats", tmp_path / "own.json"
    save_norm_stats(tmp_path / "own.json", {"state": STATS["state"]})
    assert "expected statistics of state and actions, found state" in refused(capsys, "--checkpoints", *three, *options)
    save_norm_stats(tmp_path / "own.json", {**STATS, "state": NormStats(np.zeros(3), np.ones(3))})
    assert "state: expected 8 numbers as in the checkpoints, found 3" in refused(
        capsys, "--checkpoints", *three, *options
    )


def test_data_that_present_actions_otherwise(base, data_path, tmp_path, capsys):
    record = Record(robot="libero", normalisation="zscore", norm_stats_count=100, delta_actions=True)
    delta = [save(tmp_path / str(k), moved(base, k), record=record) for k in range(2)]
    options = "--output", tmp_path / "mix", "--optimize_method", "average", "--data-path", data_path
    assert "delta_actions: it was made with False" in refused(capsys, "--checkpoints", *delta, *options)


def test_adapters_have_no_torch_form(adapted, tmp_path, capsys):
    line = refused(
        capsys, "--checkpoints", *adapted[0], "--output", tmp_path / "m", "--weights", 1, 1, "--to", "safetensors"
    )
    assert "--lora delta adds them to the weights" in line


def test_nothing_differs(three, tmp_path, capsys):
    line = refused(capsys, "--checkpoints", three[0], three[0], "--output", tmp_path / "mix", "--weights", 1, 1)
    assert "hold the same values" in line
    assert "base: expected a checkpoint" in refused(
        capsys, "--checkpoints", *three, "--output", tmp_path / "m", "--base", ""
    )


def test_killed_while_writing(three, tmp_path):
    """The inputs stay as they were, and there is no output; the next mix tidies up."""
    before = {location: values(location) for location in three}
    code = (
        "import time, sys; from vlascope_server.mixing import files; from vlascope_server.commands import main\n"
        "files.report = lambda mixed: (print('writing', flush=True), time.sleep(60))\n"
        "main(sys.argv[1:])"
    )
    args = ["mix", "--checkpoints", *three, "--output", str(tmp_path / "mix"), "--optimize_method", "average"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert process.stdout
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mix").exists()
    assert len(list(tmp_path.glob("mix.*.partial"))) == 1
    for location, expected in before.items():
        assert all(array.tobytes() == expected[name].tobytes() for name, array in values(location).items())
    mix(tmp_path / "mix", three, "--optimize_method", "average")
    assert [p.name for p in tmp_path.iterdir()] == ["mix"]
