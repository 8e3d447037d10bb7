"""Every checkpoint of the goldens is told as `index.json` expects; no malicious file is run; unfinished downloads are named."""

from __future__ import annotations

import json
import runpy

import pytest
from vlascope_base.text import readable_bytes
from vlascope_server.commands import main
from vlascope_server.torch_checkpoints import (
    RefusedPickleError,
    TorchCheckpointError,
    compare_heads,
    inspect_checkpoint,
    open_torch_checkpoint,
)
from vlascope_server.torch_checkpoints.report import one_as_json

from tests.server.robovlms import CHECKPOINTS, FOLDER, INCOMPLETE, INDEX

FILES = {name.removeprefix("checkpoints/"): entry for name, entry in INDEX["files"].items() if name != "incomplete/"}
MALICIOUS = {name: entry for name, entry in FILES.items() if "global_called" in entry}
LOCAL, CACHE = INCOMPLETE / "local_dir", INCOMPLETE / "hub_cache"

LORA, PLAIN = (INDEX["policies"][name]["checkpoint"].removeprefix("checkpoints/") for name in ("mobile2d", "arm7d"))
(PARTIAL,) = (name for name, entry in FILES.items() if "missing" in entry)
(OTHER,) = (name for name, entry in FILES.items() if "compatible_with_mobile2d" in entry)


def inspected(name: str):
    return one_as_json(inspect_checkpoint(open_torch_checkpoint(CHECKPOINTS / name)))


def test_every_checkpoint_has_an_entry():
    assert {path.name for path in CHECKPOINTS.iterdir()} == set(FILES)
    assert len(MALICIOUS) >= 3


@pytest.mark.parametrize("name", [name for name, entry in FILES.items() if "inspect" in entry])
def test_counts(name):
    found, expected = inspected(name), FILES[name]["inspect"]
    for key in ("tensors_named", "elements_named", "tensors_unique", "elements_unique", "bytes_named", "bytes_unique"):
        assert found[key] == expected[key], key
    for component, counts in expected["components"].items():
        assert {key: found["components"][component][key] for key in counts} == counts, component
    assert set(found["components"]) == set(expected["components"])
    assert {
        dtype: {
            "tensors": counts["tensors_unique"],
            "elements": counts["elements_unique"],
            "bytes": counts["bytes_unique"],
        }
        for dtype, counts in found["dtypes"].items()
    } == expected["by_dtype_unique"]
    assert {key: found["lstm"][key] for key in expected["lstm"]} == expected["lstm"]
    assert (found["lora"] or {"tensors_named": 0})["tensors_named"] == expected["lora_tensors_named"]
    assert found["first_names"][: len(expected["first_names"])] == expected["first_names"]
    assert (found["missing"], found["unexpected"]) == ([], [])


@pytest.mark.parametrize("name", [name for name, entry in FILES.items() if "keys" in entry])
def test_layout_and_keys(name):
    found, expected = inspected(name), FILES[name]
    assert found["layout"] == expected["layout"]
    assert found["keys"] == expected["keys"]
    for key in ("epoch", "global_step"):
        assert found["training"].get(key) == expected.get(key, found["training"].get(key))
    if "version" in expected:
        assert found["training"]["framework"] == f"PyTorch Lightning {expected['version']}"


@pytest.mark.parametrize("policy", [entry for entry in INDEX["policies"].values() if "configs" in entry])
def test_configuration_and_adapters(policy):
    found = inspected(policy["checkpoint"].removeprefix("checkpoints/"))
    assert found["configuration"] == policy["configs"]
    setup, chunk = policy["configs"]["train_setup"], policy["configs"]["fwd_pred_next_n"]
    assert sum(found["head_outputs"].values()) == chunk * policy["action_dim"]
    if setup["lora_enable"]:
        lora = found["lora"]
        assert (lora["ranks"], lora["alpha"]) == ((setup["lora_r"],), setup["lora_alpha"])
        assert lora["scale"] == setup["lora_alpha"] / setup["lora_r"]
    else:
        assert found["lora"] is None


@pytest.mark.parametrize("name", [name for name, entry in FILES.items() if "missing" in entry])
def test_missing_and_unexpected_names(name):
    found, expected = inspected(name), FILES[name]
    assert set(found["missing"]) == set(expected["missing"])
    assert set(found["unexpected"]) == set(expected["unexpected"])


def test_hook_points():
    points = [fact.partition(" (")[0] for fact in INDEX["facts"]["hook_points"]]
    for name in (LORA, PLAIN):
        found = inspected(name)["hook_points"]
        assert set(points) <= {hook["module"] for hook in found}
        assert found[0]["module"] == points[0] == "act_head"
        assert (found[0]["read"], found[0]["width"]) == ("input", INDEX["dims"]["text"]["embed_dim"])


