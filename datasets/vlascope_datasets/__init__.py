"""LeRobot datasets: read, write, split, convert, statistics."""

from vlascope_datasets.errors import DamagedError, DatasetError, UnreadError, VersionError
from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.versions import Episode
from vlascope_datasets.writer import DatasetWriter

__all__ = [
    "DamagedError",
    "DatasetError",
    "DatasetInfo",
    "DatasetWriter",
    "Episode",
    "LeRobotDataset",
    "UnreadError",
    "VersionError",
]
