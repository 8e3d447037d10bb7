"""Writes `written/`: small files by torch itself, and what torch says of the tensors in them.

    python tests/server/torch_checkpoints/make_written.py

Needs torch (2.13.0 wrote the files that are here) and numpy, which no test needs.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent / "written"


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of every kind of view, some of them of one storage."""
    torch.manual_seed(0)
    matrix = torch.randn(6, 5)
    found: dict[str, torch.Tensor] = OrderedDict(
        matrix=matrix,
        tied=matrix,
        transposed=matrix.T,
        rows=matrix[2:4],
        column=matrix[:, 1],
        every_second=matrix[::2, ::2],
        expanded=torch.tensor([1.5]).expand(4, 3),
        parameter=torch.nn.Parameter(torch.randn(3)),
        frozen=torch.nn.Parameter(torch.randn(2, 2), requires_grad=False),
        scalar=torch.tensor(2.5, dtype=torch.float64),
        empty=torch.empty(0, 7),
        half=torch.randn(4).half(),
        brain=torch.randn(4).bfloat16(),
        truth=torch.tensor([True, False, True]),
        bytes=torch.arange(5, dtype=torch.uint8),
        small=torch.arange(-2, 3, dtype=torch.int8),
        short=torch.arange(3, dtype=torch.int16),
        int=torch.arange(3, dtype=torch.int32),
        long=torch.arange(3) * 10**12,
        complex=torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64),
    )
    return found


def newer() -> dict[str, torch.Tensor]:
    """Tensors of dtypes that have no storage class of their own."""
    values = torch.tensor([0.5, -1.0, 2.0])
    kinds = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    found = {kind: values.to(getattr(torch, kind)) for kind in kinds}
    wide = {kind: torch.tensor([1, 2, 40_000]).to(getattr(torch, kind)) for kind in ("uint16", "uint32", "uint64")}
    return {**found, **wide}


def described(found: dict[str, torch.Tensor]) -> dict[str, dict[str, object]]:
    """What torch says of each."""

    def values(tensor: torch.Tensor) -> list[object]:
        flat = tensor.detach().reshape(-1)
        if flat.dtype.is_complex:
            return [[value.real, value.imag] for value in flat.tolist()]
        return flat.to(torch.float64).tolist() if flat.dtype.is_floating_point else flat.tolist()

    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "strides": list(tensor.stride()),
            "offset": tensor.storage_offset(),
            "storage_bytes": tensor.untyped_storage().nbytes(),
            "values": values(tensor),
        }
        for name, tensor in found.items()
    }


def main() -> None:
    """Writes all files."""
    HERE.mkdir(exist_ok=True)
    content = {"model_state_dict": tensors(), "epoch": 3, "best": np.float64(0.25), "losses": np.arange(3.0)}
    torch.save(content, HERE / "zip.pt")
    torch.save(content, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(newer(), HERE / "newer.pt")
    plain = {
        "weights": {"w": torch.zeros(2)},
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "counts": defaultdict(int, a=1),
        "tags": {"x", "y"},
        "args": argparse.Namespace(lr=0.1),
        "path": Path("runs"),
        "bytes": b"\x00\xff",
        "complex": 1 + 2j,
        "large": 2**70,
    }
    for protocol in (2, 4, 5):
        torch.save(plain, HERE / f"plain_{protocol}.pt", pickle_protocol=protocol)
    sparse = torch.eye(3).to_sparse()
    torch.save({"a": torch.ones(2), "b": torch.ones(3), "sparse": sparse}, HERE / "sparse.pt")
    torch.save(torch.nn.Linear(2, 3), HERE / "whole_model.pt")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)), HERE / "script.pt")
    (HERE / "pickled.pt").write_bytes(pickle.dumps({"w": torch.ones(3)}, protocol=2))
    expected = {"zip.pt": described(tensors()), "newer.pt": described(newer())}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
