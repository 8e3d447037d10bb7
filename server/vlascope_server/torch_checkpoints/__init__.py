"""PyTorch checkpoints without torch: opened, counted and compared, and no pickle is ever run."""

from vlascope_server.torch_checkpoints.checkpoint import TorchCheckpoint, open_torch_checkpoint
from vlascope_server.torch_checkpoints.compatibility import Compatibility, compare_heads
from vlascope_server.torch_checkpoints.errors import RefusedPickleError, TorchCheckpointError
from vlascope_server.torch_checkpoints.inspection import Inspection, inspect_checkpoint
from vlascope_server.torch_checkpoints.tensors import TorchTensor

__all__ = [
    "Compatibility",
    "Inspection",
    "RefusedPickleError",
    "TorchCheckpoint",
    "TorchCheckpointError",
    "TorchTensor",
    "compare_heads",
    "inspect_checkpoint",
    "open_torch_checkpoint",
]
