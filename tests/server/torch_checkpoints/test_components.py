"""What is counted, at the sizes of the published models too; and what `inspect` says of a Pi0 beside a PyTorch checkpoint."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from vlascope_base.text import readable_binary_bytes
from vlascope_server.commands import main
from vlascope_server.torch_checkpoints import TorchCheckpointError, inspect_checkpoint, open_torch_checkpoint
from vlascope_server.torch_checkpoints.components import component_of, wrapper_of
from vlascope_server.torch_checkpoints.coverage import Covered
from vlascope_server.torch_checkpoints.report import one_as_json

from tests.server.robovlms import CHECKPOINTS, FOLDER, INDEX
from tests.server.torch_checkpoints import kosmos
from tests.server.torch_checkpoints.files import Tensor, write_checkpoint

ARITHMETIC = json.loads((FOLDER / "seed_arithmetic.json").read_text())
LIGHTNING = {"epoch": 9, "global_step": 250, "pytorch-lightning_version": "2.2.2"}

_CHILD = """
import sys, time
from vlascope_server.commands import main
code = main(["inspect", sys.argv[1], "--json"])
# of this program alone: the maximum that getrusage tells is also that of the process it was started from
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, time.process_time(), file=sys.stderr)
sys.exit(code)
"""


def test_a_checkpoint_of_seven_gigabytes(tmp_path):
    """Full Kosmos-2 with LoRA of rank 32, saved under two names, with Adam's moments: in 500 MB and 20 seconds of a core."""
    expected = ARITHMETIC["r32"]
    parts = kosmos.backbone(kosmos.FULL_TEXT, kosmos.FULL_VISION, latents=64)
    weights = kosmos.adapted(parts, kosmos.FULL_HEAD, 2048, 32, ARITHMETIC["targets"])
    trained = {name: tensor for name, tensor in weights.items() if ".lora_" in name and ".backbone." in name}
    trained |= {name: tensor for name, tensor in weights.items() if "act_head" in name or "action_token" in name}
    state = {
        number: {moment: Tensor(f"{moment}{number}", tensor.shape) for moment in ("exp_avg", "exp_avg_sq")}
        for number, tensor in enumerate(trained.values())
    }
    content = {**LIGHTNING, "state_dict": weights, "optimizer_states": [{"state": state}]}
    path = write_checkpoint(tmp_path / "epoch=9.ckpt", content)
    assert path.stat().st_size == pytest.approx(expected["gib_file_fp32_weights_plus_adam"] * 2**30, rel=1e-3)
    done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["checkpoints"][0]
    assert found["tensors_named"] == expected["total_named"]
    assert found["elements_named"] == expected["elements_named"]
    assert found["elements_unique"] == expected["elements_unique"]
    assert found["bytes_named"] / 2**30 == pytest.approx(expected["gib_named_fp32"])
    assert found["components"]["vlm"]["tensors_named"] == expected["vlm_tensors"]
    head = found["components"]["action_head"]
    assert (head["tensors_named"], head["elements_named"]) == tuple(
        ARITHMETIC[f"act_head_{k}"] for k in ("tensors", "elements")
    )
    assert (found["lstm"]["elements"], found["lstm"]["input_size"]) == (ARITHMETIC["rnn_elements"], 2048)
    lora = found["lora"]
    assert (lora["layers"], lora["ranks"]) == (ARITHMETIC["linear_modules_without_lm_head"], [32])
    assert sum(math.prod(tensor.shape) for tensor in trained.values()) == expected["trainable"]
    assert found["beside_the_weights"]["optimizer_states"]["bytes"] == 2 * 4 * expected["trainable"]
    assert (found["model"], found["missing"], found["unexpected"]) == ("RoboKosMos", [], [])
    peak, seconds = done.stderr.split()
    assert int(peak) < 500e6
    assert float(seconds) < 20


def test_a_flat_policy_without_adapters(tmp_path):
    """The state dict of the goldens' wide policy."""
    policy = INDEX["policies"]["wide2048"]
    sizes = policy["head"]
    head = kosmos.head(
        policy["text"]["embed_dim"], sizes["hidden_size"], sizes["num_layers"], sizes["mlp"],
        {sizes["kind"]: sizes["action_dim"] * sizes["fwd_pred_next_n"]},
    )  # fmt: skip
    parts = kosmos.backbone(policy["text"], policy["vision"], policy["latent_query_num"])
    path = write_checkpoint(tmp_path / "wide.pt", kosmos.plain(parts, head, policy["text"]["embed_dim"]))
    found, expected = one_as_json(inspect_checkpoint(open_torch_checkpoint(path))), policy["inspect_plain"]
    assert found["layout"] == "flat"
    for key in ("tensors_named", "elements_named", "tensors_unique", "elements_unique"):
        assert found[key] == expected[key], key
    for component, counts in expected["components"].items():
        assert {key: found["components"][component][key] for key in counts} == counts
    assert {key: found["lstm"][key] for key in expected["lstm"]} == expected["lstm"]
    assert (found["model"], found["missing"], found["unexpected"]) == ("RoboKosMos", [], [])


