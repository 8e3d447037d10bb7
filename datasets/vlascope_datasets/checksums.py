"""What an episode holds, as a number that does not depend on where it lies.

An episode's checksum covers its columns, instructions and images, and leaves out its number, its frames' numbers in the dataset
and task numbers: those change when it moves. A dataset's is the sum of its episodes', modulo 2 ** 128, so that the checksums of
the parts of a dataset add up to its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pyarrow as pa

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.features import INDEX_FEATURES
from vlascope_datasets.files import inside
from vlascope_datasets.images import check, content
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.video import update_checksum

MOVING = ("episode_index", "index", "task_index")
_MODULUS = 2**128


def episode_checksum(dataset: LeRobotDataset, number: int, *, videos: bool = True) -> int:
    """Of one episode: 128 bits.

    Args:
        dataset: that has it.
        number: of the episode.
        videos: whether videos count, frame by encoded frame; images in the table always do.

    Raises:
        DatasetError: a file is missing.
        DamagedError: a file is not what it should be.
    """
    table = dataset.table(number)
    digest = hashlib.blake2b(digest_size=16)
    for key, feature in sorted((INDEX_FEATURES | dataset.info.features).items()):
        if key in MOVING or feature["dtype"] == "video":
            continue
        digest.update(f"\0{key}\0{feature['dtype']}\0".encode())
        if feature["dtype"] == "image":
            where = f"{dataset.root / dataset.episode(number).file}: episode {number}, {key}"
            for cell in table[key].to_pylist():
                try:
                    image = content(cell, dataset.root, where)
                except DamagedError:
                    if key not in dataset.info.unread:
                        raise
                    image = repr(cell).encode()
                digest.update(hashlib.blake2b(image, digest_size=16).digest())
            continue
        if key in dataset.info.unread:
            digest.update(repr(table[key].to_pylist()).encode())
            continue
        values = dataset.values(number, key, table[key])
        digest.update("\0".join(values).encode() if feature["dtype"] == "string" else values.tobytes())
    for task in task_names(dataset, number, table):
        digest.update(f"\0{task}".encode())
    if videos:
        episode = dataset.episode(number)
        for key, span in sorted(episode.videos.items()):
            digest.update(f"\0{key}\0".encode())
            if episode.length:
                update_checksum(digest, inside(dataset.root, span.file), *dataset.video_times(number, key))
    return int.from_bytes(digest.digest(), "big")


def pictures_checksum(dataset: LeRobotDataset, number: int, cameras: Iterable[str], frames: Sequence[int]) -> str:
    """Of what cameras saw in an episode, as it is stored: nothing is decoded.

    Args:
        dataset: that has it.
        number: of the episode.
        cameras: their columns.
        frames: whose images count, where they are images in the table; of a video all of the episode's do.

    Returns:
        32 hexadecimal digits.

    Raises:
        DatasetError: a file is missing.
        DamagedError: a file is not what it should be, or an image in the table is none.
    """
    digest, episode = hashlib.blake2b(digest_size=16), dataset.episode(number)
    for key in sorted(cameras):
        digest.update(f"\0{key}\0".encode())
        if key in episode.videos:
            update_checksum(digest, inside(dataset.root, episode.videos[key].file), *dataset.video_times(number, key))
            continue
        cells = dataset.table(number, [key])[key].take(pa.array(frames, pa.int64())).to_pylist()
        for frame, cell in zip(frames, cells, strict=True):
            where = f"{dataset.root / episode.file}: episode {number}, frame {frame}, {key}"
            image = content(cell, dataset.root, where)
            check(image, where)
            digest.update(hashlib.blake2b(image, digest_size=16).digest())
    return digest.hexdigest()


def task_names(dataset: LeRobotDataset, number: int, table: pa.Table) -> list[str]:
    """The instruction of each row of an episode.

    Args:
        dataset: that has it.
        number: of the episode.
        table: its rows.

    Raises:
        DamagedError: the dataset lists no instruction of that index; the message names file, episode and index.
    """
    indices = dataset.values(number, "task_index", table["task_index"]).tolist()
    if unknown := sorted(set(indices) - set(dataset.tasks)):
        raise DamagedError(
            f"{dataset.root / dataset.episode(number).file}: episode {number}: task {unknown[0]} is not among the"
            f" dataset's {len(dataset.tasks)}; list it in {dataset.root / 'meta'}, or correct task_index"
        )
    return [dataset.tasks[index] for index in indices]


def add(checksums: Iterable[int]) -> int:
    """The checksum of episodes together."""
    return sum(checksums) % _MODULUS


def as_text(checksum: int) -> str:
    """32 hexadecimal digits."""
    return f"{checksum:032x}"
