"""Recomputes every checksum of a store and names what is not as it was written.

Knows nothing of how to mend it: a damaged frame is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash

from vlascope_latents.store.errors import DamagedError, StoreError
from vlascope_latents.store.reader import Episode
from vlascope_latents.store.shard_reader import Part, ShardReader


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong; `frame` is None where it is the whole episode."""

    run: str
    episode: str
    frame: int | None
    message: str

    def __str__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"{self.run}, episode {self.episode}{frame}: {self.message}"


def verify(episodes: Iterable[Episode]) -> Iterator[Problem]:
    """Reads every tensor of every committed frame and yields what is wrong."""
    shards = ShardReader()
    for episode in episodes:
        try:
            lines, tensors = episode.lines(), episode.tensors()
        except StoreError as error:
            yield Problem(episode.run, episode.row.folder, None, str(error))
            continue
        if episode.status != "open" and len(lines) != episode.row.frames:
            message = f"expected {episode.row.frames} committed frames, found {len(lines)} in the index"
            yield Problem(episode.run, episode.row.folder, None, message)
        for line in lines:
            for path, checksum in line.xxh3.items():
                if path not in tensors:
                    yield Problem(episode.run, episode.row.folder, line.frame, f"{path}: the array is missing")
                    continue
                tensor = tensors[path]
                content = np.empty(tensor.shape, tensor.storage_dtype)
                try:
                    file = episode.folder / path / tensor.key(line.frame)
                    shards.read(file, tensor, Part.whole(tensor), content)
                    found = xxhash.xxh3_64_hexdigest(content.data)
                    if found != checksum:
                        raise DamagedError(f"{file}: damaged: expected checksum {checksum}, found {found}")
                except DamagedError as error:
                    yield Problem(episode.run, episode.row.folder, line.frame, str(error))