def test_runs_of_bytes_against_a_set():
    random = np.random.default_rng(0)
    for _ in range(200):
        covered, there = Covered(), set()
        for _ in range(20):
            start = int(random.integers(0, 60))
            stop = start + int(random.integers(1, 15))
            new = set(range(start, stop)) - there
            assert covered.add(start, stop) == len(new)
            there |= new


def test_chunks_of_columns_count_whole(tmp_path):
    """The three parts of one (64, 192) matrix: each is 64 runs of 64 values, and none shares a value with another."""
    chunks = {n: Tensor("0", (64, 64), strides=(192, 1), offset=64 * i, stored=64 * 192) for i, n in enumerate("qkv")}
    content = {
        **chunks,
        "again": chunks["q"],
        "whole": Tensor("0", (64, 192)),
        "one": Tensor("1", (5, 2), strides=(7, 1), stored=40),
    }
    counts = inspect_checkpoint(open_torch_checkpoint(write_checkpoint(tmp_path / "qkv.pt", content))).counts
    assert (counts.total.elements_unique, counts.total.bytes_unique) == (64 * 192 + 10, 4 * (64 * 192 + 10))
    assert counts.shared == {"again": "q"}


def test_views_against_a_set_of_their_elements(tmp_path):
    """Random views of one storage, overlapping each other and themselves: every element once, at its first name."""
    random = np.random.default_rng(0)
    for _ in range(60):
        views, there, expected = {}, set(), 0
        for number in range(6):
            shape = tuple(int(n) for n in random.integers(1, 5, size=random.integers(1, 4)))
            strides = tuple(int(n) for n in random.integers(0, 12, size=len(shape)))
            offset = int(random.integers(0, 20))
            views[f"w{number}"] = Tensor("0", shape, strides=strides, offset=offset, stored=200)
            mine = {offset + int(np.dot(index, strides)) for index in np.ndindex(*shape)}
            expected += len(mine - there)
            there |= mine
        path = write_checkpoint(tmp_path / "views.pt", views)
        assert inspect_checkpoint(open_torch_checkpoint(path)).counts.total.elements_unique == expected


def test_views_that_are_too_dear_to_count_are_refused(tmp_path):
    odd = {f"w{n}": Tensor("0", (30_000, 20_000), strides=(60_000, 3), offset=n, stored=1 << 31) for n in range(2)}
    path = write_checkpoint(tmp_path / "dear.pt", odd)
    start = time.monotonic()
    with pytest.raises(TorchCheckpointError, match="too dear to count") as error:
        inspect_checkpoint(open_torch_checkpoint(path))
    assert str(error.value).startswith(f"{path}: ")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("name", "component"),
    {
        "act_head.rnn.weight_ih_l0": "action_head",
        "action_head.0.weight": "action_head",
        "action_token": "action_token",
        "backbone.text_model.model.embed_tokens.weight": "vlm",
        "model.base_model.model.text_model.lm_head.weight": "vlm",
        "vision_tower.blocks.0.attn.qkv.weight": "vlm",
        "fwd_head.pred.weight": "other",
        "logit_scale": "other",
        "policy.act_head.rnn.weight_ih_l0": "action_head",
        "policy.backbone.text_model.x": "vlm",
        "base_model.model.act_head.rnn.weight_ih_l0": "action_head",
        "module.base_model.model.action_token": "action_token",
        "base_model.model.text_model.lm_head.weight": "vlm",
    }.items(),
)
def test_components_by_name(name, component):
    assert component_of(name) == component


def test_wrappers():
    assert wrapper_of(["module.model.a", "module.model.b"]) == "module.model."
    assert wrapper_of(["model.a", "b"]) == ""
    assert wrapper_of(["policy.model.a", "policy.model.b"]) == "policy.model."
    assert wrapper_of(["base_model.model.act_head.x", "base_model.model.backbone.y"]) == "base_model.model."
    assert wrapper_of(["base_model.model.text_model.x", "base_model.model.vision_model.y"]) == ""
    assert wrapper_of([]) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (13.76 * 2**30, "13.76 GiB"),
        (2**30 - 1, "1.00 GiB"),
        (2**41, "2.00 TiB"),
    ],
)
def test_binary_bytes(count, text):
    assert readable_binary_bytes(count) == text


def test_two_checkpoints_of_which_one_is_a_pi0(capsys):
    policy = str(CHECKPOINTS / INDEX["policies"]["arm7d"]["checkpoint"].removeprefix("checkpoints/"))
    for first, second in (("tiny", "tiny-half-0"), ("tiny", policy), (policy, "tiny")):
        assert main(["inspect", first, second]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "use vlascope-server diff" in line


def test_options_of_the_other_room_are_refused(capsys, tmp_path):
    policy = str(CHECKPOINTS / INDEX["policies"]["arm7d"]["checkpoint"].removeprefix("checkpoints/"))
    for words in (
        ["tiny", "--output-dir", str(tmp_path / "out")],
        ["tiny", "--trust"],
        [policy, "--preset", "pi0_base"],
    ):
        assert main(["inspect", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "leave it away" in line
    assert not list(tmp_path.iterdir())
