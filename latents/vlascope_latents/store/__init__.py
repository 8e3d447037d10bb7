"""The latent store: writes what a policy's captures hold, and reads any slice of it. docs/store.md is its format."""

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.episode_writer import EpisodeWriter
from vlascope_latents.store.errors import DamagedError, NotCapturedError, SchemaVersionError, StoreError
from vlascope_latents.store.reader import LatentStore
from vlascope_latents.store.recovery import Recovery
from vlascope_latents.store.run_writer import RunWriter
from vlascope_latents.store.selection import Selection
from vlascope_latents.store.verify import Problem, verify

__all__ = [
    "DamagedError",
    "Episode",
    "EpisodeWriter",
    "LatentStore",
    "NotCapturedError",
    "Problem",
    "Recovery",
    "RunWriter",
    "SchemaVersionError",
    "Selection",
    "StoreError",
    "verify",
]
