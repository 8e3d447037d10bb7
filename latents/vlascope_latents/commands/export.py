"""`vlascope-latents export`: episodes in formats that need no decoding."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated, Literal

import tyro
from vlascope_base.progress import tracked
from vlascope_base.text import counted, readable_bytes

from vlascope_latents.commands.options import CampaignOptions
from vlascope_latents.store import LatentStore, StoreError
from vlascope_latents.store.exports import export_netcdf, export_npz, export_zarr
from vlascope_latents.store.run_folder import ReadableBy, make_missing_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(CampaignOptions):
    """Writes one file an episode, or one Zarr group; docs/store.md describes the formats."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to; made where it is missing."""
    format: Literal["netcdf", "zarr", "npz"] = "netcdf"
    """`netcdf` (needs xarray, h5netcdf and h5py), `zarr`, or `npz` in the nested layout of the reference."""
    dtype: Literal["float32"] = "float32"
    """What tensors are written as. Every reader knows float32, and bfloat16 becomes it exactly."""
    episodes: tuple[str, ...] = ()
    """Ids, or names where only one campaign has them; every episode unless given."""
    readable_by: ReadableBy = "owner"
    """Who may read the folder, where it is made: its owner alone, its group, or everyone."""
    dry_run: bool = False
    """Say how many bytes it takes, and stop."""

    def run(self) -> int:
        """Prints the cost, then writes."""
        store = LatentStore(self.path)
        if self.episodes:
            chosen = store.chosen(self.episodes, campaign=self.campaign)
        else:
            chosen = store.episodes(campaign=self.campaign)
        chosen = [episode for episode in chosen if episode.frames]
        cost = sum(
            episode.frames * tensor.nbytes * (2 if tensor.dtype == "bfloat16" else 1)
            for episode in chosen
            for tensor in episode.tensors().values()
        )
        print(f"{counted(len(chosen), 'episode')}, {readable_bytes(cost)} as {self.dtype}")
        if self.dry_run:
            return 0
        write, suffix = {
            "netcdf": (export_netcdf, ".nc"),
            "zarr": (export_zarr, ".zarr"),
            "npz": (export_npz, ".npz"),
        }[self.format]
        if self.format == "netcdf":
            _check_netcdf()
        make_missing_folder(self.out, self.readable_by)
        for episode in tracked(chosen, "exporting"):
            file = self.out / f"{episode.run}-{episode.row.folder}{suffix}"
            write(store, episode, file)
            print(file)
        return 0


def _check_netcdf() -> None:
    """Before a folder is made: raises StoreError where a package is missing."""
    try:
        for package in ("xarray", "h5netcdf", "h5py"):
            importlib.import_module(package)
    except ImportError as error:
        raise StoreError(
            f"netcdf: needs xarray, h5netcdf and h5py: install vlascope-latents[netcdf] ({error})"
        ) from error
