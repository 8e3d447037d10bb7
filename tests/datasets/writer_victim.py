"""A process to be killed: resumes or creates a dataset and adds episodes for ever, saying which. Run as a module by a test."""

from __future__ import annotations

import sys
from pathlib import Path

from vlascope_datasets import DatasetWriter

from tests.datasets.dataset_fixtures import FEATURES, FPS, add


def main(path: str, version: str) -> None:
    there = Path(path).exists()
    while True:
        writer = (
            DatasetWriter.resume(path)
            if there
            else DatasetWriter.create(path, FPS, FEATURES, "panda", version, video=True)
        )
        there = True
        for _ in range(3):  # short sessions: kills land in closing and opening too
            print(add(writer, len(writer)), flush=True)
        writer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
