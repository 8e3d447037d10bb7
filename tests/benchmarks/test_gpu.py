"""What is measured on a card is right before a card is there: counts, phases, variants, and the script that runs them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vlascope_server.model import fuse_for_inference, init_params, sample_actions
from vlascope_server.model.config import full_size

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/gpu_check.sh"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The scripts' folder, as Python has it when one of them runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


def module(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def small(benchmarks):
    config = dataclasses.replace(module("models").SMALL, dtype="float32")
    observation = module("models").random_observation(config)
    noise = module("models").random_noise(config)
    return config, fuse_for_inference(init_params(config)), observation, noise


def test_the_work_of_the_published_size():
    """Counted by hand from the published sizes: 4.0 TFLOP before the flow, and ten passes over 0.31e9 parameters."""
    work = module("work").count_work(full_size(), 1, 10, 2)
    assert work.vision.operations + work.prefix.operations == pytest.approx(4.0e12, rel=0.01)
    assert work.denoise.bytes_read == pytest.approx(10 * 2 * (0.315e9 + 2 * 18 * 816 * 256), rel=0.02)
    assert work.operations == sum(phase.operations for phase in work.phases.values())
    # an H100: the prefix is bound by arithmetic, the flow by memory, and the two add up
    assert work.seconds(989e12, 3.35e12) == pytest.approx(5.96e-3, rel=0.01)
    alone = max(work.operations / 989e12, work.bytes_read / 3.35e12)
    assert work.seconds(989e12, 3.35e12) > 1.3 * alone


def test_work_grows_with_cameras_and_batch():
    count_work, config = module("work").count_work, full_size()
    one, three = count_work(config.with_cameras("base_0_rgb"), 1, 10, 2), count_work(config, 1, 10, 2)
    assert three.vision.operations == 3 * one.vision.operations
    assert count_work(config, 8, 10, 2).denoise.operations == 8 * three.denoise.operations
    # weights are read once, whatever the batch; the cache of each sample is another
    grown = count_work(config, 2, 10, 2).denoise.bytes_read - three.denoise.bytes_read
    assert grown == 10 * 2 * 2 * 18 * 816 * 256


def test_phases_are_parts_of_the_whole(small):
    config, params, observation, noise = small
    calls = module("phases").phases(params, config, observation, noise, 10)
    np.testing.assert_allclose(calls["denoise"](), calls["whole"](), atol=1e-5)
    assert [tokens.shape[1] for tokens in calls["vision"]()] == [config.vision.tokens] * 3
    cache, _, _ = calls["prefix"]()
    assert cache.v.shape[0] == config.vlm.depth


def test_every_variant_computes_what_the_model_does(small):
    """Those that change how the program is traced, on a CPU; XLA's options for a card change nothing here."""
    config, params, observation, noise = small
    gpu_variants, latency = module("gpu_variants"), module("gpu_latency")
    plain = sample_actions(params, config, observation, noise, num_steps=10)[0]
    listed = gpu_variants.variants((config.vision.depth, config.vlm.depth, 10))
    assert listed[0].name == "plain"
    assert len({variant.name for variant in listed}) == len(listed)
    programs = {}
    for variant in listed:
        if variant.name in ("plain", "steps unrolled", "cudnn", "no barriers"):
            call = lambda *given: latency._sample(config, *given)  # noqa: E731
            program = gpu_variants.compiled(call, (params, observation, noise), variant)
            found = program(params, observation, noise)
            assert gpu_variants.difference(found, plain) < 2e-4 * float(abs(plain).max()), variant.name
            programs[variant.name] = program.as_text()
    # each is another program: what was traced for one is not handed out for the next
    assert len(set(programs.values())) == len(programs)
    # each denoise step has a loop over layers of its own then
    assert programs["steps unrolled"].count("while(") > programs["plain"].count("while(") + 5


def test_the_script_says_what_it_lacks(tmp_path):
    """Without a card the whole check is refused in one line, and an unknown part names those that there are."""
    environment = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}

    def check(*options):
        command = ["bash", str(SCRIPT), "--output", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    refused = check()
    assert refused.returncode == 2
    assert refused.stderr.strip() == "gpu_check: JAX sees no card; --size small is a dry run on the CPU"
    wrong = check("--only", "speed")
    assert wrong.returncode == 2
    assert "correctness" in wrong.stderr.splitlines()[-1]


def test_a_part_that_fails_is_listed_and_the_others_run(tmp_path, monkeypatch):
    check = module("gpu_check")
    part = check.PARTS["capture"]
    monkeypatch.setitem(
        check.PARTS,
        "latency",
        dataclasses.replace(part, command=lambda *_: [sys.executable, "-c", "raise SystemExit(7)"]),
    )
    monkeypatch.setitem(
        check.PARTS,
        "capture",
        dataclasses.replace(part, command=lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"]),
    )
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path), "--only", "latency", "--only", "capture",
                                      "--size", "small", "--minutes", "0.1"])  # fmt: skip
    assert check.main() == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["latency"]["problem"].startswith("ended with 7; see ")
    assert summary["capture"]["problem"].startswith("not done after ")


@pytest.mark.slow
def test_the_dry_run(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(SCRIPT), "--output", str(tmp_path), "--size", "small", "--minutes", "20"]
    subprocess.run(command, env=environment, check=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == ["correctness", "latency", "capture", "serving", "training"]
    assert summary["correctness"]["results"]["failed"] == 0
    assert all(each["same_bits"] for each in summary["capture"]["results"]["specs"])
    assert all("seconds" in each for each in summary["latency"]["results"]["variants"])
