"""Files that torch itself wrote (`make_written.py`), and what torch says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from vlascope_server.commands import main
from vlascope_server.torch_checkpoints import TorchCheckpointError, inspect_checkpoint, open_torch_checkpoint
from vlascope_server.torch_checkpoints.recognise import torch_file
from vlascope_server.torch_checkpoints.values import Global, Placeholder

from tests.server.robovlms import CHECKPOINTS, INDEX

WRITTEN = Path(__file__).parent / "written"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "newer.pt"])
def test_tensors_are_what_torch_says(name):
    checkpoint, expected = (
        open_torch_checkpoint(WRITTEN / name),
        EXPECTED["newer.pt" if name == "newer.pt" else "zip.pt"],
    )
    assert list(checkpoint.tensors) == list(expected)
    for tensor, said in expected.items():
        found = checkpoint.tensors[tensor]
        assert [found.dtype, *map(list, (found.shape, found.strides)), found.offset] == [
            said["dtype"], said["shape"], said["strides"], said["offset"],
        ], tensor  # fmt: skip
        assert found.storage.bytes == said["storage_bytes"], tensor
        array = checkpoint.array(tensor)
        assert (array.shape, array.flags.writeable) == (tuple(said["shape"]), not array.size), tensor
        if found.dtype.startswith("complex"):
            values = [[value.real, value.imag] for value in array.reshape(-1).tolist()]
        else:
            exact = array.dtype.kind in "biu" or found.dtype == "float64"
            values = (array if exact else array.astype(np.float64)).reshape(-1).tolist()
        assert values == said["values"], tensor


def test_tensors_beside_the_weights_are_read():
    checkpoint = open_torch_checkpoint(CHECKPOINTS / INDEX["policies"]["mobile2d"]["checkpoint"].partition("/")[2])
    step = checkpoint.content["optimizer_states"][0]["state"][0]["step"]
    assert float(checkpoint.view(step)) == checkpoint.content["global_step"]


def test_views_of_one_storage_count_once():
    counts = inspect_checkpoint(open_torch_checkpoint(WRITTEN / "zip.pt")).counts
    views = {"matrix", "tied", "transposed", "rows", "column", "every_second"}
    rest = [said for name, said in EXPECTED["zip.pt"].items() if name not in views]
    # an expanded tensor has one value of its own
    elements = 6 * 5 + sum(1 if 0 in said["strides"] else int(np.prod(said["shape"])) for said in rest)
    assert counts.total.elements_unique == elements
    assert counts.total.elements_named == sum(int(np.prod(said["shape"])) for said in EXPECTED["zip.pt"].values())
    assert counts.shared == {"tied": "matrix", "transposed": "matrix"}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_values_of_every_protocol(protocol):
    content = dict(open_torch_checkpoint(WRITTEN / f"plain_{protocol}.pt").content)
    assert content.pop("weights").keys() == {"w"}
    args, path, device = (content.pop(key) for key in ("args", "path", "device"))
    assert (args.name, args.state) == ("argparse.Namespace", {"lr": 0.1})
    assert (path.name, path.args) == ("pathlib.PosixPath", ("runs",))
    assert (device.name, device.args) == ("torch.device", ("cpu",))
    assert content == {
        "size": (2, 3), "dtype": Global("torch.float16"), "counts": {"a": 1}, "tags": {"x", "y"}, "bytes": b"\x00\xff",
        "complex": 1 + 2j, "large": 2**70,
    }  # fmt: skip


def test_numbers_of_numpy():
    content = open_torch_checkpoint(WRITTEN / "zip.pt").content
    assert content["best"] == 0.25
    assert isinstance(content["losses"], Placeholder)
    assert inspect_checkpoint(open_torch_checkpoint(WRITTEN / "zip.pt")).training == {"epoch": 3, "best": 0.25}


def test_tensors_of_other_kinds_are_named():
    found = inspect_checkpoint(open_torch_checkpoint(WRITTEN / "sparse.pt"))
    assert found.not_read == {"sparse": "torch._utils._rebuild_sparse_tensor"}
    assert list(found.checkpoint.tensors) == ["a", "b"]


REFUSED = {
    "whole_model.pt": "a whole pickled object of class torch.nn.modules.linear.Linear; expected a state dict",
    "script.pt": "a TorchScript archive, which holds a program",
    "pickled.pt": "tensors that pickle.dump wrote",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_state_dict_is_named(name):
    with pytest.raises(TorchCheckpointError, match=REFUSED[name]) as error:
        open_torch_checkpoint(WRITTEN / name)
    assert "\n" not in str(error.value)


def test_every_byte_that_is_cut_off_is_one_line(tmp_path):
    """Whatever length a file is cut to, the error is ours: of the older form and of the zip."""
    for name in ("legacy.pt", "zip.pt"):
        data = (WRITTEN / name).read_bytes()
        for length in range(0, len(data), 41):
            path = tmp_path / name
            path.write_bytes(data[:length])
            with pytest.raises(TorchCheckpointError) as error:
                open_torch_checkpoint(path)
            assert str(error.value).startswith(f"{path}: ")
            assert "\n" not in str(error.value)


def test_every_byte_that_is_changed_is_one_line_or_is_read(tmp_path):
    """A changed byte is found, or changes a value; it never ends in an error that is not ours."""
    random = np.random.default_rng(0)
    for name in ("legacy.pt", "zip.pt", "plain_4.pt"):
        data = (WRITTEN / name).read_bytes()
        for _ in range(150):
            changed = bytearray(data)
            for place in random.integers(0, len(data), size=random.integers(1, 4)):
                changed[place] = random.integers(0, 256)
            path = tmp_path / name
            path.write_bytes(changed)
            said = read_whole(path)
            assert said is None or (said.startswith(f"{path}: ") and "\n" not in said)


def read_whole(path: Path) -> str | None:
    """Inspects a file and reads all of its tensors; what the error says, if there is one."""
    try:
        checkpoint = inspect_checkpoint(open_torch_checkpoint(path)).checkpoint
        for tensor in checkpoint.tensors:
            checkpoint.array(tensor).astype(np.complex128).sum()
    except TorchCheckpointError as error:
        return str(error)
    return None


def test_which_room_a_path_belongs_to(tmp_path):
    for location in ("tiny", "hf://owner/name/model.ckpt", "gs://bucket/checkpoint", str(tmp_path / "missing")):
        assert torch_file(location) is None
    file = WRITTEN / "zip.pt"
    assert torch_file(str(file)) == file
    assert torch_file(str(tmp_path / "missing.ckpt")) == tmp_path / "missing.ckpt"
    (tmp_path / "params").mkdir()
    (tmp_path / "one.ckpt").write_bytes(file.read_bytes())
    assert torch_file(str(tmp_path)) is None
    (tmp_path / "params").rmdir()
    assert torch_file(str(tmp_path)) == tmp_path / "one.ckpt"
    # a folder of steps, as openpi's training in PyTorch leaves it, is Pi0's to speak of
    steps = tmp_path / "steps" / "1000"
    steps.mkdir(parents=True)
    (steps / "optimizer.pt").write_bytes(file.read_bytes())
    assert torch_file(str(steps.parent)) is None
    (tmp_path / "last.ckpt").write_bytes(file.read_bytes())
    with pytest.raises(TorchCheckpointError, match=r"name the file that is meant: last\.ckpt, one\.ckpt"):
        torch_file(str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "~nobody-here/x.pt"],
        ["diff", "~nobody-here/x", "y"],
        ["convert", "~nobody-here/x", "y", "--to", "orbax"],
    ],
)
def test_the_home_of_a_user_who_is_not_there(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vlascope-server: {words[1]}: the home folder of this user is not known")


def test_a_file_that_is_to_be_the_folder_of_a_report_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "further"):
        assert main(["inspect", str(tmp_path / "missing.pt"), "--output-dir", str(out)]) == 2
        assert f"--output-dir {out}: expected a folder, and {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_a_file_is_what_its_bytes_say(tmp_path):
    tensors = {"act_head.rnn.weight_hh_l0": np.zeros((8, 2), np.float32)}
    save_file(tensors, tmp_path / "weights.ckpt")
    found = open_torch_checkpoint(tmp_path / "weights.ckpt")
    assert (found.kind, found.array("act_head.rnn.weight_hh_l0").shape) == ("safetensors", (8, 2))
    for name in ("zip.pt", "legacy.pt"):
        path = tmp_path / "weights.safetensors"
        path.write_bytes((WRITTEN / name).read_bytes())
        assert torch_file(str(path)) == path
        assert open_torch_checkpoint(path).tensors.keys() == open_torch_checkpoint(WRITTEN / name).tensors.keys()
    # a header whose length begins as a pickle does
    save_file({"a" * n: np.zeros(1, np.float32) for n in range(1, 40)}, tmp_path / "long.safetensors")
    data = (tmp_path / "long.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    padded = (0x80 - size) % 256
    data = (size + padded).to_bytes(8, "little") + data[8 : 8 + size] + b" " * padded + data[8 + size :]
    (tmp_path / "long.bin").write_bytes(data)
    assert data[:1] == b"\x80"
    assert open_torch_checkpoint(tmp_path / "long.bin").kind == "safetensors"


def test_a_folder_with_one_safetensors_file_stands_for_it(tmp_path):
    file = tmp_path / "policy.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, file)
    assert torch_file(str(tmp_path)) == file
    save_file({"paligemma_with_expert.w": np.zeros(2, np.float32)}, file)
    assert torch_file(str(tmp_path)) is None


def test_safetensors_without_tensors_are_refused(tmp_path):
    file = tmp_path / "none.safetensors"
    save_file({}, file)
    with pytest.raises(
        TorchCheckpointError, match=f"a safetensors file of {file.stat().st_size} bytes without tensors"
    ):
        open_torch_checkpoint(file)
