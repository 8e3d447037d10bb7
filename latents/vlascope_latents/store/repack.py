"""Compresses sealed episodes in place: the same numbers and checksums in fewer bytes.

Episodes that are open stay uncompressed: a policy that serves has no core to spare for this.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numcodecs import get_codec
from vlascope_base.files import replace_file, sync

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import DamagedError, StoreError
from vlascope_latents.store.index import FrameLine
from vlascope_latents.store.recovery import REPACK, REPLACED, finish_repack
from vlascope_latents.store.shard_reader import Part, ShardReader
from vlascope_latents.store.tensors import StoredTensor, seal_index

_BLOSC: Any = get_codec({"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1})


def repack_episode(episode: Episode) -> tuple[int, int]:
    """Compresses the arrays of one episode that are not compressed yet. The caller holds the run's lock.

    Returns:
        Bytes of the shards before and after, of those arrays that were compressed now.

    Raises:
        StoreError: the episode is open.
        DamagedError: a frame is not what was written; its array stays as it is.
    """
    if episode.status == "open":
        raise StoreError(f"{episode.run}, episode {episode.row.folder}: is open: seal it before it is repacked")
    before = after = 0
    for group in sorted({path.split("/")[0] for path in episode.tensors()}):
        for copy in [*(episode.folder / group).glob(f".*{REPACK}"), *(episode.folder / group).glob(f".*{REPLACED}")]:
            finish_repack(copy.parent, copy.name[1:].rsplit(".", 1)[0])
    for path, tensor in episode.tensors().items():
        if tensor.compressed:
            continue
        plain, packed = _repack_array(episode.folder / path, tensor, episode.lines())
        before, after = before + plain, after + packed
    return before, after


def _repack_array(folder: Path, tensor: StoredTensor, lines: list[FrameLine]) -> tuple[int, int]:
    shards = ShardReader()
    packed = dataclasses.replace(tensor, compressed=True)
    copy = folder.with_name(f".{folder.name}{REPACK}")
    copy.mkdir()
    content = np.empty(tensor.shape, tensor.storage_dtype)
    after = 0
    for line in lines:
        file = folder / tensor.key(line.frame)
        shards.read(file, tensor, Part.whole(tensor), content)
        if xxhash.xxh3_64_hexdigest(content.data) != line.xxh3[tensor.path]:
            finish_repack(folder.parent, folder.name)
            raise DamagedError(f"{file}: damaged: its checksum is wrong: verify the run")
        shard = _compressed_shard(content, tensor)
        replace_file(copy / tensor.key(line.frame), shard)
        after += len(shard)
    replace_file(copy / "zarr.json", packed.metadata(len(lines)))
    # the original goes only once the copy is complete: see `finish_repack`
    folder.rename(folder.with_name(f".{folder.name}{REPLACED}"))
    sync(folder.parent)
    finish_repack(folder.parent, folder.name)
    return len(lines) * (tensor.nbytes + tensor.index_nbytes), after


def _compressed_shard(content: np.ndarray, tensor: StoredTensor) -> bytes:
    count = math.prod(tensor.grid)
    index = np.empty((count, 2), "<u8")
    pieces, offset = [], 0
    # inner chunks stand in C order and are contiguous: only one axis is cut into more than single steps
    for number, chunk in enumerate(content.reshape(count, -1)):
        piece = bytes(_BLOSC.encode(chunk))
        index[number] = offset, len(piece)
        offset += len(piece)
        pieces.append(piece)
    return b"".join([*pieces, seal_index(index)])
