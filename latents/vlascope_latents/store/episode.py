"""An episode as its readers see it: its state, its committed frames, and the arrays that were captured of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlascope_latents.spec import CaptureSpec, CaptureSpecError
from vlascope_latents.store.errors import DamagedError
from vlascope_latents.store.index import FrameLine, read_index
from vlascope_latents.store.run_folder import INDEX_FOLDER, ZARR_FOLDER
from vlascope_latents.store.sealing import EPISODES
from vlascope_latents.store.table import EpisodeRow
from vlascope_latents.store.tensors import StoredTensor


@dataclasses.dataclass(frozen=True)
class Episode:
    """One attempt at an episode, as it was when it was listed.

    Attributes:
        run: name of its run.
        path: the run's folder.
        row: its state; see `EpisodeRow`.
    """

    run: str
    path: Path = dataclasses.field(repr=False)
    row: EpisodeRow

    @property
    def id(self) -> str:
        """The episode's id, `CAMPAIGN+NAME` or a name; attempts share it."""
        return self.row.episode

    @property
    def campaign(self) -> str | None:
        """The campaign that it is part of; None where it is part of none."""
        return self.row.campaign

    @property
    def status(self) -> str:
        """`open`, `sealed` or `interrupted`."""
        return self.row.status

    @property
    def success(self) -> bool | None:
        """Whether the episode reached its goal; None where nobody said."""
        return self.row.success

    @property
    def frames(self) -> int:
        """Committed frames."""
        return self.row.frames if self.row.status != "open" else len(self.lines())

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What is known of it: suite, task_id, task_name, `instruction` (what the policy was told), `task_instruction`, …

        What was said at its end is among it, once it is sealed.
        """
        return self.row.metadata

    @property
    def folder(self) -> Path:
        """The Zarr group."""
        return self.path / ZARR_FOLDER / EPISODES / self.row.folder

    def capture_spec(self) -> CaptureSpec:
        """What was captured of its frames: which of the model's arrays, tokens and reductions.

        Raises:
            DamagedError: its attributes hold no capture spec.
        """
        file = self.folder / "zarr.json"
        try:
            return CaptureSpec.from_map(self.attributes()["capture_spec"])
        except (KeyError, TypeError, CaptureSpecError) as error:
            raise DamagedError(f"{file}: damaged: expected a capture spec ({error})") from error

    def attributes(self) -> Mapping[str, Any]:
        """The attributes of its Zarr group, as they stand in the file.

        Raises:
            DamagedError: there are none.
        """
        file = self.folder / "zarr.json"
        try:
            return json.loads(file.read_bytes())["attributes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{file}: damaged: expected the attributes of an episode") from error

    def lines(self) -> list[FrameLine]:
        """The committed frames, read now."""
        return read_index(self.path / INDEX_FOLDER / f"{self.row.folder}.jsonl")[0]

    def tensors(self) -> dict[str, StoredTensor]:
        """By path, the arrays that were captured.

        Raises:
            DamagedError: an array's metadata is none.
        """
        found = {}
        for group in self.attributes().get("experts", ()):
            for file in sorted((self.folder / group).glob("[!.]*/zarr.json")):
                path = f"{group}/{file.parent.name}"
                try:
                    found[path] = StoredTensor.from_metadata(path, json.loads(file.read_bytes()))
                except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
                    raise DamagedError(f"{file}: damaged: expected the metadata of a captured array") from error
        return found
