"""Checkpoints: openpi's two formats and LeRobot's, from local or remote places."""

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.load import Checkpoint, load_checkpoint
from vlascope_server.checkpoints.record import Record, Sidecars
from vlascope_server.checkpoints.save import convert_checkpoint, opened, save_checkpoint
from vlascope_server.checkpoints.source import Source, open_source
from vlascope_server.checkpoints.summary import Summary, summarise

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Record",
    "Sidecars",
    "Source",
    "Summary",
    "convert_checkpoint",
    "load_checkpoint",
    "open_source",
    "opened",
    "save_checkpoint",
    "summarise",
]
