"""Where each version of the LeRobot format keeps what: one file to read each, one to write each.

v2.0 and v2.1: an episode is a file. v3.0: files hold many episodes.
"""

from vlascope_datasets.versions.contradictions import Contradiction
from vlascope_datasets.versions.episodes import Episode, Metadata, VideoSpan
from vlascope_datasets.versions.read_v2 import read_v2
from vlascope_datasets.versions.read_v3 import read_v3

__all__ = ["Contradiction", "Episode", "Metadata", "VideoSpan", "read_v2", "read_v3"]
