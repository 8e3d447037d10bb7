"""Files that were made to harm: each is one line, quickly, and nothing of it is run."""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vlascope_server.torch_checkpoints import (
    RefusedPickleError,
    TorchCheckpointError,
    inspect_checkpoint,
    open_torch_checkpoint,
)
from vlascope_server.torch_checkpoints import pickles as reader
from vlascope_server.torch_checkpoints.classes import judge, spelt
from vlascope_server.torch_checkpoints.report import document, one_as_json
from vlascope_server.torch_checkpoints.values import Placeholder

from tests.server.torch_checkpoints.files import Raw, Tensor, named, pickled, write_checkpoint, write_zip

GOOD = {"state_dict": {"model.action_token": Tensor("0", (4,))}, "epoch": 1}


def called(module: str, name: str, *args: object) -> Raw:
    """A call of a function."""
    return Raw(named(module, name) + pickled(args)[2:-1] + b"R")


CALLS = {
    "os.system": ("os", "system", "touch CANARY"),
    "posix.system": ("posix", "system", "touch CANARY"),
    "nt.system": ("nt", "system", "touch CANARY"),
    "builtins.exec": ("builtins", "exec", "open('CANARY', 'w')"),
    "builtins.eval": ("__builtin__", "eval", "open('CANARY', 'w')"),
    "builtins.getattr": ("builtins", "getattr", "x", "y"),
    "builtins.open": ("__builtin__", "open", "CANARY", "w"),
    "io.open": ("io", "open", "CANARY", "w"),
    "subprocess.Popen": ("subprocess", "Popen", "touch CANARY"),
    "subprocess.getoutput": ("commands", "getoutput", "touch CANARY"),
    "shutil.rmtree": ("shutil", "rmtree", "."),
    "runpy.run_path": ("runpy", "run_path", "x.py"),
    "importlib.import_module": ("importlib", "import_module", "os"),
    "operator.attrgetter": ("operator", "attrgetter", "system"),
    "pathlib.Path.write_text": ("pathlib", "Path.write_text", "CANARY"),
    "torch.load": ("torch", "load", "other.pt"),
    "torch.hub.load": ("torch.hub", "load", "owner/repository"),
    "torch.utils.collect_env.run": ("torch.utils.collect_env", "run", "touch CANARY"),
    "numpy.testing._private.utils.runstring": ("numpy.testing._private.utils", "runstring", "x", {}),
    "cloudpickle.cloudpickle._make_function": ("cloudpickle.cloudpickle", "_make_function", "x"),
    "pip._internal.main": ("pip._internal", "main", "install"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("where", ["beside", "key", "in the weights", "alone"])
def test_dangerous_calls_are_refused_and_named(name, where, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    call = called(*CALLS[name])
    content = {
        "beside": {**GOOD, "hyper_parameters": {"hook": call}},
        "key": Raw(b"}(" + pickled(GOOD["epoch"])[2:-1] + call.code + b"u"),
        "in the weights": {"state_dict": {**GOOD["state_dict"], "hook": call}},
        "alone": call,
    }[where]
    path = write_checkpoint(tmp_path / "bad.ckpt", content)
    with pytest.raises(RefusedPickleError) as error:
        open_torch_checkpoint(path)
    assert f"would call {name}(" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


def test_a_dangerous_name_that_is_not_called_is_refused_too(tmp_path):
    partial = Raw(named("functools", "partial") + b"(" + named("os", "system") + pickled("ls")[2:-1] + b"tR")
    path = write_checkpoint(tmp_path / "bad.ckpt", {**GOOD, "hook": partial})
    with pytest.raises(RefusedPickleError, match=r"names os\.system,"):
        open_torch_checkpoint(path)


def test_a_dangerous_call_is_named_where_the_rest_is_damaged(tmp_path):
    code = pickled(called("os", "system", "touch CANARY"))[:-1] + b"h\x07."
    path = write_checkpoint(tmp_path / "bad.ckpt", None, code=code)
    with pytest.raises(
        TorchCheckpointError, match=r"damaged pickle: .*; before that it calls or names os\.system\('touch"
    ):
        open_torch_checkpoint(path)


def test_every_way_to_make_an_object_is_inert(tmp_path, monkeypatch):
    """Calls by REDUCE, NEWOBJ, OBJ and INST, with a state by BUILD, of a class that would notice."""
    monkeypatch.chdir(tmp_path)
    word = pickled("touch CANARY")[2:-1]
    ways = {
        "reduce": named("os", "system") + b"(" + word + b"tR",
        "newobj": named("os", "system") + b"(" + word + b"t\x81",
        "newobj_ex": named("os", "system") + b"(" + word + b"t}\x92",
        "obj": b"(" + named("os", "system") + word + b"o",
        "inst": b"(" + word + b"ios\nsystem\n",
        "stack_global": b"\x8c\x02os\x8c\x06system\x93(" + word + b"tR",
        "build": named("acme", "Config") + b")\x81}(" + word + named("os", "system") + b"ub",
    }
    for way, code in ways.items():
        with pytest.raises(RefusedPickleError, match=r"os\.system"):
            open_torch_checkpoint(write_checkpoint(tmp_path / "bad.ckpt", {**GOOD, "x": Raw(code)}))
        trusted = open_torch_checkpoint(tmp_path / "bad.ckpt", trust=True)
        assert list(trusted.calls) == ["os.system"], way
        assert isinstance(trusted.content["x"], Placeholder)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.ckpt"}


def legacy(content: object, keys: bytes) -> bytes:
    """A file of the older form without storages; `keys` is the pickle of their keys."""
    head = pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled({"little_endian": True})
    return head + pickled(content) + keys


def test_the_keys_of_an_older_file_are_names_in_a_list(tmp_path):
    path = tmp_path / "old.pt"
    said = {
        "storage a list: no tensor lies in it": pickled([[1]]),
        "the keys of the storages: expected a list, found a dict": pickled({}),
        r"expected a list, found <os\.system>; before that it calls or names os\.system\('touch CANARY'\)": pickled(
            called("os", "system", "touch CANARY")
        ),
    }
    for message, keys in said.items():
        path.write_bytes(legacy({"w": Tensor("0", (4,))}, keys))
        with pytest.raises(TorchCheckpointError, match=message) as error:
            open_torch_checkpoint(path)
        assert str(error.value).startswith(f"{path}: ")


def test_an_object_that_is_called_itself_is_refused_by_name(tmp_path):
    partial = named("functools", "partial") + b"(" + named("os", "system") + pickled("touch CANARY")[2:-1] + b"tR)R"
    path = write_checkpoint(tmp_path / "bad.ckpt", {**GOOD, "hook": Raw(partial)})
    with pytest.raises(RefusedPickleError, match=r"functools\.partial\(os\.system, 'touch CANARY'\)\(\)"):
        open_torch_checkpoint(path)
    assert open_torch_checkpoint(path, trust=True).content["epoch"] == 1


def test_the_state_of_numpys_random_numbers_is_inert(tmp_path):
    """As numpy pickles it: training code keeps it so that a run can go on."""
    states = {"old": np.random.RandomState(0), "new": np.random.default_rng(0), "bits": np.random.PCG64(0)}
    code = {name: Raw(pickle.dumps(state, protocol=2)[2:-1]) for name, state in states.items()}
    for name, raw in code.items():
        found = open_torch_checkpoint(write_checkpoint(tmp_path / "rng.ckpt", {**GOOD, "rng": raw}))
        assert isinstance(found.content["rng"], Placeholder), name
        assert not found.calls


def test_python_itself_agrees_what_names_are(tmp_path):
    """Names of Python 2 are those that Python's own reader makes of them."""
    for module, name in (("__builtin__", "long"), ("copy_reg", "_reconstructor"), ("os", "system")):
        found = spelt(module, name)
        home, _, last = found.rpartition(".")
        loaded = pickle.loads(named(module, name) + b".")  # noqa: S301 a name alone calls nothing
        assert loaded.__name__ == last
        assert loaded.__module__ in (home, "posix")
    assert judge("acme.configs.Mode") == "unknown"
    assert judge("torch.nn.modules.linear.Linear") == "unknown"


def test_there_is_an_answer_to_every_instruction():
    known = {*reader._PUSHED, *reader._INSTRUCTIONS, "STOP"}
    assert known == {opcode.name for opcode in pickletools.opcodes}


def chain(length: int) -> bytes:
    """A tuple that holds one tuple twice, that holds one twice, and so on."""
    return b")q\x000" + b"h\x00h\x00\x86q\x000" * length + b"h\x00"


BOMBS = {
    "a key whose hash takes for ever": (b"}" + chain(60) + b"K\x01s", "a key of more than 64 values"),
    "a member of a set whose hash takes for ever": (b"\x8f(" + chain(60) + b"\x90", "a key of more than 64 values"),
    "keys of one hash": (
        b"}(" + b"".join(pickled(i * (2**61 - 1))[2:-1] + b"N" for i in range(3000)) + b"u",
        "4611686018427387902 cannot be the key of a map",
    ),
    "one list copied many times": (
        b"](" + b"N" * 100_000 + b"eq\x00" + (named("builtins", "list") + b"h\x00\x85R") * 20_000,
        "containers of more than 5,000,000 values",
    ),
    "a list in a map's key": (b"}](K\x01eK\x02s", "a list cannot be the key of a map"),
    "nothing on the stack": (b"R", "damaged"),
    "no mark": (b"NNt", "damaged"),
    "a memo that is not there": (b"h\x07", "it refers to 7, which is not there"),
    "a text of four exabytes": (b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc", "cut short"),
    "bytes of two gigabytes": (b"B" + struct.pack("<I", (1 << 31) - 1) + b"abc", "cut short"),
    "a memo of two thousand million": (b"Nr" + struct.pack("<I", 2**31) + b"NN", "values are left over"),
    "a number of a million digits": (b"I" + b"9" * 1_000_000 + b"\n", "damaged"),
    "a number of a million bits": (
        b"\x8b" + struct.pack("<i", 125_000) + b"\x7f" * 125_000,
        "a whole number of 999,999 bits",
    ),
    "a name of a million letters": (named("acme", "A" * 1_000_000), "the name of a class has 1,000,005 characters"),
    "an extension": (b"\x82\x01", "instructions that no checkpoint has"),
    "a call of a number": (b"K\x01)R", "it calls 1, which is no class"),
    "an append to a number": (b"K\x01K\x02a", "it appends to 1"),
    "objects without end": (b"](" + (named("acme", "A") + b")R") * 50_001 + b"e", "more than 50,000 objects"),
    "tuples without an end": (b"(" * 100_000, "damaged"),
    "a call without arguments in a tuple": (named("acme", "A") + b"NR", r"it calls acme\.A with None"),
    "a stack that is left over": (b"NN", "values are left over"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_pickles_that_were_made_to_harm(what, tmp_path):
    path = write_checkpoint(tmp_path / "bad.ckpt", None, code=b"\x80\x04" + BOMBS[what][0] + b".")
    start = time.monotonic()
    with pytest.raises(TorchCheckpointError, match=BOMBS[what][1]) as error:
        open_torch_checkpoint(path)
    assert time.monotonic() - start < 30  # what is not bounded takes hours
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_depth_and_loops_are_read(tmp_path):
    deep = b"]" * 50_000 + b"a" * 49_999
    loop = b"]q\x00h\x00a"
    inside = b"}q\x01" + pickled("self")[2:-1] + b"h\x01s"
    shared = chain(60)
    content = {**GOOD, "deep": Raw(deep), "loop": Raw(loop), "inside": Raw(inside), "shared": Raw(shared)}
    path = write_checkpoint(tmp_path / "odd.ckpt", content)
    found = inspect_checkpoint(open_torch_checkpoint(path))
    assert found.counts.total.elements_named == 4
    assert one_as_json(found)["keys"]["deep"] == "list"
    # as the options of the training they are cut off
    path = write_checkpoint(
        tmp_path / "odd.ckpt", {**GOOD, "configs": {key: content[key] for key in list(content)[2:]}}
    )
    assert len(str(inspect_checkpoint(open_torch_checkpoint(path)).configuration)) < 20_000


_CHILD = "import sys; from vlascope_server.commands import main; sys.exit(main(['inspect', sys.argv[1]]))"


def test_deques_in_each_other_do_not_crash_python(tmp_path):
    deep = named("collections", "deque") + b")R"
    deep = deep * 100_000 + b"a" * 99_999
    path = write_checkpoint(tmp_path / "deep.pt", {**GOOD, "x": Raw(deep)})
    done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_one_list_below_every_key_is_looked_through_once(tmp_path):
    long = b"](" + b"N" * 200_000 + b"eq\x63"
    shared = {"long": Raw(long), **{f"k{n}": Raw(b"]h\x63a") for n in range(4000)}}
    start = time.monotonic()
    inspect_checkpoint(open_torch_checkpoint(write_checkpoint(tmp_path / "beside.pt", {**GOOD, **shared})))
    options = {"configs": {**shared, "self": Raw(b"](" + b"h\x63" * 400_000 + b"e")}}
    found = inspect_checkpoint(open_torch_checkpoint(write_checkpoint(tmp_path / "options.pt", {**GOOD, **options})))
    assert len(str(found.configuration)) < 20_000
    assert time.monotonic() - start < 30  # what is not bounded takes minutes


TENSORS = {
    "offset behind the storage": (Tensor("0", (4,), offset=1, stored=4), "end at byte 20 of storage 0, which has 16"),
    "strides behind the storage": (Tensor("0", (2, 2), strides=(100, 1), stored=4), "end at byte 408"),
    "negative strides": (Tensor("0", (4,), strides=(-1,), stored=4), "strides: expected .* found -1"),
    "negative offset": (Tensor("0", (4,), offset=-4, stored=4), "offset: expected .* found -4"),
    "negative shape": (Tensor("0", (-4,), strides=(1,), stored=4), "shape: expected .* found -4"),
    "a shape of text": (Tensor("0", ("four",), strides=(1,), stored=4), "shape: expected .* found 'four'"),
    "a number for a shape": (Tensor("0", 4, strides=(1,), stored=4), "shape: expected .* found 4"),
    "true as a size": (Tensor("0", (True,), strides=(1,), stored=4), "shape: expected .* found True"),
    "a shape of a thousand axes": (Tensor("0", (1,) * 1000, stored=1), "shape: expected at most 64 .* found 1,000"),
    "expanded beyond all memory": (Tensor("0", (2**40, 2**40), strides=(0, 0), stored=1), "this is damaged"),
    "fewer strides": (Tensor("0", (2, 2), strides=(1,), stored=4), "of unlike lengths"),
    "a key that is a number": (Tensor(0, (4,)), "a persistent id that torch does not write"),
    "a negative storage": (Tensor("0", (0,), stored=-1), "a persistent id that torch does not write"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_lie_outside_of_their_storage(what, tmp_path):
    tensor, said = TENSORS[what]
    files = {"archive/data.pkl": pickled({"state_dict": {"w": tensor}}), "archive/data/0": bytes(16)}
    path = write_zip(tmp_path / "bad.ckpt", files)
    with pytest.raises(TorchCheckpointError, match=said):
        open_torch_checkpoint(path)


def test_zips_that_were_made_to_harm(tmp_path):
    code = pickled(GOOD)
    path, data = tmp_path / "bad.ckpt", ("archive/data/0", bytes(16))
    whole = [("archive/data.pkl", code), data]
    open_torch_checkpoint(write_zip(path, whole))
    refused = {
        "holds archive/data/0 twice": write_zip(tmp_path / "twice.ckpt", [*whole, data]),
        "leaves its own folder": write_zip(tmp_path / "up.ckpt", [*whole, ("archive/../../x", b"")]),
        "several data.pkl": write_zip(tmp_path / "two.ckpt", [*whole, ("other/data.pkl", code)]),
        "no data.pkl": write_zip(tmp_path / "none.ckpt", [data]),
        "compressed or encrypted": write_zip(tmp_path / "lock.ckpt", whole, flags=1),
        "archive/data/0 is missing": write_zip(tmp_path / "less.ckpt", whole[:1]),
        "archive/data/0 has 15 bytes": write_zip(tmp_path / "short.ckpt", [whole[0], ("archive/data/0", bytes(15))]),
        "overlaps the one before": write_zip(tmp_path / "over.ckpt", whole, offsets={"archive/data/0": 0}),
        "points to where it is not": write_zip(tmp_path / "off.ckpt", whole, offsets={"archive/data/0": 7}),
        "points to where": write_zip(tmp_path / "far.ckpt", whole, offsets={"archive/data/0": 1 << 50}),
    }
    for said, file in refused.items():
        with pytest.raises(TorchCheckpointError, match=said) as error:
            open_torch_checkpoint(file)
        assert str(error.value).startswith(f"{file}: ")


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"N" * 50_000_000 + b".")
    assert path.stat().st_size < 100_000
    with pytest.raises(TorchCheckpointError, match="compressed or encrypted, which torch never does"):
        open_torch_checkpoint(path)


def test_a_directory_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "wide.ckpt"
    size = 3 << 30
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, size - 4, 4, 0)
        file.write(end)
    with pytest.raises(TorchCheckpointError, match=r"a zip whose directory has .* bytes: this is damaged"):
        open_torch_checkpoint(path)


def test_a_pickle_of_gigabytes_is_not_read(tmp_path):
    path = write_zip(tmp_path / "long.ckpt", {"archive/data.pkl": 3 << 30})
    with pytest.raises(TorchCheckpointError, match=r"the first 67,108,864 were looked at"):
        open_torch_checkpoint(path)


def test_names_of_a_file_do_nothing_to_a_terminal_or_to_markdown(tmp_path, capsys, monkeypatch):
    from vlascope_server.commands import main

    monkeypatch.setenv("COLUMNS", "200")
    name = "w\x1b[2J[bold]x[/bold] | `y` [a](http://b) <script>\n# title"
    weights = {
        name: Tensor("0", (4,)),
        f"{name}.layers.0.weight": Tensor("1", (4,)),
        "lstm.weight_hh_l0": Tensor("2", (8, 2)),
    }
    content = {"state_dict": weights, f"key{name}": 1, "x": Raw(named("acme", "A[red]") + b")R")}
    path = write_checkpoint(tmp_path / "odd.pt", content)
    assert main(["inspect", str(path), "--output-dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "acme.A[red]" in out
    text = document([inspect_checkpoint(open_torch_checkpoint(path))], None)
    assert (tmp_path / "out" / "CHECKPOINT_STRUCTURE.md").read_text() == text
    assert "\x1b" not in text
    assert "\n# title" not in text
    shown = re.sub(r"^```.*?^```|(?<!`)(`+)(?!`)[^\n]*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert r"\<script\>" in shown
    assert "<script>" not in shown.replace(r"\<script\>", "")


def test_names_of_megabytes(tmp_path, capsys):
    from vlascope_server.commands import main

    names = (
        "model." * 150_000,
        "lstm." + "a" * 1_000_000 + ".weight_ih_l0",
        "action_" + "head" * 250_000,
        "x" * 1_000_000,
    )
    for name in names:
        path = write_checkpoint(tmp_path / "long.pt", {"state_dict": {name: Tensor("0", (4,))}, name: 1})
        start = time.monotonic()
        assert main(["inspect", str(path), "--output-dir", str(tmp_path / "out")]) == 0
        assert time.monotonic() - start < 30
        assert len(capsys.readouterr().out) < 100_000
        assert (tmp_path / "out" / "CHECKPOINT_STRUCTURE.md").stat().st_size < 100_000


def test_numbers_of_layers_in_names_are_only_names(tmp_path):
    many = "9" * 30
    weights = {
        f"lstm.weight_ih_l{many}": Tensor("0", (4,)),
        f"act_head.rnn.weight_ih_l{many}": Tensor("1", (4, 4)),
        f"backbone.text_model.model.layers.{many}.x.weight": Tensor("2", (4,)),
        f"act_head.a.mlp.{many}.weight": Tensor("3", (4, 4)),
        "backbone.text_model.model.layers.9999.x.weight": Tensor("4", (4,)),
        "backbone.image_to_text_projection.latent_query": Tensor("5", (4,)),
    }
    found = one_as_json(inspect_checkpoint(open_torch_checkpoint(write_checkpoint(Path(tmp_path) / "odd.pt", weights))))
    assert found["model"] == "RoboKosMos"
    assert found["tensors_named"] == 6


def test_a_legacy_file_with_a_storage_too_many(tmp_path):
    data = (Path(__file__).parent / "written" / "legacy.pt").read_bytes()
    path = tmp_path / "legacy.pt"
    path.write_bytes(data + b"more")
    open_torch_checkpoint(path)
    path.write_bytes(data[:-1])
    with pytest.raises(TorchCheckpointError, match="cut short"):
        open_torch_checkpoint(path)