@pytest.mark.parametrize("name", [name for name, entry in FILES.items() if "unknown" in entry])
def test_unknown_classes_are_named_and_not_imported(name):
    found, expected = inspected(name), FILES[name]
    assert found["unknown_classes"] == expected["unknown"]
    assert set(expected["also"]) <= set(found["harmless_classes"])
    assert (found["training"]["epoch"], found["training"]["global_step"]) == (
        expected["epoch"],
        expected["global_step"],
    )


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_pickle_is_refused_and_never_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    called, canary = MALICIOUS[name]["global_called"], MALICIOUS[name]["canary_file_in_cwd_if_executed"]
    with pytest.raises(RefusedPickleError, match=rf"would call {called}\('{canary}'"):
        open_torch_checkpoint(CHECKPOINTS / name)
    assert main(["inspect", str(CHECKPOINTS / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert called in line
    # whoever is trusted, the call is not made
    trusted = main(["inspect", str(CHECKPOINTS / name), "--trust"])
    captured = capsys.readouterr()
    if trusted == 0:
        assert called in captured.out
    else:
        assert "no map from names to tensors" in captured.err
    assert not list(tmp_path.iterdir())


def test_a_malicious_checkpoint_with_good_weights_is_read_when_it_is_trusted():
    (name,) = (name for name, entry in MALICIOUS.items() if "state_dict is good" in entry["layout"])
    found = open_torch_checkpoint(CHECKPOINTS / name, trust=True)
    assert "model.action_token" in found.tensors
    canary = MALICIOUS[name]["canary_file_in_cwd_if_executed"]
    assert found.calls == {MALICIOUS[name]["global_called"]: f"({canary!r}, 'w')"}


(TRUNCATED,) = INCOMPLETE.glob("truncated_*")
(LOCK,) = LOCAL.rglob("*.pt.lock")
(CACHE_LOCK,) = (CACHE / ".locks").rglob("*.lock")
(LOCAL_PART,), (CACHE_PART,) = LOCAL.rglob("*.incomplete"), CACHE.rglob("blobs/*.incomplete")
POINTER = INCOMPLETE / "lfs_pointer.pt"


def size_of(path):
    return readable_bytes(path.stat().st_size)


UNFINISHED = {
    "truncated": (TRUNCATED, f"cut short: {TRUNCATED.stat().st_size:,} bytes are here"),
    "pointer": (
        POINTER,
        f"a Git LFS pointer, which stands in place of the {readable_bytes(int(POINTER.read_text().split()[-1]))}",
    ),
    "not there": (
        LOCAL / "checkpoints" / LOCK.stem,
        f"not there: a download of {LOCK.stem} by the Hugging Face hub never finished: 1 unfinished ({size_of(LOCAL_PART)}",
    ),
    "folder": (LOCAL, f"a folder; a download of {LOCK.stem} by the Hugging Face hub never finished"),
    "cache": (CACHE, "repeat it with `hf download robovlms/RoboVLMs checkpoints/kosmos_ph_oxe-pretrain.pt`"),
    "lock": (CACHE_LOCK, "a lock file of a download, which holds no weights"),
    "part": (CACHE_PART, f"an unfinished download ({size_of(CACHE_PART)} so far)"),
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_unfinished_downloads_are_named(what, capsys):
    path, said = UNFINISHED[what]
    with pytest.raises(TorchCheckpointError) as error:
        open_torch_checkpoint(path)
    assert said in str(error.value)
    assert "invalid argument" not in str(error.value).lower()
    assert main(["inspect", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vlascope-server: {path}")
    assert said in line


def test_a_file_cut_short_says_how_much_is_missing():
    whole = inspected(PLAIN)
    with pytest.raises(TorchCheckpointError, match=f"lists have {whole['bytes_unique']:,} bytes alone"):
        open_torch_checkpoint(TRUNCATED)


def test_action_heads(capsys, tmp_path):
    first, second = (str(CHECKPOINTS / name) for name in (LORA, OTHER))
    assert main(["inspect", first, second, "--json", "--output-dir", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    heads = json.loads(captured.out)["action_heads"]
    assert heads["compatible"] is FILES[OTHER]["compatible_with_mobile2d"] is False
    reasons = " ".join(heads["reasons"])
    ours, theirs = (inspected(name)["lstm"] for name in (LORA, OTHER))
    words = {"input": "input_size", "hidden size": "hidden_size", "layers": "num_layers"}
    sizes = ", ".join(f"{word} {ours[key]} and {theirs[key]}" for word, key in words.items())
    for text in (sizes, "another architecture", "no action token"):
        assert text in reasons
    files = [tmp_path / "out" / name for name in ("checkpoint_structure_analysis.json", "CHECKPOINT_STRUCTURE.md")]
    assert captured.err.splitlines() == [str(file) for file in files]
    written = json.loads(files[0].read_text())
    assert written["action_heads"] == heads
    assert {"time", "versions"} <= written.keys()
    text = files[1].read_text()
    for said in (
        "**No.**",
        "Getting the pretrained checkpoint",
        "hf download robovlms/RoboVLMs",
        "register_forward_pre_hook",
    ):
        assert said in text


def test_action_heads_of_one_policy_are_compatible():
    policy = inspect_checkpoint(open_torch_checkpoint(CHECKPOINTS / PLAIN))
    assert compare_heads(policy, policy).compatible
    partial = inspect_checkpoint(open_torch_checkpoint(CHECKPOINTS / PARTIAL))
    heads = compare_heads(policy, partial)
    assert not heads.compatible
    assert set(heads.only_first) == {name for name in FILES[PARTIAL]["missing"] if name.startswith("act_head.")}
    assert set(heads.unexpected) == set(FILES[PARTIAL]["unexpected"])
    tied = {"backbone.text_model.lm_head.weight"}
    assert set(heads.missing) == {*FILES[PARTIAL]["missing"], *tied}


def test_weights_are_the_recipe():
    """What `array` gives is what the recipe makes of a tensor's name."""
    recipe = runpy.run_path(str(FOLDER / "weights_recipe.py"))["tensor"]
    checkpoint = open_torch_checkpoint(CHECKPOINTS / PLAIN)
    name = "act_head.rnn.weight_hh_l2"
    found = checkpoint.array(f"module.{name}")
    made = [recipe(INDEX["recipe_seed"] + seed, name, found.shape) for seed in range(4)]
    assert any((found == values).all() for values in made)
