"""Where each format version keeps what: one file to read each, one to write each. Knows nothing of frames.

v2.0 and v2.1: an episode is a file. v3.0: files hold many episodes.
"""

from vlascope_datasets.layouts.contradictions import Contradiction
from vlascope_datasets.layouts.episodes import Episode, Metadata, VideoSpan
from vlascope_datasets.layouts.read_v2 import read_v2
from vlascope_datasets.layouts.read_v3 import read_v3

__all__ = ["Contradiction", "Episode", "Metadata", "VideoSpan", "read_v2", "read_v3"]
